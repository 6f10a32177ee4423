//! The SQLite file: the only folder with SQL.
//!
//! ```text
//! file      the lock, connections, migrations, the write-ahead log
//! ledger    positions, gaps, rejections, requests of other commands
//! raw       raw tables: the accepted messages, one row for each
//! derived   derived tables: the analytics of the raw rows
//! rebuild   shadow databases and shadow files: filled beside the live database, then installed
//! read      reads for commands, the page and the outboxes
//! write     the reads and writes of the writer's transaction
//! ```
//! One process writes, through one connection. Readers open connections of their own: with a write-ahead log they can
//! read while the writer writes. SQL stays plain: no rowid, no `changes()`, no `INSERT OR REPLACE`, no JSON or time
//! functions.

pub(in crate::store) mod blocking;
pub(in crate::store) mod derived;
pub(in crate::store) mod file;
pub(in crate::store) mod ledger;
pub(in crate::store) mod raw;
pub(in crate::store) mod read;
pub(in crate::store) mod rebuild;
pub(in crate::store) mod schema;
pub(in crate::store) mod values;
pub(in crate::store) mod write;
