//! The static table (RFC 7541 appendix A) and the dynamic one (section 4).

use super::Field;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// What an entry costs besides its name and value, bytes (RFC 7541 section 4.1).
pub(crate) const ENTRY_OVERHEAD_BYTES: usize = 32;

/// Entries 1 to 61.
pub(crate) const STATIC: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

/// The dynamic table: entries by age, the newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Table {
    entries: VecDeque<(Bytes, Bytes)>,
    bytes: usize,
    bytes_max: usize,
}

impl Table {
    pub(crate) const fn new(bytes_max: usize) -> Self {
        Self {
            entries: VecDeque::new(),
            bytes: 0,
            bytes_max,
        }
    }

    pub(crate) const fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    pub(crate) fn resize(&mut self, bytes_max: usize) {
        self.bytes_max = bytes_max;
        self.evict(0);
    }

    /// Adds an entry, at the cost of the oldest. One larger than the table empties it.
    pub(crate) fn insert(&mut self, name: Bytes, value: Bytes) {
        let size = name.len() + value.len() + ENTRY_OVERHEAD_BYTES;
        self.evict(size);
        if size <= self.bytes_max {
            self.bytes += size;
            self.entries.push_front((name, value));
        }
    }

    fn evict(&mut self, room: usize) {
        while self.bytes + room > self.bytes_max {
            let Some((name, value)) = self.entries.pop_back() else {
                return;
            };
            self.bytes -= name.len() + value.len() + ENTRY_OVERHEAD_BYTES;
        }
    }

    /// The entry of an index, static or dynamic, from 1.
    pub(crate) fn get(&self, index: usize) -> Option<(Bytes, Bytes)> {
        let place = index.checked_sub(1)?;
        if let Some((name, value)) = STATIC.get(place) {
            return Some((
                Bytes::from_static(name.as_bytes()),
                Bytes::from_static(value.as_bytes()),
            ));
        }
        self.entries.get(place - STATIC.len()).cloned()
    }

    /// The index of a field: of name and value, else of the name alone.
    pub(crate) fn find(&self, field: &Field) -> Found {
        let fixed = STATIC
            .iter()
            .map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        let dynamic = self.entries.iter().map(|(n, v)| (n.as_ref(), v.as_ref()));
        let mut name_at = None;
        for (place, (name, value)) in fixed.chain(dynamic).enumerate() {
            if name != field.name.as_ref() {
                continue;
            }
            if value == field.value.as_ref() {
                return Found::Field(place + 1);
            }
            name_at = name_at.or(Some(place + 1));
        }
        name_at.map_or(Found::Nothing, Found::Name)
    }

    /// Whether the size kept is that of the entries.
    pub(crate) fn is_sound(&self) -> bool {
        let sizes = self.entries.iter().map(|(n, v)| n.len() + v.len());
        self.bytes <= self.bytes_max
            && sizes.map(|size| size + ENTRY_OVERHEAD_BYTES).sum::<usize>() == self.bytes
    }

    #[cfg(test)]
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
}

/// Where a field stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// Name and value have this index.
    Field(usize),
    /// The name has this index.
    Name(usize),
    /// Neither.
    Nothing,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(table: &mut Table, name: &'static str, value: &'static str) {
        table.insert(name.into(), value.into());
    }

    #[test]
    fn the_oldest_go_first() {
        let mut table = Table::new(100);
        add(&mut table, "one", "1"); // 36 bytes
        add(&mut table, "two", "2");
        assert_eq!((table.len(), table.bytes()), (2, 72));
        add(&mut table, "three", "3");
        assert_eq!(table.len(), 2);
        assert_eq!(table.get(62).unwrap().0, "three");
        assert_eq!(table.get(63).unwrap().0, "two");
        assert!(table.get(64).is_none() && table.get(0).is_none());
        table.resize(40);
        assert_eq!(table.len(), 1);
        assert!(table.is_sound());
    }

    #[test]
    fn an_entry_larger_than_the_table_empties_it() {
        let mut table = Table::new(40);
        add(&mut table, "one", "1");
        add(&mut table, "a-long-name", "1");
        assert_eq!((table.len(), table.bytes()), (0, 0));
    }

    #[test]
    fn a_field_is_found_before_its_name() {
        let mut table = Table::new(4096);
        add(&mut table, ":authority", "a");
        let find = |name, value| table.find(&Field::from_static(name, value));
        assert_eq!(find(":authority", "a"), Found::Field(62));
        assert_eq!(find(":authority", "b"), Found::Name(1));
        assert_eq!(find(":method", "POST"), Found::Field(3));
        assert_eq!(find("x", ""), Found::Nothing);
    }
}
