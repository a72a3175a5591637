//! `istio.security.Authorization`: L4 policies.
//!
//! Entries that ztunnel would silently drop (an address of the wrong length, a text condition
//! without a variant) are refused: dropping one may widen what the policy lets through. A lenient
//! context drops them as it does.

use super::DecodeError;
use super::context::{Context, bytes_of};
use mesh_model::{
    Action, AuthorizationPolicy, Cidr, ObjectName, PolicyClause, PolicyMatch, PolicyRule,
    PolicyScope, ServiceAccountMatch, StringMatch,
};
use mesh_proto::security as wire;
use prost::Message;

/// Extension of a DENY of which HTTP conditions were left out. Istio's ztunnel ignores extensions.
const HTTP_DROPPED: &str = "strata.http-conditions-dropped";

/// The L4 fields go on the wire; a projection holds no others.
pub(super) fn encode(p: &AuthorizationPolicy) -> wire::Authorization {
    let rules = |clause: &PolicyClause| wire::Rules {
        matches: clause.matches.iter().map(match_of).collect(),
    };
    let group = |rule: &PolicyRule| wire::Group {
        rules: rule.clauses.iter().map(rules).collect(),
    };
    wire::Authorization {
        name: p.name.name.to_string(),
        namespace: p.name.namespace.to_string(),
        scope: match p.scope {
            PolicyScope::Global => wire::Scope::Global,
            PolicyScope::Namespace => wire::Scope::Namespace,
            // Policies with targets have no L4 projection; should one get here, the narrowest
            // scope applies it to nothing that does not ask for it.
            PolicyScope::WorkloadSelector | PolicyScope::Targets => wire::Scope::WorkloadSelector,
        }
        .into(),
        action: match p.action {
            Action::Allow => wire::Action::Allow,
            Action::Deny => wire::Action::Deny,
        }
        .into(),
        groups: p.rules.iter().map(group).collect(),
        dry_run: p.dry_run,
        extensions: p.http_dropped.then(http_dropped).into_iter().collect(),
    }
}

fn http_dropped() -> wire::Extension {
    wire::Extension {
        name: HTTP_DROPPED.into(),
        config: None,
    }
}

fn match_of(m: &PolicyMatch) -> wire::Match {
    let texts = |list: &[StringMatch]| list.iter().map(text_of).collect();
    let ranges = |list: &[Cidr]| list.iter().map(range_of).collect();
    let ports = |list: &[u16]| list.iter().map(|p| u32::from(*p)).collect();
    let accounts = |list: &[ServiceAccountMatch]| list.iter().map(account_of).collect();
    wire::Match {
        namespaces: texts(&m.namespaces),
        not_namespaces: texts(&m.not_namespaces),
        principals: texts(&m.principals),
        not_principals: texts(&m.not_principals),
        source_ips: ranges(&m.source_ips),
        not_source_ips: ranges(&m.not_source_ips),
        destination_ips: ranges(&m.destination_ips),
        not_destination_ips: ranges(&m.not_destination_ips),
        destination_ports: ports(&m.destination_ports),
        not_destination_ports: ports(&m.not_destination_ports),
        service_accounts: accounts(&m.service_accounts),
        not_service_accounts: accounts(&m.not_service_accounts),
        extensions: Vec::new(),
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

fn range_of(c: &Cidr) -> wire::Address {
    wire::Address {
        address: bytes_of(c.address()),
        length: c.prefix_length().into(),
    }
}

fn account_of(a: &ServiceAccountMatch) -> wire::ServiceAccountMatch {
    wire::ServiceAccountMatch {
        namespace: a.namespace.to_string(),
        service_account: a.name.to_string(),
    }
}

fn scope(number: i32) -> Option<PolicyScope> {
    Some(match wire::Scope::try_from(number).ok()? {
        wire::Scope::Global => PolicyScope::Global,
        wire::Scope::Namespace => PolicyScope::Namespace,
        wire::Scope::WorkloadSelector => PolicyScope::WorkloadSelector,
    })
}

/// The scope of a policy of which the rest may be unreadable, and whether it is in dry run.
pub(super) fn reach_of(value: &[u8]) -> (Option<PolicyScope>, bool) {
    match wire::Authorization::decode(value) {
        Ok(policy) => (scope(policy.scope), policy.dry_run),
        Err(_) => (None, false),
    }
}

pub(super) fn decode(
    cx: &Context<'_>,
    p: &wire::Authorization,
) -> Result<AuthorizationPolicy, DecodeError> {
    let unknown = |field, number| cx.bad(field, format!("unknown enum value {number}"));
    let groups = p.groups.iter().enumerate();
    Ok(AuthorizationPolicy {
        name: ObjectName::new(
            cx.key_part("namespace", &p.namespace)?,
            cx.key_part("name", &p.name)?,
        ),
        scope: scope(p.scope).ok_or_else(|| unknown("scope", p.scope))?,
        action: match cx.known("action", p.action)? {
            wire::Action::Allow => Action::Allow,
            wire::Action::Deny => Action::Deny,
        },
        rules: groups
            .map(|(i, g)| rule(cx, i, g))
            .collect::<Result<_, _>>()?,
        dry_run: p.dry_run,
        targets: Vec::new(),
        invalid: None,
        http_dropped: p.extensions.iter().any(|e| e.name == HTTP_DROPPED),
    })
}

fn rule(cx: &Context<'_>, i: usize, group: &wire::Group) -> Result<PolicyRule, DecodeError> {
    let clause = |(j, rules): (usize, &wire::Rules)| {
        let field = format!("groups[{i}].rules[{j}]");
        let matches = rules.matches.iter().map(|m| match_in(cx, &field, m));
        Ok(PolicyClause {
            matches: matches.collect::<Result<_, _>>()?,
        })
    };
    let clauses = group.rules.iter().enumerate().map(clause);
    Ok(PolicyRule {
        clauses: clauses.collect::<Result<_, _>>()?,
    })
}

fn match_in(cx: &Context<'_>, field: &str, m: &wire::Match) -> Result<PolicyMatch, DecodeError> {
    let texts = |name: &str, list: &[wire::StringMatch]| {
        let one = |m| text_in(m).ok_or_else(|| cx.bad(format_args!("{field}.{name}"), "empty"));
        entries(cx, list.iter().map(one))
    };
    let ranges = |name: &str, list: &[wire::Address]| {
        let one = |a| range_in(cx, &format!("{field}.{name}"), a);
        entries(cx, list.iter().map(one))
    };
    let ports = |name: &str, list: &[u32]| {
        let one = |p: &u32| cx.port(format_args!("{field}.{name}"), *p);
        entries(cx, list.iter().map(one))
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
        ..PolicyMatch::default()
    })
}

/// The entries of a list; the bad ones are refused or, in a lenient context, left out.
fn entries<T>(
    cx: &Context<'_>,
    list: impl Iterator<Item = Result<T, DecodeError>>,
) -> Result<Vec<T>, DecodeError> {
    if cx.is_lenient() {
        return Ok(list.filter_map(Result::ok).collect());
    }
    list.collect()
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

fn range_in(cx: &Context<'_>, field: &str, a: &wire::Address) -> Result<Cidr, DecodeError> {
    let address = cx.ip(field, &a.address)?;
    let length = u8::try_from(a.length).map_err(|e| cx.bad(field, e))?;
    Cidr::new(address, length).map_err(|e| cx.bad(field, e))
}

fn account_in(a: &wire::ServiceAccountMatch) -> ServiceAccountMatch {
    ServiceAccountMatch {
        namespace: a.namespace.as_str().into(),
        name: a.service_account.as_str().into(),
    }
}
