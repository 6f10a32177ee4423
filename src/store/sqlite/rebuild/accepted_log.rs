//! The accepted log: what a database has accepted. A replay of its messages follows the accepted log.
//!
//! A replay does not judge again. A sequence that the ledger lists as not accepted was not accepted. Every other
//! sequence was, whatever today's limits are. If the stream no longer holds an accepted message, its stored raw row
//! stands in for it.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::mpsc::SyncSender;

use bytes::Bytes;
use rusqlite::{Connection, Transaction};

use crate::judge::{Accepted, Batch, Delivery, Supplied, Verdict};
use crate::model::{AnalyticsEvent, Metric, SessionMessage};
use crate::position::Position;
use crate::store::error::StoreError;
use crate::store::sqlite::file::pragmas::open_for_reading;
use crate::store::sqlite::ledger::{positions, rejections};
use crate::store::sqlite::raw::RawTable;
use crate::store::sqlite::values::{from_sql, is_unreadable, text_bytes, to_sql};

/// Stored rows that are in memory at once, and the bytes of their texts.
const CHUNK_ROWS: usize = 10_000;
const CHUNK_BYTES: usize = 8 << 20;
/// Sequences that are read from one raw table before the next raw table.
const SEQS_AT_ONCE: u64 = 1_000;

/// The database whose messages are replayed, read in short transactions.
#[derive(Debug)]
pub(in crate::store) struct AcceptedLog {
    live: Connection,
    path: PathBuf,
    /// The number of the last retry transaction that the replay includes. Dead letters beyond the replay's position
    /// follow in the order of the stream.
    retries_upto: Cell<i64>,
}

/// Sequences from first to last, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) struct SequenceRange {
    pub(in crate::store) first_seq: u64,
    pub(in crate::store) last_seq: u64,
}

impl SequenceRange {
    pub(in crate::store) const fn of(seq: u64) -> Self {
        Self { first_seq: seq, last_seq: seq }
    }
}

/// The stored rows of all messages from one position to another.
pub(in crate::store) struct StoredRows {
    /// The position that the first row follows.
    pub(in crate::store) after: Position,
    /// The rows, as verdicts that accept them.
    pub(in crate::store) verdicts: Vec<Verdict>,
    /// The position after the last row.
    pub(in crate::store) end: Position,
}

/// The parts of a batch that were accepted.
pub(in crate::store) struct AcceptedParts {
    /// For each message of the batch: whether it was accepted, and is valid by today's rules.
    pub(in crate::store) are_accepted: Vec<bool>,
    /// Sequences that stored rows stand in for: gaps, and accepted messages that are invalid by today's rules.
    pub(in crate::store) stand_ins: Vec<SequenceRange>,
}

impl AcceptedLog {
    pub(in crate::store) fn open(live: &Path) -> Result<Self, StoreError> {
        Ok(Self { live: open_for_reading(live)?, path: live.to_owned(), retries_upto: Cell::new(0) })
    }

    /// Returns the path of the database.
    pub(in crate::store) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the database's position in an epoch.
    pub(in crate::store) fn position(&self, epoch: i64) -> rusqlite::Result<Option<Position>> {
        positions::of_epoch(&self.live, epoch)
    }

    /// Reads the database's position in each epoch, in the order of epochs.
    pub(in crate::store) fn positions(&self) -> rusqlite::Result<Vec<Position>> {
        positions::all(&self.live)
    }

    /// Reads the sequences after a position, up to `last_seq`, that the ledger lists as not accepted, in order.
    pub(in crate::store) fn not_accepted(&self, after: &Position, last_seq: u64) -> rusqlite::Result<Vec<u64>> {
        rejections::not_accepted(&self.live, after.epoch, after.last_seq + 1, last_seq)
    }

    /// Tells the accepted parts of a batch. `listed` are the sequences that the ledger lists as not accepted, in
    /// order. The database must have applied the batch.
    pub(in crate::store) fn accepted(batch: &Batch, listed: &[u64]) -> AcceptedParts {
        let mut stand_ins: Vec<SequenceRange> = Vec::new();
        for gap in &batch.gaps {
            stand_ins.push(SequenceRange { first_seq: gap.first_seq, last_seq: gap.last_seq });
        }
        let mut are_accepted = Vec::with_capacity(batch.verdicts.len());
        for verdict in &batch.verdicts {
            let seq = verdict.delivery.stream_sequence;
            let is_listed = listed.binary_search(&seq).is_ok();
            // The rules of that time accepted it.
            if verdict.outcome.is_err() && !is_listed {
                stand_ins.push(SequenceRange::of(seq));
            }
            are_accepted.push(verdict.outcome.is_ok() && !is_listed);
        }
        AcceptedParts { are_accepted, stand_ins }
    }

    /// Begins a read transaction: all reads are of one moment until it is dropped.
    pub(in crate::store) fn snapshot(&self) -> rusqlite::Result<Transaction<'_>> {
        self.live.unchecked_transaction()
    }

    /// Reads the dead letters that retry transactions after `retries_upto` applied, at or before `passed`. Reads
    /// whole transactions, until they have applied `enough` dead letters or there are no more. Also returns the
    /// number of the last of these transactions.
    pub(in crate::store) fn applied_after(
        &self,
        retries_upto: i64,
        passed: &Position,
        enough: usize,
    ) -> rusqlite::Result<(Vec<(i64, SequenceRange)>, i64)> {
        let (keys, upto) = rejections::applied_after(&self.live, retries_upto, enough)?;
        let passed = (passed.epoch, to_sql(passed.last_seq));
        let keys = keys.into_iter().filter(|key| (key.epoch, key.stream_seq) <= passed);
        Ok((keys.map(|key| (key.epoch, SequenceRange::of(from_sql(key.stream_seq)))).collect(), upto))
    }

    /// Returns the retry transaction that [`Self::set_retries_upto`] recorded.
    pub(in crate::store) fn retries_upto(&self) -> i64 {
        self.retries_upto.get()
    }

    /// Records that the replay includes the dead letters applied up to a retry transaction.
    pub(in crate::store) fn set_retries_upto(&self, retries_upto: i64) {
        self.retries_upto.set(retries_upto);
    }

    /// Sends the stored rows from a position to a sequence, in batches, until the receiver is gone. Sends at least
    /// one batch.
    pub(in crate::store) fn read_stored_rows(
        &self,
        mut after: Position,
        last_seq: u64,
        into: &SyncSender<StoredRows>,
    ) -> Result<(), StoreError> {
        let live = self.position(after.epoch)?;
        let recv_ns_at =
            |seq: u64| live.as_ref().filter(|live| live.last_seq == seq).map_or(0, |live| live.last_recv_ns);
        loop {
            let (mut verdicts, mut size_bytes, mut seq) = (Vec::new(), 0, after.last_seq);
            while seq < last_seq && verdicts.len() < CHUNK_ROWS && size_bytes < CHUNK_BYTES {
                let range = SequenceRange { first_seq: seq + 1, last_seq: last_seq.min(seq + SEQS_AT_ONCE) };
                let known = verdicts.len();
                self.rows(after.epoch, range, |rows| {
                    verdicts.append(rows);
                    Ok(())
                })?;
                size_bytes += verdicts[known..].iter().map(|verdict| verdict.delivery.size_bytes).sum::<usize>();
                verdicts[known..].sort_by_key(|verdict| verdict.delivery.stream_sequence);
                seq = range.last_seq;
            }
            let last_recv_ns = if seq == after.last_seq { after.last_recv_ns } else { recv_ns_at(seq) };
            let end = Position { last_seq: seq, last_recv_ns, ..after.clone() };
            if into.send(StoredRows { after, verdicts, end: end.clone() }).is_err() || seq >= last_seq {
                return Ok(());
            }
            after = end;
        }
    }

    /// Passes the stored rows of a range of an epoch to `take`, a chunk at a time.
    pub(in crate::store) fn rows(
        &self,
        epoch: i64,
        range: SequenceRange,
        mut take: impl FnMut(&mut Vec<Verdict>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        self.rows_of::<AnalyticsEvent>(epoch, range, &mut take)?;
        self.rows_of::<Metric>(epoch, range, &mut take)?;
        self.rows_of::<SessionMessage>(epoch, range, &mut take)
    }

    fn rows_of<T: RawTable>(
        &self,
        epoch: i64,
        range: SequenceRange,
        take: &mut impl FnMut(&mut Vec<Verdict>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let (table, columns) = (T::TABLE, T::COLUMNS);
        let sql = format!(
            "SELECT {columns}, supplied, recv_ms, stream_seq FROM {table} \
             WHERE epoch = ?1 AND stream_seq >= ?2 AND stream_seq <= ?3 ORDER BY stream_seq"
        );
        let mut statement = self.live.prepare_cached(&sql)?;
        let width = statement.column_count();
        let mut rows = statement.query((epoch, to_sql(range.first_seq), to_sql(range.last_seq)))?;
        let (mut chunk, mut chunk_bytes) = (Vec::new(), 0);
        while let Some(row) = rows.next()? {
            let read = || {
                let record = T::from_row(row)?;
                Ok((record, row.get(width - 3)?, row.get::<_, i64>(width - 2)?, row.get(width - 1)?))
            };
            let (record, supplied, recv_ms, stream_seq) = match read() {
                Ok(read) => read,
                Err(error) if is_unreadable(&error) => {
                    let id = row.get_ref(0)?.as_str().unwrap_or("?").to_owned();
                    return Err(StoreError::WouldLose { table, id, why: format!("the row is not a message: {error}") });
                }
                Err(error) => return Err(error.into()),
            };
            let size_bytes = text_bytes(row, width - 3)?;
            chunk_bytes += size_bytes;
            let judged = Accepted { record, supplied: Supplied::from_bits(supplied), untimely: None };
            let delivery = Delivery {
                subject: String::new(),
                payload: Bytes::new(),
                size_bytes,
                stream_sequence: from_sql(stream_seq),
                recv_ns: recv_ms.saturating_mul(1_000_000),
            };
            chunk.push(Verdict { delivery, kind: Some(T::KIND), outcome: Ok(T::message(judged)) });
            if chunk.len() == CHUNK_ROWS || chunk_bytes >= CHUNK_BYTES {
                take(&mut chunk)?;
                chunk.clear();
                chunk_bytes = 0;
            }
        }
        if chunk.is_empty() { Ok(()) } else { take(&mut chunk) }
    }
}
