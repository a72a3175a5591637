//! Compression of header blocks (RFC 7541 section 6).

use super::table::{Found, Table};
use super::{DEFAULT_TABLE_BYTES, Field, huffman, integer};
use bytes::BytesMut;
use serde::{Deserialize, Serialize};

/// The largest table that we keep for the peer, whatever it allows, bytes.
const TABLE_BYTES_MAX: usize = DEFAULT_TABLE_BYTES;

/// Fields whose value is another one nearly each time: in the table they would only push out others.
const VARYING: &[&[u8]] = &[
    b":path",
    b"content-length",
    b"date",
    b"etag",
    b"forwarded",
    b"traceparent",
    b"tracestate",
    b"x-request-id",
];

/// The sending end of header compression: one a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Encoder {
    pub(super) table: Table,
    /// Sizes to announce at the start of the next block: the smallest since the last, and the latest.
    updates: Option<(usize, usize)>,
}

impl Default for Encoder {
    fn default() -> Self {
        Self {
            table: Table::new(DEFAULT_TABLE_BYTES),
            updates: None,
        }
    }
}

impl Encoder {
    /// The peer's SETTINGS_HEADER_TABLE_SIZE, bytes.
    pub fn allow_table(&mut self, bytes: usize) {
        let bytes = bytes.min(TABLE_BYTES_MAX);
        if bytes == self.table.bytes_max() {
            return;
        }
        let smallest = self
            .updates
            .map_or(bytes, |(smallest, _)| smallest.min(bytes));
        self.updates = Some((smallest, bytes));
        self.table.resize(bytes);
    }

    /// Encodes the fields of a header block. Blocks must be sent in the order in which they are made.
    pub fn encode(&mut self, fields: &[Field], out: &mut BytesMut) {
        if let Some((smallest, latest)) = self.updates.take() {
            if smallest < latest {
                integer::encode(0x20, 5, smallest, out);
            }
            integer::encode(0x20, 5, latest, out);
        }
        for field in fields {
            self.field(field, out);
        }
    }

    fn field(&mut self, field: &Field, out: &mut BytesMut) {
        let found = self.table.find(field);
        if let Found::Field(index) = found
            && !field.sensitive
        {
            integer::encode(0x80, 7, index, out);
            return;
        }
        let (first, prefix_bits) = match self.is_worth_keeping(field) {
            true => (0x40, 6),
            false if field.sensitive => (0x10, 4),
            false => (0x00, 4),
        };
        match found {
            Found::Field(index) | Found::Name(index) => {
                integer::encode(first, prefix_bits, index, out);
            }
            Found::Nothing => {
                integer::encode(first, prefix_bits, 0, out);
                string(&field.name, out);
            }
        }
        string(&field.value, out);
        if first == 0x40 {
            self.table.insert(field.name.clone(), field.value.clone());
        }
    }

    /// Whether a field goes into the table: not a secret, not one that varies, and not one that takes
    /// more than half of it.
    fn is_worth_keeping(&self, field: &Field) -> bool {
        !field.sensitive
            && field.size() * 2 <= self.table.bytes_max()
            && !VARYING.contains(&field.name.as_ref())
    }

    /// Whether the table is as it says.
    pub(crate) fn is_sound(&self) -> bool {
        self.table.is_sound() && self.table.bytes_max() <= TABLE_BYTES_MAX
    }
}

/// A string literal, in the shorter of its two forms.
fn string(text: &[u8], out: &mut BytesMut) {
    let coded = huffman::encoded_bytes(text);
    if coded < text.len() {
        integer::encode(0x80, 7, coded, out);
        huffman::encode(text, out);
    } else {
        integer::encode(0x00, 7, text.len(), out);
        out.extend_from_slice(text);
    }
}
