//! The kinds that no crate holds types for: Istio's security and networking kinds
//! (interop/authz.md, interop/xds-workload.md), and TCPRoute, built of HTTPRoute's parts.

use gateway_api::httproutes::{HttpRouteParentRefs, HttpRouteRulesBackendRefs};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use std::collections::BTreeMap;

macro_rules! object {
    ($(#[$doc:meta])* $name:ident, $spec:ty) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Deserialize)]
        pub(crate) struct $name {
            pub(crate) metadata: ObjectMeta,
            #[serde(default)]
            pub(crate) spec: $spec,
            /// Read over: others write it.
            #[serde(default, rename = "status")]
            _status: Option<serde_json::Value>,
        }
    };
}

object!(
    /// `security.istio.io` AuthorizationPolicy.
    AuthorizationPolicy,
    AuthorizationPolicySpec
);
object!(
    /// `security.istio.io` PeerAuthentication.
    PeerAuthentication,
    PeerAuthenticationSpec
);
object!(
    /// `networking.istio.io` ServiceEntry.
    ServiceEntry,
    ServiceEntrySpec
);
object!(
    /// `networking.istio.io` WorkloadEntry.
    WorkloadEntry,
    WorkloadEntrySpec
);
object!(
    /// `gateway.networking.k8s.io` TCPRoute.
    TcpRoute,
    TcpRouteSpec
);

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WorkloadSelector {
    #[serde(default, alias = "labels")]
    pub(crate) match_labels: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct AuthorizationPolicySpec {
    pub(crate) selector: Option<WorkloadSelector>,
    pub(crate) target_ref: Option<TargetRef>,
    pub(crate) target_refs: Vec<TargetRef>,
    pub(crate) action: PolicyAction,
    /// Unset or empty never matches; one empty rule always does.
    pub(crate) rules: Vec<Rule>,
    pub(crate) provider: Option<Provider>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum PolicyAction {
    #[default]
    Allow,
    Deny,
    Audit,
    Custom,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub(crate) struct Provider {
    #[serde(rename = "name")]
    pub(crate) _name: String,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct TargetRef {
    #[serde(default)]
    pub(crate) group: String,
    pub(crate) kind: String,
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) namespace: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Rule {
    pub(crate) from: Vec<From>,
    pub(crate) to: Vec<To>,
    pub(crate) when: Vec<Condition>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct From {
    pub(crate) source: Source,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct To {
    pub(crate) operation: Operation,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Source {
    pub(crate) principals: Vec<String>,
    pub(crate) not_principals: Vec<String>,
    pub(crate) request_principals: Vec<String>,
    pub(crate) not_request_principals: Vec<String>,
    pub(crate) namespaces: Vec<String>,
    pub(crate) not_namespaces: Vec<String>,
    pub(crate) service_accounts: Vec<String>,
    pub(crate) not_service_accounts: Vec<String>,
    pub(crate) ip_blocks: Vec<String>,
    pub(crate) not_ip_blocks: Vec<String>,
    pub(crate) remote_ip_blocks: Vec<String>,
    pub(crate) not_remote_ip_blocks: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Operation {
    pub(crate) hosts: Vec<String>,
    pub(crate) not_hosts: Vec<String>,
    pub(crate) ports: Vec<String>,
    pub(crate) not_ports: Vec<String>,
    pub(crate) methods: Vec<String>,
    pub(crate) not_methods: Vec<String>,
    pub(crate) paths: Vec<String>,
    pub(crate) not_paths: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Condition {
    pub(crate) key: String,
    #[serde(default)]
    pub(crate) values: Vec<String>,
    #[serde(default)]
    pub(crate) not_values: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PeerAuthenticationSpec {
    pub(crate) selector: Option<WorkloadSelector>,
    pub(crate) mtls: Option<MutualTls>,
    pub(crate) port_level_mtls: BTreeMap<String, MutualTls>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct MutualTls {
    pub(crate) mode: MutualTlsMode,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum MutualTlsMode {
    #[default]
    Unset,
    Disable,
    Permissive,
    Strict,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ServiceEntrySpec {
    pub(crate) hosts: Vec<String>,
    pub(crate) addresses: Vec<String>,
    pub(crate) ports: Vec<ServiceEntryPort>,
    #[serde(rename = "location")]
    pub(crate) _location: Option<String>,
    pub(crate) resolution: Resolution,
    pub(crate) endpoints: Vec<WorkloadEntrySpec>,
    pub(crate) workload_selector: Option<WorkloadSelector>,
    #[serde(rename = "exportTo")]
    pub(crate) _export_to: Vec<String>,
    pub(crate) subject_alt_names: Vec<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub(crate) enum Resolution {
    #[default]
    #[serde(rename = "NONE")]
    None,
    #[serde(rename = "STATIC")]
    Static,
    #[serde(rename = "DNS")]
    Dns,
    #[serde(rename = "DNS_ROUND_ROBIN")]
    DnsRoundRobin,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ServiceEntryPort {
    pub(crate) number: u16,
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) protocol: Option<String>,
    #[serde(default)]
    pub(crate) target_port: Option<u16>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct WorkloadEntrySpec {
    pub(crate) address: String,
    pub(crate) ports: BTreeMap<String, u16>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) network: String,
    pub(crate) locality: String,
    pub(crate) weight: Option<u32>,
    pub(crate) service_account: String,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct TcpRouteSpec {
    pub(crate) parent_refs: Vec<HttpRouteParentRefs>,
    pub(crate) rules: Vec<TcpRouteRule>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct TcpRouteRule {
    #[serde(rename = "name")]
    pub(crate) _name: Option<String>,
    pub(crate) backend_refs: Vec<HttpRouteRulesBackendRefs>,
}
