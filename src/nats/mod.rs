//! Everything that speaks NATS: the only folder that names `async_nats`.

mod bucket;
mod connect;
mod consumer;
mod dashboard;
mod dead_letter;
mod fetch;
mod publisher;
mod source;
mod stream;
mod viewer;

use std::time::Duration;

pub(crate) use connect::without_secrets;
pub use connect::{Connection, connect, connect_once};
pub use consumer::{Instance, lag};
pub use dashboard::DashboardPublisher;
pub use dead_letter::DeadLetters;
pub use publisher::{
    Acknowledged, Outgoing, PublishFailure, Publishable, Publisher, PublisherOptions, Receipt, Unsent,
};
pub use source::{Interrupted, Silence, Source};
pub use stream::{last_sequence, last_sequence_before, wait_for_stream};
pub use viewer::{LiveNumber, Seen, Viewer};

use crate::position::Refusal;

/// How long a request to JetStream may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// What went wrong between us and NATS, and whether trying again can help.
#[derive(Debug, thiserror::Error)]
pub enum NatsError {
    /// Passes by itself: the server restarts, a leader changes, a request times out.
    #[error("{0}")]
    Transient(String),
    /// Passes only if somebody does something.
    #[error("{0}")]
    Fatal(String),
    /// The stream is not the one that was read.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

impl NatsError {
    fn transient(what: &str, error: impl std::fmt::Display) -> Self {
        Self::Transient(format!("{what}: {error}"))
    }
}

/// Waits between tries: twice as long each time, from 100 ms to 5 s.
#[derive(Debug, Default)]
pub struct Backoff {
    tries: u32,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(100);
    const MAX: Duration = Duration::from_secs(5);

    /// Starts from the shortest wait again.
    pub fn reset(&mut self) {
        self.tries = 0;
    }

    /// How long to wait before the next try.
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
