//! Families, labels and records as a scraper and a log reader see them.

use super::*;
use crate::facts::{Direction, Party, RequestProtocol, Security};
use mesh_model::{Service, ServiceName, Workload};
use std::net::SocketAddr;

fn workload(name: &str) -> Arc<Workload> {
    let mut workload = Workload::new(&format!("uid/{name}"), "demo", &format!("{name}-abc"));
    workload.workload_name = name.into();
    workload.canonical_name = name.into();
    workload.canonical_revision = "v1".into();
    workload.service_account = name.into();
    Arc::new(workload)
}

fn party(name: &str, last: u8) -> Party {
    let workload = workload(name);
    Party {
        identity: workload.identity(),
        address: Some(SocketAddr::from(([10, 0, 0, last], 8080))),
        workload: Some(workload),
    }
}

fn facts() -> ConnectionFacts {
    let mut facts = ConnectionFacts::new(Reporter::Source, Direction::Outbound);
    facts.source = party("shop", 1);
    facts.destination = party("reviews", 2);
    let name = ServiceName::new("demo", "reviews.demo.svc.cluster.local");
    facts.service = Some(Arc::new(Service::new(name, "reviews")));
    facts.security = Security::MutualTls;
    facts
}

/// The value of the one line of a family that holds every given label.
fn value(text: &str, name: &str, labels: &[&str]) -> Option<String> {
    let mut lines = text.lines().filter(|line| {
        line.strip_prefix(name)
            .is_some_and(|rest| rest.starts_with(['{', ' ']))
            && labels.iter().all(|label| line.contains(label))
    });
    let found = lines.next()?;
    assert!(
        lines.next().is_none(),
        "two lines of {name} with {labels:?}"
    );
    found.rsplit_once(' ').map(|(_, v)| v.to_owned())
}

#[test]
fn a_connection_is_counted_once_under_every_label_that_dashboards_need() {
    let metrics = Metrics::new("ztunnel");
    let record = metrics.connection(facts());
    record.add_sent(5);
    record.add_received(7);
    assert_eq!(metrics.open_connections().len(), 1);
    record.end(Reason::Ok, None);
    let text = metrics.encode();
    let labels = [
        r#"reporter="source""#,
        r#"source_workload="shop""#,
        r#"source_workload_namespace="demo""#,
        r#"source_principal="spiffe://cluster.local/ns/demo/sa/shop""#,
        r#"source_app="shop""#,
        r#"source_version="v1""#,
        r#"source_cluster="Kubernetes""#,
        r#"source_canonical_service="shop""#,
        r#"source_canonical_revision="v1""#,
        r#"source_region="unknown""#,
        r#"destination_workload="reviews""#,
        r#"destination_principal="spiffe://cluster.local/ns/demo/sa/reviews""#,
        r#"destination_service="reviews.demo.svc.cluster.local""#,
        r#"destination_service_name="reviews""#,
        r#"destination_service_namespace="demo""#,
        r#"request_protocol="tcp""#,
        r#"response_flags="-""#,
        r#"connection_security_policy="mutual_tls""#,
    ];
    for (family, want) in [
        ("istio_tcp_connections_opened_total", "1"),
        ("istio_tcp_connections_closed_total", "1"),
        ("istio_tcp_sent_bytes_total", "5"),
        ("istio_tcp_received_bytes_total", "7"),
    ] {
        assert_eq!(
            value(&text, family, &labels).as_deref(),
            Some(want),
            "{family}\n{text}"
        );
    }
    assert_eq!(
        value(&text, "istio_tcp_connections_failed_total", &[]),
        None
    );
    assert_eq!(
        value(&text, "istio_tcp_sockets_open", &[r#"reporter="source""#]).as_deref(),
        Some("0")
    );
    assert_eq!(
        value(&text, "istio_build", &[r#"component="ztunnel""#]).as_deref(),
        Some("1")
    );
    assert!(text.contains("strata_log_records_dropped_total"), "{text}");
    assert!(text.contains("process_resident_memory_bytes"), "{text}");
    assert!(text.ends_with("# EOF\n"));
    assert!(metrics.open_connections().is_empty());
}

#[test]
fn what_is_not_known_is_called_unknown() {
    let metrics = Metrics::new("ztunnel");
    let facts = ConnectionFacts::new(Reporter::Destination, Direction::Inbound);
    metrics.connection(facts).end(Reason::PolicyDenied, None);
    let text = metrics.encode();
    let labels = [
        r#"source_workload="unknown""#,
        r#"source_principal="unknown""#,
        r#"destination_service="unknown""#,
        r#"response_flags="DENY""#,
    ];
    for family in [
        "istio_tcp_connections_closed_total",
        "istio_tcp_connections_failed_total",
    ] {
        assert_eq!(
            value(&text, family, &labels).as_deref(),
            Some("1"),
            "{text}"
        );
    }
}

#[test]
fn the_record_of_a_denied_connection_names_policy_and_identities() {
    let metrics = Metrics::new("ztunnel");
    let tap = metrics.tap_records(8);
    let mut inbound = facts();
    inbound.direction = Direction::Inbound;
    inbound.reporter = Reporter::Destination;
    let mut record = metrics.connection(inbound);
    record.set_policy("demo/only-shop");
    record.add_sent(1);
    record.add_received(2);
    record.end(Reason::PolicyDenied, Some("no ALLOW rule matched".into()));
    let records = tap.take();
    assert_eq!(records.len(), 1);
    let record = &records[0];
    assert_eq!(record["message"], "connection complete");
    assert_eq!(record["reason"], "policy_denied");
    assert_eq!(record["policy"], "demo/only-shop");
    assert_eq!(
        record["src.identity"],
        "spiffe://cluster.local/ns/demo/sa/shop"
    );
    assert_eq!(
        record["dst.identity"],
        "spiffe://cluster.local/ns/demo/sa/reviews"
    );
    assert_eq!(record["src.workload"], "shop-abc");
    assert_eq!(record["dst.service"], "reviews.demo.svc.cluster.local");
    assert_eq!(record["error"], "no ALLOW rule matched");
    // Inbound, so "sent" is what the server sent.
    assert_eq!(record["bytes_sent"], 1);
    assert_eq!(record["bytes_recv"], 2);
    assert_eq!(record.get("dst.hbone_addr"), None);
}

#[test]
fn a_dropped_record_is_a_record() {
    let metrics = Metrics::new("ztunnel");
    let tap = metrics.tap_records(8);
    drop(metrics.connection(facts()));
    let mut other = metrics.connection(facts());
    other.set_drop_reason(Reason::Drained);
    drop(other);
    metrics.connection(facts()).end(Reason::Ok, None);
    let reasons: Vec<_> = tap.take().iter().map(|r| r["reason"].clone()).collect();
    assert_eq!(reasons, ["internal", "drained", "ok"]);
    let opened = value(&metrics.encode(), "istio_tcp_connections_opened_total", &[]);
    assert_eq!(opened.as_deref(), Some("3"));
}

#[test]
fn labels_are_taken_at_the_first_byte_and_the_table_shows_what_is_known_now() {
    let metrics = Metrics::new("ztunnel");
    let mut record =
        metrics.connection(ConnectionFacts::new(Reporter::Source, Direction::Outbound));
    record.set_source(party("shop", 1));
    record.set_destination(party("reviews", 2));
    record.set_security(Security::MutualTls);
    record.set_hbone_address("10.0.0.2:8080");
    let counters = record.counters();
    counters.add_sent(3);
    record.set_policy("demo/late");
    let open = metrics.open_connections();
    assert_eq!(open[0].source.workload.as_deref(), Some("demo/shop-abc"));
    assert_eq!(open[0].policy.as_deref(), Some("demo/late"));
    assert_eq!(open[0].bytes_sent, 3);
    let text = metrics.encode();
    let labels = [r#"destination_workload="reviews""#];
    assert_eq!(
        value(&text, "istio_tcp_sent_bytes_total", &labels).as_deref(),
        Some("3")
    );
    let shown = serde_json::to_value(&open[0]).unwrap();
    assert_eq!(
        shown["destination"]["identity"],
        "spiffe://cluster.local/ns/demo/sa/reviews"
    );
    assert_eq!(shown["hboneAddress"], "10.0.0.2:8080");
}

fn request_facts() -> RequestFacts {
    let request = http::Request::get("/shop?q=1")
        .header("host", "shop.example")
        .header("user-agent", "probe")
        .header("x-request-id", "id-1")
        .body(())
        .unwrap();
    let mut facts = RequestFacts::of(Reporter::Waypoint, &request);
    facts.source = party("shop", 1);
    facts.security = Security::MutualTls;
    facts
}

#[test]
fn a_request_has_envoys_keys_and_one_count_in_each_family() {
    let metrics = Metrics::new("sidecar");
    let tap = metrics.tap_records(8);
    let mut record = metrics.request(request_facts());
    record.set_destination(party("reviews", 2), None);
    record.set_upstream(SocketAddr::from(([10, 0, 0, 2], 8080)), "reviews");
    record.set_route("demo/shop/0");
    record.add_received(10);
    record.add_sent(20);
    record.response_started(200);
    record.end(200, Reason::Ok, None);
    let record = tap.take().remove(0);
    for key in [
        "start_time",
        "method",
        "path",
        "protocol",
        "response_code",
        "response_flags",
        "response_code_details",
        "connection_termination_details",
        "upstream_transport_failure_reason",
        "bytes_received",
        "bytes_sent",
        "duration",
        "upstream_service_time",
        "x_forwarded_for",
        "user_agent",
        "request_id",
        "authority",
        "upstream_host",
        "upstream_cluster",
        "upstream_local_address",
        "downstream_local_address",
        "downstream_remote_address",
        "requested_server_name",
        "route_name",
    ] {
        assert!(record.get(key).is_some(), "{key} is missing");
    }
    assert_eq!(record["path"], "/shop?q=1");
    assert_eq!(record["response_code"], 200);
    assert_eq!(record["response_code_details"], "via_upstream");
    assert_eq!(record["route_name"], "demo/shop/0");
    assert_eq!(record["upstream_host"], "10.0.0.2:8080");
    assert_eq!(record["reason"], "ok");
    let text = metrics.encode();
    let labels = [
        r#"reporter="waypoint""#,
        r#"response_code="200""#,
        r#"request_protocol="http""#,
        r#"destination_workload="reviews""#,
    ];
    for family in [
        "istio_requests_total",
        "istio_request_duration_milliseconds_count",
        "istio_request_bytes_count",
        "istio_response_bytes_count",
    ] {
        assert_eq!(
            value(&text, family, &labels).as_deref(),
            Some("1"),
            "{family}\n{text}"
        );
    }
    assert_eq!(
        value(&text, "istio_response_bytes_sum", &labels).as_deref(),
        Some("20.0")
    );
    assert!(text.contains(r#"le="0.5""#));
}

#[test]
fn a_request_whose_client_left_is_a_record_too() {
    let metrics = Metrics::new("sidecar");
    let tap = metrics.tap_records(8);
    let mut record = metrics.request(request_facts());
    record.response_started(200);
    drop(record);
    let record = tap.take().remove(0);
    assert_eq!(record["reason"], "downstream_reset");
    assert_eq!(record["response_flags"], "DC");
    assert_eq!(record["response_code"], 200);
}

#[test]
fn a_denied_request_says_which_policy() {
    let metrics = Metrics::new("sidecar");
    let tap = metrics.tap_records(8);
    let mut record = metrics.request(request_facts());
    record.set_policy("demo/no-admin");
    record.end(403, Reason::PolicyDenied, None);
    let record = tap.take().remove(0);
    assert_eq!(
        record["response_code_details"],
        "rbac_access_denied_matched_policy[demo/no-admin]"
    );
    assert_eq!(record["policy"], "demo/no-admin");
    assert_eq!(
        record["src.identity"],
        "spiffe://cluster.local/ns/demo/sa/shop"
    );
}

#[test]
fn grpc_has_its_own_status_label_and_message_counts() {
    let metrics = Metrics::new("sidecar");
    let mut facts = request_facts();
    facts.protocol = RequestProtocol::Grpc;
    let mut record = metrics.request(facts);
    record.set_grpc_status(5);
    record.add_request_messages(2);
    record.end(200, Reason::Ok, None);
    let text = metrics.encode();
    let labels = [r#"request_protocol="grpc""#, r#"grpc_response_status="5""#];
    assert_eq!(
        value(&text, "istio_requests_total", &labels).as_deref(),
        Some("1")
    );
    assert_eq!(
        value(&text, "istio_request_messages_total", &labels).as_deref(),
        Some("2")
    );
}

#[test]
fn the_same_name_is_the_same_metric() {
    let metrics = Metrics::new("x");
    metrics.counter("strata_things", "Things").inc();
    metrics.counter("strata_things", "Things").inc_by(2);
    metrics.gauge("strata_level", "Level").set(4);
    let by_url = metrics.labelled_counter("istio_xds_message", "Messages", "url");
    by_url.with("a").inc();
    metrics
        .labelled_counter("istio_xds_message", "Messages", "url")
        .with("a")
        .inc();
    // A name of two kinds gives a handle that works and shows nowhere.
    metrics.gauge("strata_things", "Things").set(9);
    let text = metrics.encode();
    assert_eq!(
        value(&text, "strata_things_total", &[]).as_deref(),
        Some("3")
    );
    assert_eq!(value(&text, "strata_level", &[]).as_deref(), Some("4"));
    assert_eq!(
        value(&text, "istio_xds_message_total", &[r#"url="a""#]).as_deref(),
        Some("2")
    );
}

#[test]
fn a_full_table_of_series_counts_on_under_collapsed_labels() {
    let metrics = Metrics::new("x");
    let extra = 10;
    for n in 0..traffic::SERIES_MAX + extra {
        let mut facts = ConnectionFacts::new(Reporter::Source, Direction::Outbound);
        facts.source = party(&format!("w{n}"), 1);
        drop(metrics.connection(facts));
    }
    let text = metrics.encode();
    let collapsed = value(&text, "strata_metric_series_collapsed_total", &[]);
    assert_eq!(collapsed.as_deref(), Some("10"));
    let labels = [r#"source_workload="unknown""#];
    let opened = value(&text, "istio_tcp_connections_opened_total", &labels);
    assert_eq!(opened.as_deref(), Some("10"));
}
