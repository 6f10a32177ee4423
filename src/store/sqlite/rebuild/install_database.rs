//! Installs a shadow database in the place of the live one: copies its pages in one transaction. Readers see all of the
//! old or all of the new.

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

/// Between tries to begin while another process writes.
const BUSY_PAUSE: Duration = Duration::from_millis(10);

/// Carries over into a shadow what its live database has beside what messages make, and records in it how the request is
/// answered once it is in place.
///
/// # Errors
/// [`StoreError::WouldLose`] where the live database has raw rows that the shadow does not have.
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

/// Copies all pages of a shadow into the live database.
///
/// # Errors
/// Where it cannot be written; then nothing changed.
pub(in crate::store) fn install(live: &mut DatabaseFile, shadow: &DatabaseFile) -> Result<(), StoreError> {
    // No checkpoint in the pause: all that is copied goes through the write-ahead log.
    set_pragmas(live.connection(), &[("wal_autocheckpoint", "0"), COPY_CACHE])?;
    let installed = copy_pages(live, shadow);
    live.move_log();
    set_live_pragmas(live.connection())?;
    installed
}

fn copy_pages(live: &mut DatabaseFile, shadow: &DatabaseFile) -> Result<(), StoreError> {
    live.connection().flush_prepared_statement_cache();
    // There is one: what was asked for stands in it.
    let log = File::open(with_suffix(live.path(), "-wal")).ok();
    while_synced(log.as_ref().as_slice(), || copy(shadow.connection(), live.connection_mut()))?;
    Ok(forget(live.connection())?)
}

/// The raw rows of the live database were compared with those of the shadow one by one. Since then others may have written
/// to it.
fn ensure_no_fewer_rows(shadow: &Connection, live: &Connection) -> Result<(), StoreError> {
    for table in RAW_TABLES {
        let (here, there) = (count(shadow, table)?, count(live, table)?);
        if here < there {
            let why = format!("{} rows were written by others meanwhile", there - here);
            return Err(StoreError::WouldLose { table, id: "?".into(), why });
        }
    }
    Ok(())
}

/// Makes a shadow a database of its own: with the ledger and the gaps of the live one, as far as it has come, where there
/// is one, and with nothing in it to be published.
///
/// # Errors
/// Where a file cannot be written.
pub(in crate::store) fn make_standalone(shadow: &mut DatabaseFile, live: Option<&Path>) -> Result<(), StoreError> {
    if let Some(live) = live {
        shadow.attached(live, "live", |connection| transact(connection, |tx| Ok(carry_over::ledger(tx)?)))?;
    }
    // First: until it is on the disk, it stays a shadow.
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
