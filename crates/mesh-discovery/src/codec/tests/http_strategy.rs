//! Any route or listener.

use super::mesh_strategy::{object, service_name, text};
use mesh_model::{
    Backend, GatewayListener, Header, HeaderModifier, HttpFilter, HttpMatch, HttpRouteRule,
    ListenerKey, ListenerProtocol, ParentRef, PathMatch, PathModifier, Redirect, Regex,
    RouteRuleName, RouteTimeouts, TcpRouteRule, TlsCertificatePem, UrlRewrite, ValueMatch,
    ValueMatcher, WeightedBackend,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use std::time::Duration;

pub(super) fn parent() -> impl Strategy<Value = ParentRef> {
    let port = || option::of(1..u16::MAX);
    prop_oneof![
        (object(), option::of(text()), port()).prop_map(|(name, section, port)| {
            ParentRef::Gateway {
                name,
                section,
                port,
            }
        }),
        (service_name(), port()).prop_map(|(name, port)| ParentRef::Service { name, port })
    ]
}

pub(super) fn value_match() -> impl Strategy<Value = ValueMatch> {
    let value = prop_oneof![
        text().prop_map(ValueMatcher::Exact),
        text().prop_map(|t| ValueMatcher::Regex(Regex::new(&t).unwrap()))
    ];
    (text(), value).prop_map(|(name, value)| ValueMatch { name, value })
}

pub(super) fn http_match() -> impl Strategy<Value = HttpMatch> {
    let path = prop_oneof![
        text().prop_map(PathMatch::Exact),
        text().prop_map(PathMatch::Prefix),
        text().prop_map(|t| PathMatch::Regex(Regex::new(&t).unwrap()))
    ];
    (
        option::of(path),
        vec(value_match(), 0..2),
        vec(value_match(), 0..2),
        option::of(text()),
    )
        .prop_map(|(path, headers, query, method)| HttpMatch {
            path,
            headers,
            query,
            method,
        })
}

pub(super) fn filter() -> impl Strategy<Value = HttpFilter> {
    let header = || (text(), text()).prop_map(|(name, value)| Header { name, value });
    let modifier = move || {
        (vec(header(), 0..2), vec(header(), 0..2), vec(text(), 0..2))
            .prop_map(|(set, add, remove)| HeaderModifier { set, add, remove })
    };
    let path = || {
        option::of(prop_oneof![
            text().prop_map(PathModifier::ReplaceFull),
            text().prop_map(PathModifier::ReplacePrefix)
        ])
    };
    let redirect = (
        option::of(text()),
        option::of(text()),
        path(),
        option::of(1..u16::MAX),
        select(vec![301, 302, 303, 307, 308]),
    )
        .prop_map(|(scheme, hostname, path, port, status)| {
            HttpFilter::Redirect(Redirect {
                scheme,
                hostname,
                path,
                port,
                status,
            })
        });
    let rewrite = (option::of(text()), path())
        .prop_map(|(hostname, path)| HttpFilter::Rewrite(UrlRewrite { hostname, path }));
    prop_oneof![
        modifier().prop_map(HttpFilter::RequestHeaders),
        modifier().prop_map(HttpFilter::ResponseHeaders),
        redirect,
        rewrite
    ]
}

pub(super) fn backend() -> impl Strategy<Value = WeightedBackend> {
    let backend = prop_oneof![
        (service_name(), any::<u16>()).prop_map(|(name, port)| Backend::Service { name, port }),
        text().prop_map(|why| Backend::Invalid { why })
    ];
    (backend, any::<u32>(), vec(filter(), 0..2)).prop_map(|(backend, weight, filters)| {
        WeightedBackend {
            backend,
            weight,
            filters,
        }
    })
}

pub(super) fn rule_name() -> impl Strategy<Value = RouteRuleName> {
    (object(), any::<u16>()).prop_map(|(route, rule)| RouteRuleName { route, rule })
}

pub(super) fn http_rule() -> impl Strategy<Value = HttpRouteRule> {
    let duration = || option::of((0..9_000_000_000u64).prop_map(Duration::from_micros));
    (
        (rule_name(), any::<i64>(), vec(parent(), 0..3)),
        (vec(text(), 0..2), vec(http_match(), 0..3)),
        (vec(filter(), 0..3), vec(backend(), 0..3)),
        (duration(), duration()),
    )
        .prop_map(
            |(head, (hosts, matches), (filters, backends), timeouts)| HttpRouteRule {
                name: head.0,
                created_unix_s: head.1,
                parents: head.2,
                // A host name's label may not end in what `text` may.
                hostnames: hosts.iter().map(|h| h.parse().unwrap()).collect(),
                matches,
                filters,
                backends,
                timeouts: RouteTimeouts {
                    request: timeouts.0,
                    backend_request: timeouts.1,
                },
            },
        )
}

pub(super) fn tcp_rule() -> impl Strategy<Value = TcpRouteRule> {
    (
        rule_name(),
        any::<i64>(),
        vec(parent(), 0..3),
        vec(backend(), 0..3),
    )
        .prop_map(|(name, created_unix_s, parents, backends)| TcpRouteRule {
            name,
            created_unix_s,
            parents,
            backends,
        })
}

pub(super) fn listener() -> impl Strategy<Value = GatewayListener> {
    let protocols = vec![
        ListenerProtocol::Http,
        ListenerProtocol::Https,
        ListenerProtocol::Tcp,
        ListenerProtocol::TlsPassthrough,
    ];
    let certificate =
        (text(), text()).prop_map(|(chain_pem, key_pem)| TlsCertificatePem { chain_pem, key_pem });
    (
        object(),
        text(),
        1..u16::MAX,
        select(protocols),
        option::of(text()),
        vec(certificate, 0..2),
    )
        .prop_map(
            |(gateway, name, port, protocol, host, certificates)| GatewayListener {
                key: ListenerKey { gateway, name },
                port,
                protocol,
                hostname: host.map(|h| h.parse().unwrap()),
                certificates,
            },
        )
}
