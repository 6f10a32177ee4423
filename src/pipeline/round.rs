//! A round of reading: the batch that is being filled, and the transaction that is being written.

use std::collections::VecDeque;

use futures::future::BoxFuture;
use tokio::sync::mpsc::{OwnedPermit, Receiver, Sender};
use tokio::time::Instant;

use crate::judge::{Batch, BatchLimits, Verdict};
use crate::position::Position;
use crate::store::{Committed, StoreError};

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
    pub(super) committed: BoxFuture<'static, Result<Written, StoreError>>,
}

/// What a transaction committed, and what it did not take any more: of what was left before it, then of what came.
pub(super) type Written = (Committed, VecDeque<Batch>, Receiver<Batch>);

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
    pub(super) async fn written(&mut self) -> Result<Written, StoreError> {
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
