//! Rebuilds: a shadow is filled beside the live database, then installed.
//!
//! ```text
//! groups of derived tables   frozen -> shadow_groups (row_reader) -> install_group
//! the whole database         accepted_log -> shadow_database -> carry_over -> install_database
//! verify                     accepted_log -> shadow_database -> compare; or a sample
//! ```

pub(in crate::store) mod accepted_log;
mod carry_over;
pub(in crate::store) mod compare;
pub(in crate::store) mod frozen;
pub(in crate::store) mod install_database;
pub(in crate::store) mod install_group;
pub(in crate::store) mod progress;
mod row_reader;
pub(in crate::store) mod sample;
pub(in crate::store) mod shadow_database;
pub(in crate::store) mod shadow_groups;
