//! The lines of the access log, letter by letter: tools made for Istio's ztunnel parse them
//! (interop/telemetry.md section 4).

use super::*;
use crate::facts::{Reporter, Security, Transport};
use crate::logging::{LogFormat, render};
use mesh_model::{Service, ServiceName, Workload};
use std::sync::Arc;

fn party(name: &str, last: u8, port: u16) -> Party {
    let mut workload = Workload::new(name, "demo", &format!("{name}-7d4b"));
    workload.service_account = name.into();
    let workload = Arc::new(workload);
    Party {
        identity: workload.identity(),
        address: Some(SocketAddr::from(([10, 0, 0, last], port))),
        workload: Some(workload),
    }
}

fn facts() -> ConnectionFacts {
    let mut facts = ConnectionFacts::new(Reporter::Source, Direction::Outbound);
    facts.source = party("shop", 1, 40_000);
    facts.destination = party("reviews", 2, 15008);
    facts.hbone_address = Some("10.0.0.2:8080".into());
    let name = ServiceName::new("demo", "reviews.demo.svc.cluster.local");
    facts.service = Some(Arc::new(Service::new(name, "reviews")));
    facts.security = Security::MutualTls;
    facts.transport = Transport::Hbone;
    facts
}

/// The line of a connection that lasted 12 ms, 7 bytes up and 5 down.
fn line(
    format: LogFormat,
    facts: &ConnectionFacts,
    reason: Reason,
    detail: Option<&str>,
) -> String {
    let counts = ByteCounts::default();
    counts.add_sent(5);
    counts.add_received(7);
    let end = ConnectionEnd {
        facts,
        counts: &counts,
        id: 3,
        age: Duration::from_millis(12),
        reason,
        detail,
        early: false,
    };
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_225_599);
    let line = connection_line(&end);
    render(
        format,
        at,
        level(reason),
        TARGET,
        "connection complete",
        &line,
    )
}

#[test]
fn a_plain_line_is_tab_separated_with_its_fields_in_order() {
    let want = concat!(
        "2025-12-31T23:59:59.000000Z\tinfo\taccess\tconnection complete\t",
        r#"src.addr=10.0.0.1:40000 src.workload="shop-7d4b" src.namespace="demo" "#,
        r#"src.identity="spiffe://cluster.local/ns/demo/sa/shop" src.cluster="Kubernetes" "#,
        r#"dst.addr=10.0.0.2:15008 dst.hbone_addr=10.0.0.2:8080 "#,
        r#"dst.service="reviews.demo.svc.cluster.local" dst.workload="reviews-7d4b" "#,
        r#"dst.namespace="demo" dst.identity="spiffe://cluster.local/ns/demo/sa/reviews" "#,
        r#"dst.cluster="Kubernetes" direction="outbound" bytes_sent=7 bytes_recv=5 "#,
        r#"duration="12ms" reason="ok" response_flags="-" reporter="source" connection_id=3 "#,
        r#"transport="hbone""#,
        "\n"
    );
    assert_eq!(line(LogFormat::Plain, &facts(), Reason::Ok, None), want);
}

#[test]
fn a_json_line_has_the_same_fields() {
    let want = concat!(
        r#"{"level":"error","time":"2025-12-31T23:59:59.000000Z","scope":"access","#,
        r#""message":"connection complete","src.addr":"10.0.0.1:40000","#,
        r#""src.workload":"shop-7d4b","src.namespace":"demo","#,
        r#""src.identity":"spiffe://cluster.local/ns/demo/sa/shop","src.cluster":"Kubernetes","#,
        r#""dst.addr":"10.0.0.2:15008","dst.hbone_addr":"10.0.0.2:8080","#,
        r#""dst.service":"reviews.demo.svc.cluster.local","dst.workload":"reviews-7d4b","#,
        r#""dst.namespace":"demo","dst.identity":"spiffe://cluster.local/ns/demo/sa/reviews","#,
        r#""dst.cluster":"Kubernetes","direction":"inbound","bytes_sent":5,"bytes_recv":7,"#,
        r#""duration":"12ms","error":"denied by demo/p","reason":"policy_denied","#,
        r#""response_flags":"DENY","reporter":"destination","connection_id":3,"#,
        r#""policy":"demo/p","transport":"hbone","tls_group":"X25519MLKEM768"}"#,
        "\n"
    );
    let mut facts = facts();
    facts.direction = Direction::Inbound;
    facts.reporter = Reporter::Destination;
    facts.policy = Some("demo/p".into());
    facts.tls_group = Some("X25519MLKEM768");
    let got = line(
        LogFormat::Json,
        &facts,
        Reason::PolicyDenied,
        Some("denied by demo/p"),
    );
    assert_eq!(got, want);
}

#[test]
fn on_plaintext_no_identity_is_shown_and_an_odd_authority_cannot_forge_a_field() {
    let mut facts = facts();
    facts.security = Security::Unknown;
    facts.hbone_address = Some("a b=1:80".into());
    let got = line(LogFormat::Plain, &facts, Reason::Ok, None);
    assert!(!got.contains("identity"), "{got}");
    assert!(got.contains(r#"dst.hbone_addr="a b=1:80""#), "{got}");
}

#[test]
fn what_failed_before_anyone_was_known_is_a_warning() {
    let metrics = Metrics::new("ztunnel");
    let tap = metrics.tap_records(4);
    let mut unknown = ConnectionFacts::new(Reporter::Destination, Direction::Inbound);
    unknown.source.address = Some(SocketAddr::from(([10, 0, 0, 9], 1)));
    metrics
        .connection(unknown)
        .end(Reason::TlsFailure, Some("no certificate".into()));
    metrics.connection(facts()).end(Reason::ConnectFailed, None);
    let records = tap.take();
    assert_eq!(records[0]["message"], "connection failed");
    assert_eq!(records[0]["error"], "no certificate");
    assert_eq!(records[0].get("bytes_sent"), None);
    assert_eq!(records[1]["message"], "connection complete");
}
