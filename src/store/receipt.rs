//! The results of a transaction: how messages ended, the new position, and how long each part took.

use std::time::{Duration, Instant};

use crate::analytics::Stored;
use crate::judge::{Message, Verdict};
use crate::model::Timestamp;
use crate::position::Position;

/// How many messages of a batch ended in each way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Events that became rows.
    pub events: u64,
    /// Metrics that became rows.
    pub metrics: u64,
    /// Session messages that became rows.
    pub sessions: u64,
    /// Copies of stored messages.
    pub duplicates: u64,
    /// Messages that went to the ledger.
    pub rejected: u64,
    /// Messages that the stream no longer held.
    pub missing: u64,
}

impl Counts {
    /// Returns the number of messages that became rows.
    pub const fn stored(self) -> u64 {
        self.events + self.metrics + self.sessions
    }
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.events += other.events;
        self.metrics += other.metrics;
        self.sessions += other.sessions;
        self.duplicates += other.duplicates;
        self.rejected += other.rejected;
        self.missing += other.missing;
    }
}

/// The result of writing the messages of a batch.
pub(super) struct RawWrite {
    pub(super) counts: Counts,
    /// How each message ended, in the order of the batch.
    pub(super) endings: Vec<Ending>,
}

/// How a message ended.
///
/// | a message | ends as | what is written |
/// |---|---|---|
/// | accepted, its id is new, and its time is valid | `Stored` | a raw row |
/// | accepted, its id is known, with the same content | `Duplicate` | nothing |
/// | accepted, its id is known, with other content | `Rejected` | a row of the ledger: `duplicate_conflict` |
/// | accepted, its id is new, its time is not valid | `Rejected` | a row of the ledger: `invalid_timestamp` etc. |
/// | not accepted | `Rejected` | a row of the ledger, with its reason |
/// | in a replay, not accepted by the live database | `Rejected` | nothing: the ledger is carried over |
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    Stored,
    Duplicate,
    Rejected,
}

/// Returns the messages that became rows, each with the time at which the server received it.
pub(super) fn stored<'a>(
    verdicts: &'a [Verdict],
    endings: &'a [Ending],
) -> impl Iterator<Item = (Stored<'a>, Timestamp)> {
    let are_stored = verdicts.iter().zip(endings).filter(|(_, ending)| **ending == Ending::Stored);
    are_stored.filter_map(|(verdict, _)| {
        let message: Stored<'a> = match verdict.outcome.as_ref().ok()? {
            Message::Event(event) => (&event.record).into(),
            Message::Metric(metric) => (&metric.record).into(),
            Message::Session(session) => (&session.record).into(),
        };
        Some((message, verdict.delivery.recv()))
    })
}

/// Proves that a batch is in the database. Only a commit creates a receipt, and only with a receipt can the source
/// acknowledge messages.
#[derive(Debug)]
pub struct CommitReceipt {
    pub(super) position: Position,
    pub(super) counts: Counts,
    pub(super) timings: Timings,
}

impl CommitReceipt {
    /// Returns the position after the commit.
    pub fn position(&self) -> &Position {
        &self.position
    }

    /// Returns how many messages ended in each way.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Returns how long each part of the transaction took.
    pub fn timings(&self) -> &Timings {
        &self.timings
    }
}

/// The result of installing rebuilt groups.
#[derive(Debug, Clone, Copy)]
pub struct InstallReceipt {
    /// Raw rows that the groups were rebuilt from.
    pub raw_rows: u64,
    /// Rows of public tables that were deleted, inserted or changed.
    pub rows_that_differed: usize,
    /// How long ingestion waited.
    pub pause: Duration,
}

/// How long each part of a transaction took, in order. Time spent waiting is left out.
#[derive(Debug, Clone)]
pub struct Timings {
    since: Instant,
    parts: Vec<(&'static str, Duration)>,
}

impl Timings {
    pub(super) fn begin() -> Self {
        Self { since: Instant::now(), parts: Vec::new() }
    }

    /// Ends a part, which began when the previous part ended. The times of a part that comes more than once are added
    /// up.
    pub(super) fn lap(&mut self, part: &'static str) {
        let now = Instant::now();
        let took = now - std::mem::replace(&mut self.since, now);
        match self.parts.iter_mut().find(|(name, _)| *name == part) {
            Some((_, total)) => *total += took,
            None => self.parts.push((part, took)),
        }
    }

    /// Leaves out the time since the last part: it belongs to no part.
    pub(super) fn skip(&mut self) {
        self.since = Instant::now();
    }

    /// Returns the parts: `raw` (raw rows, ledger, gaps), `facts` (the rules), each group of derived tables by its
    /// name, `dashboards` (numbers of widgets), `commit` (SQLite's own), and `checkpoint` (what the writer itself
    /// moves from the write-ahead log into the file).
    pub fn parts(&self) -> &[(&'static str, Duration)] {
        &self.parts
    }
}
