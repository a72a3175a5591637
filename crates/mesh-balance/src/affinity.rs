//! Session stickiness by source: weighted rendezvous hashing.
//!
//! Each endpoint gets a number from the source's address and its own key, and the one with the
//! highest takes the connection. Any proxy computes the same, with nothing to remember or to share;
//! an endpoint that goes moves only its own clients, and one that comes takes only its share. Shares
//! follow capacity (the weighted form: the logarithm of a uniform number, divided by the weight).

use mesh_model::{Dice, Workload};
use std::net::IpAddr;

/// FNV-1a, 64 bits: the same on every machine and in every version, unlike the standard hasher.
const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

/// How much a source wants an endpoint; the highest wins.
pub(crate) fn score(source: IpAddr, endpoint: &Workload) -> f64 {
    let source = source.to_canonical();
    let octets: &[u8] = match &source {
        IpAddr::V4(v4) => &v4.octets(),
        IpAddr::V6(v6) => &v6.octets(),
    };
    let key = endpoint.uid.0.as_bytes();
    let mut hash = FNV_OFFSET;
    for byte in octets.iter().chain(key) {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(FNV_PRIME);
    }
    // FNV mixes its last bytes too little to be compared; the generator's step does the rest.
    let [a, b, c, d, ..] = Dice::seeded(hash).next_u64().to_be_bytes();
    // In (0, 1): neither end, whose logarithm would be of no use.
    let uniform = (f64::from(u32::from_be_bytes([a, b, c, d])) + 0.5) / 4_294_967_296.0;
    // The negative of an exponential variable of rate `capacity`: the highest is the soonest.
    uniform.ln() / f64::from(endpoint.capacity.max(1))
}
