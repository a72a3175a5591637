//! `mesh status`: what the control plane serves.

use crate::connect;
use crate::settings::StatusSettings;
use anyhow::Result;
use mesh_model::{Backend, Health, HttpRouteRule, Resource, Snapshot, TunnelProtocol, Workload};
use serde::Serialize;
use std::process::ExitCode;

/// The state in brief.
#[derive(Debug, Serialize)]
struct Status {
    workloads: Vec<WorkloadLine>,
    services: Vec<ServiceLine>,
    routes: Vec<RouteLine>,
    listeners: Vec<String>,
    policies: Vec<PolicyLine>,
}

#[derive(Debug, Serialize)]
struct WorkloadLine {
    name: String,
    node: String,
    addresses: Vec<String>,
    wire: &'static str,
    identity: String,
    healthy: bool,
}

#[derive(Debug, Serialize)]
struct ServiceLine {
    name: String,
    addresses: Vec<String>,
    ports: Vec<u16>,
    endpoints_healthy: usize,
    endpoints: usize,
    waypoint: bool,
}

#[derive(Debug, Serialize)]
struct RouteLine {
    rule: String,
    backends: Vec<String>,
    /// A backend that does not hold: its traffic is answered 500.
    invalid: Vec<String>,
}

#[derive(Debug, Serialize)]
struct PolicyLine {
    name: String,
    action: String,
    scope: String,
    rules: usize,
    invalid: Option<String>,
}

/// Prints the state. Exit code 1 when something in it does not hold.
pub(crate) fn run(settings: &StatusSettings) -> Result<ExitCode> {
    let snapshot = connect::snapshot(&settings.control_plane)?;
    let status = Status::of(&snapshot);
    if settings.json {
        println!("{}", serde_json::to_string_pretty(&status)?);
    } else {
        status.print();
    }
    let sound = status.routes.iter().all(|r| r.invalid.is_empty())
        && status.policies.iter().all(|p| p.invalid.is_none());
    Ok(if sound {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

impl Status {
    fn of(snapshot: &Snapshot) -> Self {
        let mut workloads: Vec<_> = snapshot.workloads().map(|w| workload_line(w)).collect();
        workloads.sort_by(|a, b| a.name.cmp(&b.name));
        let mut services: Vec<_> = snapshot
            .services()
            .map(|s| service_line(snapshot, s))
            .collect();
        services.sort_by(|a, b| a.name.cmp(&b.name));
        let mut routes = Vec::new();
        let mut listeners = Vec::new();
        for resource in snapshot.resources() {
            match resource {
                Resource::HttpRoute(rule) => routes.push(http_route_line(&rule)),
                Resource::TcpRoute(rule) => {
                    let backends = rule.backends.iter().map(|b| &b.backend);
                    routes.push(route_line(format!("TCPRoute {}", rule.name), backends));
                }
                Resource::Listener(listener) => {
                    listeners.push(format!("{} port {}", listener.key, listener.port));
                }
                _ => {}
            }
        }
        let policies = snapshot
            .http_policies()
            .map(|p| PolicyLine {
                name: p.name.to_string(),
                action: format!("{:?}", p.action),
                scope: format!("{:?}", p.scope),
                rules: p.rules.len(),
                invalid: p.invalid.as_deref().map(str::to_owned),
            })
            .collect();
        Self {
            workloads,
            services,
            routes,
            listeners,
            policies,
        }
    }

    fn print(&self) {
        println!("workloads ({})", self.workloads.len());
        for w in &self.workloads {
            let health = if w.healthy { "healthy" } else { "NOT HEALTHY" };
            println!(
                "  {:<28} {:<10} {:<18} {:<6} {health:<12} {}",
                w.name,
                w.node,
                w.addresses.join(","),
                w.wire,
                w.identity
            );
        }
        println!("services ({})", self.services.len());
        for s in &self.services {
            println!(
                "  {:<44} {:<16} ports {:?} endpoints {}/{}{}",
                s.name,
                s.addresses.join(","),
                s.ports,
                s.endpoints_healthy,
                s.endpoints,
                if s.waypoint {
                    " through a waypoint"
                } else {
                    ""
                }
            );
        }
        println!("listeners ({})", self.listeners.len());
        for listener in &self.listeners {
            println!("  {listener}");
        }
        println!("routes ({})", self.routes.len());
        for r in &self.routes {
            println!("  {:<40} {}", r.rule, r.backends.join(" "));
            for why in &r.invalid {
                println!("    INVALID: {why}");
            }
        }
        println!("policies ({})", self.policies.len());
        for p in &self.policies {
            println!(
                "  {:<40} {} {} rules {}",
                p.name, p.action, p.scope, p.rules
            );
            if let Some(why) = &p.invalid {
                println!("    INVALID, denies all it applies to: {why}");
            }
        }
    }
}

fn workload_line(workload: &Workload) -> WorkloadLine {
    WorkloadLine {
        name: workload.object_name().to_string(),
        node: workload.node.to_string(),
        addresses: workload.addresses.iter().map(ToString::to_string).collect(),
        wire: match workload.protocol {
            TunnelProtocol::Hbone => "hbone",
            TunnelProtocol::None => "plain",
        },
        identity: workload
            .identity()
            .map_or_else(|| "-".to_owned(), |id| id.to_string()),
        healthy: workload.health == Health::Healthy,
    }
}

fn service_line(snapshot: &Snapshot, service: &mesh_model::Service) -> ServiceLine {
    let endpoints: Vec<_> = snapshot.endpoints(&service.name).collect();
    ServiceLine {
        name: service.name.to_string(),
        addresses: service
            .vips
            .iter()
            .map(|(_, cidr)| cidr.address().to_string())
            .collect(),
        ports: service.ports.iter().map(|p| p.service_port).collect(),
        endpoints_healthy: endpoints
            .iter()
            .filter(|w| w.health == Health::Healthy)
            .count(),
        endpoints: endpoints.len(),
        waypoint: service.waypoint.is_some(),
    }
}

fn http_route_line(rule: &HttpRouteRule) -> RouteLine {
    route_line(
        format!("HTTPRoute {}", rule.name),
        rule.backends.iter().map(|b| &b.backend),
    )
}

fn route_line<'a>(rule: String, backends: impl Iterator<Item = &'a Backend>) -> RouteLine {
    let mut line = RouteLine {
        rule,
        backends: Vec::new(),
        invalid: Vec::new(),
    };
    for backend in backends {
        match backend {
            Backend::Service { name, port } => line.backends.push(format!("{name}:{port}")),
            Backend::Invalid { why } => line.invalid.push(why.to_string()),
        }
    }
    line
}
