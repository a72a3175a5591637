//! Every connection has one record at the proxy that outlived it, with how it ended.

use super::blocked::Unread;
use super::fleet::{End, Fleet, Transfer};
use super::ledger::{PORT, PORT_END, port};
use crate::world::Running;
use anyhow::{Result, bail, ensure};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;

/// What there was to record.
pub(super) struct Expected<'a> {
    /// Transfers within the clients' node, whose proxy outlived all of them.
    pub(super) within: &'a Fleet,
    /// Transfers to the other node, whose proxy they died with.
    pub(super) before: &'a Fleet,
    /// Transfers to the other node that began after its proxy was restarted.
    pub(super) since: [&'a Fleet; 2],
    /// Small connections to the other node, after that too.
    pub(super) small: usize,
}

impl Expected<'_> {
    /// Waits for the records, and sees that each is there once, with how it ended.
    pub(super) async fn are_there(&self, running: &mut Running, unread: &mut Unread) -> Result<()> {
        let within: Vec<&Transfer> = self.within.transfers().collect();
        let since: Vec<&Transfer> = self.since.iter().flat_map(|f| f.transfers()).collect();
        let mut all = within.clone();
        all.extend(self.before.transfers().chain(since.iter().copied()));
        let wanted = [
            all.len() + self.small,
            within.len(),
            since.len() + self.small,
        ];
        let mut found = [(); 3].map(|()| Vec::new());
        for _ in 0..1000 {
            let near = records(&running.world.process("ztunnel node-1")?.log()?);
            let far = records(&unread.text()?);
            found = [
                going(&near, "outbound"),
                going(&near, "inbound"),
                going(&far, "inbound"),
            ];
            if found
                .iter()
                .zip(&wanted)
                .all(|(is, want)| is.len() >= *want)
            {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let counts = [0, 1, 2].map(|n| found[n].len());
        ensure!(
            counts == wanted,
            "records at node-1 outbound, inbound, and at node-2: {counts:?}, not {wanted:?}"
        );
        let [out, near_in, far_in] = &found;
        for (records, transfers, small) in [
            (out, &all, self.small),
            (near_in, &within, 0),
            (far_in, &since, self.small),
        ] {
            named(records, transfers, small)?;
        }
        println!(
            "one record each: {} connections at the clients' node, {} at the servers'",
            out.len(),
            far_in.len()
        );
        println!("how all ended: {:?}", by_reason(out));
        Ok(())
    }
}

/// Each transfer has one record, and it says `ok` when and only when the transfer ended in order.
fn named(records: &[Record], transfers: &[&Transfer], small: usize) -> Result<()> {
    let mut by_port: BTreeMap<u16, Vec<&Record>> = BTreeMap::new();
    for record in records {
        by_port.entry(record.port).or_default().push(record);
    }
    for transfer in transfers {
        let own = by_port.remove(&port(transfer.number));
        let [one] = own.as_deref().unwrap_or_default() else {
            bail!("{transfer:?} has the records {own:?}");
        };
        let whole = transfer.end.get() == Some(&End::Whole);
        ensure!((one.reason == "ok") == whole, "{transfer:?} has {one:?}");
    }
    let rest = by_port.remove(&PORT).unwrap_or_default();
    ensure!(by_port.is_empty(), "of no transfer: {by_port:?}");
    let ok = rest.iter().filter(|record| record.reason == "ok").count();
    ensure!(ok == small, "{small} small ones, {ok} records say so");
    Ok(())
}

fn by_reason(records: &[Record]) -> BTreeMap<&str, usize> {
    let mut by_reason = BTreeMap::new();
    for record in records {
        *by_reason.entry(&*record.reason).or_default() += 1;
    }
    by_reason
}

/// What a record says of its connection.
#[derive(Debug, Clone)]
struct Record {
    direction: String,
    /// The one the client asked for.
    port: u16,
    reason: String,
}

fn going(records: &[Record], direction: &str) -> Vec<Record> {
    let those = records.iter().filter(|r| r.direction == direction);
    those.cloned().collect()
}

/// The records of connections to the ports of transfers.
fn records(log: &str) -> Vec<Record> {
    log.lines().filter_map(record).collect()
}

fn record(line: &str) -> Option<Record> {
    let record: Value = serde_json::from_str(line).ok()?;
    if record["message"] != "connection complete" {
        return None;
    }
    let text = |key: &str| record[key].as_str().map(str::to_owned);
    let asked = text("dst.hbone_addr").or_else(|| text("dst.addr"))?;
    let port = asked.rsplit_once(':')?.1.parse().ok()?;
    (PORT..PORT_END).contains(&port).then_some(())?;
    Some(Record {
        direction: text("direction")?,
        port,
        reason: text("reason")?,
    })
}
