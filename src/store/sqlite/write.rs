//! The reads and writes of the writer's transaction. No SQL type appears in a signature.

use std::collections::BTreeSet;

use rusqlite::Transaction;

use super::derived::{self, groups_of_table, tables_of};
use super::file::database::DatabaseFile;
use super::ledger::rejections::{self, DeadLetterKey, Selection};
use super::ledger::requests::{self, OpenRequest, RequestOutcome};
use super::ledger::{gaps, positions};
use super::raw;
use super::rebuild::frozen::{self, GroupRebuild};
use super::rebuild::{install_group, shadow_database};
use crate::analytics::dashboard::Touched;
use crate::analytics::{Facts, GroupSet, Rules};
use crate::judge::{Delivery, Verdict};
use crate::model::Timestamp;
use crate::position::{Gap, Position};
use crate::store::error::StoreError;
use crate::store::receipt::{Ending, RawWrite, Timings};

/// A transaction of the one writer. If it is dropped without [`Tx::commit`], nothing changes.
pub(in crate::store) struct Tx<'a>(Transaction<'a>);

impl DatabaseFile {
    /// Begins a transaction. Waits while another process writes.
    pub(in crate::store) fn begin(&self) -> Result<Tx<'_>, StoreError> {
        self.begin_transaction().map(Tx)
    }

    /// Returns the position in the latest epoch.
    pub(in crate::store) fn position(&self) -> Result<Option<Position>, StoreError> {
        Ok(positions::last(self.connection())?)
    }

    /// Returns how far an epoch was read.
    pub(in crate::store) fn position_of(&self, epoch: i64) -> Result<Option<Position>, StoreError> {
        Ok(positions::of_epoch(self.connection(), epoch)?)
    }

    /// Returns the requests that are not done yet, oldest first.
    pub(in crate::store) fn open_requests(&self) -> Result<Vec<OpenRequest>, StoreError> {
        Ok(requests::open_requests(self.connection())?)
    }

    /// Returns the next dead letters, of one epoch, that a request wants judged again.
    pub(in crate::store) fn marked_for_retry(
        &self,
        request_id: &str,
        max_rows: usize,
        max_bytes: usize,
    ) -> Result<Option<(i64, Vec<Delivery>)>, StoreError> {
        Ok(rejections::marked_for_retry(self.connection(), request_id, max_rows, max_bytes)?)
    }

    /// Removes what marks the file as a shadow, so that it is a database like any other. Does nothing if the file is
    /// not a shadow.
    pub(in crate::store) fn forget_shadow(&self) -> Result<(), StoreError> {
        Ok(shadow_database::forget(self.connection())?)
    }
}

/// Positions and the ledger.
impl Tx<'_> {
    pub(in crate::store) fn commit(self) -> Result<(), StoreError> {
        Ok(self.0.commit()?)
    }

    pub(in crate::store) fn position(&self) -> Result<Option<Position>, StoreError> {
        Ok(positions::last(&self.0)?)
    }

    pub(in crate::store) fn begin_epoch(&self, begun: &Position) -> Result<(), StoreError> {
        Ok(positions::insert(&self.0, begun)?)
    }

    /// Moves the position from `after` to `end`. Fails with [`StoreError::PositionMoved`] if the position is not at
    /// `after`.
    pub(in crate::store) fn advance(&self, after: &Position, end: &Position) -> Result<(), StoreError> {
        positions::advance(&self.0, after, end)
    }

    pub(in crate::store) fn add_counts(&self, epoch: i64, stored: u64, duplicates: u64) -> Result<(), StoreError> {
        Ok(positions::add_counts(&self.0, epoch, stored, duplicates)?)
    }

    pub(in crate::store) fn insert_gaps(&self, epoch: i64, gaps: &[Gap]) -> Result<(), StoreError> {
        Ok(gaps::insert(&self.0, epoch, gaps)?)
    }

    pub(in crate::store) fn mark_published(&self, keys: &[DeadLetterKey]) -> Result<(), StoreError> {
        Ok(rejections::mark_published(&self.0, keys)?)
    }

    pub(in crate::store) fn mark_for_retry(&self, request_id: &str, which: &Selection) -> Result<usize, StoreError> {
        Ok(rejections::mark_for_retry(&self.0, request_id, which)?)
    }

    pub(in crate::store) fn record_retry(&self, key: DeadLetterKey, ending: Ending, at: i64) -> Result<(), StoreError> {
        Ok(rejections::record_retry(&self.0, key, ending, at)?)
    }

    pub(in crate::store) fn last_retry(&self) -> Result<i64, StoreError> {
        Ok(rejections::last_retry(&self.0)?)
    }

    pub(in crate::store) fn drop_dead_letters(&self, which: &Selection) -> Result<usize, StoreError> {
        Ok(rejections::drop_selected(&self.0, which)?)
    }

    pub(in crate::store) fn record_outcome(
        &self,
        request_id: &str,
        state: &str,
        outcome: &RequestOutcome,
    ) -> Result<(), StoreError> {
        Ok(requests::record_outcome(&self.0, request_id, state, outcome)?)
    }
}

/// Messages, and the derived tables.
impl Tx<'_> {
    /// Writes each message to a raw table or to the ledger. Writes nothing for a copy of a stored message.
    pub(in crate::store) fn write_messages(&self, epoch: i64, verdicts: &[Verdict]) -> Result<RawWrite, StoreError> {
        Ok(raw::write(&self.0, epoch, verdicts)?)
    }

    /// Writes the accepted messages of a replay. The other messages end as rejected, and nothing is written for them.
    pub(in crate::store) fn write_accepted<'a>(
        &self,
        epoch: i64,
        verdicts: impl Iterator<Item = (&'a Verdict, bool)>,
    ) -> Result<RawWrite, StoreError> {
        Ok(raw::write_accepted(&self.0, epoch, verdicts)?)
    }

    /// Returns the watermark T; `None` before the first stored message.
    pub(in crate::store) fn watermark(&self) -> Result<Option<Timestamp>, StoreError> {
        derived::watermark(&self.0)
    }

    /// Applies facts to the tables of these groups. Returns the places of the series that changed in some period.
    pub(in crate::store) fn apply(
        &self,
        rules: &Rules,
        groups: &GroupSet,
        facts: Facts,
        t_before: Option<Timestamp>,
        timings: &mut Timings,
    ) -> Result<BTreeSet<usize>, StoreError> {
        derived::apply(&self.0, rules, groups, facts, t_before, timings)
    }

    /// Evaluates the numbers of widgets that may have changed. Returns whether any number changed.
    pub(in crate::store) fn evaluate(
        &self,
        rules: &Rules,
        groups: &GroupSet,
        touched: &Touched,
    ) -> Result<bool, StoreError> {
        derived::evaluate(&self.0, rules, groups, touched)
    }
}

/// Rules, and rebuilds after rules have changed.
impl Tx<'_> {
    pub(in crate::store) fn define_funnels(&self, rules: &Rules) -> Result<(), StoreError> {
        Ok(derived::define_funnels(&self.0, rules)?)
    }

    pub(in crate::store) fn define_dashboards(&self, rules: &Rules) -> Result<(), StoreError> {
        Ok(derived::define_dashboards(&self.0, rules)?)
    }

    pub(in crate::store) fn has_raw_rows(&self) -> Result<bool, StoreError> {
        Ok(frozen::has_raw_rows(&self.0)?)
    }

    /// Freezes the groups that these rules did not make, and the groups that depend on them. Returns their rebuild;
    /// `None` if all groups are current.
    pub(in crate::store) fn freeze_changed(&self, rules: &Rules) -> Result<Option<GroupRebuild>, StoreError> {
        Ok(frozen::freeze_changed(&self.0, rules)?)
    }

    /// Freezes these groups, and the groups that depend on them.
    pub(in crate::store) fn freeze(&self, rules: &Rules, groups: GroupSet) -> Result<GroupRebuild, StoreError> {
        Ok(frozen::freeze(&self.0, rules, groups)?)
    }

    /// Begins to rebuild groups that are current. They keep being updated until the result is installed.
    pub(in crate::store) fn begin_current(&self, rules: &Rules, groups: GroupSet) -> Result<GroupRebuild, StoreError> {
        Ok(frozen::begin_current(&self.0, rules, groups)?)
    }

    /// Marks the groups of a rebuild as current.
    pub(in crate::store) fn thaw(&self, rebuild: &GroupRebuild) -> Result<(), StoreError> {
        Ok(frozen::thaw(&self.0, rebuild)?)
    }

    /// Installs rebuilt groups from the file that is attached as `shadow`: writes only the rows that differ. Returns
    /// how many rows of public tables differed.
    pub(in crate::store) fn install_groups(&self, rebuild: &GroupRebuild) -> Result<usize, StoreError> {
        let mut differed = 0;
        for group in &rebuild.groups {
            for table in tables_of(group) {
                let rows = install_group::install(&self.0, table, group)?;
                differed += if table.is_public() { rows } else { 0 };
            }
        }
        Ok(differed)
    }

    /// Records sequences that a shadow passes because the ledger lists them as not accepted.
    pub(in crate::store) fn record_passed(&self, epoch: i64, sequences: &[u64]) -> Result<(), StoreError> {
        Ok(shadow_database::record_passed(&self.0, epoch, sequences)?)
    }

    /// Removes a recorded sequence, because its message was applied since.
    pub(in crate::store) fn forget_passed(&self, epoch: i64, sequence: u64) -> Result<(), StoreError> {
        Ok(shadow_database::forget_passed(&self.0, epoch, sequence)?)
    }

    /// Creates the next index, view or trigger that a shadow has postponed. Returns whether there was one.
    pub(in crate::store) fn make_postponed(&self) -> Result<bool, StoreError> {
        Ok(shadow_database::make_postponed(&self.0)?)
    }
}

/// Returns the groups that have rows in a table.
pub(in crate::store) fn groups_with(rules: &Rules, table: &str) -> GroupSet {
    groups_of_table(rules, table)
}
