//! Payload of one stream that came and was not read yet. The stream's window bounds it.

use bytes::{Buf, Bytes, BytesMut};
use std::collections::VecDeque;

/// Pieces up to this size are copied always, bytes.
const SMALL_BYTES: usize = 1024;
/// Places of an empty inbox that are kept.
const IDLE_PIECES: usize = 4;

/// A queue of bytes.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    pieces: VecDeque<Bytes>,
    /// Copied pieces, after all of `pieces`.
    copied: BytesMut,
}

impl Inbox {
    pub(crate) fn is_empty(&self) -> bool {
        self.pieces.is_empty() && self.copied.is_empty()
    }

    /// Bytes in it.
    pub(crate) fn bytes(&self) -> usize {
        self.pieces.iter().map(Bytes::len).sum::<usize>() + self.copied.len()
    }

    /// Pieces that may keep alive the memory of the read they came in.
    pub(crate) fn shared(&self) -> usize {
        self.pieces.len()
    }

    /// Appends a piece; `share`: it may keep the memory it came in, else it is copied.
    pub(crate) fn push(&mut self, piece: Bytes, share: bool) {
        if piece.len() <= SMALL_BYTES || !share {
            self.copied.extend_from_slice(&piece);
            return;
        }
        if !self.copied.is_empty() {
            self.pieces.push_back(self.copied.split().freeze());
        }
        self.pieces.push_back(piece);
    }

    /// The first bytes, in one piece.
    pub(crate) fn front(&self) -> &[u8] {
        self.pieces.front().map_or(&self.copied, |piece| piece)
    }

    /// All of it, in order.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let copied = Some(&self.copied[..]).filter(|copied| !copied.is_empty());
        self.pieces.iter().map(|piece| &piece[..]).chain(copied)
    }

    /// Drops bytes off the front.
    pub(crate) fn advance(&mut self, mut bytes: usize) {
        while bytes > 0 {
            match self.pieces.front_mut() {
                Some(piece) if piece.len() > bytes => {
                    piece.advance(bytes);
                    return;
                }
                Some(piece) => {
                    bytes -= piece.len();
                    self.pieces.pop_front();
                }
                None => {
                    self.copied.advance(bytes.min(self.copied.len()));
                    break;
                }
            }
        }
        self.shrink();
    }

    /// An idle stream holds no memory.
    fn shrink(&mut self) {
        if !self.is_empty() {
            return;
        }
        if self.copied.capacity() > 0 {
            self.copied = BytesMut::new();
        }
        if self.pieces.capacity() > IDLE_PIECES {
            self.pieces = VecDeque::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn bytes_come_out_in_order(
            pieces in prop::collection::vec((0_u8.., 0..5000_usize, any::<bool>()), 0..60),
            steps in prop::collection::vec(1..3000_usize, 0..400),
        ) {
            let (mut inbox, mut model) = (Inbox::default(), Vec::new());
            for (byte, length, share) in pieces {
                let piece = vec![byte; length];
                model.extend_from_slice(&piece);
                inbox.push(piece.into(), share);
            }
            let mut out = Vec::new();
            for step in steps {
                prop_assert_eq!(inbox.bytes() + out.len(), model.len());
                let all = inbox.pieces().collect::<Vec<_>>().concat();
                let count = step.min(all.len());
                out.extend_from_slice(&all[..count]);
                inbox.advance(count);
            }
            while !inbox.is_empty() {
                out.extend_from_slice(inbox.front());
                inbox.advance(inbox.front().len());
            }
            prop_assert!(out == model);
            prop_assert!(inbox.is_empty());
        }
    }
}
