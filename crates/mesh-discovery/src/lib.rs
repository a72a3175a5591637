//! Delta xDS client and local file: messages to a validated snapshot and change notices.
//!
//! [`start`] keeps a [`Snapshot`] up to date from one [`Source`] and hands out a watch of it.
//! [`codec`] is the translation between the model and the wire, used by the client here and by the
//! control plane's server.

mod client;
pub mod codec;
mod file;
mod hub;
mod node;

pub use hub::{DiscoveryStatus, Rejected, StatusReceiver};
pub use node::{NodeInfo, Role};

use mesh_grpc::ChannelSettings;
use mesh_model::{PolicyCompatibility, Snapshot};
use mesh_runtime::{ReadyGate, Scope};
use mesh_telemetry::Metrics;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::watch;

/// Gives the snapshot, and notices of each new one. Changes that arrive together come as one.
pub type SnapshotReceiver = watch::Receiver<Arc<Snapshot>>;

/// Where the state of the mesh comes from.
#[derive(Debug, Clone)]
#[expect(
    clippy::large_enum_variant,
    reason = "there is one a process, and it is moved once"
)]
pub enum Source {
    /// A control plane, over delta xDS.
    Xds {
        /// Where it is and as whom we call.
        channel: ChannelSettings,
        /// Who we say we are.
        node: NodeInfo,
        /// The type URLs to subscribe to: [`codec::TYPES_L4`] or [`codec::TYPES_ALL`].
        kinds: Vec<&'static str>,
    },
    /// A file in the form of ztunnel's `LOCAL_XDS_PATH`, watched for edits.
    LocalFile(PathBuf),
}

/// A running discovery.
#[derive(Debug, Clone)]
pub struct Discovery {
    /// The state of the mesh.
    pub snapshots: SnapshotReceiver,
    /// How discovery itself fares, for admin pages.
    pub status: StatusReceiver,
}

/// Starts discovery. The gate opens once the first full state is there, and stays open: a lost
/// control plane leaves the last state in use.
pub fn start(source: Source, scope: &Scope, gate: ReadyGate) -> Discovery {
    let counts = client::Counts::default();
    run(source, PolicyCompatibility::Strict, counts, scope, gate)
}

/// As [`start`], for a proxy: what is received is counted, and policies that cannot be read become
/// what the mesh's setting says.
pub fn start_proxy(
    source: Source,
    compatibility: PolicyCompatibility,
    metrics: &Metrics,
    scope: &Scope,
    gate: ReadyGate,
) -> Discovery {
    let counts = client::Counts::new(metrics);
    run(source, compatibility, counts, scope, gate)
}

fn run(
    source: Source,
    compatibility: PolicyCompatibility,
    counts: client::Counts,
    scope: &Scope,
    gate: ReadyGate,
) -> Discovery {
    let (hub, discovery) = hub::Hub::new(gate, compatibility);
    match source {
        Source::Xds {
            channel,
            node,
            kinds,
        } => scope.spawn("xds client", client::run(channel, node, kinds, hub, counts)),
        Source::LocalFile(path) => scope.spawn("local file", file::run(path, hub)),
    }
    discovery
}
