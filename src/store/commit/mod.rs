//! The one transaction that every batch goes through: all of its changes, or none.
//!
//! ```text
//! begin      begins a transaction, and in a shadow a snapshot of the accepted log
//! position   moves the position by compare-and-set: fails if another program wrote since the batch began
//! raw        writes raw rows, the ledger of rejections and gaps; with a backlog, of several batches
//! facts      applies the rules to stored messages; on a second thread if there are many
//! derived    applies the facts to the tables of each group, then evaluates the numbers of widgets
//! commit     commits, sends the commit notice, and moves the write-ahead log
//! ```

mod facts_thread;

use std::collections::BTreeSet;

use self::facts_thread::{FactsThread, Part};
use super::error::StoreError;
use super::receipt::{CommitReceipt, Counts, Ending, RawWrite, Timings};
use super::sqlite::rebuild::accepted_log::AcceptedLog;
use super::sqlite::write::{Tx, groups_with};
use super::writer::{Role, Writer, current_groups};
use crate::analytics::dashboard::Touched;
use crate::analytics::{Facts, GroupName, GroupSet};
use crate::judge::Batch;

pub(super) use self::facts_thread::Part as CommitPart;

/// How many batches may share a transaction.
pub const MAX_BATCHES: usize = 5;
/// How many batches of a replay may share a transaction: nobody waits for a replay.
const MAX_REPLAYED_BATCHES: usize = 25;
/// A transaction takes no further batch once its facts have more keys than this: facts are held in memory.
const MAX_KEYS: usize = 150_000;

const _: () = assert!(MAX_BATCHES <= MAX_REPLAYED_BATCHES, "a replay has larger transactions");

/// What one transaction has to write.
pub(super) struct Work<'tx> {
    pub(super) tx: &'tx Tx<'tx>,
    pub(super) groups: GroupSet,
    pub(super) facts: Facts,
    pub(super) touched: Touched,
    /// In a shadow: the last transaction of retried dead letters that the shadow includes.
    pub(super) retries_upto: i64,
}

impl Writer {
    /// Writes a batch, all or nothing: raw rows, derived tables, the ledger of rejections, gaps and the position.
    ///
    /// # Errors
    /// The same as [`Writer::commit_all`].
    pub fn commit(&mut self, batch: &Batch) -> Result<CommitReceipt, StoreError> {
        self.commit_all(batch, || None)
    }

    /// Writes a batch, and in the same transaction the batches that `next` returns: [`MAX_BATCHES`] in all at most,
    /// more in a replay. The state of a key is read and written once for all these batches.
    ///
    /// # Errors
    /// [`StoreError::PositionMoved`] if another program wrote. [`StoreError::Frozen`] if a derived table was damaged;
    /// its groups are frozen from now on. In every case nothing else changed.
    pub fn commit_all(
        &mut self,
        first: &Batch,
        mut next: impl FnMut() -> Option<Batch>,
    ) -> Result<CommitReceipt, StoreError> {
        self.commit_parts(Part::Borrowed(first), || next().map(Part::Batch))
    }

    /// Writes parts in one transaction. If a table is damaged, writes nothing and freezes the groups of that table.
    pub(super) fn commit_parts<'a>(
        &mut self,
        first: Part<'a>,
        next: impl FnMut() -> Option<Part<'a>>,
    ) -> Result<CommitReceipt, StoreError> {
        self.unless_damaged(|writer| writer.try_commit(first, next))
    }

    /// Does work that may find a damaged table. In that case freezes the groups of that table, and changes nothing
    /// else.
    pub(super) fn unless_damaged<T>(
        &mut self,
        work: impl FnOnce(&Self) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        match work(self) {
            Err(StoreError::Damaged { table, key, why }) => {
                let damage = StoreError::Damaged { table, key, why };
                let groups = groups_with(&self.rules, table);
                let Some(group) = groups.difference(&self.groups_in_rebuild()).next().map(GroupName::kind) else {
                    return Err(damage);
                };
                self.freeze(groups)?;
                Err(StoreError::Frozen { group, damage: damage.to_string() })
            }
            result => result,
        }
    }

    fn try_commit<'a>(
        &self,
        first: Part<'a>,
        mut next: impl FnMut() -> Option<Part<'a>>,
    ) -> Result<CommitReceipt, StoreError> {
        let log = self.role.accepted_log();
        let snapshot = log.map(AcceptedLog::snapshot).transpose()?;
        let tx = self.file.begin()?;
        let mut so_far = CommitReceipt { position: first.end(), counts: Counts::default(), timings: Timings::begin() };
        let mut work = self.begin_work(&tx)?;
        std::thread::scope(|scope| {
            let mut facts = FactsThread::start(scope, &self.rules, first.verdicts().len());
            let endings = self.write(&mut work, &first, &mut so_far)?;
            facts.add(first, endings);
            for _ in 1..self.role.max_parts() {
                if facts.keys() > MAX_KEYS {
                    break;
                }
                let Some(part) = next() else { break };
                so_far.timings.skip();
                let endings = self.write(&mut work, &part, &mut so_far)?;
                facts.add(part, endings);
            }
            so_far.timings.skip();
            // These facts come from stored rows that stand in for messages.
            if work.facts.watermark.is_some() {
                self.apply(&mut work, &mut so_far.timings)?;
            }
            work.facts = facts.finish();
            so_far.timings.lap("facts");
            Ok::<_, StoreError>(())
        })?;
        // While the snapshot lasts, the live database's write-ahead log cannot start over.
        drop(snapshot);
        let CommitReceipt { position, counts, mut timings } = so_far;
        let retries_upto = work.retries_upto;
        let has_shown = self.derive(work, &mut timings)?;
        tx.add_counts(position.epoch, counts.stored(), counts.duplicates)?;
        tx.commit()?;
        timings.lap("commit");
        if let Some(log) = log {
            log.set_retries_upto(retries_upto);
        }
        self.notify(has_shown);
        self.file.move_log();
        timings.lap("checkpoint");
        Ok(CommitReceipt { position, counts, timings })
    }

    /// Begins the work of a transaction. In a shadow of a live database, first writes the dead letters that were
    /// applied late.
    pub(super) fn begin_work<'tx>(&self, tx: &'tx Tx<'tx>) -> Result<Work<'tx>, StoreError> {
        let groups = current_groups(&self.rules, self.rebuild.borrow().as_ref());
        let t_before = if groups.contains(&GroupName::Sessions) { tx.watermark()? } else { None };
        let touched = Touched { series: BTreeSet::new(), t_before };
        let log = self.role.accepted_log();
        let retries_upto = log.map_or(0, AcceptedLog::retries_upto);
        let mut work = Work { tx, groups, facts: Facts::default(), touched, retries_upto };
        if let Some(log) = log {
            self.write_late_retries(&mut work, log)?;
        }
        Ok(work)
    }

    /// Writes a part. Returns how each of its messages ended.
    fn write(
        &self,
        work: &mut Work<'_>,
        part: &Part<'_>,
        so_far: &mut CommitReceipt,
    ) -> Result<Vec<Ending>, StoreError> {
        so_far.position = part.end();
        // Move the position first: if that fails, nothing else needs to be tried.
        work.tx.advance(part.after(), &so_far.position)?;
        let epoch = part.after().epoch;
        if let Some(log) = self.role.accepted_log() {
            let not_accepted = log.not_accepted(part.after(), so_far.position.last_seq)?;
            work.tx.record_passed(epoch, &not_accepted)?;
            if let Some(batch) = part.as_batch() {
                return self.write_accepted(work, batch, log, &not_accepted, so_far);
            }
        }
        let RawWrite { counts, endings } = work.tx.write_messages(epoch, part.verdicts())?;
        if let Some(batch) = part.as_batch() {
            work.tx.insert_gaps(epoch, &batch.gaps)?;
            so_far.counts.missing += batch.missing();
        }
        so_far.counts += counts;
        so_far.timings.lap("raw");
        Ok(endings)
    }

    /// Updates the derived tables with the messages that were written. Returns whether a number of a widget changed.
    pub(super) fn derive(&self, mut work: Work<'_>, timings: &mut Timings) -> Result<bool, StoreError> {
        self.apply(&mut work, timings)?;
        let has_shown = work.tx.evaluate(&self.rules, &work.groups, &work.touched)?;
        timings.lap("dashboards");
        Ok(has_shown)
    }

    /// Applies the facts so far. A call before the end of a transaction serves only to bound its memory.
    pub(super) fn apply(&self, work: &mut Work<'_>, timings: &mut Timings) -> Result<(), StoreError> {
        let facts = std::mem::take(&mut work.facts);
        let series = work.tx.apply(&self.rules, &work.groups, facts, work.touched.t_before, timings)?;
        work.touched.series.extend(series);
        Ok(())
    }
}

impl Role {
    pub(super) fn accepted_log(&self) -> Option<&AcceptedLog> {
        match self {
            Self::Shadow(log) => Some(log),
            Self::Live | Self::FreshShadow => None,
        }
    }

    fn max_parts(&self) -> usize {
        match self {
            Self::Shadow(_) => MAX_REPLAYED_BATCHES,
            Self::Live | Self::FreshShadow => MAX_BATCHES,
        }
    }
}
