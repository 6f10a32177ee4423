//! Inserts rows, marks them as published, and drops them.

use rusqlite::{CachedStatement, Transaction, params, params_from_iter};

use super::selection::{DeadLetterKey, Selection};
use crate::judge::{Rejection, Verdict};
use crate::model::Kind;
use crate::store::sqlite::values::to_sql;

pub(in crate::store) struct RejectionInsert<'tx> {
    insert: CachedStatement<'tx>,
}

impl<'tx> RejectionInsert<'tx> {
    pub(in crate::store) fn prepare(tx: &'tx Transaction<'_>) -> rusqlite::Result<Self> {
        // A message that was judged again keeps its row, with the new reason.
        let sql = "INSERT INTO _rejections (epoch, stream_seq, kind, reason, field, error, subject, recv_ms, payload) \
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT (epoch, stream_seq) DO UPDATE SET \
                   reason = excluded.reason, field = excluded.field, error = excluded.error";
        Ok(Self { insert: tx.prepare_cached(sql)? })
    }

    /// Stores a rejected message with its payload.
    pub(in crate::store) fn insert(
        &mut self,
        epoch: i64,
        verdict: &Verdict,
        rejection: &Rejection,
    ) -> rusqlite::Result<()> {
        let delivery = &verdict.delivery;
        self.insert.execute(params![
            epoch,
            to_sql(delivery.stream_sequence),
            verdict.kind.map_or("unknown", Kind::as_str),
            rejection.reason.as_str(),
            rejection.field,
            rejection.error,
            delivery.subject,
            delivery.recv().as_millis(),
            &delivery.payload[..],
        ])?;
        Ok(())
    }
}

/// Marks rows of the outbox as published.
pub(in crate::store) fn mark_published(tx: &Transaction<'_>, keys: &[DeadLetterKey]) -> rusqlite::Result<()> {
    let sql = "UPDATE _rejections SET published = 1 WHERE epoch = ?1 AND stream_seq = ?2";
    let mut statement = tx.prepare_cached(sql)?;
    for key in keys {
        statement.execute(params![key.epoch, key.stream_seq])?;
    }
    Ok(())
}

/// Marks the selected open rows as dropped. Returns how many.
pub(in crate::store) fn drop_selected(tx: &Transaction<'_>, which: &Selection) -> rusqlite::Result<usize> {
    let (condition, values) = which.condition();
    let sql = format!("UPDATE _rejections SET state = 'dropped', retry = NULL WHERE state = 'open' AND {condition}");
    tx.execute(&sql, params_from_iter(values))
}
