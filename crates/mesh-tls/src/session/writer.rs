//! Building records where they will be sent from.

use super::records::{APPLICATION_DATA, HEADER, RECORD_PLAIN_MAX, Records};
use crate::TlsError;
use crate::aead::TAG;
use bytes::buf::Limit;
use bytes::{BufMut, BytesMut};

/// Appends data to an output buffer as records. The data lies in the buffer behind room for a header
/// and is sealed there when the record is full or [`Writer::finish`]ed.
///
/// Dropped without that, the record begun is taken back: nothing unsealed stays in the buffer.
#[derive(Debug)]
pub struct Writer<'a> {
    records: &'a mut Records,
    out: &'a mut BytesMut,
    /// Where the record under way begins.
    start: Option<usize>,
}

impl<'a> Writer<'a> {
    pub(super) const fn new(records: &'a mut Records, out: &'a mut BytesMut) -> Self {
        Self {
            records,
            out,
            start: None,
        }
    }

    /// Appends bytes, over as many records as they take. A copy: to read into a record without one
    /// see [`Self::tail`].
    ///
    /// # Errors
    /// When this side is closed, or a record cannot be sealed.
    pub fn put(&mut self, mut bytes: &[u8]) -> Result<(), TlsError> {
        while !bytes.is_empty() {
            self.begin()?;
            let (now, later) = bytes.split_at(bytes.len().min(self.room()));
            self.out.extend_from_slice(now);
            bytes = later;
            if self.room() == 0 {
                self.seal()?;
            }
        }
        Ok(())
    }

    /// Bytes that the record under way still takes; a whole record's when there is none.
    pub fn room(&self) -> usize {
        RECORD_PLAIN_MAX - self.written()
    }

    /// Bytes of data in the record under way.
    pub fn written(&self) -> usize {
        self.start
            .map_or(0, |start| self.out.len() - start - HEADER)
    }

    /// The end of the record under way, to read a socket into: at most `limit` bytes and never more
    /// than [`Self::room`], which is not 0 after [`Self::begin`].
    ///
    /// # Errors
    /// As [`Self::put`].
    pub fn tail(&mut self, limit: usize) -> Result<Limit<&mut BytesMut>, TlsError> {
        if self.room() == 0 {
            self.seal()?;
        }
        self.begin()?;
        let room = self.room().min(limit);
        Ok((&mut *self.out).limit(room))
    }

    /// The data of the record under way, for instance to fill in a frame's length once it is known.
    pub fn data_mut(&mut self) -> &mut [u8] {
        match self.start {
            Some(start) => self.out.get_mut(start + HEADER..).unwrap_or_default(),
            None => &mut [],
        }
    }

    /// Begins a record if none is under way.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub fn begin(&mut self) -> Result<(), TlsError> {
        if self.start.is_none() {
            self.records.before_data(self.out)?;
            // The tag is appended to a record that may fill the buffer: do not grow it then.
            self.out.reserve(HEADER + 1 + TAG);
            self.start = Some(self.out.len());
            self.out.put_bytes(0, HEADER);
        }
        Ok(())
    }

    /// Seals the record under way; one without data is taken back.
    ///
    /// # Errors
    /// When it cannot be sealed; then it is taken back.
    pub fn seal(&mut self) -> Result<(), TlsError> {
        let Some(start) = self.start else {
            return Ok(());
        };
        if self.written() == 0 {
            self.take_back();
            return Ok(());
        }
        self.records.seal_from(start, APPLICATION_DATA, self.out)?;
        self.start = None;
        Ok(())
    }

    /// Seals what is left.
    ///
    /// # Errors
    /// As [`Self::seal`].
    pub fn finish(mut self) -> Result<(), TlsError> {
        self.seal()
    }

    fn take_back(&mut self) {
        if let Some(start) = self.start.take() {
            self.out.truncate(start);
        }
    }
}

impl Drop for Writer<'_> {
    fn drop(&mut self) {
        self.take_back();
    }
}
