//! `_watermark`: the watermark T.

use rusqlite::{Connection, Transaction};

use crate::model::Timestamp;
use crate::store::error::StoreError;

/// Reads T. `None` before the first stored message.
pub(in crate::store) fn get(connection: &Connection) -> Result<Option<Timestamp>, StoreError> {
    let mut statement = connection.prepare_cached("SELECT t FROM _watermark WHERE id = 1")?;
    let mut rows = statement.query([])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let t = row.get_ref(0)?.as_str().ok().and_then(Timestamp::from_stored);
    let damaged = || StoreError::Damaged { table: "_watermark", key: "1".into(), why: "t is not a timestamp".into() };
    t.map(Some).ok_or_else(damaged)
}

pub(super) fn put(tx: &Transaction<'_>, t: Timestamp) -> rusqlite::Result<()> {
    let sql = "INSERT INTO _watermark (id, t) VALUES (1, ?1) ON CONFLICT (id) DO UPDATE SET t = excluded.t";
    tx.prepare_cached(sql)?.execute([t.to_string()])?;
    Ok(())
}
