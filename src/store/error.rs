//! What can go wrong with a database, and what to do then. No SQL library's type stands in it.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Who holds the lock of a database, as the lock file says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Process id; 0 where the file does not say.
    pub pid: u32,
    /// `run`, or the command.
    pub command: String,
    /// Since when.
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

/// What went wrong with the database.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process holds the lock.
    #[error("{path} is in use by {holder}: one process writes to a database; stop that one, or use another database")]
    Locked {
        /// The database.
        path: PathBuf,
        /// Who holds it.
        holder: Holder,
    },
    /// The lock file, or the database's folder, cannot be used.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The disk has no room for what is built aside.
    #[error("{path}: {free_bytes} bytes are free on its disk, and {needed_bytes} are needed; make room")]
    NoRoom {
        /// The file.
        path: PathBuf,
        /// What is free.
        free_bytes: u64,
        /// What must stay free, for the database itself.
        needed_bytes: u64,
    },
    /// There is no database yet.
    #[error("{path} does not exist; `streamgauge run` or `streamgauge migrate up` creates it")]
    Missing {
        /// The database.
        path: PathBuf,
    },
    /// The schema is not this program's.
    #[error("{path} is not migrated ({error}); run `streamgauge migrate up`, or name the database that you mean")]
    NotMigrated {
        /// The database.
        path: PathBuf,
        /// What was missing.
        error: String,
    },
    /// A migration failed.
    #[error("migration: {0}")]
    Migration(String),
    /// Somebody else wrote: the position is not where the batch began.
    #[error("the position in the database moved while a batch was made; reading goes on from there")]
    PositionMoved,
    /// The write lock was not free before the stop.
    #[error("another process holds SQLite's write lock; the batch was left in the stream")]
    Busy,
    /// A derived table holds what this program does not write there. It is made anew from the raw rows.
    #[error("{table}, key {key:?}: {why}; some other program has written to it")]
    Damaged {
        /// The internal table.
        table: &'static str,
        /// The key.
        key: String,
        /// What is wrong.
        why: String,
    },
    /// A derived table was damaged; from now on its group stays as it is until it is made anew.
    #[error("{damage}; {group} are made anew from raw rows")]
    Frozen {
        /// The group.
        group: &'static str,
        /// What was found.
        damage: String,
    },
    /// A database that is built aside would not hold a row that this one holds.
    #[error("{table}, id {id:?}: {why}; a rebuild would lose this row: delete it if it is of no use, or mend it")]
    WouldLose {
        /// The raw table.
        table: &'static str,
        /// The row's id.
        id: String,
        /// Why.
        why: String,
    },
    /// The database holds what comes of no message, and cannot be carried over.
    #[error("the database has {what}, which a rebuild cannot carry over; `rebuild --from database` leaves it as it is")]
    CannotCarryOver {
        /// What it has.
        what: String,
    },
    /// A file is not what is to take the place of the database.
    #[error("{path} cannot be put in: {why}; run `streamgauge rebuild` again")]
    NotBuilt {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// SQLite refused a statement.
    #[error("SQLite: {message}")]
    Sqlite {
        /// What the failure means.
        failure: SqliteFailure,
        /// What SQLite said.
        message: String,
    },
    /// The writer's thread has ended.
    #[error("the writer has stopped")]
    WriterStopped,
    /// The process ends, so nothing is read any more.
    #[error("the database is not read any more: the process ends")]
    Stopping,
}

/// What a failure of SQLite means for whoever goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SqliteFailure {
    /// The disk is full.
    DiskFull,
    /// The file holds what SQLite cannot read.
    Unreadable,
    /// Anything else.
    Other,
}

impl StoreError {
    /// Whether a file holds what nobody can read.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Damaged { .. } | Self::Sqlite { failure: SqliteFailure::Unreadable, .. })
    }

    /// Whether the disk is full, or nearly.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::NoRoom { .. } | Self::Sqlite { failure: SqliteFailure::DiskFull, .. })
    }
}
