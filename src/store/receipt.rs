//! What a transaction leaves: how messages ended, where the database stands, and what it took.

use std::time::{Duration, Instant};

use crate::analytics::Stored;
use crate::judge::{Message, Verdict};
use crate::model::Timestamp;
use crate::position::Position;

/// How the messages of a batch ended.
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
    /// Messages that became rows.
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

/// What writing the messages of a batch gave.
pub(super) struct RawWrite {
    pub(super) counts: Counts,
    /// How each message ended.
    pub(super) endings: Vec<Ending>,
}

/// How a message ended.
///
/// | a message | ends as | and what is written |
/// |---|---|---|
/// | accepted, its id is new, and its time permits | `Stored` | a raw row |
/// | accepted, its id is known, with the same content | `Duplicate` | nothing |
/// | accepted, its id is known, with other content | `Rejected` | a row of the ledger: `duplicate_conflict` |
/// | accepted, its id is new, its time does not permit | `Rejected` | a row of the ledger: `invalid_timestamp` and such |
/// | not accepted | `Rejected` | a row of the ledger, with its reason |
/// | in a replay, not accepted by the live database | `Rejected` | nothing: the ledger is carried over |
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    Stored,
    Duplicate,
    Rejected,
}

/// The messages that became rows, and when the server received them.
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

/// Proof that a batch is in the database. Only a commit makes one, and only with one can the source acknowledge.
#[derive(Debug)]
pub struct CommitReceipt {
    pub(super) position: Position,
    pub(super) counts: Counts,
    pub(super) timings: Timings,
}

impl CommitReceipt {
    /// Where the database stands now.
    pub fn position(&self) -> &Position {
        &self.position
    }

    /// How the messages ended.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// What writing took.
    pub fn timings(&self) -> &Timings {
        &self.timings
    }
}

/// What it took to put in what was built aside.
#[derive(Debug, Clone, Copy)]
pub struct InstallReceipt {
    /// Raw rows that it was built from.
    pub raw_rows: u64,
    /// Rows that went, came or changed.
    pub rows_that_differed: usize,
    /// How long ingestion waited.
    pub pause: Duration,
}

/// What the parts of a transaction took, in their order, waiting left out.
#[derive(Debug, Clone)]
pub struct Timings {
    since: Instant,
    parts: Vec<(&'static str, Duration)>,
}

impl Timings {
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
