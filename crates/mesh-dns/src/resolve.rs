//! Addresses of a host name, for the proxy's own use: of workloads that have a name and no address.

use crate::query::Query;
use crate::reply::PAYLOAD_BYTES;
use crate::upstream::{Forwarder, Protocol, UpstreamError};
use crate::wire::{Header, Layout, Section};
use hickory_proto::op::{Edns, Message};
use hickory_proto::rr::{Name, RecordType};
use std::net::IpAddr;
use std::time::Duration;

/// Addresses taken of one name.
const ADDRESSES_MAX: usize = 32;
/// How long no answer with addresses holds: long enough not to hammer, short enough to recover.
const EMPTY_TTL: Duration = Duration::from_secs(10);
/// The bounds of how long addresses hold, whatever their times to live.
const TTL: std::ops::RangeInclusive<u32> = 5..=300;

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The addresses, IPv4 first, in the server's order. None when there are none.
    pub addresses: Vec<IpAddr>,
    /// How long that holds; 5 s to 5 minutes.
    pub holds: Duration,
}

impl Forwarder {
    /// Resolves a host name: both families, or IPv4 alone; over TCP what is too long for UDP.
    ///
    /// # Errors
    /// See [`UpstreamError`]; one of the families is enough. A name that is none is
    /// [`UpstreamError::NoName`].
    pub async fn resolve(&self, host: &str, ipv6: bool) -> Result<Resolved, UpstreamError> {
        let name = Name::from_ascii(host).map_err(|_| UpstreamError::NoName)?;
        let four = self.resolve_one(&name, RecordType::A);
        let six = async {
            match ipv6 {
                true => self.resolve_one(&name, RecordType::AAAA).await,
                false => Ok(Vec::new()),
            }
        };
        let records = match tokio::join!(four, six) {
            (Ok(mut four), Ok(six)) => {
                four.extend(six);
                four
            }
            (Ok(some), Err(_)) | (Err(_), Ok(some)) if !some.is_empty() => some,
            (Err(error), _) | (_, Err(error)) => return Err(error),
        };
        let least = records.iter().map(|(_, ttl)| *ttl).min();
        let seconds = least.map(|ttl| ttl.clamp(*TTL.start(), *TTL.end()));
        let addresses = records.into_iter().map(|(address, _)| address);
        Ok(Resolved {
            addresses: addresses.take(ADDRESSES_MAX).collect(),
            holds: seconds.map_or(EMPTY_TTL, |s| Duration::from_secs(u64::from(s))),
        })
    }

    async fn resolve_one(
        &self,
        name: &Name,
        kind: RecordType,
    ) -> Result<Vec<(IpAddr, u32)>, UpstreamError> {
        let mut message = Message::query();
        message.metadata.recursion_desired = true;
        let mut name = name.clone();
        name.set_fqdn(true);
        message.add_query(hickory_proto::op::Query::query(name, kind));
        let mut edns = Edns::new();
        edns.set_max_payload(PAYLOAD_BYTES);
        message.set_edns(edns);
        let bytes = message.to_vec().map_err(|_| UpstreamError::NoName)?;
        let query = Query::read(&bytes).map_err(|_| UpstreamError::NoName)?;
        let mut reply = match self.cached(&query) {
            Some(kept) => kept,
            None => self.forward(&query, Protocol::Udp).await?,
        };
        if Header::read(&reply).is_ok_and(|h| h.has(Header::TRUNCATED)) {
            reply = self.forward(&query, Protocol::Tcp).await?;
        }
        Ok(addresses(&reply, kind))
    }
}

/// The addresses among the answers, which may lead there by aliases.
fn addresses(reply: &[u8], kind: RecordType) -> Vec<(IpAddr, u32)> {
    let Ok(layout) = Layout::of(reply) else {
        return Vec::new();
    };
    let wanted = |p: &&crate::wire::Place| {
        p.section == Section::Answer && p.kind == u16::from(kind) && p.class == 1
    };
    let address = |p: &crate::wire::Place| {
        let data = reply.get(p.data.clone())?;
        let address = match kind {
            RecordType::A => IpAddr::from(<[u8; 4]>::try_from(data).ok()?),
            _ => IpAddr::from(<[u8; 16]>::try_from(data).ok()?),
        };
        Some((address, p.ttl))
    };
    layout
        .records
        .iter()
        .filter(wanted)
        .filter_map(address)
        .collect()
}
