//! What breaks, breaks alone: proxies killed, control plane and authority dead, bad input.

use crate::load::edge;
use crate::world::{Running, Shared};
use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use mesh_lab::client::{GrpcClient, HttpCall, HttpVersion, Target, http, http_sequence};
use mesh_lab::world::configuration::SHOP;
use std::time::Duration;

/// How long control plane and authority are dead under traffic.
const DEAD: Duration = Duration::from_secs(60);

pub(crate) fn trials(shared: &Shared) -> Vec<Trial> {
    vec![
        shared.trial(
            "control_plane_and_authority_dead_for_a_minute_lose_nothing",
            dead_control,
        ),
        shared.trial(
            "a_killed_proxy_affects_only_its_own_traffic",
            killed_proxies,
        ),
        shared.trial(
            "an_edit_is_picked_up_and_a_broken_file_changes_nothing",
            edits,
        ),
    ]
}

/// A request of the long way, and one of the waypoint's: between them they cross every proxy.
async fn both_ways(running: &Running) -> Result<()> {
    let answer = http(
        &edge(running)?,
        HttpVersion::Http1,
        &HttpCall::get(SHOP, "/"),
    )
    .await?;
    ensure!(
        answer.status == 200,
        "chain: {} {}",
        answer.status,
        answer.body
    );
    let answer = orders(running).await?;
    ensure!(answer == 200, "waypoint: {answer}");
    Ok(())
}

async fn orders(running: &Running) -> Result<u16> {
    let target = Target::new("10.96.0.7:80".parse()?).from_place(running.world.place("client")?);
    let answer = http(
        &target,
        HttpVersion::Http1,
        &HttpCall::get("orders.demo", "/orders/1"),
    )
    .await?;
    Ok(answer.status)
}

async fn until_both_work(running: &Running) -> Result<()> {
    let mut last = Ok(());
    for _ in 0..200 {
        last = both_ways(running).await;
        if last.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    last
}

async fn dead_control(running: &mut Running) -> Result<()> {
    both_ways(running).await?;
    running.world.process("mesh-control")?.kill()?;
    running.world.process("mesh-ca")?.kill()?;
    let start = std::time::Instant::now();
    let mut requests = 0;
    let target = edge(running)?;
    while start.elapsed() < DEAD {
        let tally = http_sequence(&target, HttpVersion::Http1, &HttpCall::get(SHOP, "/"), 50).await;
        ensure!(
            tally.of_status(200) == 50,
            "after {requests} requests: {tally:?}"
        );
        ensure!(
            orders(running).await? == 200,
            "the waypoint failed after {requests} requests"
        );
        requests += 51;
    }
    println!("{requests} requests while control plane and authority were dead: none lost");
    running.world.process("mesh-ca")?.restart()?;
    running.world.process("mesh-control")?.restart()?;
    running.world.ready("mesh-ca").await?;
    running.world.ready("mesh-control").await?;
    both_ways(running).await
}

async fn killed_proxies(running: &mut Running) -> Result<()> {
    // Killed, and what must go on meanwhile: the long way does not cross the waypoint, and the
    // waypoint's way crosses neither gateway nor sidecars.
    for name in [
        "waypoint waypoint",
        "gateway gateway",
        "sidecar frontend",
        "sidecar reviews-v2",
    ] {
        running.world.process(name)?.kill()?;
        if name.starts_with("waypoint") {
            let call = HttpCall::get(SHOP, "/");
            let tally = http_sequence(&edge(running)?, HttpVersion::Http1, &call, 100).await;
            ensure!(tally.of_status(200) == 100, "{name} killed: {tally:?}");
        } else {
            for _ in 0..100 {
                let status = orders(running).await?;
                ensure!(
                    status == 200,
                    "{name} killed: the waypoint's way answered {status}"
                );
            }
        }
        running.world.process(name)?.restart()?;
        running.world.ready(name).await?;
        until_both_work(running).await?;
        println!("{name}: killed and restarted; the others' traffic never failed");
    }
    killed_ztunnels(running).await
}

/// The long way crosses only node-2's ztunnel, and gRPC between two sidecars crosses none.
async fn killed_ztunnels(running: &mut Running) -> Result<()> {
    for node in ["ztunnel node-1", "ztunnel node-2"] {
        running.world.process(node)?.kill()?;
        if node.ends_with('1') {
            let call = HttpCall::get(SHOP, "/");
            let tally = http_sequence(&edge(running)?, HttpVersion::Http1, &call, 100).await;
            ensure!(tally.of_status(200) == 100, "{node} killed: {tally:?}");
        }
        let echo = Target::new("10.96.0.8:50051".parse()?);
        let echo = echo.from_place(running.world.place("frontend")?);
        let mut client = GrpcClient::new(&echo, "echo.demo.svc.cluster.local:50051")?;
        for _ in 0..100 {
            client.unary("still here").await?;
        }
        running.world.process(node)?.restart()?;
        running.world.ready(node).await?;
        until_both_work(running).await?;
        println!("{node}: killed and restarted; the others' traffic never failed");
    }
    Ok(())
}

async fn edits(running: &mut Running) -> Result<()> {
    let file = running
        .world
        .configuration
        .folder
        .join("reviews-route.yaml");
    let good = std::fs::read_to_string(&file)?;
    until_share(running, |v2| v2 > 0, "v2 gets its share").await?;
    std::fs::write(
        &file,
        good.replace("weight: 80", "weight: 1")
            .replace("weight: 20", "weight: 0"),
    )?;
    until_share(running, |v2| v2 == 0, "all goes to v1 after the edit").await?;
    std::fs::write(&file, good.replace("backendRefs", "backendReffs"))?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    until_share(
        running,
        |v2| v2 == 0,
        "a broken file leaves the last good state",
    )
    .await?;
    let log = running.world.process("mesh-control")?.log()?;
    ensure!(
        log.contains("reviews-route.yaml") && log.contains("backendReffs"),
        "the log names neither file nor field"
    );
    std::fs::write(&file, good)?;
    until_share(running, |v2| v2 > 0, "the mended file is taken").await
}

/// Waits until the answers of 40 requests meet a condition on how many came from reviews-v2.
async fn until_share(running: &Running, holds: impl Fn(usize) -> bool, what: &str) -> Result<()> {
    let target =
        Target::new("10.96.0.2:9080".parse()?).from_place(running.world.place("frontend")?);
    let mut last = None;
    for _ in 0..20 {
        let call = HttpCall::get("reviews.demo", "/reviews");
        let tally = http_sequence(&target, HttpVersion::Http1, &call, 40).await;
        ensure!(tally.failures() == 0, "{what}: {tally:?}");
        if holds(tally.answers.get("reviews-v2").copied().unwrap_or(0)) {
            return Ok(());
        }
        last = Some(tally.answers);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    anyhow::bail!("{what}: not so, answers {last:?}")
}
