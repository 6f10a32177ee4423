//! `_rejections`: the outbox of dead letters, read.

use sqlx::{FromRow, SqlitePool};

use super::StoreError;
use super::letters::DeadLetterKey;

/// A row of the outbox, without its payload.
#[derive(Debug, Clone, FromRow)]
#[allow(missing_docs, reason = "named as the columns")]
pub struct Unpublished {
    #[sqlx(flatten)]
    pub key: DeadLetterKey,
    pub kind: String,
    pub reason: String,
}

/// A row of the ledger, with the stream that it came from.
#[derive(Debug, Clone, FromRow)]
#[allow(missing_docs, reason = "named as the columns")]
pub struct DeadLetter {
    pub stream: String,
    pub epoch: i64,
    pub stream_seq: i64,
    pub kind: String,
    pub reason: String,
    pub field: Option<String>,
    pub error: String,
    pub subject: String,
    pub recv_ms: i64,
    pub payload: Vec<u8>,
}

/// Up to `limit` rows that are committed but not yet published, in stream order after `after`.
///
/// # Errors
/// Where the database cannot be read.
pub async fn unpublished(
    pool: &SqlitePool,
    after: Option<DeadLetterKey>,
    limit: u32,
) -> Result<Vec<Unpublished>, StoreError> {
    let after = after.unwrap_or(DeadLetterKey { epoch: i64::MIN, stream_seq: i64::MIN });
    let sql = "SELECT epoch, stream_seq, kind, reason FROM _rejections WHERE published = 0 AND (epoch, stream_seq) > (?1, ?2) \
               ORDER BY epoch, stream_seq LIMIT ?3";
    Ok(sqlx::query_as(sql).bind(after.epoch).bind(after.stream_seq).bind(limit).fetch_all(pool).await?)
}

/// One row, whole.
///
/// # Errors
/// Where the database cannot be read.
pub async fn dead_letter(pool: &SqlitePool, key: DeadLetterKey) -> Result<Option<DeadLetter>, StoreError> {
    let sql = "SELECT p.stream, r.epoch, r.stream_seq, r.kind, r.reason, r.field, r.error, r.subject, r.recv_ms, \
               r.payload FROM _rejections r JOIN _positions p ON p.epoch = r.epoch \
               WHERE r.epoch = ?1 AND r.stream_seq = ?2";
    Ok(sqlx::query_as(sql).bind(key.epoch).bind(key.stream_seq).fetch_optional(pool).await?)
}
