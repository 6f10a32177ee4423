//! `_rejections`: the ledger, written.

use rusqlite::{CachedStatement, Transaction, params};

use super::outbox::DeadLetterKey;
use super::to_sql;
use crate::judge::Verdict;
use crate::model::Kind;
use crate::rejection::Rejection;

pub(super) struct Ledger<'tx> {
    insert: CachedStatement<'tx>,
}

impl<'tx> Ledger<'tx> {
    pub(super) fn prepare(tx: &'tx Transaction<'_>) -> rusqlite::Result<Self> {
        let sql = "INSERT INTO _rejections (epoch, stream_seq, kind, reason, field, error, subject, recv_ms, payload) \
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
        Ok(Self { insert: tx.prepare_cached(sql)? })
    }

    /// Keeps a rejected message, whole.
    pub(super) fn insert(&mut self, epoch: i64, verdict: &Verdict, rejection: &Rejection) -> rusqlite::Result<()> {
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
pub(super) fn mark_published(tx: &Transaction<'_>, keys: &[DeadLetterKey]) -> rusqlite::Result<()> {
    let sql = "UPDATE _rejections SET published = 1 WHERE epoch = ?1 AND stream_seq = ?2";
    let mut statement = tx.prepare_cached(sql)?;
    for key in keys {
        statement.execute(params![key.epoch, key.stream_seq])?;
    }
    Ok(())
}
