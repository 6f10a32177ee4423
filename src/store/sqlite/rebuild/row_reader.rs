//! Reads the raw rows that a rebuild of groups applies, in the order of the stream.

use std::sync::mpsc::SyncSender;

use rusqlite::{Connection, OptionalExtension};

use super::frozen::GroupRebuild;
use super::progress::{ShadowState, StreamPlace};
use crate::analytics::{Facts, GroupName, Rules, Stored};
use crate::model::{AnalyticsEvent, Metric, SessionMessage, Timestamp};
use crate::store::error::StoreError;
use crate::store::sqlite::derived;
use crate::store::sqlite::ledger::{positions, rejections};
use crate::store::sqlite::raw::RawTable;
use crate::store::sqlite::schema::RAW_TABLES;
use crate::store::sqlite::values::{is_unreadable, text_bytes, to_sql};

/// Keys whose facts are combined before the facts are sent.
const MAX_KEYS: usize = 50_000;
/// Raw rows that are made into facts together, and the bytes of their texts.
const CHUNK_ROWS: usize = 25_000;
const CHUNK_BYTES: usize = 8 << 20;

/// Reads raw rows in one read transaction: rows, ledger and position are of one moment.
pub(super) struct RowReader<'a> {
    pub(super) rebuild: &'a GroupRebuild,
    pub(super) raw: &'a mut Connection,
    /// The channel for the facts of the rows, with T as far as it is known.
    pub(super) read: SyncSender<(Facts, Option<Timestamp>)>,
}

impl RowReader<'_> {
    /// Sends the facts of the rows of the next messages. Returns how far the rebuild is with these rows. `None` if
    /// there are no more rows.
    pub(super) fn step(self, before: ShadowState, max_messages: u32) -> Result<Option<ShadowState>, StoreError> {
        let Self { rebuild, raw, read: into } = self;
        let read = raw.transaction()?;
        let ShadowState { upto, retries_upto, progress } = before;
        // Rows of dead letters that were applied since, at places that the rebuild has already passed.
        let (late, retries_now) = rejections::applied_after(&read, retries_upto, max_messages as usize)?;
        let late = late.into_iter().map(|key| StreamPlace { epoch: key.epoch, stream_seq: key.stream_seq });
        let mut ranges: Vec<(StreamPlace, StreamPlace)> =
            late.filter(|place| *place <= upto).map(|place| (place, place)).collect();
        let mut next = ShadowState { upto, retries_upto: retries_now, progress };
        // Goes on in the stream only after all retry transactions are read. Their numbers then distinguish rows that
        // come later from rows that are there now.
        if retries_now == rejections::last_retry(&read)?.max(retries_upto)
            && let Some(first) = next_place(&read, upto)?
        {
            let mut last =
                StreamPlace { stream_seq: first.stream_seq.saturating_add(i64::from(max_messages) - 1), ..first };
            if let Some(position) = positions::last(&read)?.filter(|position| position.epoch == first.epoch) {
                // Messages after the position are not stored yet.
                last.stream_seq = last.stream_seq.min(to_sql(position.last_seq)).max(first.stream_seq);
            }
            next.upto = last;
            ranges.push((first, last));
        } else if ranges.is_empty() && retries_now == retries_upto {
            return Ok(None);
        }
        let keeps_t = rebuild.groups.contains(&GroupName::Sessions);
        let t = if keeps_t { None } else { derived::watermark(&read)? };
        let facts = Facts::default();
        let mut step = RowFacts { rules: &rebuild.rules, read: &read, into: &into, t, facts, rows: 0 };
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

/// Makes facts of raw rows, and sends them to the thread that applies them.
struct RowFacts<'a> {
    rules: &'a Rules,
    read: &'a Connection,
    into: &'a SyncSender<(Facts, Option<Timestamp>)>,
    /// T of the database, if it is current: periods that are not kept at this T are not rebuilt.
    t: Option<Timestamp>,
    /// Facts that were not sent yet.
    facts: Facts,
    rows: u64,
}

impl RowFacts<'_> {
    /// Makes facts of the rows of a raw table, and sends them. The order of rows does not matter: facts commute.
    fn replay<T: RawTable>(&mut self, first: StreamPlace, last: StreamPlace) -> Result<(), StoreError>
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
            chunk_bytes += text_bytes(row, recv_column)?;
            let record = T::from_row(row).and_then(|record| Ok((record, row.get(recv_column)?)));
            match record {
                Ok((record, recv_ms)) => chunk.push((record, Timestamp::from_millis(recv_ms))),
                // Another program wrote that row: it is not a message.
                Err(error) if is_unreadable(&error) => {
                    unreadable += 1;
                    if unreadable == 1 {
                        tracing::warn!(table, id = ?row.get_ref(0)?, "ignored a row that is not a message: {error}");
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
            tracing::warn!(table, rows = unreadable, "ignored rows that are not messages");
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
        // If the receiver is gone, applying has failed and returns the reason.
        let _ = self.into.send((std::mem::take(&mut self.facts), self.t));
    }
}

/// Returns the first place after another that holds a raw row.
fn next_place(read: &Connection, after: StreamPlace) -> rusqlite::Result<Option<StreamPlace>> {
    let mut next: Option<StreamPlace> = None;
    for table in RAW_TABLES {
        let sql = format!(
            "SELECT epoch, stream_seq FROM {table} WHERE (epoch, stream_seq) > (?1, ?2) \
             ORDER BY epoch, stream_seq LIMIT 1"
        );
        let found = read
            .prepare_cached(&sql)?
            .query_row([after.epoch, after.stream_seq], |row| {
                Ok(StreamPlace { epoch: row.get(0)?, stream_seq: row.get(1)? })
            })
            .optional()?;
        next = next.into_iter().chain(found).min();
    }
    Ok(next)
}
