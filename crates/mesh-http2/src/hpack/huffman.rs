//! The Huffman code of RFC 7541 appendix B, encoded and decoded by tables made at compile time.
//!
//! The code is canonical: symbols are numbered by length, then by value. So the lengths say it all.

use super::HpackError;
use bytes::{BufMut, BytesMut};

/// Length of each symbol's code in bits; the last is EOS (RFC 7541 appendix B).
#[rustfmt::skip]
const BITS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, //
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28, //
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, //
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, //
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, //
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, //
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, //
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, //
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, //
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, //
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, //
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, //
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, //
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, //
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, //
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, //
    30,
];
const EOS: usize = 256;
const BITS_MAX: usize = 30;
/// Codes up to this length are found by one look into a table; they cover all that is common.
const FAST_BITS: usize = 8;

struct Code {
    /// Each symbol's code, in its low bits.
    codes: [u32; 257],
    /// Symbols by length, then by value.
    sorted: [u16; 257],
    /// For each length, the first code and the place of its symbol in `sorted`.
    first_code: [u32; BITS_MAX + 1],
    first_place: [usize; BITS_MAX + 1],
    count: [u32; BITS_MAX + 1],
    /// By the next eight bits: symbol and length, or length 0 when the code is longer.
    fast: [(u8, u8); 1 << FAST_BITS],
}

static CODE: Code = make();

#[expect(
    clippy::cast_possible_truncation,
    reason = "evaluated at compile time on numbers up to 257, where conversions cannot be called"
)]
const fn make() -> Code {
    let mut code = Code {
        codes: [0; 257],
        sorted: [0; 257],
        first_code: [0; BITS_MAX + 1],
        first_place: [0; BITS_MAX + 1],
        count: [0; BITS_MAX + 1],
        fast: [(0, 0); 1 << FAST_BITS],
    };
    let (mut next, mut place, mut bits) = (0_u32, 0, 1);
    while bits <= BITS_MAX {
        next <<= 1;
        code.first_code[bits] = next;
        code.first_place[bits] = place;
        let mut symbol = 0;
        while symbol <= EOS {
            if BITS[symbol] as usize == bits {
                code.codes[symbol] = next;
                code.sorted[place] = symbol as u16;
                code.count[bits] += 1;
                if bits <= FAST_BITS {
                    let spare = FAST_BITS - bits;
                    let mut low = 0;
                    while low < 1 << spare {
                        code.fast[((next as usize) << spare) | low] = (symbol as u8, bits as u8);
                        low += 1;
                    }
                }
                next += 1;
                place += 1;
            }
            symbol += 1;
        }
        bits += 1;
    }
    code
}

/// How many bytes `text` takes, encoded.
pub(crate) fn encoded_bytes(text: &[u8]) -> usize {
    let bits: usize = text
        .iter()
        .map(|b| usize::from(BITS[usize::from(*b)]))
        .sum();
    bits.div_ceil(8)
}

/// Encodes `text`, padded with ones.
pub(crate) fn encode(text: &[u8], out: &mut BytesMut) {
    // At most 7 bits wait from before and a code has at most 30.
    let (mut waiting, mut bits) = (0_u64, 0_usize);
    for byte in text {
        let symbol = usize::from(*byte);
        let length = usize::from(BITS[symbol]);
        waiting = (waiting << length) | u64::from(CODE.codes[symbol]);
        bits += length;
        while bits >= 8 {
            bits -= 8;
            out.put_u8(low_byte(waiting >> bits));
        }
    }
    if bits > 0 {
        let spare = 8 - bits;
        out.put_u8(low_byte((waiting << spare) | ((1 << spare) - 1)));
    }
}

fn low_byte(bits: u64) -> u8 {
    let [.., low] = bits.to_be_bytes();
    low
}

/// Decodes a string. The result is at most 8/5 as long as `coded`.
pub(crate) fn decode(coded: &[u8]) -> Result<Vec<u8>, HpackError> {
    let mut text = Vec::with_capacity(coded.len() + coded.len() / 2);
    let mut input = coded.iter();
    let (mut window, mut bits) = (0_u64, 0_usize);
    loop {
        while bits <= 56 {
            let Some(byte) = input.next() else { break };
            window |= u64::from(*byte) << (56 - bits);
            bits += 8;
        }
        let Some((symbol, length)) = next_symbol(window, bits) else {
            break;
        };
        // EOS is not a byte and must not be encoded.
        text.push(u8::try_from(symbol).map_err(|_| HpackError::Huffman)?);
        window <<= length;
        bits -= length;
    }
    // What is left is padding: the start of EOS, shorter than a byte.
    let padding = if bits == 0 {
        0
    } else {
        u64::MAX << (64 - bits)
    };
    if bits >= 8 || window != padding {
        return Err(HpackError::Huffman);
    }
    Ok(text)
}

/// The symbol at the start of `window` and its length, if all of it is within the valid `bits`.
fn next_symbol(window: u64, bits: usize) -> Option<(u16, usize)> {
    let [head, ..] = window.to_be_bytes();
    let (symbol, length) = CODE.fast[usize::from(head)];
    if length > 0 {
        let length = usize::from(length);
        return (length <= bits).then_some((u16::from(symbol), length));
    }
    for length in FAST_BITS + 1..=BITS_MAX.min(bits) {
        let code = u32::try_from(window >> (64 - length)).ok()?;
        let offset = code.wrapping_sub(CODE.first_code[length]);
        if offset < CODE.count[length] {
            let place = CODE.first_place[length] + offset as usize;
            return Some((CODE.sorted[place], length));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn coded(text: &[u8]) -> Vec<u8> {
        let mut out = BytesMut::new();
        encode(text, &mut out);
        assert_eq!(out.len(), encoded_bytes(text));
        out.to_vec()
    }

    #[test]
    fn the_code_is_that_of_the_rfc() {
        // Spot checks across all lengths, as printed in appendix B.
        for (symbol, code, bits) in [
            (usize::from(b'0'), 0x0, 5),
            (usize::from(b' '), 0x14, 6),
            (usize::from(b'z'), 0x7b, 7),
            (usize::from(b'X'), 0xfc, 8),
            (usize::from(b'!'), 0x3f8, 10),
            (0, 0x1ff8, 13),
            (usize::from(b'\\'), 0x7fff0, 19),
            (128, 0xfffe6, 20),
            (1, 0x7f_ffd8, 23),
            (249, 0xfff_fffe, 28),
            (255, 0x3ff_ffee, 26),
            (22, 0x3fff_fffe, 30),
            (EOS, 0x3fff_ffff, 30),
        ] {
            assert_eq!((CODE.codes[symbol], BITS[symbol]), (code, bits), "{symbol}");
        }
    }

    #[test]
    fn examples_of_the_rfc() {
        let expected = [
            0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff,
        ];
        assert_eq!(coded(b"www.example.com"), expected);
        assert_eq!(decode(&expected).unwrap(), b"www.example.com");
    }

    #[test]
    fn wrong_padding_and_eos_are_errors() {
        assert_eq!(decode(&[0xff]), Err(HpackError::Huffman)); // a whole byte of padding
        assert_eq!(decode(&[0b0000_0000]), Err(HpackError::Huffman)); // '0', then zeros
        assert_eq!(decode(&[0xff, 0xff, 0xff, 0xff]), Err(HpackError::Huffman)); // EOS
        assert_eq!(
            decode(&[0xff, 0xff, 0xff, 0xfc, 0x00]),
            Err(HpackError::Huffman)
        );
        assert_eq!(decode(&[0b0000_0111]).unwrap(), b"0");
        assert_eq!(decode(&[]).unwrap(), b"");
    }

    proptest! {
        #[test]
        fn decodes_what_it_encodes(text in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(decode(&coded(&text)).unwrap(), text);
        }

        #[test]
        fn only_one_encoding_is_taken(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(text) = decode(&bytes) {
                prop_assert_eq!(coded(&text), bytes);
            }
        }
    }
}
