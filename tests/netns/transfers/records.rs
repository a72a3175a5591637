//! Every connection has one record at the proxy that outlived it, with how it ended.

use super::blocked::Unread;
use super::fleet::{End, Transfer};
use super::ledger::PORT;
use crate::world::Running;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// What there was to record.
pub(super) struct Expected<'a> {
    /// Every transfer: the proxy of the clients' node outlived them all.
    pub(super) all: &'a [Arc<Transfer>],
    /// Those of them whose server is on that node too.
    pub(super) within: usize,
    /// Small connections to the other node.
    pub(super) small: usize,
    /// Connections to the other node that began after its proxy was restarted.
    pub(super) at_the_server: usize,
}

impl Expected<'_> {
    /// Waits for the records, and sees that each is there once.
    pub(super) async fn are_there(&self, running: &mut Running, unread: &mut Unread) -> Result<()> {
        let wanted = [self.all.len() + self.small, self.within, self.at_the_server];
        let (mut near, mut counts) = (Vec::new(), [0; 3]);
        for _ in 0..1000 {
            near = records(&running.world.process("ztunnel node-1")?.log()?);
            let far = records(&unread.text()?);
            counts = [
                count(&near, "outbound"),
                count(&near, "inbound"),
                count(&far, "inbound"),
            ];
            if counts.iter().zip(&wanted).all(|(is, want)| is >= want) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        ensure!(
            counts == wanted,
            "records at node-1 outbound, inbound, and at node-2: {counts:?}, not {wanted:?}"
        );
        self.by_reason(&near)?;
        let [out, _, at_the_server] = counts;
        println!(
            "one record each: {out} connections at the clients' node, {at_the_server} at the servers'"
        );
        Ok(())
    }

    /// As many records say `ok` as connections ended in order. They are counted, not found by address:
    /// the kernel gives a redirected connection another port when its own is taken by one to elsewhere,
    /// which becomes the same when both are redirected, and the tests before leave thousands of such.
    fn by_reason(&self, records: &[Value]) -> Result<()> {
        let mut by_reason: BTreeMap<&str, usize> = BTreeMap::new();
        for record in records.iter().filter(|r| r["direction"] == "outbound") {
            let reason = record["reason"].as_str().context("no reason")?;
            *by_reason.entry(reason).or_default() += 1;
        }
        let ended_whole = |t: &&Arc<Transfer>| t.end.get() == Some(&End::Whole);
        let whole = self.small + self.all.iter().filter(ended_whole).count();
        let ok = by_reason.get("ok").copied().unwrap_or_default();
        ensure!(ok == whole, "{whole} ended in order, {ok} records say so");
        println!("how all ended: {by_reason:?}");
        Ok(())
    }
}

fn count(records: &[Value], direction: &str) -> usize {
    let those = records.iter().filter(|r| r["direction"] == direction);
    those.count()
}

/// The records of connections to the transfers' port.
fn records(log: &str) -> Vec<Value> {
    let port = format!(":{PORT}");
    let of_transfer = |record: &Value| {
        let is_record = record["message"] == "connection complete";
        let asked = |key: &str| record[key].as_str().is_some_and(|a| a.ends_with(&port));
        is_record && (asked("dst.addr") || asked("dst.hbone_addr"))
    };
    log.lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .filter(of_transfer)
        .collect()
}
