//! Groups of derived tables, built aside: in a file of their own beside the database, from the raw rows, while the
//! worker goes on writing.
//!
//! ```text
//! <database>          raw rows -- read, never locked -->  Aside::step
//! <database>.rebuild  tables of the groups, and how far they are: one transaction for each step
//! <database>          <-- Writer::swap: what differs, in one transaction
//! ```
//! The rules and the tables' code are those that the worker itself runs. A process that dies leaves the file at some
//! step, and the next one goes on from there.

mod reading;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;

use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, params};

use self::reading::Reading;
use super::derived::{self, Build, GroupSet};
use super::disk::{boot_id, ensure_room, remove_database, with_suffix};
use super::open::{BUSY_TIMEOUT, MAX_PREPARED_STATEMENTS, WRITER_PRAGMAS, set_pragmas};
use super::{Spent, StoreError, position, rejections, to_sql, writer};

/// What must stay free on the disk: the worker goes on writing to the database.
pub const MIN_FREE_BYTES: u64 = 64 << 20;
/// Messages that a step takes in at least, where there are so many, and at most.
pub const STEP_MESSAGES: u32 = 20_000;
const MAX_STEP_MESSAGES: u64 = 160_000;
/// A process that dies loses one part of so many of what it has done, at most.
const STEPS_OF_WHOLE: u64 = 4;
/// What is read before what was read is applied.
const FACTS_AHEAD: usize = 1;
/// Where the build stands.
///
/// build   of which build the file is
/// schema  the statements that made its tables
/// epoch, stream_seq  the last raw row that is in it
/// judged  the last transaction whose dead letters, judged again, are in it, where they stand before that row
/// rows    how many are, `total` as far as was known when it began
const PROGRESS: &str = "CREATE TABLE _rebuild (id INTEGER PRIMARY KEY NOT NULL CHECK (id = 1), build TEXT NOT NULL, \
     schema TEXT NOT NULL, epoch INTEGER NOT NULL, stream_seq INTEGER NOT NULL, judged INTEGER NOT NULL, \
     rows INTEGER NOT NULL, total INTEGER NOT NULL)";

/// How far a build is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Raw rows that are in it.
    pub rows: u64,
    /// Raw rows that there were when it began.
    pub total: u64,
}

/// The place of a raw row in the stream. Rows that came another way have epoch 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    epoch: i64,
    stream_seq: i64,
}

const BEFORE_ALL: Place = Place { epoch: -1, stream_seq: 0 };

/// Groups that are being built.
#[derive(Debug)]
pub struct Aside {
    build: Build,
    /// Those of the build, and those that speak to them.
    groups: GroupSet,
    /// The database, for reading.
    raw: Connection,
    /// The file that is built.
    built: Connection,
    path: PathBuf,
    stands: Stands,
}

/// Where a build stands: what of the raw rows is in it.
#[derive(Debug, Clone, Copy)]
struct Stands {
    upto: Place,
    judged: i64,
    progress: Progress,
}

impl Aside {
    /// Goes on with a build where its file is there, else begins it.
    ///
    /// # Errors
    /// Where a file cannot be read or written.
    pub fn open(database: &Path, build: Build) -> Result<Self, StoreError> {
        let raw = Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        raw.busy_timeout(BUSY_TIMEOUT)?;
        let groups = derived::with_sources(&build.rules, build.groups.clone());
        let path = file_of(database);
        let schema = schema(&raw, &groups)?;
        let kept = open_file(&path).and_then(|built| Ok((resume(&built, &build, &schema, &raw)?, built)));
        let (built, stands) = match kept {
            Ok((Some(stands), built)) => (built, stands),
            _ => {
                remove(database)?;
                let built = open_file(&path)?;
                let stands = create(&built, &build, &schema, &raw)?;
                (built, stands)
            }
        };
        Ok(Self { build, groups, raw, built, path, stands })
    }

    /// How far it is.
    pub fn progress(&self) -> Progress {
        let Progress { rows, total } = self.stands.progress;
        Progress { rows, total: total.max(rows) }
    }

    /// Messages of the stream that came since it began, and that it has not taken in; none while it still takes in those
    /// that were there before.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn messages_behind(&self) -> Result<Option<u64>, StoreError> {
        let position = position::last(&self.raw)?.filter(|position| position.epoch == self.stands.upto.epoch);
        let upto = super::from_sql(self.stands.upto.stream_seq);
        let behind = position.map(|position| position.last_seq.saturating_sub(upto));
        Ok(behind.filter(|_| self.stands.progress.rows >= self.stands.progress.total))
    }

    /// Whether it is of that build.
    pub fn is_of(&self, build: &Build) -> bool {
        self.build == *build
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// How many messages the next step should take in: the more are in it, the more a step takes, since each key's state is
    /// read and written once for all of them.
    pub fn step_messages(&self) -> u32 {
        let messages = (self.stands.progress.rows / STEPS_OF_WHOLE).min(MAX_STEP_MESSAGES);
        u32::try_from(messages).unwrap_or(STEP_MESSAGES).max(STEP_MESSAGES)
    }

    /// Takes in the raw rows of the next `max_messages` messages of the stream. Returns whether there were any. Rows are
    /// read, and the rules go over them, on a thread beside that which applies what they say.
    ///
    /// # Errors
    /// Where it cannot be read or written. Then it is as it was before the step.
    pub fn step(&mut self, max_messages: u32) -> Result<bool, StoreError> {
        ensure_room(&self.path, MIN_FREE_BYTES)?;
        let Self { build, groups, raw, built, stands, .. } = self;
        let (build, groups, before) = (&*build, &*groups, *stands);
        let next = writer::transact(built, |tx| {
            std::thread::scope(|scope| {
                let (read, facts) = sync_channel(FACTS_AHEAD);
                let reader = scope.spawn(move || Reading { build, raw, read }.step(before, max_messages));
                for (facts, t) in facts {
                    derived::apply(tx, &build.rules, groups, facts, t, &mut Spent::begin())?;
                }
                let next = reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
                if let Some(Stands { upto, judged, progress }) = next {
                    let sql = "UPDATE _rebuild SET epoch = ?1, stream_seq = ?2, judged = ?3, rows = ?4";
                    tx.execute(sql, params![upto.epoch, upto.stream_seq, judged, to_sql(progress.rows)])?;
                }
                Ok(next)
            })
        })?;
        self.stands = next.unwrap_or(before);
        Ok(next.is_some())
    }
}

/// The statements that made the tables of these groups, and the indexes that their own writes need.
pub(super) fn schema(raw: &Connection, groups: &GroupSet) -> rusqlite::Result<Vec<String>> {
    let sql = "SELECT sql FROM sqlite_master WHERE tbl_name = ?1 AND sql IS NOT NULL \
               AND (type = 'table' OR name >= '_' AND name < '`') ORDER BY type DESC, name";
    let mut select = raw.prepare(sql)?;
    let mut statements = vec![PROGRESS.to_owned()];
    // Funnels share theirs.
    let names: BTreeSet<&str> = groups.iter().flat_map(|group| group.tables()).map(|table| table.name).collect();
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
    // After a power cut it is begun anew.
    built.pragma_update(None, "synchronous", "OFF")?;
    // What some of its tables refer to is not there.
    built.pragma_update(None, "foreign_keys", "OFF")?;
    Ok(built)
}

/// Where the file stands; none where it is of another build, or ahead of a database that was put back.
fn resume(built: &Connection, build: &Build, schema: &[String], raw: &Connection) -> rusqlite::Result<Option<Stands>> {
    let sql = "SELECT build, schema, epoch, stream_seq, judged, rows, total FROM _rebuild WHERE id = 1";
    let (id, made_by, stands): (String, String, Stands) = built.query_row(sql, [], |row| {
        let count = |column| row.get(column).map(super::from_sql);
        let upto = Place { epoch: row.get(2)?, stream_seq: row.get(3)? };
        let progress = Progress { rows: count(5)?, total: count(6)? };
        Ok((row.get(0)?, row.get(1)?, Stands { upto, judged: row.get(4)?, progress }))
    })?;
    let position = position::last(raw)?;
    let last = position.map_or(BEFORE_ALL, |last| Place { epoch: last.epoch, stream_seq: to_sql(last.last_seq) });
    let is_usable = id == build.id
        && made_by == made_by_now(schema)
        && stands.upto <= last
        && rejections::is_known(raw, stands.judged)?;
    Ok(is_usable.then_some(stands))
}

/// The statements that make its tables, and since when the machine runs.
fn made_by_now(schema: &[String]) -> String {
    format!("{} {}", boot_id(), schema.join(";\n"))
}

fn create(built: &Connection, build: &Build, schema: &[String], raw: &Connection) -> Result<Stands, StoreError> {
    let total: i64 = raw.query_row("SELECT coalesce(sum(stored), 0) FROM _positions", [], |row| row.get(0))?;
    writer::transact(built, |tx| {
        for statement in schema {
            tx.execute(statement, [])?;
        }
        let sql = "INSERT INTO _rebuild (id, build, schema, epoch, stream_seq, judged, rows, total) \
                   VALUES (1, ?1, ?2, ?3, ?4, 0, 0, ?5)";
        tx.execute(sql, params![build.id, made_by_now(schema), BEFORE_ALL.epoch, BEFORE_ALL.stream_seq, total])?;
        Ok(())
    })?;
    Ok(Stands { upto: BEFORE_ALL, judged: 0, progress: Progress { rows: 0, total: super::from_sql(total) } })
}

fn file_of(database: &Path) -> PathBuf {
    with_suffix(database, ".rebuild")
}

/// Takes the file away: what was built is of no use, and is begun anew.
///
/// # Errors
/// Where the system does not let it.
pub fn remove(database: &Path) -> Result<(), StoreError> {
    remove_database(&file_of(database))
}

/// How far the build is that is wanted, if any is; none before its first step. Blocks.
///
/// # Errors
/// Where the database cannot be read.
pub fn build_progress(database: &Path) -> Result<Option<Progress>, StoreError> {
    let connection = super::open::open_blocking_reader(database)?;
    let sql = "SELECT build FROM _groups WHERE build IS NOT NULL LIMIT 1";
    let build: Option<String> = connection.query_row(sql, [], |row| row.get(0)).optional()?;
    Ok(build.and_then(|build| progress_of(database, &build)))
}

/// How far a build is, seen from outside; none where there is no file of it.
pub(super) fn progress_of(database: &Path, build: &str) -> Option<Progress> {
    // Through a link, it lies beside what the link leads to.
    let database = &database.canonicalize().ok()?;
    let built = Connection::open_with_flags(file_of(database), OpenFlags::SQLITE_OPEN_READ_ONLY).ok()?;
    built.busy_timeout(BUSY_TIMEOUT).ok()?;
    let sql = "SELECT rows, total FROM _rebuild WHERE build = ?1";
    let count = |row: &Row<'_>, column| row.get(column).map(super::from_sql);
    let progress = built.query_row(sql, [build], |row| Ok((count(row, 0)?, count(row, 1)?)));
    // More may have come since it began.
    progress.ok().map(|(rows, total)| Progress { rows, total: total.max(rows) })
}
