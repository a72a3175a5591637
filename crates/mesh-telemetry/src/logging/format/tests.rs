//! Lines as they come out, in both forms.

use super::*;
use crate::logging::writer::LogQueue;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tracing_subscriber::layer::SubscriberExt;

#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl io::Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn logged(format: LogFormat, log: impl FnOnce()) -> String {
    let sink = Sink::default();
    let queue = LogQueue::start(sink.clone()).unwrap();
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .event_format(LineFormat(format))
        .with_writer(queue.clone());
    tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), log);
    queue.flush(Duration::from_secs(10));
    let bytes = sink.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}

fn log_one() {
    let span = tracing::info_span!("inbound", id = 7);
    let _in_span = span.enter();
    tracing::warn!(target: "proxy", peer = "10.0.0.1:80", tries = 3, ok = false, "two\nlines");
}

#[test]
fn plain_lines_are_tab_separated() {
    let line = logged(LogFormat::Plain, log_one);
    let columns: Vec<&str> = line.trim_end_matches('\n').split('\t').collect();
    assert_eq!(
        columns[1..],
        [
            "warn",
            "proxy:inbound{id=7}",
            "two\\nlines",
            "peer=\"10.0.0.1:80\" tries=3 ok=false"
        ]
    );
    assert!(columns[0].ends_with('Z'), "{line}");
}

#[test]
fn json_lines_are_objects() {
    let line = logged(LogFormat::Json, log_one);
    let object: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(object["level"], "warn");
    assert_eq!(object["scope"], "proxy");
    assert_eq!(object["message"], "two\nlines");
    assert_eq!(object["peer"], "10.0.0.1:80");
    assert_eq!(object["tries"], 3);
    assert_eq!(object["ok"], false);
    assert_eq!(object["span"], "inbound{id=7}");
}
