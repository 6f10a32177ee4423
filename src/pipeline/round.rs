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
    /// When the first message came into the batch.
    pub(super) began: Instant,
    pub(super) write: Option<Write>,
    /// Batches that were handed to a transaction which had closed already: the next one begins with them.
    pub(super) left_over: VecDeque<Batch>,
    pub(super) has_committed: bool,
}

/// A transaction.
pub(super) struct Write {
    pub(super) began: Instant,
    /// Where it takes more batches; none where it is to end with those that it has.
    pub(super) feed: Option<Sender<Batch>>,
    pub(super) committed: BoxFuture<'static, Result<WriteResult, StoreError>>,
}

/// The commit, and the batches that it did not include: first those left over from the previous transaction, then late
/// arrivals.
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

    /// The writer takes what is there when it is free; only under backlog does it wait for the batch to fill.
    pub(super) fn is_due(&self, limits: BatchLimits, has_backlog: bool) -> bool {
        let is_filled = self.batch.is_full(limits) || self.began.elapsed() >= limits.max_delay;
        self.can_write() && (!self.left_over.is_empty() || !has_backlog || is_filled)
    }

    /// Ends the transaction with what it has.
    pub(super) fn close_feed(&mut self) {
        if let Some(write) = &mut self.write {
            write.feed = None;
        }
    }

    pub(super) fn feed(&self) -> Option<Sender<Batch>> {
        self.write.as_ref()?.feed.clone()
    }

    /// Ready when the write is; never where there is none.
    pub(super) async fn written(&mut self) -> Result<WriteResult, StoreError> {
        match &mut self.write {
            Some(write) => (&mut write.committed).await,
            None => std::future::pending().await,
        }
    }
}

/// Ready when the transaction takes another batch; never where it takes none.
pub(super) async fn room(feed: Option<Sender<Batch>>) -> OwnedPermit<Batch> {
    if let Some(feed) = feed
        && let Ok(permit) = feed.reserve_owned().await
    {
        return permit;
    }
    std::future::pending().await
}

impl Pipeline {
    /// Takes a message, and those that have arrived behind it: a turn of the loop for each costs as much as to judge it.
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

    /// Whether so many messages wait that larger transactions are worth waiting for.
    pub(super) fn has_backlog(&self) -> bool {
        self.source.pending() >= self.mode.least_backlog(self.batch.max_messages)
    }
}
