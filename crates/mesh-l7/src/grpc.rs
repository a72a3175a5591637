//! Counts gRPC messages in a body: each is a flag byte, a length of four bytes, and that many bytes.

/// The prefix of a message.
const PREFIX_BYTES: usize = 5;

/// Where the count is within a body.
#[derive(Debug, Default)]
pub(crate) struct MessageCounter {
    /// The prefix read so far.
    prefix: [u8; PREFIX_BYTES],
    prefix_bytes: usize,
    /// Bytes left of the message begun.
    left: u32,
}

impl MessageCounter {
    /// Takes the next bytes; gives how many messages begin in them.
    pub(crate) fn count(&mut self, mut bytes: &[u8]) -> u64 {
        let mut begun = 0;
        while !bytes.is_empty() {
            if self.left > 0 {
                let skipped = bytes
                    .len()
                    .min(usize::try_from(self.left).unwrap_or(usize::MAX));
                bytes = bytes.get(skipped..).unwrap_or_default();
                self.left = self
                    .left
                    .saturating_sub(u32::try_from(skipped).unwrap_or(u32::MAX));
                continue;
            }
            if let (Some(slot), Some((first, rest))) =
                (self.prefix.get_mut(self.prefix_bytes), bytes.split_first())
            {
                *slot = *first;
                bytes = rest;
            }
            self.prefix_bytes += 1;
            if self.prefix_bytes == PREFIX_BYTES {
                let [_, length @ ..] = self.prefix;
                self.left = u32::from_be_bytes(length);
                self.prefix_bytes = 0;
                begun += 1;
            }
        }
        begun
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// However the bytes are cut, the count is that of the messages.
        #[test]
        fn every_message_is_counted_once(
            lengths in proptest::collection::vec(0..40_usize, 0..8),
            cut in 1..17_usize,
        ) {
            let mut bytes = Vec::new();
            for length in &lengths {
                bytes.push(0);
                bytes.extend(u32::try_from(*length).unwrap().to_be_bytes());
                bytes.extend(vec![7; *length]);
            }
            let mut counter = MessageCounter::default();
            let begun: u64 = bytes.chunks(cut).map(|piece| counter.count(piece)).sum();
            prop_assert_eq!(begun, u64::try_from(lengths.len()).unwrap());
        }

        #[test]
        fn any_bytes_end(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            MessageCounter::default().count(&bytes);
        }
    }
}
