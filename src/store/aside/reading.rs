//! The raw rows that a build takes in, read in the order of the stream.

use std::sync::mpsc::SyncSender;

use rusqlite::{Connection, OptionalExtension};

use super::{Build, Place, Stands};
use crate::analytics::{Facts, Rules, Stored};
use crate::model::{AnalyticsEvent, Metric, SessionMessage, Timestamp};
use crate::store::derived::{self, GroupName};
use crate::store::raw::{RawTable, is_unreadable, size_bytes};
use crate::store::{StoreError, position, rejections, to_sql};

/// Keys whose facts are combined before they are applied.
const MAX_KEYS: usize = 50_000;
/// Raw rows that the rules go over together, and bytes of their texts.
const CHUNK_ROWS: usize = 25_000;
const CHUNK_BYTES: usize = 8 << 20;

/// Reads raw rows, in one read transaction: rows, ledger and position are of one moment.
pub(super) struct Reading<'a> {
    pub(super) build: &'a Build,
    pub(super) raw: &'a mut Connection,
    /// What they say, and T as far as it is known.
    pub(super) read: SyncSender<(Facts, Option<Timestamp>)>,
}

impl Reading<'_> {
    /// The rows of the next messages. Returns where the build stands with them; none where there are none.
    pub(super) fn step(self, before: Stands, max_messages: u32) -> Result<Option<Stands>, StoreError> {
        let Self { build, raw, read: into } = self;
        let read = raw.transaction()?;
        let Stands { upto, judged, progress } = before;
        // Rows that came since, where the build has passed already.
        let (late, judged_upto) = rejections::applied_after(&read, judged, max_messages as usize)?;
        let late = late.into_iter().map(|key| Place { epoch: key.epoch, stream_seq: key.stream_seq });
        let mut ranges: Vec<(Place, Place)> = late.filter(|place| *place <= upto).map(|place| (place, place)).collect();
        let mut next = Stands { upto, judged: judged_upto, progress };
        // Those that come later yet are told from rows that are there now by their number.
        if judged_upto == rejections::last_judged(&read)?.max(judged)
            && let Some(first) = next_place(&read, upto)?
        {
            let mut last = Place { stream_seq: first.stream_seq.saturating_add(i64::from(max_messages) - 1), ..first };
            if let Some(position) = position::last(&read)?.filter(|position| position.epoch == first.epoch) {
                // What comes after it is not stored yet.
                last.stream_seq = last.stream_seq.min(to_sql(position.last_seq)).max(first.stream_seq);
            }
            next.upto = last;
            ranges.push((first, last));
        } else if ranges.is_empty() && judged_upto == judged {
            return Ok(None);
        }
        let keeps_t = build.groups.contains(&GroupName::Sessions);
        let t = if keeps_t { None } else { derived::watermark(&read)? };
        let facts = Facts::default();
        let mut step = Step { rules: &build.rules, read: &read, into: &into, t, facts, rows: 0 };
        for (first, last) in ranges {
            step.replay::<AnalyticsEvent>(first, last)?;
            step.replay::<Metric>(first, last)?;
            step.replay::<SessionMessage>(first, last)?;
        }
        step.hand_over();
        next.progress.rows += step.rows;
        Ok(Some(next))
    }
}

/// Raw rows from one place to another, to whoever applies what they say.
struct Step<'a> {
    rules: &'a Rules,
    read: &'a Connection,
    into: &'a SyncSender<(Facts, Option<Timestamp>)>,
    /// T of the database, where it is up to date: periods that it does not keep are not built.
    t: Option<Timestamp>,
    /// What rows say that was not handed over yet.
    facts: Facts,
    rows: u64,
}

impl Step<'_> {
    /// Hands over what the rows of a raw table say. Their order does not matter: facts commute.
    fn replay<T: RawTable>(&mut self, first: Place, last: Place) -> Result<(), StoreError>
    where
        for<'a> &'a T: Into<Stored<'a>>,
    {
        let (table, columns) = (T::TABLE, T::COLUMNS);
        let sql = format!(
            "SELECT {columns}, recv_ms FROM {table} WHERE epoch = ?1 AND stream_seq >= ?2 AND stream_seq <= ?3"
        );
        let mut statement = self.read.prepare_cached(&sql)?;
        let recv_column = statement.column_count() - 1;
        let mut rows = statement.query([first.epoch, first.stream_seq, last.stream_seq])?;
        let (mut chunk, mut chunk_bytes, mut unreadable) = (Vec::<(T, Timestamp)>::new(), 0, 0);
        while let Some(row) = rows.next()? {
            chunk_bytes += size_bytes(row, recv_column)?;
            let record = T::from_row(row).and_then(|record| Ok((record, row.get(recv_column)?)));
            match record {
                Ok((record, recv_ms)) => chunk.push((record, Timestamp::from_millis(recv_ms))),
                // Some other program wrote that row; it is no message.
                Err(error) if is_unreadable(&error) => {
                    unreadable += 1;
                    if unreadable == 1 {
                        tracing::warn!(table, id = ?row.get_ref(0)?, "a row that is no message counts for nothing: {error}");
                    }
                }
                Err(error) => return Err(error.into()),
            }
            if chunk.len() == CHUNK_ROWS || chunk_bytes >= CHUNK_BYTES {
                self.go_over(&mut chunk);
                chunk_bytes = 0;
            }
        }
        if unreadable > 1 {
            tracing::warn!(table, rows = unreadable, "rows that are no messages count for nothing");
        }
        self.go_over(&mut chunk);
        Ok(())
    }

    fn go_over<T>(&mut self, chunk: &mut Vec<(T, Timestamp)>)
    where
        for<'a> &'a T: Into<Stored<'a>>,
    {
        self.facts.add(self.rules, chunk.iter().map(|(record, recv)| (record.into(), *recv)));
        self.rows += chunk.len() as u64;
        chunk.clear();
        if self.facts.keys() > MAX_KEYS {
            self.hand_over();
        }
    }

    fn hand_over(&mut self) {
        // Where nobody takes it any more, applying has failed, and tells why.
        let _ = self.into.send((std::mem::take(&mut self.facts), self.t));
    }
}

/// The first place after another that holds a raw row.
fn next_place(read: &Connection, after: Place) -> rusqlite::Result<Option<Place>> {
    let mut next: Option<Place> = None;
    for table in [AnalyticsEvent::TABLE, Metric::TABLE, SessionMessage::TABLE] {
        let sql = format!(
            "SELECT epoch, stream_seq FROM {table} WHERE (epoch, stream_seq) > (?1, ?2) \
             ORDER BY epoch, stream_seq LIMIT 1"
        );
        let found = read
            .prepare_cached(&sql)?
            .query_row([after.epoch, after.stream_seq], |row| Ok(Place { epoch: row.get(0)?, stream_seq: row.get(1)? }))
            .optional()?;
        next = next.into_iter().chain(found).min();
    }
    Ok(next)
}
