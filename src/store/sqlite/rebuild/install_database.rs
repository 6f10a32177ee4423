//! Installs a shadow database: copies its pages into the live database in one transaction. Readers see all of the old
//! contents or all of the new.
//!
//! A process may die before the copy: the request is still open, and the next start installs the shadow. It may die
//! after the copy: the next start drops the tables that mark a shadow (`shadow_database::forget`), and marks
//! the request as done, as the copied pages record it.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};

use super::carry_over;
use super::shadow_database::{COPY_CACHE, count, forget};
use crate::store::error::StoreError;
use crate::store::sqlite::file::checkpoints::while_synced;
use crate::store::sqlite::file::database::{DatabaseFile, transact};
use crate::store::sqlite::file::disk::with_suffix;
use crate::store::sqlite::file::pragmas::{set_live_pragmas, set_pragmas};
use crate::store::sqlite::ledger::requests::{RequestOutcome, record_outcome};
use crate::store::sqlite::schema::RAW_TABLES;

/// The pause between attempts to copy while another process writes.
const BUSY_PAUSE: Duration = Duration::from_millis(10);

/// Copies into a shadow what the live database has and messages do not make. Also records in the shadow that the
/// request is done: nobody reads that before the shadow is installed.
///
/// # Errors
/// [`StoreError::WouldLose`] if the live database has more rows in a raw table than the shadow.
pub(in crate::store) fn carry_over(
    shadow: &DatabaseFile,
    live: &DatabaseFile,
    request_id: &str,
    in_place: &RequestOutcome,
) -> Result<(), StoreError> {
    ensure_no_fewer_rows(shadow.connection(), live.connection())?;
    shadow.attached(live.path(), "live", |connection| {
        transact(connection, |tx| {
            carry_over::all(tx)?;
            Ok(record_outcome(tx, request_id, "wanted", in_place)?)
        })
    })
}

/// Copies all pages of a shadow into the live database. [`end_pause`] must follow, whether this succeeds or not.
///
/// # Errors
/// Fails if the live database cannot be written. Nothing has changed then.
pub(in crate::store) fn install(live: &mut DatabaseFile, shadow: &DatabaseFile) -> Result<(), StoreError> {
    // No checkpoint during the pause: all copied pages go through the write-ahead log.
    set_pragmas(live.connection(), &[("wal_autocheckpoint", "0"), COPY_CACHE])?;
    live.connection().flush_prepared_statement_cache();
    // The log exists, since the request was written to it.
    let log = File::open(with_suffix(live.path(), "-wal")).ok();
    while_synced(log.as_ref().as_slice(), || copy(shadow.connection(), live.connection_mut()))?;
    Ok(forget(live.connection())?)
}

/// Lets the live database make checkpoints again, beside the writer.
///
/// # Errors
/// Fails if SQLite refuses its settings.
pub(in crate::store) fn end_pause(live: &DatabaseFile) -> Result<(), StoreError> {
    live.move_log();
    Ok(set_live_pragmas(live.connection())?)
}

/// Makes sure that the shadow has no fewer raw rows than the live database. They were compared row by row before, but
/// other programs may have written to the live database since.
fn ensure_no_fewer_rows(shadow: &Connection, live: &Connection) -> Result<(), StoreError> {
    for table in RAW_TABLES {
        let (here, there) = (count(shadow, table)?, count(live, table)?);
        if here < there {
            let why = format!("other programs have written {} rows meanwhile", there - here);
            return Err(StoreError::WouldLose { table, id: "?".into(), why });
        }
    }
    Ok(())
}

/// Makes a shadow a database of its own, with nothing in it to be published. If there is a live database, copies its
/// ledger and its gaps up to the shadow's position.
///
/// # Errors
/// Fails if a file cannot be written.
pub(in crate::store) fn make_standalone(shadow: &mut DatabaseFile, live: Option<&Path>) -> Result<(), StoreError> {
    if let Some(live) = live {
        shadow.attached(live, "live", |connection| transact(connection, |tx| Ok(carry_over::ledger(tx)?)))?;
    }
    // First, because the file must stay marked as a shadow until it is on the disk.
    shadow.make_durable()?;
    transact(shadow.connection(), |tx| Ok(carry_over::nothing_to_publish(tx)?))?;
    shadow.make_durable()
}

/// Copies all pages, in one transaction of the destination. Waits while another process writes.
fn copy(from: &Connection, to: &mut Connection) -> Result<(), StoreError> {
    let backup = Backup::new(from, to)?;
    loop {
        match backup.step(-1)? {
            StepResult::Done => return Ok(()),
            _ => std::thread::sleep(BUSY_PAUSE),
        }
    }
}
