//! The running configuration, as the control plane serves it to any proxy.

use crate::settings::ControlPlane;
use anyhow::{Context, Result, bail};
use mesh_discovery::{NodeInfo, Role, Source, codec};
use mesh_grpc::{ChannelSettings, TextSource};
use mesh_model::Snapshot;
use mesh_runtime::{Readiness, Scope};
use std::sync::Arc;
use std::time::Duration;

/// How long the first full state may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Fetches the whole state once.
pub(crate) fn snapshot(control_plane: &ControlPlane) -> Result<Arc<Snapshot>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start a runtime")?;
    runtime.block_on(fetch(control_plane))
}

/// Fetches the whole state once, inside a runtime.
pub(crate) async fn fetch(control_plane: &ControlPlane) -> Result<Arc<Snapshot>> {
    let scope = Scope::new();
    let readiness = Readiness::new();
    let source = Source::Xds {
        channel: channel(control_plane),
        node: node(control_plane),
        kinds: codec::TYPES_ALL.to_vec(),
    };
    let discovery = mesh_discovery::start(source, &scope, readiness.gate("configuration"));
    let mut snapshots = discovery.snapshots.clone();
    let waited = tokio::time::timeout(TIMEOUT, async {
        while !readiness.is_ready() {
            tokio::select! {
                _ = snapshots.changed() => {}
                () = tokio::time::sleep(Duration::from_millis(10)) => {}
            }
        }
    })
    .await;
    let snapshot = discovery.snapshots.borrow().clone();
    let status = discovery.status.borrow().clone();
    scope.cancel();
    if waited.is_err() {
        let why = status
            .last_error
            .clone()
            .unwrap_or_else(|| "no answer".into());
        bail!(
            "{}: no configuration within {} s: {why}",
            control_plane.xds,
            TIMEOUT.as_secs()
        );
    }
    Ok(snapshot)
}

fn channel(control_plane: &ControlPlane) -> ChannelSettings {
    ChannelSettings {
        address: control_plane.xds.clone(),
        root: control_plane.root.clone().map(TextSource::File),
        server_name: control_plane.server_name.clone(),
        token: control_plane.token.clone().map(TextSource::File),
        metadata: Vec::new(),
        mark: None,
    }
}

fn node(control_plane: &ControlPlane) -> NodeInfo {
    NodeInfo {
        role: Role::Cli,
        ip: "127.0.0.1".into(),
        pod: "mesh-cli".into(),
        namespace: control_plane.namespace.clone(),
        service_account: control_plane.service_account.clone(),
        node: String::new(),
        cluster: "Kubernetes".into(),
        network: String::new(),
        metadata: std::collections::BTreeMap::new(),
    }
}
