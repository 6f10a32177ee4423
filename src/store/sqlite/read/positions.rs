//! The position of a database at an earlier time.

use rusqlite::{OptionalExtension, Transaction};

use crate::model::Timestamp;
use crate::store::sqlite::schema::RAW_TABLES;
use crate::store::sqlite::values::from_sql;

/// Reads the epoch and the sequence of the last message that was received before a time and is stored or rejected.
pub(super) fn last_place_before(tx: &Transaction<'_>, time: Timestamp) -> rusqlite::Result<Option<(i64, u64)>> {
    let mut last = None;
    for table in RAW_TABLES.into_iter().chain(["_rejections"]) {
        let sql = format!(
            "SELECT epoch, stream_seq FROM {table} WHERE epoch > 0 AND recv_ms < ?1 \
             ORDER BY epoch DESC, stream_seq DESC LIMIT 1"
        );
        let found =
            tx.query_row(&sql, [time.as_millis()], |row| Ok((row.get(0)?, from_sql(row.get(1)?)))).optional()?;
        last = last.max(found);
    }
    Ok(last)
}
