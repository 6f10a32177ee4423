//! Every message of a batch to where it belongs: a raw table, the ledger, or nowhere where it is a copy.

use rusqlite::Transaction;

use super::{Insert, Outcome, RowOrigin};
use crate::analytics::Stored;
use crate::judge::Verdict;
use crate::model::{AnalyticsEvent, Metric, SessionMessage, Timestamp};
use crate::rejection::Rejection;
use crate::store::rejections::Ledger;
use crate::store::to_sql;
use crate::validate::{Judged, Message};

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
pub(in crate::store) struct Written<'a> {
    pub(in crate::store) counts: Counts,
    /// The messages that became rows, and when the server received them.
    pub(in crate::store) stored: Vec<(Stored<'a>, Timestamp)>,
    /// How each message ended.
    pub(in crate::store) ends: Vec<End>,
}

/// How a message ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) enum End {
    Stored,
    Duplicate,
    Rejected,
}

/// Writes messages of an epoch.
pub(in crate::store) fn write<'a>(
    tx: &Transaction<'_>,
    epoch: i64,
    verdicts: impl IntoIterator<Item = &'a Verdict>,
) -> rusqlite::Result<Written<'a>> {
    let mut tables = Tables {
        epoch,
        events: Insert::prepare::<AnalyticsEvent>(tx)?,
        metrics: Insert::prepare::<Metric>(tx)?,
        sessions: Insert::prepare::<SessionMessage>(tx)?,
        ledger: Ledger::prepare(tx)?,
        counts: Counts::default(),
    };
    let verdicts = verdicts.into_iter();
    let mut stored = Vec::with_capacity(verdicts.size_hint().0);
    let mut ends = Vec::with_capacity(verdicts.size_hint().0);
    for verdict in verdicts {
        let (end, message) = tables.write(verdict)?;
        stored.extend(message.map(|message| (message, verdict.delivery.recv())));
        ends.push(end);
    }
    Ok(Written { counts: tables.counts, stored, ends })
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
    /// Writes a message. Returns how it ended, and the message where it became a row.
    fn write<'a>(&mut self, verdict: &'a Verdict) -> rusqlite::Result<(End, Option<Stored<'a>>)> {
        let counts = &mut self.counts;
        let (outcome, message, count): (_, Stored<'a>, _) = match &verdict.outcome {
            Err(rejection) => {
                self.reject(verdict, rejection)?;
                return Ok((End::Rejected, None));
            }
            Ok(Message::Event(event)) => {
                let outcome = self.events.insert_new(event, origin(self.epoch, verdict, event))?;
                (outcome, (&event.record).into(), &mut counts.events)
            }
            Ok(Message::Metric(metric)) => {
                let outcome = self.metrics.insert_new(metric, origin(self.epoch, verdict, metric))?;
                (outcome, (&metric.record).into(), &mut counts.metrics)
            }
            Ok(Message::Session(session)) => {
                let outcome = self.sessions.insert_new(session, origin(self.epoch, verdict, session))?;
                (outcome, (&session.record).into(), &mut counts.sessions)
            }
        };
        match outcome {
            Outcome::Stored => {
                *count += 1;
                Ok((End::Stored, Some(message)))
            }
            Outcome::Duplicate => {
                counts.duplicates += 1;
                Ok((End::Duplicate, None))
            }
            Outcome::Rejected(rejection) => {
                self.reject(verdict, &rejection)?;
                Ok((End::Rejected, None))
            }
        }
    }

    fn reject(&mut self, verdict: &Verdict, rejection: &Rejection) -> rusqlite::Result<()> {
        self.counts.rejected += 1;
        self.ledger.insert(self.epoch, verdict, rejection)
    }
}

fn origin<T>(epoch: i64, verdict: &Verdict, judged: &Judged<T>) -> RowOrigin {
    RowOrigin {
        epoch,
        stream_seq: to_sql(verdict.delivery.stream_sequence),
        recv_ms: verdict.delivery.recv().as_millis(),
        supplied: judged.supplied.bits(),
    }
}
