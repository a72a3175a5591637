//! The YAML form of the local file, and its translation to the model.

use mesh_model::{
    Action, ApplicationTunnel, AuthorizationPolicy, Cidr, GatewayAddress, GatewayDestination,
    Health, HealthPolicy, IpFamilies, LoadBalancing, LoadBalancingMode, Locality, NetworkAddress,
    NetworkMode, ObjectName, PORT_HBONE, PolicyClause, PolicyMatch, PolicyRule, PolicyScope,
    Resource, RoutingScope, Service, ServiceAccountMatch, ServiceName, ServicePort, StringMatch,
    TunnelProtocol, Visibility, Workload, WorkloadUid,
};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// Reads the file's text.
///
/// # Errors
/// What is wrong, naming the object and the field where known.
pub(super) fn parse(text: &str) -> Result<Vec<Resource>, String> {
    let options = serde_saphyr::options! { with_snippet: false };
    let file: File =
        serde_saphyr::from_str_with_options(text, options).map_err(|e| e.to_string())?;
    let mut resources = Vec::new();
    for w in file.workloads {
        let name = format!("workload {}/{}", w.namespace, w.name);
        let workload = workload(w).map_err(|e| format!("{name}: {e}"))?;
        resources.push(Resource::Workload(Arc::new(workload)));
    }
    for s in file.services {
        let name = format!("service {}/{}", s.namespace, s.hostname);
        let service = service(s).map_err(|e| format!("{name}: {e}"))?;
        resources.push(Resource::Service(Arc::new(service)));
    }
    for p in file.policies {
        let name = format!("policy {}/{}", p.namespace, p.name);
        let policy = policy(p).map_err(|e| format!("{name}: {e}"))?;
        resources.push(Resource::Policy(Arc::new(policy)));
    }
    let mut seen = std::collections::BTreeSet::new();
    match resources
        .iter()
        .map(Resource::key)
        .find(|k| !seen.insert(k.clone()))
    {
        Some(twice) => Err(format!("{twice} is there twice")),
        None => Ok(resources),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    #[serde(default)]
    workloads: Vec<YamlWorkload>,
    #[serde(default)]
    services: Vec<YamlService>,
    #[serde(default)]
    policies: Vec<YamlPolicy>,
}

/// Ports by text: YAML writers quote the keys or not.
type Ports = BTreeMap<String, u16>;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct YamlWorkload {
    uid: Option<String>,
    name: String,
    namespace: String,
    #[serde(default)]
    workload_ips: Vec<IpAddr>,
    hostname: Option<String>,
    #[serde(default)]
    network: String,
    #[serde(default)]
    protocol: YamlProtocol,
    trust_domain: Option<String>,
    service_account: Option<String>,
    waypoint: Option<YamlGateway>,
    network_gateway: Option<YamlGateway>,
    #[serde(default)]
    node: String,
    canonical_name: Option<String>,
    canonical_revision: Option<String>,
    workload_name: Option<String>,
    workload_type: Option<String>,
    #[serde(default)]
    native_tunnel: bool,
    application_tunnel: Option<YamlTunnel>,
    #[serde(default)]
    services: BTreeMap<String, Ports>,
    #[serde(default)]
    authorization_policies: Vec<String>,
    #[serde(default)]
    status: YamlHealth,
    cluster_id: Option<String>,
    #[serde(default)]
    locality: YamlLocality,
    #[serde(default)]
    network_mode: YamlNetworkMode,
    capacity: Option<u32>,
    #[serde(default)]
    encrypt_same_node: bool,
}

#[derive(Deserialize, Default)]
enum YamlProtocol {
    #[default]
    #[serde(rename = "TCP", alias = "NONE")]
    Tcp,
    #[serde(rename = "HBONE")]
    Hbone,
}

#[derive(Deserialize, Default)]
enum YamlHealth {
    #[default]
    Healthy,
    Unhealthy,
}

#[derive(Deserialize, Default)]
enum YamlNetworkMode {
    #[default]
    Standard,
    HostNetwork,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct YamlLocality {
    region: String,
    zone: String,
    subzone: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct YamlGateway {
    /// `network/ip` or `namespace/hostname`.
    destination: String,
    hbone_mtls_port: Option<u16>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct YamlTunnel {
    protocol: YamlTunnelProtocol,
    port: Option<u16>,
}

#[derive(Deserialize)]
enum YamlTunnelProtocol {
    #[serde(rename = "NONE")]
    None,
    #[serde(rename = "PROXY")]
    Proxy,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct YamlService {
    name: String,
    namespace: String,
    hostname: String,
    #[serde(default)]
    vips: Vec<String>,
    #[serde(default)]
    ports: Ports,
    #[serde(default)]
    subject_alt_names: Vec<String>,
    waypoint: Option<YamlGateway>,
    load_balancer: Option<YamlLoadBalancer>,
    #[serde(default)]
    canonical: bool,
    #[serde(default)]
    ingress_use_waypoint: bool,
    ip_families: Option<YamlIpFamilies>,
    visibility: Option<YamlVisibility>,
    #[serde(default)]
    sticky_by_source: bool,
}

#[derive(Deserialize)]
enum YamlIpFamilies {
    Dual,
    IPv4,
    IPv6,
}

#[derive(Deserialize)]
enum YamlVisibility {
    Public,
    Namespace,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct YamlLoadBalancer {
    #[serde(default)]
    routing_preferences: Vec<YamlScope>,
    mode: Option<YamlMode>,
    health_policy: Option<YamlHealthPolicy>,
}

#[derive(Deserialize)]
enum YamlScope {
    Region,
    Zone,
    Subzone,
    Node,
    Cluster,
    Network,
}

#[derive(Deserialize)]
enum YamlMode {
    Standard,
    Strict,
    Failover,
    Passthrough,
}

#[derive(Deserialize)]
enum YamlHealthPolicy {
    OnlyHealthy,
    AllowAll,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct YamlPolicy {
    name: String,
    namespace: String,
    scope: YamlPolicyScope,
    action: YamlAction,
    /// Rules, each of clauses, each of matches.
    #[serde(default, alias = "groups")]
    rules: Vec<Vec<Vec<YamlMatch>>>,
    #[serde(default)]
    dry_run: bool,
}

#[derive(Deserialize)]
enum YamlPolicyScope {
    Global,
    Namespace,
    WorkloadSelector,
}

#[derive(Deserialize)]
enum YamlAction {
    Allow,
    Deny,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct YamlMatch {
    namespaces: Vec<YamlText>,
    not_namespaces: Vec<YamlText>,
    principals: Vec<YamlText>,
    not_principals: Vec<YamlText>,
    service_accounts: Vec<YamlAccount>,
    not_service_accounts: Vec<YamlAccount>,
    source_ips: Vec<String>,
    not_source_ips: Vec<String>,
    destination_ips: Vec<String>,
    not_destination_ips: Vec<String>,
    destination_ports: Vec<u16>,
    not_destination_ports: Vec<u16>,
}

#[derive(Deserialize)]
enum YamlText {
    Exact(String),
    Prefix(String),
    Suffix(String),
    /// Written `Presence: []`.
    Presence([(); 0]),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct YamlAccount {
    namespace: String,
    service_account: String,
}

fn workload(y: YamlWorkload) -> Result<Workload, String> {
    let mut w = Workload::new("", &y.namespace, &y.name);
    let uid = || format!("local//Pod/{}/{}", y.namespace, y.name);
    w.uid = WorkloadUid(y.uid.filter(|u| !u.is_empty()).unwrap_or_else(uid).into());
    w.addresses = y.workload_ips.iter().map(IpAddr::to_canonical).collect();
    w.hostname = y.hostname.filter(|h| !h.is_empty()).map(Arc::from);
    w.network = y.network.into();
    w.protocol = match y.protocol {
        YamlProtocol::Tcp => TunnelProtocol::None,
        YamlProtocol::Hbone => TunnelProtocol::Hbone,
    };
    let set = |to: &mut Arc<str>, from: Option<String>| {
        if let Some(text) = from.filter(|t| !t.is_empty()) {
            *to = text.into();
        }
    };
    set(&mut w.trust_domain, y.trust_domain);
    set(&mut w.service_account, y.service_account);
    set(&mut w.canonical_name, y.canonical_name);
    set(&mut w.canonical_revision, y.canonical_revision);
    set(&mut w.workload_name, y.workload_name);
    set(&mut w.cluster, y.cluster_id);
    w.waypoint = gateway("waypoint", y.waypoint)?;
    w.network_gateway = gateway("networkGateway", y.network_gateway)?;
    w.node = y.node.into();
    w.workload_type = match y.workload_type.as_deref() {
        Some("deployment") => "deployment",
        Some("cronjob") => "cronjob",
        Some("job") => "job",
        Some("pod" | "") | None => "pod",
        Some(other) => return Err(format!("workloadType: '{other}' is unknown")),
    };
    w.native_tunnel = y.native_tunnel;
    w.application_tunnel = y.application_tunnel.map(|t| ApplicationTunnel {
        proxy_protocol: matches!(t.protocol, YamlTunnelProtocol::Proxy),
        port: t.port.filter(|p| *p != 0),
    });
    for (key, list) in y.services {
        let name: ServiceName = key.parse().map_err(|e| format!("services: {e}"))?;
        w.services.insert(name, ports("services", list)?);
    }
    for name in y.authorization_policies {
        let name: ObjectName = name
            .parse()
            .map_err(|e| format!("authorizationPolicies: {e}"))?;
        w.authorization_policies.push(name);
    }
    w.health = match y.status {
        YamlHealth::Healthy => Health::Healthy,
        YamlHealth::Unhealthy => Health::Unhealthy,
    };
    w.locality = Locality {
        region: y.locality.region.into(),
        zone: y.locality.zone.into(),
        subzone: y.locality.subzone.into(),
    };
    w.network_mode = match y.network_mode {
        YamlNetworkMode::Standard => NetworkMode::Standard,
        YamlNetworkMode::HostNetwork => NetworkMode::HostNetwork,
    };
    w.capacity = y.capacity.unwrap_or(1).max(1);
    w.encrypt_same_node = y.encrypt_same_node;
    Ok(w)
}

fn ports(field: &str, ports: Ports) -> Result<Vec<ServicePort>, String> {
    let port = |(service_port, target_port): (String, u16)| {
        Ok(ServicePort {
            service_port: service_port
                .parse()
                .map_err(|_| format!("{field}: '{service_port}' is not a port"))?,
            target_port,
            app_protocol: mesh_model::AppProtocol::Unknown,
        })
    };
    ports.into_iter().map(port).collect()
}

fn network_address(field: &str, text: &str) -> Result<(Arc<str>, Cidr), String> {
    let (network, rest) = text
        .split_once('/')
        .ok_or_else(|| format!("{field}: '{text}' is not of the form network/ip"))?;
    let range = rest.parse().map_err(|e| format!("{field}: {e}"))?;
    Ok((network.into(), range))
}

fn gateway(field: &str, y: Option<YamlGateway>) -> Result<Option<GatewayAddress>, String> {
    let Some(y) = y else {
        return Ok(None);
    };
    let destination = match network_address(field, &y.destination) {
        Ok((network, range)) => GatewayDestination::Address(NetworkAddress {
            network,
            address: range.address(),
        }),
        Err(_) => GatewayDestination::Hostname(
            y.destination
                .parse()
                .map_err(|e| format!("{field}.destination: {e}"))?,
        ),
    };
    Ok(Some(GatewayAddress {
        destination,
        hbone_port: y.hbone_mtls_port.filter(|p| *p != 0).unwrap_or(PORT_HBONE),
    }))
}

fn service(y: YamlService) -> Result<Service, String> {
    // Read, not made: a slash in a part would make the key that of another service, or of none.
    let name: ServiceName = format!("{}/{}", y.namespace, y.hostname)
        .parse()
        .map_err(|e| format!("namespace, hostname: {e}"))?;
    let mut s = Service::new(name, &y.name);
    for vip in &y.vips {
        s.vips.push(network_address("vips", vip)?);
    }
    s.ports = ports("ports", y.ports)?;
    s.subject_alt_names = y
        .subject_alt_names
        .iter()
        .map(|t| t.parse().map_err(|e| format!("subjectAltNames: {e}")))
        .collect::<Result<_, String>>()?;
    s.waypoint = gateway("waypoint", y.waypoint)?;
    s.canonical = y.canonical;
    s.ingress_use_waypoint = y.ingress_use_waypoint;
    s.ip_families = match y.ip_families {
        None => IpFamilies::Automatic,
        Some(YamlIpFamilies::Dual) => IpFamilies::Dual,
        Some(YamlIpFamilies::IPv4) => IpFamilies::V4Only,
        Some(YamlIpFamilies::IPv6) => IpFamilies::V6Only,
    };
    if let Some(YamlVisibility::Namespace) = y.visibility {
        s.visibility = Visibility::Namespace;
    }
    s.sticky_by_source = y.sticky_by_source;
    if let Some(lb) = y.load_balancer {
        s.load_balancing = load_balancing(&lb);
    }
    Ok(s)
}

fn load_balancing(y: &YamlLoadBalancer) -> LoadBalancing {
    let scope = |scope: &YamlScope| match scope {
        YamlScope::Region => RoutingScope::Region,
        YamlScope::Zone => RoutingScope::Zone,
        YamlScope::Subzone => RoutingScope::Subzone,
        YamlScope::Node => RoutingScope::Node,
        YamlScope::Cluster => RoutingScope::Cluster,
        YamlScope::Network => RoutingScope::Network,
    };
    LoadBalancing {
        preferences: y.routing_preferences.iter().map(scope).collect(),
        mode: match y.mode {
            None | Some(YamlMode::Standard) => LoadBalancingMode::Unspecified,
            Some(YamlMode::Strict) => LoadBalancingMode::Strict,
            Some(YamlMode::Failover) => LoadBalancingMode::Failover,
            Some(YamlMode::Passthrough) => LoadBalancingMode::Passthrough,
        },
        health: match y.health_policy {
            None | Some(YamlHealthPolicy::OnlyHealthy) => HealthPolicy::OnlyHealthy,
            Some(YamlHealthPolicy::AllowAll) => HealthPolicy::AllowAll,
        },
    }
}

fn policy(y: YamlPolicy) -> Result<AuthorizationPolicy, String> {
    let clause = |matches: Vec<YamlMatch>| {
        let matches = matches.into_iter().map(policy_match);
        Ok(PolicyClause {
            matches: matches.collect::<Result<_, String>>()?,
        })
    };
    let rule = |clauses: Vec<Vec<YamlMatch>>| {
        let clauses = clauses.into_iter().map(clause);
        Ok(PolicyRule {
            clauses: clauses.collect::<Result<_, String>>()?,
        })
    };
    let name: ObjectName = format!("{}/{}", y.namespace, y.name)
        .parse()
        .map_err(|e| format!("namespace, name: {e}"))?;
    Ok(AuthorizationPolicy {
        name,
        scope: match y.scope {
            YamlPolicyScope::Global => PolicyScope::Global,
            YamlPolicyScope::Namespace => PolicyScope::Namespace,
            YamlPolicyScope::WorkloadSelector => PolicyScope::WorkloadSelector,
        },
        action: match y.action {
            YamlAction::Allow => Action::Allow,
            YamlAction::Deny => Action::Deny,
        },
        rules: y
            .rules
            .into_iter()
            .map(rule)
            .collect::<Result<_, String>>()?,
        dry_run: y.dry_run,
        targets: Vec::new(),
        invalid: None,
        http_dropped: false,
    })
}

fn policy_match(y: YamlMatch) -> Result<PolicyMatch, String> {
    let ranges = |field: &str, list: Vec<String>| {
        let one = |t: String| t.parse::<Cidr>().map_err(|e| format!("rules.{field}: {e}"));
        list.into_iter().map(one).collect::<Result<Vec<_>, _>>()
    };
    let texts = |list: Vec<YamlText>| list.into_iter().map(string_match).collect();
    let accounts = |list: Vec<YamlAccount>| list.into_iter().map(account).collect();
    Ok(PolicyMatch {
        namespaces: texts(y.namespaces),
        not_namespaces: texts(y.not_namespaces),
        principals: texts(y.principals),
        not_principals: texts(y.not_principals),
        service_accounts: accounts(y.service_accounts),
        not_service_accounts: accounts(y.not_service_accounts),
        source_ips: ranges("sourceIps", y.source_ips)?,
        not_source_ips: ranges("notSourceIps", y.not_source_ips)?,
        destination_ips: ranges("destinationIps", y.destination_ips)?,
        not_destination_ips: ranges("notDestinationIps", y.not_destination_ips)?,
        destination_ports: y.destination_ports,
        not_destination_ports: y.not_destination_ports,
        ..PolicyMatch::default()
    })
}

fn string_match(y: YamlText) -> StringMatch {
    match y {
        YamlText::Exact(t) => StringMatch::Exact(t.into()),
        YamlText::Prefix(t) => StringMatch::Prefix(t.into()),
        YamlText::Suffix(t) => StringMatch::Suffix(t.into()),
        YamlText::Presence(_) => StringMatch::Presence,
    }
}

fn account(y: YamlAccount) -> ServiceAccountMatch {
    ServiceAccountMatch {
        namespace: y.namespace.into(),
        name: y.service_account.into(),
    }
}
