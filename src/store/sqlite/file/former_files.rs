//! Shadows that an earlier version left beside a database. It used other names, so no rebuild would find them again.

use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use super::disk::with_suffix;
use super::lock::Lock;
use crate::store::error::StoreError;

/// The suffix of each former shadow, and the table that only an unfinished shadow has.
const FORMER_SHADOWS: [(&str, &str); 2] = [(".replay", "_replay"), (".rebuild", "_rebuild")];

/// Removes the shadows that an earlier version left beside a database. Files that only have such a name stay, and so
/// does a shadow that another process fills.
pub(in crate::store) fn remove_former_shadows(database: &Path) {
    for (suffix, table) in FORMER_SHADOWS {
        let path = with_suffix(database, suffix);
        if !path.is_file() {
            continue;
        }
        match remove_if_shadow(&path, table) {
            Ok(true) => tracing::info!("removed {}: an earlier version left it", path.display()),
            Ok(false) => {}
            Err(error) => tracing::warn!("{} stays: {error}", path.display()),
        }
    }
}

fn remove_if_shadow(path: &Path, table: &str) -> Result<bool, StoreError> {
    if !has_table(path, table)? {
        return Ok(false);
    }
    Lock::try_acquire(path, "remove")?.remove_database()?;
    Ok(true)
}

fn has_table(path: &Path, table: &str) -> rusqlite::Result<bool> {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let sql = "SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?1)";
    connection.query_row(sql, [table], |row| row.get(0))
}
