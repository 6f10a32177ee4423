//! Errors of the database, and what to do about them. No type of a SQL library appears here.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The process that holds the lock of a database, as read from the lock file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Process id; 0 if the lock file does not name a process.
    pub pid: u32,
    /// `run`, or the name of another command.
    pub command: String,
    /// When the process took the lock.
    pub since: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.pid == 0 {
            return f.write_str("another process");
        }
        write!(f, "`streamgauge {}` (process {}, since {})", self.command, self.pid, self.since)
    }
}

/// Why the database could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process holds the lock.
    #[error(
        "{path} is in use by {holder}; only one process may write to a file: stop that process, or use another database"
    )]
    Locked {
        /// The database.
        path: PathBuf,
        /// The process that holds the lock.
        holder: Holder,
    },
    /// A file or a folder cannot be read, written or removed.
    #[error("{path}: {source}")]
    Io {
        /// The file or the folder.
        path: PathBuf,
        /// The cause, usually an error of the operating system.
        source: std::io::Error,
    },
    /// The disk has too little free space for a rebuild.
    #[error("{path}: {needed_bytes} bytes are needed, but only {free_bytes} are free on its disk; free some space")]
    NoRoom {
        /// The file.
        path: PathBuf,
        /// Bytes that are free.
        free_bytes: u64,
        /// Bytes that must be free, for the rebuild or for the live database.
        needed_bytes: u64,
    },
    /// There is no database yet.
    #[error("{path} does not exist; `streamgauge run` or `streamgauge migrate up` creates it")]
    Missing {
        /// The database.
        path: PathBuf,
    },
    /// The database lacks migrations of this program.
    #[error("{path} is not migrated ({error}); run `streamgauge migrate up`, or use another database")]
    NotMigrated {
        /// The database.
        path: PathBuf,
        /// What is missing.
        error: String,
    },
    /// A migration failed.
    #[error("migration: {0}")]
    Migration(String),
    /// Another program wrote: the position is no longer where the batch began.
    #[error("the position in the database moved while a batch was collected; reading continues from the new position")]
    PositionMoved,
    /// Another process held SQLite's write lock until this process had to stop.
    #[error("another process holds SQLite's write lock; the batch stays in the stream")]
    Busy,
    /// A derived table holds something that this program does not write there. The table is rebuilt from the raw
    /// rows.
    #[error("{table}, key {key:?}: {why}; another program has written to this table")]
    Damaged {
        /// The internal table.
        table: &'static str,
        /// The key of the damaged row.
        key: String,
        /// What is wrong.
        why: String,
    },
    /// A derived table was damaged. Its group is frozen until it is rebuilt.
    #[error("{damage}; {group}: this group is rebuilt from the raw rows")]
    Frozen {
        /// The kind of the group.
        group: &'static str,
        /// The damage that was found.
        damage: String,
    },
    /// A shadow database would lack a row that the live database holds.
    #[error(
        "{table}, id {id:?}: {why}; a rebuild would lose this row: delete the row if you do not need it, or correct it"
    )]
    WouldLose {
        /// The raw table.
        table: &'static str,
        /// The row's id.
        id: String,
        /// Why a rebuild would lose the row.
        why: String,
    },
    /// The database holds something that does not come from messages, and that a rebuild cannot carry over.
    #[error(
        "the database has {what}, which a rebuild cannot carry over; `rebuild --from database` leaves it unchanged"
    )]
    CannotCarryOver {
        /// What cannot be carried over.
        what: String,
    },
    /// A file is not a complete shadow of this database.
    #[error("{path} cannot be installed: {why}; run `streamgauge rebuild` again")]
    NotBuilt {
        /// The file.
        path: PathBuf,
        /// Why the file cannot be installed.
        why: String,
    },
    /// SQLite refused a statement.
    #[error("SQLite: {message}")]
    Sqlite {
        /// What the failure means.
        failure: SqliteFailure,
        /// SQLite's own message.
        message: String,
    },
    /// The writer's thread has ended.
    #[error("the writer has stopped")]
    WriterStopped,
    /// The process is stopping, so it no longer reads the database.
    #[error("the process is stopping, so it no longer reads the database")]
    Stopping,
}

/// The kind of an SQLite failure. Callers decide by it how to continue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SqliteFailure {
    /// The disk is full.
    DiskFull,
    /// SQLite cannot read the file: it is corrupt, or not a database.
    Unreadable,
    /// Any other failure.
    Other,
}

impl StoreError {
    /// Returns whether the error means that the contents of a file are damaged.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Damaged { .. } | Self::Sqlite { failure: SqliteFailure::Unreadable, .. })
    }

    /// Returns whether the disk is full or nearly full.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::NoRoom { .. } | Self::Sqlite { failure: SqliteFailure::DiskFull, .. })
    }
}
