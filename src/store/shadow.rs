//! The writer of a shadow database: it writes what a live database has accepted, and is installed in its place.

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

/// Dead letters that were applied late, before their facts are applied.
const MAX_LATE: usize = 10_000;

/// Opens the shadow of a live database, whose lock the caller has. Goes on with it where it was begun for the same end.
/// Blocks.
///
/// # Errors
/// Where a file cannot be read or written.
pub fn open_shadow(lock: &Lock, live: &Path, rules: &Rules, built_from: BuiltFrom) -> Result<Writer, StoreError> {
    let log = AcceptedLog::open(live)?;
    let file = shadow_database::open_shadow(lock, live, rules, built_from)?;
    Writer::new(file, Role::Shadow(log), rules.clone())
}

/// Makes a database where there was none, to be filled from the stream alone. Goes on with it where it was begun and
/// judged by the same criteria, which `judged_by` tells.
///
/// # Errors
/// Where the file cannot be written.
pub async fn create_shadow(lock: &Lock, rules: Rules, judged_by: &str) -> Result<Writer, StoreError> {
    let file = shadow_database::create_shadow(lock, rules.clone(), judged_by).await?;
    blocking(move || Writer::new(file, Role::FreshShadow, rules)).await
}

impl Writer {
    /// Where a shadow stands in an epoch of the live database; begins it.
    ///
    /// # Errors
    /// Where the transaction fails.
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

    /// Goes on from `after` to a sequence, or as far as one transaction goes, with the stored rows alone. They are read on
    /// a thread beside the writer's.
    ///
    /// # Errors
    /// Where the transaction fails, or a row cannot be read; then nothing changed.
    pub fn copy_stored_rows(&mut self, after: &Position, last_seq: u64) -> Result<Position, StoreError> {
        let Role::Shadow(log) = &self.role else { return Err(StoreError::PositionMoved) };
        let live = log.path().to_owned();
        std::thread::scope(|scope| {
            let (rows, read) = sync_channel(1);
            let reader =
                scope.spawn(move || AcceptedLog::open(&live)?.read_stored_rows(after.clone(), last_seq, &rows));
            // None but the reader's end closes it, so the first is there, or an error.
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

    /// Brings a shadow up to its live database, from the stored rows: those that came since.
    ///
    /// # Errors
    /// Where a file cannot be read or written.
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

    /// Makes the next index, view or trigger that a shadow has postponed. Returns whether there was any.
    ///
    /// # Errors
    /// Where the transaction fails; then nothing changed.
    pub fn make_postponed(&mut self) -> Result<bool, StoreError> {
        let tx = self.file.begin()?;
        let was_any = tx.make_postponed()?;
        tx.commit()?;
        self.file.move_log();
        Ok(was_any)
    }

    /// Makes a shadow a database of its own: with the ledger and the gaps of the live one, as far as it has come, where
    /// there is one, and with nothing in it to be published.
    ///
    /// # Errors
    /// Where a file cannot be written.
    pub fn make_standalone(&mut self, live: Option<&Path>) -> Result<(), StoreError> {
        make_standalone(&mut self.file, live)
    }

    /// Installs a shadow in the place of this database: brings it up to date, carries over what messages do not make, and
    /// copies its pages in one transaction. Readers see all of the old or all of the new.
    pub(super) fn install_database(&mut self, file: &Path, wanted: &OpenRequest) -> Result<RequestOutcome, StoreError> {
        let began = Instant::now();
        let lock = Lock::try_acquire(file, "rebuild, put in")?;
        let log = AcceptedLog::open(self.file.path())?;
        let shadow = shadow_database::open_complete_shadow(&lock, self.file.path(), &self.rules)?;
        let mut shadow = Self::new(shadow, Role::Shadow(log), (*self.rules).clone())?;
        shadow.catch_up_from_rows()?;
        tracing::debug!(took_ms = began.elapsed().as_millis(), "the shadow is up to date");
        let in_place = RequestOutcome { is_in_place: true, ..wanted.so_far.clone() };
        install_database::carry_over(&shadow.file, &self.file, &wanted.id, &in_place)?;
        tracing::debug!(took_ms = began.elapsed().as_millis(), "what messages do not make is carried over");
        install_database::install(&mut self.file, &shadow.file)?;
        self.set_rules((*self.rules).clone())?;
        drop(shadow);
        remove_database(file)?;
        let pause = began.elapsed();
        tracing::info!(pause_ms = pause.as_millis(), "the database is rebuilt: the shadow is installed in its place");
        Ok(wanted.so_far.after(pause))
    }

    /// Writes dead letters that were applied late: after messages that the shadow has passed already.
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

    /// Writes the messages of a batch that were accepted, and the stored rows of those that are missing in it. Returns how
    /// messages ended.
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
        // First: they were stored, so no other message was accepted with their ids before them.
        for range in stand_ins {
            self.write_rows(work, log, epoch, range, &mut so_far.counts, &mut so_far.timings)?;
        }
        let verdicts = batch.verdicts.iter().zip(are_accepted);
        let RawWrite { counts, endings } = work.tx.write_accepted(epoch, verdicts)?;
        so_far.counts += counts;
        so_far.timings.lap("raw");
        Ok(endings)
    }

    /// Writes stored rows of sequences.
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
            // What is held of a range that may be of any length is bounded.
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
