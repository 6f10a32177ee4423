//! What the parts of a transaction took.

use std::time::{Duration, Instant};

/// What the parts of a transaction took, in their order, the wait for SQLite's write lock left out.
#[derive(Debug, Clone)]
pub struct Spent {
    since: Instant,
    parts: Vec<(&'static str, Duration)>,
}

impl Spent {
    pub(super) fn begin() -> Self {
        Self { since: Instant::now(), parts: Vec::new() }
    }

    /// Ends a part, which began where the one before ended.
    pub(super) fn lap(&mut self, part: &'static str) {
        let now = Instant::now();
        self.parts.push((part, now - std::mem::replace(&mut self.since, now)));
    }

    /// `raw` (raw rows, ledger, gaps), `facts` (the rules), each group of derived tables by its name, and `commit`
    /// (SQLite's own, the checkpoint of the WAL included).
    pub fn parts(&self) -> &[(&'static str, Duration)] {
        &self.parts
    }
}
