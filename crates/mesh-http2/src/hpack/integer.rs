//! Integers with a prefix (RFC 7541 section 5.1).

use super::HpackError;
use bytes::{BufMut, BytesMut};

/// Continuation bytes that are read: four carry 28 bits, more than any length or index here.
const CONTINUATION_BYTES_MAX: usize = 4;

/// Writes `value` behind the bits of `first` that are above the prefix.
pub(crate) fn encode(first: u8, prefix_bits: u32, value: usize, out: &mut BytesMut) {
    let full = (1_usize << prefix_bits) - 1;
    if value < full {
        out.put_u8(first | low_byte(value));
        return;
    }
    out.put_u8(first | low_byte(full));
    let mut rest = value - full;
    while rest >= 128 {
        out.put_u8(low_byte(rest) | 0x80);
        rest >>= 7;
    }
    out.put_u8(low_byte(rest));
}

fn low_byte(value: usize) -> u8 {
    let [.., low] = value.to_be_bytes();
    low
}

/// Reads an integer whose first byte is `first`, the rest from `input`.
pub(crate) fn decode(first: u8, prefix_bits: u32, input: &mut &[u8]) -> Result<usize, HpackError> {
    let full = (1_usize << prefix_bits) - 1;
    let mut value = usize::from(first) & full;
    if value < full {
        return Ok(value);
    }
    for place in 0..CONTINUATION_BYTES_MAX {
        let (byte, rest) = input.split_first().ok_or(HpackError::Truncated)?;
        *input = rest;
        value += usize::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(HpackError::Integer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn coded(first: u8, prefix: u32, value: usize) -> Vec<u8> {
        let mut out = BytesMut::new();
        encode(first, prefix, value, &mut out);
        out.to_vec()
    }

    #[test]
    fn examples_of_the_rfc() {
        assert_eq!(coded(0, 5, 10), [0b0_1010]);
        assert_eq!(coded(0, 5, 1337), [0b1_1111, 0b1001_1010, 0b1010]);
        assert_eq!(coded(0, 8, 42), [0b10_1010]);
    }

    #[test]
    fn endless_and_cut_integers_are_errors() {
        let mut endless: &[u8] = &[0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        assert_eq!(decode(0x1f, 5, &mut endless), Err(HpackError::Integer));
        let mut cut: &[u8] = &[0x80];
        assert_eq!(decode(0x1f, 5, &mut cut), Err(HpackError::Truncated));
    }

    proptest! {
        #[test]
        fn decodes_what_it_encodes(value in 0_usize..200_000_000, prefix in 4_u32..=8) {
            let bytes = coded(0, prefix, value);
            let mut rest = &bytes[1..];
            prop_assert_eq!(decode(bytes[0], prefix, &mut rest).unwrap(), value);
            prop_assert!(rest.is_empty());
        }
    }
}
