//! One request through gateway, sidecar and waypoint is one trace.

use crate::load::edge;
use crate::world::{Running, Shared};
use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use mesh_lab::client::{HttpCall, HttpVersion, Target, http};
use mesh_lab::world::configuration::SHOP;
use mesh_testkit::CollectedSpan;
use std::time::Duration;

/// A trace of our own choice, so that its spans are found among all others.
const CHAIN: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
/// Another, for the waypoint.
const WAYPOINT: &str = "0af7651916cd43dd8448eb211c80319c";
/// Both: they are kept however many spans the load makes.
pub(crate) const TRACES: [&str; 2] = [CHAIN, WAYPOINT];

pub(crate) fn trials(shared: &Shared) -> Vec<Trial> {
    vec![
        shared.trial("a_request_through_gateway_and_sidecars_is_one_trace", chain),
        shared.trial("a_request_through_a_waypoint_is_one_trace", waypoint),
    ]
}

fn traced(call: HttpCall, trace: &str) -> HttpCall {
    call.header("traceparent", &format!("00-{trace}-00f067aa0ba902b7-01"))
}

async fn chain(running: &mut Running) -> Result<()> {
    let call = traced(HttpCall::get(SHOP, "/"), CHAIN);
    let answer = http(&edge(running)?, HttpVersion::Http1, &call).await?;
    ensure!(answer.status == 200, "{}: {}", answer.status, answer.body);
    // Gateway, frontend's sidecar in, frontend's sidecar out, reviews' sidecar in and out: a server
    // span each, with a client span each.
    let spans = wait(running, CHAIN, 10).await?;
    let deepest = spans
        .iter()
        .map(|span| running.spans.ancestry_of(span))
        .max_by_key(Vec::len)
        .context("no span")?;
    println!(
        "one trace, {} spans, the longest line: {deepest:?}",
        spans.len()
    );
    ensure!(
        deepest.len() >= 10,
        "the parent links break off: {deepest:?}"
    );
    all_linked(running, &spans)
}

async fn waypoint(running: &mut Running) -> Result<()> {
    let target = Target::new("10.96.0.7:80".parse()?).from_place(running.world.place("client")?);
    let call = traced(HttpCall::get("orders.demo", "/orders/1"), WAYPOINT);
    let answer = http(&target, HttpVersion::Http1, &call).await?;
    ensure!(answer.status == 200, "{}: {}", answer.status, answer.body);
    let spans = wait(running, WAYPOINT, 2).await?;
    println!("the waypoint's spans: {spans:?}");
    all_linked(running, &spans)
}

async fn wait(running: &Running, trace: &str, count: usize) -> Result<Vec<CollectedSpan>> {
    let of_trace = |spans: &[CollectedSpan]| {
        spans
            .iter()
            .filter(|s| s.trace_id == trace)
            .cloned()
            .collect::<Vec<_>>()
    };
    for _ in 0..1000 {
        let spans = of_trace(&running.spans.spans());
        if spans.len() >= count {
            return Ok(spans);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    anyhow::bail!("only {:?} within 20 s", of_trace(&running.spans.spans()))
}

/// Every span but the first has its parent among the spans received.
fn all_linked(running: &Running, spans: &[CollectedSpan]) -> Result<()> {
    let orphans: Vec<_> = spans
        .iter()
        .filter(|s| running.spans.parent_of(s).is_none())
        .collect();
    ensure!(orphans.len() == 1, "spans without a parent: {orphans:?}");
    Ok(())
}
