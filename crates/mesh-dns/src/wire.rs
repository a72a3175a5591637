//! A message as bytes: where its question ends and where its records are (RFC 1035 section 4).
//!
//! Names are only stepped over, so whatever a record holds passes through unread.

use std::ops::Range;

/// Bytes of the header.
pub const HEADER_BYTES: usize = 12;
/// The longest name, bytes on the wire.
pub const NAME_BYTES_MAX: usize = 255;
/// Type of EDNS's pseudo-record (RFC 6891).
pub const TYPE_OPT: u16 = 41;
/// Type of the record that says how long a negative answer holds (RFC 2308).
pub const TYPE_SOA: u16 = 6;

/// The bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a DNS message")]
pub struct Malformed;

/// The fields of the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The id.
    pub id: u16,
    /// Everything between the id and the counts.
    pub flags: u16,
    /// Questions, answers, authorities, additionals.
    pub counts: [u16; 4],
}

impl Header {
    /// QR: this is a response.
    pub const RESPONSE: u16 = 1 << 15;
    /// TC: there is more than fits.
    pub const TRUNCATED: u16 = 1 << 9;
    /// RD: the client wants recursion.
    pub const RECURSION_DESIRED: u16 = 1 << 8;
    /// RA: recursion is to be had.
    pub const RECURSION_AVAILABLE: u16 = 1 << 7;
    /// AD: the data is authentic, or the client wants to know.
    pub const AUTHENTIC: u16 = 1 << 5;
    /// CD: the client checks for itself.
    pub const CHECKING_DISABLED: u16 = 1 << 4;

    /// Reads it.
    ///
    /// # Errors
    /// With fewer than 12 bytes.
    pub fn read(bytes: &[u8]) -> Result<Self, Malformed> {
        let word = |n: usize| u16_at(bytes, n * 2);
        Ok(Self {
            id: word(0)?,
            flags: word(1)?,
            counts: [word(2)?, word(3)?, word(4)?, word(5)?],
        })
    }

    /// OPCODE; 0 is a query.
    pub const fn opcode(self) -> u16 {
        (self.flags >> 11) & 0xf
    }

    /// The four bits of RCODE that are in the header.
    pub const fn rcode(self) -> u16 {
        self.flags & 0xf
    }

    /// Whether a flag is set.
    pub const fn has(self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}

/// Which part of a message a record is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// What was asked for.
    Answer,
    /// Who is in charge.
    Authority,
    /// What may help.
    Additional,
}

/// Where one record is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its section.
    pub section: Section,
    /// Its type.
    pub kind: u16,
    /// Its class; of OPT, the UDP payload size.
    pub class: u16,
    /// Its time to live, seconds; of OPT, extended RCODE, version and flags.
    pub ttl: u32,
    /// Where those four bytes are.
    pub ttl_at: usize,
    /// Where its data is.
    pub data: Range<usize>,
}

/// Where everything is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// The header.
    pub header: Header,
    /// The first byte past the questions.
    pub questions_end: usize,
    /// The records in order.
    pub records: Vec<Place>,
}

impl Layout {
    /// Finds everything. Bytes past the last record are let be.
    ///
    /// # Errors
    /// When the counts promise more than there is, or a name runs past the end.
    pub fn of(bytes: &[u8]) -> Result<Self, Malformed> {
        let header = Header::read(bytes)?;
        let mut at = HEADER_BYTES;
        for _ in 0..header.counts[0] {
            at = name_end(bytes, at)? + 4;
            if at > bytes.len() {
                return Err(Malformed);
            }
        }
        let questions_end = at;
        let sections = [Section::Answer, Section::Authority, Section::Additional];
        let mut records = Vec::new();
        for (section, count) in sections.into_iter().zip(header.counts.into_iter().skip(1)) {
            for _ in 0..count {
                let place = record(bytes, at, section)?;
                at = place.data.end;
                records.push(place);
            }
        }
        Ok(Self {
            header,
            questions_end,
            records,
        })
    }

    /// The whole RCODE, with the bits that EDNS adds.
    pub fn rcode(&self) -> u16 {
        let opt = self.records.iter().find(|r| r.kind == TYPE_OPT);
        let high = opt.map_or(0, |r| r.ttl >> 24);
        u16::try_from(high << 4).unwrap_or(0) | self.header.rcode()
    }
}

fn record(bytes: &[u8], at: usize, section: Section) -> Result<Place, Malformed> {
    let at = name_end(bytes, at)?;
    let ttl_at = at + 4;
    let start = at + 10;
    let end = start + usize::from(u16_at(bytes, at + 8)?);
    if end > bytes.len() {
        return Err(Malformed);
    }
    Ok(Place {
        section,
        kind: u16_at(bytes, at)?,
        class: u16_at(bytes, at + 2)?,
        ttl: u32_at(bytes, ttl_at)?,
        ttl_at,
        data: start..end,
    })
}

/// The first byte past a name, which may end in a pointer.
fn name_end(bytes: &[u8], start: usize) -> Result<usize, Malformed> {
    let mut at = start;
    loop {
        let length = *bytes.get(at).ok_or(Malformed)?;
        match length >> 6 {
            0 if length == 0 => return Ok(at + 1),
            0 => at += 1 + usize::from(length),
            3 if at + 1 < bytes.len() => return Ok(at + 2),
            _ => return Err(Malformed),
        }
        if at - start >= NAME_BYTES_MAX {
            return Err(Malformed);
        }
    }
}

/// The first byte past a name that is written out in full, as in a question.
///
/// # Errors
/// When it has a pointer, is too long, or runs past the end.
pub fn plain_name_end(bytes: &[u8], start: usize) -> Result<usize, Malformed> {
    let end = name_end(bytes, start)?;
    // A pointer's second byte may be 0 too, so its first is looked at: the label before the end.
    let mut at = start;
    while at < end {
        let length = *bytes.get(at).ok_or(Malformed)?;
        if length >> 6 != 0 {
            return Err(Malformed);
        }
        at += 1 + usize::from(length);
    }
    if end - start > NAME_BYTES_MAX {
        return Err(Malformed);
    }
    Ok(end)
}

/// A number of two bytes.
///
/// # Errors
/// Past the end.
pub fn u16_at(bytes: &[u8], at: usize) -> Result<u16, Malformed> {
    match bytes.get(at..at + 2) {
        Some(&[a, b]) => Ok(u16::from_be_bytes([a, b])),
        _ => Err(Malformed),
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, Malformed> {
    match bytes.get(at..at + 4) {
        Some(&[a, b, c, d]) => Ok(u32::from_be_bytes([a, b, c, d])),
        _ => Err(Malformed),
    }
}

/// Puts bytes in the place of others; nothing happens past the end.
pub fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + value.len()) {
        place.copy_from_slice(value);
    }
}

/// The lowest time to live that a SOA record gives to "there is no such thing" (RFC 2308 section 5).
///
/// # Errors
/// When its data is too short.
pub fn soa_negative_ttl(bytes: &[u8], soa: &Place) -> Result<u32, Malformed> {
    // Two names and five numbers, the last of which is MINIMUM.
    let at = soa.data.end.checked_sub(4).ok_or(Malformed)?;
    if soa.data.len() < 22 {
        return Err(Malformed);
    }
    Ok(u32_at(bytes, at)?.min(soa.ttl))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::{Message, OpCode};
    use hickory_proto::rr::rdata::{A, SOA};
    use hickory_proto::rr::{Name, RData, Record};
    use proptest::prelude::*;

    fn soa_reply() -> Vec<u8> {
        let mut message = Message::response(7, OpCode::Query);
        let name: Name = "a.example.".parse().unwrap();
        message.add_answer(Record::from_rdata(
            name.clone(),
            300,
            RData::A(A::new(10, 0, 0, 1)),
        ));
        let soa = SOA::new(name.clone(), name.clone(), 1, 2, 3, 4, 60);
        message.add_authority(Record::from_rdata(name, 90, RData::SOA(soa)));
        message.to_vec().unwrap()
    }

    #[test]
    fn records_are_found_where_they_are() {
        let bytes = soa_reply();
        let layout = Layout::of(&bytes).unwrap();
        assert_eq!((layout.header.id, layout.rcode()), (7, 0));
        let [a, soa] = layout.records.as_slice() else {
            panic!("{layout:?}");
        };
        assert_eq!(
            (a.section, a.kind, a.class, a.ttl),
            (Section::Answer, 1, 1, 300)
        );
        assert_eq!(&bytes[a.data.clone()], [10, 0, 0, 1]);
        assert_eq!(soa.kind, TYPE_SOA);
        assert_eq!(soa_negative_ttl(&bytes, soa), Ok(60));
        assert_eq!(soa.data.end, bytes.len());
        for cut in 0..bytes.len() {
            assert!(Layout::of(&bytes[..cut]).is_err(), "{cut}");
        }
    }

    #[test]
    fn a_name_in_full_has_no_pointer() {
        assert_eq!(plain_name_end(b"\x01a\x02bc\x00!", 0), Ok(6));
        assert_eq!(plain_name_end(b"\x00", 0), Ok(1));
        assert!(plain_name_end(b"\x01a\xc0\x00", 0).is_err());
        assert!(plain_name_end(b"\xc0\x00", 0).is_err());
        assert!(plain_name_end(b"\x01a", 0).is_err());
        assert!(plain_name_end(b"\x40a\x00", 0).is_err());
        let long = [[63].as_slice(), &[b'a'; 63]].concat().repeat(4);
        assert!(plain_name_end(&[long, vec![0]].concat(), 0).is_err());
    }

    proptest! {
        /// Whatever the library reads in full, we find our way through.
        #[test]
        fn no_bytes_panic_and_places_lie_within(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(layout) = Layout::of(&bytes) {
                for place in &layout.records {
                    prop_assert!(place.data.end <= bytes.len());
                    prop_assert!(place.ttl_at + 6 <= place.data.start);
                }
            } else {
                prop_assert!(Message::from_vec(&bytes).is_err());
            }
        }
    }
}
