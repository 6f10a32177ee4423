//! `_watermark`

use rusqlite::{OptionalExtension, Transaction};

use crate::model::Timestamp;
use crate::store::raw::parsed;

/// T; none before the first stored message.
pub(super) fn get(tx: &Transaction<'_>) -> rusqlite::Result<Option<Timestamp>> {
    let mut statement = tx.prepare_cached("SELECT t FROM _watermark WHERE id = 1")?;
    statement.query_row([], |row| parsed(row, 0, Timestamp::from_stored)).optional()
}

pub(super) fn put(tx: &Transaction<'_>, t: Timestamp) -> rusqlite::Result<()> {
    let sql = "INSERT INTO _watermark (id, t) VALUES (1, ?1) ON CONFLICT (id) DO UPDATE SET t = excluded.t";
    tx.prepare_cached(sql)?.execute([t.to_string()])?;
    Ok(())
}
