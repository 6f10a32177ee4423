//! The writer: the only begin and commit.

mod begin;
mod beside;
mod builds;
pub(super) mod checkpoints;
mod replace;
mod replay;
mod requests;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rusqlite::{Connection, Transaction};
use tokio::sync::watch;

pub(super) use self::begin::transact;
use self::beside::{FactsBeside, Held};
use self::checkpoints::{Checkpoints, Durability};
use super::board::Board;
use super::committed::Committed;
use super::derived::{Build, GroupName, GroupSet, Touched};
use super::history::History;
use super::letters::DeadLetterKey;
use super::raw::{self, Counts, End, Written};
use super::spent::Spent;
use super::{StoreError, aside, derived, gaps, position, rejections, replica};
use crate::analytics::{Facts, Rules};
use crate::judge::Batch;
use crate::position::{Gap, Position};

/// Batches that may share a transaction.
pub const MAX_BATCHES: usize = 5;
/// Likewise in a replay, for which nobody waits.
const MAX_REPLAYED_BATCHES: usize = 25;
/// With more keys than these, the messages of a transaction are enough: what they say is held in memory.
const MAX_KEYS: usize = 150_000;

/// The one connection that writes. Dropped, it moves the WAL into the file, as far as readers let it; of a database that is
/// built aside it leaves it.
#[derive(Debug)]
pub struct Writer {
    connection: Connection,
    /// None once it is dropped, or made durable.
    checkpoints: Option<Checkpoints>,
    durability: Durability,
    database: PathBuf,
    rules: Arc<Rules>,
    /// Groups that are not up to date: they stay as they are until their build is put in.
    build: watch::Sender<Option<Build>>,
    board: watch::Sender<Board>,
    stop_waiting: Arc<AtomicBool>,
    /// Of a database that is built aside: whose messages it replays.
    history: Option<History>,
}

impl Writer {
    /// Takes a migrated database. Groups of derived tables that other rules made are frozen from now on.
    pub(super) fn new(connection: Connection, database: &Path, rules: Rules) -> Result<Self, StoreError> {
        Self::begin_with(connection, database, rules, None, Durability::Durable)
    }

    /// Likewise, a database that is built aside: it replays the messages of another, where there is one.
    pub(super) fn of_replica(
        connection: Connection,
        database: &Path,
        rules: Rules,
        history: Option<History>,
    ) -> Result<Self, StoreError> {
        Self::begin_with(connection, database, rules, history, Durability::Volatile)
    }

    fn begin_with(
        connection: Connection,
        database: &Path,
        rules: Rules,
        history: Option<History>,
        durability: Durability,
    ) -> Result<Self, StoreError> {
        let build = watch::Sender::new(None);
        let rules = Arc::new(rules);
        let (board, stop_waiting) = (watch::Sender::new(Board::of(&rules)), Arc::default());
        let checkpoints = Some(Checkpoints::start(database, durability)?);
        let database_path = database.to_owned();
        let mut writer = Self {
            connection,
            checkpoints,
            durability,
            database: database_path,
            rules,
            build,
            board,
            stop_waiting,
            history,
        };
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
        if self.history.is_some() {
            return self.stand_in(after, gap.last_seq);
        }
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
        let snapshot = self.history.as_ref().map(History::snapshot).transpose()?;
        let tx = self.begin()?;
        let mut so_far = Committed { position: first.end(), counts: Counts::default(), spent: Spent::begin() };
        let mut work = self.work(&tx)?;
        std::thread::scope(|scope| {
            let mut beside = FactsBeside::start(scope, &self.rules, first.verdicts.len());
            let ends = self.write(&mut work, first, &mut so_far)?;
            beside.add(Held::Borrowed(first), ends);
            let max_batches = if self.history.is_some() { MAX_REPLAYED_BATCHES } else { MAX_BATCHES };
            for _ in 1..max_batches {
                if beside.keys() > MAX_KEYS {
                    break;
                }
                let Some(batch) = next() else { break };
                so_far.spent.skip();
                let ends = self.write(&mut work, &batch, &mut so_far)?;
                beside.add(Held::Owned(batch), ends);
            }
            so_far.spent.skip();
            // Of stored rows that stand for messages.
            if work.facts.watermark.is_some() {
                self.apply(&mut work, &mut so_far.spent)?;
            }
            work.facts = beside.finish();
            so_far.spent.lap("facts");
            Ok::<_, StoreError>(())
        })?;
        // While it lasts, the live database's write-ahead log cannot start over.
        drop(snapshot);
        let Committed { position, counts, mut spent } = so_far;
        let judged = work.judged;
        let has_shown = self.derive(work, &mut spent)?;
        position::add_counts(&tx, position.epoch, counts.stored(), counts.duplicates)?;
        tx.commit()?;
        spent.lap("commit");
        if let Some(history) = &self.history {
            history.has_taken_in(judged);
        }
        self.board.send_modify(|board| board.commit(&self.rules, has_shown));
        self.move_log();
        spent.lap("checkpoint");
        Ok(Committed { position, counts, spent })
    }

    /// Begins to write messages.
    fn work<'tx>(&self, tx: &'tx Transaction<'tx>) -> Result<Work<'tx>, StoreError> {
        let groups = up_to_date(&self.rules, self.build.borrow().as_ref());
        let t_before = if groups.contains(&GroupName::Sessions) { derived::watermark(tx)? } else { None };
        let touched = Touched { series: BTreeSet::new(), t_before };
        let judged = self.history.as_ref().map_or(0, History::judged);
        let mut work = Work { tx, groups, facts: Facts::default(), touched, judged };
        if let Some(history) = &self.history {
            self.write_late(&mut work, history)?;
        }
        Ok(work)
    }

    /// Brings the derived tables up to the messages that were written. Returns whether a number of a widget changed.
    fn derive(&self, mut work: Work<'_>, spent: &mut Spent) -> Result<bool, StoreError> {
        self.apply(&mut work, spent)?;
        let has_shown = derived::evaluate(work.tx, &self.rules, &work.groups, &work.touched)?;
        spent.lap("dashboards");
        Ok(has_shown)
    }

    /// Applies the facts so far. Before the end of a transaction only to bound what it holds in memory.
    fn apply(&self, work: &mut Work<'_>, spent: &mut Spent) -> Result<(), StoreError> {
        let facts = std::mem::take(&mut work.facts);
        let series = derived::apply(work.tx, &self.rules, &work.groups, facts, work.touched.t_before, spent)?;
        work.touched.series.extend(series);
        Ok(())
    }

    /// Writes what came of a batch. Returns how each of its messages ended.
    fn write(&self, work: &mut Work<'_>, batch: &Batch, so_far: &mut Committed) -> Result<Vec<End>, StoreError> {
        so_far.position = batch.end();
        // First: where it fails, nothing else need be tried.
        position::advance(work.tx, &batch.after, &so_far.position)?;
        if let Some(history) = &self.history {
            let listed = history.listed(batch)?;
            replica::pass(work.tx, batch.after.epoch, &listed)?;
            if !batch.is_of_rows {
                return self.write_accepted(work, batch, history, &listed, so_far);
            }
        }
        let Written { counts, ends } = raw::write(work.tx, batch.after.epoch, &batch.verdicts)?;
        gaps::insert(work.tx, batch.after.epoch, &batch.gaps)?;
        so_far.counts += Counts { missing: batch.missing(), ..counts };
        so_far.spent.lap("raw");
        Ok(ends)
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
}

/// What a transaction writes.
struct Work<'tx> {
    tx: &'tx Transaction<'tx>,
    groups: GroupSet,
    facts: Facts,
    touched: Touched,
    /// In a replay: the last transaction whose late dead letters are in it.
    judged: i64,
}

impl Drop for Writer {
    fn drop(&mut self) {
        // It would hold SQLite's lock.
        self.checkpoints = None;
        // Its log goes with it, or whoever goes on with it reads it.
        if self.durability == Durability::Volatile {
            return;
        }
        if let Err(error) = self.connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)") {
            tracing::debug!("the WAL stays, and is read at the next start: {error}");
        }
    }
}

/// The groups that are not frozen.
fn up_to_date(rules: &Rules, build: Option<&Build>) -> GroupSet {
    let is_frozen = |group: &GroupName| build.is_some_and(|build| build.freezes() && build.groups.contains(group));
    GroupName::all(rules).into_iter().filter(|group| !is_frozen(group)).collect()
}
