//! The walk: each proxy on the way, asked with the functions it uses itself.

use super::describe::{self, Proxy};
use super::message::Message;
use super::question::{self, Asked, Source};
use super::{ExplainRequest, Hop, Layer};
use crate::{Client, HttpPlan, HttpScope, Refusal, SidecarPlan, Target, TargetKind, Transport};
use mesh_authz::{Connection, Decision};
use mesh_model::{Dice, ObjectName, PolicySet, Reason, Snapshot, SpiffeId, Workload};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

/// How a walk ends: where the traffic arrives, or why it does not.
pub(super) type End = Result<String, Refusal>;

/// A walk from proxy to proxy.
pub(super) struct Walk<'a> {
    pub(super) snapshot: &'a Snapshot,
    /// The same question gets the same answer.
    pub(super) dice: Dice,
    pub(super) message: Message,
    pub(super) hops: Vec<Hop>,
    /// Who asks, for the answer.
    pub(super) origin: String,
    /// The waypoint that has done its work: what goes direct from there passes none by.
    pub(super) waypoint: Option<ObjectName>,
}

/// Who comes to the next hop.
pub(super) struct Peer {
    /// The identity it can prove.
    pub(super) identity: Option<SpiffeId>,
    /// The address it comes from.
    pub(super) ip: IpAddr,
}

impl Peer {
    pub(super) fn of(workload: &Workload) -> Self {
        Self {
            identity: workload.identity(),
            ip: workload
                .address()
                .unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        }
    }
}

impl<'a> Walk<'a> {
    pub(super) fn new(snapshot: &'a Snapshot, request: &ExplainRequest) -> Self {
        Self {
            snapshot,
            dice: Dice::seeded(0),
            message: Message::new(request, &request.to),
            hops: Vec::new(),
            origin: request.from.clone(),
            waypoint: None,
        }
    }

    pub(super) fn into_hops(self) -> Vec<Hop> {
        self.hops
    }

    pub(super) fn run(&mut self, request: &ExplainRequest) -> End {
        match question::source(self.snapshot, &request.from)? {
            Source::Gateway(gateway, listener) => {
                self.leave_gateway(&gateway, listener.as_deref(), request)
            }
            Source::Pod(pod) => {
                let client = Client::of(&pod).from_address(pod.address());
                self.origin = pod.object_name().to_string();
                let asked = question::asked(self.snapshot, &client, request)?;
                self.message = Message::new(request, &asked.host);
                match Proxy::of(&pod) {
                    Proxy::None => self.leave_outside(&pod, &client, &asked),
                    Proxy::Ztunnel => self.leave_l4(Proxy::Ztunnel, &pod, &client, &asked),
                    Proxy::Sidecar => self.leave_sidecar(&pod, &client, &asked),
                }
            }
        }
    }

    /// A pod without a proxy: the kernel's service addresses lead straight to an endpoint.
    fn leave_outside(&mut self, pod: &Arc<Workload>, client: &Client, asked: &Asked) -> End {
        let hop = hop(Proxy::None.named(pod), Layer::L4);
        let target = match &asked.service {
            Some(service) => {
                let (port, dice) = (asked.address.port(), &mut self.dice);
                crate::to_service(self.snapshot, client, service, port, dice)
            }
            None => Ok(self.plain_target(client, asked.address)),
        };
        let target = target.map(|t| Target {
            address: t.destination,
            transport: Transport::Plain,
            ..t
        });
        self.forward(hop, &Peer::of(pod), client, target)
    }

    fn plain_target(&self, client: &Client, address: SocketAddr) -> Target {
        match self.snapshot.workload_at(&client.network, address.ip()) {
            Some(workload) => crate::to_workload(workload, address),
            None => crate::outbound::passthrough(address),
        }
    }

    /// A ztunnel, or a sidecar where it does not read HTTP.
    fn leave_l4(
        &mut self,
        proxy: Proxy,
        pod: &Arc<Workload>,
        client: &Client,
        asked: &Asked,
    ) -> End {
        let hop = hop(proxy.named(pod), Layer::L4);
        // As the ztunnel does; a sidecar's upstream connections stay on its network.
        let across = (proxy == Proxy::Ztunnel).then(|| client.clone().across_networks());
        let client = across.as_ref().unwrap_or(client);
        let target = crate::outbound(self.snapshot, client, asked.address, &mut self.dice);
        self.forward(hop, &Peer::of(pod), client, target)
    }

    fn leave_sidecar(&mut self, pod: &Arc<Workload>, client: &Client, asked: &Asked) -> End {
        match crate::sidecar_destination(self.snapshot, client, asked.address) {
            SidecarPlan::Service(to) if self.message.is_http(to.protocol) => {
                let hop = hop(Proxy::Sidecar.named(pod), Layer::L7);
                let scope = HttpScope::Service {
                    service: &to.service,
                    port: to.port,
                };
                self.route(hop, &Peer::of(pod), client, &scope)
            }
            _ => self.leave_l4(Proxy::Sidecar, pod, client, asked),
        }
    }

    /// An L7 hop from its policies on: route, filters, target.
    pub(super) fn route(
        &mut self,
        mut hop: Hop,
        peer: &Peer,
        client: &Client,
        scope: &HttpScope<'_>,
    ) -> End {
        let (snapshot, dice) = (self.snapshot, &mut self.dice);
        let plan = self
            .message
            .with_facts(|facts| crate::http(snapshot, client, scope, facts, dice));
        match plan {
            HttpPlan::Refuse(refusal) => self.forward(hop, peer, client, Err(refusal)),
            HttpPlan::Redirect(redirect) => {
                hop.route = Some(describe::route(&redirect.rule));
                hop.detail = format!(
                    "answers {} and sends the client to {}",
                    redirect.filter.status,
                    self.location(&redirect, scope)
                );
                let detail = hop.detail.clone();
                self.hops.push(hop);
                Ok(detail)
            }
            HttpPlan::Forward(forward) => {
                if let Some(rule) = &forward.rule {
                    hop.route = Some(describe::route(rule));
                    hop.endpoints = describe::backends(&rule.backends);
                }
                self.message
                    .apply(&forward.filters, forward.prefix.as_deref());
                self.forward(hop, peer, client, Ok(forward.target))
            }
        }
    }

    /// Ends a hop: what it presents and expects, what it chose from, and the next hop.
    pub(super) fn forward(
        &mut self,
        mut hop: Hop,
        peer: &Peer,
        client: &Client,
        target: Result<Target, Refusal>,
    ) -> End {
        let target = match target {
            Ok(target) => target,
            Err(refusal) => return self.end(hop, refusal),
        };
        hop.expected = describe::expected(&target);
        let endpoints = describe::endpoints(self.snapshot, client, &target);
        // Of a rule with backends, those are told, then the endpoints of the one followed.
        hop.endpoints.extend(endpoints);
        hop.detail = describe::way(client, &target, self.waypoint.is_some());
        let tunnelled = target.transport != Transport::Plain;
        let identity = peer.identity.clone().filter(|_| tunnelled);
        hop.presented = identity.as_ref().map(SpiffeId::to_string);
        if let Err(refusal) = handshake(identity.as_ref(), &target) {
            return self.end(hop, refusal);
        }
        self.hops.push(hop);
        let peer = Peer {
            identity,
            ip: peer.ip,
        };
        self.next(&peer, &target)
    }

    /// The proxy that a target is, or that stands in front of it.
    pub(super) fn next(&mut self, peer: &Peer, target: &Target) -> End {
        match (target.kind, target.workload.clone()) {
            (TargetKind::Waypoint, Some(me)) => self.at_waypoint(peer, &me, target),
            (TargetKind::NetworkGateway, Some(me)) => self.at_network_gateway(peer, &me, target),
            (TargetKind::Endpoint, Some(workload)) => self.arrive(peer, &workload, target),
            _ => Ok(format!(
                "{} reaches {} in plain text: the mesh knows nothing of that address",
                self.origin, target.address
            )),
        }
    }

    pub(super) fn end(&mut self, mut hop: Hop, refusal: Refusal) -> End {
        hop.detail = refusal.detail.clone();
        self.hops.push(hop);
        Err(refusal)
    }

    pub(super) fn authorize(
        &self,
        policies: &PolicySet,
        peer: &Peer,
        destination: SocketAddr,
        http: bool,
    ) -> Decision {
        let connection = Connection {
            identity: peer.identity.as_ref(),
            source_ip: peer.ip,
            destination,
        };
        if http {
            self.message
                .with_request(|r| mesh_authz::authorize(policies, &connection, Some(r)))
        } else {
            mesh_authz::authorize(policies, &connection, None)
        }
    }
}

pub(super) fn hop(proxy: String, layer: Layer) -> Hop {
    Hop {
        proxy,
        layer,
        presented: None,
        expected: Vec::new(),
        policy: None,
        route: None,
        endpoints: Vec::new(),
        detail: String::new(),
    }
}

/// What the two ends of a tunnel ask of each other.
pub(super) fn handshake(presented: Option<&SpiffeId>, target: &Target) -> Result<(), Refusal> {
    let expected = match &target.transport {
        Transport::Plain => return Ok(()),
        Transport::Hbone { expected, .. } => expected,
        Transport::DoubleHbone { gateway, .. } => gateway,
    };
    if presented.is_none() {
        let detail = "a tunnel needs an identity, and none can be proved here";
        return Err(Refusal::new(Reason::NoIdentity, detail));
    }
    let proves = target.workload.as_ref().and_then(|w| w.identity());
    if proves.is_some_and(|id| expected.contains(&id)) {
        return Ok(());
    }
    let detail = format!(
        "{} can prove none of the identities expected",
        target.address
    );
    Err(Refusal::new(Reason::TlsFailure, detail))
}
