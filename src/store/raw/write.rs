//! Every message of a batch to where it belongs: a raw table, the ledger, or nowhere where it is a copy.

use rusqlite::Transaction;

use super::{Insert, Outcome, RowOrigin};
use crate::analytics::Stored;
use crate::judge::{Accepted, Message, Rejection, Verdict};
use crate::model::{AnalyticsEvent, Metric, SessionMessage, Timestamp};
use crate::store::rejections::Ledger;
use crate::store::to_sql;

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
pub(in crate::store) struct Written {
    pub(in crate::store) counts: Counts,
    /// How each message ended.
    pub(in crate::store) ends: Vec<End>,
}

/// How a message ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) enum End {
    Stored,
    Duplicate,
    /// Or never accepted, in a replay.
    Rejected,
}

/// Writes messages of an epoch.
pub(in crate::store) fn write<'a>(
    tx: &Transaction<'_>,
    epoch: i64,
    verdicts: impl IntoIterator<Item = &'a Verdict>,
) -> rusqlite::Result<Written> {
    write_accepted(tx, epoch, verdicts.into_iter().map(|verdict| (verdict, true)))
}

/// Likewise, those of which it is known that they were accepted.
pub(in crate::store) fn write_accepted<'a>(
    tx: &Transaction<'_>,
    epoch: i64,
    verdicts: impl Iterator<Item = (&'a Verdict, bool)>,
) -> rusqlite::Result<Written> {
    let mut tables = Tables {
        epoch,
        events: Insert::prepare::<AnalyticsEvent>(tx)?,
        metrics: Insert::prepare::<Metric>(tx)?,
        sessions: Insert::prepare::<SessionMessage>(tx)?,
        ledger: Ledger::prepare(tx)?,
        counts: Counts::default(),
    };
    let mut ends = Vec::with_capacity(verdicts.size_hint().0);
    for (verdict, is_accepted) in verdicts {
        ends.push(if is_accepted { tables.write(verdict)? } else { End::Rejected });
    }
    Ok(Written { counts: tables.counts, ends })
}

/// The messages that became rows, and when the server received them.
pub(in crate::store) fn stored<'a>(
    verdicts: &'a [Verdict],
    ends: &'a [End],
) -> impl Iterator<Item = (Stored<'a>, Timestamp)> {
    let are_stored = verdicts.iter().zip(ends).filter(|(_, end)| **end == End::Stored);
    are_stored.filter_map(|(verdict, _)| {
        let message: Stored<'a> = match verdict.outcome.as_ref().ok()? {
            Message::Event(event) => (&event.record).into(),
            Message::Metric(metric) => (&metric.record).into(),
            Message::Session(session) => (&session.record).into(),
        };
        Some((message, verdict.delivery.recv()))
    })
}

/// The statements of one transaction, and how messages ended.
struct Tables<'tx> {
    epoch: i64,
    events: Insert<'tx>,
    metrics: Insert<'tx>,
    sessions: Insert<'tx>,
    ledger: Ledger<'tx>,
    counts: Counts,
}

impl Tables<'_> {
    /// Writes a message. Returns how it ended.
    fn write(&mut self, verdict: &Verdict) -> rusqlite::Result<End> {
        let counts = &mut self.counts;
        let (outcome, count) = match &verdict.outcome {
            Err(rejection) => {
                self.reject(verdict, rejection)?;
                return Ok(End::Rejected);
            }
            Ok(Message::Event(event)) => {
                (self.events.insert_new(event, origin(self.epoch, verdict, event))?, &mut counts.events)
            }
            Ok(Message::Metric(metric)) => {
                (self.metrics.insert_new(metric, origin(self.epoch, verdict, metric))?, &mut counts.metrics)
            }
            Ok(Message::Session(session)) => {
                (self.sessions.insert_new(session, origin(self.epoch, verdict, session))?, &mut counts.sessions)
            }
        };
        match outcome {
            Outcome::Stored => {
                *count += 1;
                Ok(End::Stored)
            }
            Outcome::Duplicate => {
                counts.duplicates += 1;
                Ok(End::Duplicate)
            }
            Outcome::Rejected(rejection) => {
                self.reject(verdict, &rejection)?;
                Ok(End::Rejected)
            }
        }
    }

    fn reject(&mut self, verdict: &Verdict, rejection: &Rejection) -> rusqlite::Result<()> {
        self.counts.rejected += 1;
        self.ledger.insert(self.epoch, verdict, rejection)
    }
}

fn origin<T>(epoch: i64, verdict: &Verdict, judged: &Accepted<T>) -> RowOrigin {
    RowOrigin {
        epoch,
        stream_seq: to_sql(verdict.delivery.stream_sequence),
        recv_ms: verdict.delivery.recv().as_millis(),
        supplied: judged.supplied.bits(),
    }
}
