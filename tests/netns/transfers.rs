//! Long transfers while what carries them dies: control plane, authority, a ztunnel, the wire.
//!
//! Each transfer sends bytes that both ends know and gets them echoed; what came back is what is
//! acknowledged. Whatever happens, nothing acknowledged is lost, repeated or swapped, and a transfer
//! that breaks has one record, with the reason, at the ztunnel that survives it.

mod blocked;
mod fleet;
mod ledger;
mod records;

use crate::world::{Running, Shared};
use anyhow::{Context, Result, ensure};
use blocked::Unread;
use fleet::{Fleet, Way};
use ledger::Ledger;
use libtest_mimic::Trial;
use mesh_lab::Place;
use std::process::Command;
use std::time::Duration;

/// Transfers from one node to the other.
const ACROSS: usize = 200;
/// Transfers within one node, which nothing on the other may touch.
const WITHIN: usize = 20;
/// Transfers at a time after the last fault.
const AFTERWARDS: usize = 50;
/// Small connections, whose records fill the pipe that nobody reads many times over.
const SMALL: usize = 600;
/// How long the wire between the nodes carries nothing.
const DROPPED: Duration = Duration::from_secs(30);

pub(crate) fn trials(shared: &Shared) -> Vec<Trial> {
    vec![shared.trial(
        "long_transfers_lose_nothing_that_was_acknowledged",
        transfers,
    )]
}

async fn transfers(running: &mut Running) -> Result<()> {
    let log = running.world.log("ztunnel node-2");
    let outcome = under_faults(running).await;
    // The others' log is a file again, and its proxy one that writes there.
    let proxy = running.world.process("ztunnel node-2")?;
    proxy.spec_mut().log = log;
    proxy.restart()?;
    running.world.ready("ztunnel node-2").await?;
    outcome
}

async fn under_faults(running: &mut Running) -> Result<()> {
    let ledger = Ledger::default();
    let (client, near, far) = ("client", "stranger", "chat");
    ledger.serve(running.world.place(far)?, ledger::PORT)?;
    let across = Way::new(running.world.place(client)?, running.world.place(far)?);
    let within = Way::new(running.world.place(client)?, running.world.place(near)?);
    let near_fleet = Fleet::start(&within, WITHIN, &ledger)?;
    let first = Fleet::start(&across, ACROSS, &ledger)?;

    for name in ["mesh-control", "mesh-ca"] {
        both_advance(&near_fleet, &first).await.context(name)?;
        running.world.process(name)?.kill()?;
        let dead = both_advance(&near_fleet, &first).await;
        dead.with_context(|| format!("{name} is dead"))?;
        running.world.process(name)?.restart()?;
        running.world.ready(name).await?;
        println!("{name}: killed and restarted; every transfer went on");
    }
    both_advance(&near_fleet, &first).await?;

    // Whatever dies with a node's proxy has one record at the other node, and only that dies.
    running.world.process("ztunnel node-2")?.kill()?;
    first.all_end().await?;
    let broken = first.broken(&ledger)?;
    ensure!(broken == ACROSS, "only {broken} of {ACROSS} broke");
    near_fleet.all_advance().await?;
    let pipe = running.world.folder.join("logs/unread");
    let mut unread = Unread::new(&pipe)?;
    let proxy = running.world.process("ztunnel node-2")?;
    proxy.spec_mut().log = pipe;
    proxy.restart()?;
    running.world.ready("ztunnel node-2").await?;
    println!("ztunnel node-2: killed and restarted; {broken} broke, nothing acknowledged was lost");

    let second = Fleet::start(&across, ACROSS, &ledger)?;
    both_advance(&near_fleet, &second).await?;
    fleet::small(&across, SMALL).await?;
    both_advance(&near_fleet, &second).await?;
    println!("{SMALL} small connections, and nobody reads the log of ztunnel node-2");
    drop_packets(running, client, far, "-I")?;
    near_fleet.all_advance().await?;
    tokio::time::sleep(DROPPED).await;
    drop_packets(running, client, far, "-D")?;
    second.advance_or_end().await?;
    near_fleet.all_advance().await?;
    let third = Fleet::start(&across, AFTERWARDS, &ledger)?;
    third.all_advance().await?;

    for fleet in [&near_fleet, &second, &third] {
        fleet.finish();
        fleet.all_end().await?;
    }
    let broken = second.broken(&ledger)?;
    println!("nothing for {DROPPED:?}: {broken} of {ACROSS} broke, the others went on");
    for (fleet, name) in [(&near_fleet, "within the node"), (&third, "afterwards")] {
        let broken = fleet.broken(&ledger)?;
        ensure!(broken == 0, "{broken} transfers {name} broke");
    }
    let expected = records::Expected {
        within: &near_fleet,
        before: &first,
        since: [&second, &third],
        small: SMALL,
    };
    expected.are_there(running, &mut unread).await
}

async fn both_advance(near: &Fleet, across: &Fleet) -> Result<()> {
    near.all_advance().await.context("within the node")?;
    across.all_advance().await.context("across nodes")
}

/// Loses every packet between two pods, both ways, or none again.
fn drop_packets(running: &Running, one: &str, other: &str, how: &str) -> Result<()> {
    let (one, other) = (running.world.place(one)?, running.world.place(other)?);
    lose(one, other, how)?;
    lose(other, one, how)
}

fn lose(at: &Place, from: &Place, how: &str) -> Result<()> {
    let from = from.v4().to_string();
    let mut command = Command::new("iptables");
    command.args(["-w", how, "INPUT", "-s", &from, "-j", "DROP"]);
    at.output(&mut command, "").map(drop)
}
