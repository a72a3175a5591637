//! How long to wait between streams.

use mesh_model::Dice;
use std::time::{Duration, SystemTime};

/// The first wait.
const FIRST: Duration = Duration::from_millis(10);
/// No wait is longer, jitter aside.
const LONGEST: Duration = Duration::from_secs(15);

/// Doubling waits, each lengthened by up to a quarter so that the proxies of a mesh do not all
/// come back to a restarted control plane at the same moment.
pub(super) struct Backoff {
    next: Duration,
    dice: Dice,
}

impl Backoff {
    pub(super) fn new() -> Self {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let seed = now.map_or(0, |d| u64::from(d.subsec_nanos()));
        Self {
            next: FIRST,
            dice: Dice::seeded(seed ^ u64::from(std::process::id())),
        }
    }

    /// The wait before the next try. After a stream that served it starts over at the shortest.
    pub(super) fn next(&mut self, served: bool) -> Duration {
        if served {
            self.next = FIRST;
        }
        let wait = self.next;
        self.next = (wait * 2).min(LONGEST);
        let quarter_us = u64::try_from(wait.as_micros() / 4).unwrap_or(0);
        wait + Duration::from_micros(self.dice.below(quarter_us))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_to_a_limit_and_start_over_after_a_stream_that_served() {
        let mut backoff = Backoff::new();
        let mut longest = Duration::ZERO;
        for n in 0..20u32 {
            let base = (FIRST * 2u32.pow(n.min(12))).min(LONGEST);
            let wait = backoff.next(false);
            assert!(wait >= base && wait <= base + base / 4, "{n}: {wait:?}");
            longest = longest.max(wait);
        }
        assert!(longest >= LONGEST);
        assert!(backoff.next(true) < Duration::from_millis(13));
    }
}
