//! A fuzzer's bytes, taken piece by piece. Past the end everything is zero or empty, so that each
//! input stands for some value.

/// What is left of the bytes.
pub(crate) struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    pub(crate) fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// A number below the bound.
    pub(crate) fn below(&mut self, bound: u8) -> u8 {
        self.byte().checked_rem(bound).unwrap_or(0)
    }

    pub(crate) fn u16(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    /// At most so many bytes.
    pub(crate) fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// Bytes with their count, two bytes, before them.
    pub(crate) fn chunk(&mut self) -> &'a [u8] {
        let count = self.u16();
        self.take(count.into())
    }

    pub(crate) fn rest(self) -> &'a [u8] {
        self.0
    }

    /// So many values, below the bound.
    pub(crate) fn list<T>(&mut self, bound: u8, mut one: impl FnMut(&mut Self) -> T) -> Vec<T> {
        let count = self.below(bound);
        (0..count).map(|_| one(self)).collect()
    }
}

/// The lines of a text, for targets that take several of them.
pub(crate) fn lines(data: &[u8]) -> Option<impl Iterator<Item = &str>> {
    Some(std::str::from_utf8(data).ok()?.split('\n'))
}
