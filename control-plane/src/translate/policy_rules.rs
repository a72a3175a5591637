//! The rules of an AuthorizationPolicy to the model's, in full and in their L4 projection
//! (interop/authz.md sections 1 and 2).

use crate::objects::{Condition, Operation, Rule, Source};
use mesh_model::{
    Action, Cidr, HeaderCondition, PolicyClause, PolicyMatch, PolicyRule, ServiceAccountMatch,
    StringMatch,
};

/// A rule translated.
pub(super) struct Translated {
    /// The rule in full.
    pub(super) full: PolicyRule,
    /// Conditions in it that no enforcement point of ours can check.
    pub(super) unsupported: Vec<String>,
}

/// Translates a rule.
///
/// # Errors
/// What cannot be read, naming the field.
pub(super) fn translate(rule: &Rule, namespace: &str) -> Result<Translated, String> {
    let mut unsupported = Vec::new();
    let mut clauses = Vec::new();
    if !rule.from.is_empty() {
        let mut matches = Vec::new();
        for from in &rule.from {
            matches.push(source(&from.source, namespace, &mut unsupported)?);
        }
        clauses.push(PolicyClause { matches });
    }
    if !rule.to.is_empty() {
        let mut matches = Vec::new();
        for to in &rule.to {
            matches.push(operation(&to.operation, &mut unsupported)?);
        }
        clauses.push(PolicyClause { matches });
    }
    for when in &rule.when {
        let matches = vec![condition(when, namespace, &mut unsupported)?];
        clauses.push(PolicyClause { matches });
    }
    Ok(Translated {
        full: PolicyRule { clauses },
        unsupported,
    })
}

fn source(
    source: &Source,
    namespace: &str,
    unsupported: &mut Vec<String>,
) -> Result<PolicyMatch, String> {
    if *source == Source::default() {
        return Err("from.source: at least one field is required".into());
    }
    for (field, list) in [
        ("requestPrincipals", &source.request_principals),
        ("notRequestPrincipals", &source.not_request_principals),
        ("remoteIpBlocks", &source.remote_ip_blocks),
        ("notRemoteIpBlocks", &source.not_remote_ip_blocks),
    ] {
        if !list.is_empty() {
            unsupported.push(format!("source.{field}"));
        }
    }
    Ok(PolicyMatch {
        principals: texts(&source.principals),
        not_principals: texts(&source.not_principals),
        namespaces: texts(&source.namespaces),
        not_namespaces: texts(&source.not_namespaces),
        service_accounts: accounts("serviceAccounts", &source.service_accounts, namespace)?,
        not_service_accounts: accounts(
            "notServiceAccounts",
            &source.not_service_accounts,
            namespace,
        )?,
        source_ips: ranges("ipBlocks", &source.ip_blocks)?,
        not_source_ips: ranges("notIpBlocks", &source.not_ip_blocks)?,
        ..PolicyMatch::default()
    })
}

fn operation(operation: &Operation, unsupported: &mut Vec<String>) -> Result<PolicyMatch, String> {
    if *operation == Operation::default() {
        return Err("to.operation: at least one field is required".into());
    }
    let mut paths = |field: &str, list: &[String]| {
        if list.iter().any(|path| is_template(path)) {
            unsupported.push(format!("operation.{field} with a path template"));
            return Vec::new();
        }
        texts(list)
    };
    let (with, without) = (
        paths("paths", &operation.paths),
        paths("notPaths", &operation.not_paths),
    );
    Ok(PolicyMatch {
        // Hosts are compared in lower case (interop/authz.md section 1).
        hosts: lower(&operation.hosts),
        not_hosts: lower(&operation.not_hosts),
        destination_ports: ports("ports", &operation.ports)?,
        not_destination_ports: ports("notPorts", &operation.not_ports)?,
        methods: texts(&operation.methods),
        not_methods: texts(&operation.not_methods),
        paths: with,
        not_paths: without,
        ..PolicyMatch::default()
    })
}

/// Whether a path is a template of Istio's, `/a/{*}/b` or `/a/{**}`. Taken for a plain text it would
/// match no path there is, and a DENY would deny nothing.
fn is_template(path: &str) -> bool {
    path.contains("{*}") || path.contains("{**}")
}

fn condition(
    when: &Condition,
    namespace: &str,
    unsupported: &mut Vec<String>,
) -> Result<PolicyMatch, String> {
    let (values, not_values) = (&when.values, &when.not_values);
    let field = format!("when[{}]", when.key);
    if values.is_empty() && not_values.is_empty() {
        return Err(format!("{field}: values or notValues is required"));
    }
    let mut m = PolicyMatch::default();
    match when.key.as_str() {
        "source.ip" => {
            m.source_ips = ranges(&field, values)?;
            m.not_source_ips = ranges(&field, not_values)?;
        }
        "source.namespace" => {
            m.namespaces = texts(values);
            m.not_namespaces = texts(not_values);
        }
        "source.principal" => {
            m.principals = texts(values);
            m.not_principals = texts(not_values);
        }
        "source.serviceAccount" => {
            m.service_accounts = accounts(&field, values, namespace)?;
            m.not_service_accounts = accounts(&field, not_values, namespace)?;
        }
        "destination.ip" => {
            m.destination_ips = ranges(&field, values)?;
            m.not_destination_ips = ranges(&field, not_values)?;
        }
        "destination.port" => {
            m.destination_ports = ports(&field, values)?;
            m.not_destination_ports = ports(&field, not_values)?;
        }
        key => match header_name(key) {
            // The authority has no case, and is compared in lower case.
            Some(name) if name == "host" || name == ":authority" => {
                m.headers.push(HeaderCondition {
                    name: name.into(),
                    values: lower(values),
                    not_values: lower(not_values),
                });
            }
            Some(name) => m.headers.push(HeaderCondition {
                name: name.into(),
                values: texts(values),
                not_values: texts(not_values),
            }),
            None => unsupported.push(format!("when.key {key}")),
        },
    }
    Ok(m)
}

/// `request.headers[name]`, in lower case; `None` for a name that no request can carry. Of HTTP/2's
/// pseudo headers those count that a request has on either version.
fn header_name(key: &str) -> Option<String> {
    let name = key.strip_prefix("request.headers[")?.strip_suffix(']')?;
    let name = name.to_ascii_lowercase();
    // RFC 9110 section 5.6.2, token.
    let is_token = !name.is_empty()
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b));
    (is_token || [":authority", ":method", ":path"].contains(&name.as_str())).then_some(name)
}

/// The rule as far as L4 can check it. `None`: the rule is left out.
///
/// ALLOW leaves out a rule it cannot check in full (it lets through less); DENY checks the rest (it
/// denies more, or, when nothing of a clause is left, nothing).
pub(super) fn l4(rule: &PolicyRule, action: Action, unsupported: bool) -> Option<PolicyRule> {
    if action == Action::Allow {
        return (!has_http(rule) && !unsupported).then(|| rule.clone());
    }
    let strip = |m: &PolicyMatch| PolicyMatch {
        hosts: Vec::new(),
        not_hosts: Vec::new(),
        methods: Vec::new(),
        not_methods: Vec::new(),
        paths: Vec::new(),
        not_paths: Vec::new(),
        headers: Vec::new(),
        ..m.clone()
    };
    let clause = |c: &PolicyClause| PolicyClause {
        matches: c.matches.iter().map(strip).collect(),
    };
    Some(PolicyRule {
        clauses: rule.clauses.iter().map(clause).collect(),
    })
}

/// Whether a rule has conditions on HTTP.
pub(super) fn has_http(rule: &PolicyRule) -> bool {
    rule.clauses
        .iter()
        .flat_map(|c| &c.matches)
        .any(match_has_http)
}

fn match_has_http(m: &PolicyMatch) -> bool {
    let http = PolicyMatch {
        hosts: m.hosts.clone(),
        not_hosts: m.not_hosts.clone(),
        methods: m.methods.clone(),
        not_methods: m.not_methods.clone(),
        paths: m.paths.clone(),
        not_paths: m.not_paths.clone(),
        headers: m.headers.clone(),
        ..PolicyMatch::default()
    };
    http != PolicyMatch::default()
}

/// The rule as an enforcement point that sees HTTP is to check it. `None`: left out.
///
/// A condition nobody can check makes an ALLOW rule void, and is passed over in a DENY rule, which
/// then denies more. A match of which nothing else is left becomes one that always holds.
pub(super) fn full(mut rule: PolicyRule, action: Action, unsupported: bool) -> Option<PolicyRule> {
    if !unsupported {
        return Some(rule);
    }
    if action == Action::Allow {
        return None;
    }
    let nothing = PolicyMatch::default();
    rule.clauses.retain(|c| !c.matches.contains(&nothing));
    Some(rule)
}

fn texts(list: &[String]) -> Vec<StringMatch> {
    list.iter().map(|t| StringMatch::from_pattern(t)).collect()
}

fn lower(list: &[String]) -> Vec<StringMatch> {
    let one = |t: &String| StringMatch::from_pattern(&t.to_ascii_lowercase());
    list.iter().map(one).collect()
}

fn ranges(field: &str, list: &[String]) -> Result<Vec<Cidr>, String> {
    let one = |t: &String| t.parse().map_err(|e| format!("{field}: {e}"));
    list.iter().map(one).collect()
}

fn ports(field: &str, list: &[String]) -> Result<Vec<u16>, String> {
    let one = |t: &String| match t.parse() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(format!("{field}: '{t}' is not a port")),
    };
    list.iter().map(one).collect()
}

/// `sa` in the policy's namespace, or `namespace/sa`.
fn accounts(
    field: &str,
    list: &[String],
    namespace: &str,
) -> Result<Vec<ServiceAccountMatch>, String> {
    let one = |t: &String| {
        let (namespace, name) = t.split_once('/').unwrap_or((namespace, t));
        if namespace.is_empty() || name.is_empty() || name.contains('/') || t.contains('*') {
            return Err(format!("{field}: '{t}' is neither name nor namespace/name"));
        }
        Ok(ServiceAccountMatch {
            namespace: namespace.into(),
            name: name.into(),
        })
    };
    list.iter().map(one).collect()
}
