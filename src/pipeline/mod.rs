//! The way of a message, on one screen: read, judge, batch, commit, then acknowledge, then publish.
//!
//! One task reads and judges the next batch while the writer's thread writes this one. If the process dies at any line
//! here, the database is at some commit, and the next start goes on from there: what was read and not committed is read
//! again, what was committed and not acknowledged is acknowledged by the next ack, or by the next reset.

mod round;
mod trouble;

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::judge::{Batch, BatchLimits, Criteria, Delivery, Judge};
use crate::nats::{Backoff, Interrupted, NatsError, Silence, Source};
use crate::position::{Position, Standing, stand};
use crate::store::{Committed, StoreError, WriterThread};
use crate::telemetry::Telemetry;
use round::{Round, Write, Written, room};
use trouble::Trouble;

/// How often an idle worker looks whether the stream is still the one it reads.
const IDLE_CHECK: Duration = Duration::from_secs(5);

/// Batches that a replay reads ahead: while the writer derives, the rules of the next go on.
const REPLAYED_AHEAD: usize = 3;

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
    /// What messages are judged by.
    pub criteria: Criteria,
    /// `[batch]`
    pub batch: BatchLimits,
    /// Where a replay ends; none where messages are read as they come.
    pub upto: Option<u64>,
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
    /// A replay has read what there is.
    Reached,
    Interrupted(String),
    /// There are messages, but they are not delivered.
    Stalled,
}

impl Pipeline {
    /// Runs until `stop`, then finishes what was read.
    ///
    /// # Errors
    /// Where going on needs somebody to do something. Nothing is lost.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), PipelineError> {
        let mut backoff = Backoff::default();
        let mut trouble = Trouble::none();
        loop {
            let why = match self.round(&mut trouble, &stop).await {
                Ok(Ended::Stopped | Ended::Reached) => return Ok(()),
                Ok(Ended::Interrupted(why)) => why,
                Ok(Ended::Stalled) => "messages are there, but not delivered".into(),
                Err(PipelineError::Nats(NatsError::Transient(why))) => why,
                Err(PipelineError::Store(error @ (StoreError::PositionMoved | StoreError::Frozen { .. }))) => {
                    error.to_string()
                }
                Err(PipelineError::Store(StoreError::Busy)) if stop.is_cancelled() => return Ok(()),
                Err(error) => return Err(error),
            };
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

    /// Binds and reads, until something breaks or `stop`.
    async fn round(&mut self, trouble: &mut Trouble, stop: &CancellationToken) -> Result<Ended, PipelineError> {
        let mut losses = self.source.connection_losses();
        let position = tokio::select! {
            () = stop.cancelled() => return Ok(Ended::Stopped),
            bound = self.bind(trouble) => bound?,
            _ = losses.changed() => return Err(NatsError::Transient("the connection was lost".into()).into()),
        };
        let (ended, has_committed) = self.read(position, losses, stop).await?;
        if has_committed {
            trouble.after_commit();
        }
        match &ended {
            Ended::Stalled => trouble.after_stall(),
            // An idle stream brings nothing, and nothing is wrong with that.
            Ended::Interrupted(_) if self.source.has_backlog() => trouble.after_interruption(),
            _ => {}
        }
        Ok(ended)
    }

    /// Finds out where the database stands, whether the stream is still the same, and begins to read after it.
    async fn bind(&mut self, trouble: &mut Trouble) -> Result<Position, PipelineError> {
        self.source.revive().await?;
        let last = self.writer.run(|writer| writer.position()).await?;
        let state = self.source.stream_state(last.as_ref(), self.new_epoch).await?;
        let standing = stand(last.as_ref(), &state, self.new_epoch).map_err(NatsError::from)?;
        let mut position = match standing {
            Standing::Resume(position) => position,
            Standing::Behind(position, gap) => {
                let (first, last) = (gap.first_seq, gap.last_seq);
                if self.upto.is_some() {
                    tracing::info!(first, last, "the stream does not hold these messages any more");
                } else {
                    tracing::warn!(first, last, "messages were gone before they were read");
                }
                self.telemetry.skipped(last - first + 1);
                self.writer.run(move |writer| writer.skip(&position, gap)).await?
            }
            Standing::Begin { first_seq } => {
                self.writer.run(move |writer| writer.begin_epoch(&state.name, state.created_ns, first_seq)).await?
            }
        };
        // A writer's job outlives the round that asked for it: its rejections may not have been told of.
        self.rejections.send_replace(position.last_seq);
        if let Some(count) = trouble.single_messages() {
            let read = self.read_singly(&position, count).await?;
            trouble.after_single_messages(read.is_some());
            position = read.unwrap_or(position);
        }
        self.source.start(&position).await?;
        // Named once, for the stream of then: what happens to this one is another decision.
        self.new_epoch = false;
        self.telemetry.bound(position.last_seq);
        tracing::info!(stream = position.stream, epoch = position.epoch, after = position.last_seq, "reading");
        Ok(position)
    }

    /// Reads the next messages one by one, past whatever keeps them from being delivered, and commits them together.
    /// None where there are none, or they cannot be read so either.
    async fn read_singly(&mut self, after: &Position, count: usize) -> Result<Option<Position>, PipelineError> {
        tracing::warn!(after = after.last_seq, count, "reading messages one by one, since they are not delivered");
        let batch = match self.fetch_batch(after, count).await {
            Ok(batch) if batch.is_empty() => return Ok(None),
            Ok(batch) => batch,
            Err(NatsError::Transient(why)) => {
                tracing::warn!("they cannot be read one by one: {why}");
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        let committed = self.writer.run(move |writer| writer.commit(&batch)).await?;
        self.publish(&committed, Duration::ZERO);
        Ok(Some(committed.position().clone()))
    }

    async fn fetch_batch(&mut self, after: &Position, count: usize) -> Result<Batch, NatsError> {
        let judge = self.criteria.judge_at(after);
        let mut batch = Batch::after(after.clone());
        while batch.verdicts.len() < count && !batch.is_full(self.batch) {
            let Some(delivery) = self.source.fetch_after(&batch.end()).await? else { break };
            if self.upto.is_some_and(|upto| delivery.stream_sequence > upto) {
                break;
            }
            batch.push(judge.judge(delivery));
        }
        // Only now is it known that they came from the stream that was read before.
        let state = self.source.stream_state(Some(after), false).await?;
        stand(Some(after), &state, false)?;
        batch.reason_gaps(state.first_seq);
        Ok(batch)
    }

    /// Reads, judges and commits until something breaks or `stop`. Tells whether anything was committed.
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
            if self.has_reached(round.batch.end_seq()) {
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
                // After what had arrived. What had not will not, and if it was the last, no later message would tell.
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

    /// Takes a message, and those that have arrived behind it: a turn of the loop for each costs as much as to judge it.
    fn take_arrived(
        &mut self,
        round: &mut Round,
        judge: &Judge,
        first: Result<Delivery, Interrupted>,
    ) -> Option<Ended> {
        let mut arrived = Some(first);
        while let Some(delivery) = arrived {
            match delivery {
                Ok(delivery) if self.upto.is_some_and(|upto| delivery.stream_sequence > upto) => {
                    return Some(Ended::Reached);
                }
                Ok(delivery) => round.push(judge.judge(delivery)),
                Err(interrupted) => return Some(Ended::Interrupted(interrupted.to_string())),
            }
            arrived = if round.batch.is_full(self.batch) { None } else { self.source.next().now_or_never() };
        }
        None
    }

    /// Whether at least one more batch would fill: then larger transactions are worth waiting for. Where messages merely
    /// keep coming, what is there is written as soon as the writer is free.
    fn has_backlog(&self) -> bool {
        let least = if self.upto.is_some() { 1 } else { self.batch.max_messages as u64 };
        self.source.pending() >= least
    }

    /// Whether a replay is done: nothing more of what it is to read is in the stream.
    fn has_reached(&self, seq: u64) -> bool {
        self.upto.is_some_and(|upto| seq >= upto || !self.source.has_backlog())
    }

    /// Takes the batch to be handed to the writer. One around sequences that may still be in the stream is dropped instead.
    async fn take_batch(&mut self, round: &mut Round) -> Result<Batch, NatsError> {
        if !round.batch.gaps.is_empty()
            && let Err(error) = self.source.vouch_for(&mut round.batch).await
        {
            round.batch = Batch::after(round.batch.after.clone());
            return Err(error);
        }
        self.source.mark_batch();
        let next = Batch::after(round.batch.end());
        Ok(std::mem::replace(&mut round.batch, next))
    }

    /// Begins a transaction. Under backlog it takes more batches as they fill.
    async fn begin_write(&mut self, round: &mut Round) -> Result<(), NatsError> {
        let mut left_over = std::mem::take(&mut round.left_over);
        let batch = match left_over.pop_front() {
            Some(batch) => batch,
            None => self.take_batch(round).await?,
        };
        let (feed, mut more) = mpsc::channel(if self.upto.is_some() { REPLAYED_AHEAD } else { 1 });
        let (runtime, max_delay) = (Handle::current(), self.batch.max_delay);
        let committed = self.writer.run(move |writer| {
            let mut came =
                || runtime.block_on(async { tokio::time::timeout(max_delay, more.recv()).await.ok().flatten() });
            let committed = writer.commit_all(&batch, || left_over.pop_front().or_else(&mut came))?;
            Ok((committed, left_over, more))
        });
        let feed = self.has_backlog().then_some(feed);
        round.write = Some(Write { began: Instant::now(), feed, committed });
        Ok(())
    }

    /// Commits what was read: it is whole, whatever broke after it.
    async fn finish(&mut self, round: &mut Round) -> Result<(), PipelineError> {
        round.close_feed();
        while !round.is_idle() {
            if round.write.is_none() && self.begin_write(round).await.is_err() {
                break;
            }
            round.close_feed();
            let written = round.written().await?;
            self.committed(round, written).await;
        }
        Ok(())
    }

    /// After a commit, and only then: acknowledge, and tell those who publish.
    async fn committed(&mut self, round: &mut Round, (committed, left_over, mut more): Written) {
        let took = round.write.take().map(|write| write.began.elapsed()).unwrap_or_default();
        round.left_over = left_over;
        round.left_over.extend(std::iter::from_fn(|| more.try_recv().ok()));
        round.has_committed = true;
        self.source.ack(&committed).await;
        self.publish(&committed, took);
    }

    fn publish(&self, committed: &Committed, took: Duration) {
        let (last_seq, counts) = (committed.position().last_seq, committed.counts());
        self.telemetry.committed(committed, self.source.pending(), took);
        if counts.rejected > 0 {
            self.rejections.send_replace(last_seq);
        }
        tracing::debug!(last_seq, took_ms = took.as_millis(), ?counts, "committed");
    }

    /// Looked at when idle: a purge, a rollback, a recreated stream, or a tail that was lost brings no message that
    /// would tell.
    async fn why_idle(&mut self, position: &Position) -> Option<Ended> {
        let interrupted = |why: &str| Some(Ended::Interrupted(why.to_owned()));
        match self.source.silence().await {
            Silence::TailLost => return interrupted("the last messages were lost on the way"),
            Silence::Stalled => return Some(Ended::Stalled),
            Silence::Quiet => {}
        }
        let standing = match self.source.stream_state(Some(position), false).await {
            Ok(state) => stand(Some(position), &state, false),
            Err(NatsError::Transient(_)) => return None,
            Err(error) => return interrupted(&error.to_string()),
        };
        match standing {
            Ok(Standing::Resume(_)) => None,
            _ => interrupted("the stream has changed"),
        }
    }
}
