//! The receiving proxies of a walk: waypoint and destination.

use super::Layer;
use super::describe::{self, Proxy};
use super::walk::{self, End, Peer, Walk, hop};
use crate::{
    Authority, AuthorityError, Client, HttpScope, Refusal, Target, Transport, WaypointTarget,
};
use mesh_model::{AppProtocol, PolicySet, Reason, Service, SpiffeId, Workload};
use std::net::SocketAddr;
use std::sync::Arc;

impl Walk<'_> {
    pub(super) fn at_waypoint(&mut self, peer: &Peer, me: &Arc<Workload>, target: &Target) -> End {
        let mut hop = hop(format!("waypoint {}", me.object_name()), Layer::L4);
        // Until it goes on, what it was shown.
        hop.presented = peer.identity.as_ref().map(SpiffeId::to_string);
        let served = authority(target).and_then(|asked| crate::waypoint(self.snapshot, me, &asked));
        let served = match served {
            Ok(served) => served,
            Err(refusal) => return self.end(hop, refusal),
        };
        let protocol = match &served {
            WaypointTarget::Service { service, port } => port_protocol(service, *port),
            WaypointTarget::Workload { .. } => AppProtocol::Unknown,
        };
        let http = self.message.is_http(protocol);
        hop.layer = layer(http);
        let policies = crate::waypoint_policies(self.snapshot, me, &served);
        let decision = self.authorize(&policies, peer, target.destination, http);
        hop.policy = Some(describe::policy(&decision));
        if !decision.allowed {
            return self.end(hop, Refusal::new(decision.reason, decision.detail));
        }
        self.waypoint = Some(me.object_name());
        let client = Client::of(me).from_address(peer.ip);
        let own = Peer::of(me);
        match served {
            WaypointTarget::Service { service, port } if http => {
                let scope = HttpScope::Service {
                    service: &service,
                    port,
                };
                self.route(hop, &own, &client, &scope)
            }
            WaypointTarget::Service { service, port } => {
                let dice = &mut self.dice;
                let next = crate::to_service(self.snapshot, &client, &service, port, dice);
                self.forward(hop, &own, &client, next)
            }
            WaypointTarget::Workload { workload, address } => {
                let next = crate::to_workload(&workload, address);
                self.forward(hop, &own, &client, Ok(next))
            }
        }
    }

    /// The gateway of another network: it sees who opens the outer tunnel, and passes on what is in it.
    pub(super) fn at_network_gateway(
        &mut self,
        peer: &Peer,
        me: &Arc<Workload>,
        target: &Target,
    ) -> End {
        let mut hop = hop(
            format!("gateway {} of network {}", me.object_name(), me.network),
            Layer::L4,
        );
        hop.presented = peer.identity.as_ref().map(SpiffeId::to_string);
        hop.expected = target
            .transport
            .expected()
            .iter()
            .map(SpiffeId::to_string)
            .collect();
        if !self.sees(&target.service, me) {
            hop.detail = format!(
                "chooses on network {}, of which nothing is known here",
                me.network
            );
            let detail = hop.detail.clone();
            self.hops.push(hop);
            return Ok(format!(
                "{} reaches the gateway, which {detail}",
                self.origin
            ));
        }
        let client = Client::of(me).from_address(peer.ip);
        let next = authority(target).and_then(|asked| {
            let dice = &mut self.dice;
            crate::network_gateway(self.snapshot, &client, &asked, false, dice)
        });
        let next = match next {
            Ok(next) => next,
            Err(refusal) => return self.end(hop, refusal),
        };
        // What the client asked for, in the tunnel that goes through.
        let next = Target {
            transport: Transport::Hbone {
                authority: target.transport.authority().unwrap_or_default().to_owned(),
                expected: target.transport.expected().to_vec(),
            },
            ..next
        };
        hop.endpoints = describe::endpoints(self.snapshot, &client, &next);
        hop.detail = format!("passes the inner tunnel on to {} as it is", next.address);
        let peer = Peer {
            identity: peer.identity.clone(),
            ip: Peer::of(me).ip,
        };
        if let Err(refusal) = walk::handshake(peer.identity.as_ref(), &next) {
            return self.end(hop, refusal);
        }
        self.hops.push(hop);
        self.next(&peer, &next)
    }

    /// Whether the endpoints on a gateway's network are known here, and not only that there are some.
    fn sees(&self, service: &Option<Arc<Service>>, me: &Workload) -> bool {
        service.as_ref().is_some_and(|service| {
            let mut all = self.snapshot.endpoints(&service.name);
            all.any(|w| w.network == me.network && !w.addresses.is_empty())
        })
    }

    /// The destination: its proxy's checks, then the application.
    pub(super) fn arrive(&mut self, peer: &Peer, workload: &Arc<Workload>, target: &Target) -> End {
        let proxy = Proxy::of(workload);
        let mut hop = hop(proxy.named(workload), Layer::L4);
        hop.presented = peer.identity.as_ref().map(SpiffeId::to_string);
        let application = match self.application(workload, target) {
            Ok(address) => address,
            Err(refusal) => return self.end(hop, refusal),
        };
        let protocol = crate::inbound_protocol(self.snapshot, workload, application.port());
        let http = proxy == Proxy::Sidecar && self.message.is_http(protocol);
        hop.layer = layer(http);
        let policies = match proxy {
            Proxy::Ztunnel => self.snapshot.policies_for(workload),
            Proxy::Sidecar => crate::sidecar_policies(self.snapshot, workload),
            Proxy::None => PolicySet::default(),
        };
        let decision = self.authorize(&policies, peer, application, http);
        hop.policy = Some(match proxy {
            Proxy::None => self.unenforced(workload),
            _ => describe::policy(&decision),
        });
        if !decision.allowed {
            return self.end(hop, Refusal::new(decision.reason, decision.detail));
        }
        hop.detail = format!("hands over to the application at {application}");
        self.hops.push(hop);
        let through = match &self.waypoint {
            Some(waypoint) => format!(", through waypoint {waypoint}"),
            None => String::new(),
        };
        let (from, to) = (&self.origin, workload.object_name());
        Ok(format!("{from} reaches {to} at {application}{through}"))
    }

    /// Where the application listens, after the tunnel's checks when there is a tunnel.
    fn application(&self, workload: &Workload, target: &Target) -> Result<SocketAddr, Refusal> {
        match &target.transport {
            Transport::Plain => Ok(target.destination),
            Transport::Hbone { .. } | Transport::DoubleHbone { .. } => {
                let ip = target.address.ip();
                crate::inbound(self.snapshot, workload, ip, &authority(target)?)
            }
        }
    }

    fn unenforced(&self, workload: &Workload) -> String {
        match self.snapshot.policies_for(workload).policies.len() {
            0 => "none applies".to_owned(),
            n => format!("{n} would apply, and no proxy is there to enforce them"),
        }
    }
}

fn layer(http: bool) -> Layer {
    if http { Layer::L7 } else { Layer::L4 }
}

fn port_protocol(service: &Service, port: u16) -> AppProtocol {
    service
        .port(port)
        .map_or(AppProtocol::Unknown, |p| p.app_protocol)
}

fn authority(target: &Target) -> Result<Authority, Refusal> {
    match target.transport.authority() {
        None => Ok(Authority::Address(target.destination)),
        Some(authority) => authority
            .parse()
            .map_err(|e: AuthorityError| Refusal::new(Reason::BadRequest, e.to_string())),
    }
}
