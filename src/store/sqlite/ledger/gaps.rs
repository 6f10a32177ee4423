//! `_gaps`: messages that the stream no longer held when they should have been read.

use rusqlite::{Transaction, params};

use crate::model::Timestamp;
use crate::position::Gap;
use crate::store::sqlite::values::to_sql;

pub(in crate::store) fn insert(tx: &Transaction<'_>, epoch: i64, gaps: &[Gap]) -> rusqlite::Result<()> {
    if gaps.is_empty() {
        return Ok(());
    }
    let sql = "INSERT INTO _gaps (epoch, first_seq, last_seq, reason, found_at) VALUES (?1, ?2, ?3, ?4, ?5)";
    let mut statement = tx.prepare_cached(sql)?;
    let found_at = Timestamp::now().to_string();
    for gap in gaps {
        statement.execute(params![
            epoch,
            to_sql(gap.first_seq),
            to_sql(gap.last_seq),
            gap.reason.as_str(),
            found_at
        ])?;
    }
    Ok(())
}
