//! Header compression against the examples of the RFC, and against itself.

mod vectors;

use super::*;
use bytes::BytesMut;
use proptest::prelude::*;
use vectors::Example;

const WIDE: ListLimits = ListLimits {
    list_bytes_max: 1 << 16,
    fields_max: 1000,
    bomb_bytes_max: 1 << 20,
};

fn bytes_of(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().collect();
    let pairs = digits.chunks(2).map(|pair| str::from_utf8(pair).unwrap());
    pairs
        .map(|pair| u8::from_str_radix(pair, 16).unwrap())
        .collect()
}

fn whole(list: FieldList) -> Vec<Field> {
    match list {
        FieldList::Whole(fields) => fields,
        FieldList::TooLarge => panic!("too large"),
    }
}

fn fields_of(pairs: &[(&'static str, &'static str)]) -> Vec<Field> {
    let field = |(name, value): &(&'static str, &'static str)| Field::from_static(name, value);
    pairs.iter().map(field).collect()
}

fn without_sensitivity(fields: Vec<Field>) -> Vec<Field> {
    let plain = |field| Field {
        sensitive: false,
        ..field
    };
    fields.into_iter().map(plain).collect()
}

fn check(table_bytes: usize, examples: &[Example]) {
    let mut decoder = Decoder::default();
    decoder.table.resize(table_bytes);
    for (hex, table_bytes, fields) in examples {
        let list = whole(decoder.decode(&bytes_of(hex), &WIDE).unwrap());
        assert_eq!(without_sensitivity(list), fields_of(fields), "{hex}");
        assert_eq!(decoder.table.bytes(), *table_bytes, "{hex}");
        assert!(decoder.is_sound());
    }
}

#[test]
fn rfc_7541_c2_each_representation() {
    for example in vectors::REPRESENTATIONS {
        check(4096, std::slice::from_ref(example));
    }
}

#[test]
fn rfc_7541_c3_to_c6_sequences() {
    check(4096, vectors::REQUESTS_PLAIN);
    check(4096, vectors::REQUESTS_HUFFMAN);
    check(256, vectors::RESPONSES_PLAIN);
    check(256, vectors::RESPONSES_HUFFMAN);
}

#[test]
fn our_encoder_writes_the_huffman_requests_of_the_rfc() {
    let mut encoder = Encoder::default();
    for (hex, _, fields) in vectors::REQUESTS_HUFFMAN {
        let mut out = BytesMut::new();
        encoder.encode(&fields_of(fields), &mut out);
        assert_eq!(out, bytes_of(hex));
    }
}

#[test]
fn a_never_indexed_field_stays_so() {
    let list = whole(
        Decoder::default()
            .decode(&bytes_of("100870617373776f726406736563726574"), &WIDE)
            .unwrap(),
    );
    assert!(list[0].sensitive);
    let mut out = BytesMut::new();
    Encoder::default().encode(&list, &mut out);
    assert_eq!(out[0] & 0xf0, 0x10);
    assert_eq!(format!("{:?}", list[0]), "password: (sensitive)");
}

#[test]
fn each_error() {
    for (hex, error) in [
        ("80", HpackError::Index),             // index 0
        ("be", HpackError::Index),             // dynamic 1 of an empty table
        ("7f00", HpackError::Index),           // name of an entry that is not there
        ("40", HpackError::Truncated),         // no name
        ("400161", HpackError::Truncated),     // no value
        ("00056161", HpackError::Truncated),   // name cut off
        ("ffffffffffff", HpackError::Integer), // endless index
        ("0081ff00", HpackError::Huffman),     // a whole byte of padding
        ("3fe21f", HpackError::TableSize),     // 4097
        ("8220", HpackError::TableSize),       // not at the start
    ] {
        let result = Decoder::default().decode(&bytes_of(hex), &WIDE);
        assert_eq!(result, Err(error), "{hex}");
    }
}

#[test]
fn a_lowered_table_must_be_confirmed() {
    let mut decoder = Decoder::default();
    decoder.allow_table(100);
    assert!(decoder.is_sound());
    let mut late = decoder.clone();
    assert_eq!(late.decode(&[0x82], &WIDE), Err(HpackError::TableSize));
    // 0x3f 0x45 is a size update to 100.
    assert!(decoder.decode(&[0x3f, 0x45, 0x82], &WIDE).is_ok());
    assert!(decoder.decode(&[0x82], &WIDE).is_ok());
}

#[test]
fn the_encoder_confirms_each_lowering() {
    let mut encoder = Encoder::default();
    encoder.allow_table(0);
    encoder.allow_table(50);
    let mut out = BytesMut::new();
    encoder.encode(&[Field::from_static(":method", "GET")], &mut out);
    assert_eq!(out.as_ref(), [0x20, 0x3f, 0x13, 0x82]);
    let mut decoder = Decoder::default();
    decoder.allow_table(50);
    assert!(decoder.decode(&out, &WIDE).is_ok());
    out.clear();
    encoder.allow_table(1 << 20);
    encoder.encode(&[], &mut out);
    assert_eq!(out.as_ref(), [0x3f, 0xe1, 0x1f]);
}

#[test]
fn a_list_over_the_limit_is_dropped_in_step_and_a_bomb_is_an_error() {
    let mut decoder = Decoder::default();
    let mut block = bytes_of("4001610162"); // a: b, indexed
    block.extend([0xbe; 100]);
    let small = ListLimits {
        list_bytes_max: 200,
        ..WIDE
    };
    assert_eq!(decoder.decode(&block, &small), Ok(FieldList::TooLarge));
    let few = ListLimits {
        fields_max: 3,
        ..WIDE
    };
    assert_eq!(decoder.decode(&[0xbe; 4], &few), Ok(FieldList::TooLarge));
    assert_eq!(
        whole(decoder.decode(&[0xbe], &few).unwrap()),
        [Field::from_static("a", "b")]
    );
    let bomb = ListLimits {
        bomb_bytes_max: 3000,
        ..WIDE
    };
    assert_eq!(decoder.decode(&block, &bomb), Err(HpackError::Bomb));
}

fn any_field() -> impl Strategy<Value = Field> {
    let name = prop::sample::select(vec![
        ":authority",
        ":path",
        "baggage",
        "x",
        "traceparent",
        "date",
    ]);
    (
        name,
        prop::collection::vec(any::<u8>(), 0..40),
        any::<bool>(),
    )
        .prop_map(|(name, value, sensitive)| Field {
            sensitive,
            ..Field::new(name, value)
        })
}

proptest! {
    #[test]
    fn any_bytes_decode_or_fail_and_the_table_stays_sound(
        blocks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..120), 1..6)
    ) {
        let mut decoder = Decoder::default();
        for block in blocks {
            if decoder.decode(&block, &WIDE).is_err() {
                break;
            }
            prop_assert!(decoder.is_sound());
        }
    }

    #[test]
    fn decodes_what_it_encodes_across_table_sizes(
        lists in prop::collection::vec((prop::collection::vec(any_field(), 0..12), 0_usize..6000), 1..8)
    ) {
        let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
        for (fields, table_bytes) in lists {
            encoder.allow_table(table_bytes);
            decoder.allow_table(table_bytes);
            let mut out = BytesMut::new();
            encoder.encode(&fields, &mut out);
            prop_assert_eq!(whole(decoder.decode(&out, &WIDE).unwrap()), fields);
            prop_assert_eq!(&encoder.table, &decoder.table);
            prop_assert!(encoder.is_sound() && decoder.is_sound());
        }
    }
}
