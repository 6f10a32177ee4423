//! A database that was built aside, made whole, and put in the place of this one.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};
use rusqlite::config::DbConfig;

use super::Writer;
use super::checkpoints::{Durability, open_kept, while_synced};
use crate::position::Position;
use crate::store::control::{self, Outcome, Wanted};
use crate::store::disk::{attachable, folder_of, remove_database, with_suffix};
use crate::store::open::{set_live_pragmas, set_pragmas};
use crate::store::replica::{self, RAW_TABLES};
use crate::store::{Lock, StoreError, carry_over, position};

/// Between tries to begin while another process writes.
const BUSY_PAUSE: Duration = Duration::from_millis(10);

impl Writer {
    /// Makes one thing more that was postponed, such as an index. Returns whether there was any.
    ///
    /// # Errors
    /// Where the transaction fails; then nothing changed.
    pub fn make_postponed(&mut self) -> Result<bool, StoreError> {
        let tx = self.begin()?;
        let was_any = replica::make_postponed(&tx)?;
        tx.commit()?;
        self.move_log();
        Ok(was_any)
    }

    /// Brings a database that is built aside up to a database, from the stored rows: those that came since.
    ///
    /// # Errors
    /// Where a file cannot be read or written.
    pub fn follow_rows(&mut self) -> Result<(), StoreError> {
        let epochs = self.history.as_ref().map_or_else(|| Ok(Vec::new()), |history| history.positions())?;
        for epoch in epochs {
            let mut stands = self.position_in(&epoch)?;
            loop {
                let is_there = stands.last_seq >= epoch.last_seq;
                stands = self.stand_in(&stands, epoch.last_seq.max(stands.last_seq))?;
                if is_there {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Where a replay stands in an epoch; begins it.
    ///
    /// # Errors
    /// Where the transaction fails.
    pub fn position_in(&mut self, epoch: &Position) -> Result<Position, StoreError> {
        match position::of_epoch(&self.connection, epoch.epoch)? {
            Some(stands) => Ok(stands),
            None => self.adopt_epoch(epoch),
        }
    }

    /// Makes a database that was built aside a file of its own: with the ledger and the gaps of the live one, as far as
    /// it has come, where there is one, and with nothing in it to be published.
    ///
    /// # Errors
    /// Where a file cannot be written.
    pub fn become_a_file(&mut self, live: Option<&Path>) -> Result<(), StoreError> {
        if let Some(live) = live {
            self.attached(live, |built| super::transact(built, |tx| Ok(carry_over::ledger(tx)?)))?;
        }
        // First: until it is on the disk, it stays one that is built aside.
        self.make_durable()?;
        super::transact(&self.connection, |tx| Ok(carry_over::nothing_to_publish(tx)?))?;
        self.make_durable()
    }

    /// What was written is on the disk, and in the file itself.
    ///
    /// # Errors
    /// Where it cannot be written, or somebody reads it: then a part of it stays in its log.
    pub fn make_durable(&mut self) -> Result<(), StoreError> {
        // It would be in the way of the last checkpoint.
        self.checkpoints = None;
        self.durability = Durability::Durable;
        self.connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
        self.connection.pragma_update(None, "synchronous", "FULL")?;
        let is_busy: bool = self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
        let error = |source| StoreError::Io { path: self.database.clone(), source };
        if is_busy {
            let why = "another program reads it, so a part of it stays in the -wal file beside it; try again";
            return Err(error(std::io::Error::other(why)));
        }
        open_kept(&self.database).and_then(|file| file.sync_all()).map_err(error)?;
        File::open(folder_of(&self.database)).and_then(|folder| folder.sync_all()).map_err(error)
    }

    /// Does something while the live database is attached as `live`.
    fn attached<T>(
        &mut self,
        live: &Path,
        work: impl FnOnce(&Connection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.connection.execute("ATTACH ?1 AS live", [attachable(live)?])?;
        let result = work(&self.connection);
        self.connection.execute("DETACH live", [])?;
        result
    }

    /// Puts a database that was built aside in the place of this one: brings it up to date, carries over what is not
    /// derived from messages, and copies its pages in one transaction. Readers see all of the one or all of the other.
    pub(super) fn replace(&mut self, file: &Path, wanted: &Wanted) -> Result<Outcome, StoreError> {
        let began = Instant::now();
        let lock = Lock::try_acquire(file, "rebuild, put in")?;
        let mut built = replica::open_built(&lock, &self.database, &self.rules)?;
        built.follow_rows()?;
        tracing::debug!(took_ms = began.elapsed().as_millis(), "what came since is in what was built aside");
        built.ensure_no_fewer_rows(&self.connection)?;
        built.attached(&self.database.clone(), |connection| {
            super::transact(connection, |tx| {
                carry_over::all(tx)?;
                let in_place = Outcome { is_in_place: true, ..wanted.so_far.clone() };
                Ok(control::record(tx, &wanted.id, "wanted", &in_place)?)
            })
        })?;
        tracing::debug!(took_ms = began.elapsed().as_millis(), "what is not derived is carried over");
        // No checkpoint in the pause: all that is copied goes through the write-ahead log.
        set_pragmas(&self.connection, &[("wal_autocheckpoint", "0"), replica::COPY_CACHE])?;
        let is_in = self.put_in(&built);
        self.move_log();
        set_live_pragmas(&self.connection)?;
        is_in?;
        drop(built);
        remove_database(file)?;
        let pause = began.elapsed();
        tracing::info!(pause_ms = pause.as_millis(), "the database was rebuilt: what was built aside is in its place");
        Ok(wanted.so_far.after(pause))
    }

    fn put_in(&mut self, built: &Self) -> Result<(), StoreError> {
        self.connection.flush_prepared_statement_cache();
        // There is one: what was asked for stands in it.
        let log = File::open(with_suffix(&self.database, "-wal")).ok();
        while_synced(log.as_ref().as_slice(), || copy(&built.connection, &mut self.connection))?;
        replica::forget(&self.connection)?;
        self.set_rules((*self.rules).clone())
    }

    /// The raw rows of the live database were compared with these one by one; since then it was written to by others.
    fn ensure_no_fewer_rows(&self, live: &Connection) -> Result<(), StoreError> {
        for table in RAW_TABLES {
            let (here, there) = (replica::count(&self.connection, table)?, replica::count(live, table)?);
            if here < there {
                let why = format!("{} rows were written by others meanwhile", there - here);
                return Err(StoreError::WouldLose { table, id: "?".into(), why });
            }
        }
        Ok(())
    }
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
