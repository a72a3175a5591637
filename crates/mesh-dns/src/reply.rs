//! Replies: our own answers and refusals, and what came from upstream made into the client's.

use crate::answer::Answer;
use crate::query::Query;
use crate::wire::{self, HEADER_BYTES, Header};
use hickory_proto::op::{Edns, Message, OpCode, ResponseCode};
use hickory_proto::serialize::binary::{BinEncodable, BinEncoder};

/// The longest UDP message we say we take, bytes: what passes every path unfragmented (DNS flag
/// day 2020).
pub const PAYLOAD_BYTES: u16 = 1232;

/// The answer of the mesh, of at most `bytes_max` bytes; what does not fit is left out and TC set.
/// None when not even the question fits.
pub fn of_mesh(query: &Query, answer: &Answer, bytes_max: usize) -> Option<Vec<u8>> {
    let mut message = head(query, ResponseCode::NoError);
    message.metadata.authoritative = true;
    message.add_answers(answer.records.iter().cloned());
    let mut bytes = Vec::with_capacity(512);
    let mut encoder = BinEncoder::new(&mut bytes);
    encoder.set_max_size(u16::try_from(bytes_max).unwrap_or(u16::MAX));
    message.emit(&mut encoder).ok()?;
    // The library may write a question in lower case or shorten it; the client's is put back.
    wire::put(&mut bytes, HEADER_BYTES, query.question());
    Some(bytes)
}

/// A failure of ours, such as SERVFAIL.
pub fn failure(query: &Query, code: ResponseCode) -> Vec<u8> {
    refusal(&query.bytes, query.header, Some(query.question_end), code)
}

fn head(query: &Query, code: ResponseCode) -> Message {
    let mut message = Message::response(query.header.id, OpCode::Query);
    let asked = query.header;
    message.metadata.recursion_desired = asked.has(Header::RECURSION_DESIRED);
    message.metadata.checking_disabled = asked.has(Header::CHECKING_DISABLED);
    message.metadata.recursion_available = true;
    message.metadata.response_code = code;
    let mut question = hickory_proto::op::Query::query(query.name.clone(), query.kind);
    question.set_query_class(query.class);
    message.add_query(question);
    if let Some(asked) = query.edns {
        let mut edns = Edns::new();
        edns.set_max_payload(PAYLOAD_BYTES);
        edns.set_dnssec_ok(asked.dnssec_ok);
        message.set_edns(edns);
    }
    message
}

/// A reply without records: the header, the question where it could be read, and EDNS where the code
/// needs it.
pub(crate) fn refusal(
    bytes: &[u8],
    header: Header,
    question_end: Option<usize>,
    code: ResponseCode,
) -> Vec<u8> {
    let code = u16::from(code);
    let kept = Header::RECURSION_DESIRED | Header::CHECKING_DISABLED | (0xf << 11);
    let flags = Header::RESPONSE | Header::RECURSION_AVAILABLE | (header.flags & kept);
    let extended = code >> 4;
    let question = question_end.and_then(|end| bytes.get(HEADER_BYTES..end));
    let mut reply = Vec::with_capacity(64);
    let counts = [u16::from(question.is_some()), 0, 0, u16::from(extended > 0)];
    for word in [header.id, flags | (code & 0xf)].into_iter().chain(counts) {
        reply.extend_from_slice(&word.to_be_bytes());
    }
    reply.extend_from_slice(question.unwrap_or_default());
    if extended > 0 {
        // The root, OPT, our size, the code's upper bits, version 0, no flags, no options.
        reply.extend_from_slice(&[0, 0, 41]);
        reply.extend_from_slice(&PAYLOAD_BYTES.to_be_bytes());
        reply.extend_from_slice(&[extended.to_be_bytes()[1], 0, 0, 0, 0, 0]);
    }
    reply
}

/// Makes a message from upstream the answer to this query: the client's id, and the question as the
/// client wrote it, so that an answer from the cache has the right letters.
pub fn for_client(query: &Query, message: &mut [u8]) {
    wire::put(message, 0, &query.header.id.to_be_bytes());
    if Header::read(message).is_ok_and(|h| h.counts[0] == 1) {
        wire::put(message, HEADER_BYTES, query.question());
    }
}

/// What is sent over UDP instead of a message that is too long: its header with TC, and the
/// question. The client then asks over TCP.
pub fn truncated(query: &Query, message: &[u8]) -> Vec<u8> {
    let flags = wire::u16_at(message, 2).unwrap_or(Header::RESPONSE) | Header::TRUNCATED;
    let mut reply = refusal(
        &query.bytes,
        query.header,
        Some(query.question_end),
        ResponseCode::NoError,
    );
    wire::put(&mut reply, 2, &flags.to_be_bytes());
    reply
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::Query as Asked;
    use hickory_proto::rr::rdata::A;
    use hickory_proto::rr::{Name, RData, Record, RecordType};
    use mesh_model::{Service, ServiceName};
    use std::sync::Arc;

    fn query(edns: Option<u16>) -> Query {
        let mut message = Message::query();
        message.metadata.recursion_desired = true;
        let name = Name::from_ascii("wEb.Demo.").unwrap();
        message.add_query(Asked::query(name, RecordType::A));
        if let Some(payload) = edns {
            let mut edns = Edns::new();
            edns.set_max_payload(payload);
            edns.set_dnssec_ok(true);
            message.set_edns(edns);
        }
        Query::read(&message.to_vec().unwrap()).unwrap()
    }

    fn answer(query: &Query, count: u16) -> Answer {
        let record = |n: u16| {
            let [a, b] = n.to_be_bytes();
            Record::from_rdata(query.name.clone(), 30, RData::A(A::new(10, 0, a, b)))
        };
        Answer {
            service: Arc::new(Service::new(ServiceName::new("demo", "web"), "web")),
            records: (0..count).map(record).collect(),
        }
    }

    #[test]
    fn an_answer_has_the_clients_id_question_and_edns() {
        for edns in [None, Some(4096)] {
            let query = query(edns);
            let bytes = of_mesh(&query, &answer(&query, 3), query.udp_bytes_max()).unwrap();
            assert_eq!(&bytes[HEADER_BYTES..query.question_end], query.question());
            let reply = Message::from_vec(&bytes).unwrap();
            let head = reply.metadata;
            assert_eq!(head.id, query.header.id);
            assert!(head.authoritative && head.recursion_available && head.recursion_desired);
            assert!(!head.truncation);
            assert_eq!(head.response_code, ResponseCode::NoError);
            assert_eq!(reply.answers.len(), 3);
            assert_eq!(reply.answers[0].name.to_ascii(), "wEb.Demo.");
            let said = reply.edns.map(|e| (e.max_payload(), e.flags().dnssec_ok));
            assert_eq!(said, edns.map(|_| (1232, true)));
        }
    }

    #[test]
    fn what_does_not_fit_is_left_out_and_said_so() {
        for (edns, most) in [(None, 512), (Some(800), 800)] {
            let query = query(edns);
            let all = answer(&query, 1000);
            let bytes = of_mesh(&query, &all, query.udp_bytes_max()).unwrap();
            assert!(
                bytes.len() <= most && bytes.len() > most / 2,
                "{}",
                bytes.len()
            );
            let reply = Message::from_vec(&bytes).unwrap();
            assert!(reply.metadata.truncation);
            let tcp = of_mesh(&query, &all, usize::from(u16::MAX)).unwrap();
            let reply = Message::from_vec(&tcp).unwrap();
            assert!(!reply.metadata.truncation);
            assert_eq!(reply.answers.len(), 1000);
        }
    }

    #[test]
    fn a_failure_is_the_question_alone() {
        let query = query(Some(1232));
        let reply = Message::from_vec(&failure(&query, ResponseCode::ServFail)).unwrap();
        assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
        assert_eq!(reply.queries[0].name(), &query.name);
        assert!(reply.answers.is_empty());
    }

    #[test]
    fn a_message_from_upstream_becomes_the_clients() {
        let (asked, client) = (query(None), query(None));
        let mut message = of_mesh(&asked, &answer(&asked, 1), 512).unwrap();
        message[HEADER_BYTES + 1].make_ascii_uppercase();
        for_client(&client, &mut message);
        assert_eq!(message[..2], client.bytes[..2]);
        assert_eq!(
            &message[HEADER_BYTES..client.question_end],
            client.question()
        );
        let cut = Message::from_vec(&truncated(&client, &message)).unwrap();
        assert!(cut.metadata.truncation && cut.metadata.authoritative);
        assert_eq!((cut.metadata.id, cut.answers.len()), (client.header.id, 0));
    }
}
