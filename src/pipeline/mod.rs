//! The path of a message, on one screen: read, judge, batch, commit, then acknowledge, then publish.
//!
//! ```text
//! bind      finds the position in the database, and checks that the stream is still the same
//! read      Source::next -> Judge::judge -> Batch, while the writer's thread writes the previous batch
//! write     Writer::commit_all -> CommitReceipt -> Source::ack -> the outboxes
//! recover   if no message arrives: reads messages one by one, or begins another round
//! ```
//! If the process dies, the database is at its last commit. The next start reads the uncommitted messages again. The
//! next ack, or the next reset, acknowledges committed messages that have no ack yet.

mod bind;
mod ended;
mod mode;
mod recover;
mod round;
mod write;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::judge::{BatchLimits, Criteria};
use crate::nats::{Backoff, NatsError, Source};
use crate::position::Position;
use crate::store::WriterThread;
use crate::telemetry::Telemetry;
use ended::{Ended, why_again};
use recover::Trouble;
use round::{Round, room};

pub use ended::PipelineError;
pub use mode::Mode;

/// How often an idle worker checks that the stream is still the one that it reads.
const IDLE_CHECK: Duration = Duration::from_secs(5);

/// Brings messages from the stream to the database.
#[derive(Debug)]
pub struct Pipeline {
    /// The source of the messages.
    pub source: Source,
    /// The writer of the database.
    pub writer: WriterThread,
    /// The criteria that judge the messages.
    pub criteria: Criteria,
    /// The limits of a batch.
    pub batch: BatchLimits,
    /// The database that the messages fill: live or shadow.
    pub mode: Mode,
    /// Metrics.
    pub telemetry: Arc<Telemetry>,
}

impl Pipeline {
    /// Runs until `stop`, or until a replay is done; then commits the messages that were read.
    ///
    /// # Errors
    /// If the pipeline can continue only after somebody acts. Nothing is lost.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), PipelineError> {
        let mut backoff = Backoff::default();
        let mut trouble = Trouble::none();
        loop {
            let ended = self.round(&mut trouble, &stop).await;
            let Some(why) = why_again(ended, stop.is_cancelled())? else { return Ok(()) };
            if trouble.take_progress() {
                backoff.reset();
            }
            let delay = backoff.next_delay();
            tracing::warn!(retry_in_ms = delay.as_millis(), "{why}");
            let mut returns = self.source.connection_returns();
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(delay) => {}
                _ = returns.changed() => {}
            }
        }
    }

    /// Binds, then reads until `stop`, or until something fails.
    async fn round(&mut self, trouble: &mut Trouble, stop: &CancellationToken) -> Result<Ended, PipelineError> {
        let mut losses = self.source.connection_losses();
        let position = tokio::select! {
            () = stop.cancelled() => return Ok(Ended::Stopped),
            bound = self.bind(trouble) => bound?,
            _ = losses.changed() => return Err(NatsError::ConnectionLost.into()),
        };
        let (ended, has_committed) = self.read(position, losses, stop).await?;
        trouble.after_round(&ended, has_committed, self.source.has_backlog());
        Ok(ended)
    }

    /// Reads, judges and commits until `stop`, or until something fails. Also returns whether anything was committed.
    async fn read(
        &mut self,
        position: Position,
        mut losses: watch::Receiver<u64>,
        stop: &CancellationToken,
    ) -> Result<(Ended, bool), PipelineError> {
        let judge = self.criteria.judge_at(&position);
        let mut round = Round::after(position);
        let mut idle = tokio::time::interval_at(Instant::now() + IDLE_CHECK, IDLE_CHECK);
        idle.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let ended = loop {
            if self.mode.has_reached(round.batch.end_seq(), self.source.has_backlog()) {
                break Ended::Reached;
            }
            if round.is_due(self.batch, self.has_backlog())
                && let Err(error) = self.begin_write(&mut round).await
            {
                break Ended::Interrupted(error.to_string());
            }
            if !self.has_backlog() {
                round.close_feed();
            }
            let (due, is_full, feed) =
                (round.began + self.batch.max_delay, round.batch.is_full(self.batch), round.feed());
            tokio::select! {
                biased;
                () = stop.cancelled() => break Ended::Stopped,
                written = round.written() => self.committed(&mut round, written?).await,
                permit = room(feed), if is_full => match self.take_batch(&mut round).await {
                    Ok(batch) => drop(permit.send(batch)),
                    Err(error) => break Ended::Interrupted(error.to_string()),
                },
                delivery = self.source.next(), if !round.batch.is_full(self.batch) => {
                    if let Some(ended) = self.take_arrived(&mut round, &judge, delivery) {
                        break ended;
                    }
                    idle.reset();
                }
                // Handled after the messages that have arrived. Messages in flight are lost. If they were the
                // stream's last, no later message reveals the loss.
                _ = losses.changed() => break Ended::Interrupted("the connection was lost".into()),
                () = tokio::time::sleep_until(due), if round.can_write() => {}
                _ = idle.tick(), if round.is_idle() => {
                    if let Some(ended) = self.why_idle(&round.batch.after).await {
                        break ended;
                    }
                }
            }
        };
        self.source.stop_pulling();
        self.finish(&mut round).await?;
        Ok((ended, round.has_committed))
    }
}
