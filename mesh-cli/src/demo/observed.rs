//! What the proxies themselves reported: their end records, read from their logs, and the connections
//! that a ztunnel still carries (a proxy in front keeps some open for the next request).

use anyhow::{Context, Result};
use mesh_lab::probe;
use mesh_lab::world::World;
use mesh_plan::explain::Layer;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::net::SocketAddr;

/// Where a ztunnel's admin pages are, on its node.
const ADMIN: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 15000);

/// A place in every proxy's log and the bytes carried so far: what comes after it happened since.
#[derive(Debug, Default)]
pub(crate) struct Mark {
    offsets: BTreeMap<String, u64>,
    carried: BTreeMap<(String, u64), u64>,
}

/// One end record.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    /// The proxy, in the words of `mesh explain`.
    pub(crate) proxy: String,
    /// The layer it reported at.
    pub(crate) layer: Layer,
    /// Why it ended.
    pub(crate) reason: String,
    /// The peer's identity, as TLS proved it.
    pub(crate) peer: Option<String>,
}

/// Records of one check, in brief.
#[derive(Debug, Default)]
pub(crate) struct Observed {
    /// Each proxy that reported, with the highest layer it reported at.
    pub(crate) hops: BTreeMap<String, Layer>,
    /// Reasons other than `ok`, with how often.
    pub(crate) failures: BTreeMap<String, usize>,
    /// Peer identities seen, as `namespace/account`.
    pub(crate) identities: BTreeSet<String>,
}

/// The names of processes that are proxies.
fn is_proxy(name: &str) -> bool {
    ["ztunnel ", "sidecar ", "gateway ", "waypoint "]
        .iter()
        .any(|kind| name.starts_with(kind))
}

/// Remembers where every proxy's log ends now, and what each open connection has carried.
pub(crate) async fn mark(world: &World) -> Result<Mark> {
    let length = |name: &str| std::fs::metadata(world.log(name)).map_or(0, |m| m.len());
    let proxies = world
        .processes()
        .map(|(name, _)| name)
        .filter(|name| is_proxy(name));
    let offsets = proxies
        .map(|name| (name.to_owned(), length(name)))
        .collect();
    let live = live(world).await?;
    let carried = live
        .into_iter()
        .map(|l| ((l.process, l.id), l.bytes))
        .collect();
    Ok(Mark { offsets, carried })
}

/// Reads what was reported since, and what moved since on connections that are still open.
pub(crate) async fn since(world: &World, mark: &Mark) -> Result<Vec<Record>> {
    let mut records = Vec::new();
    for (name, offset) in &mark.offsets {
        let path = world.log(name);
        let mut file = File::open(&path).with_context(|| path.display().to_string())?;
        file.seek(SeekFrom::Start(*offset))?;
        let mut text = String::new();
        file.read_to_string(&mut text)
            .with_context(|| path.display().to_string())?;
        // A line that is being written has no end yet: its record counts next time.
        let whole = text.rfind('\n').map_or("", |end| text.split_at(end).0);
        records.extend(whole.lines().filter_map(|line| record(name, line)));
    }
    for live in live(world).await? {
        let before = mark.carried.get(&(live.process, live.id));
        if before != Some(&live.bytes) {
            records.push(live.record);
        }
    }
    Ok(records)
}

struct Live {
    process: String,
    id: u64,
    bytes: u64,
    record: Record,
}

/// The connections that every ztunnel carries now.
async fn live(world: &World) -> Result<Vec<Live>> {
    let mut all = Vec::new();
    for node in world.topology.nodes() {
        let process = format!("ztunnel {}", node.name());
        let answer = probe::get(node, ADMIN, "/debug/connections").await?;
        let table: Vec<Value> =
            serde_json::from_str(&answer.body).with_context(|| process.clone())?;
        all.extend(table.iter().filter_map(|entry| live_of(&process, entry)));
    }
    Ok(all)
}

fn live_of(process: &str, entry: &Value) -> Option<Live> {
    let inbound = entry["direction"] == "inbound";
    let (local, peer) = if inbound {
        ("destination", "source")
    } else {
        ("source", "destination")
    };
    let record = Record {
        proxy: format!("ztunnel of {}", entry[local]["workload"].as_str()?),
        layer: Layer::L4,
        reason: "ok".to_owned(),
        peer: entry[peer]["identity"].as_str().map(brief),
    };
    let bytes = entry["bytesSent"]
        .as_u64()?
        .saturating_add(entry["bytesReceived"].as_u64()?);
    Some(Live {
        process: process.to_owned(),
        id: entry["id"].as_u64()?,
        bytes,
        record,
    })
}

fn record(process: &str, line: &str) -> Option<Record> {
    let value: Value = serde_json::from_str(line).ok()?;
    let field = |name: &str| value.get(name).and_then(Value::as_str);
    let layer = match field("message")? {
        "connection complete" | "connection failed" => Layer::L4,
        "request complete" => Layer::L7,
        _ => return None,
    };
    let inbound = field("direction") == Some("inbound") || field("reporter") != Some("source");
    Some(Record {
        proxy: proxy(process, &value)?,
        layer,
        reason: field("reason")?.to_owned(),
        peer: field(if inbound {
            "src.identity"
        } else {
            "dst.identity"
        })
        .map(brief),
    })
}

/// The name that `mesh explain` gives to the proxy.
fn proxy(process: &str, record: &Value) -> Option<String> {
    let field = |name: &str| record.get(name).and_then(Value::as_str);
    let (kind, place) = process.split_once(' ')?;
    Some(match kind {
        "ztunnel" => {
            let side = if field("direction") == Some("inbound") {
                "dst"
            } else {
                "src"
            };
            let namespace = field(&format!("{side}.namespace"))?;
            let workload = field(&format!("{side}.workload"))?;
            format!("ztunnel of {namespace}/{workload}")
        }
        "sidecar" => format!("sidecar of demo/{place}"),
        "gateway" => "gateway demo/edge".to_owned(),
        _ => format!("{kind} demo/{place}"),
    })
}

/// `namespace/account` of a SPIFFE identity.
fn brief(identity: &str) -> String {
    identity.parse::<mesh_model::SpiffeId>().map_or_else(
        |_| identity.to_owned(),
        |id| format!("{}/{}", id.namespace(), id.service_account()),
    )
}

/// One release of an application stands for all: a split takes now this one, now that.
pub(crate) fn without_release(proxy: &str) -> String {
    let proxy = proxy.split(',').next().unwrap_or(proxy);
    proxy
        .strip_suffix("-v1")
        .or_else(|| proxy.strip_suffix("-v2"))
        .unwrap_or(proxy)
        .to_owned()
}

impl Observed {
    /// Sums records up.
    pub(crate) fn of(records: &[Record]) -> Self {
        let mut observed = Self::default();
        for record in records {
            let layer = observed
                .hops
                .entry(without_release(&record.proxy))
                .or_insert(record.layer);
            if record.layer == Layer::L7 {
                *layer = Layer::L7;
            }
            if record.reason != "ok" {
                *observed.failures.entry(record.reason.clone()).or_default() += 1;
            }
            observed.identities.extend(record.peer.clone());
        }
        observed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_named_as_explain_names_proxies() {
        let line = r#"{"message":"connection complete","direction":"outbound","reporter":"source",
            "src.workload":"client","src.namespace":"demo","reason":"ok",
            "dst.identity":"spiffe://cluster.local/ns/demo/sa/ratings"}"#;
        let record = record("ztunnel node-1", line).unwrap();
        assert_eq!(record.proxy, "ztunnel of demo/client");
        assert_eq!(record.peer.as_deref(), Some("demo/ratings"));
        assert_eq!(record.layer, Layer::L4);
    }

    #[test]
    fn the_highest_layer_of_a_proxy_counts() {
        let record = |layer| Record {
            proxy: "sidecar of demo/reviews-v2".into(),
            layer,
            reason: "policy_denied".into(),
            peer: None,
        };
        let observed = Observed::of(&[record(Layer::L7), record(Layer::L4)]);
        assert_eq!(
            observed.hops.get("sidecar of demo/reviews"),
            Some(&Layer::L7)
        );
        assert_eq!(observed.failures.get("policy_denied"), Some(&2));
    }
}
