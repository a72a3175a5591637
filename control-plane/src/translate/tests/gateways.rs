//! Gateways, routes, references and certificates.

use super::*;
use mesh_model::{
    Backend, HttpFilter, ListenerProtocol, ParentRef, PathMatch, PathModifier, ServiceName,
};
use std::time::Duration;

const GATEWAY: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: demo}
spec:
  gatewayClassName: strata
  listeners:
  - {name: http, port: 8080, protocol: HTTP, hostname: \"*.demo.example\"}
  - {name: open, port: 8081, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}
  - {name: db, port: 5432, protocol: TCP}
";

fn route(namespace: &str, spec: &str) -> String {
    format!(
        "
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: r, namespace: {namespace}}}
spec: {spec}
"
    )
}

fn sections(rule: &HttpRouteRule) -> Vec<String> {
    let section = |p: &ParentRef| match p {
        ParentRef::Gateway { section, .. } => section.as_deref().unwrap_or("*").to_owned(),
        ParentRef::Service { name, port } => format!("{name}:{port:?}"),
    };
    rule.parents.iter().map(section).collect()
}

#[test]
fn listeners_of_each_protocol_and_their_conflicts() {
    let text = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: demo}
spec:
  gatewayClassName: strata
  listeners:
  - {name: a, port: 80, protocol: HTTP}
  - {name: b, port: 80, protocol: HTTP, hostname: x.example}
  - {name: same, port: 80, protocol: HTTP, hostname: x.example}
  - {name: other, port: 80, protocol: TCP}
  - {name: udp, port: 53, protocol: UDP}
  - {name: tls, port: 443, protocol: TLS, tls: {mode: Passthrough}, hostname: y.example}
  - {name: zero, port: 0, protocol: HTTP}
  - {name: tls/x, port: 81, protocol: HTTP}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: foreign, namespace: demo}
spec: {gatewayClassName: istio, listeners: [{name: a, port: 80, protocol: HTTP}]}
";
    let made = translated(&[text]);
    let listeners: Vec<_> = made.resources.keys().map(|k| k.name.to_string()).collect();
    assert_eq!(listeners, ["demo/edge/a", "demo/edge/b", "demo/edge/tls"]);
    let about = |listener: &str| {
        let status = made
            .status
            .iter()
            .find(|s| s.object.to_string() == "Gateway demo/edge")
            .unwrap();
        let of = status
            .conditions
            .iter()
            .find(|c| c.about.as_deref() == Some(listener))
            .unwrap();
        of.reason
    };
    assert_eq!(about("same"), "ProtocolConflict");
    assert_eq!(about("other"), "ProtocolConflict");
    assert_eq!(about("udp"), "UnsupportedProtocol");
    assert_eq!(about("zero"), "UnsupportedValue");
    assert_eq!(about("a"), "Programmed");
}

#[test]
fn only_the_gateways_own_pods_may_have_its_listeners() {
    let made = translated(&[
        GATEWAY,
        &pod(
            "gw",
            "10.0.0.1",
            "{gateway.networking.k8s.io/gateway-name: edge}",
            "{}",
        ),
        &pod("other", "10.0.0.2", "{}", "{}"),
    ]);
    let accounts = &made.gateway_accounts[&name("demo/edge")];
    assert_eq!(accounts.len(), 1);
    assert!(accounts.contains(&("demo".into(), "gw-account".into())));
}

/// A Secret with a certificate of one key, beside another or the same.
fn tls_secret(namespace: &str, key: &rcgen::KeyPair, shown: &rcgen::KeyPair) -> String {
    let certificate = rcgen::CertificateParams::new(vec!["x.example".into()])
        .unwrap()
        .self_signed(key)
        .unwrap();
    let indent = |pem: String| pem.trim().replace('\n', "\n    ");
    format!(
        "
---
apiVersion: v1
kind: Secret
type: kubernetes.io/tls
metadata: {{name: cert, namespace: {namespace}}}
stringData:
  tls.crt: |
    {}
  tls.key: |
    {}
",
        indent(certificate.pem()),
        indent(shown.serialize_pem())
    )
}

#[test]
fn https_needs_a_certificate_that_is_there_and_granted() {
    let gateway = |reference: &str| {
        format!(
            "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: edge, namespace: demo}}
spec:
  gatewayClassName: strata
  listeners:
  - {{name: https, port: 443, protocol: HTTPS, tls: {{certificateRefs: [{reference}]}}}}
"
        )
    };
    let key = rcgen::KeyPair::generate().unwrap();
    let secret = |namespace: &str, shown: &rcgen::KeyPair| tls_secret(namespace, &key, shown);
    let grant = "
---
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: g, namespace: certs}
spec:
  from: [{group: gateway.networking.k8s.io, kind: Gateway, namespace: demo}]
  to: [{group: \"\", kind: Secret, name: cert}]
";
    let reason = |texts: &[&str]| translated(texts).reason("Gateway demo/edge", "ResolvedRefs");
    let own = secret("demo", &key);
    let made = translated(&[&gateway("{name: cert}"), &own]);
    let Some(Resource::Listener(l)) = made.get(ResourceKind::Listener, "demo/edge/https") else {
        panic!("no listener: {:?}", made.status);
    };
    assert_eq!(
        (l.protocol, l.certificates.len()),
        (ListenerProtocol::Https, 1)
    );
    assert_eq!(reason(&[&gateway("{name: cert}")]), "InvalidCertificateRef");
    let stranger = rcgen::KeyPair::generate().unwrap();
    assert_eq!(
        reason(&[&gateway("{name: cert}"), &secret("demo", &stranger)]),
        "InvalidCertificateRef"
    );
    let far = secret("certs", &key);
    assert_eq!(
        reason(&[&gateway("{name: cert, namespace: certs}"), &far]),
        "RefNotPermitted"
    );
    assert_eq!(
        reason(&[&gateway("{name: cert, namespace: certs}"), &far, grant]),
        "none"
    );
    assert!(!format!("{:?}", made.resources).contains("PRIVATE KEY"));
}

#[test]
fn a_route_hangs_on_the_listeners_that_take_it() {
    let shop = service("shop", "10.96.0.1", "");
    let made = |text: &str| translated(&[GATEWAY, &shop, text]);
    let parents = |text: &str| {
        made(text)
            .http_rule(&format!(
                "{}/0",
                if text.contains("namespace: far") {
                    "far/r"
                } else {
                    "demo/r"
                }
            ))
            .map(sections)
    };
    let backends = "rules: [{backendRefs: [{name: shop, port: 80}]}]";
    let all = route(
        "demo",
        &format!("{{parentRefs: [{{name: edge}}], {backends}}}"),
    );
    assert_eq!(parents(&all).unwrap(), ["http", "open"], "not the TCP one");
    let one = route(
        "demo",
        &format!("{{parentRefs: [{{name: edge, sectionName: open}}], {backends}}}"),
    );
    assert_eq!(parents(&one).unwrap(), ["open"]);
    let port = route(
        "demo",
        &format!("{{parentRefs: [{{name: edge, port: 8080}}], {backends}}}"),
    );
    assert_eq!(parents(&port).unwrap(), ["http"]);
    let host = route(
        "demo",
        &format!(
            "{{parentRefs: [{{name: edge, sectionName: http}}], hostnames: [shop.other.example], {backends}}}"
        ),
    );
    assert_eq!(parents(&host), None);
    assert_eq!(
        made(&host).reason("HTTPRoute demo/r", "Accepted"),
        "NoMatchingListenerHostname"
    );
    let far = route(
        "far",
        "{parentRefs: [{name: edge, namespace: demo}], rules: [{}]}",
    );
    assert_eq!(
        parents(&far).unwrap(),
        ["open"],
        "the only one open to other namespaces"
    );
    let missing = route("demo", "{parentRefs: [{name: none}], rules: [{}]}");
    assert_eq!(
        made(&missing).reason("HTTPRoute demo/r", "Accepted"),
        "NoMatchingParent"
    );
    let db = route(
        "demo",
        "{parentRefs: [{name: edge, sectionName: db}], rules: [{}]}",
    );
    assert_eq!(
        made(&db).reason("HTTPRoute demo/r", "Accepted"),
        "NotAllowedByListeners"
    );
}

#[test]
fn a_route_hangs_on_a_service_of_its_namespace() {
    let shop = service("shop", "10.96.0.1", "");
    let spec = |port: &str| {
        format!(
            "{{parentRefs: [{{kind: Service, group: \"\", name: shop, namespace: demo{port}}}], rules: [{{backendRefs: [{{name: shop, port: 80}}]}}]}}"
        )
    };
    let made = translated(&[&shop, &route("demo", &spec(", port: 80"))]);
    let parents = sections(made.http_rule("demo/r/0").unwrap());
    assert_eq!(parents, ["demo/shop.demo.svc.cluster.local:Some(80)"]);
    let made = translated(&[&shop, &route("demo", &spec(", port: 99"))]);
    assert_eq!(
        made.reason("HTTPRoute demo/r", "Accepted"),
        "NoMatchingParent"
    );
    let made = translated(&[&shop, &route("far", &spec(""))]);
    assert_eq!(
        made.reason("HTTPRoute far/r", "Accepted"),
        "UnsupportedValue"
    );
}

#[test]
fn a_backend_that_is_not_there_answers_with_an_error_and_says_so() {
    let shop = service("shop", "10.96.0.1", "");
    let spec = |backend: &str| {
        format!(
            "{{parentRefs: [{{name: edge, sectionName: http}}], rules: [{{backendRefs: [{backend}]}}]}}"
        )
    };
    let made = |backend: &str, more: &[&str]| {
        let text = route("demo", &spec(backend));
        let mut texts = vec![GATEWAY, &shop, &text];
        texts.extend(more);
        translated(&texts)
    };
    let backend = |t: &Translation| t.http_rule("demo/r/0").unwrap().backends[0].backend.clone();
    for (reference, reason) in [
        ("{name: none, port: 80}", "BackendNotFound"),
        ("{name: shop, port: 99}", "BackendNotFound"),
        ("{name: shop}", "BackendNotFound"),
        ("{name: shop, kind: Pod, port: 80}", "InvalidKind"),
        ("{name: shop, namespace: far, port: 80}", "RefNotPermitted"),
    ] {
        let t = made(reference, &[]);
        assert!(
            matches!(backend(&t), Backend::Invalid { .. }),
            "{reference}"
        );
        assert_eq!(
            t.reason("HTTPRoute demo/r", "ResolvedRefs"),
            reason,
            "{reference}"
        );
    }
    let far = service("shop", "10.96.0.2", "").replace("namespace: demo", "namespace: far");
    let grant = "
---
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: g, namespace: far}
spec:
  from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: demo}]
  to: [{group: \"\", kind: Service}]
";
    let t = made(
        "{name: shop, namespace: far, port: 80, weight: 3}",
        &[&far, grant],
    );
    let name = ServiceName::new("far", "shop.far.svc.cluster.local");
    assert_eq!(backend(&t), Backend::Service { name, port: 80 });
    assert_eq!(t.http_rule("demo/r/0").unwrap().backends[0].weight, 3);
}

#[test]
fn matches_filters_and_timeouts() {
    let shop = service("shop", "10.96.0.1", "");
    let text = route("demo", "
  parentRefs: [{name: edge, sectionName: http}]
  hostnames: [shop.demo.example]
  rules:
  - matches:
    - path: {type: Exact, value: /a}
      method: GET
      headers: [{name: X-Team, value: a}, {name: y, type: RegularExpression, value: \"v[0-9]+\"}]
      queryParams: [{name: Q, value: \"1\"}]
    - path: {type: RegularExpression, value: \"/b/.*\"}
    - {}
    filters:
    - type: RequestHeaderModifier
      requestHeaderModifier: {set: [{name: X-A, value: \"1\"}], add: [{name: X-B, value: \"2\"}], remove: [X-C]}
    - type: URLRewrite
      urlRewrite: {hostname: inner, path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}
    backendRefs:
    - name: shop
      port: 80
      filters:
      - {type: ResponseHeaderModifier, responseHeaderModifier: {remove: [Server]}}
    timeouts: {request: 1s500ms, backendRequest: 0s}
  - filters:
    - {type: RequestRedirect, requestRedirect: {scheme: https, statusCode: 301, port: 8443}}
");
    let made = translated(&[GATEWAY, &shop, &text]);
    let rule = made
        .http_rule("demo/r/0")
        .unwrap_or_else(|| panic!("{:?}", made.status));
    assert_eq!(rule.hostnames.len(), 1);
    let first = &rule.matches[0];
    assert_eq!(first.path, Some(PathMatch::Exact("/a".into())));
    assert_eq!(first.method.as_deref(), Some("GET"));
    assert_eq!(
        (&*first.headers[0].name, &*first.query[0].name),
        ("x-team", "Q")
    );
    assert!(matches!(rule.matches[1].path, Some(PathMatch::Regex(_))));
    assert_eq!(rule.matches[2].path, None);
    let HttpFilter::RequestHeaders(m) = &rule.filters[0] else {
        panic!("{:?}", rule.filters);
    };
    assert_eq!(
        (&*m.set[0].name, &*m.add[0].value, &*m.remove[0]),
        ("x-a", "2", "x-c")
    );
    let HttpFilter::Rewrite(rewrite) = &rule.filters[1] else {
        panic!("{:?}", rule.filters);
    };
    assert_eq!(rewrite.path, Some(PathModifier::ReplacePrefix("/".into())));
    assert!(matches!(
        rule.backends[0].filters[0],
        HttpFilter::ResponseHeaders(_)
    ));
    assert_eq!(rule.timeouts.request, Some(Duration::from_millis(1500)));
    assert_eq!(rule.timeouts.backend_request, None);
    let HttpFilter::Redirect(redirect) = &made.http_rule("demo/r/1").unwrap().filters[0] else {
        panic!("no redirect");
    };
    assert_eq!(
        (redirect.status, redirect.port, redirect.scheme.as_deref()),
        (301, Some(8443), Some("https"))
    );
}

#[test]
fn what_cannot_be_carried_out_is_not_passed_over_in_silence() {
    let shop = service("shop", "10.96.0.1", "");
    let made = |rule: &str| {
        let text = route(
            "demo",
            &format!("{{parentRefs: [{{name: edge, sectionName: http}}], rules: [{rule}]}}"),
        );
        translated(&[GATEWAY, &shop, &text])
    };
    let t = made(
        "{filters: [{type: RequestMirror, requestMirror: {backendRef: {name: shop, port: 80}}}], backendRefs: [{name: shop, port: 80}]}",
    );
    assert_eq!(t.reason("HTTPRoute demo/r", "Accepted"), "UnsupportedValue");
    let backends = &t.http_rule("demo/r/0").unwrap().backends;
    assert!(backends.len() == 1 && matches!(backends[0].backend, Backend::Invalid { .. }));
    let t = made(
        "{matches: [{path: {type: RegularExpression, value: \"(\"}}], backendRefs: [{name: shop, port: 80}]}",
    );
    assert!(t.http_rule("demo/r/0").is_none());
    assert_eq!(t.reason("HTTPRoute demo/r", "Accepted"), "UnsupportedValue");
    let t = made("{timeouts: {request: soon}}");
    assert_eq!(t.reason("HTTPRoute demo/r", "Accepted"), "UnsupportedValue");
    for hostname in ["", "a/b", "*.a"] {
        let t = made(&format!(
            "{{filters: [{{type: RequestRedirect, requestRedirect: {{hostname: \"{hostname}\"}}}}]}}"
        ));
        let reason = t.reason("HTTPRoute demo/r", "Accepted");
        assert_eq!(reason, "UnsupportedValue", "'{hostname}'");
    }
}

#[test]
fn tcp_routes() {
    let text = "
---
apiVersion: gateway.networking.k8s.io/v1alpha2
kind: TCPRoute
metadata: {name: db, namespace: demo}
spec:
  parentRefs: [{name: edge, sectionName: db}]
  rules: [{backendRefs: [{name: shop, port: 81, weight: 9}, {name: gone, port: 1}]}]
";
    let made = translated(&[GATEWAY, &service("shop", "10.96.0.1", ""), text]);
    let Some(Resource::TcpRoute(rule)) = made.get(ResourceKind::TcpRoute, "demo/db/0") else {
        panic!("{:?}", made.status);
    };
    assert_eq!(rule.backends[0].weight, 9);
    assert!(matches!(rule.backends[1].backend, Backend::Invalid { .. }));
    assert_eq!(
        made.reason("TCPRoute demo/db", "ResolvedRefs"),
        "BackendNotFound"
    );
}
