//! The SQLite file: the only folder with SQL.
//!
//! ```text
//! file      who may write to it; connections, migrations, the write-ahead log
//! ledger    positions, gaps, rejections, requests of other commands
//! raw       what was sent, a row a message
//! derived   what it adds up to
//! rebuild   shadows, filled beside the live database and installed in its place
//! read      what commands, the page and the outboxes read
//! write     what a transaction of the writer may do
//! ```
//! One process writes, through one connection. Readers open their own: WAL lets them read while the writer writes. SQL
//! stays plain: no rowid, no `changes()`, no `INSERT OR REPLACE`, no JSON or time functions.

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
