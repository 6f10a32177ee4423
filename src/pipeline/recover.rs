//! For rounds that bring no message: finds out what is wrong with the stream, and when to read messages one by one.

use std::time::Duration;

use tokio::time::Instant;

use super::Pipeline;
use super::ended::{Ended, PipelineError};
use crate::judge::Batch;
use crate::nats::{NatsError, Silence};
use crate::position::{Position, Standing, stand};

/// After so many rounds in a row without a commit, the next messages are read one by one. The delivery of one of them
/// may break the connection, or may never come.
const MAX_FRUITLESS_ROUNDS: u32 = 3;
/// After single reads helped, one fruitless round is enough for this long, because bad messages seldom come alone.
const SUSPICION: Duration = Duration::from_secs(60);
/// How many messages are then read one by one. Under suspicion the number doubles each time, up to the maximum.
const MIN_SINGLE_MESSAGES: usize = 8;
const MAX_SINGLE_MESSAGES: usize = 1024;

const _: () = assert!(MIN_SINGLE_MESSAGES <= MAX_SINGLE_MESSAGES);

/// Counts rounds in a row without a commit, and decides how many messages to read one by one.
pub(super) struct Trouble {
    fruitless_rounds: u32,
    single_messages: usize,
    suspicious_until: Option<Instant>,
    has_progress: bool,
}

impl Trouble {
    pub(super) fn none() -> Self {
        Self { fruitless_rounds: 0, single_messages: MIN_SINGLE_MESSAGES, suspicious_until: None, has_progress: false }
    }

    fn is_suspicious(&self) -> bool {
        self.suspicious_until.is_some_and(|until| Instant::now() < until)
    }

    /// Returns how many messages to read one by one before the next pull, or `None` if pulls bring messages.
    pub(super) fn single_messages(&self) -> Option<usize> {
        let enough = if self.is_suspicious() { 1 } else { MAX_FRUITLESS_ROUNDS };
        (self.fruitless_rounds >= enough).then_some(self.single_messages)
    }

    pub(super) fn after_single_messages(&mut self, helped: bool) {
        self.fruitless_rounds = 0;
        if helped {
            self.has_progress = true;
            self.suspicious_until = Some(Instant::now() + SUSPICION);
            self.single_messages = (self.single_messages * 2).min(MAX_SINGLE_MESSAGES);
        }
    }

    /// Records how a round ended. An idle stream brings no message, and nothing is wrong with that.
    pub(super) fn after_round(&mut self, ended: &Ended, has_committed: bool, has_backlog: bool) {
        if has_committed {
            self.has_progress = true;
            self.fruitless_rounds = 0;
            if !self.is_suspicious() {
                self.single_messages = MIN_SINGLE_MESSAGES;
            }
        }
        match ended {
            // Messages wait but are not delivered: the next round begins with single reads.
            Ended::Stalled => self.fruitless_rounds = MAX_FRUITLESS_ROUNDS,
            Ended::Interrupted(_) if has_backlog => self.fruitless_rounds += 1,
            Ended::Stopped | Ended::Reached | Ended::Interrupted(_) => {}
        }
    }

    /// Returns whether anything was committed since the last call.
    pub(super) fn take_progress(&mut self) -> bool {
        std::mem::take(&mut self.has_progress)
    }
}

impl Pipeline {
    /// Reads the next messages one by one, without the consumer that does not deliver them, and commits them
    /// together. Returns `None` if there are no messages, or if single reads fail for now too.
    pub(super) async fn read_singly(
        &mut self,
        after: &Position,
        count: usize,
    ) -> Result<Option<Position>, PipelineError> {
        tracing::warn!(after = after.last_seq, count, "reading messages one by one, because they are not delivered");
        let batch = match self.fetch_batch(after, count).await {
            Ok(batch) if batch.is_empty() => return Ok(None),
            Ok(batch) => batch,
            Err(error) if error.is_transient() => {
                tracing::warn!("cannot read messages one by one: {error}");
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
            if self.mode.is_beyond(delivery.stream_sequence) {
                break;
            }
            batch.push(judge.judge(delivery));
        }
        // Only this check shows that the messages came from the stream that was read before.
        let state = self.source.stream_state(Some(after), false).await?;
        stand(Some(after), &state, false)?;
        batch.reason_gaps(state.first_seq);
        Ok(batch)
    }

    /// Checks an idle stream, and returns why the round must end, if it must. A purge, a rollback, a recreated stream
    /// or a lost tail brings no message that would reveal it.
    pub(super) async fn why_idle(&mut self, position: &Position) -> Option<Ended> {
        let interrupted = |why: &str| Some(Ended::Interrupted(why.to_owned()));
        match self.source.silence().await {
            Silence::TailLost => return interrupted("the last messages were lost between server and client"),
            Silence::Stalled => return Some(Ended::Stalled),
            Silence::Quiet => {}
        }
        let standing = match self.source.stream_state(Some(position), false).await {
            Ok(state) => stand(Some(position), &state, false),
            Err(error) if error.is_transient() => return None,
            Err(error) => return interrupted(&error.to_string()),
        };
        match standing {
            Ok(Standing::Resume(_)) => None,
            _ => interrupted("the stream has changed"),
        }
    }
}
