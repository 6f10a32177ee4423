//! The writer: the only begin and commit.

mod requests;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior};
use tokio::sync::watch;

use super::aside::{self, Aside};
use super::board::Board;
use super::committed::{Committed, Swapped};
use super::derived::{Build, GroupName, GroupSet, Touched};
use super::letters::DeadLetterKey;
use super::raw::{self, Counts, Written};
use super::spent::Spent;
use super::{StoreError, derived, gaps, position, rejections};
use crate::analytics::{Facts, Rules};
use crate::batch::Batch;
use crate::position::{Gap, Position};

/// Batches that may share a transaction.
pub const MAX_BATCHES: usize = 5;
const WARN_BUSY_EVERY: Duration = Duration::from_secs(5);

/// The one connection that writes. Dropped, it moves the WAL into the file, as far as readers let it.
#[derive(Debug)]
pub struct Writer {
    connection: Connection,
    database: PathBuf,
    rules: Arc<Rules>,
    /// Groups that are not up to date: they stay as they are until their build is put in.
    build: watch::Sender<Option<Build>>,
    board: watch::Sender<Board>,
    stop_waiting: Arc<AtomicBool>,
}

impl Writer {
    /// Takes a migrated database. Groups of derived tables that other rules made are frozen from now on.
    pub(super) fn new(connection: Connection, database: &Path, rules: Rules) -> Result<Self, StoreError> {
        let build = watch::Sender::new(None);
        let database_path = database.to_owned();
        let rules = Arc::new(rules);
        let (board, stop_waiting) = (watch::Sender::new(Board::of(&rules)), Arc::default());
        let mut writer = Self { connection, database: database_path, rules, build, board, stop_waiting };
        writer.set_rules(Rules::clone(&writer.rules))?;
        if writer.build.borrow().is_none() {
            aside::remove(database)?;
        }
        Ok(writer)
    }

    /// From now on derived tables follow these. Groups that other rules made are frozen.
    ///
    /// # Errors
    /// Where the transaction fails; then the rules stay as they were.
    pub fn set_rules(&mut self, rules: Rules) -> Result<(), StoreError> {
        match self.try_rules(&rules, &GroupSet::new()) {
            // What widgets count, or T.
            Err(StoreError::Damaged { table, key, why }) => {
                let damaged = GroupName::of_table(&rules, table);
                if damaged.is_empty() {
                    return Err(StoreError::Damaged { table, key, why });
                }
                tracing::warn!("{table}, key {key:?}: {why}; it is made anew from raw rows");
                self.try_rules(&rules, &damaged)
            }
            result => result,
        }
    }

    fn try_rules(&mut self, rules: &Rules, damaged: &GroupSet) -> Result<(), StoreError> {
        let tx = self.begin()?;
        derived::define_funnels(&tx, rules)?;
        derived::define_dashboards(&tx, rules)?;
        let mut build = derived::freeze_changed(&tx, rules)?;
        if !damaged.is_empty() {
            let frozen = build.iter().flat_map(|build| &build.groups);
            build = Some(derived::freeze(&tx, rules, frozen.chain(damaged).cloned().collect())?);
        }
        if let Some(begun) = &build
            && !derived::has_raw_rows(&tx)?
        {
            derived::thaw(&tx, begun)?;
            build = None;
        }
        derived::evaluate(&tx, rules, &up_to_date(rules, build.as_ref()), &Touched::default())?;
        tx.commit()?;
        self.rules = Arc::new(rules.clone());
        self.board.send_modify(|board| board.commit(&self.rules, true));
        self.build.send_if_modified(|wanted| {
            let is_new = *wanted != build;
            *wanted = build;
            is_new
        });
        Ok(())
    }

    /// When set, a transaction that cannot begin because another process holds SQLite's write lock fails at once.
    pub(super) fn stop_waiting_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stop_waiting)
    }

    /// Where the database stands.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn position(&self) -> Result<Option<Position>, StoreError> {
        Ok(position::last(&self.connection)?)
    }

    /// The build that is wanted, now and later: what it replaces is frozen until it is put in.
    pub fn builds(&self) -> watch::Receiver<Option<Build>> {
        self.build.subscribe()
    }

    /// What was committed, and the widgets that it shows, now and later.
    pub fn board(&self) -> watch::Receiver<Board> {
        self.board.subscribe()
    }

    /// Puts in what was built aside, brought up to date: one transaction, which writes the rows that differ. None where
    /// another build is wanted now.
    ///
    /// # Errors
    /// Where the transaction fails; then nothing changed.
    pub fn swap(&mut self, mut aside: Aside) -> Result<Option<Swapped>, StoreError> {
        let wanted = self.build.borrow().clone();
        let Some(build) = wanted.filter(|wanted| aside.is_of(wanted)) else { return Ok(None) };
        let began = Instant::now();
        // What was written since its last step. Nothing else is: whoever writes does it here.
        while aside.step(aside::STEP_MESSAGES)? {}
        // Should an earlier one have failed.
        let _ = self.connection.execute("DETACH built", []);
        self.connection.execute("ATTACH ?1 AS built", [aside.absolute_path()?])?;
        let swapped = self.swap_attached(&build);
        if let Err(error) = self.connection.execute("DETACH built", []) {
            tracing::warn!("{}: {error}", aside.path().display());
        }
        let rows_that_differed = swapped?;
        let swapped = Swapped { raw_rows: aside.progress().rows, rows_that_differed, pause: began.elapsed() };
        self.build.send_replace(None);
        drop(aside);
        aside::remove(&self.database)?;
        tracing::info!(
            groups = %build.names().join(" "),
            raw_rows = swapped.raw_rows,
            rows_that_differed,
            pause_ms = swapped.pause.as_millis(),
            "derived tables are made anew"
        );
        Ok(Some(swapped))
    }

    fn swap_attached(&self, build: &Build) -> Result<usize, StoreError> {
        let tx = self.begin()?;
        let mut differed = 0;
        for group in &build.groups {
            for table in group.tables() {
                differed += derived::swap(&tx, table, group)?;
            }
        }
        derived::thaw(&tx, build)?;
        match derived::evaluate(&tx, &self.rules, &up_to_date(&self.rules, None), &Touched::default()) {
            // Of another number: the next commit that comes to it freezes it.
            Err(StoreError::Damaged { table, key, why }) => tracing::warn!("{table}, key {key:?}: {why}"),
            result => drop(result?),
        }
        tx.commit()?;
        self.board.send_modify(|board| board.commit(&self.rules, true));
        Ok(differed)
    }

    /// Makes what is frozen anew, here and now.
    ///
    /// # Errors
    /// Where a file cannot be read or written.
    pub fn rebuild(&mut self) -> Result<(), StoreError> {
        loop {
            let Some(build) = self.build.borrow().clone() else { return Ok(()) };
            self.swap(Aside::open(&self.database, build)?)?;
        }
    }

    /// Freezes the groups of a damaged table, beside those that are frozen already.
    fn freeze(&mut self, damaged: GroupSet) -> Result<(), StoreError> {
        let groups = self.frozen().into_iter().chain(damaged).collect();
        let tx = self.begin()?;
        // Should it be a definition that somebody took away.
        derived::define_funnels(&tx, &self.rules)?;
        let build = derived::freeze(&tx, &self.rules, groups)?;
        tx.commit()?;
        self.build.send_replace(Some(build));
        Ok(())
    }

    fn frozen(&self) -> GroupSet {
        self.build.borrow().as_ref().map(|build| build.groups.clone()).unwrap_or_default()
    }

    /// Begins an epoch: the next number, at `first_seq` of the stream.
    ///
    /// # Errors
    /// Where the transaction fails; then nothing changed.
    pub fn begin_epoch(
        &mut self,
        stream: &str,
        stream_created_ns: i64,
        first_seq: u64,
    ) -> Result<Position, StoreError> {
        let tx = self.begin()?;
        let epoch = position::last(&tx)?.map_or(1, |last| last.epoch + 1);
        let begun = Position {
            stream: stream.to_owned(),
            epoch,
            stream_created_ns,
            first_seq,
            last_seq: first_seq - 1,
            last_recv_ns: 0,
        };
        position::insert(&tx, &begun)?;
        tx.commit()?;
        Ok(begun)
    }

    /// Records that messages after `after` are gone, and moves the position past them.
    ///
    /// # Errors
    /// Where the transaction fails; then nothing changed.
    pub fn skip(&mut self, after: &Position, gap: Gap) -> Result<Position, StoreError> {
        let tx = self.begin()?;
        let end = Position { last_seq: gap.last_seq, last_recv_ns: 0, ..after.clone() };
        gaps::insert(&tx, after.epoch, &[gap])?;
        position::advance(&tx, after, &end)?;
        tx.commit()?;
        Ok(end)
    }

    /// Writes a batch: raw rows, what they add up to, the ledger of rejections, gaps and the position, all or nothing.
    ///
    /// # Errors
    /// As [`Writer::commit_all`].
    pub fn commit(&mut self, batch: &Batch) -> Result<Committed, StoreError> {
        self.commit_all(batch, || None)
    }

    /// Writes a batch, and in the same transaction those that follow it while `next` gives any, [`MAX_BATCHES`] at most:
    /// the state of a key is read and written once for all of them.
    ///
    /// # Errors
    /// [`StoreError::PositionMoved`] where somebody else wrote; [`StoreError::Frozen`] where a derived table was damaged,
    /// and is left out from now on; in every case nothing else changed.
    pub fn commit_all(&mut self, first: &Batch, next: impl FnMut() -> Option<Batch>) -> Result<Committed, StoreError> {
        let mut next = next;
        self.unless_damaged(|writer| writer.try_commit(first, &mut next))
    }

    /// Does what may meet a damaged table: then its groups are frozen, and nothing else changed.
    fn unless_damaged<T>(&mut self, work: impl FnOnce(&Self) -> Result<T, StoreError>) -> Result<T, StoreError> {
        match work(self) {
            Err(StoreError::Damaged { table, key, why }) => {
                let damage = StoreError::Damaged { table, key, why };
                let groups = GroupName::of_table(&self.rules, table);
                let Some(group) = groups.difference(&self.frozen()).next().map(GroupName::kind) else {
                    return Err(damage);
                };
                self.freeze(groups)?;
                Err(StoreError::Frozen { group, damage: damage.to_string() })
            }
            result => result,
        }
    }

    fn try_commit(&self, first: &Batch, mut next: impl FnMut() -> Option<Batch>) -> Result<Committed, StoreError> {
        let groups = up_to_date(&self.rules, self.build.borrow().as_ref());
        let tx = self.begin()?;
        let mut so_far = Committed { position: first.end(), counts: Counts::default(), spent: Spent::begin() };
        let mut facts = Facts::default();
        self.write(&tx, first, &mut so_far, &mut facts)?;
        for _ in 1..MAX_BATCHES {
            let Some(batch) = next() else { break };
            so_far.spent.skip();
            self.write(&tx, &batch, &mut so_far, &mut facts)?;
        }
        so_far.spent.skip();
        let Committed { position, counts, mut spent } = so_far;
        let t_before = if groups.contains(&GroupName::Sessions) { derived::watermark(&tx)? } else { None };
        let series = derived::apply(&tx, &self.rules, &groups, facts, t_before, &mut spent)?;
        let has_shown = derived::evaluate(&tx, &self.rules, &groups, &Touched { series, t_before })?;
        spent.lap("dashboards");
        position::add_counts(&tx, position.epoch, counts.stored(), counts.duplicates)?;
        tx.commit()?;
        spent.lap("commit");
        self.board.send_modify(|board| board.commit(&self.rules, has_shown));
        Ok(Committed { position, counts, spent })
    }

    /// Writes what came of a batch; what it says of the derived tables is added to the facts.
    fn write(
        &self,
        tx: &Transaction<'_>,
        batch: &Batch,
        so_far: &mut Committed,
        facts: &mut Facts,
    ) -> Result<(), StoreError> {
        so_far.position = batch.end();
        // First: where it fails, nothing else need be tried.
        position::advance(tx, &batch.after, &so_far.position)?;
        let Written { counts, stored, .. } = raw::write(tx, batch)?;
        gaps::insert(tx, batch.after.epoch, &batch.gaps)?;
        so_far.counts += counts;
        so_far.spent.lap("raw");
        facts.add(&self.rules, stored);
        so_far.spent.lap("facts");
        Ok(())
    }

    /// Marks dead letters as published.
    ///
    /// # Errors
    /// Where the transaction fails; then they are published again, and the stream's duplicate window drops them.
    pub fn mark_published(&mut self, keys: &[DeadLetterKey]) -> Result<(), StoreError> {
        let tx = self.begin()?;
        rejections::mark_published(&tx, keys)?;
        tx.commit()?;
        Ok(())
    }

    /// Begins IMMEDIATE, so that what is read inside is what is written on. Waits while another process writes.
    fn begin(&self) -> Result<Transaction<'_>, StoreError> {
        let waiting_since = Instant::now();
        let mut warnings = 0;
        loop {
            // `unchecked` takes a shared borrow, which a loop that returns needs. A second one inside would fail.
            match Transaction::new_unchecked(&self.connection, TransactionBehavior::Immediate) {
                Ok(tx) => return Ok(tx),
                Err(error) if is_busy(&error) => {}
                Err(error) => return Err(error.into()),
            }
            if self.stop_waiting.load(Ordering::Relaxed) {
                return Err(StoreError::Busy);
            }
            if waiting_since.elapsed() >= WARN_BUSY_EVERY * (warnings + 1) {
                warnings += 1;
                tracing::warn!(
                    waited_s = waiting_since.elapsed().as_secs(),
                    "another process holds SQLite's write lock; messages wait in the stream until it lets go"
                );
            }
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Err(error) = self.connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)") {
            tracing::debug!("the WAL stays, and is read at the next start: {error}");
        }
    }
}

/// One transaction on a file that is built aside.
pub(super) fn transact<T>(
    connection: &Connection,
    body: impl FnOnce(&Transaction<'_>) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let tx = Transaction::new_unchecked(connection, TransactionBehavior::Immediate)?;
    let value = body(&tx)?;
    tx.commit()?;
    Ok(value)
}

/// The groups that are not being made anew.
fn up_to_date(rules: &Rules, build: Option<&Build>) -> GroupSet {
    let is_frozen = |group: &GroupName| build.is_some_and(|build| build.groups.contains(group));
    GroupName::all(rules).into_iter().filter(|group| !is_frozen(group)).collect()
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}
