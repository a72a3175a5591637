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
        self.each_once(&near)?;
        let [out, _, at_the_server] = counts;
        println!(
            "one record each: {out} connections at the clients' node, {at_the_server} at the servers'"
        );
        Ok(())
    }

    /// One record a transfer, and `ok` is what ended in order. By address where the record has it: the
    /// kernel gives a redirected connection another port when its own is taken by one to elsewhere,
    /// which becomes the same when both are redirected; the tests before leave many such. So the reasons
    /// are counted as well.
    fn each_once(&self, records: &[Value]) -> Result<()> {
        let mut reasons: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        let mut by_reason: BTreeMap<&str, usize> = BTreeMap::new();
        for record in records.iter().filter(|r| r["direction"] == "outbound") {
            let client = record["src.addr"].as_str().context("no client")?;
            let reason = record["reason"].as_str().context("no reason")?;
            reasons.entry(client.to_owned()).or_default().push(reason);
            *by_reason.entry(reason).or_default() += 1;
        }
        let (mut whole, mut readdressed) = (self.small, 0);
        for transfer in self.all {
            let ended_whole = transfer.end.get() == Some(&End::Whole);
            whole += usize::from(ended_whole);
            let local = transfer.local.get().context("never connected")?;
            // The kernel may have given a port again, to a small connection at the most.
            match reasons.get(&local.to_string()).map(Vec::as_slice) {
                Some([reason]) => {
                    ensure!(
                        ended_whole == (*reason == "ok"),
                        "{transfer:?} was {reason}"
                    );
                }
                Some(_) => {}
                None => readdressed += 1,
            }
        }
        let ok = by_reason.get("ok").copied().unwrap_or_default();
        ensure!(ok == whole, "{whole} ended in order, {ok} records say so");
        println!("how all ended: {by_reason:?}; {readdressed} under another port");
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
