//! Reads rows, for people and for the stream of dead letters.

use rusqlite::types::Value;
use rusqlite::{OptionalExtension, Row, Transaction, params_from_iter};
use serde::Serialize;

use super::selection::{DeadLetterId, DeadLetterKey, Selection};
use crate::model::Timestamp;
use crate::store::sqlite::values::from_sql;

/// A dead letter, without its payload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "named as the columns")]
pub struct DeadLetter {
    pub id: String,
    pub stream: String,
    pub epoch: i64,
    pub stream_seq: u64,
    pub kind: String,
    pub reason: String,
    pub field: Option<String>,
    pub error: String,
    pub subject: String,
    pub received_at: String,
    pub state: String,
    pub published: bool,
    pub size_bytes: u64,
}

const COLUMNS: &str = "(SELECT stream FROM _positions p WHERE p.epoch = r.epoch), epoch, stream_seq, kind, reason, field, \
     error, subject, recv_ms, state, published, length(payload)";

fn dead_letter(row: &Row<'_>) -> rusqlite::Result<DeadLetter> {
    let key = DeadLetterKey { epoch: row.get(1)?, stream_seq: row.get(2)? };
    Ok(DeadLetter {
        id: key.to_string(),
        stream: row.get::<_, Option<String>>(0)?.unwrap_or_default(),
        epoch: key.epoch,
        stream_seq: from_sql(key.stream_seq),
        kind: row.get(3)?,
        reason: row.get(4)?,
        field: row.get(5)?,
        error: row.get(6)?,
        subject: row.get(7)?,
        received_at: Timestamp::from_millis(row.get(8)?).to_string(),
        state: row.get(9)?,
        published: row.get(10)?,
        size_bytes: from_sql(row.get(11)?),
    })
}

/// Passes the selected dead letters to `take`, in the order of the stream, until `take` returns false. Only those in
/// `state` are passed; `None` means any state.
pub(in crate::store) fn for_each_dead_letter(
    tx: &Transaction<'_>,
    which: &Selection,
    state: Option<&str>,
    mut take: impl FnMut(DeadLetter) -> bool,
) -> rusqlite::Result<()> {
    let (condition, mut values) = which.condition();
    let of_state = state.map_or_else(|| "true".to_owned(), |_| format!("state = ?{}", values.len() + 1));
    values.extend(state.map(|state| Value::from(state.to_owned())));
    let sql =
        format!("SELECT {COLUMNS} FROM _rejections r WHERE {of_state} AND {condition} ORDER BY epoch, stream_seq");
    let mut statement = tx.prepare(&sql)?;
    let mut rows = statement.query(params_from_iter(values))?;
    while let Some(row) = rows.next()? {
        if !take(dead_letter(row)?) {
            break;
        }
    }
    Ok(())
}

/// Reads one dead letter and its payload. Returns `None` if there is no such dead letter.
pub(in crate::store) fn dead_letter_with_payload(
    tx: &Transaction<'_>,
    id: DeadLetterId,
) -> rusqlite::Result<Option<(DeadLetter, Vec<u8>)>> {
    let sql = format!(
        "SELECT {COLUMNS}, payload FROM _rejections r WHERE stream_seq = ?1 AND (?2 IS NULL OR epoch = ?2) \
         ORDER BY epoch DESC LIMIT 1"
    );
    tx.query_row(&sql, (id.stream_seq, id.epoch), |row| Ok((dead_letter(row)?, row.get(12)?))).optional()
}

/// A row of the outbox, without its payload.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "named as the columns")]
pub struct Unpublished {
    pub key: DeadLetterKey,
    pub kind: String,
    pub reason: String,
}

/// A row of the ledger, with the stream that it came from.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "named as the columns")]
pub struct DeadLetterMessage {
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

/// Reads up to `limit` rows that are committed but not yet published, in stream order after `after`.
pub(in crate::store) fn unpublished(
    tx: &Transaction<'_>,
    after: Option<DeadLetterKey>,
    limit: u32,
) -> rusqlite::Result<Vec<Unpublished>> {
    let after = after.unwrap_or(DeadLetterKey { epoch: i64::MIN, stream_seq: i64::MIN });
    let sql = "SELECT epoch, stream_seq, kind, reason FROM _rejections WHERE published = 0 AND (epoch, stream_seq) > (?1, ?2) \
               ORDER BY epoch, stream_seq LIMIT ?3";
    let row = |row: &Row<'_>| {
        let key = DeadLetterKey { epoch: row.get(0)?, stream_seq: row.get(1)? };
        Ok(Unpublished { key, kind: row.get(2)?, reason: row.get(3)? })
    };
    tx.prepare_cached(sql)?.query_map((after.epoch, after.stream_seq, limit), row)?.collect()
}

/// Reads one row with its payload. Returns `None` if there is no such row.
pub(in crate::store) fn message_of(
    tx: &Transaction<'_>,
    key: DeadLetterKey,
) -> rusqlite::Result<Option<DeadLetterMessage>> {
    let sql = "SELECT p.stream, r.epoch, r.stream_seq, r.kind, r.reason, r.field, r.error, r.subject, r.recv_ms, \
               r.payload FROM _rejections r JOIN _positions p ON p.epoch = r.epoch \
               WHERE r.epoch = ?1 AND r.stream_seq = ?2";
    let message = |row: &Row<'_>| {
        Ok(DeadLetterMessage {
            stream: row.get(0)?,
            epoch: row.get(1)?,
            stream_seq: row.get(2)?,
            kind: row.get(3)?,
            reason: row.get(4)?,
            field: row.get(5)?,
            error: row.get(6)?,
            subject: row.get(7)?,
            recv_ms: row.get(8)?,
            payload: row.get(9)?,
        })
    };
    tx.prepare_cached(sql)?.query_row((key.epoch, key.stream_seq), message).optional()
}

/// Counts of the ledger's rows that are no longer open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClosedDeadLetters {
    /// Dead letters that were judged again and became rows.
    pub applied: i64,
    /// Dead letters that were judged again and were copies of stored messages.
    pub duplicate: i64,
    /// Dead letters that were dropped.
    pub dropped: i64,
}

/// Counts the rows that are no longer open. Reads the whole ledger, so no page and no metric uses these counts.
pub(in crate::store) fn count_closed(tx: &Transaction<'_>) -> rusqlite::Result<ClosedDeadLetters> {
    let sql = "SELECT count(*) FILTER (WHERE state = 'applied'), count(*) FILTER (WHERE state = 'duplicate'), \
               count(*) FILTER (WHERE state = 'dropped') FROM _rejections";
    tx.query_row(sql, [], |row| {
        Ok(ClosedDeadLetters { applied: row.get(0)?, duplicate: row.get(1)?, dropped: row.get(2)? })
    })
}
