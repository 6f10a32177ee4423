//! Opening the file: for the one writer, and for readers.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool, SqlitePoolOptions};

use super::writer::checkpoints::MAX_PAGES;
use super::{Lock, StoreError, Writer, migrate, replica};
use crate::analytics::Rules;

/// How long one try to begin a transaction waits for another process's write lock. The writer tries again and again.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_millis(250);
/// How the writer's connection is set up.
pub const WRITER_PRAGMAS: [(&str, &str); 6] = [
    ("synchronous", "NORMAL"),
    ("foreign_keys", "ON"),
    // 32 MiB of pages. The indexes that take random inserts should stay in it.
    ("cache_size", "-32768"),
    ("temp_store", "MEMORY"),
    // Pages in the WAL before a commit moves them into the file: several batches, so that pages that every batch touches
    // are moved once.
    ("wal_autocheckpoint", "8000"),
    // 256 MiB: what a checkpoint leaves of the WAL file. More than it grows to as a rule: to give blocks back to the file
    // system and take them again costs more than the checkpoint.
    ("journal_size_limit", "268435456"),
];
/// More than the writer has: with fewer places than statements, every transaction would prepare them all again.
pub(super) const MAX_PREPARED_STATEMENTS: usize = 64;
/// How long a reader waits where SQLite is busy.
pub(super) const READER_BUSY_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_READERS: u32 = 4;

/// Opens the file for writing, and migrates it. The lock proves that nobody else does. Derived tables follow `rules`.
///
/// `synchronous = NORMAL` in WAL mode may lose the last transactions in a power cut, never a part of one. That is safe
/// here because the position is in the file: the stream still has what follows it.
///
/// # Errors
/// Where the file cannot be opened or migrated.
pub async fn open_writer(lock: &Lock, rules: Rules) -> Result<Writer, StoreError> {
    migrate::up(lock).await?;
    let database = lock.database().to_owned();
    // It may wait for another process's write lock.
    super::blocking(move || open_connection(&database, rules)).await
}

fn open_connection(database: &Path, rules: Rules) -> Result<Writer, StoreError> {
    let connection = Connection::open(database)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(MAX_PREPARED_STATEMENTS);
    set_live_pragmas(&connection)?;
    // Where a process died just after it had put a rebuilt database in.
    replica::forget(&connection)?;
    Writer::new(connection, database, rules)
}

/// Those of a writer that has its log moved into the file beside it.
pub(super) fn set_live_pragmas(connection: &Connection) -> rusqlite::Result<()> {
    set_pragmas(connection, &WRITER_PRAGMAS)?;
    connection.pragma_update(None, "wal_autocheckpoint", MAX_PAGES)
}

pub(super) fn set_pragmas(connection: &Connection, pragmas: &[(&str, &str)]) -> rusqlite::Result<()> {
    pragmas.iter().try_for_each(|(pragma, value)| connection.pragma_update(None, pragma, value))
}

/// Opens an existing file for reading with calls that block.
pub(super) fn open_blocking_reader(path: &Path) -> Result<Connection, StoreError> {
    if !path.is_file() {
        return Err(StoreError::Missing { path: path.to_owned() });
    }
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    connection.busy_timeout(READER_BUSY_TIMEOUT)?;
    Ok(connection)
}

/// Opens an existing, migrated file for reading.
///
/// # Errors
/// [`StoreError::Missing`] or [`StoreError::NotMigrated`].
pub async fn open_reader(path: &Path) -> Result<SqlitePool, StoreError> {
    if !path.is_file() {
        return Err(StoreError::Missing { path: path.to_owned() });
    }
    let options = SqliteConnectOptions::new().filename(path).read_only(true).busy_timeout(READER_BUSY_TIMEOUT);
    let pool = SqlitePoolOptions::new().max_connections(MAX_READERS).connect_with(options).await?;
    match migrate::missing(&pool).await {
        Ok(None) => Ok(pool),
        Ok(Some(error)) => Err(StoreError::NotMigrated { path: path.to_owned(), error }),
        Err(error) => Err(StoreError::NotMigrated { path: path.to_owned(), error: error.to_string() }),
    }
}
