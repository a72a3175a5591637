//! A node's pods as its agent tells them: many that come while earlier traffic flows, an agent and a
//! proxy that start anew, two proxies that overlap, and a proxy that runs out of descriptors.

mod networks;
mod node;
mod traffic;

use crate::world::{Running, Shared};
use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use node::Node;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use traffic::{Traffic, exchange};

/// Pods of the node.
const MANY: usize = 250;
/// Connections that outlive their proxy's readiness.
const LONG: usize = 20;
/// How long a proxy that goes lets its connections run on.
const DEADLINE: Duration = Duration::from_secs(4);

pub(crate) fn trials(shared: &Shared) -> Vec<Trial> {
    vec![
        shared.trial(
            "another_network_is_reached_through_its_gateway",
            networks::run,
        ),
        shared.trial(
            "two_proxies_overlap_and_no_new_connection_is_lost",
            hand_over,
        ),
        shared.trial(
            "a_proxy_out_of_descriptors_refuses_and_recovers",
            descriptors,
        ),
        shared.trial("250_pods_come_and_earlier_traffic_flows_on", many),
    ]
}

async fn many(running: &mut Running) -> Result<()> {
    let mut node = Node::start(running, MANY).await?;
    for n in 0..2 {
        node.enrol(n)?;
    }
    node.until_active("a", 2).await?;
    let traffic = Traffic::start(
        &node,
        &[node.pod(1)?, running.world.place("client")?.clone()],
        false,
    )?;
    let (threads, before) = (node.threads("a")?, node.resident("a")?);
    let started = Instant::now();
    for n in 2..MANY {
        node.enrol(n)?;
        node.until_active("a", n + 1).await?;
    }
    let after = node.resident("a")?;
    println!(
        "{} pods one after another in {:.1} s: threads {threads} before, {} after; resident {} KiB before, {} after, {} a pod",
        MANY - 2,
        started.elapsed().as_secs_f64(),
        node.threads("a")?,
        before >> 10,
        after >> 10,
        (after.saturating_sub(before) >> 10) / (MANY as u64 - 2)
    );
    // Threads that only start-up needed may have ended since.
    ensure!(node.threads("a")? <= threads, "threads grew with pods");
    println!("agent: restarted while traffic flows");
    node.restart_agent().await?;
    node.until_active("a", MANY).await?;
    ensure!(
        node.metric("a", "workload_manager_proxies_stopped_total")
            .await?
            == 0,
        "the restart of the agent ended pods"
    );
    traffic.end()?;

    node.restart("a").await?;
    node.until_active("a", MANY).await?;
    exchange(&node.pod(1)?, node.server()).await?;
    println!("ztunnel: restarted, and told all its pods again");

    // A pod that is released lives on, without redirection.
    let pod = node.pod(MANY - 1)?;
    node.release(MANY - 1)?;
    node.until_active("a", MANY - 1).await?;
    let rules = pod.output(std::process::Command::new("iptables-save").arg("-c"), "")?;
    ensure!(!rules.contains("ISTIO"), "rules stayed:\n{rules}");
    let listeners = pod.output(std::process::Command::new("ss").args(["-Htln"]), "")?;
    ensure!(
        !listeners.contains("15008"),
        "it still listens:\n{listeners}"
    );
    Ok(())
}

async fn hand_over(running: &mut Running) -> Result<()> {
    let mut node = Node::start(running, 3).await?;
    node.enrol(0)?;
    node.enrol(1)?;
    node.until_active("a", 2).await?;
    let mut long = Vec::new();
    for _ in 0..LONG {
        long.push(Long::open(&node).await?);
    }
    node.start_proxy("b", running).await?;
    // On the node itself, and over a tunnel from another.
    let other = running.world.place("client")?.clone();
    let traffic = Traffic::start(&node, &[node.pod(1)?, other], true)?;
    traffic.some(50).await?;
    node.terminate("a")?;
    // New pods are the new one's.
    node.enrol(2)?;
    node.until_active("b", 3).await?;
    traffic.some(200).await?;
    for connection in &mut long {
        connection.ping().await.context("before the deadline")?;
    }
    let mut places = BTreeSet::new();
    for connection in long {
        places.insert(connection.from.clone());
        connection.cut().await?;
    }
    node.until_ended("a").await?;
    traffic.some(50).await?;
    let (requests, open) = (traffic.end()?, places.len());
    let reasons = node.outbound_reasons("a", &places)?;
    println!(
        "{requests} new connections across the hand-over, none failed; {open} long ones ended: {reasons:?}"
    );
    let records: usize = reasons.values().sum();
    ensure!(records == LONG, "{records} records of {LONG} connections");
    Ok(())
}

/// A connection from one pod of the node to another, through its proxy.
struct Long {
    stream: TcpStream,
    from: String,
}

impl Long {
    async fn open(node: &Node) -> Result<Self> {
        let stream = traffic::connect(&node.pod(1)?, node.server()).await?;
        let from = stream.local_addr()?.to_string();
        let mut long = Self { stream, from };
        long.ping().await?;
        Ok(long)
    }

    async fn ping(&mut self) -> Result<()> {
        let mut answer = [0; 4];
        self.stream.write_all(b"ping").await?;
        let reading = self.stream.read_exact(&mut answer);
        tokio::time::timeout(Duration::from_secs(10), reading).await??;
        ensure!(&answer == b"ping", "another answer: {answer:?}");
        Ok(())
    }

    /// Waits for the proxy to end it.
    async fn cut(mut self) -> Result<()> {
        let mut byte = [0];
        let end = self.stream.read(&mut byte);
        let end = tokio::time::timeout(DEADLINE + Duration::from_secs(20), end).await;
        // An end or a reset.
        ensure!(end.context("it lives on")?.unwrap_or(0) == 0, "bytes came");
        Ok(())
    }
}

/// A connection takes two descriptors: at one of two limits none is left for the listener, at the
/// other one for a connection that then cannot go on.
async fn descriptors(running: &mut Running) -> Result<()> {
    let mut at_listener = 0;
    for limit in [170, 171] {
        at_listener += limited(running, limit).await?;
    }
    ensure!(at_listener > 0, "no listener was out of descriptors");
    Ok(())
}

/// Gives how many connections were refused at the listener.
async fn limited(running: &mut Running, limit: u32) -> Result<u64> {
    let mut node = Node::start_limited(running, 2, limit).await?;
    node.enrol(0)?;
    node.enrol(1)?;
    node.until_active("a", 2).await?;
    let client = node.pod(1)?;
    exchange(&client, node.server()).await?;
    let (mut open, mut refused) = (Vec::new(), 0);
    for _ in 0..300 {
        let outcome = async {
            let mut stream = traffic::connect(&client, node.server()).await?;
            stream.write_all(b"ping").await?;
            let reading = stream.read_exact(&mut [0; 4]).await;
            reading.map(|_| stream).map_err(anyhow::Error::from)
        };
        match tokio::time::timeout(Duration::from_secs(20), outcome).await? {
            Ok(stream) => open.push(stream),
            Err(_) => refused += 1,
        }
    }
    println!(
        "limit of {limit} descriptors: {} of 300 connections served, {refused} refused",
        open.len()
    );
    ensure!(open.len() > 10 && refused > 0, "the limit was not met");
    for stream in &mut open {
        stream.write_all(b"ping").await?;
        stream.read_exact(&mut [0; 4]).await?;
    }
    drop(open);
    for _ in 0..500 {
        if exchange(&client, node.server()).await.is_ok() {
            node.lives("a")?;
            // Not before: its pages take descriptors too.
            let counter = "ztunnel_connections_refused_total{bound=\"descriptors\"}";
            return node.metric("a", counter).await;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    anyhow::bail!("it did not recover")
}
