//! Decompression of header blocks (RFC 7541 section 6).

use super::table::{ENTRY_OVERHEAD_BYTES, Table};
use super::{DEFAULT_TABLE_BYTES, Field, HpackError, huffman, integer};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// How much of a header block is kept.
#[derive(Debug, Clone, Copy)]
pub struct ListLimits {
    /// Sum over the fields of name, value and 32, bytes.
    pub list_bytes_max: usize,
    /// Fields.
    pub fields_max: usize,
    /// Sum as above at which decoding is given up, bytes.
    pub bomb_bytes_max: usize,
}

/// The fields of a header block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FieldList {
    /// All of them.
    Whole(Vec<Field>),
    /// They were over the limits and are thrown away; the decoder is still in step with the peer.
    TooLarge,
}

/// The receiving end of header compression: one a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decoder {
    pub(super) table: Table,
    /// What the peer may set the table's size to, bytes.
    table_bytes_allowed: usize,
    /// The allowed size was lowered under the table's; the next block must begin with an update.
    update_due: bool,
}

impl Default for Decoder {
    fn default() -> Self {
        Self {
            table: Table::new(DEFAULT_TABLE_BYTES),
            table_bytes_allowed: DEFAULT_TABLE_BYTES,
            update_due: false,
        }
    }
}

impl Decoder {
    /// The peer has acknowledged another SETTINGS_HEADER_TABLE_SIZE, bytes.
    pub fn allow_table(&mut self, bytes: usize) {
        self.table_bytes_allowed = bytes;
        self.update_due = self.table.bytes_max() > bytes;
    }

    /// Decodes a whole header block.
    ///
    /// # Errors
    /// The block breaks RFC 7541 or is a bomb; the peer's and our tables no longer agree.
    pub fn decode(
        &mut self,
        mut block: &[u8],
        limits: &ListLimits,
    ) -> Result<FieldList, HpackError> {
        let mut fields = Vec::new();
        let (mut list_bytes, mut too_large, mut at_start) = (0_usize, false, true);
        while let Some((first, rest)) = block.split_first() {
            block = rest;
            if first & 0xe0 == 0x20 {
                self.resize(*first, &mut block, at_start)?;
                continue;
            }
            if self.update_due {
                return Err(HpackError::TableSize);
            }
            at_start = false;
            let field = self.field(*first, &mut block)?;
            list_bytes += field.size();
            if list_bytes > limits.bomb_bytes_max {
                return Err(HpackError::Bomb);
            }
            if list_bytes > limits.list_bytes_max || fields.len() >= limits.fields_max {
                too_large = true;
                fields = Vec::new();
            }
            if !too_large {
                fields.push(field);
            }
        }
        if too_large {
            return Ok(FieldList::TooLarge);
        }
        Ok(FieldList::Whole(fields))
    }

    /// A dynamic table size update: only at the start of a block, only within what we allowed.
    fn resize(&mut self, first: u8, block: &mut &[u8], at_start: bool) -> Result<(), HpackError> {
        let bytes = integer::decode(first, 5, block)?;
        if !at_start || bytes > self.table_bytes_allowed {
            return Err(HpackError::TableSize);
        }
        self.update_due = false;
        self.table.resize(bytes);
        Ok(())
    }

    fn field(&mut self, first: u8, block: &mut &[u8]) -> Result<Field, HpackError> {
        if first & 0x80 != 0 {
            let index = integer::decode(first, 7, block)?;
            let (name, value) = self.table.get(index).ok_or(HpackError::Index)?;
            return Ok(Field {
                name,
                value,
                sensitive: false,
            });
        }
        let indexed = first & 0x40 != 0;
        let index = integer::decode(first, if indexed { 6 } else { 4 }, block)?;
        let name = match index {
            0 => string(block)?,
            _ => self.table.get(index).ok_or(HpackError::Index)?.0,
        };
        let value = string(block)?;
        if indexed {
            self.table.insert(name.clone(), value.clone());
        }
        Ok(Field {
            name,
            value,
            sensitive: !indexed && first & 0x10 != 0,
        })
    }

    /// Whether the table is as it says.
    pub(crate) fn is_sound(&self) -> bool {
        self.table.is_sound()
            && (self.update_due || self.table.bytes_max() <= self.table_bytes_allowed)
    }
}

impl Field {
    /// What the field counts in a list or table, bytes (RFC 7541 section 4.1).
    pub fn size(&self) -> usize {
        self.name.len() + self.value.len() + ENTRY_OVERHEAD_BYTES
    }
}

/// A string literal (RFC 7541 section 5.2).
fn string(block: &mut &[u8]) -> Result<Bytes, HpackError> {
    let (first, mut rest) = block.split_first().ok_or(HpackError::Truncated)?;
    let length = integer::decode(*first, 7, &mut rest)?;
    let (text, after) = rest.split_at_checked(length).ok_or(HpackError::Truncated)?;
    *block = after;
    if first & 0x80 != 0 {
        return huffman::decode(text).map(Bytes::from);
    }
    Ok(Bytes::copy_from_slice(text))
}
