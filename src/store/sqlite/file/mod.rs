//! The database file: its lock, its connections, its migrations, its write-ahead log, and the disk below.

pub(in crate::store) mod checkpoints;
pub(in crate::store) mod database;
pub(in crate::store) mod disk;
pub(in crate::store) mod former_files;
pub(in crate::store) mod lock;
pub(in crate::store) mod migrate;
pub(in crate::store) mod pragmas;
