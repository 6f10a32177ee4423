//! When reading brings nothing: what is wrong with the stream, and when to read messages singly instead.

use std::time::Duration;

use tokio::time::Instant;

use super::Pipeline;
use super::ended::{Ended, PipelineError};
use crate::judge::Batch;
use crate::nats::{NatsError, Silence};
use crate::position::{Position, Standing, stand};

/// Rounds in a row that brought nothing before the next messages are read singly: one of them may be such that its
/// delivery ends the connection, or never comes.
const MAX_FRUITLESS_ROUNDS: u32 = 3;
/// Where that helped, one such round is enough for so long: such messages seldom come alone.
const SUSPICION: Duration = Duration::from_secs(60);
/// How many messages are then read singly; twice as many each time under suspicion, up to the maximum.
const MIN_SINGLE_MESSAGES: usize = 8;
const MAX_SINGLE_MESSAGES: usize = 1024;

const _: () = assert!(MIN_SINGLE_MESSAGES <= MAX_SINGLE_MESSAGES);

/// Rounds in a row that brought nothing, and what is done about them.
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

    /// How many messages to read singly before the next pull; none where pulls bring them.
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

    /// A round has ended. An idle stream brings nothing, and nothing is wrong with that.
    pub(super) fn after_round(&mut self, ended: &Ended, has_committed: bool, has_backlog: bool) {
        if has_committed {
            self.has_progress = true;
            self.fruitless_rounds = 0;
            if !self.is_suspicious() {
                self.single_messages = MIN_SINGLE_MESSAGES;
            }
        }
        match ended {
            // There are messages, but they are not delivered: the next ones are read singly at once.
            Ended::Stalled => self.fruitless_rounds = MAX_FRUITLESS_ROUNDS,
            Ended::Interrupted(_) if has_backlog => self.fruitless_rounds += 1,
            Ended::Stopped | Ended::Reached | Ended::Interrupted(_) => {}
        }
    }

    /// Whether anything was committed since this was last asked.
    pub(super) fn take_progress(&mut self) -> bool {
        std::mem::take(&mut self.has_progress)
    }
}

impl Pipeline {
    /// Reads the next messages one by one, past whatever keeps them from being delivered, and commits them together.
    /// None where there are none, or they cannot be read so either.
    pub(super) async fn read_singly(
        &mut self,
        after: &Position,
        count: usize,
    ) -> Result<Option<Position>, PipelineError> {
        tracing::warn!(after = after.last_seq, count, "reading messages one by one, since they are not delivered");
        let batch = match self.fetch_batch(after, count).await {
            Ok(batch) if batch.is_empty() => return Ok(None),
            Ok(batch) => batch,
            Err(error) if error.is_transient() => {
                tracing::warn!("they cannot be read one by one: {error}");
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
        // Only now is it known that they came from the stream that was read before.
        let state = self.source.stream_state(Some(after), false).await?;
        stand(Some(after), &state, false)?;
        batch.reason_gaps(state.first_seq);
        Ok(batch)
    }

    /// Looked at when idle: a purge, a rollback, a recreated stream, or a tail that was lost brings no message that
    /// would tell.
    pub(super) async fn why_idle(&mut self, position: &Position) -> Option<Ended> {
        let interrupted = |why: &str| Some(Ended::Interrupted(why.to_owned()));
        match self.source.silence().await {
            Silence::TailLost => return interrupted("the last messages were lost on the way"),
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
