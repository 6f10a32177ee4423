//! Derived tables whose rules have changed are made anew from the raw rows.

use rusqlite::{OptionalExtension, Transaction, params};

use super::{apply, sessions};
use crate::analytics::{Facts, Rules, Stored};
use crate::model::{AnalyticsEvent, Metric, SessionMessage, Timestamp};
use crate::store::raw::RawTable;
use crate::store::{Spent, StoreError, position};

/// Raw rows whose facts are combined before they are applied: as many as in a large batch.
const CHUNK_ROWS: usize = 10_000;
const LOG_EVERY_ROWS: usize = 500_000;
/// Counts up with every change of the rules of sessions.
const SESSION_RULES: u32 = 1;

/// Makes the groups anew whose fingerprint is not that of `rules`. Tells whether there were any.
pub(in crate::store) fn rebuild_changed(tx: &Transaction<'_>, rules: Rules) -> Result<bool, StoreError> {
    let fingerprint = format!("rules={SESSION_RULES} session_timeout_ms={}", rules.session_timeout_ms);
    let sql = "SELECT fingerprint FROM _groups WHERE name = 'sessions'";
    let stored: Option<String> = tx.prepare_cached(sql)?.query_row([], |row| row.get(0)).optional()?;
    if stored.as_ref() == Some(&fingerprint) {
        return Ok(false);
    }
    if position::last(tx)?.is_some_and(|position| position.last_seq >= position.first_seq) {
        tracing::info!(was = stored, now = fingerprint, "the rules of sessions have changed: made anew from raw rows");
    }
    sessions::delete(tx)?;
    replay::<AnalyticsEvent>(tx, rules)?;
    replay::<Metric>(tx, rules)?;
    replay::<SessionMessage>(tx, rules)?;
    let sql = "INSERT INTO _groups (name, fingerprint) VALUES ('sessions', ?1) \
               ON CONFLICT (name) DO UPDATE SET fingerprint = excluded.fingerprint";
    tx.execute(sql, params![fingerprint])?;
    Ok(true)
}

/// Applies what all rows of a raw table say. Their order does not matter: facts commute.
fn replay<T: RawTable>(tx: &Transaction<'_>, rules: Rules) -> Result<(), StoreError>
where
    for<'a> &'a T: Into<Stored<'a>>,
{
    let mut statement = tx.prepare(&format!("SELECT {}, recv_ms FROM {}", T::COLUMNS, T::TABLE))?;
    let recv_column = statement.column_count() - 1;
    let mut rows = statement.query([])?;
    let (mut facts, mut count) = (Facts::default(), 0);
    while let Some(row) = rows.next()? {
        facts.add((&T::from_row(row)?).into(), Timestamp::from_millis(row.get(recv_column)?));
        count += 1;
        if count % CHUNK_ROWS == 0 {
            apply(tx, rules, std::mem::take(&mut facts), &mut Spent::begin())?;
        }
        if count % LOG_EVERY_ROWS == 0 {
            tracing::info!(table = T::TABLE, rows = count, "still making them");
        }
    }
    apply(tx, rules, facts, &mut Spent::begin())
}
