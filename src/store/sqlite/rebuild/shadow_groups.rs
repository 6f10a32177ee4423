//! Rebuilds groups of derived tables from the raw rows, in a shadow file beside the database, while the worker keeps
//! writing.
//!
//! ```text
//! <database>                raw rows -- read, never locked -->  ShadowGroups::step
//! <database>.shadow-groups  tables of the groups, and how far they are: one transaction for each step
//! <database>                <-- Writer::install_groups: the rows that differ, in one transaction
//! ```
//! The rules and the code of the tables are the ones that the worker runs. If a process dies, the file stays at its
//! last step, and the next process continues from there.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;

use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, params};

use super::frozen::GroupRebuild;
use super::progress::{BEFORE_ALL, RebuildProgress, ShadowState, StreamPlace};
use super::row_reader::RowReader;
use crate::analytics::{GroupSet, with_sources};
use crate::store::error::StoreError;
use crate::store::receipt::Timings;
use crate::store::sqlite::derived::{self, tables_of};
use crate::store::sqlite::file::database::transact;
use crate::store::sqlite::file::disk::{boot_id, ensure_room, remove_database, with_suffix};
use crate::store::sqlite::file::pragmas::{BUSY_TIMEOUT, MAX_PREPARED_STATEMENTS, WRITER_PRAGMAS, set_pragmas};
use crate::store::sqlite::ledger::{positions, rejections};
use crate::store::sqlite::values::{from_sql, to_sql};

/// Bytes that must stay free on the disk, because the worker keeps writing to the database.
pub const MIN_FREE_BYTES: u64 = 64 << 20;
/// The minimum of messages in a step; the last step may have fewer. `MAX_STEP_MESSAGES` is the maximum.
pub const STEP_MESSAGES: u32 = 20_000;
const MAX_STEP_MESSAGES: u64 = 160_000;
/// A step applies a quarter of the number of rows that all steps before it applied, but at least [`STEP_MESSAGES`]. A
/// process that dies loses one step at most.
const STEPS_OF_WHOLE: u64 = 4;
/// Sets of facts that wait while other facts are applied.
const FACTS_AHEAD: usize = 1;

const _: () = assert!(STEP_MESSAGES as u64 <= MAX_STEP_MESSAGES);

/// How far the rebuild is.
///
/// rebuild  the rebuild that the file belongs to
/// schema   the machine's boot id, and the statements that made the tables
/// epoch, stream_seq  the place up to which raw rows are applied
/// retries_upto  the last retry transaction whose dead letters are applied, as far as they precede that place
/// rows     how many raw rows are applied; `total`: how many existed when the rebuild began
const STATE: &str = "CREATE TABLE _shadow_groups (id INTEGER PRIMARY KEY NOT NULL CHECK (id = 1), rebuild TEXT NOT NULL, \
     schema TEXT NOT NULL, epoch INTEGER NOT NULL, stream_seq INTEGER NOT NULL, retries_upto INTEGER NOT NULL, \
     rows INTEGER NOT NULL, total INTEGER NOT NULL)";

/// Groups that are being rebuilt in a shadow file.
#[derive(Debug)]
pub struct ShadowGroups {
    rebuild: GroupRebuild,
    /// The groups of the rebuild, and the groups whose facts these need.
    groups: GroupSet,
    /// The live database, for reading.
    raw: Connection,
    /// The shadow file.
    built: Connection,
    path: PathBuf,
    state: ShadowState,
}

impl ShadowGroups {
    /// Continues a rebuild if its file is usable, else begins it.
    ///
    /// # Errors
    /// Fails if a file cannot be read or written.
    pub fn open(database: &Path, rebuild: GroupRebuild) -> Result<Self, StoreError> {
        let raw = Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        raw.busy_timeout(BUSY_TIMEOUT)?;
        let groups = with_sources(&rebuild.rules, rebuild.groups.clone());
        let path = file_of(database);
        let schema = schema(&raw, &groups)?;
        let kept = open_file(&path).and_then(|built| Ok((resume(&built, &rebuild, &schema, &raw)?, built)));
        let (built, state) = match kept {
            Ok((Some(stands), built)) => (built, stands),
            _ => {
                remove(database)?;
                let built = open_file(&path)?;
                let state = create(&built, &rebuild, &schema, &raw)?;
                (built, state)
            }
        };
        Ok(Self { rebuild, groups, raw, built, path, state })
    }

    /// Returns how far the rebuild is.
    pub fn progress(&self) -> RebuildProgress {
        let RebuildProgress { rows, total } = self.state.progress;
        RebuildProgress { rows, total: total.max(rows) }
    }

    /// Returns how many messages of the stream came since the rebuild began and are not applied yet. `None` while the
    /// rebuild still applies the rows that existed when it began.
    ///
    /// # Errors
    /// Fails if the database cannot be read.
    pub fn messages_behind(&self) -> Result<Option<u64>, StoreError> {
        let position = positions::last(&self.raw)?.filter(|position| position.epoch == self.state.upto.epoch);
        let upto = from_sql(self.state.upto.stream_seq);
        let behind = position.map(|position| position.last_seq.saturating_sub(upto));
        Ok(behind.filter(|_| self.state.progress.rows >= self.state.progress.total))
    }

    /// Returns whether the file belongs to that rebuild.
    pub fn is_of(&self, rebuild: &GroupRebuild) -> bool {
        self.rebuild == *rebuild
    }

    pub(in crate::store) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns how many messages the next step should apply. The more rows are applied, the larger the step: a step
    /// reads and writes each key's state once for all its messages.
    pub fn step_messages(&self) -> u32 {
        let messages = (self.state.progress.rows / STEPS_OF_WHOLE).min(MAX_STEP_MESSAGES);
        u32::try_from(messages).unwrap_or(STEP_MESSAGES).max(STEP_MESSAGES)
    }

    /// Applies the raw rows of the next `max_messages` messages of the stream. Returns whether there were any.
    /// Another thread reads the rows and makes facts of them, while this thread applies facts.
    ///
    /// # Errors
    /// Fails if a file cannot be read or written. The shadow file is then as it was before the step.
    pub fn step(&mut self, max_messages: u32) -> Result<bool, StoreError> {
        ensure_room(&self.path, MIN_FREE_BYTES)?;
        let Self { rebuild, groups, raw, built, state, .. } = self;
        let (rebuild, groups, before) = (&*rebuild, &*groups, *state);
        let next = transact(built, |tx| {
            std::thread::scope(|scope| {
                let (read, facts) = sync_channel(FACTS_AHEAD);
                let reader = scope.spawn(move || RowReader { rebuild, raw, read }.step(before, max_messages));
                for (facts, t) in facts {
                    derived::apply(tx, &rebuild.rules, groups, facts, t, &mut Timings::begin())?;
                }
                let next = reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
                if let Some(ShadowState { upto, retries_upto, progress }) = next {
                    let sql = "UPDATE _shadow_groups SET epoch = ?1, stream_seq = ?2, retries_upto = ?3, rows = ?4";
                    tx.execute(sql, params![upto.epoch, upto.stream_seq, retries_upto, to_sql(progress.rows)])?;
                }
                Ok(next)
            })
        })?;
        self.state = next.unwrap_or(before);
        Ok(next.is_some())
    }
}

/// Returns the statements that made the tables of these groups, and the indexes that the writes of these tables need.
pub(in crate::store) fn schema(raw: &Connection, groups: &GroupSet) -> rusqlite::Result<Vec<String>> {
    let sql = "SELECT sql FROM sqlite_master WHERE tbl_name = ?1 AND sql IS NOT NULL \
               AND (type = 'table' OR name >= '_' AND name < '`') ORDER BY type DESC, name";
    let mut select = raw.prepare(sql)?;
    let mut statements = vec![STATE.to_owned()];
    // Funnels share their tables.
    let names: BTreeSet<&str> = groups.iter().flat_map(|group| tables_of(group)).map(|table| table.name).collect();
    for name in names {
        let of_table = select.query_map([name], |row| row.get(0))?;
        statements.extend(of_table.collect::<rusqlite::Result<Vec<_>>>()?);
    }
    Ok(statements)
}

fn open_file(path: &Path) -> rusqlite::Result<Connection> {
    let built = Connection::open(path)?;
    built.busy_timeout(BUSY_TIMEOUT)?;
    built.pragma_update(None, "journal_mode", "WAL")?;
    built.set_prepared_statement_cache_capacity(MAX_PREPARED_STATEMENTS);
    set_pragmas(&built, &WRITER_PRAGMAS)?;
    // After a power cut the rebuild starts over.
    built.pragma_update(None, "synchronous", "OFF")?;
    // Some tables refer to tables that are not in this file.
    built.pragma_update(None, "foreign_keys", "OFF")?;
    Ok(built)
}

/// Reads how far the file is. Returns `None` if it belongs to another rebuild, or is ahead of a database that was
/// restored from a backup.
fn resume(
    built: &Connection,
    rebuild: &GroupRebuild,
    schema: &[String],
    raw: &Connection,
) -> rusqlite::Result<Option<ShadowState>> {
    let sql = "SELECT rebuild, schema, epoch, stream_seq, retries_upto, rows, total FROM _shadow_groups WHERE id = 1";
    let (id, made_by, state): (String, String, ShadowState) = built.query_row(sql, [], |row| {
        let count = |column| row.get(column).map(from_sql);
        let upto = StreamPlace { epoch: row.get(2)?, stream_seq: row.get(3)? };
        let progress = RebuildProgress { rows: count(5)?, total: count(6)? };
        Ok((row.get(0)?, row.get(1)?, ShadowState { upto, retries_upto: row.get(4)?, progress }))
    })?;
    let position = positions::last(raw)?;
    let last = position.map_or(BEFORE_ALL, |last| StreamPlace { epoch: last.epoch, stream_seq: to_sql(last.last_seq) });
    let is_usable = id == rebuild.id
        && made_by == made_by_now(schema)
        && state.upto <= last
        && rejections::is_known_retry(raw, state.retries_upto)?;
    Ok(is_usable.then_some(state))
}

/// Returns the machine's boot id and the statements that make the tables.
fn made_by_now(schema: &[String]) -> String {
    format!("{} {}", boot_id(), schema.join(";\n"))
}

fn create(
    built: &Connection,
    rebuild: &GroupRebuild,
    schema: &[String],
    raw: &Connection,
) -> Result<ShadowState, StoreError> {
    let total: i64 = raw.query_row("SELECT coalesce(sum(stored), 0) FROM _positions", [], |row| row.get(0))?;
    transact(built, |tx| {
        for statement in schema {
            tx.execute(statement, [])?;
        }
        let sql = "INSERT INTO _shadow_groups (id, rebuild, schema, epoch, stream_seq, retries_upto, rows, total) \
                   VALUES (1, ?1, ?2, ?3, ?4, 0, 0, ?5)";
        tx.execute(sql, params![rebuild.id, made_by_now(schema), BEFORE_ALL.epoch, BEFORE_ALL.stream_seq, total])?;
        Ok(())
    })?;
    Ok(ShadowState { upto: BEFORE_ALL, retries_upto: 0, progress: RebuildProgress { rows: 0, total: from_sql(total) } })
}

fn file_of(database: &Path) -> PathBuf {
    with_suffix(database, ".shadow-groups")
}

/// Deletes the shadow file. A rebuild that is not installed starts over.
///
/// # Errors
/// Fails if the operating system does not allow it.
pub fn remove(database: &Path) -> Result<(), StoreError> {
    remove_database(&file_of(database))
}

/// Returns how far the wanted rebuild is. `None` if no rebuild is wanted, or before its first step.
pub(in crate::store) fn wanted_progress(
    connection: &Connection,
    database: &Path,
) -> rusqlite::Result<Option<RebuildProgress>> {
    let sql = "SELECT rebuild FROM _groups WHERE rebuild IS NOT NULL LIMIT 1";
    let rebuild: Option<String> = connection.query_row(sql, [], |row| row.get(0)).optional()?;
    Ok(rebuild.and_then(|rebuild| progress_of(database, &rebuild)))
}

/// Reads how far a rebuild is from its shadow file, as another process can. `None` if there is no file of this
/// rebuild.
pub(in crate::store) fn progress_of(database: &Path, rebuild: &str) -> Option<RebuildProgress> {
    // If the path is a symbolic link, the file lies beside the link's target.
    let database = &database.canonicalize().ok()?;
    let built = Connection::open_with_flags(file_of(database), OpenFlags::SQLITE_OPEN_READ_ONLY).ok()?;
    built.busy_timeout(BUSY_TIMEOUT).ok()?;
    let sql = "SELECT rows, total FROM _shadow_groups WHERE rebuild = ?1";
    let count = |row: &Row<'_>, column| row.get(column).map(from_sql);
    let progress = built.query_row(sql, [rebuild], |row| Ok((count(row, 0)?, count(row, 1)?)));
    // More rows may have come since the rebuild began.
    progress.ok().map(|(rows, total)| RebuildProgress { rows, total: total.max(rows) })
}
