//! `istio.workload.Address`: workloads and services.

use super::DecodeError;
use super::context::{Context, bytes_of};
use super::extensions;
use mesh_model::{
    AppProtocol, ApplicationTunnel, Cidr, GatewayAddress, GatewayDestination, Health, HealthPolicy,
    IpFamilies, LoadBalancing, LoadBalancingMode, Locality, NetworkAddress, NetworkMode,
    ObjectName, PORT_HBONE, Resource, RoutingScope, Service, ServiceName, ServicePort,
    TRUST_DOMAIN_DEFAULT, TunnelProtocol, Visibility, WeightedWaypoint, Workload, WorkloadUid,
};
use mesh_proto::workload as wire;
use std::collections::BTreeMap;
use std::sync::Arc;
use wire::address::Type;

/// Names of the workload types, by their number on the wire.
const WORKLOAD_TYPES: [(wire::WorkloadType, &str); 4] = [
    (wire::WorkloadType::Deployment, "deployment"),
    (wire::WorkloadType::Cronjob, "cronjob"),
    (wire::WorkloadType::Pod, "pod"),
    (wire::WorkloadType::Job, "job"),
];

pub(super) fn of_workload(w: &Workload) -> wire::Address {
    let or_empty = |text: &str, default: &str| {
        if text == default {
            String::new()
        } else {
            text.to_owned()
        }
    };
    let message = wire::Workload {
        uid: w.uid.0.to_string(),
        name: w.name.to_string(),
        namespace: w.namespace.to_string(),
        addresses: w.addresses.iter().map(|a| bytes_of(*a)).collect(),
        hostname: super::context::text(w.hostname.as_ref()),
        network: w.network.to_string(),
        tunnel_protocol: match w.protocol {
            TunnelProtocol::None => wire::TunnelProtocol::TunnelNone,
            TunnelProtocol::Hbone => wire::TunnelProtocol::Hbone,
        }
        .into(),
        trust_domain: or_empty(&w.trust_domain, TRUST_DOMAIN_DEFAULT),
        service_account: or_empty(&w.service_account, "default"),
        waypoint: w.waypoint.as_ref().map(gateway_of),
        network_gateway: w.network_gateway.as_ref().map(gateway_of),
        node: w.node.to_string(),
        canonical_name: w.canonical_name.to_string(),
        canonical_revision: w.canonical_revision.to_string(),
        workload_type: WORKLOAD_TYPES
            .iter()
            .find(|(_, name)| *name == w.workload_type)
            .map_or(wire::WorkloadType::Pod, |(number, _)| *number)
            .into(),
        workload_name: w.workload_name.to_string(),
        native_tunnel: w.native_tunnel,
        application_tunnel: w.application_tunnel.map(|t| wire::ApplicationTunnel {
            protocol: i32::from(t.proxy_protocol),
            port: t.port.unwrap_or_default().into(),
        }),
        services: w.services.iter().map(services_entry).collect(),
        authorization_policies: w
            .authorization_policies
            .iter()
            .map(ToString::to_string)
            .collect(),
        status: match w.health {
            Health::Healthy => wire::WorkloadStatus::Healthy,
            Health::Unhealthy => wire::WorkloadStatus::Unhealthy,
        }
        .into(),
        cluster_id: w.cluster.to_string(),
        locality: (w.locality != Locality::default()).then(|| wire::Locality {
            region: w.locality.region.to_string(),
            zone: w.locality.zone.to_string(),
            subzone: w.locality.subzone.to_string(),
        }),
        network_mode: match w.network_mode {
            NetworkMode::Standard => wire::NetworkMode::Standard,
            NetworkMode::HostNetwork => wire::NetworkMode::HostNetwork,
        }
        .into(),
        extensions: extensions::of_workload(w),
        capacity: (w.capacity != 1).then_some(w.capacity),
    };
    wire::Address {
        r#type: Some(Type::Workload(message)),
    }
}

fn services_entry((name, ports): (&ServiceName, &Vec<ServicePort>)) -> (String, wire::PortList) {
    let ports = ports.iter().map(port_of).collect();
    (name.to_string(), wire::PortList { ports })
}

pub(super) fn of_service(s: &Service) -> wire::Address {
    let lb = &s.load_balancing;
    let message = wire::Service {
        name: s.short_name.to_string(),
        namespace: s.name.namespace.to_string(),
        hostname: s.name.hostname.to_string(),
        addresses: s.vips.iter().map(vip_of).collect(),
        ports: s.ports.iter().map(port_of).collect(),
        subject_alt_names: s
            .subject_alt_names
            .iter()
            .map(ToString::to_string)
            .collect(),
        waypoint: s.waypoint.as_ref().map(gateway_of),
        load_balancing: (*lb != LoadBalancing::default()).then(|| load_balancing_of(lb)),
        ip_families: match s.ip_families {
            IpFamilies::Automatic => wire::IpFamilies::Automatic,
            IpFamilies::V4Only => wire::IpFamilies::Ipv4Only,
            IpFamilies::V6Only => wire::IpFamilies::Ipv6Only,
            IpFamilies::Dual => wire::IpFamilies::Dual,
        }
        .into(),
        extensions: extensions::of_service(s),
        canonical: s.canonical,
        ingress_use_waypoint: s.ingress_use_waypoint,
        weighted_waypoints: s
            .weighted_waypoints
            .iter()
            .map(|w| wire::WeightedWaypoint {
                destination: Some(gateway_of(&w.destination)),
                weight: w.weight,
            })
            .collect(),
        visibility: match s.visibility {
            Visibility::Public => wire::Visibility::Public,
            Visibility::Namespace => wire::Visibility::Namespace,
        }
        .into(),
    };
    wire::Address {
        r#type: Some(Type::Service(message)),
    }
}

fn vip_of((network, cidr): &(Arc<str>, Cidr)) -> wire::NetworkAddress {
    let host = *cidr == Cidr::host(cidr.address());
    wire::NetworkAddress {
        network: network.to_string(),
        address: bytes_of(cidr.address()),
        length: (!host).then(|| cidr.prefix_length().into()),
    }
}

fn port_of(p: &ServicePort) -> wire::Port {
    wire::Port {
        service_port: p.service_port.into(),
        target_port: p.target_port.into(),
        app_protocol: match p.app_protocol {
            AppProtocol::Unknown => wire::AppProtocol::Unknown,
            AppProtocol::Http11 => wire::AppProtocol::Http11,
            AppProtocol::Http2 => wire::AppProtocol::Http2,
            AppProtocol::Grpc => wire::AppProtocol::Grpc,
            AppProtocol::Tcp => wire::AppProtocol::Tcp,
            AppProtocol::Tls => wire::AppProtocol::Tls,
        }
        .into(),
    }
}

fn gateway_of(g: &GatewayAddress) -> wire::GatewayAddress {
    use wire::gateway_address::Destination;
    let destination = match &g.destination {
        GatewayDestination::Hostname(name) => Destination::Hostname(wire::NamespacedHostname {
            namespace: name.namespace.to_string(),
            hostname: name.hostname.to_string(),
        }),
        GatewayDestination::Address(at) => Destination::Address(wire::NetworkAddress {
            network: at.network.to_string(),
            address: bytes_of(at.address),
            length: None,
        }),
    };
    wire::GatewayAddress {
        destination: Some(destination),
        hbone_mtls_port: g.hbone_port.into(),
    }
}

fn load_balancing_of(lb: &LoadBalancing) -> wire::LoadBalancing {
    use wire::load_balancing::{HealthPolicy as WireHealth, Mode, Scope};
    let scope = |scope: &RoutingScope| match scope {
        RoutingScope::Region => Scope::Region,
        RoutingScope::Zone => Scope::Zone,
        RoutingScope::Subzone => Scope::Subzone,
        RoutingScope::Node => Scope::Node,
        RoutingScope::Cluster => Scope::Cluster,
        RoutingScope::Network => Scope::Network,
    };
    wire::LoadBalancing {
        routing_preference: lb.preferences.iter().map(|s| scope(s).into()).collect(),
        mode: match lb.mode {
            LoadBalancingMode::Unspecified => Mode::UnspecifiedMode,
            LoadBalancingMode::Strict => Mode::Strict,
            LoadBalancingMode::Failover => Mode::Failover,
            LoadBalancingMode::Passthrough => Mode::Passthrough,
        }
        .into(),
        health_policy: match lb.health {
            HealthPolicy::OnlyHealthy => WireHealth::OnlyHealthy,
            HealthPolicy::AllowAll => WireHealth::AllowAll,
        }
        .into(),
    }
}

pub(super) fn decode(cx: &Context<'_>, address: wire::Address) -> Result<Resource, DecodeError> {
    match address.r#type {
        Some(Type::Workload(w)) => workload(cx, w).map(|w| Resource::Workload(Arc::new(w))),
        Some(Type::Service(s)) => service(cx, s).map(|s| Resource::Service(Arc::new(s))),
        None => Err(cx.bad("type", "neither workload nor service")),
    }
}

fn workload(cx: &Context<'_>, w: wire::Workload) -> Result<Workload, DecodeError> {
    let or = |text: &str, default: &str| -> Arc<str> {
        if text.is_empty() { default } else { text }.into()
    };
    let protocol = match cx.known("tunnel_protocol", w.tunnel_protocol)? {
        wire::TunnelProtocol::TunnelNone => TunnelProtocol::None,
        wire::TunnelProtocol::Hbone => TunnelProtocol::Hbone,
        wire::TunnelProtocol::LegacyIstioMtls => {
            return Err(cx.bad("tunnel_protocol", "LEGACY_ISTIO_MTLS is not supported"));
        }
    };
    let workload_type = cx.known("workload_type", w.workload_type)?;
    let locality = w.locality.unwrap_or_default();
    Ok(Workload {
        uid: WorkloadUid(cx.required("uid", &w.uid)?.into()),
        addresses: addresses(cx, &w.addresses)?,
        hostname: super::context::non_empty(&w.hostname),
        network: w.network.into(),
        protocol,
        trust_domain: or(&w.trust_domain, TRUST_DOMAIN_DEFAULT),
        service_account: or(&w.service_account, "default"),
        waypoint: gateway(cx, "waypoint", w.waypoint)?,
        network_gateway: gateway(cx, "network_gateway", w.network_gateway)?,
        node: w.node.into(),
        canonical_name: w.canonical_name.into(),
        canonical_revision: w.canonical_revision.into(),
        workload_type: WORKLOAD_TYPES
            .iter()
            .find(|(number, _)| *number == workload_type)
            .map_or("pod", |(_, name)| name),
        workload_name: w.workload_name.into(),
        native_tunnel: w.native_tunnel,
        application_tunnel: application_tunnel(cx, w.application_tunnel)?,
        services: services(cx, w.services)?,
        authorization_policies: policies(cx, &w.authorization_policies)?,
        health: match cx.known("status", w.status)? {
            wire::WorkloadStatus::Healthy => Health::Healthy,
            wire::WorkloadStatus::Unhealthy => Health::Unhealthy,
        },
        cluster: or(&w.cluster_id, "Kubernetes"),
        locality: Locality {
            region: locality.region.into(),
            zone: locality.zone.into(),
            subzone: locality.subzone.into(),
        },
        network_mode: match cx.known("network_mode", w.network_mode)? {
            wire::NetworkMode::Standard => NetworkMode::Standard,
            wire::NetworkMode::HostNetwork => NetworkMode::HostNetwork,
        },
        capacity: w.capacity.unwrap_or(1).max(1),
        encrypt_same_node: extensions::workload(cx, &w.extensions)?.encrypt_same_node,
        name: w.name.into(),
        namespace: w.namespace.into(),
    })
}

fn addresses(cx: &Context<'_>, wire: &[Vec<u8>]) -> Result<Vec<std::net::IpAddr>, DecodeError> {
    wire.iter()
        .enumerate()
        .map(|(i, bytes)| cx.ip(format_args!("addresses[{i}]"), bytes))
        .collect()
}

fn policies(cx: &Context<'_>, names: &[String]) -> Result<Vec<ObjectName>, DecodeError> {
    names
        .iter()
        .map(|n| cx.parse("authorization_policies", n))
        .collect()
}

fn application_tunnel(
    cx: &Context<'_>,
    tunnel: Option<wire::ApplicationTunnel>,
) -> Result<Option<ApplicationTunnel>, DecodeError> {
    use wire::application_tunnel::Protocol;
    let Some(tunnel) = tunnel else {
        return Ok(None);
    };
    let protocol: Protocol = cx.known("application_tunnel.protocol", tunnel.protocol)?;
    Ok(Some(ApplicationTunnel {
        proxy_protocol: protocol == Protocol::Proxy,
        port: cx.optional_port("application_tunnel.port", tunnel.port)?,
    }))
}

fn services(
    cx: &Context<'_>,
    services: BTreeMap<String, wire::PortList>,
) -> Result<BTreeMap<ServiceName, Vec<ServicePort>>, DecodeError> {
    services
        .into_iter()
        .map(|(key, list)| {
            let name: ServiceName = cx.parse("services", &key)?;
            Ok((name, ports(cx, &format!("services[{key}]"), &list.ports)?))
        })
        .collect()
}

fn ports(
    cx: &Context<'_>,
    field: &str,
    ports: &[wire::Port],
) -> Result<Vec<ServicePort>, DecodeError> {
    let port = |p: &wire::Port| {
        Ok(ServicePort {
            service_port: cx.port(format_args!("{field}.service_port"), p.service_port)?,
            target_port: cx.port(format_args!("{field}.target_port"), p.target_port)?,
            app_protocol: match cx.known(format_args!("{field}.app_protocol"), p.app_protocol)? {
                wire::AppProtocol::Unknown => AppProtocol::Unknown,
                wire::AppProtocol::Http11 => AppProtocol::Http11,
                wire::AppProtocol::Http2 => AppProtocol::Http2,
                wire::AppProtocol::Grpc => AppProtocol::Grpc,
                wire::AppProtocol::Tcp => AppProtocol::Tcp,
                wire::AppProtocol::Tls => AppProtocol::Tls,
            },
        })
    };
    ports.iter().map(port).collect()
}

fn service(cx: &Context<'_>, s: wire::Service) -> Result<Service, DecodeError> {
    cx.key_part("namespace", &s.namespace)?;
    cx.key_part("hostname", &s.hostname)?;
    let ip_families = cx.known::<wire::IpFamilies>("ip_families", s.ip_families)?;
    let visibility = cx.known::<wire::Visibility>("visibility", s.visibility)?;
    let vips = s.addresses.iter().enumerate();
    Ok(Service {
        name: ServiceName::new(s.namespace, &s.hostname),
        short_name: s.name.into(),
        vips: vips.map(|(i, a)| vip(cx, i, a)).collect::<Result<_, _>>()?,
        ports: ports(cx, "ports", &s.ports)?,
        // Names that are no workload identity cannot be carried by a mesh certificate; leaving them
        // out accepts fewer peers, never more.
        subject_alt_names: s
            .subject_alt_names
            .iter()
            .filter_map(|n| n.parse().ok())
            .collect(),
        waypoint: gateway(cx, "waypoint", s.waypoint)?,
        weighted_waypoints: s
            .weighted_waypoints
            .into_iter()
            .map(|w| weighted_waypoint(cx, w))
            .collect::<Result<_, _>>()?,
        load_balancing: load_balancing(cx, s.load_balancing)?,
        canonical: s.canonical,
        ingress_use_waypoint: s.ingress_use_waypoint,
        ip_families: match ip_families {
            wire::IpFamilies::Automatic => IpFamilies::Automatic,
            wire::IpFamilies::Ipv4Only => IpFamilies::V4Only,
            wire::IpFamilies::Ipv6Only => IpFamilies::V6Only,
            wire::IpFamilies::Dual => IpFamilies::Dual,
        },
        visibility: match visibility {
            wire::Visibility::Public => Visibility::Public,
            wire::Visibility::Namespace => Visibility::Namespace,
        },
        sticky_by_source: extensions::service(cx, &s.extensions)?.sticky_by_source,
    })
}

fn vip(
    cx: &Context<'_>,
    i: usize,
    a: &wire::NetworkAddress,
) -> Result<(Arc<str>, Cidr), DecodeError> {
    let address = cx.ip(format_args!("addresses[{i}].address"), &a.address)?;
    let cidr = match a.length {
        None => Cidr::host(address),
        Some(length) => u8::try_from(length)
            .map_err(|e| e.to_string())
            .and_then(|l| Cidr::new(address, l).map_err(|e| e.to_string()))
            .map_err(|e| cx.bad(format_args!("addresses[{i}].length"), e))?,
    };
    Ok((a.network.as_str().into(), cidr))
}

fn weighted_waypoint(
    cx: &Context<'_>,
    w: wire::WeightedWaypoint,
) -> Result<WeightedWaypoint, DecodeError> {
    let field = "weighted_waypoints.destination";
    let destination = gateway(cx, field, w.destination)?;
    Ok(WeightedWaypoint {
        destination: destination.ok_or_else(|| cx.bad(field, "is required"))?,
        weight: w.weight,
    })
}

fn gateway(
    cx: &Context<'_>,
    field: &str,
    gateway: Option<wire::GatewayAddress>,
) -> Result<Option<GatewayAddress>, DecodeError> {
    use wire::gateway_address::Destination;
    let Some(gateway) = gateway else {
        return Ok(None);
    };
    let destination = match gateway.destination {
        None => return Err(cx.bad(format_args!("{field}.destination"), "is required")),
        Some(Destination::Hostname(h)) => {
            GatewayDestination::Hostname(ServiceName::new(h.namespace, &h.hostname))
        }
        Some(Destination::Address(a)) => GatewayDestination::Address(NetworkAddress {
            address: cx.ip(format_args!("{field}.address"), &a.address)?,
            network: a.network.into(),
        }),
    };
    let port = cx.optional_port(
        format_args!("{field}.hbone_mtls_port"),
        gateway.hbone_mtls_port,
    )?;
    Ok(Some(GatewayAddress {
        destination,
        hbone_port: port.unwrap_or(PORT_HBONE),
    }))
}

fn load_balancing(
    cx: &Context<'_>,
    lb: Option<wire::LoadBalancing>,
) -> Result<LoadBalancing, DecodeError> {
    use wire::load_balancing::{HealthPolicy as WireHealth, Mode, Scope};
    let Some(lb) = lb else {
        return Ok(LoadBalancing::default());
    };
    let scope = |number: &i32| {
        let field = "load_balancing.routing_preference";
        Ok(match cx.known(field, *number)? {
            Scope::UnspecifiedScope => return Err(cx.bad(field, "UNSPECIFIED_SCOPE")),
            Scope::Region => RoutingScope::Region,
            Scope::Zone => RoutingScope::Zone,
            Scope::Subzone => RoutingScope::Subzone,
            Scope::Node => RoutingScope::Node,
            Scope::Cluster => RoutingScope::Cluster,
            Scope::Network => RoutingScope::Network,
        })
    };
    Ok(LoadBalancing {
        preferences: lb
            .routing_preference
            .iter()
            .map(scope)
            .collect::<Result<_, _>>()?,
        mode: match cx.known("load_balancing.mode", lb.mode)? {
            Mode::UnspecifiedMode => LoadBalancingMode::Unspecified,
            Mode::Strict => LoadBalancingMode::Strict,
            Mode::Failover => LoadBalancingMode::Failover,
            Mode::Passthrough => LoadBalancingMode::Passthrough,
        },
        health: match cx.known("load_balancing.health_policy", lb.health_policy)? {
            WireHealth::OnlyHealthy => HealthPolicy::OnlyHealthy,
            WireHealth::AllowAll => HealthPolicy::AllowAll,
        },
    })
}
