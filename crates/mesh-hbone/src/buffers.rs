//! What the connections of one thread lend to whichever of them is at work: an idle one holds none.

use bytes::BytesMut;
use mesh_http2::Outgoing;
use std::cell::Cell;
use std::task::Waker;

/// What one read may bring, bytes. Large enough that a system call empties a full receive buffer,
/// small enough to stay in the CPU's cache.
pub(crate) const READ_BYTES: usize = 256 * 1024;
/// Room below which the input gets a new piece of memory, bytes.
const ROOM_BYTES_MIN: usize = 64 * 1024;

/// Scratch space of one poll of one connection.
#[derive(Default)]
pub(crate) struct Buffers {
    pub(crate) scratch: Scratch,
    /// Frames on their way out; empty between two polls.
    pub(crate) parts: Vec<Outgoing>,
    /// Those to wake when the poll is over.
    pub(crate) woken: Vec<Waker>,
}

/// Memory that bytes pass through; all of it is empty between two polls.
#[derive(Default)]
pub(crate) struct Scratch {
    /// As it is read. What was read is split off, so payload that was handed out shares its memory,
    /// which comes back when the last of that is gone.
    pub(crate) raw: BytesMut,
    /// Frames of the peer.
    pub(crate) plain: BytesMut,
    /// As it is written.
    pub(crate) out: BytesMut,
}

impl Scratch {
    /// Makes room for a read behind `held` bytes that were read before.
    pub(crate) fn reserve(&mut self, held: usize) {
        self.raw.clear();
        if self.raw.capacity() < held + ROOM_BYTES_MIN {
            self.raw.reserve(held + READ_BYTES);
        }
    }

    fn clear(&mut self) {
        self.raw.clear();
        self.plain = BytesMut::new();
        self.out.clear();
    }
}

thread_local! {
    static BUFFERS: Cell<Option<Box<Buffers>>> = const { Cell::new(None) };
}

/// Lends the thread's buffers. They are taken out meanwhile, so that a connection within the poll of
/// another (a tunnel in a tunnel) makes its own instead of sharing.
pub(crate) fn lend<R>(f: impl FnOnce(&mut Buffers) -> R) -> R {
    let mut buffers = BUFFERS
        .try_with(Cell::take)
        .ok()
        .flatten()
        .unwrap_or_default();
    let result = f(&mut buffers);
    buffers.scratch.clear();
    buffers.parts.clear();
    // At the end of the thread there is no place to put them back; they are freed instead.
    BUFFERS.try_with(|place| place.set(Some(buffers))).ok();
    result
}
