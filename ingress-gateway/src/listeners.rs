//! The ports of the Gateway, as the newest good listeners want them.
//!
//! [`Builder`] turns snapshots into a [`Table`] on the control thread: certificates are parsed once,
//! and a listener that cannot be served stays as it last could. `sockets` follows the table on each
//! worker.

mod sockets;

pub(crate) use sockets::{Arrival, follow};

use crate::settings::Edge;
use mesh_model::{GatewayListener, Host, ListenerKey, ListenerProtocol, Snapshot, Workload};
use mesh_plan::Client;
use mesh_tls::{EdgeTls, KeyExchange};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What each port does, and as whom.
#[derive(Debug)]
pub(crate) struct Table {
    /// The ports to listen on.
    pub(crate) ports: BTreeMap<u16, Arc<Port>>,
    /// Ourselves, as the mesh knows us.
    pub(crate) client: Client,
    /// Every listener of the Gateway, for admin pages.
    pub(crate) listeners: Vec<ListenerStatus>,
}

/// What a port does with a connection.
#[derive(Debug)]
pub(crate) enum Port {
    /// HTTP; the host of each request picks the listener.
    Http,
    /// TLS; the server name picks the listener.
    Tls(TlsPort),
    /// Bytes.
    Tcp(Arc<GatewayListener>),
}

/// A port whose clients speak TLS.
#[derive(Debug)]
pub(crate) struct TlsPort {
    /// The certificates of its HTTPS listeners; none when it has no such listener.
    pub(crate) edge: Option<EdgeTls>,
    /// Its listeners, HTTPS and pass-through.
    listeners: Vec<Arc<GatewayListener>>,
}

/// Who serves a server name.
#[derive(Debug)]
pub(crate) enum TlsChoice<'a> {
    /// TLS ends here.
    Terminate,
    /// TLS goes through, under the routes of the listener.
    PassThrough(&'a Arc<GatewayListener>),
    /// No listener has the name.
    Nobody,
}

impl TlsPort {
    /// Whether the server name must be known before TLS begins.
    pub(crate) fn has_pass_through(&self) -> bool {
        let pass = |l: &Arc<GatewayListener>| l.protocol == ListenerProtocol::TlsPassthrough;
        self.listeners.iter().any(pass)
    }

    /// The listener of a server name: the precise host, else the longest wildcard, else the one for
    /// every host (Gateway API, Listener.hostname).
    pub(crate) fn choose(&self, server_name: Option<&str>) -> TlsChoice<'_> {
        let serves = |l: &&Arc<GatewayListener>| match (&l.hostname, server_name) {
            (None, _) => true,
            (Some(host), Some(name)) => host.matches(name),
            (Some(_), None) => false,
        };
        let rank = |l: &&Arc<GatewayListener>| {
            let host = l.hostname.as_ref();
            host.map_or((0, 0), |h| {
                (1 + u8::from(!h.is_wildcard()), h.as_str().len())
            })
        };
        match self.listeners.iter().filter(serves).max_by_key(rank) {
            None => TlsChoice::Nobody,
            Some(l) if l.protocol == ListenerProtocol::TlsPassthrough => TlsChoice::PassThrough(l),
            Some(_) => TlsChoice::Terminate,
        }
    }
}

/// How a listener fares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ListenerStatus {
    /// Its name within the Gateway.
    pub(crate) name: String,
    /// Port.
    pub(crate) port: u16,
    /// Protocol.
    pub(crate) protocol: &'static str,
    /// Host.
    pub(crate) hostname: Option<String>,
    /// Whether it is served, if only in its last good state.
    pub(crate) served: bool,
    /// Why its newest state is not.
    pub(crate) fault: Option<String>,
}

/// One listener through the time.
struct Known {
    newest: Arc<GatewayListener>,
    good: Option<Arc<GatewayListener>>,
    fault: Option<String>,
    /// Why its good state has no port: another listener has it.
    conflict: Option<String>,
}

/// Follows the snapshots of a Gateway.
pub(crate) struct Builder {
    edge: Edge,
    known: BTreeMap<ListenerKey, Known>,
    current: Arc<Table>,
}

impl Builder {
    /// A builder that knows no listener yet.
    pub(crate) fn new(edge: Edge) -> Self {
        let client = Client::at(edge.network.clone(), edge.identity.namespace());
        Self {
            edge,
            known: BTreeMap::new(),
            current: Arc::new(Table {
                ports: BTreeMap::new(),
                client,
                listeners: Vec::new(),
            }),
        }
    }

    /// The table as of the last update.
    pub(crate) fn current(&self) -> Arc<Table> {
        self.current.clone()
    }

    /// Takes a snapshot in; gives the new table when anything of it has changed.
    pub(crate) fn update(&mut self, snapshot: &Snapshot) -> Option<Arc<Table>> {
        let listeners_changed = self.take_listeners(snapshot);
        let me = self.own_workload(snapshot).cloned();
        if !listeners_changed && self.current.client.workload == me {
            return None;
        }
        let ports = if listeners_changed {
            self.ports()
        } else {
            self.current.ports.clone()
        };
        let client = me.as_ref().map_or_else(
            || Client::at(self.edge.network.clone(), self.edge.identity.namespace()),
            Client::of,
        );
        self.current = Arc::new(Table {
            ports,
            client,
            listeners: self.known.values().map(Known::status).collect(),
        });
        Some(self.current.clone())
    }

    fn own_workload<'a>(&self, snapshot: &'a Snapshot) -> Option<&'a Arc<Workload>> {
        let namespace = self.edge.identity.namespace();
        let name = &*self.edge.pod_name;
        snapshot
            .workload_at(&self.edge.network, self.edge.instance_ip)
            .filter(|w| &*w.name == name && &*w.namespace == namespace)
            // By address costs nothing; by name looks at every workload, so only when it must.
            .or_else(|| snapshot.workload_named("", namespace, name))
    }

    fn take_listeners(&mut self, snapshot: &Snapshot) -> bool {
        let gateway = self.edge.gateway.clone();
        let before = self.known.len();
        let mut wanted = BTreeMap::new();
        for listener in snapshot.listeners(&gateway) {
            wanted.insert(listener.key.clone(), listener.clone());
        }
        self.known.retain(|key, _| wanted.contains_key(key));
        let mut changed = self.known.len() != before;
        for (key, listener) in wanted {
            if self.known.get(&key).is_some_and(|k| *k.newest == *listener) {
                continue;
            }
            changed = true;
            let good_before = self.known.remove(&key).and_then(|k| k.good);
            let fault = check(&listener).err();
            let good = match &fault {
                None => Some(listener.clone()),
                Some(why) => {
                    let kept = good_before.is_some();
                    tracing::error!(listener = %key, why, last_good_kept = kept, "listener refused");
                    good_before
                }
            };
            let known = Known {
                newest: listener,
                good,
                fault,
                conflict: None,
            };
            self.known.insert(key, known);
        }
        changed
    }

    /// Groups the good listeners by port. Listeners of one port must agree on how a connection
    /// begins; of those that do not, the first by name is served.
    fn ports(&mut self) -> BTreeMap<u16, Arc<Port>> {
        let mut grouped: BTreeMap<u16, Vec<Arc<GatewayListener>>> = BTreeMap::new();
        for known in self.known.values_mut() {
            let Some(good) = &known.good else { continue };
            let group = grouped.entry(good.port).or_default();
            let first = group.first().filter(|first| !agree(first, good));
            let conflict =
                first.map(|first| format!("port {} is taken by listener {}", good.port, first.key));
            match &conflict {
                None => group.push(good.clone()),
                Some(why) if known.conflict != conflict => {
                    tracing::error!(listener = %good.key, why, "listener refused");
                }
                Some(_) => {}
            }
            known.conflict = conflict;
        }
        let mut ports = BTreeMap::new();
        for (number, group) in grouped {
            match port(&group, self.edge.key_exchange) {
                Ok(port) => {
                    ports.insert(number, Arc::new(port));
                }
                // Each listener was checked by itself, so this does not happen; if it does, the
                // port stays as it was.
                Err(why) => {
                    tracing::error!(port = number, why, "the port's certificates do not fit");
                    if let Some(port) = self.current.ports.get(&number) {
                        ports.insert(number, port.clone());
                    }
                }
            }
        }
        ports
    }
}

impl Known {
    fn status(&self) -> ListenerStatus {
        let listener = &self.newest;
        ListenerStatus {
            name: listener.key.name.to_string(),
            port: listener.port,
            protocol: match listener.protocol {
                ListenerProtocol::Http => "HTTP",
                ListenerProtocol::Https => "HTTPS",
                ListenerProtocol::Tcp => "TCP",
                ListenerProtocol::TlsPassthrough => "TLS",
            },
            hostname: listener.hostname.as_ref().map(ToString::to_string),
            served: self.good.is_some() && self.conflict.is_none(),
            fault: self.fault.clone().or_else(|| self.conflict.clone()),
        }
    }
}

/// Whether a listener can be served, looked at alone.
fn check(listener: &GatewayListener) -> Result<(), String> {
    if listener.port == 0 {
        return Err("port 0 cannot be listened on".into());
    }
    if listener.protocol != ListenerProtocol::Https {
        return Ok(());
    }
    if listener.certificates.is_empty() {
        return Err("it has no certificate".into());
    }
    EdgeTls::new(certificates(listener))
        .map(drop)
        .map_err(|e| e.to_string())
}

fn certificates(listener: &GatewayListener) -> Vec<(Option<Host>, mesh_model::TlsCertificatePem)> {
    let with_host = |pem: &mesh_model::TlsCertificatePem| (listener.hostname.clone(), pem.clone());
    listener.certificates.iter().map(with_host).collect()
}

fn agree(a: &GatewayListener, b: &GatewayListener) -> bool {
    use ListenerProtocol::{Http, Https, TlsPassthrough};
    matches!(
        (a.protocol, b.protocol),
        (Http, Http) | (Https | TlsPassthrough, Https | TlsPassthrough)
    )
}

fn port(group: &[Arc<GatewayListener>], key_exchange: KeyExchange) -> Result<Port, String> {
    match group {
        [first, ..] if first.protocol == ListenerProtocol::Http => Ok(Port::Http),
        [first, ..] if first.protocol == ListenerProtocol::Tcp => Ok(Port::Tcp(first.clone())),
        _ => {
            let https = |l: &&Arc<GatewayListener>| l.protocol == ListenerProtocol::Https;
            let all: Vec<_> = group
                .iter()
                .filter(https)
                .flat_map(|l| certificates(l))
                .collect();
            let edge = if all.is_empty() {
                None
            } else {
                let edge = EdgeTls::with_key_exchange(all, key_exchange);
                Some(edge.map_err(|e| e.to_string())?)
            };
            Ok(Port::Tls(TlsPort {
                edge,
                listeners: group.to_vec(),
            }))
        }
    }
}

#[cfg(test)]
mod tests;
