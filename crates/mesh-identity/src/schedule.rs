//! When to ask for a certificate again; pure, so that time and chance can be given by a test.

use mesh_model::Dice;
use std::time::{Duration, SystemTime};

/// First, largest and jitter of the retry delays (interop/ca.md, Rotation rule).
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(150);
const RETRY_JITTER_PERCENT: u64 = 20;
/// A renewal comes up to this part of the validity before half life, so that certificates issued
/// together are not renewed together.
const EARLY_PERCENT: u64 = 5;

/// When a certificate is to be renewed: half way through the validity issued, a little earlier by
/// chance; at once when it is not valid yet (the clocks differ, ask again).
pub(crate) fn renew_at(
    not_before: SystemTime,
    not_after: SystemTime,
    now: SystemTime,
    dice: &mut Dice,
) -> SystemTime {
    if now < not_before {
        return now;
    }
    let validity = not_after.duration_since(not_before).unwrap_or_default();
    let early_ms_max = millis(validity) * EARLY_PERCENT / 100;
    let early = Duration::from_millis(dice.below(early_ms_max));
    not_before + (validity / 2).saturating_sub(early)
}

/// The delays between failed tries.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { next: RETRY_FIRST }
    }
}

impl Backoff {
    /// The next delay: twice the last, with jitter, at most 150 s.
    pub(crate) fn delay(&mut self, dice: &mut Dice) -> Duration {
        let base = self.next;
        self.next = (base * 2).min(RETRY_MAX);
        let spread = millis(base) * RETRY_JITTER_PERCENT / 100;
        let jitter = Duration::from_millis(dice.below(2 * spread + 1));
        (base + jitter)
            .saturating_sub(Duration::from_millis(spread))
            .min(RETRY_MAX)
    }

    /// Starts over.
    pub(crate) fn reset(&mut self) {
        *self = Self::default();
    }
}

/// When to try again after a failure: after the delay, but not later than the end of the
/// certificate still held.
pub(crate) fn retry_at(
    now: SystemTime,
    delay: Duration,
    held_until: Option<SystemTime>,
) -> SystemTime {
    let at = now + delay;
    match held_until {
        Some(end) if end > now => at.min(end),
        _ => at,
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 200)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn delays_double_up_to_the_maximum() {
        let (mut backoff, mut dice) = (Backoff::default(), Dice::seeded(1));
        let mut base = 1000;
        for _ in 0..12 {
            let delay = millis(backoff.delay(&mut dice));
            assert!(delay >= base * 8 / 10 && delay <= (base * 12 / 10).min(150_000));
            base = (base * 2).min(150_000);
        }
        backoff.reset();
        assert!(backoff.delay(&mut dice) <= Duration::from_millis(1200));
    }

    #[test]
    fn a_certificate_from_the_future_is_asked_for_again_at_once() {
        let now = at(100);
        assert_eq!(renew_at(at(200), at(300), now, &mut Dice::seeded(1)), now);
    }

    proptest! {
        #[test]
        fn renewal_is_near_half_life_and_before_the_end(
            start in 0u64..1 << 32, length in 1u64..10_000_000, age in 0u64..10_000_000, seed: u64,
        ) {
            let (from, to) = (at(start), at(start + length));
            let due = renew_at(from, to, at(start + age), &mut Dice::seeded(seed));
            let half = from + Duration::from_secs(length) / 2;
            prop_assert!(due <= half && due < to);
            prop_assert!(half.duration_since(due).unwrap() <= Duration::from_secs(length) / 20);
        }

        #[test]
        fn a_retry_is_never_later_than_the_end_of_what_is_held(
            now in 0u64..1 << 32, left in 1u64..1 << 20, delay in 0u64..1 << 20,
        ) {
            let end = at(now + left);
            let due = retry_at(at(now), Duration::from_secs(delay), Some(end));
            prop_assert!(due <= end && due <= at(now + delay));
        }
    }
}
