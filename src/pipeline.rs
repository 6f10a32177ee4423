//! The way of a message, on one screen: read, judge, batch, commit, then acknowledge, then publish.
//!
//! One task reads and judges the next batch while the writer's thread writes this one. If the process dies at any line
//! here, the database is at some commit, and the next start goes on from there: what was read and not committed is read
//! again, what was committed and not acknowledged is acknowledged by the next ack, or by the next reset.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::batch::Batch;
use crate::config;
use crate::judge::Judge;
use crate::nats::{Backoff, NatsError, Source};
use crate::position::{Position, Standing, stand};
use crate::store::{Committed, StoreError, WriterThread};
use crate::telemetry::Telemetry;
use crate::validate::Limits;

/// How often an idle worker looks whether the stream is still the one it reads.
const IDLE_CHECK: Duration = Duration::from_secs(5);

/// What ends the pipeline.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// NATS, for good.
    #[error(transparent)]
    Nats(#[from] NatsError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// From the stream to the database.
#[derive(Debug)]
pub struct Pipeline {
    /// Where messages come from.
    pub source: Source,
    /// Where they go.
    pub writer: WriterThread,
    /// `stream.prefix`
    pub prefix: String,
    /// `[limits]`
    pub limits: Limits,
    /// `[batch]`
    pub batch: config::Batch,
    /// Whether the operator lets a stream that cannot go on begin a new epoch.
    pub new_epoch: bool,
    /// Told of every commit that put something into the ledger: its last sequence.
    pub rejections: watch::Sender<u64>,
    /// Metrics.
    pub telemetry: Arc<Telemetry>,
}

/// Why a round of reading ended.
enum Ended {
    Stopped,
    Interrupted(String),
}

impl Pipeline {
    /// Runs until `stop`, then finishes what was read.
    ///
    /// # Errors
    /// Where going on needs somebody to do something. Nothing is lost.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), PipelineError> {
        let mut backoff = Backoff::default();
        loop {
            let mut losses = self.source.connection_losses();
            let bound = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                bound = self.bind() => bound,
                _ = losses.changed() => Err(NatsError::Transient("the connection was lost".into()).into()),
            };
            let why = match bound {
                Ok(position) => match self.read(position, losses, &stop).await {
                    Ok((_, Ended::Stopped)) => return Ok(()),
                    Ok((progress, Ended::Interrupted(why))) => {
                        if progress {
                            backoff.reset();
                        }
                        why
                    }
                    Err(PipelineError::Store(error @ StoreError::PositionMoved)) => error.to_string(),
                    Err(PipelineError::Store(StoreError::Busy)) if stop.is_cancelled() => return Ok(()),
                    Err(error) => return Err(error),
                },
                Err(PipelineError::Nats(NatsError::Transient(why))) => why,
                Err(error) => return Err(error),
            };
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

    /// Finds out where the database stands, whether the stream is still the same, and begins to read after it.
    async fn bind(&mut self) -> Result<Position, PipelineError> {
        let last = self.writer.run(|writer| writer.position()).await?;
        let state = self.source.stream_state(last.as_ref(), self.new_epoch).await?;
        let standing = stand(last.as_ref(), &state, self.new_epoch).map_err(NatsError::from)?;
        let position = match standing {
            Standing::Resume(position) => position,
            Standing::Behind(position, gap) => {
                tracing::warn!(first = gap.first_seq, last = gap.last_seq, "messages were gone before they were read");
                self.telemetry.skipped(gap.last_seq - gap.first_seq + 1);
                self.writer.run(move |writer| writer.skip(&position, gap)).await?
            }
            Standing::Begin { first_seq } => {
                self.writer.run(move |writer| writer.begin_epoch(&state.name, state.created_ns, first_seq)).await?
            }
        };
        self.source.start(&position).await?;
        self.telemetry.bound(position.last_seq);
        tracing::info!(stream = position.stream, epoch = position.epoch, after = position.last_seq, "reading");
        Ok(position)
    }

    /// Reads, judges and commits until something breaks or `stop`. Tells whether anything was committed.
    async fn read(
        &mut self,
        position: Position,
        mut losses: watch::Receiver<u64>,
        stop: &CancellationToken,
    ) -> Result<(bool, Ended), PipelineError> {
        let judge = Judge {
            prefix: self.prefix.clone(),
            stream: position.stream.clone(),
            epoch: position.epoch,
            limits: self.limits.clone(),
        };
        let mut round =
            Round { batch: Batch::after(position), began: Instant::now(), write: None, has_committed: false };
        let mut idle = tokio::time::interval_at(Instant::now() + IDLE_CHECK, IDLE_CHECK);
        idle.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let ended = loop {
            if round.is_due(self.batch, self.source.has_backlog()) {
                round.begin_write(&mut self.source, &self.writer);
            }
            let due = round.began + self.batch.max_delay;
            tokio::select! {
                biased;
                () = stop.cancelled() => break Ended::Stopped,
                committed = finished(&mut round.write) => self.committed(&mut round, committed?).await,
                delivery = self.source.next(), if !round.batch.is_full(self.batch) => match delivery {
                    Ok(delivery) => {
                        round.push(judge.judge(delivery));
                        idle.reset();
                    }
                    Err(interrupted) => break Ended::Interrupted(interrupted.to_string()),
                },
                // After what had arrived. What had not will not, and if it was the last, no later message would tell.
                _ = losses.changed() => break Ended::Interrupted("the connection was lost".into()),
                () = tokio::time::sleep_until(due), if round.can_write() => {}
                _ = idle.tick(), if round.is_idle() => {
                    if let Some(why) = self.stream_has_changed(&round.batch.after).await {
                        break Ended::Interrupted(why);
                    }
                }
            }
        };
        self.finish(&mut round).await?;
        Ok((round.has_committed, ended))
    }

    /// Commits what was read: it is whole, whatever broke after it.
    async fn finish(&mut self, round: &mut Round) -> Result<(), PipelineError> {
        while round.write.is_some() || !round.batch.is_empty() {
            if round.write.is_none() {
                round.begin_write(&mut self.source, &self.writer);
            }
            let committed = finished(&mut round.write).await?;
            self.committed(round, committed).await;
        }
        Ok(())
    }

    /// After a commit, and only then: acknowledge, and tell those who publish.
    async fn committed(&mut self, round: &mut Round, committed: Committed) {
        let took = round.write.take().map(|write| write.began.elapsed()).unwrap_or_default();
        round.has_committed = true;
        self.source.ack(&committed).await;
        let last_seq = committed.position().last_seq;
        self.telemetry.committed(committed.counts(), last_seq, self.source.pending(), took);
        if committed.counts().rejected > 0 {
            self.rejections.send_replace(last_seq);
        }
        tracing::debug!(last_seq, took_ms = took.as_millis(), counts = ?committed.counts(), "committed");
    }

    /// Looked at when idle: a purge, a rollback or a recreated stream brings no message that would tell.
    async fn stream_has_changed(&mut self, position: &Position) -> Option<String> {
        if self.source.has_lost_the_tail().await {
            return Some("the last messages were lost on the way".into());
        }
        let standing = match self.source.stream_state(Some(position), false).await {
            Ok(state) => stand(Some(position), &state, false),
            Err(NatsError::Transient(_)) => return None,
            Err(error) => return Some(error.to_string()),
        };
        match standing {
            Ok(Standing::Resume(_)) => None,
            _ => Some("the stream has changed".into()),
        }
    }
}

/// One round of reading: the batch that is being filled, and the one that is being written.
struct Round {
    batch: Batch,
    /// When the first message came into the batch.
    began: Instant,
    write: Option<Write>,
    has_committed: bool,
}

struct Write {
    began: Instant,
    committed: BoxFuture<'static, Result<Committed, StoreError>>,
}

impl Round {
    fn push(&mut self, verdict: crate::judge::Verdict) {
        if self.batch.is_empty() {
            self.began = Instant::now();
        }
        self.batch.push(verdict);
    }

    fn can_write(&self) -> bool {
        self.write.is_none() && !self.batch.is_empty()
    }

    fn is_idle(&self) -> bool {
        self.write.is_none() && self.batch.is_empty()
    }

    /// The writer takes what is there when it is free; only under backlog does it wait for the batch to fill.
    fn is_due(&self, limits: config::Batch, has_backlog: bool) -> bool {
        self.can_write() && (!has_backlog || self.batch.is_full(limits) || self.began.elapsed() >= limits.max_delay)
    }

    fn begin_write(&mut self, source: &mut Source, writer: &WriterThread) {
        source.mark_batch();
        let next = Batch::after(self.batch.end());
        let batch = std::mem::replace(&mut self.batch, next);
        let committed = writer.run(move |writer| writer.commit(&batch));
        self.write = Some(Write { began: Instant::now(), committed });
    }
}

/// Ready when the write is; never where there is none.
async fn finished(write: &mut Option<Write>) -> Result<Committed, StoreError> {
    match write {
        Some(write) => (&mut write.committed).await,
        None => std::future::pending().await,
    }
}
