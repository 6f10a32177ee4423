//! The claim of one process on the durable consumer. The claim resets the consumer to the position in the database,
//! and notices when another process resets it too.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::stream::Stream;

use super::backoff::Backoff;
use super::consumer::{self, Instance};
use super::error::NatsError;
use crate::config;

/// A reset that this process did not send is foreign. So many foreign resets within the window mean that two readers
/// fight over the consumer.
const MAX_FOREIGN_RESETS: usize = 3;
const FOREIGN_RESETS_WINDOW: Duration = Duration::from_secs(60);

const _: () = assert!(
    FOREIGN_RESETS_WINDOW.as_secs() > Backoff::MAX.as_secs() * MAX_FOREIGN_RESETS as u64,
    "foreign resets at the longest backoff must still reach the maximum within the window"
);

/// A claim on the durable consumer, with the resets that this process has seen and sent.
#[derive(Debug)]
pub(super) struct ConsumerClaim {
    instance: Instance,
    foreign_resets: VecDeque<Instant>,
    unanswered_resets: u32,
}

/// Who reset the consumer.
pub(super) enum ResetBy {
    /// This process: its reset was not answered, and took effect late.
    Us,
    /// Another process.
    Others,
}

impl ConsumerClaim {
    pub(super) fn of(instance: Instance) -> Self {
        Self { instance, foreign_resets: VecDeque::new(), unanswered_resets: 0 }
    }

    /// Claims the consumer, and resets it so that it delivers `seq` first.
    pub(super) async fn take_over(
        &mut self,
        stream: &Stream,
        config: &config::Stream,
        max_ack_pending: i64,
        seq: u64,
    ) -> Result<PullConsumer, NatsError> {
        self.ensure_uncontested(stream, config).await?;
        let mut consumer = consumer::claim(stream, config, max_ack_pending, &self.instance).await?;
        // Without an answer, the reset may still take effect later.
        self.unanswered_resets += 1;
        let reset = consumer.reset(Some(seq)).await;
        reset.map_err(|error| NatsError::request(format!("cannot reset the consumer to sequence {seq}"), error))?;
        self.unanswered_resets -= 1;
        Ok(consumer)
    }

    async fn ensure_uncontested(&mut self, stream: &Stream, config: &config::Stream) -> Result<(), NatsError> {
        self.foreign_resets.retain(|at| at.elapsed() < FOREIGN_RESETS_WINDOW);
        if self.foreign_resets.len() < MAX_FOREIGN_RESETS {
            return Ok(());
        }
        let other = consumer::other_reader(stream, &config.consumer, &self.instance).await;
        Err(consumer::contested(config, other.as_ref()))
    }

    /// Records that the consumer was reset. Returns who reset it.
    pub(super) fn saw_reset(&mut self) -> ResetBy {
        if self.unanswered_resets > 0 {
            self.unanswered_resets -= 1;
            return ResetBy::Us;
        }
        self.foreign_resets.push_back(Instant::now());
        ResetBy::Others
    }
}
