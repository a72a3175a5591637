//! Sessions: against rustls as the peer, against one another, and against forged records.

mod forged;
mod groups;
mod peers;

use super::keys::Half;
use super::records::REKEY_AFTER;
use super::*;
use crate::aead::{AeadLibrary, Cipher};
use proptest::prelude::*;
use zeroize::Zeroizing;

/// Two ends with the same secrets; `library` is the first one's.
fn ends(library: AeadLibrary, cipher: Cipher) -> (Records, Records) {
    let half = |library, fill: u8| {
        let secret = Zeroizing::new(vec![fill; cipher.secret_len()]);
        Half::new(library, cipher, secret, 0).unwrap()
    };
    (
        Records::new(false, half(library, 1), half(library, 2)),
        Records::new(
            true,
            half(AeadLibrary::AwsLc, 2),
            half(AeadLibrary::AwsLc, 1),
        ),
    )
}

fn both() -> (Records, Records) {
    ends(AeadLibrary::Ring, Cipher::Aes256)
}

fn library() -> impl Strategy<Value = AeadLibrary> {
    prop_oneof![Just(AeadLibrary::Ring), Just(AeadLibrary::AwsLc)]
}

fn cipher() -> impl Strategy<Value = Cipher> {
    prop_oneof![Just(Cipher::Aes256), Just(Cipher::Aes128)]
}

fn pattern(length: usize) -> Vec<u8> {
    (0u8..251).cycle().take(length).collect()
}

/// Hands the records of one end to a successor by way of text.
fn moved(records: Records) -> Records {
    let text = serde_json::to_string(&records.into_snapshot().unwrap()).unwrap();
    Records::restore(serde_json::from_str(&text).unwrap()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// However the data is cut into writes and the wire into reads, with keys changed and either end
    /// replaced on the way, what arrives is what was sent.
    #[test]
    fn what_is_sealed_is_opened_whatever_the_chunks(
        library in library(),
        cipher in cipher(),
        writes in prop::collection::vec(0usize..40_000, 1..12),
        reads in prop::collection::vec(1usize..50_000, 1..40),
        rekey_after in 1u64..6,
        moves in any::<u16>(),
    ) {
        let (mut sender, mut receiver) = ends(library, cipher);
        sender.rekey_after = rekey_after;
        let sent = pattern(writes.iter().sum());
        let (mut wire, mut from) = (BytesMut::new(), 0);
        for (i, length) in writes.iter().enumerate() {
            sender.seal(&[&sent[from..from + length]], &mut wire).unwrap();
            from += length;
            if moves >> (i % 16) & 1 == 1 {
                sender = moved(sender);
                sender.rekey_after = rekey_after;
            }
        }
        sender.close_notify(&mut wire).unwrap();
        let (mut buffer, mut plain, mut closed) = (BytesMut::new(), BytesMut::new(), false);
        let mut reads = reads.iter().cycle().enumerate();
        while let Some((i, &length)) = reads.next().filter(|_| !wire.is_empty()) {
            buffer.extend_from_slice(&wire.split_to(length.min(wire.len())));
            let before = plain.len();
            let opened = receiver.open(&mut buffer, &mut plain).unwrap();
            prop_assert_eq!(plain.len() - before, opened.plain);
            closed = opened.closed;
            if moves >> (i % 16) & 1 == 1 {
                receiver = moved(receiver);
            }
        }
        prop_assert!(closed && receiver.received_close() && buffer.is_empty());
        prop_assert_eq!(&plain[..], &sent[..]);
    }

    /// One bit changed anywhere in a record is noticed, and what came before it is delivered.
    #[test]
    fn an_altered_record_is_refused(library in library(), at in 0usize..1022, bit in 0u8..8) {
        let (mut sender, mut receiver) = ends(library, Cipher::Aes256);
        receiver.receiving.library = library;
        let mut wire = BytesMut::new();
        sender.seal(&[b"good"], &mut wire).unwrap();
        let start = wire.len();
        sender.seal(&[&[5; 1000]], &mut wire).unwrap();
        wire[start + at] ^= 1 << bit;
        // A longer length waits for bytes that never come: let them come.
        wire.extend_from_slice(&[0; 70_000]);
        let mut plain = BytesMut::new();
        let opened = receiver.open(&mut wire, &mut plain).unwrap();
        prop_assert_eq!((&plain[..], opened.closed), (&b"good"[..], false));
        for _ in 0..2 {
            let error = receiver.open(&mut wire, &mut plain).unwrap_err();
            prop_assert!(matches!(error, TlsError::Record(_)), "{}", error);
        }
        prop_assert_eq!(&plain[..], b"good");
    }

    #[test]
    fn any_bytes_are_refused_without_panic(
        mut bytes in prop::collection::vec(any::<u8>(), 0..400),
        typed in any::<bool>(),
    ) {
        if let (true, Some(first)) = (typed, bytes.first_mut()) {
            *first = 23;
        }
        let (_, mut receiver) = both();
        let opened = receiver.open_in_place(&mut bytes);
        prop_assert!(opened.is_err() || opened.unwrap().consumed == 0);
    }
}

#[test]
fn records_lie_where_they_will_be_sent_from_and_come_out_as_one_run() {
    let (mut sender, mut receiver) = both();
    let mut out = BytesMut::with_capacity(3 * RECORD_WIRE_MAX);
    let place = out.as_ptr();
    let mut writer = sender.writer(&mut out);
    // A header whose length is known only after the payload was read into its place.
    writer.put(&[0, 0]).unwrap();
    assert_eq!((writer.written(), writer.room()), (2, RECORD_PLAIN_MAX - 2));
    let mut tail = writer.tail(RECORD_PLAIN_MAX).unwrap();
    assert_eq!(bytes::BufMut::remaining_mut(&tail), RECORD_PLAIN_MAX - 2);
    bytes::BufMut::put_slice(&mut tail, b"payload");
    writer.data_mut()[1] = 7;
    writer.put(&[1; 2 * RECORD_PLAIN_MAX]).unwrap();
    writer.finish().unwrap();
    assert_eq!(out.as_ptr(), place);
    assert_eq!(out.len(), 2 * RECORD_PLAIN_MAX + 9 + 3 * 22);

    let mut plain = BytesMut::new();
    let opened = receiver.open(&mut out, &mut plain).unwrap();
    assert_eq!(opened.plain, 2 * RECORD_PLAIN_MAX + 9);
    assert_eq!(plain[..9], *b"\0\x07payload");
    assert_eq!(plain.as_ptr(), place);
}

#[test]
fn a_writer_that_is_given_up_leaves_nothing_unsealed() {
    let (mut sender, mut receiver) = both();
    let mut out = BytesMut::new();
    sender.seal(&[b"sealed"], &mut out).unwrap();
    let sealed = out.len();
    let mut writer = sender.writer(&mut out);
    writer.put(b"secret").unwrap();
    drop(writer);
    assert_eq!(out.len(), sealed);
    let mut writer = sender.writer(&mut out);
    writer.begin().unwrap();
    writer.finish().unwrap();
    assert_eq!(out.len(), sealed);
    sender.seal(&[b" on"], &mut out).unwrap();
    let mut plain = BytesMut::new();
    receiver.open(&mut out, &mut plain).unwrap();
    assert_eq!(plain[..], *b"sealed on");
}

#[test]
fn keys_change_before_their_limit() {
    let (mut sender, mut receiver) = both();
    assert_eq!(sender.rekey_after, REKEY_AFTER);
    sender.rekey_after = 3;
    let (mut wire, mut plain) = (BytesMut::new(), BytesMut::new());
    for _ in 0..10 {
        sender.seal(&[b"x"], &mut wire).unwrap();
        assert!(sender.sending.sequence <= 3);
    }
    receiver.open(&mut wire, &mut plain).unwrap();
    assert_eq!(plain.len(), 10);
    // Nobody asked for ours to change.
    assert!(!receiver.owes_update());
}

#[test]
fn a_closed_side_sends_no_more_and_still_receives() {
    let (mut client, mut server) = both();
    let (mut up, mut down, mut plain) = (BytesMut::new(), BytesMut::new(), BytesMut::new());
    client.close_notify(&mut up).unwrap();
    let length = up.len();
    client.close_notify(&mut up).unwrap();
    assert_eq!(up.len(), length);
    let error = client.seal(&[b"x"], &mut up).unwrap_err();
    assert!(matches!(error, TlsError::Record(RecordFault::Closed)));
    // What follows the end is ignored.
    up.extend_from_slice(b"garbage");
    let opened = server.open(&mut up, &mut plain).unwrap();
    assert!(opened.closed && up.is_empty());
    server.seal(&[b"late"], &mut down).unwrap();
    client.open(&mut down, &mut plain).unwrap();
    assert_eq!(plain[..], *b"late");
}

#[test]
fn an_altered_snapshot_is_refused_and_a_secret_is_never_shown() {
    let (client, _) = both();
    let snapshot = client.into_snapshot().unwrap();
    assert_eq!(format!("{snapshot:?}"), "RecordsSnapshot(..)");
    let good = serde_json::to_value(&snapshot).unwrap();
    for (field, value) in [
        ("version", serde_json::json!(0)),
        ("suite", serde_json::json!(0x1303)),
        ("message_head", serde_json::json!([24, 0, 0, 1, 0])),
        ("message_skip", serde_json::json!(1 << 20)),
        (
            "sending",
            serde_json::json!({"secret": [1, 2], "sequence": 0}),
        ),
    ] {
        let mut bad = good.clone();
        bad[field] = value;
        let snapshot = serde_json::from_value(bad).unwrap();
        assert!(Records::restore(snapshot).is_err(), "{field}");
    }
    Records::restore(serde_json::from_value(good).unwrap()).unwrap();
}
