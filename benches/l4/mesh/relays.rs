//! How the peer reaches control plane and authority: it dials them like any program of its pod, so
//! the redirection would take it to itself; it finds them on the loopback instead.

use super::pods::{Group, pods};
use anyhow::Result;
use mesh_lab::background::Background;
use mesh_lab::forward;
use mesh_lab::topology::Topology;
use mesh_lab::world::{AUTHORITY, CONTROL};

/// Where the control plane is found inside a pod of the peer.
pub(super) const RELAY_XDS: u16 = 15052;
/// Where the authority is.
pub(super) const RELAY_CA: u16 = 15054;
/// Port of both in their own pods.
const PORT: u16 = 15012;

/// The relays, until they are dropped.
pub(super) fn relays(topology: &Topology, groups: &[Group]) -> Result<Background> {
    let mut relays = Vec::new();
    for pod in pods(groups).filter(|pod| pod.group == Group::Peer) {
        let place = topology.pod(&pod.name)?;
        for (port, to) in [(RELAY_XDS, CONTROL), (RELAY_CA, AUTHORITY)] {
            relays.push((forward::open_in(place, port)?, to));
        }
    }
    let outside = topology.outside().clone();
    Background::start("relays", move |scope| {
        for (listener, to) in relays {
            forward::start(scope, listener, &outside, (to, PORT).into())?;
        }
        Ok(())
    })
}
