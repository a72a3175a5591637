//! The process's log as its reader sees it. One test: logging is set up once a process.

#![expect(clippy::unwrap_used, reason = "a test's panic is its report")]

use mesh_model::Reason;
use mesh_telemetry::{
    ConnectionFacts, Direction, LogFormat, LoggingError, Metrics, Reporter, RequestFacts,
    init_logging_to,
};
use std::io;
use std::sync::{Arc, Mutex};

#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Sink {
    fn take(&self) -> Vec<serde_json::Value> {
        let bytes = std::mem::take(&mut *self.0.lock().unwrap());
        let text = String::from_utf8(bytes).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

impl io::Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn access_records_and_events_share_one_log_and_one_filter() {
    let sink = Sink::default();
    let bad = init_logging_to(LogFormat::Json, "access=loud", sink.clone());
    assert!(matches!(bad, Err(LoggingError::Filter { .. })));
    let log = init_logging_to(LogFormat::Json, "info", sink.clone()).unwrap();
    let twice = init_logging_to(LogFormat::Json, "info", sink.clone());
    assert!(matches!(twice, Err(LoggingError::Twice)));

    let metrics = Metrics::new("ztunnel");
    let facts = ConnectionFacts::new(Reporter::Source, Direction::Outbound);
    tracing::info!(pods = 3, "started");
    metrics.connection(facts.clone()).end(Reason::Ok, None);
    let failed = metrics.connection(facts.clone());
    failed.established();
    failed.end(Reason::ConnectFailed, Some("refused".into()));
    let request = http::Request::get("/").body(()).unwrap();
    let request = RequestFacts::of(Reporter::Destination, &request);
    metrics.request(request).end(200, Reason::Ok, None);
    log.flush();
    let lines = sink.take();
    let shown: Vec<_> = lines
        .iter()
        .map(|l| (l["level"].as_str().unwrap(), l["scope"].as_str().unwrap()))
        .collect();
    assert_eq!(
        shown,
        [
            ("info", "logging"),
            ("info", "access"),
            ("error", "access"),
            ("info", "access")
        ]
    );
    assert_eq!(lines[1]["reason"], "ok");
    assert_eq!(lines[2]["error"], "refused");
    assert_eq!(lines[2]["reason"], "connect_failed");
    assert_eq!(lines[3]["response_code"], 200);
    assert_eq!(lines[3]["user_agent"], serde_json::Value::Null);

    log.set_filter("info,access=off").unwrap();
    metrics.connection(facts.clone()).end(Reason::Ok, None);
    log.flush();
    assert_eq!(sink.take().len(), 0);

    log.set_filter("access=debug").unwrap();
    let record = metrics.connection(facts.clone());
    record.established();
    record.add_sent(1);
    record.end(Reason::Ok, None);
    log.flush();
    let shown: Vec<_> = sink.take().iter().map(|l| l["message"].clone()).collect();
    assert_eq!(shown, ["connection opened", "connection complete"]);

    log.set_filter("info,access=error").unwrap();
    metrics.connection(facts.clone()).end(Reason::Ok, None);
    let denied = metrics.connection(facts.clone());
    denied.established();
    denied.end(Reason::PolicyDenied, None);
    // A warning: nothing is known of either end.
    metrics.connection(facts).end(Reason::PolicyDenied, None);
    drop(log);
    let lines = sink.take();
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0]["reason"], "policy_denied");
}
