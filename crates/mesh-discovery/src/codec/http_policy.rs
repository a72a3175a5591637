//! `strata.config.v1.HttpPolicy`: policies in full fidelity.

use super::DecodeError;
use super::context::Context;
use mesh_model::{
    Action, AuthorizationPolicy, Cidr, HeaderCondition, ObjectName, PolicyClause, PolicyMatch,
    PolicyRule, PolicyScope, PolicyTarget, ServiceAccountMatch, StringMatch,
};
use mesh_proto::config as wire;
use prost::Message;
use wire::http_policy::{Action as WireAction, Scope as WireScope};

pub(super) fn encode(p: &AuthorizationPolicy) -> wire::HttpPolicy {
    let clause = |clause: &PolicyClause| wire::PolicyClause {
        matches: clause.matches.iter().map(match_of).collect(),
    };
    let rule = |rule: &PolicyRule| wire::PolicyRule {
        clauses: rule.clauses.iter().map(clause).collect(),
    };
    let target = |t: &PolicyTarget| wire::PolicyTarget {
        kind: t.kind.to_string(),
        namespace: t.namespace.to_string(),
        name: t.name.to_string(),
    };
    wire::HttpPolicy {
        namespace: p.name.namespace.to_string(),
        name: p.name.name.to_string(),
        scope: match p.scope {
            PolicyScope::Global => WireScope::Global,
            PolicyScope::Namespace => WireScope::Namespace,
            PolicyScope::WorkloadSelector => WireScope::WorkloadSelector,
            PolicyScope::Targets => WireScope::Targets,
        }
        .into(),
        action: match p.action {
            Action::Allow => WireAction::Allow,
            Action::Deny => WireAction::Deny,
        }
        .into(),
        rules: p.rules.iter().map(rule).collect(),
        dry_run: p.dry_run,
        targets: p.targets.iter().map(target).collect(),
    }
}

fn match_of(m: &PolicyMatch) -> wire::PolicyMatch {
    let texts = |list: &[StringMatch]| list.iter().map(text_of).collect();
    let ranges = |list: &[Cidr]| list.iter().map(ToString::to_string).collect();
    let ports = |list: &[u16]| list.iter().map(|p| u32::from(*p)).collect();
    let accounts = |list: &[ServiceAccountMatch]| list.iter().map(account_of).collect();
    wire::PolicyMatch {
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
        destination_ports: ports(&m.destination_ports),
        not_destination_ports: ports(&m.not_destination_ports),
        hosts: texts(&m.hosts),
        not_hosts: texts(&m.not_hosts),
        methods: texts(&m.methods),
        not_methods: texts(&m.not_methods),
        paths: texts(&m.paths),
        not_paths: texts(&m.not_paths),
        headers: m
            .headers
            .iter()
            .map(|h| wire::HeaderCondition {
                name: h.name.to_string(),
                values: texts(&h.values),
                not_values: texts(&h.not_values),
            })
            .collect(),
    }
}

fn text_of(m: &StringMatch) -> wire::StringMatch {
    use wire::string_match::MatchType;
    wire::StringMatch {
        match_type: Some(match m {
            StringMatch::Exact(t) => MatchType::Exact(t.to_string()),
            StringMatch::Prefix(t) => MatchType::Prefix(t.to_string()),
            StringMatch::Suffix(t) => MatchType::Suffix(t.to_string()),
            StringMatch::Presence => MatchType::Presence(()),
        }),
    }
}

fn account_of(a: &ServiceAccountMatch) -> wire::ServiceAccount {
    wire::ServiceAccount {
        namespace: a.namespace.to_string(),
        name: a.name.to_string(),
    }
}

fn scope(number: i32) -> Option<PolicyScope> {
    Some(match WireScope::try_from(number).ok()? {
        WireScope::Global => PolicyScope::Global,
        WireScope::Namespace => PolicyScope::Namespace,
        WireScope::WorkloadSelector => PolicyScope::WorkloadSelector,
        WireScope::Targets => PolicyScope::Targets,
    })
}

/// The scope and targets of a policy of which the rest may be unreadable.
pub(super) fn scope_of(value: &[u8]) -> Option<(PolicyScope, Vec<PolicyTarget>)> {
    let policy = wire::HttpPolicy::decode(value).ok()?;
    Some((scope(policy.scope)?, targets(policy.targets)))
}

fn targets(targets: Vec<wire::PolicyTarget>) -> Vec<PolicyTarget> {
    let target = |t: wire::PolicyTarget| PolicyTarget {
        kind: t.kind.into(),
        namespace: t.namespace.into(),
        name: t.name.into(),
    };
    targets.into_iter().map(target).collect()
}

pub(super) fn decode(
    cx: &Context<'_>,
    p: wire::HttpPolicy,
) -> Result<AuthorizationPolicy, DecodeError> {
    let unknown = || cx.bad("scope", format!("unknown enum value {}", p.scope));
    let rules = p.rules.iter().enumerate();
    Ok(AuthorizationPolicy {
        name: ObjectName::new(
            cx.key_part("namespace", &p.namespace)?,
            cx.key_part("name", &p.name)?,
        ),
        scope: scope(p.scope).ok_or_else(unknown)?,
        action: match cx.known("action", p.action)? {
            WireAction::Allow => Action::Allow,
            WireAction::Deny => Action::Deny,
        },
        rules: rules
            .map(|(i, r)| rule(cx, i, r))
            .collect::<Result<_, _>>()?,
        dry_run: p.dry_run,
        targets: targets(p.targets),
        invalid: None,
        http_dropped: false,
    })
}

fn rule(cx: &Context<'_>, i: usize, rule: &wire::PolicyRule) -> Result<PolicyRule, DecodeError> {
    let clause = |(j, clause): (usize, &wire::PolicyClause)| {
        let field = format!("rules[{i}].clauses[{j}]");
        let matches = clause.matches.iter().map(|m| match_in(cx, &field, m));
        Ok(PolicyClause {
            matches: matches.collect::<Result<_, _>>()?,
        })
    };
    let clauses = rule.clauses.iter().enumerate().map(clause);
    Ok(PolicyRule {
        clauses: clauses.collect::<Result<_, _>>()?,
    })
}

fn match_in(
    cx: &Context<'_>,
    field: &str,
    m: &wire::PolicyMatch,
) -> Result<PolicyMatch, DecodeError> {
    let texts = |name: &str, list: &[wire::StringMatch]| {
        let one = |m| text_in(m).ok_or_else(|| cx.bad(format_args!("{field}.{name}"), "empty"));
        list.iter().map(one).collect::<Result<Vec<_>, _>>()
    };
    let ranges = |name: &str, list: &[String]| {
        let one = |t: &String| cx.parse::<Cidr>(format_args!("{field}.{name}"), t);
        list.iter().map(one).collect::<Result<Vec<_>, _>>()
    };
    let ports = |name: &str, list: &[u32]| {
        let one = |p: &u32| cx.port(format_args!("{field}.{name}"), *p);
        list.iter().map(one).collect::<Result<Vec<_>, _>>()
    };
    let header = |h: &wire::HeaderCondition| {
        Ok(HeaderCondition {
            name: cx.required("headers.name", &h.name)?.into(),
            values: texts("headers.values", &h.values)?,
            not_values: texts("headers.not_values", &h.not_values)?,
        })
    };
    Ok(PolicyMatch {
        namespaces: texts("namespaces", &m.namespaces)?,
        not_namespaces: texts("not_namespaces", &m.not_namespaces)?,
        principals: texts("principals", &m.principals)?,
        not_principals: texts("not_principals", &m.not_principals)?,
        service_accounts: m.service_accounts.iter().map(account_in).collect(),
        not_service_accounts: m.not_service_accounts.iter().map(account_in).collect(),
        source_ips: ranges("source_ips", &m.source_ips)?,
        not_source_ips: ranges("not_source_ips", &m.not_source_ips)?,
        destination_ips: ranges("destination_ips", &m.destination_ips)?,
        not_destination_ips: ranges("not_destination_ips", &m.not_destination_ips)?,
        destination_ports: ports("destination_ports", &m.destination_ports)?,
        not_destination_ports: ports("not_destination_ports", &m.not_destination_ports)?,
        hosts: texts("hosts", &m.hosts)?,
        not_hosts: texts("not_hosts", &m.not_hosts)?,
        methods: texts("methods", &m.methods)?,
        not_methods: texts("not_methods", &m.not_methods)?,
        paths: texts("paths", &m.paths)?,
        not_paths: texts("not_paths", &m.not_paths)?,
        headers: m
            .headers
            .iter()
            .map(header)
            .collect::<Result<_, DecodeError>>()?,
    })
}

fn text_in(m: &wire::StringMatch) -> Option<StringMatch> {
    use wire::string_match::MatchType;
    Some(match m.match_type.as_ref()? {
        MatchType::Exact(t) => StringMatch::Exact(t.as_str().into()),
        MatchType::Prefix(t) => StringMatch::Prefix(t.as_str().into()),
        MatchType::Suffix(t) => StringMatch::Suffix(t.as_str().into()),
        MatchType::Presence(()) => StringMatch::Presence,
    })
}

fn account_in(a: &wire::ServiceAccount) -> ServiceAccountMatch {
    ServiceAccountMatch {
        namespace: a.namespace.as_str().into(),
        name: a.name.as_str().into(),
    }
}
