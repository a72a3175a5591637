//! Flow control windows, both directions (RFC 9113 section 5.2 and 6.9).

use serde::{Deserialize, Serialize};

/// The largest window, bytes.
pub(crate) const WINDOW_BYTES_MAX: u32 = 0x7fff_ffff;
/// Every window before SETTINGS, bytes.
pub(crate) const WINDOW_BYTES_INITIAL: u32 = 65_535;

/// A window grew over [`WINDOW_BYTES_MAX`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Overflow;

/// More came than the window allowed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Exceeded;

/// A length as a signed number. Lengths here are far under 2^63.
pub(crate) fn signed(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// What the peer lets us send.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SendWindow {
    /// Negative after the peer lowered its initial window under what was already sent.
    available: i64,
}

impl SendWindow {
    pub(crate) fn new(bytes: u32) -> Self {
        Self {
            available: i64::from(bytes),
        }
    }

    /// What may be sent now, bytes.
    pub(crate) fn usable(&self) -> usize {
        usize::try_from(self.available).unwrap_or(0)
    }

    /// WINDOW_UPDATE, or the difference between two initial windows.
    pub(crate) fn adjust(&mut self, delta: i64) -> Result<(), Overflow> {
        let available = self.available + delta;
        if available > i64::from(WINDOW_BYTES_MAX) {
            return Err(Overflow);
        }
        self.available = available;
        Ok(())
    }

    pub(crate) fn take(&mut self, bytes: usize) {
        self.available -= signed(bytes);
    }

    pub(crate) fn is_sound(&self) -> bool {
        let max = i64::from(WINDOW_BYTES_MAX);
        (-max..=max).contains(&self.available)
    }
}

/// What we let the peer send. Each byte of the target is in one of four places: still available to
/// the peer, in a frame that is being read, delivered and not yet released, or released and not yet
/// announced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReceiveWindow {
    /// Negative after we lowered the initial window under what was already received.
    available: i64,
    unreleased: i64,
    unannounced: i64,
    target: i64,
}

impl ReceiveWindow {
    pub(crate) fn new(bytes: u32) -> Self {
        let target = i64::from(bytes);
        Self {
            available: target,
            unreleased: 0,
            unannounced: 0,
            target,
        }
    }

    /// A frame of this many bytes begins.
    pub(crate) fn charge(&mut self, bytes: usize) -> Result<(), Exceeded> {
        let bytes = signed(bytes);
        if bytes > self.available && bytes > 0 {
            return Err(Exceeded);
        }
        self.available -= bytes;
        Ok(())
    }

    /// Bytes of a frame go to the owner.
    pub(crate) fn deliver(&mut self, bytes: usize) {
        self.unreleased += signed(bytes);
    }

    /// Bytes of a frame are thrown away: padding, or of a stream that is gone.
    pub(crate) fn discard(&mut self, bytes: usize) {
        self.unannounced += signed(bytes);
    }

    /// The owner has done with bytes that were delivered.
    pub(crate) fn release(&mut self, bytes: usize) -> Result<(), Exceeded> {
        let bytes = signed(bytes);
        if bytes > self.unreleased {
            return Err(Exceeded);
        }
        self.unreleased -= bytes;
        self.unannounced += bytes;
        Ok(())
    }

    /// Delivered and not yet released, bytes.
    pub(crate) fn unreleased(&self) -> usize {
        usize::try_from(self.unreleased).unwrap_or(0)
    }

    /// The increment to announce, once it is worth a frame: half of the window.
    pub(crate) fn announce(&mut self) -> Option<u32> {
        if self.unannounced == 0 || self.unannounced * 2 < self.target {
            return None;
        }
        let increment = u32::try_from(self.unannounced).ok()?;
        self.available += self.unannounced;
        self.unannounced = 0;
        Some(increment)
    }

    /// The peer has acknowledged another initial window.
    pub(crate) fn adjust(&mut self, delta: i64) {
        self.available += delta;
        self.target += delta;
    }

    /// Whether no byte was lost or made up, given those of the frame that is being read.
    pub(crate) fn is_sound(&self, in_frame: usize) -> bool {
        let max = i64::from(WINDOW_BYTES_MAX);
        (-max..=max).contains(&self.available)
            && self.unreleased >= 0
            && self.unannounced >= 0
            && (0..=i64::from(WINDOW_BYTES_MAX)).contains(&self.target)
            && self
                .available
                .saturating_add(self.unreleased)
                .saturating_add(self.unannounced)
                .saturating_add(signed(in_frame))
                == self.target
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_send_window_may_be_negative_and_never_overflows() {
        let mut window = SendWindow::new(100);
        window.take(80);
        window.adjust(-50).unwrap();
        assert_eq!(window.usable(), 0);
        window.adjust(31).unwrap();
        assert_eq!(window.usable(), 1);
        assert_eq!(window.adjust(i64::from(WINDOW_BYTES_MAX)), Err(Overflow));
        assert_eq!(window.usable(), 1);
    }

    #[test]
    fn credit_is_announced_by_halves_and_never_made_up() {
        let mut window = ReceiveWindow::new(100);
        window.charge(60).unwrap();
        assert_eq!(window.charge(41), Err(Exceeded));
        window.deliver(50);
        window.discard(10);
        assert_eq!(window.release(51), Err(Exceeded));
        window.release(30).unwrap();
        assert_eq!(window.announce(), None);
        window.release(10).unwrap();
        assert_eq!(window.announce(), Some(50));
        assert!(window.is_sound(0));
        window.adjust(-95);
        assert!(window.is_sound(0));
        assert_eq!(window.charge(1), Err(Exceeded));
        assert_eq!(window.charge(0), Ok(()));
    }
}
