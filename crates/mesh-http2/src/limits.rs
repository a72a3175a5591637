//! Bounds: how much a peer may cost. Each has a name, a default and a reason.

use crate::error::{ConnectionError, ErrorCode, Violation};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The bounds of one connection. What the peer is told (streams, windows, frame and header list
/// sizes) is in [`crate::Announce`]; these are what it is not told.
///
/// The budgets are counted, not timed, since the engine has no clock: each unwelcome frame costs one,
/// useful work earns some back, and the owner calls [`crate::Connection::refill`] at a steady pace.
/// The defaults are meant for once a second.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// One compressed header block, HEADERS and CONTINUATION together, bytes.
    pub header_block_bytes_max: usize,
    /// CONTINUATION frames of one header block. A block of the size above needs four.
    pub continuation_frames_max: u32,
    /// Fields of one header block.
    pub header_fields_max: usize,
    /// What one header block may decompress to before the connection is ended, bytes; a block over
    /// the announced list size and under this costs the peer its stream only.
    pub header_bomb_bytes_max: usize,
    /// Entries of one SETTINGS frame. RFC 9113 knows six.
    pub settings_entries_max: usize,
    /// Debug data of GOAWAY that is kept, bytes; the rest is thrown away.
    pub goaway_debug_bytes_max: usize,
    /// Events that wait to be polled; [`crate::Connection::receive`] stops reading there.
    pub events_max: usize,
    /// Frames that wait for output besides DATA, bytes. A peer that causes answers and does not read
    /// them ends here; commands are refused at half of it.
    pub control_bytes_max: usize,
    /// Data of one stream that waits for output, bytes.
    pub stream_buffer_bytes_max: usize,
    /// Data of all streams that waits for output, bytes.
    pub connection_buffer_bytes_max: usize,
    /// Ended streams that are remembered to tell late frames from wrong ones.
    pub closed_streams_max: usize,
    /// Streams that a client opens before it knows the server's limit (RFC 9113 section 6.5.2
    /// recommends that limits are no smaller than 100).
    pub initial_streams_max: u32,
    /// PING frames of ours without an answer.
    pub pings_in_flight_max: usize,
    /// SETTINGS frames of ours without an answer.
    pub settings_in_flight_max: usize,
    /// Budget: streams of the peer that end at once, by its RST_STREAM or by its fault. A stream that
    /// ends well earns one back.
    pub resets_max: u32,
    /// Budget: DATA without payload and without END_STREAM, and empty CONTINUATION.
    pub empty_frames_max: u32,
    /// Budget: PING frames. DATA that we receive earns back: one a frame.
    pub pings_max: u32,
    /// Budget: SETTINGS and GOAWAY frames.
    pub settings_max: u32,
    /// Budget: frames that are read and ignored (PRIORITY, unknown ones, late ones), and interim
    /// responses, of which a server could send any number.
    pub ignored_frames_max: u32,
    /// Budget: WINDOW_UPDATE frames. DATA that we send earns back: four a frame, one each 64 bytes.
    pub window_updates_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_block_bytes_max: 64 * 1024,
            continuation_frames_max: 32,
            header_fields_max: 256,
            header_bomb_bytes_max: 1024 * 1024,
            settings_entries_max: 64,
            goaway_debug_bytes_max: 256,
            events_max: 1024,
            control_bytes_max: 256 * 1024,
            stream_buffer_bytes_max: 256 * 1024,
            connection_buffer_bytes_max: 4 * 1024 * 1024,
            closed_streams_max: 256,
            initial_streams_max: 100,
            pings_in_flight_max: 4,
            settings_in_flight_max: 4,
            resets_max: 200,
            empty_frames_max: 100,
            pings_max: 100,
            settings_max: 50,
            ignored_frames_max: 1000,
            window_updates_max: 10_000,
        }
    }
}

/// The limit that a peer ran into, by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Limit {
    /// [`Limits::header_block_bytes_max`].
    HeaderBlockBytes,
    /// [`Limits::continuation_frames_max`].
    ContinuationFrames,
    /// [`Limits::header_bomb_bytes_max`].
    HeaderBombBytes,
    /// [`Limits::settings_entries_max`].
    SettingsEntries,
    /// [`Limits::control_bytes_max`].
    ControlBytes,
    /// [`Limits::resets_max`].
    Resets,
    /// [`Limits::empty_frames_max`].
    EmptyFrames,
    /// [`Limits::pings_max`].
    Pings,
    /// [`Limits::settings_max`].
    Settings,
    /// [`Limits::ignored_frames_max`].
    IgnoredFrames,
    /// [`Limits::window_updates_max`].
    WindowUpdates,
}

impl Limit {
    /// Ends the connection: ENHANCE_YOUR_CALM.
    pub(crate) const fn reached(self) -> ConnectionError {
        ConnectionError {
            code: ErrorCode::ENHANCE_YOUR_CALM,
            violation: Violation::Limit(self),
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::HeaderBlockBytes => "header_block_bytes_max",
            Self::ContinuationFrames => "continuation_frames_max",
            Self::HeaderBombBytes => "header_bomb_bytes_max",
            Self::SettingsEntries => "settings_entries_max",
            Self::ControlBytes => "control_bytes_max",
            Self::Resets => "resets_max",
            Self::EmptyFrames => "empty_frames_max",
            Self::Pings => "pings_max",
            Self::Settings => "settings_max",
            Self::IgnoredFrames => "ignored_frames_max",
            Self::WindowUpdates => "window_updates_max",
        })
    }
}

/// What is spent of the budgets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Spent {
    resets: u32,
    empty_frames: u32,
    pings: u32,
    settings: u32,
    ignored_frames: u32,
    window_updates: u32,
}

impl Spent {
    /// Takes one from a budget.
    pub(crate) fn charge(&mut self, limits: &Limits, limit: Limit) -> Result<(), ConnectionError> {
        let (spent, max) = match limit {
            Limit::Resets => (&mut self.resets, limits.resets_max),
            Limit::EmptyFrames => (&mut self.empty_frames, limits.empty_frames_max),
            Limit::Pings => (&mut self.pings, limits.pings_max),
            Limit::Settings => (&mut self.settings, limits.settings_max),
            Limit::IgnoredFrames => (&mut self.ignored_frames, limits.ignored_frames_max),
            Limit::WindowUpdates => (&mut self.window_updates, limits.window_updates_max),
            // The others are bounds of a size, not budgets.
            _ => return Ok(()),
        };
        if *spent >= max {
            return Err(limit.reached());
        }
        *spent += 1;
        Ok(())
    }

    /// A stream of the peer ended well.
    pub(crate) fn earn_stream(&mut self) {
        self.resets = self.resets.saturating_sub(1);
    }

    /// We received DATA with a payload, during which a peer may measure the round trip.
    pub(crate) fn earn_received(&mut self) {
        self.pings = self.pings.saturating_sub(1);
    }

    /// We sent DATA, for which WINDOW_UPDATE frames are due.
    pub(crate) fn earn_data(&mut self, bytes: usize) {
        let earned = u32::try_from(bytes / 64).unwrap_or(u32::MAX);
        self.window_updates = self.window_updates.saturating_sub(earned.saturating_add(4));
    }
}
