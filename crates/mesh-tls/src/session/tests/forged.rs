//! Records that a peer with the right keys may still get wrong.

use super::super::records::{APPLICATION_DATA, HEADER};
use super::*;
use bytes::BufMut;

/// Appends a record of any kind and content.
fn record(sender: &mut Records, kind: u8, content: &[u8], wire: &mut BytesMut) {
    let start = wire.len();
    wire.put_bytes(0, HEADER);
    wire.put_slice(content);
    sender.seal_from(start, kind, wire).unwrap();
}

/// What a server, or a client, says to records of a kind and content each.
fn verdict(to_server: bool, records: &[(u8, &[u8])]) -> Result<(Opened, Records), TlsError> {
    let (client, server) = both();
    let (mut sender, mut receiver) = if to_server {
        (client, server)
    } else {
        (server, client)
    };
    let mut wire = BytesMut::new();
    for (kind, content) in records {
        record(&mut sender, *kind, content, &mut wire);
    }
    let opened = receiver.open(&mut wire, &mut BytesMut::new())?;
    Ok((opened, receiver))
}

fn fault(to_server: bool, records: &[(u8, &[u8])]) -> RecordFault {
    match verdict(to_server, records).unwrap_err() {
        TlsError::Record(fault) => fault,
        other => panic!("{other}"),
    }
}

const KEY_UPDATE: &[u8] = &[24, 0, 0, 1, 0];
/// A ticket message of nine bytes of whatever.
const TICKET: &[u8] = &[4, 0, 0, 9, 1, 2, 3, 4, 5, 6, 7, 8, 9];

#[test]
fn what_has_no_place_is_refused() {
    use RecordFault::{Malformed, Overflow, Unexpected};
    let too_long = [1; RECORD_PLAIN_MAX + 1];
    type Forged<'a> = &'a [(u8, &'a [u8])];
    let cases: [(Forged<'_>, RecordFault); 12] = [
        // Nothing but padding.
        (&[(0, &[])], Unexpected),
        // Change of cipher spec, heartbeat, an unknown kind.
        (&[(20, &[1])], Unexpected),
        (&[(24, &[1])], Unexpected),
        (&[(99, b"x")], Unexpected),
        (&[(21, &[1])], Malformed),
        (&[(21, &[])], Malformed),
        (&[(22, &[])], Unexpected),
        // A client's hello, a key update of two bytes, one that asks for what does not exist.
        (&[(22, &[1, 0, 0, 1, 0])], Unexpected),
        (&[(22, &[24, 0, 0, 2, 0, 0])], Malformed),
        (&[(22, &[24, 0, 0, 1, 2])], Malformed),
        // A key update with something behind it in its record.
        (&[(22, &[24, 0, 0, 1, 0, 24])], Unexpected),
        (&[(23, &too_long)], Overflow),
    ];
    for (records, expected) in cases {
        for to_server in [false, true] {
            assert_eq!(fault(to_server, records), expected, "{records:?}");
        }
    }
    assert_eq!(fault(true, &[(22, TICKET)]), Unexpected);
}

#[test]
fn messages_are_read_over_records_that_nothing_else_interrupts() {
    let cut: Vec<(u8, &[u8])> = TICKET.chunks(2).map(|part| (22, part)).collect();
    verdict(false, &cut).unwrap();
    // Two tickets in one record, and a third begun.
    let many = [TICKET, TICKET, &TICKET[..3]].concat();
    let (_, client) = verdict(false, &[(22, &many), (22, &TICKET[3..])]).unwrap();
    assert!(!client.messages.under_way());
    for interrupted in [3, 8] {
        let records: [(u8, &[u8]); 2] = [(22, &TICKET[..interrupted]), (23, b"x")];
        assert_eq!(fault(false, &records), RecordFault::Unexpected);
    }
    let (_, server) = verdict(true, &[(22, &KEY_UPDATE[..2]), (22, &KEY_UPDATE[2..])]).unwrap();
    assert!(!server.owes_update());
    let (_, server) = verdict(true, &[(22, &[24, 0, 0, 1, 1])]).unwrap();
    assert!(server.owes_update());
}

#[test]
fn alerts_end_the_session_except_the_one_that_announces_an_end() {
    let (opened, _) = verdict(true, &[(21, &[1, 90]), (23, b"x"), (21, &[1, 0])]).unwrap();
    assert_eq!((opened.plain, opened.closed), (1, true));
    let error = verdict(true, &[(21, &[2, 42])]).unwrap_err();
    assert!(matches!(&error, TlsError::Alert(why) if why == "BadCertificate"));
}

#[test]
fn padding_is_taken_off() {
    let (opened, _) = verdict(true, &[(0, b"data\x17\0\0\0\0")]).unwrap();
    assert_eq!(opened.plain, 4);
}

#[test]
fn records_without_data_are_taken_up_to_a_bound() {
    let empty: (u8, &[u8]) = (APPLICATION_DATA, &[]);
    verdict(true, &[empty; 32]).unwrap();
    assert_eq!(fault(true, &[empty; 33]), RecordFault::Flood);
    let mut spread = vec![empty; 32];
    spread.push((APPLICATION_DATA, b"x"));
    spread.extend([empty; 32]);
    verdict(true, &spread).unwrap();
    assert_eq!(fault(false, &[(22, TICKET); 33]), RecordFault::Flood);
    let warning: (u8, &[u8]) = (21, &[1, 90]);
    assert_eq!(fault(true, &[warning; 33]), RecordFault::Flood);
}

#[test]
fn a_record_is_good_once_and_in_its_place() {
    let (mut sender, _) = both();
    let (mut first, mut second) = (BytesMut::new(), BytesMut::new());
    sender.seal(&[b"first"], &mut first).unwrap();
    sender.seal(&[b"second"], &mut second).unwrap();
    for orders in [[&second, &first], [&first, &first]] {
        let (_, mut receiver) = both();
        let mut last = Ok(Opened::default());
        for record in orders {
            last = receiver.open_in_place(&mut record.clone());
        }
        let error = last.unwrap_err();
        assert!(matches!(error, TlsError::Record(RecordFault::BadMac)));
        let mut out = BytesMut::new();
        receiver.abort(&error, &mut out);
        let (mut client, _) = both();
        let told = client.open(&mut out, &mut BytesMut::new()).unwrap_err();
        assert!(matches!(&told, TlsError::Alert(why) if why == "BadRecordMac"));
        let length = out.len();
        receiver.abort(&error, &mut out);
        assert_eq!(out.len(), length);
    }
}

#[test]
fn headers_that_lie_are_refused_before_their_bytes_come() {
    let cases = [
        ([22, 3, 3, 0, 30], RecordFault::Unexpected),
        ([23, 3, 3, 0x41, 1], RecordFault::Overflow),
        ([23, 3, 3, 0, 16], RecordFault::BadMac),
    ];
    for (mut header, expected) in cases {
        let (_, mut receiver) = both();
        let error = receiver.open_in_place(&mut header).unwrap_err();
        assert!(matches!(error, TlsError::Record(fault) if fault == expected));
    }
}
