//! Windows: credit that we give back to the peer, and credit that the peer gives.

use super::control::u32_at;
use super::streams::Standing;
use super::{Connection, protocol_error};
use crate::error::{CommandError, ConnectionError, ErrorCode, Violation};
use crate::frame::{self, FrameKind};
use crate::limits::Limit;
use crate::stream::{Phase, StreamId};

impl Connection {
    /// The owner has passed on `bytes` that [`crate::Event::Data`] delivered: the peer may send as many
    /// again. Each byte is released once, also when its stream has ended meanwhile.
    ///
    /// # Errors
    /// [`CommandError::ReleasedTooMuch`].
    pub fn release_window(&mut self, stream: StreamId, bytes: usize) -> Result<(), CommandError> {
        match self.streams.table.get_mut(&stream) {
            Some(open) => {
                let released = open.receive_window.release(bytes);
                released.map_err(|_| CommandError::ReleasedTooMuch)?;
            }
            None => {
                let rest = self.orphaned.checked_sub(bytes);
                self.orphaned = rest.ok_or(CommandError::ReleasedTooMuch)?;
            }
        }
        let released = self.receive_window.release(bytes);
        released.map_err(|_| CommandError::ReleasedTooMuch)?;
        self.announce(stream);
        self.announce_connection();
        Ok(())
    }

    /// Bytes of a frame on `stream` that the owner will never see.
    pub(super) fn discard(&mut self, stream: StreamId, bytes: usize) {
        if bytes == 0 {
            return;
        }
        if let Some(open) = self.streams.table.get_mut(&stream) {
            open.receive_window.discard(bytes);
            self.announce(stream);
        }
        self.discard_unowned(bytes);
    }

    /// Bytes of a frame on a stream that does not count them.
    pub(super) fn discard_unowned(&mut self, bytes: usize) {
        self.receive_window.discard(bytes);
        self.announce_connection();
    }

    /// Bytes that were counted as delivered and that the owner will not see after all.
    pub(super) fn take_back(&mut self, stream: StreamId, bytes: usize) {
        // Cannot be refused: they were delivered just before, on a stream that is still there.
        if bytes > 0 && self.release_window(stream, bytes).is_err() {
            debug_assert!(false, "taken back what was not delivered");
        }
    }

    fn announce_connection(&mut self) {
        if self.failed.is_some() {
            return;
        }
        if let Some(increment) = self.receive_window.announce() {
            let out = &mut self.outbox.control;
            frame::put_window_update(out, StreamId::CONNECTION, increment);
        }
    }

    /// Announces the credit of a stream on which the peer may still send.
    fn announce(&mut self, stream: StreamId) {
        let Some(open) = self.streams.table.get_mut(&stream) else {
            return;
        };
        if open.receiving == Phase::Done {
            return;
        }
        if let Some(increment) = open.receive_window.announce() {
            frame::put_window_update(&mut self.outbox.control, stream, increment);
        }
    }

    /// The peer has acknowledged another initial window: all streams follow.
    pub(super) fn adjust_receive_windows(&mut self, delta: i64) {
        if delta == 0 {
            return;
        }
        let streams: Vec<StreamId> = self.streams.table.keys().copied().collect();
        for stream in streams {
            if let Some(open) = self.streams.table.get_mut(&stream) {
                open.receive_window.adjust(delta);
            }
            // A smaller window is half used earlier: credit that waited may now be due.
            self.announce(stream);
        }
    }

    pub(super) fn on_window_update(
        &mut self,
        stream: StreamId,
        payload: &[u8],
    ) -> Result<(), ConnectionError> {
        self.charge(Limit::WindowUpdates)?;
        // The first bit is reserved and ignored.
        let increment = i64::from(u32_at(payload, 0) & StreamId::MAX.value());
        if stream.is_connection() {
            if increment == 0 {
                return Err(protocol_error(Violation::WindowIncrement));
            }
            let opened = self.send_window.adjust(increment);
            opened.map_err(|_| OVERFLOW)?;
            self.outbox.resume_starved();
            return Ok(());
        }
        let Some(open) = self.streams.table.get_mut(&stream) else {
            return match self.streams.standing(stream) {
                Standing::Idle if !self.is_excluded(stream) => Err(protocol_error(
                    Violation::IdleStream(FrameKind::WindowUpdate),
                )),
                _ => Ok(()),
            };
        };
        if increment == 0 {
            let code = ErrorCode::PROTOCOL_ERROR;
            return self.fail_stream(stream, code, Violation::WindowIncrement);
        }
        if open.send_window.adjust(increment).is_err() {
            return self.fail_stream(stream, OVERFLOW.code, OVERFLOW.violation);
        }
        self.schedule(stream);
        Ok(())
    }

    /// The peer has set another initial window: all streams follow, perhaps below zero.
    pub(super) fn adjust_send_windows(&mut self, delta: i64) -> Result<(), ConnectionError> {
        if delta == 0 {
            return Ok(());
        }
        let streams: Vec<StreamId> = self.streams.table.keys().copied().collect();
        for stream in streams {
            if let Some(open) = self.streams.table.get_mut(&stream) {
                open.send_window.adjust(delta).map_err(|_| OVERFLOW)?;
            }
            self.schedule(stream);
        }
        Ok(())
    }
}

const OVERFLOW: ConnectionError = ConnectionError {
    code: ErrorCode::FLOW_CONTROL_ERROR,
    violation: Violation::WindowOverflow,
};
