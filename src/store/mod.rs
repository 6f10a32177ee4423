//! The store: one database. One process writes to it; any process may read it at the same time.
//!
//! ```text
//! WriterThread   runs the writer on a thread of its own, because SQLite's calls block
//! Writer         rules and epochs (writer), batches (commit), requests of commands (requests),
//!                rebuilds of groups (group_rebuilds), shadow databases (shadow)
//! Asker          sends the request of a command to the process that holds the database
//! Tx             the reads and writes of one transaction (sqlite::write)
//! Reader         reads for commands, the page and the outboxes (sqlite::read)
//! ```
//! Only the writer begins and commits transactions; table modules receive its transaction. Above `sqlite`, no
//! signature names a type of a SQL library.

mod ask;
mod commit;
mod error;
mod group_rebuilds;
mod notice;
mod receipt;
mod requests;
mod shadow;
mod sqlite;
mod thread;
mod writer;

pub use ask::{AskError, Asker, ensure_nothing_undone};
pub use commit::MAX_BATCHES;
pub use error::{Holder, SqliteFailure, StoreError};
pub use notice::{CommitNotice, Number, NumberKey};
pub use receipt::{CommitReceipt, Counts, InstallReceipt, Timings};
pub use shadow::{create_shadow, open_shadow};
pub use sqlite::blocking::blocking;
pub use sqlite::file::disk::{ensure_room, remove_database, size_bytes};
pub use sqlite::file::lock::Lock;
pub use sqlite::file::migrate::{Migration, Migrations, migration_status};
pub use sqlite::file::pragmas::WRITER_PRAGMAS;
pub use sqlite::ledger::rejections::{
    ClosedDeadLetters, DeadLetter, DeadLetterId, DeadLetterKey, DeadLetterMessage, Selection, Unpublished,
};
pub use sqlite::ledger::requests::{PendingRequest, Request, RequestOutcome};
pub use sqlite::read::{
    ActorHits, Digest, FunnelReport, GapRange, HourValue, HourlyValues, Overview, Reader, Rebuilding, ShownNumber,
    Status, StreamStatus,
};
pub use sqlite::rebuild::compare::{Compared, Comparison, Difference, How, Moment};
pub use sqlite::rebuild::frozen::GroupRebuild;
pub use sqlite::rebuild::progress::RebuildProgress;
pub use sqlite::rebuild::shadow_database::{BuiltFrom, ensure_nothing_lost, is_unfinished, shadow_path, verify_path};
pub use sqlite::rebuild::shadow_groups::{
    MIN_FREE_BYTES, STEP_MESSAGES, ShadowGroups, remove as discard_shadow_groups,
};
pub use thread::WriterThread;
pub use writer::{Writer, open_writer};
