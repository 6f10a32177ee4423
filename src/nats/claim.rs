//! The claim of one process on the durable consumer: it puts the consumer where the database stands, and notices when
//! somebody else does so too.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::stream::Stream;

use super::backoff::Backoff;
use super::consumer::{self, Instance};
use super::error::NatsError;
use crate::config;

/// Resets that nobody here sent, within the window: then two readers fight.
const MAX_FOREIGN_RESETS: usize = 3;
const FOREIGN_RESETS_WINDOW: Duration = Duration::from_secs(60);

const _: () = assert!(
    FOREIGN_RESETS_WINDOW.as_secs() > Backoff::MAX.as_secs() * MAX_FOREIGN_RESETS as u64,
    "resets that come as seldom as tries would never be enough"
);

/// A claim on the durable consumer.
#[derive(Debug)]
pub(super) struct ConsumerClaim {
    instance: Instance,
    foreign_resets: VecDeque<Instant>,
    unanswered_resets: u32,
}

/// Who reset the consumer.
pub(super) enum ResetBy {
    /// This process: a reset that was not answered took effect late.
    Us,
    /// Somebody else.
    Others,
}

impl ConsumerClaim {
    pub(super) fn of(instance: Instance) -> Self {
        Self { instance, foreign_resets: VecDeque::new(), unanswered_resets: 0 }
    }

    /// Claims the consumer, and puts it before a sequence.
    pub(super) async fn take_over(
        &mut self,
        stream: &Stream,
        config: &config::Stream,
        max_ack_pending: i64,
        seq: u64,
    ) -> Result<PullConsumer, NatsError> {
        self.ensure_uncontested(stream, config).await?;
        let mut consumer = consumer::claim(stream, config, max_ack_pending, &self.instance).await?;
        // Without an answer it may take effect all the same, later.
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

    /// The consumer was seen to be reset.
    pub(super) fn saw_reset(&mut self) -> ResetBy {
        if self.unanswered_resets > 0 {
            self.unanswered_resets -= 1;
            return ResetBy::Us;
        }
        self.foreign_resets.push_back(Instant::now());
        ResetBy::Others
    }
}
