//! What the database says of itself.

use std::path::Path;

use serde::Serialize;
use sqlx::{FromRow, SqlitePool};

use super::aside::{self, Progress};
use super::disk::sizes_bytes;
use super::{StoreError, from_sql};

/// Ranges that a status lists; the count is of all.
const MAX_LISTED_GAPS: u32 = 100;

/// What the database says of itself, from one read transaction.
#[derive(Debug, Clone)]
pub struct Status {
    /// Each stream that was read, where it stands.
    pub streams: Vec<StreamStatus>,
    /// Open rows of the ledger.
    pub dead_letters: i64,
    /// Rows of the ledger that are not published yet.
    pub unpublished_dead_letters: i64,
    /// Number of gaps.
    pub gaps: i64,
    /// Messages in all gaps.
    pub missing_messages: i64,
    /// The latest gaps.
    pub gap_ranges: Vec<GapRange>,
    /// Groups of derived tables that are being made anew: their rows stay as they were until then.
    pub rebuilding: Vec<Rebuilding>,
    /// Bytes of the file.
    pub size_bytes: u64,
    /// Bytes of its write-ahead log.
    pub wal_bytes: u64,
}

/// Where one stream stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamStatus {
    /// Its name.
    pub name: String,
    /// Its epoch.
    pub epoch: i64,
    /// The last sequence that is applied; 0 before the first message.
    pub applied_seq: u64,
    /// Messages of all its epochs that became rows.
    pub stored: i64,
    /// Messages of all its epochs that were copies.
    pub duplicates: i64,
}

impl StreamStatus {
    /// A stream that was not read yet.
    pub fn unread(name: &str) -> Self {
        Self { name: name.to_owned(), epoch: 0, applied_seq: 0, stored: 0, duplicates: 0 }
    }
}

/// Rows of the ledger that are not open any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromRow)]
pub struct ClosedDeadLetters {
    /// Accepted again, they became rows.
    pub applied: i64,
    /// Accepted again, they were copies.
    pub duplicate: i64,
    /// They were let go.
    pub dropped: i64,
}

/// One gap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, FromRow)]
#[allow(missing_docs, reason = "named as the columns")]
pub struct GapRange {
    pub stream: String,
    pub epoch: i64,
    pub first_seq: i64,
    pub last_seq: i64,
    pub reason: String,
    pub found_at: String,
}

/// A group of derived tables that is being made anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rebuilding {
    /// Its name.
    pub group: String,
    /// Raw rows that are in it already.
    pub rows_done: u64,
    /// Raw rows that there were when it began; more may have come.
    pub rows_total: u64,
}

#[derive(FromRow)]
struct PositionRow {
    stream: String,
    epoch: i64,
    first_seq: i64,
    last_seq: i64,
    stored: i64,
    duplicates: i64,
}

/// Reads the status.
///
/// # Errors
/// Where the database cannot be read.
pub async fn status(pool: &SqlitePool, path: &Path) -> Result<Status, StoreError> {
    let mut tx = pool.begin().await?;
    let positions: Vec<PositionRow> = sqlx::query_as(
        "SELECT stream, epoch, first_seq, last_seq, \
         (SELECT sum(stored) FROM _positions o WHERE o.stream = p.stream) AS stored, \
         (SELECT sum(duplicates) FROM _positions o WHERE o.stream = p.stream) AS duplicates FROM _positions p \
         WHERE epoch = (SELECT max(epoch) FROM _positions o WHERE o.stream = p.stream) ORDER BY epoch",
    )
    .fetch_all(&mut *tx)
    .await?;
    let dead_letters =
        sqlx::query_scalar("SELECT count(*) FROM _rejections WHERE state = 'open'").fetch_one(&mut *tx).await?;
    let unpublished_dead_letters =
        sqlx::query_scalar("SELECT count(*) FROM _rejections WHERE published = 0").fetch_one(&mut *tx).await?;
    let (gaps, missing_messages) =
        sqlx::query_as("SELECT count(*), coalesce(sum(last_seq - first_seq + 1), 0) FROM _gaps")
            .fetch_one(&mut *tx)
            .await?;
    let gap_ranges = sqlx::query_as(
        "SELECT p.stream, g.epoch, g.first_seq, g.last_seq, g.reason, g.found_at FROM _gaps g \
         JOIN _positions p ON p.epoch = g.epoch ORDER BY g.epoch DESC, g.first_seq DESC LIMIT ?1",
    )
    .bind(MAX_LISTED_GAPS)
    .fetch_all(&mut *tx)
    .await?;
    let builds: Vec<(String, String)> =
        sqlx::query_as("SELECT name, build FROM _groups WHERE build IS NOT NULL ORDER BY name")
            .fetch_all(&mut *tx)
            .await?;
    tx.rollback().await?;
    let stored = positions.iter().map(|position| from_sql(position.stored)).sum();
    let rebuilding = builds.into_iter().map(|(group, build)| {
        // Before its first step a build has no file.
        let progress = aside::progress_of(path, &build).unwrap_or(Progress { rows: 0, total: stored });
        Rebuilding { group, rows_done: progress.rows, rows_total: progress.total }
    });
    let (size_bytes, wal_bytes) = sizes_bytes(path);
    Ok(Status {
        streams: positions.into_iter().map(StreamStatus::from).collect(),
        dead_letters,
        unpublished_dead_letters,
        gaps,
        missing_messages,
        gap_ranges,
        rebuilding: rebuilding.collect(),
        size_bytes,
        wal_bytes,
    })
}

/// Counts what became of dead letters. Reads the whole ledger, so it is no part of [`status`], which pages and metrics ask
/// for again and again.
///
/// # Errors
/// Where the database cannot be read.
pub async fn closed_dead_letters(pool: &SqlitePool) -> Result<ClosedDeadLetters, StoreError> {
    let sql = "SELECT count(*) FILTER (WHERE state = 'applied') AS applied, \
               count(*) FILTER (WHERE state = 'duplicate') AS duplicate, \
               count(*) FILTER (WHERE state = 'dropped') AS dropped FROM _rejections";
    Ok(sqlx::query_as(sql).fetch_one(pool).await?)
}

impl From<PositionRow> for StreamStatus {
    fn from(row: PositionRow) -> Self {
        Self {
            name: row.stream,
            epoch: row.epoch,
            // An epoch that begins in the middle of a stream stands before its first message, at a sequence of none.
            applied_seq: if row.last_seq < row.first_seq { 0 } else { from_sql(row.last_seq) },
            stored: row.stored,
            duplicates: row.duplicates,
        }
    }
}
