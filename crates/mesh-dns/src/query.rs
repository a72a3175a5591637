//! A client's query: the question, what may change its answer, and the bytes as they came.

use crate::wire::{self, HEADER_BYTES, Header, Layout, Section, TYPE_OPT};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{DNSClass, Name, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};

/// What a client without EDNS takes over UDP, bytes (RFC 1035 section 4.2.1).
const UDP_BYTES_PLAIN: u16 = 512;

/// What the client says by EDNS (RFC 6891).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edns {
    /// What it takes over UDP, bytes; at least 512.
    pub payload_bytes: u16,
    /// DO: it wants signatures.
    pub dnssec_ok: bool,
    /// There are options, which may change the answer.
    pub options: bool,
}

/// One question, and all that came with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// The bytes as they came.
    pub bytes: Vec<u8>,
    /// The header.
    pub header: Header,
    /// The name, as the client wrote it.
    pub name: Name,
    /// The type.
    pub kind: RecordType,
    /// The class.
    pub class: DNSClass,
    /// The first byte past the question.
    pub question_end: usize,
    /// EDNS, if the client has it.
    pub edns: Option<Edns>,
    /// There are records beside EDNS, such as a signature of the message.
    pub more: bool,
}

/// Why there is no query in the bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueryFault {
    /// Not worth an answer: no header, or itself a response (answering those makes two servers talk
    /// for ever).
    #[error("not a query")]
    Drop,
    /// To be answered with the bytes given.
    #[error("refused with {code}")]
    Refuse {
        /// Why.
        code: ResponseCode,
        /// What to answer.
        reply: Vec<u8>,
    },
}

impl Query {
    /// Reads a query.
    ///
    /// # Errors
    /// See [`QueryFault`]. Transfers of zones are refused: they are not one answer.
    pub fn read(bytes: &[u8]) -> Result<Self, QueryFault> {
        let header = Header::read(bytes).map_err(|_| QueryFault::Drop)?;
        if header.has(Header::RESPONSE) {
            return Err(QueryFault::Drop);
        }
        let end = if header.counts[0] == 1 {
            wire::plain_name_end(bytes, HEADER_BYTES)
                .ok()
                .map(|end| end + 4)
                .filter(|end| *end <= bytes.len())
        } else {
            None
        };
        let refuse = |code| QueryFault::Refuse {
            code,
            reply: crate::reply::refusal(bytes, header, end, code),
        };
        if header.opcode() != 0 {
            return Err(refuse(ResponseCode::NotImp));
        }
        let question_end = end.ok_or_else(|| refuse(ResponseCode::FormErr))?;
        let malformed = || refuse(ResponseCode::FormErr);
        let (name, kind, class) = question(bytes, question_end).ok_or_else(malformed)?;
        let layout = Layout::of(bytes).map_err(|_| malformed())?;
        let mut query = Self {
            bytes: bytes.to_vec(),
            header,
            name,
            kind,
            class,
            question_end,
            edns: None,
            more: false,
        };
        for record in &layout.records {
            if record.kind != TYPE_OPT {
                query.more = true;
                continue;
            }
            if record.section != Section::Additional || query.edns.is_some() {
                return Err(malformed());
            }
            if (record.ttl >> 16) & 0xff != 0 {
                return Err(refuse(ResponseCode::BADVERS));
            }
            query.edns = Some(Edns {
                payload_bytes: record.class.max(UDP_BYTES_PLAIN),
                dnssec_ok: record.ttl & 0x8000 != 0,
                options: !record.data.is_empty(),
            });
        }
        if matches!(kind, RecordType::AXFR | RecordType::IXFR) {
            return Err(refuse(ResponseCode::NotImp));
        }
        Ok(query)
    }

    /// The question's bytes: name, type and class.
    pub fn question(&self) -> &[u8] {
        self.bytes
            .get(HEADER_BYTES..self.question_end)
            .unwrap_or_default()
    }

    /// How long an answer over UDP may be, bytes.
    pub fn udp_bytes_max(&self) -> usize {
        usize::from(self.edns.map_or(UDP_BYTES_PLAIN, |e| e.payload_bytes))
    }
}

fn question(bytes: &[u8], end: usize) -> Option<(Name, RecordType, DNSClass)> {
    let name = bytes.get(HEADER_BYTES..end.checked_sub(4)?)?;
    let name = Name::read(&mut BinDecoder::new(name)).ok()?;
    let kind = wire::u16_at(bytes, end - 4).ok()?;
    let class = wire::u16_at(bytes, end - 2).ok()?;
    Some((name, RecordType::from(kind), DNSClass::from(class)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::{Message, Query as Asked};
    use hickory_proto::rr::rdata::opt::EdnsOption;

    fn message(name: &str) -> Message {
        let mut message = Message::query();
        message.add_query(Asked::query(Name::from_ascii(name).unwrap(), RecordType::A));
        message
    }

    fn read(message: &Message) -> Result<Query, QueryFault> {
        Query::read(&message.to_vec().unwrap())
    }

    fn code(bytes: &[u8]) -> ResponseCode {
        match Query::read(bytes) {
            Err(QueryFault::Refuse { code, reply }) => {
                let reply = Message::from_vec(&reply).unwrap();
                let id = Header::read(bytes).unwrap().id;
                // BADVERS and BADSIG are one number.
                let number = u16::from(reply.metadata.response_code);
                assert_eq!((reply.metadata.id, number), (id, u16::from(code)));
                code
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_question_is_read_as_it_was_written() {
        let query = read(&message("wWw.Example.com.")).unwrap();
        assert_eq!(query.name.to_ascii(), "wWw.Example.com.");
        assert_eq!((query.kind, query.class), (RecordType::A, DNSClass::IN));
        assert_eq!(query.question().len(), 17 + 4);
        assert_eq!((query.edns, query.udp_bytes_max()), (None, 512));
    }

    #[test]
    fn edns_is_read() {
        let mut asked = message("a.b.");
        let mut edns = hickory_proto::op::Edns::new();
        edns.set_max_payload(100);
        edns.set_dnssec_ok(true);
        asked.set_edns(edns.clone());
        let read_edns = read(&asked).unwrap().edns.unwrap();
        assert_eq!((read_edns.payload_bytes, read_edns.dnssec_ok), (512, true));
        assert!(!read_edns.options);
        let cookie = EdnsOption::Unknown(10, vec![1; 8]);
        edns.set_max_payload(1232);
        edns.options_mut().insert(cookie);
        asked.set_edns(edns.clone());
        let read_edns = read(&asked).unwrap().edns.unwrap();
        assert_eq!((read_edns.payload_bytes, read_edns.options), (1232, true));
        edns.set_version(1);
        asked.set_edns(edns);
        assert_eq!(code(&asked.to_vec().unwrap()), ResponseCode::BADVERS);
    }

    #[test]
    fn what_is_no_query_is_dropped_or_refused() {
        let bytes = message("a.b.").to_vec().unwrap();
        let with = |at: usize, value: u8| {
            let mut bytes = bytes.clone();
            bytes[at] = value;
            bytes
        };
        assert_eq!(Query::read(&bytes[..11]), Err(QueryFault::Drop));
        assert_eq!(Query::read(&with(2, 0x80)), Err(QueryFault::Drop));
        assert_eq!(code(&with(2, 0x10)), ResponseCode::NotImp);
        assert_eq!(code(&with(5, 0)), ResponseCode::FormErr);
        assert_eq!(code(&with(5, 2)), ResponseCode::FormErr);
        assert_eq!(code(&with(7, 1)), ResponseCode::FormErr);
        assert_eq!(code(&bytes[..bytes.len() - 1]), ResponseCode::FormErr);
        assert_eq!(code(&with(12, 0xc0)), ResponseCode::FormErr);
        // AXFR.
        assert_eq!(code(&with(bytes.len() - 3, 252)), ResponseCode::NotImp);
    }
}
