//! The pauses between tries of everything that talks to NATS: connect, the pipeline, lookups, the publisher and both
//! outboxes. The client's own pauses when it reconnects are in `connect`.

use std::time::Duration;

/// Doubles the wait from try to try, from 100 ms up to 5 s.
#[derive(Debug, Default)]
pub struct Backoff {
    tries: u32,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(100);
    pub(super) const MAX: Duration = Duration::from_secs(5);

    /// Starts from the shortest wait again.
    pub fn reset(&mut self) {
        self.tries = 0;
    }

    /// Returns how long to wait before the next try.
    pub fn next_delay(&mut self) -> Duration {
        let delay = Self::FIRST.saturating_mul(1_u32.checked_shl(self.tries).unwrap_or(u32::MAX));
        self.tries = (self.tries + 1).min(16);
        delay.min(Self::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn back_off_doubles_up_to_its_maximum() {
        let mut backoff = Backoff::default();
        let delays: Vec<_> = (0..8).map(|_| backoff.next_delay().as_millis()).collect();
        assert_eq!(delays, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        backoff.reset();
        assert_eq!(backoff.next_delay().as_millis(), 100);
    }
}
