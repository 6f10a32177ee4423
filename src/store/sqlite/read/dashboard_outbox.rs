//! `_dashboard_outbox`: the numbers of widgets that are to be published.

use rusqlite::Transaction;

use crate::analytics::dashboard::Shown;
use crate::store::notice::{Number, NumberKey};
use crate::store::sqlite::values::from_sql;

/// Skips rows that another program wrote.
const IS_READABLE: &str = "typeof(widget_id) = 'text' AND typeof(metric_key) = 'text' AND typeof(updated_at) = 'text' \
     AND typeof(stream) = 'text' AND typeof(as_of) = 'integer' AND typeof(change) = 'integer' \
     AND typeof(value) IN ('real', 'null') AND typeof(previous_value) IN ('real', 'null') \
     AND typeof(change_percent) IN ('real', 'null') AND is_gone IN (0, 1)";

/// Reads the numbers that changed after the change `after`, in the order of their last change.
pub(super) fn numbers_changed(tx: &Transaction<'_>, after: i64) -> rusqlite::Result<Vec<Number>> {
    let sql = format!(
        "SELECT widget_id, metric_key, value, previous_value, change_percent, updated_at, stream, as_of, change, is_gone \
         FROM _dashboard_outbox WHERE change > ?1 AND {IS_READABLE} ORDER BY change"
    );
    let mut select = tx.prepare_cached(&sql)?;
    let number = |row: &rusqlite::Row<'_>| {
        Ok(Number {
            key: NumberKey { widget_id: row.get(0)?, metric_key: row.get(1)? },
            shown: Shown { value: row.get(2)?, previous_value: row.get(3)?, change_percent: row.get(4)? },
            updated_at: row.get(5)?,
            stream: row.get(6)?,
            as_of: from_sql(row.get(7)?),
            change: row.get(8)?,
            is_gone: row.get(9)?,
        })
    };
    select.query_map([after], number)?.collect()
}
