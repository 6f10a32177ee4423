//! A round of reading: the batch that is being filled, and the one that is being written.

use futures::future::BoxFuture;
use tokio::time::Instant;

use crate::batch::Batch;
use crate::config;
use crate::judge::Verdict;
use crate::position::Position;
use crate::store::{Committed, StoreError};

pub(super) struct Round {
    pub(super) batch: Batch,
    /// When the first message came into the batch.
    pub(super) began: Instant,
    pub(super) write: Option<Write>,
    pub(super) has_committed: bool,
}

pub(super) struct Write {
    pub(super) began: Instant,
    pub(super) committed: BoxFuture<'static, Result<Committed, StoreError>>,
}

impl Round {
    pub(super) fn after(position: Position) -> Self {
        Self { batch: Batch::after(position), began: Instant::now(), write: None, has_committed: false }
    }

    pub(super) fn push(&mut self, verdict: Verdict) {
        if self.batch.is_empty() {
            self.began = Instant::now();
        }
        self.batch.push(verdict);
    }

    pub(super) fn can_write(&self) -> bool {
        self.write.is_none() && !self.batch.is_empty()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.write.is_none() && self.batch.is_empty()
    }

    /// The writer takes what is there when it is free; only under backlog does it wait for the batch to fill.
    pub(super) fn is_due(&self, limits: config::Batch, has_backlog: bool) -> bool {
        self.can_write() && (!has_backlog || self.batch.is_full(limits) || self.began.elapsed() >= limits.max_delay)
    }

    /// Ready when the write is; never where there is none.
    pub(super) async fn written(&mut self) -> Result<Committed, StoreError> {
        match &mut self.write {
            Some(write) => (&mut write.committed).await,
            None => std::future::pending().await,
        }
    }
}
