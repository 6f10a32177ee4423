//! Rejected messages that are judged again.

use rusqlite::{Connection, Transaction, params, params_from_iter};

use super::selection::{DeadLetterKey, Selection};
use crate::judge::Delivery;
use crate::store::receipt::Ending;
use crate::store::sqlite::values::{from_sql, to_sql};

/// Marks the selected open rows to be judged again. Returns how many.
pub(in crate::store) fn mark_for_retry(
    tx: &Transaction<'_>,
    request: &str,
    which: &Selection,
) -> rusqlite::Result<usize> {
    let (condition, mut values) = which.condition();
    values.push(request.to_owned().into());
    let sql = format!("UPDATE _rejections SET retry = ?{} WHERE state = 'open' AND {condition}", values.len());
    tx.execute(&sql, params_from_iter(values))
}

/// Returns the next messages, of one epoch, that a request wants judged again, as they were delivered. `None` if
/// there are no more.
pub(in crate::store) fn marked_for_retry(
    connection: &Connection,
    request: &str,
    max_rows: usize,
    max_bytes: usize,
) -> rusqlite::Result<Option<(i64, Vec<Delivery>)>> {
    let sql = "SELECT epoch, stream_seq, subject, recv_ms, payload FROM _rejections WHERE retry = ?1 \
               ORDER BY epoch, stream_seq";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([request])?;
    let (mut found, mut bytes): (Option<(i64, Vec<Delivery>)>, usize) = (None, 0);
    while let Some(row) = rows.next()? {
        let epoch: i64 = row.get(0)?;
        let (of_epoch, deliveries) = found.get_or_insert((epoch, Vec::new()));
        if epoch != *of_epoch || deliveries.len() >= max_rows || bytes >= max_bytes {
            break;
        }
        let payload: Vec<u8> = row.get(4)?;
        bytes += payload.len();
        deliveries.push(Delivery {
            subject: row.get(2)?,
            size_bytes: payload.len(),
            payload: payload.into(),
            stream_sequence: from_sql(row.get(1)?),
            recv_ns: row.get::<_, i64>(3)?.saturating_mul(1_000_000),
        });
    }
    Ok(found)
}

/// Records how a message ended that was judged again. If it was rejected, the ledger already has the new reason.
pub(in crate::store) fn record_retry(
    tx: &Transaction<'_>,
    key: DeadLetterKey,
    ending: Ending,
    at: i64,
) -> rusqlite::Result<()> {
    let state = match ending {
        Ending::Stored => "applied",
        Ending::Duplicate => "duplicate",
        Ending::Rejected => "open",
    };
    let sql = "UPDATE _rejections SET state = ?3, judged = ?4, retry = NULL WHERE epoch = ?1 AND stream_seq = ?2";
    tx.prepare_cached(sql)?.execute(params![key.epoch, key.stream_seq, state, at])?;
    Ok(())
}

/// Returns the number of the last transaction that judged messages again; 0 before the first.
pub(in crate::store) fn last_retry(connection: &Connection) -> rusqlite::Result<i64> {
    let sql = "SELECT coalesce(max(judged), 0) FROM _rejections WHERE judged IS NOT NULL";
    connection.prepare_cached(sql)?.query_row([], |row| row.get(0))
}

/// Returns whether a transaction with this number judged messages again. Always true for 0.
pub(in crate::store) fn is_known_retry(connection: &Connection, judged: i64) -> rusqlite::Result<bool> {
    let sql = "SELECT ?1 = 0 OR EXISTS (SELECT 1 FROM _rejections WHERE judged = ?1)";
    connection.query_row(sql, [judged], |row| row.get(0))
}

/// Returns messages that were applied when they were judged again, by transactions after number `judged`. Returns
/// also the number of the last transaction that it read. Reads whole transactions, until it has `enough` messages.
pub(in crate::store) fn applied_after(
    connection: &Connection,
    judged: i64,
    enough: usize,
) -> rusqlite::Result<(Vec<DeadLetterKey>, i64)> {
    let sql = "SELECT judged, epoch, stream_seq, state = 'applied' FROM _rejections WHERE judged > ?1 ORDER BY judged";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([judged])?;
    let (mut keys, mut last) = (Vec::new(), judged);
    while let Some(row) = rows.next()? {
        let judged: i64 = row.get(0)?;
        if judged != last && keys.len() >= enough {
            break;
        }
        last = judged;
        if row.get(3)? {
            keys.push(DeadLetterKey { epoch: row.get(1)?, stream_seq: row.get(2)? });
        }
    }
    Ok((keys, last))
}

/// Returns the sequences of an epoch that the ledger lists as not accepted, in order.
pub(in crate::store) fn not_accepted(
    connection: &Connection,
    epoch: i64,
    first_seq: u64,
    last_seq: u64,
) -> rusqlite::Result<Vec<u64>> {
    let sql = "SELECT stream_seq FROM _rejections WHERE epoch = ?1 AND stream_seq >= ?2 AND stream_seq <= ?3 \
               AND state <> 'applied' ORDER BY stream_seq";
    let mut statement = connection.prepare_cached(sql)?;
    statement.query_map((epoch, to_sql(first_seq), to_sql(last_seq)), |row| row.get(0).map(from_sql))?.collect()
}
