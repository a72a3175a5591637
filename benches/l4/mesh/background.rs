//! How the peer reaches control plane and authority: it dials them like any program of its pod, so
//! the redirection would take it to itself; it finds them on the loopback instead.

use super::pods::{Group, pods};
use anyhow::{Context, Result};
use mesh_lab::forward;
use mesh_lab::topology::Topology;
use mesh_lab::world::{AUTHORITY, CONTROL};
use mesh_runtime::Scope;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::mpsc::sync_channel;
use std::thread::{self, JoinHandle};

/// Where the control plane is found inside a pod of the peer.
pub(super) const RELAY_XDS: u16 = 15052;
/// Where the authority is.
pub(super) const RELAY_CA: u16 = 15054;
/// Port of both in their own pods.
const PORT: u16 = 15012;

/// The relays, on a thread of their own. Dropping them ends them.
pub(super) struct Relays {
    scope: Scope,
    thread: Option<JoinHandle<()>>,
}

impl Relays {
    pub(super) fn start(topology: &Topology, groups: &[Group]) -> Result<Self> {
        let scope = Scope::new();
        let mut relays = Vec::new();
        for pod in pods(groups).filter(|pod| pod.group == Group::Peer) {
            let place = topology.pod(&pod.name)?;
            for (port, to) in [(RELAY_XDS, CONTROL), (RELAY_CA, AUTHORITY)] {
                let listen = || TcpListener::bind((Ipv4Addr::LOCALHOST, port));
                relays.push((place.enter(listen)??, to));
            }
        }
        let (told, started) = sync_channel(1);
        let (outside, owner) = (topology.outside().clone(), scope.clone());
        let work = async move || {
            let start = || {
                for (listener, to) in relays {
                    forward::start(&owner, listener, &outside, (to, PORT).into())?;
                }
                anyhow::Ok(())
            };
            // Nobody waits any more: then nobody misses the answer.
            drop(told.send(start()));
            owner.cancelled().await;
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let thread = thread::Builder::new()
            .name("relays".to_owned())
            .spawn(move || runtime.block_on(work()))?;
        started.recv().context("the relays did not start")??;
        Ok(Self {
            scope,
            thread: Some(thread),
        })
    }
}

impl Drop for Relays {
    fn drop(&mut self) {
        self.scope.cancel();
        if let Some(thread) = self.thread.take() {
            // A panic there has shown itself.
            drop(thread.join());
        }
    }
}
