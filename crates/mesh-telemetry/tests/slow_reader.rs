//! A log whose pipe nobody reads: connections go on, what is lost is counted, and with a reader the
//! log goes on too. A process of its own: logging is set up once a process.

#![expect(clippy::unwrap_used, reason = "a test's panic is its report")]

use mesh_model::Reason;
use mesh_telemetry::{ConnectionFacts, Direction, LogFormat, Metrics, Reporter, init_logging_to};
use std::io::{BufRead, BufReader};

/// More lines than pipe and queue hold together.
const CONNECTIONS: usize = 20_000;

fn dropped(metrics: &Metrics) -> u64 {
    let text = metrics.encode();
    let line = text
        .lines()
        .find(|l| l.starts_with("strata_log_records_dropped_total"))
        .unwrap();
    line.rsplit_once(' ').unwrap().1.parse().unwrap()
}

#[test]
fn a_pipe_nobody_reads_holds_up_nothing() {
    let (reader, writer) = std::io::pipe().unwrap();
    let log = init_logging_to(LogFormat::Plain, "info", writer).unwrap();
    let metrics = Metrics::new("ztunnel");
    let one = || {
        let facts = ConnectionFacts::new(Reporter::Source, Direction::Outbound);
        let record = metrics.connection(facts);
        record.add_sent(1);
        record.end(Reason::Ok, None);
    };
    // Would never come to its end, were a line ever waited for.
    for _ in 0..CONNECTIONS {
        one();
    }
    let lost = dropped(&metrics);
    assert!(lost > 0 && lost < 20_000, "{lost} lines lost");
    let text = metrics.encode();
    assert!(
        text.lines()
            .any(|l| l.starts_with("istio_tcp_connections_closed_total{") && l.ends_with(" 20000")),
        "{text}"
    );

    // Someone reads again: what waited comes, whole lines only, and new lines are not lost.
    let lines = std::thread::spawn(move || {
        let mut count = 0;
        for line in BufReader::new(reader).lines() {
            let line = line.unwrap();
            if line.contains("the log is back") {
                return count;
            }
            assert!(line.contains("\taccess\tconnection complete\t"), "{line}");
            count += 1;
        }
        count
    });
    log.flush();
    while !lines.is_finished() {
        tracing::info!("the log is back");
        log.flush();
    }
    let written = lines.join().unwrap();
    let lost = usize::try_from(lost).unwrap();
    assert_eq!(written + lost, CONNECTIONS);
}
