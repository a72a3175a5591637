//! Frames that come in and are neither DATA nor a header block, but for WINDOW_UPDATE.

use super::streams::Standing;
use super::{Connection, Role, protocol_error};
use crate::error::{ConnectionError, ErrorCode, Violation};
use crate::event::{Event, ResetCause};
use crate::frame::{self, FrameKind};
use crate::limits::Limit;
use crate::stream::{Ended, StreamId};
use bytes::Bytes;

impl Connection {
    pub(super) fn on_rst_stream(
        &mut self,
        stream: StreamId,
        code: ErrorCode,
    ) -> Result<(), ConnectionError> {
        match self.streams.standing(stream) {
            Standing::Idle if !self.is_excluded(stream) => {
                Err(protocol_error(Violation::IdleStream(FrameKind::RstStream)))
            }
            Standing::Open => {
                if self.streams.is_of_peer(stream) {
                    self.charge(Limit::Resets)?;
                }
                self.remove(stream, Ended::ByPeer);
                let cause = ResetCause::Peer(code);
                self.events.push_back(Event::Reset { stream, cause });
                Ok(())
            }
            Standing::Idle | Standing::Ended(_) => self.charge(Limit::IgnoredFrames),
        }
    }

    pub(super) fn on_settings(&mut self, payload: &[u8]) -> Result<(), ConnectionError> {
        let before = self.peer.stream_window_bytes;
        for entry in payload.chunks_exact(6) {
            let &[i0, i1, v0, v1, v2, v3] = entry else {
                continue;
            };
            let (id, value) = (
                u16::from_be_bytes([i0, i1]),
                u32::from_be_bytes([v0, v1, v2, v3]),
            );
            self.peer.apply(id, value, self.role == Role::Client)?;
        }
        let delta = i64::from(self.peer.stream_window_bytes) - i64::from(before);
        self.adjust_send_windows(delta)?;
        self.encoder
            .allow_table(self.peer.header_table_bytes as usize);
        frame::put_settings_ack(&mut self.outbox.control);
        self.events.push_back(Event::Settings(self.peer));
        self.tell_streams_available();
        Ok(())
    }

    pub(super) fn on_settings_ack(&mut self) -> Result<(), ConnectionError> {
        let acked = self.local.ack();
        let (before, after) = acked.ok_or(protocol_error(Violation::SettingsAck))?;
        self.decoder.allow_table(after.header_table_bytes as usize);
        let delta = i64::from(after.stream_window_bytes) - i64::from(before.stream_window_bytes);
        self.adjust_receive_windows(delta);
        self.events.push_back(Event::SettingsAcked);
        Ok(())
    }

    pub(super) fn on_ping(&mut self, ack: bool, payload: &[u8]) -> Result<(), ConnectionError> {
        let mut opaque = [0; 8];
        opaque.copy_from_slice(payload.get(..8).unwrap_or(&[0; 8]));
        if !ack {
            self.charge(Limit::Pings)?;
            frame::put_ping(&mut self.outbox.control, true, opaque);
            return Ok(());
        }
        match self.pings.iter().position(|sent| *sent == opaque) {
            Some(place) => {
                self.pings.remove(place);
                self.events.push_back(Event::PingAcked { opaque });
                Ok(())
            }
            None => self.charge(Limit::Pings),
        }
    }

    pub(super) fn on_goaway(&mut self, payload: &[u8]) -> Result<(), ConnectionError> {
        let last = StreamId::new(u32_at(payload, 0) & StreamId::MAX.value());
        if self.goaway_received.is_some_and(|before| last > before) {
            return Err(protocol_error(Violation::GoAwayRaised));
        }
        self.goaway_received = Some(last);
        let unprocessed: Vec<StreamId> = self
            .streams
            .table
            .iter()
            .filter(|(id, stream)| stream.local && **id > last)
            .map(|(id, _)| *id)
            .collect();
        self.events.push_back(Event::GoAway {
            last,
            code: ErrorCode(u32_at(payload, 4)),
            debug: Bytes::copy_from_slice(payload.get(8..).unwrap_or_default()),
        });
        for stream in unprocessed {
            self.remove(stream, Ended::ByPeer);
            let cause = ResetCause::GoAway;
            self.events.push_back(Event::Reset { stream, cause });
        }
        Ok(())
    }
}

/// Four bytes of a payload whose length was checked.
pub(super) fn u32_at(payload: &[u8], place: usize) -> u32 {
    match payload.get(place..).and_then(<[u8]>::first_chunk) {
        Some(bytes) => u32::from_be_bytes(*bytes),
        None => 0,
    }
}
