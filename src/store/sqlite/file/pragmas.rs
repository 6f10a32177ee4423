//! Sets up connections, and opens connections for reading.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::checkpoints::MAX_PAGES;
use crate::store::error::StoreError;

/// How long one try to begin a transaction waits for another process's write lock. The writer tries again and again.
pub(in crate::store) const BUSY_TIMEOUT: Duration = Duration::from_millis(250);
/// The settings of the writer's connection.
pub const WRITER_PRAGMAS: [(&str, &str); 6] = [
    ("synchronous", "NORMAL"),
    ("foreign_keys", "ON"),
    // 32 MiB of pages. Indexes with random inserts should stay in this cache.
    ("cache_size", "-32768"),
    ("temp_store", "MEMORY"),
    // How many pages the write-ahead log has before a commit moves them into the file: those of several batches, so
    // that a page that every batch touches is moved once.
    ("wal_autocheckpoint", "8000"),
    // 256 MiB: a checkpoint cuts the WAL file down to this size. The file usually stays smaller than this: to give
    // blocks back to the file system and take them again costs more than the checkpoint.
    ("journal_size_limit", "268435456"),
];
/// Size of the cache of prepared statements. It is larger than the number of the writer's statements; otherwise every
/// transaction would prepare all of them again.
pub(in crate::store) const MAX_PREPARED_STATEMENTS: usize = 64;
/// How long a reader waits if SQLite is busy.
pub(in crate::store) const READER_BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Sets up a writer whose write-ahead log is moved into the file by a second thread.
pub(in crate::store) fn set_live_pragmas(connection: &Connection) -> rusqlite::Result<()> {
    set_pragmas(connection, &WRITER_PRAGMAS)?;
    connection.pragma_update(None, "wal_autocheckpoint", MAX_PAGES)
}

pub(in crate::store) fn set_pragmas(connection: &Connection, pragmas: &[(&str, &str)]) -> rusqlite::Result<()> {
    pragmas.iter().try_for_each(|(pragma, value)| connection.pragma_update(None, pragma, value))
}

/// Opens an existing file for reading. Calls on the connection block.
pub(in crate::store) fn open_for_reading(path: &Path) -> Result<Connection, StoreError> {
    if !path.is_file() {
        return Err(StoreError::Missing { path: path.to_owned() });
    }
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    connection.busy_timeout(READER_BUSY_TIMEOUT)?;
    Ok(connection)
}
