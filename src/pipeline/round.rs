//! A round of reading: the batch that is being filled, and the transaction that is being written.

use std::collections::VecDeque;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::mpsc::{OwnedPermit, Receiver, Sender};
use tokio::time::Instant;

use super::Pipeline;
use super::ended::Ended;
use crate::judge::{Batch, BatchLimits, Delivery, Judge, Verdict};
use crate::nats::Interrupted;
use crate::position::Position;
use crate::store::{CommitReceipt, StoreError};

pub(super) struct Round {
    pub(super) batch: Batch,
    /// When the first message was added to the batch.
    pub(super) began: Instant,
    pub(super) write: Option<Write>,
    /// Batches that were handed to a transaction but not included in it. The next transaction begins with them.
    pub(super) left_over: VecDeque<Batch>,
    pub(super) has_committed: bool,
}

/// A transaction that is being written.
pub(super) struct Write {
    pub(super) began: Instant,
    /// Takes more batches for the transaction. `None` if the transaction must end with the batches that it has.
    pub(super) feed: Option<Sender<Batch>>,
    pub(super) committed: BoxFuture<'static, Result<WriteResult, StoreError>>,
}

/// The commit, and the batches that it did not include: first those left over from the previous transaction, then
/// late arrivals.
pub(super) type WriteResult = (CommitReceipt, VecDeque<Batch>, Receiver<Batch>);

impl Round {
    pub(super) fn after(position: Position) -> Self {
        let batch = Batch::after(position);
        Self { batch, began: Instant::now(), write: None, left_over: VecDeque::new(), has_committed: false }
    }

    pub(super) fn push(&mut self, verdict: Verdict) {
        if self.batch.is_empty() {
            self.began = Instant::now();
        }
        self.batch.push(verdict);
    }

    pub(super) fn can_write(&self) -> bool {
        self.write.is_none() && !(self.batch.is_empty() && self.left_over.is_empty())
    }

    pub(super) fn is_idle(&self) -> bool {
        self.write.is_none() && !self.can_write()
    }

    /// Whether to begin a transaction. A free writer takes a batch at once. Only under backlog does the writer wait
    /// for the batch to fill, for `max_delay` at most.
    pub(super) fn is_due(&self, limits: BatchLimits, has_backlog: bool) -> bool {
        let is_filled = self.batch.is_full(limits) || self.began.elapsed() >= limits.max_delay;
        self.can_write() && (!self.left_over.is_empty() || !has_backlog || is_filled)
    }

    /// Lets the transaction end with the batches that it has.
    pub(super) fn close_feed(&mut self) {
        if let Some(write) = &mut self.write {
            write.feed = None;
        }
    }

    pub(super) fn feed(&self) -> Option<Sender<Batch>> {
        self.write.as_ref()?.feed.clone()
    }

    /// Waits for the end of the transaction; forever if there is none.
    pub(super) async fn written(&mut self) -> Result<WriteResult, StoreError> {
        match &mut self.write {
            Some(write) => (&mut write.committed).await,
            None => std::future::pending().await,
        }
    }
}

/// Waits until the transaction takes another batch; forever if it takes none.
pub(super) async fn room(feed: Option<Sender<Batch>>) -> OwnedPermit<Batch> {
    if let Some(feed) = feed
        && let Ok(permit) = feed.reserve_owned().await
    {
        return permit;
    }
    std::future::pending().await
}

impl Pipeline {
    /// Judges a message, and the messages that have arrived after it. One turn of the loop for each message would
    /// cost as much as its judgement. Returns how the round ends, if it ends.
    pub(super) fn take_arrived(
        &mut self,
        round: &mut Round,
        judge: &Judge,
        first: Result<Delivery, Interrupted>,
    ) -> Option<Ended> {
        let mut arrived = Some(first);
        while let Some(delivery) = arrived {
            match delivery {
                Ok(delivery) if self.mode.is_beyond(delivery.stream_sequence) => {
                    return Some(Ended::Reached);
                }
                Ok(delivery) => round.push(judge.judge(delivery)),
                Err(interrupted) => return Some(Ended::Interrupted(interrupted.to_string())),
            }
            arrived = if round.batch.is_full(self.batch) { None } else { self.source.next().now_or_never() };
        }
        None
    }

    /// Whether so many messages wait that a larger transaction is worth the wait.
    pub(super) fn has_backlog(&self) -> bool {
        self.source.pending() >= self.mode.least_backlog(self.batch.max_messages)
    }
}
