//! A stream of bytes that both ends know: what arrives is compared byte by byte, in order.

use std::sync::LazyLock;

/// A prime, so that no frame or buffer size divides the period: what is lost or swapped shows.
const PERIOD: usize = 65_521;
/// Bytes of one write and of the largest read.
pub(crate) const PIECE: usize = 32 * 1024;

/// Two periods, so that every piece is one slice.
static BYTES: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut period = Vec::with_capacity(PERIOD * 2);
    for _ in 0..PERIOD {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        period.push(state.to_le_bytes()[3]);
    }
    let again = period.clone();
    period.extend(again);
    period
});

/// The bytes at an offset of the stream, at most a period of them.
pub(crate) fn at(offset: u64, length: usize) -> &'static [u8] {
    let phase = usize::try_from(offset % PERIOD as u64).unwrap_or_default();
    &BYTES[phase..phase + length]
}
