//! What the writer hands back of a transaction.

use std::time::Duration;

use super::raw::Counts;
use super::spent::Spent;
use crate::position::Position;

/// Proof that a batch is in the database. Only a commit makes one, and only with one can the source acknowledge.
#[derive(Debug)]
pub struct Committed {
    pub(super) position: Position,
    pub(super) counts: Counts,
    pub(super) spent: Spent,
}

impl Committed {
    /// Where the database stands now.
    pub fn position(&self) -> &Position {
        &self.position
    }

    /// How the messages ended.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// What writing took.
    pub fn spent(&self) -> &Spent {
        &self.spent
    }
}

/// What it took to put in what was built aside.
#[derive(Debug, Clone, Copy)]
pub struct Swapped {
    /// Raw rows that it was built from.
    pub raw_rows: u64,
    /// Rows that went, came or changed.
    pub rows_that_differed: usize,
    /// How long ingestion waited.
    pub pause: Duration,
}
