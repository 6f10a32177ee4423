//! `_event_counts`: the number of events, by day and name.

use rusqlite::{Transaction, params};

use crate::analytics::EventCounts;

const ADD: &str = "INSERT INTO _event_counts (date, event_name, count) VALUES (?1, ?2, ?3) \
     ON CONFLICT (date, event_name) DO UPDATE SET count = count + excluded.count";

pub(super) fn add(tx: &Transaction<'_>, counts: EventCounts) -> rusqlite::Result<()> {
    let mut add = tx.prepare_cached(ADD)?;
    for ((date, event_name), count) in counts.into_sorted() {
        add.execute(params![date.to_string(), event_name, count])?;
    }
    Ok(())
}
