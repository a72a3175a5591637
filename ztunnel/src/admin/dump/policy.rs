//! Policies in the page.

use mesh_model::{
    Action, AuthorizationPolicy, Cidr, PolicyMatch, PolicyScope, ServiceAccountMatch, StringMatch,
};
use serde::Serialize;

/// A policy under the names that `istioctl` reads, and what we know beside.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PolicyDump {
    name: String,
    namespace: String,
    scope: &'static str,
    action: &'static str,
    dry_run: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    invalid: Option<String>,
    /// A DENY whose HTTP conditions do not reach this proxy: it may deny nothing.
    http_dropped: bool,
    /// The rules as they are evaluated: rules OR-ed, their clauses AND-ed, matches of a clause OR-ed.
    rules: Vec<Vec<Vec<MatchDump>>>,
}

/// The fields of a match that say something.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct MatchDump {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    namespaces: Vec<TextDump>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    not_namespaces: Vec<TextDump>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    principals: Vec<TextDump>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    not_principals: Vec<TextDump>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    service_accounts: Vec<AccountDump>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    not_service_accounts: Vec<AccountDump>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    source_ips: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    not_source_ips: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    destination_ips: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    not_destination_ips: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    destination_ports: Vec<u16>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    not_destination_ports: Vec<u16>,
    /// Conditions on HTTP, which this proxy does not see; as text.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    http: Vec<String>,
}

/// A text condition: an object with its kind for a name.
#[derive(Serialize)]
enum TextDump {
    Exact(String),
    Prefix(String),
    Suffix(String),
    Presence([(); 0]),
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AccountDump {
    namespace: String,
    service_account: String,
}

impl PolicyDump {
    pub(super) fn of(policy: &AuthorizationPolicy) -> Self {
        let rules = policy.rules.iter().map(|rule| {
            let clauses = rule.clauses.iter();
            let matches = clauses.map(|c| c.matches.iter().map(MatchDump::of).collect());
            matches.collect()
        });
        Self {
            name: policy.name.name.to_string(),
            namespace: policy.name.namespace.to_string(),
            scope: match policy.scope {
                PolicyScope::Global => "Global",
                PolicyScope::Namespace => "Namespace",
                PolicyScope::WorkloadSelector => "WorkloadSelector",
                PolicyScope::Targets => "Targets",
            },
            action: match policy.action {
                Action::Allow => "Allow",
                Action::Deny => "Deny",
            },
            dry_run: policy.dry_run,
            invalid: policy.invalid.as_ref().map(ToString::to_string),
            http_dropped: policy.http_dropped,
            rules: rules.collect(),
        }
    }
}

impl MatchDump {
    fn of(m: &PolicyMatch) -> Self {
        Self {
            namespaces: texts(&m.namespaces),
            not_namespaces: texts(&m.not_namespaces),
            principals: texts(&m.principals),
            not_principals: texts(&m.not_principals),
            service_accounts: accounts(&m.service_accounts),
            not_service_accounts: accounts(&m.not_service_accounts),
            source_ips: ranges(&m.source_ips),
            not_source_ips: ranges(&m.not_source_ips),
            destination_ips: ranges(&m.destination_ips),
            not_destination_ips: ranges(&m.not_destination_ips),
            destination_ports: m.destination_ports.clone(),
            not_destination_ports: m.not_destination_ports.clone(),
            http: http(m),
        }
    }
}

fn texts(all: &[StringMatch]) -> Vec<TextDump> {
    let one = |text: &StringMatch| match text {
        StringMatch::Exact(text) => TextDump::Exact(text.to_string()),
        StringMatch::Prefix(text) => TextDump::Prefix(text.to_string()),
        StringMatch::Suffix(text) => TextDump::Suffix(text.to_string()),
        StringMatch::Presence => TextDump::Presence([]),
    };
    all.iter().map(one).collect()
}

fn accounts(all: &[ServiceAccountMatch]) -> Vec<AccountDump> {
    let one = |account: &ServiceAccountMatch| AccountDump {
        namespace: account.namespace.to_string(),
        service_account: account.name.to_string(),
    };
    all.iter().map(one).collect()
}

fn ranges(all: &[Cidr]) -> Vec<String> {
    all.iter().map(ToString::to_string).collect()
}

fn http(m: &PolicyMatch) -> Vec<String> {
    let lists = [
        ("hosts", &m.hosts),
        ("notHosts", &m.not_hosts),
        ("methods", &m.methods),
        ("notMethods", &m.not_methods),
        ("paths", &m.paths),
        ("notPaths", &m.not_paths),
    ];
    let some = lists.iter().filter(|(_, list)| !list.is_empty());
    let lists = some.map(|(name, list)| format!("{name}: {list:?}"));
    let headers = m.headers.iter().map(|header| format!("{header:?}"));
    lists.chain(headers).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_model::{ObjectName, PolicyClause, PolicyRule};
    use serde_json::json;

    /// The form of Istio's ztunnel: `istioctl ztunnel-config` reads no page with a policy that differs.
    #[test]
    fn rules_are_lists_of_lists_of_matches_under_the_known_names() {
        let account = ServiceAccountMatch {
            namespace: "shop".into(),
            name: "x".into(),
        };
        let full = PolicyMatch {
            namespaces: vec![StringMatch::from_pattern("a*")],
            principals: vec![
                StringMatch::from_pattern("p"),
                StringMatch::from_pattern("*/sa/x"),
            ],
            not_principals: vec![StringMatch::Presence],
            not_service_accounts: vec![account],
            source_ips: vec!["10.0.0.0/8".parse().unwrap()],
            destination_ports: vec![8080],
            ..PolicyMatch::default()
        };
        let get = PolicyMatch {
            methods: vec![StringMatch::from_pattern("GET")],
            ..PolicyMatch::default()
        };
        let clause = |matches| PolicyClause { matches };
        let policy = AuthorizationPolicy {
            name: ObjectName::new("shop", "p"),
            scope: PolicyScope::WorkloadSelector,
            action: Action::Deny,
            rules: vec![
                PolicyRule {
                    clauses: vec![clause(vec![full]), clause(vec![get])],
                },
                PolicyRule::default(),
            ],
            dry_run: false,
            targets: Vec::new(),
            invalid: None,
            http_dropped: false,
        };
        let full = json!({
            "namespaces": [{"Prefix": "a"}],
            "principals": [{"Exact": "p"}, {"Suffix": "/sa/x"}],
            "notPrincipals": [{"Presence": []}],
            "notServiceAccounts": [{"namespace": "shop", "serviceAccount": "x"}],
            "sourceIps": ["10.0.0.0/8"],
            "destinationPorts": [8080],
        });
        let dump = serde_json::to_value(PolicyDump::of(&policy)).unwrap();
        assert_eq!(dump["scope"], "WorkloadSelector");
        assert_eq!(dump["rules"][0][0], json!([full]));
        let methods = &dump["rules"][0][1][0]["http"][0];
        assert!(methods.as_str().unwrap().starts_with("methods: "));
        assert_eq!(dump["rules"][1], json!([]));
    }
}
