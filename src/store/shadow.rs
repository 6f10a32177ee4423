//! The writer of a shadow database. It writes what a live database has accepted; then the shadow is installed.

use std::path::Path;
use std::sync::mpsc::sync_channel;
use std::time::Instant;

use super::commit::{CommitPart, Work};
use super::error::StoreError;
use super::receipt::{CommitReceipt, Counts, Ending, RawWrite, Timings, stored};
use super::sqlite::blocking::blocking;
use super::sqlite::file::disk::remove_database;
use super::sqlite::file::lock::Lock;
use super::sqlite::ledger::requests::{OpenRequest, RequestOutcome};
use super::sqlite::rebuild::accepted_log::{AcceptedLog, AcceptedParts, SequenceRange};
use super::sqlite::rebuild::install_database::{self, make_standalone};
use super::sqlite::rebuild::shadow_database::{self, BuiltFrom};
use super::writer::{Role, Writer};
use crate::analytics::Rules;
use crate::judge::Batch;
use crate::position::Position;

/// About how many late dead letters are written before their facts are applied.
const MAX_LATE: usize = 10_000;

/// Opens the shadow of a live database. The caller holds the lock of the shadow. Continues a shadow that was begun
/// from the same database, rules and source; otherwise begins again. Blocks.
///
/// # Errors
/// Fails if a file cannot be read or written.
pub fn open_shadow(lock: &Lock, live: &Path, rules: &Rules, built_from: BuiltFrom) -> Result<Writer, StoreError> {
    let log = AcceptedLog::open(live)?;
    let file = shadow_database::open_shadow(lock, live, rules, built_from)?;
    Writer::new(file, Role::Shadow(log), rules.clone())
}

/// Creates a database that is filled from the stream alone. Continues a file that was begun with the same rules and
/// criteria; `judged_by` identifies the criteria.
///
/// # Errors
/// Fails if the file cannot be written.
pub async fn create_shadow(lock: &Lock, rules: Rules, judged_by: &str) -> Result<Writer, StoreError> {
    let file = shadow_database::create_shadow(lock, rules.clone(), judged_by).await?;
    blocking(move || Writer::new(file, Role::FreshShadow, rules)).await
}

impl Writer {
    /// Returns the position of a shadow in an epoch of the live database. Begins the epoch if the shadow does not
    /// have it.
    ///
    /// # Errors
    /// Fails if the transaction fails.
    pub fn position_in(&mut self, epoch: &Position) -> Result<Position, StoreError> {
        if let Some(stands) = self.file.position_of(epoch.epoch)? {
            return Ok(stands);
        }
        let begun = Position { last_seq: epoch.first_seq - 1, last_recv_ns: 0, ..epoch.clone() };
        let tx = self.file.begin()?;
        tx.begin_epoch(&begun)?;
        tx.commit()?;
        Ok(begun)
    }

    /// Copies the stored rows that follow `after`, up to a sequence or as far as one transaction goes. A thread
    /// beside the writer's reads the rows. Returns the new position.
    ///
    /// # Errors
    /// Fails if the transaction fails, or if a row cannot be read; nothing changed then.
    pub fn copy_stored_rows(&mut self, after: &Position, last_seq: u64) -> Result<Position, StoreError> {
        let Role::Shadow(log) = &self.role else { return Err(StoreError::PositionMoved) };
        let live = log.path().to_owned();
        std::thread::scope(|scope| {
            let (rows, read) = sync_channel(1);
            let reader =
                scope.spawn(move || AcceptedLog::open(&live)?.read_stored_rows(after.clone(), last_seq, &rows));
            // The channel closes only when the reader ends. So a first part arrives, or the reader has ended with an
            // error.
            let committed = read
                .recv()
                .map(|first| self.commit_parts(CommitPart::Rows(first), || read.recv().ok().map(CommitPart::Rows)));
            drop(read);
            let end = reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            match committed {
                Ok(committed) => Ok(committed?.position().clone()),
                Err(_) => end.map(|()| after.clone()),
            }
        })
    }

    /// Brings a shadow up to date with its live database: copies the rows that were stored since.
    ///
    /// # Errors
    /// Fails if a file cannot be read or written.
    pub fn catch_up_from_rows(&mut self) -> Result<(), StoreError> {
        let epochs = self.role.accepted_log().map_or_else(|| Ok(Vec::new()), AcceptedLog::positions)?;
        for epoch in epochs {
            let mut stands = self.position_in(&epoch)?;
            loop {
                let is_there = stands.last_seq >= epoch.last_seq;
                stands = self.copy_stored_rows(&stands, epoch.last_seq.max(stands.last_seq))?;
                if is_there {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Creates the next index, view or trigger that a shadow has postponed. Returns whether there was one.
    ///
    /// # Errors
    /// Fails if the transaction fails; nothing changed then.
    pub fn make_postponed(&mut self) -> Result<bool, StoreError> {
        let tx = self.file.begin()?;
        let was_any = tx.make_postponed()?;
        tx.commit()?;
        self.file.move_log();
        Ok(was_any)
    }

    /// Turns a shadow into a database of its own, with nothing left to publish. If there is a live database, copies
    /// its ledger and its gaps up to the position of the shadow.
    ///
    /// # Errors
    /// Fails if a file cannot be written.
    pub fn make_standalone(&mut self, live: Option<&Path>) -> Result<(), StoreError> {
        make_standalone(&mut self.file, live)
    }

    /// Installs a shadow: brings it up to date, carries over what does not come from messages, and copies its pages
    /// into this database in one transaction. Readers see all of the old contents or all of the new.
    pub(super) fn install_database(&mut self, file: &Path, wanted: &OpenRequest) -> Result<RequestOutcome, StoreError> {
        let began = Instant::now();
        let lock = Lock::try_acquire(file, "rebuild (install)")?;
        let log = AcceptedLog::open(self.file.path())?;
        let shadow = shadow_database::open_complete_shadow(&lock, self.file.path(), &self.rules)?;
        let mut shadow = Self::new(shadow, Role::Shadow(log), (*self.rules).clone())?;
        shadow.catch_up_from_rows()?;
        tracing::debug!(took_ms = began.elapsed().as_millis(), "the shadow is up to date");
        let in_place = RequestOutcome { is_in_place: true, ..wanted.so_far.clone() };
        install_database::carry_over(&shadow.file, &self.file, &wanted.id, &in_place)?;
        tracing::debug!(took_ms = began.elapsed().as_millis(), "what does not come from messages is carried over");
        let installed = install_database::install(&mut self.file, &shadow.file)
            .and_then(|()| self.set_rules((*self.rules).clone()));
        if let Err(error) = install_database::end_pause(&self.file) {
            tracing::warn!("the settings of the database are those of an install until the next start: {error}");
        }
        installed?;
        drop(shadow);
        remove_database(file)?;
        let pause = began.elapsed();
        tracing::info!(pause_ms = pause.as_millis(), "the database was rebuilt: the shadow is installed");
        Ok(wanted.so_far.after(pause))
    }

    /// Writes dead letters that the live database applied late: after the shadow had passed their sequences.
    pub(super) fn write_late_retries(&self, work: &mut Work<'_>, log: &AcceptedLog) -> Result<(), StoreError> {
        let Some(passed) = work.tx.position()? else { return Ok(()) };
        let (mut counts, mut timings) = (Counts::default(), Timings::begin());
        loop {
            let (late, upto) = log.applied_after(work.retries_upto, &passed, MAX_LATE)?;
            if upto == work.retries_upto {
                return Ok(());
            }
            for (epoch, range) in late {
                work.tx.forget_passed(epoch, range.first_seq)?;
                self.write_rows(work, log, epoch, range, &mut counts, &mut timings)?;
            }
            self.apply(work, &mut timings)?;
            work.retries_upto = upto;
        }
    }

    /// Writes the accepted messages of a batch. For accepted messages that the batch lacks, or that today's limits
    /// reject, writes the stored rows. Returns how the messages of the batch ended.
    pub(super) fn write_accepted(
        &self,
        work: &mut Work<'_>,
        batch: &Batch,
        log: &AcceptedLog,
        not_accepted: &[u64],
        so_far: &mut CommitReceipt,
    ) -> Result<Vec<Ending>, StoreError> {
        let epoch = batch.after.epoch;
        let AcceptedParts { are_accepted, stand_ins } = AcceptedLog::accepted(batch, not_accepted);
        // Stored rows first: since they were stored, no earlier message with the same id was accepted.
        for range in stand_ins {
            self.write_rows(work, log, epoch, range, &mut so_far.counts, &mut so_far.timings)?;
        }
        let verdicts = batch.verdicts.iter().zip(are_accepted);
        let RawWrite { counts, endings } = work.tx.write_accepted(epoch, verdicts)?;
        so_far.counts += counts;
        so_far.timings.lap("raw");
        Ok(endings)
    }

    /// Writes the stored rows of a range of sequences.
    fn write_rows(
        &self,
        work: &mut Work<'_>,
        log: &AcceptedLog,
        epoch: i64,
        range: SequenceRange,
        counts: &mut Counts,
        timings: &mut Timings,
    ) -> Result<(), StoreError> {
        let mut chunks = 0;
        log.rows(epoch, range, |verdicts| {
            // A range may have any length. Apply its facts chunk by chunk, to bound the memory.
            chunks += 1;
            if chunks > 1 {
                self.apply(work, timings)?;
            }
            let RawWrite { counts: of_chunk, endings } = work.tx.write_messages(epoch, verdicts)?;
            *counts += of_chunk;
            timings.lap("raw");
            work.facts.add(&self.rules, stored(verdicts, &endings));
            timings.lap("facts");
            Ok(())
        })
    }
}
