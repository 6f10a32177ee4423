//! The writer: the only connection that writes to the database, and the rules that derived tables follow. Opening it
//! repairs what a process left that died.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tokio::sync::watch;

use super::error::StoreError;
use super::notice::CommitNotice;
use super::sqlite::blocking::blocking;
use super::sqlite::file::database::DatabaseFile;
use super::sqlite::file::former_files::remove_former_shadows;
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

/// The kind of database that a writer fills. It decides which messages count.
#[derive(Debug)]
pub(super) enum Role {
    /// The live database. Messages are judged as they come; messages that the stream no longer holds are a gap.
    Live,
    /// A shadow of a live database. The accepted log decides which messages count. Stored rows stand in for messages
    /// that the stream no longer holds.
    Shadow(AcceptedLog),
    /// A shadow that is filled from the stream alone. Messages are judged, as in a live database.
    FreshShadow,
}

/// The one connection that writes. When dropped, moves the write-ahead log of a live database into the file, as far
/// as readers allow.
#[derive(Debug)]
pub struct Writer {
    pub(super) file: DatabaseFile,
    pub(super) role: Role,
    pub(super) rules: Arc<Rules>,
    /// The wanted rebuild of groups, if any. Until it is installed, groups that other rules made and
    /// damaged groups are frozen; groups of a rebuild that a command asked for keep being updated.
    pub(super) rebuild: watch::Sender<Option<GroupRebuild>>,
    pub(super) notices: watch::Sender<CommitNotice>,
}

/// Migrates the file and opens it for writing. The lock proves that no other process writes. Derived tables follow
/// `rules`.
///
/// # Errors
/// Fails if the file cannot be opened or migrated.
pub async fn open_writer(lock: &Lock, rules: Rules) -> Result<Writer, StoreError> {
    migrate::up(lock).await?;
    let database = lock.database().to_owned();
    // This may wait for another process's write lock.
    blocking(move || {
        remove_former_shadows(&database);
        let file = DatabaseFile::open_live(&database)?;
        // A process may have died just after it installed a shadow.
        file.forget_shadow()?;
        Writer::new(file, Role::Live, rules)
    })
    .await
}

impl Writer {
    /// Creates the writer of a migrated database. Freezes the groups of derived tables that other rules made.
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

    /// Sets the rules that derived tables follow from now on. Freezes the groups that other rules made.
    ///
    /// # Errors
    /// Fails if the transaction fails; the rules stay unchanged then.
    pub fn set_rules(&mut self, rules: Rules) -> Result<(), StoreError> {
        match self.try_rules(&rules, &GroupSet::new()) {
            // The damage is in the counts behind widgets, or in the watermark T.
            Err(StoreError::Damaged { table, key, why }) => {
                let damaged = groups_with(&rules, table);
                if damaged.is_empty() {
                    return Err(StoreError::Damaged { table, key, why });
                }
                tracing::warn!("{table}, key {key:?}: {why}; the groups of this table are rebuilt from the raw rows");
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

    /// Sends a commit notice. `has_shown` says whether the commit changed a number of a widget.
    pub(super) fn notify(&self, has_shown: bool) {
        self.notices.send_modify(|notice| notice.commit(&self.rules, has_shown));
    }

    /// Returns the flag that ends waiting. While the flag is set, a transaction fails at once if another process
    /// holds SQLite's write lock.
    pub(super) fn stop_waiting_flag(&self) -> Arc<AtomicBool> {
        self.file.stop_waiting_flag()
    }

    /// Returns the path of the database.
    pub fn database(&self) -> &Path {
        self.file.path()
    }

    /// Returns the position in the latest epoch; `None` before the first epoch.
    ///
    /// # Errors
    /// Fails if the position cannot be read.
    pub fn position(&self) -> Result<Option<Position>, StoreError> {
        self.file.position()
    }

    /// Returns a receiver of the wanted rebuild of groups, now and later.
    pub fn rebuilds(&self) -> watch::Receiver<Option<GroupRebuild>> {
        self.rebuild.subscribe()
    }

    /// Returns a receiver of the commit notices, now and later.
    pub fn notices(&self) -> watch::Receiver<CommitNotice> {
        self.notices.subscribe()
    }

    /// Begins an epoch at `first_seq` of the stream. The epoch gets the next number.
    ///
    /// # Errors
    /// Fails if the transaction fails; nothing changed then.
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

    /// Moves the position past messages that the stream no longer holds. A shadow of a live database copies their
    /// stored rows; any other database records a gap.
    ///
    /// # Errors
    /// Fails if the transaction fails; nothing changed then.
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
    /// Fails if the transaction fails. Then the dead letters are published again, and the stream's duplicate window
    /// drops the copies.
    pub fn mark_published(&mut self, keys: &[DeadLetterKey]) -> Result<(), StoreError> {
        let tx = self.file.begin()?;
        tx.mark_published(keys)?;
        tx.commit()
    }

    /// Returns the groups of the wanted rebuild, frozen or current.
    pub(super) fn groups_in_rebuild(&self) -> GroupSet {
        self.rebuild.borrow().as_ref().map(|rebuild| rebuild.groups.clone()).unwrap_or_default()
    }
}

/// Returns the groups that are not frozen.
pub(super) fn current_groups(rules: &Rules, rebuild: Option<&GroupRebuild>) -> GroupSet {
    let is_frozen =
        |group: &GroupName| rebuild.is_some_and(|rebuild| rebuild.freezes() && rebuild.groups.contains(group));
    GroupName::all(rules).into_iter().filter(|group| !is_frozen(group)).collect()
}
