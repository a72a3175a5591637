//! Header compression (RFC 7541).

mod decode;
mod encode;
mod huffman;
mod integer;
mod table;
#[cfg(test)]
mod tests;

pub use decode::{Decoder, FieldList, ListLimits};
pub use encode::Encoder;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The dynamic table before SETTINGS, bytes.
pub(crate) const DEFAULT_TABLE_BYTES: usize = 4096;

/// One header field.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Field {
    /// Lower-case name, or one that begins with `:`.
    pub name: Bytes,
    /// Any bytes but CR, LF and NUL.
    pub value: Bytes,
    /// Never put into a compression table, here or at the peer's, and not shown by `Debug`.
    pub sensitive: bool,
}

impl Field {
    /// A field that may be compressed.
    pub fn new(name: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self {
            name: name.into(),
            value: value.into(),
            sensitive: false,
        }
    }

    /// A field that is known when the program is built.
    pub const fn from_static(name: &'static str, value: &'static str) -> Self {
        Self {
            name: Bytes::from_static(name.as_bytes()),
            value: Bytes::from_static(value.as_bytes()),
            sensitive: false,
        }
    }

    /// Whether it is a pseudo-header field (RFC 9113 section 8.3).
    pub fn is_pseudo(&self) -> bool {
        self.name.first() == Some(&b':')
    }

    /// A secret.
    pub fn sensitive(name: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self {
            sensitive: true,
            ..Self::new(name, value)
        }
    }
}

impl fmt::Debug for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name.escape_ascii();
        if self.sensitive {
            return write!(f, "{name}: (sensitive)");
        }
        write!(f, "{name}: {}", self.value.escape_ascii())
    }
}

/// A header block that cannot be decoded. All are connection errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum HpackError {
    /// The block ends in the middle.
    #[error("the block is cut off")]
    Truncated,
    /// An integer past 2^28.
    #[error("an integer is too large")]
    Integer,
    /// A string that is not Huffman code.
    #[error("not Huffman code")]
    Huffman,
    /// An index that no entry has.
    #[error("an index without an entry")]
    Index,
    /// A size update that is too large, misplaced or missing.
    #[error("a table size update is too large, misplaced or missing")]
    TableSize,
    /// The block decompresses to too much.
    #[error("the block decompresses to too much")]
    Bomb,
}
