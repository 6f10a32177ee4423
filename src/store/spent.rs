//! What the parts of a transaction took.

use std::time::{Duration, Instant};

/// What the parts of a transaction took, in their order, waiting left out.
#[derive(Debug, Clone)]
pub struct Spent {
    since: Instant,
    parts: Vec<(&'static str, Duration)>,
}

impl Spent {
    pub(super) fn begin() -> Self {
        Self { since: Instant::now(), parts: Vec::new() }
    }

    /// Ends a part, which began where the one before ended. A part may come more than once.
    pub(super) fn lap(&mut self, part: &'static str) {
        let now = Instant::now();
        let took = now - std::mem::replace(&mut self.since, now);
        match self.parts.iter_mut().find(|(name, _)| *name == part) {
            Some((_, total)) => *total += took,
            None => self.parts.push((part, took)),
        }
    }

    /// What passed since the last part is of none.
    pub(super) fn skip(&mut self) {
        self.since = Instant::now();
    }

    /// `raw` (raw rows, ledger, gaps), `facts` (the rules), each group of derived tables by its name, `commit` (SQLite's
    /// own), and `checkpoint` (what the writer itself moves from the write-ahead log into the file).
    pub fn parts(&self) -> &[(&'static str, Duration)] {
        &self.parts
    }
}
