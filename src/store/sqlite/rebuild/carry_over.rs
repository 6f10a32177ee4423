//! Copies what messages do not make into a shadow: before the shadow is installed, or before it becomes a database of
//! its own. The live database is attached as `live`.

use rusqlite::Transaction;

use super::shadow_database::forget;
use crate::store::sqlite::derived::all_tables;
use crate::store::sqlite::schema::RAW_TABLES;

/// Tables that a rebuild fills, beside the raw tables and the tables of the groups.
const OTHER_TABLES: [&str; 5] = ["funnels", "dashboard_metrics", "_groups", "_shadow", "_shadow_passed"];

/// Copies from `live` what is not derived from messages: positions, ledger, gaps, requests, the outbox, and the
/// tables of other programs.
pub(in crate::store) fn all(tx: &Transaction<'_>) -> rusqlite::Result<()> {
    let filled = |name: &str| {
        RAW_TABLES.contains(&name) || OTHER_TABLES.contains(&name) || all_tables().any(|table| table.name == name)
    };
    let tables: Vec<String> = tx
        .prepare(
            "SELECT name FROM live.sqlite_master WHERE type = 'table' \
                  AND (substr(name, 1, 7) <> 'sqlite_' OR name = 'sqlite_sequence')",
        )?
        .query_map([], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    for table in tables.iter().filter(|name| !filled(name)) {
        let table = table.replace('"', "\"\"");
        tx.execute_batch(&format!(
            "DELETE FROM main.\"{table}\"; INSERT INTO main.\"{table}\" SELECT * FROM live.\"{table}\""
        ))?;
    }
    funnels(tx)
}

/// Deletes the outbox and all requests, and marks all dead letters as published. Then drops the tables that mark the
/// file as a shadow, so that it is a database like any other.
pub(in crate::store) fn nothing_to_publish(tx: &Transaction<'_>) -> rusqlite::Result<()> {
    tx.execute_batch(
        "DELETE FROM _dashboard_outbox; DELETE FROM _control; UPDATE _rejections SET published = 1, retry = NULL",
    )?;
    forget(tx)
}

/// Copies `funnels.created_at`. This time does not follow from messages, so a rebuild cannot make it.
fn funnels(tx: &Transaction<'_>) -> rusqlite::Result<()> {
    tx.execute_batch(
        "UPDATE main.funnels AS f SET created_at = (SELECT created_at FROM live.funnels l WHERE l.id = f.id) \
         WHERE EXISTS (SELECT 1 FROM live.funnels l WHERE l.id = f.id)",
    )
}

/// Sets `stored` and `duplicates` of each epoch as they were when its messages were first read. The replay cannot
/// count them: dead letters that were applied later count in the ledger, and the stream no longer holds some
/// messages.
fn account(tx: &Transaction<'_>) -> rusqlite::Result<()> {
    let rows = RAW_TABLES.map(|table| format!("(SELECT count(*) FROM {table} WHERE epoch = p.epoch)")).join(" + ");
    tx.execute_batch(&format!(
        "UPDATE main._positions AS p SET stored = {rows} \
         - (SELECT count(*) FROM _rejections WHERE epoch = p.epoch AND state = 'applied'); \
         UPDATE main._positions AS p SET duplicates = last_seq - first_seq + 1 - stored \
         - (SELECT count(*) FROM _rejections WHERE epoch = p.epoch) \
         - (SELECT coalesce(sum(last_seq - first_seq + 1), 0) FROM _gaps WHERE epoch = p.epoch)"
    ))
}

/// Copies the ledger and the gaps up to the shadow's position, into a shadow that becomes a database of its own.
/// Nothing in it is to be published: see [`nothing_to_publish`].
pub(in crate::store) fn ledger(tx: &Transaction<'_>) -> rusqlite::Result<()> {
    tx.execute_batch(
        "DELETE FROM main._rejections; DELETE FROM main._gaps; DELETE FROM main._sqlx_migrations; \
         INSERT INTO main._sqlx_migrations SELECT * FROM live._sqlx_migrations; \
         INSERT INTO main._rejections SELECT l.* FROM live._rejections l JOIN main._positions p \
         ON p.epoch = l.epoch AND l.stream_seq <= p.last_seq; \
         INSERT INTO main._gaps SELECT l.* FROM live._gaps l JOIN main._positions p \
         ON p.epoch = l.epoch AND l.first_seq <= p.last_seq; \
         UPDATE main._gaps AS g SET last_seq = min(last_seq, (SELECT last_seq FROM main._positions p \
         WHERE p.epoch = g.epoch))",
    )?;
    account(tx)?;
    funnels(tx)
}
