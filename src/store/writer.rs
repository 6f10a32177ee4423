//! The writer: the only process's only connection that writes, and the rules that derived tables follow.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tokio::sync::watch;

use super::error::StoreError;
use super::notice::CommitNotice;
use super::sqlite::blocking::blocking;
use super::sqlite::file::database::DatabaseFile;
use super::sqlite::file::disk::remove_former_files;
use super::sqlite::file::lock::Lock;
use super::sqlite::file::migrate;
use super::sqlite::ledger::rejections::DeadLetterKey;
use super::sqlite::rebuild::accepted_log::AcceptedLog;
use super::sqlite::rebuild::frozen::GroupRebuild;
use super::sqlite::rebuild::shadow_groups;
use super::sqlite::write::groups_with;
use crate::analytics::dashboard::Touched;
use crate::analytics::{GroupName, GroupSet, Rules};
use crate::position::{Gap, Position};

/// What the database of a writer is, and so where its messages come from.
#[derive(Debug)]
pub(super) enum Role {
    /// The live database. Messages are judged as they come; what the stream does not hold any more is a gap.
    Live,
    /// A shadow that repeats what a live database has accepted. Its log decides which messages count, and stored rows stand
    /// for messages that the stream does not hold any more.
    Shadow(AcceptedLog),
    /// A shadow that is filled from the stream alone. Messages are judged, as live.
    FreshShadow,
}

/// The one connection that writes. Dropped, it moves the write-ahead log into the file, as far as readers let it.
#[derive(Debug)]
pub struct Writer {
    pub(super) file: DatabaseFile,
    pub(super) role: Role,
    pub(super) rules: Arc<Rules>,
    /// The rebuild of groups that is wanted: they are frozen, or replaced, once it is installed.
    pub(super) rebuild: watch::Sender<Option<GroupRebuild>>,
    pub(super) notices: watch::Sender<CommitNotice>,
}

/// Opens the file for writing, and migrates it. The lock proves that nobody else writes. Derived tables follow `rules`.
///
/// # Errors
/// Where the file cannot be opened or migrated.
pub async fn open_writer(lock: &Lock, rules: Rules) -> Result<Writer, StoreError> {
    migrate::up(lock).await?;
    let database = lock.database().to_owned();
    // It may wait for another process's write lock.
    blocking(move || {
        remove_former_files(&database)?;
        let file = DatabaseFile::open_live(&database)?;
        // A process may have died just after it had installed a shadow.
        file.forget_shadow()?;
        Writer::new(file, Role::Live, rules)
    })
    .await
}

impl Writer {
    /// Takes a migrated database. Groups of derived tables that other rules made are frozen from now on.
    pub(super) fn new(file: DatabaseFile, role: Role, rules: Rules) -> Result<Self, StoreError> {
        let rules = Arc::new(rules);
        let (rebuild, notices) = (watch::Sender::new(None), watch::Sender::new(CommitNotice::of(&rules)));
        let mut writer = Self { file, role, rules, rebuild, notices };
        writer.set_rules(Rules::clone(&writer.rules))?;
        if writer.rebuild.borrow().is_none() {
            shadow_groups::remove(writer.file.path())?;
        }
        Ok(writer)
    }

    /// From now on derived tables follow these rules. Groups that other rules made are frozen.
    ///
    /// # Errors
    /// Where the transaction fails; then the rules stay as they were.
    pub fn set_rules(&mut self, rules: Rules) -> Result<(), StoreError> {
        match self.try_rules(&rules, &GroupSet::new()) {
            // What widgets count, or T.
            Err(StoreError::Damaged { table, key, why }) => {
                let damaged = groups_with(&rules, table);
                if damaged.is_empty() {
                    return Err(StoreError::Damaged { table, key, why });
                }
                tracing::warn!("{table}, key {key:?}: {why}; it is rebuilt from raw rows");
                self.try_rules(&rules, &damaged)
            }
            result => result,
        }
    }

    fn try_rules(&mut self, rules: &Rules, damaged: &GroupSet) -> Result<(), StoreError> {
        let tx = self.file.begin()?;
        tx.define_funnels(rules)?;
        tx.define_dashboards(rules)?;
        let mut rebuild = tx.freeze_changed(rules)?;
        if !damaged.is_empty() {
            let frozen = rebuild.iter().flat_map(|rebuild| &rebuild.groups);
            rebuild = Some(tx.freeze(rules, frozen.chain(damaged).cloned().collect())?);
        }
        if let Some(begun) = &rebuild
            && !tx.has_raw_rows()?
        {
            tx.thaw(begun)?;
            rebuild = None;
        }
        tx.evaluate(rules, &current_groups(rules, rebuild.as_ref()), &Touched::default())?;
        tx.commit()?;
        self.rules = Arc::new(rules.clone());
        self.notify(true);
        self.rebuild.send_if_modified(|wanted| {
            let is_new = *wanted != rebuild;
            *wanted = rebuild;
            is_new
        });
        Ok(())
    }

    /// Tells of a commit, and whether it changed a number of a widget.
    pub(super) fn notify(&self, has_shown: bool) {
        self.notices.send_modify(|notice| notice.commit(&self.rules, has_shown));
    }

    /// When set, a transaction that cannot begin because another process holds SQLite's write lock fails at once.
    pub(super) fn stop_waiting_flag(&self) -> Arc<AtomicBool> {
        self.file.stop_waiting_flag()
    }

    /// The database.
    pub fn database(&self) -> &Path {
        self.file.path()
    }

    /// Where the database stands.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn position(&self) -> Result<Option<Position>, StoreError> {
        self.file.position()
    }

    /// The rebuild of groups that is wanted, now and later.
    pub fn rebuilds(&self) -> watch::Receiver<Option<GroupRebuild>> {
        self.rebuild.subscribe()
    }

    /// What is told after every commit, now and later.
    pub fn notices(&self) -> watch::Receiver<CommitNotice> {
        self.notices.subscribe()
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
        let tx = self.file.begin()?;
        let epoch = tx.position()?.map_or(1, |last| last.epoch + 1);
        let begun = Position {
            stream: stream.to_owned(),
            epoch,
            stream_created_ns,
            first_seq,
            last_seq: first_seq - 1,
            last_recv_ns: 0,
        };
        tx.begin_epoch(&begun)?;
        tx.commit()?;
        Ok(begun)
    }

    /// Moves the position past messages that the stream does not hold any more. In a live database they are a gap; in a
    /// shadow the stored rows stand for them.
    ///
    /// # Errors
    /// Where the transaction fails; then nothing changed.
    pub fn skip(&mut self, after: &Position, gap: Gap) -> Result<Position, StoreError> {
        if matches!(self.role, Role::Shadow(_)) {
            return self.copy_stored_rows(after, gap.last_seq);
        }
        let tx = self.file.begin()?;
        let end = Position { last_seq: gap.last_seq, last_recv_ns: 0, ..after.clone() };
        tx.insert_gaps(after.epoch, &[gap])?;
        tx.advance(after, &end)?;
        tx.commit()?;
        Ok(end)
    }

    /// Marks dead letters as published.
    ///
    /// # Errors
    /// Where the transaction fails; then they are published again, and the stream's duplicate window drops them.
    pub fn mark_published(&mut self, keys: &[DeadLetterKey]) -> Result<(), StoreError> {
        let tx = self.file.begin()?;
        tx.mark_published(keys)?;
        tx.commit()
    }

    /// The groups that are frozen, or are to be replaced.
    pub(super) fn groups_in_rebuild(&self) -> GroupSet {
        self.rebuild.borrow().as_ref().map(|rebuild| rebuild.groups.clone()).unwrap_or_default()
    }
}

/// The groups that are not frozen.
pub(super) fn current_groups(rules: &Rules, rebuild: Option<&GroupRebuild>) -> GroupSet {
    let is_frozen =
        |group: &GroupName| rebuild.is_some_and(|rebuild| rebuild.freezes() && rebuild.groups.contains(group));
    GroupName::all(rules).into_iter().filter(|group| !is_frozen(group)).collect()
}
