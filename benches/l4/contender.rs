//! Who is measured.

use serde::Serialize;

/// What carries the bytes between client and server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Contender {
    /// Nothing: what the network and the load tool themselves can do.
    Direct,
    /// Our ztunnel.
    Strata,
    /// An earlier build of it.
    Base,
    /// Istio's ztunnel.
    Peer,
    /// HAProxy carrying plain TCP.
    Haproxy,
    /// The floor: records sealed and opened, and nothing else.
    Limit,
}

impl Contender {
    /// In the order of the tables.
    pub(crate) const ALL: [Self; 6] = [
        Self::Direct,
        Self::Strata,
        Self::Base,
        Self::Peer,
        Self::Haproxy,
        Self::Limit,
    ];

    /// Its name in tables and flags.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Strata => "strata",
            Self::Base => "base",
            Self::Peer => "peer",
            Self::Haproxy => "haproxy",
            Self::Limit => "limit",
        }
    }
}
