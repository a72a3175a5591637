//! Many requests through the whole chain, and many connections held open.

use crate::world::{Running, Shared};
use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use mesh_lab::client::{HttpCall, HttpVersion, Target, http_load, tcp_exchange};
use mesh_lab::world::configuration::SHOP;
use mesh_tls::{EdgeClientSettings, EdgeConnector};
use std::time::Duration;

/// Requests of the load.
const REQUESTS: usize = 10_000;
/// At a time.
const CONCURRENCY: usize = 64;
/// Connections held open.
const IDLE: usize = 1_000;

pub(crate) fn trials(shared: &Shared) -> Vec<Trial> {
    vec![
        shared.trial(
            "ten_thousand_requests_through_the_chain_without_an_error",
            requests,
        ),
        shared.trial("a_thousand_idle_connections_through_two_ztunnels", idle),
    ]
}

/// The gateway's HTTPS listener as a client on the internet sees it.
pub(crate) fn edge(running: &Running) -> Result<Target> {
    let root = &running.world.configuration.web_root_pem;
    let settings = EdgeClientSettings::named(SHOP, root).alpn(&["http/1.1"]);
    let target = Target::new("10.42.1.10:8443".parse()?);
    let internet = running.world.place("internet")?;
    Ok(target
        .from_place(internet)
        .tls(EdgeConnector::new(&settings)?))
}

async fn requests(running: &mut Running) -> Result<()> {
    let mut call = HttpCall::get(SHOP, "/");
    call.timeout = Duration::from_secs(30);
    let tally = http_load(
        &edge(running)?,
        HttpVersion::Http1,
        &call,
        REQUESTS,
        CONCURRENCY,
    )
    .await;
    println!(
        "{} requests at concurrency {CONCURRENCY}: statuses {:?}, errors {} {:?}, p50 {:?}, p99 {:?}",
        tally.requests(),
        tally.statuses,
        tally.errors,
        tally.error_texts,
        tally.p50(),
        tally.percentile(99)
    );
    ensure!(
        tally.of_status(200) == REQUESTS,
        "not every request was answered 200: {tally:?}"
    );
    Ok(())
}

async fn idle(running: &mut Running) -> Result<()> {
    let memory = |running: &mut Running, node: &str| {
        running
            .world
            .process(&format!("ztunnel {node}"))
            .and_then(|p| p.resident_bytes())
    };
    let before = (memory(running, "node-1")?, memory(running, "node-2")?);
    let target = Target::new("10.96.0.12:25".parse()?).from_place(running.world.place("client")?);
    let mut held = Vec::new();
    for n in 0..IDLE {
        let stream = target
            .connect_tcp()
            .await
            .with_context(|| format!("connection {n}"))?;
        held.push(stream);
    }
    // Each has crossed both ztunnels when its greeting is here.
    let mut buffer = [0; 64];
    for (n, stream) in held.iter_mut().enumerate() {
        let read = tokio::io::AsyncReadExt::read(stream, &mut buffer);
        let count = tokio::time::timeout(Duration::from_secs(30), read)
            .await
            .with_context(|| format!("connection {n} got no greeting"))??;
        ensure!(count > 0, "connection {n} ended");
    }
    let after = (memory(running, "node-1")?, memory(running, "node-2")?);
    for (node, before, after) in [("node-1", before.0, after.0), ("node-2", before.1, after.1)] {
        let each = after.saturating_sub(before) / IDLE as u64;
        println!(
            "ztunnel {node}: resident {} KiB before, {} KiB with {IDLE} idle connections, {each} bytes each",
            before / 1024,
            after / 1024
        );
    }
    // They still work.
    drop(held.split_off(1));
    let quit = tcp_exchange(&target, b"QUIT\r\n", Duration::from_secs(5)).await?;
    ensure!(!quit.is_empty(), "no answer after the idle connections");
    Ok(())
}
