//! The SQLite file: the only folder with SQL.
//!
//! One process writes (`lock`), through one connection on a thread of its own (`writer`), which alone begins and
//! commits; the table modules take its transaction: `raw` for what was sent, `derived` for what it adds up to. Readers open their own connections: WAL lets them read while the
//! writer writes. SQL stays plain: no rowid, no `changes()`, no `INSERT OR REPLACE`, no JSON or time functions.

mod aside;
mod board;
mod carry_over;
mod committed;
mod compare;
mod control;
mod derived;
mod digest;
mod disk;
mod funnels;
mod gaps;
mod history;
mod letters;
mod lock;
mod made_by;
mod migrate;
mod open;
mod outbox;
mod overview;
mod position;
mod raw;
mod rejections;
mod replica;
mod sample;
mod spent;
mod status;
mod thread;
mod writer;

use std::path::PathBuf;

pub use aside::{Aside, MIN_FREE_BYTES, Progress, STEP_MESSAGES, build_progress, remove as discard_build};
pub use board::{Board, Number, NumberKey, numbers_changed};
pub use committed::{Committed, Swapped};
pub use compare::{Compared, Comparison, Difference, How};
pub use control::{Asking, Outcome, Request};
pub use derived::Build;
pub use digest::{Digest, digest};
pub use disk::{discard_lock, ensure_room, remove_database, size_bytes};
pub use funnels::{ActorHits, FunnelReport, funnel_hits, funnel_reports};
pub use letters::{DeadLetterId, DeadLetterKey, Letter, Selection, letter_with_payload, letters};
pub use lock::{Holder, Lock};
pub use made_by::{differing_groups, undone_by};
pub use migrate::{Migration, Migrations, migration_status};
pub use open::{WRITER_PRAGMAS, open_reader, open_writer};
pub use outbox::{DeadLetter, Unpublished, dead_letter, unpublished};
pub use overview::{History, Overview, OverviewReader, Standing};
pub use position::{last_place_before, positions};
pub use raw::Counts;
pub use replica::{
    MadeOf, create_replica, ensure_nothing_lost, is_unfinished, open_replica, replica_path, verified_path,
};
pub use sample::sample;
pub use spent::Spent;
pub use status::{ClosedDeadLetters, GapRange, Rebuilding, Status, StreamStatus, closed_dead_letters, status};
pub use thread::WriterThread;
pub use writer::{MAX_BATCHES, Writer};

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
    Migrate(#[from] sqlx::migrate::MigrateError),
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
    /// SQLite, in a write.
    #[error("SQLite: {0}")]
    Write(#[from] rusqlite::Error),
    /// SQLite, in a read.
    #[error("SQLite: {0}")]
    Read(#[from] sqlx::Error),
    /// The writer's thread ended.
    #[error("the writer has stopped")]
    WriterStopped,
}

impl StoreError {
    /// Whether a file holds what nobody can read.
    pub fn is_damage(&self) -> bool {
        use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
        match self {
            Self::Damaged { .. } => true,
            Self::Write(error) => matches!(error.sqlite_error_code(), Some(DatabaseCorrupt | NotADatabase)),
            _ => false,
        }
    }

    /// Whether the disk is full, or nearly.
    pub fn is_full(&self) -> bool {
        match self {
            Self::NoRoom { .. } => true,
            Self::Write(error) => error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull),
            _ => false,
        }
    }
}

/// Runs SQLite's calls, which block, on a thread that may.
///
/// # Errors
/// Those of the calls; [`StoreError::WriterStopped`] where the runtime ends.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(StoreError::WriterStopped))
}

/// SQLite's integers are signed; JetStream never reaches 2^63.
fn to_sql(sequence: u64) -> i64 {
    i64::try_from(sequence).unwrap_or(i64::MAX)
}

fn from_sql(sequence: i64) -> u64 {
    u64::try_from(sequence).unwrap_or(0)
}
