//! The walk of an internet client: through a gateway's listener.

use super::describe;
use super::message::Message;
use super::question;
use super::walk::{End, Peer, Walk, hop};
use super::{ExplainRequest, Layer};
use crate::{Client, HttpRedirect, HttpScope, Refusal};
use mesh_model::{
    Backend, GatewayListener, HttpRouteRule, ListenerProtocol, ObjectName, ParentKey, Reason,
    Service, Snapshot, Workload,
};
use mesh_routing::{Attachment, RedirectFrom, attached_http};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

/// An address of nobody (RFC 5737): that of an internet client is not known.
const SOMEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

impl Walk<'_> {
    pub(super) fn leave_gateway(
        &mut self,
        gateway: &ObjectName,
        listener: Option<&str>,
        request: &ExplainRequest,
    ) -> End {
        self.origin = format!("an internet client of gateway {gateway}");
        let workload = workload_of(self.snapshot, gateway);
        let client = workload
            .as_ref()
            .map_or_else(|| Client::at("", gateway.namespace.clone()), Client::of);
        let service = question::service(self.snapshot, &client, &request.to);
        let host = match &service {
            Some(service) => public_host(self.snapshot, gateway, service),
            None => request.to.clone(),
        };
        self.message = Message::new(request, &host);
        let listener = self.listener(gateway, listener, request.port)?;
        let http = matches!(
            listener.protocol,
            ListenerProtocol::Http | ListenerProtocol::Https
        );
        let layer = if http { Layer::L7 } else { Layer::L4 };
        let mut hop = hop(
            format!("gateway {gateway}, listener {}", listener.key.name),
            layer,
        );
        let policies = crate::gateway_policies(self.snapshot, gateway, workload.as_deref());
        let stranger = Peer {
            identity: None,
            ip: SOMEWHERE,
        };
        let own = workload.as_deref().map_or_else(unknown_workload, Peer::of);
        let destination = SocketAddr::new(own.ip, listener.port);
        let decision = self.authorize(&policies, &stranger, destination, http);
        hop.policy = Some(describe::policy(&decision));
        if !decision.allowed {
            let refusal = Refusal::new(decision.reason, decision.detail);
            return self.forward(hop, &own, &client, Err(refusal));
        }
        if http {
            let scope = HttpScope::Gateway {
                gateway,
                listener: &listener,
            };
            return self.route(hop, &own, &client, &scope);
        }
        let planned = crate::tcp(self.snapshot, &client, gateway, &listener, &mut self.dice);
        let target = planned.map(|(rule, target)| {
            let (route, n) = (&rule.name.route, rule.name.rule);
            hop.route = Some(format!("TCPRoute {route}, rule {n}"));
            hop.endpoints = describe::backends(&rule.backends);
            target
        });
        self.forward(hop, &own, &client, target)
    }

    /// The listener named; else the one that takes the host on the port asked for, or on any port when
    /// the gateway does not listen on that one (the port may be the service's).
    fn listener(
        &self,
        gateway: &ObjectName,
        name: Option<&str>,
        port: u16,
    ) -> Result<Arc<GatewayListener>, Refusal> {
        let all: Vec<&Arc<GatewayListener>> = self.snapshot.listeners(gateway).collect();
        let host = self.message.host.as_str();
        let on = |port: u16| mesh_routing::pick_listener(all.iter().copied(), port, host);
        let found = match name {
            Some(name) => all.iter().find(|l| *l.key.name == *name).copied(),
            None if all.iter().any(|l| l.port == port) => on(port),
            None => all.iter().find_map(|l| on(l.port)),
        };
        found.cloned().ok_or_else(|| {
            let detail = match name {
                Some(name) => format!("gateway {gateway} has no listener {name}"),
                None => format!("no listener of gateway {gateway} takes host {host}"),
            };
            Refusal::new(Reason::NoRoute, detail)
        })
    }

    pub(super) fn location(&self, redirect: &HttpRedirect, scope: &HttpScope<'_>) -> String {
        let (scheme, port) = match scope {
            HttpScope::Gateway { listener, .. } if listener.protocol == ListenerProtocol::Https => {
                ("https", listener.port)
            }
            HttpScope::Gateway { listener, .. } => ("http", listener.port),
            HttpScope::Service { port, .. } => ("http", *port),
        };
        let from = RedirectFrom {
            scheme,
            host: &self.message.host,
            port,
            path: &self.message.path,
            query: self.message.query.as_deref(),
            prefix: redirect.prefix.as_deref(),
        };
        mesh_routing::redirect_location(&redirect.filter, &from)
    }
}

/// A gateway whose workload is not known proves nothing and comes from anywhere.
fn unknown_workload() -> Peer {
    Peer {
        identity: None,
        ip: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    }
}

/// The gateway's own workload: behind the Service of its name, or owned by the Deployment of its name
/// (interop/gateway.md section 2).
fn workload_of(snapshot: &Snapshot, gateway: &ObjectName) -> Option<Arc<Workload>> {
    let behind = snapshot
        .services()
        .filter(|s| s.name.namespace == gateway.namespace && s.short_name == gateway.name)
        .find_map(|s| snapshot.endpoints(&s.name).next());
    let owned = || {
        let of_gateway = |w: &&Arc<Workload>| {
            w.namespace == gateway.namespace
                && [&w.workload_name, &w.canonical_name].contains(&&gateway.name)
        };
        let workloads = snapshot.workloads().filter(of_gateway);
        workloads.min_by(|a, b| a.uid.cmp(&b.uid))
    };
    behind.or_else(owned).cloned()
}

/// The host by which the internet knows a service: that of a route of the gateway to it, else its own.
fn public_host(snapshot: &Snapshot, gateway: &ObjectName, service: &Service) -> String {
    let leads_here = |rule: &&Arc<HttpRouteRule>| {
        rule.backends.iter().any(|b| match &b.backend {
            Backend::Service { name, .. } => *name == service.name,
            Backend::Invalid { .. } => false,
        })
    };
    let rules = snapshot.http_routes(&ParentKey::Gateway(gateway.clone()));
    let of_route = rules.iter().filter(leads_here).find_map(|rule| {
        let of_listener = || {
            let attached =
                |l: &&Arc<GatewayListener>| attached_http(rule, &Attachment::Listener(l));
            snapshot.listeners(gateway).find(attached)?.hostname.clone()
        };
        rule.hostnames.first().cloned().or_else(of_listener)
    });
    of_route.map_or_else(
        || service.name.hostname.to_string(),
        // Any name under a wildcard will do.
        |host| host.as_str().replacen('*', "any", 1),
    )
}
