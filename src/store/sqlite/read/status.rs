//! The status of a database.

use std::path::Path;

use crate::store::sqlite::file::disk::sizes_bytes;
use crate::store::sqlite::rebuild::progress::RebuildProgress;
use crate::store::sqlite::rebuild::shadow_groups::progress_of;
use crate::store::sqlite::values::from_sql;
use rusqlite::{Row, Transaction};
use serde::Serialize;

/// Gaps that a status lists at most. The count includes all gaps.
const MAX_LISTED_GAPS: u32 = 100;

/// The status of a database, from one read transaction.
#[derive(Debug, Clone)]
pub struct Status {
    /// The state of each stream that was read.
    pub streams: Vec<StreamStatus>,
    /// Open rows of the ledger.
    pub dead_letters: i64,
    /// Rows of the ledger that are not published yet.
    pub unpublished_dead_letters: i64,
    /// Number of gaps.
    pub gaps: i64,
    /// Messages in all gaps.
    pub missing_messages: i64,
    /// The latest gaps, the latest first.
    pub gap_ranges: Vec<GapRange>,
    /// Groups of derived tables that are being rebuilt. The rows of a frozen group stay as they are until the result
    /// is installed.
    pub rebuilding: Vec<Rebuilding>,
    /// Bytes of the database file.
    pub size_bytes: u64,
    /// Bytes of the write-ahead log.
    pub wal_bytes: u64,
}

/// The state of one stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamStatus {
    /// The name of the stream.
    pub name: String,
    /// The last epoch of the stream.
    pub epoch: i64,
    /// The last sequence that is applied; 0 before the first message.
    pub applied_seq: u64,
    /// Messages that became rows, in all epochs of the stream.
    pub stored: i64,
    /// Messages that were copies of stored messages, in all epochs of the stream.
    pub duplicates: i64,
}

impl StreamStatus {
    /// Returns the status of a stream that was not read yet.
    pub fn unread(name: &str) -> Self {
        Self { name: name.to_owned(), epoch: 0, applied_seq: 0, stored: 0, duplicates: 0 }
    }
}

/// One gap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "named as the columns")]
pub struct GapRange {
    pub stream: String,
    pub epoch: i64,
    pub first_seq: i64,
    pub last_seq: i64,
    pub reason: String,
    pub found_at: String,
}

/// A group of derived tables that is being rebuilt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rebuilding {
    /// The name of the group.
    pub group: String,
    /// Raw rows that the rebuild has applied.
    pub rows_done: u64,
    /// Raw rows that existed when the rebuild began. More may have come since.
    pub rows_total: u64,
}

/// Reads the status.
pub(super) fn status(tx: &Transaction<'_>, path: &Path) -> rusqlite::Result<Status> {
    let count = |sql: &str| tx.query_row(sql, [], |row| row.get::<_, i64>(0));
    let streams = streams(tx)?;
    let (gaps, missing_messages) =
        tx.query_row("SELECT count(*), coalesce(sum(last_seq - first_seq + 1), 0) FROM _gaps", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
    let (size_bytes, wal_bytes) = sizes_bytes(path);
    let stored = streams.iter().map(|stream| from_sql(stream.stored)).sum();
    Ok(Status {
        dead_letters: count("SELECT count(*) FROM _rejections WHERE state = 'open'")?,
        unpublished_dead_letters: count("SELECT count(*) FROM _rejections WHERE published = 0")?,
        gaps,
        missing_messages,
        gap_ranges: gap_ranges(tx)?,
        rebuilding: rebuilding(tx, path, stored)?,
        streams,
        size_bytes,
        wal_bytes,
    })
}

fn streams(tx: &Transaction<'_>) -> rusqlite::Result<Vec<StreamStatus>> {
    let mut select = tx.prepare_cached(
        "SELECT stream, epoch, first_seq, last_seq, \
         (SELECT sum(stored) FROM _positions o WHERE o.stream = p.stream), \
         (SELECT sum(duplicates) FROM _positions o WHERE o.stream = p.stream) FROM _positions p \
         WHERE epoch = (SELECT max(epoch) FROM _positions o WHERE o.stream = p.stream) ORDER BY epoch",
    )?;
    let stream = |row: &Row<'_>| {
        let (first_seq, last_seq): (i64, i64) = (row.get(2)?, row.get(3)?);
        Ok(StreamStatus {
            name: row.get(0)?,
            epoch: row.get(1)?,
            // An epoch that begins in the middle of a stream first stands at a sequence that holds none of its
            // messages.
            applied_seq: if last_seq < first_seq { 0 } else { from_sql(last_seq) },
            stored: row.get(4)?,
            duplicates: row.get(5)?,
        })
    };
    select.query_map([], stream)?.collect()
}

fn gap_ranges(tx: &Transaction<'_>) -> rusqlite::Result<Vec<GapRange>> {
    let mut select = tx.prepare_cached(
        "SELECT p.stream, g.epoch, g.first_seq, g.last_seq, g.reason, g.found_at FROM _gaps g \
         JOIN _positions p ON p.epoch = g.epoch ORDER BY g.epoch DESC, g.first_seq DESC LIMIT ?1",
    )?;
    let range = |row: &Row<'_>| {
        Ok(GapRange {
            stream: row.get(0)?,
            epoch: row.get(1)?,
            first_seq: row.get(2)?,
            last_seq: row.get(3)?,
            reason: row.get(4)?,
            found_at: row.get(5)?,
        })
    };
    select.query_map([MAX_LISTED_GAPS], range)?.collect()
}

fn rebuilding(tx: &Transaction<'_>, path: &Path, stored: u64) -> rusqlite::Result<Vec<Rebuilding>> {
    let mut select = tx.prepare_cached("SELECT name, rebuild FROM _groups WHERE rebuild IS NOT NULL ORDER BY name")?;
    let group = |row: &Row<'_>| {
        let (group, rebuild): (String, String) = (row.get(0)?, row.get(1)?);
        // Before its first step a rebuild has no file.
        let progress = progress_of(path, &rebuild).unwrap_or(RebuildProgress { rows: 0, total: stored });
        Ok(Rebuilding { group, rows_done: progress.rows, rows_total: progress.total })
    };
    select.query_map([], group)?.collect()
}
