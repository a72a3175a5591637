//! Spans as a collector receives them.

#![expect(clippy::unwrap_used, reason = "a test's panic is its report")]

use http::{HeaderMap, Method, Uri};
use mesh_model::Reason;
use mesh_telemetry::{Metrics, SpanKind, TraceContext, Tracer, TracerSettings};
use mesh_testkit::OtlpReceiver;
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};

const WAIT: Duration = Duration::from_secs(20);
const EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn channel(endpoint: String) -> Channel {
    Endpoint::from_shared(endpoint).unwrap().connect_lazy()
}

fn tracer(receiver: &OtlpReceiver, service: &str) -> Tracer {
    let settings = TracerSettings::new(service);
    Tracer::otlp(channel(receiver.endpoint()), settings).unwrap()
}

fn headers(traceparent: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("traceparent", traceparent.parse().unwrap());
    headers
}

#[tokio::test]
async fn one_request_through_two_proxies_is_one_trace() {
    let receiver = OtlpReceiver::start();
    let gateway = tracer(&receiver, "gateway");
    let sidecar = tracer(&receiver, "sidecar");

    let mut on_the_way = HeaderMap::new();
    let mut server = gateway.start(&on_the_way, "GET shop", SpanKind::Server);
    server.set_request(&Method::GET, &Uri::from_static("/shop?secret=1"));
    let client = server.child("to sidecar", SpanKind::Client);
    client.inject(&mut on_the_way);
    let mut far = sidecar.start(&on_the_way, "GET reviews", SpanKind::Server);
    far.set("istio.canonical_service", "reviews");
    far.end(503, Reason::NoEndpoint);
    client.end(503, Reason::Ok);
    server.end(503, Reason::Ok);
    tokio::join!(gateway.shutdown(), sidecar.shutdown());

    let spans = receiver
        .wait_for("three spans", WAIT, |s| s.len() == 3)
        .await;
    let far = spans.iter().find(|s| s.service == "sidecar").unwrap();
    assert_eq!(
        receiver.ancestry_of(far),
        [
            "sidecar: GET reviews",
            "gateway: to sidecar",
            "gateway: GET shop"
        ]
    );
    assert_eq!(far.attributes["strata.reason"], "no_endpoint");
    assert_eq!(far.attributes["http.response.status_code"], "503");
    assert_eq!(far.attributes["istio.canonical_service"], "reviews");
    assert!(far.error);
    assert_eq!(far.kind, "server");
    let first = spans.iter().find(|s| s.name == "GET shop").unwrap();
    assert_eq!(first.attributes["http.request.method"], "GET");
    assert_eq!(first.attributes["url.path"], "/shop");
    assert_eq!(receiver.parent_of(first), None);
}

#[tokio::test]
async fn the_callers_trace_and_its_choice_to_sample_are_kept() {
    let receiver = OtlpReceiver::start();
    let tracer = tracer(&receiver, "sidecar");
    let span = tracer.start(&headers(EXAMPLE), "sampled", SpanKind::Server);
    let context = span.context().unwrap();
    assert_eq!(context.trace_id_text(), "4bf92f3577b34da6a3ce929d0e0e4736");
    span.end(200, Reason::Ok);

    let unsampled = EXAMPLE.replace("-01", "-00");
    let mut onward = headers(&unsampled);
    onward.insert("tracestate", "vendor=1".parse().unwrap());
    let span = tracer.start(&onward, "unsampled", SpanKind::Server);
    span.inject(&mut onward);
    let passed = TraceContext::of(&onward).unwrap();
    assert!(!passed.sampled);
    assert_eq!(passed.trace_id_text(), context.trace_id_text());
    assert_ne!(onward["traceparent"], unsampled.as_str());
    assert_eq!(onward["tracestate"], "vendor=1");
    span.end(200, Reason::Ok);
    tracer.shutdown().await;

    let spans = receiver.wait_for("one span", WAIT, |s| !s.is_empty()).await;
    let names: Vec<_> = spans.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names, ["sampled"]);
    assert_eq!(spans[0].parent_span_id.as_deref(), Some("00f067aa0ba902b7"));
}

#[test]
fn a_tracer_that_is_off_leaves_the_headers_alone() {
    let tracer = Tracer::off();
    let mut onward = headers(EXAMPLE);
    let span = tracer.start(&onward, "x", SpanKind::Server);
    span.child("y", SpanKind::Client).inject(&mut onward);
    assert_eq!(onward["traceparent"], EXAMPLE);
    assert_eq!(span.context(), None);
}

#[tokio::test]
async fn a_collector_that_is_away_holds_up_nobody() {
    let nowhere = {
        let receiver = OtlpReceiver::start();
        receiver.endpoint()
    };
    let tracer = Tracer::otlp(channel(nowhere), TracerSettings::new("x")).unwrap();
    for n in 0..10_000 {
        let span = tracer.start(&HeaderMap::new(), format!("span {n}"), SpanKind::Server);
        span.end(200, Reason::Ok);
    }
    tracer.shutdown().await;
    let metrics = Metrics::new("x").encode();
    let lost: u64 = metrics
        .lines()
        .find_map(|line| line.strip_prefix("strata_spans_lost_total "))
        .unwrap()
        .parse()
        .unwrap();
    // What still waits, or is being tried, is bounded; the rest is lost and counted.
    assert!((5_000..=10_000).contains(&lost), "{lost}");
}
