//! Writes every message of a batch to a raw table or to the ledger. Writes nothing for a copy of a stored message.

use rusqlite::Transaction;

use super::{InsertOutcome, RawInsert, RowOrigin};
use crate::judge::{Accepted, Message, Rejection, Verdict};
use crate::model::{AnalyticsEvent, Metric, SessionMessage};
use crate::store::receipt::{Counts, Ending, RawWrite};
use crate::store::sqlite::ledger::rejections::RejectionInsert;
use crate::store::sqlite::values::to_sql;

/// Writes the messages of an epoch.
pub(in crate::store) fn write<'a>(
    tx: &Transaction<'_>,
    epoch: i64,
    verdicts: impl IntoIterator<Item = &'a Verdict>,
) -> rusqlite::Result<RawWrite> {
    write_accepted(tx, epoch, verdicts.into_iter().map(|verdict| (verdict, true)))
}

/// Writes the messages that are flagged as accepted. The others end as rejected, and nothing is written for them.
pub(in crate::store) fn write_accepted<'a>(
    tx: &Transaction<'_>,
    epoch: i64,
    verdicts: impl Iterator<Item = (&'a Verdict, bool)>,
) -> rusqlite::Result<RawWrite> {
    let mut tables = RawTables {
        epoch,
        events: RawInsert::prepare::<AnalyticsEvent>(tx)?,
        metrics: RawInsert::prepare::<Metric>(tx)?,
        sessions: RawInsert::prepare::<SessionMessage>(tx)?,
        ledger: RejectionInsert::prepare(tx)?,
        counts: Counts::default(),
    };
    let mut endings = Vec::with_capacity(verdicts.size_hint().0);
    for (verdict, is_accepted) in verdicts {
        endings.push(if is_accepted { tables.write(verdict)? } else { Ending::Rejected });
    }
    Ok(RawWrite { counts: tables.counts, endings })
}

/// The statements of one transaction, and the counts of how messages ended.
struct RawTables<'tx> {
    epoch: i64,
    events: RawInsert<'tx>,
    metrics: RawInsert<'tx>,
    sessions: RawInsert<'tx>,
    ledger: RejectionInsert<'tx>,
    counts: Counts,
}

impl RawTables<'_> {
    /// Writes a message. Returns how it ended.
    fn write(&mut self, verdict: &Verdict) -> rusqlite::Result<Ending> {
        let counts = &mut self.counts;
        let (outcome, count) = match &verdict.outcome {
            Err(rejection) => {
                self.reject(verdict, rejection)?;
                return Ok(Ending::Rejected);
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
            InsertOutcome::Stored => {
                *count += 1;
                Ok(Ending::Stored)
            }
            InsertOutcome::Duplicate => {
                counts.duplicates += 1;
                Ok(Ending::Duplicate)
            }
            InsertOutcome::Rejected(rejection) => {
                self.reject(verdict, &rejection)?;
                Ok(Ending::Rejected)
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
