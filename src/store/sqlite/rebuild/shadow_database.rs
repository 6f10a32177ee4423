//! A whole database that is built aside, from nothing, by the worker's own writer.
//!
//! ```text
//! <database>         ledger, stored rows -- read, never locked -->  History
//! <file>             what was accepted, written by a Writer: no index that loading does not need, no fsync
//! <database>         <-- Writer::replace, or it stays a file of its own
//! ```
//! A process that dies leaves the file at some commit, and the next one goes on from there. After a power cut it is begun
//! anew: until it is finished nothing of it is certain to be on the disk.

use std::path::{Path, PathBuf};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Transaction, params};

use crate::analytics::{Rules, fingerprints};
use crate::model::{AnalyticsEvent, Metric, SessionMessage};
use crate::store::error::StoreError;
use crate::store::sqlite::blocking::blocking;
use crate::store::sqlite::file::checkpoints::{Durability, MAX_PAGES};
use crate::store::sqlite::file::database::{DatabaseFile, transact};
use crate::store::sqlite::file::disk::{attachable, boot_id, remove_database, with_suffix};
use crate::store::sqlite::file::lock::Lock;
use crate::store::sqlite::file::migrate;
use crate::store::sqlite::file::pragmas::{BUSY_TIMEOUT, MAX_PREPARED_STATEMENTS, open_for_reading, set_pragmas};
use crate::store::sqlite::raw::{ORIGIN_COLUMNS, RawTable};
use crate::store::sqlite::schema::RAW_TABLES;
use crate::store::sqlite::values::to_sql;

/// What the file is, and what it still lacks.
///
/// made_from  what it is built from, and by which rules: another file is of no use
/// postponed  statements that make what loading does not need: indexes, views, triggers
///
/// And the sequences that it has passed because the ledger lists them: where a database that was put back has decided
/// otherwise, the file is of no use.
const ABOUT: &str = "CREATE TABLE _shadow (id INTEGER PRIMARY KEY NOT NULL CHECK (id = 1), made_from TEXT NOT NULL, \
     postponed TEXT NOT NULL); \
     CREATE TABLE _shadow_passed (epoch INTEGER NOT NULL, stream_seq INTEGER NOT NULL, PRIMARY KEY (epoch, stream_seq)) \
     WITHOUT ROWID";
/// 64 MiB: what grows at random places stays in memory for longer.
const CACHE: (&str, &str) = ("cache_size", "-65536");
/// How its connection is set up.
const PRAGMAS: [(&str, &str); 5] =
    [("journal_mode", "WAL"), ("synchronous", "OFF"), ("foreign_keys", "OFF"), CACHE, ("temp_store", "FILE")];
/// While indexes are made: what is sorted at once stays in the processor's cache, on a thread of its own.
const INDEX_PRAGMAS: [(&str, &str); 2] = [("cache_size", "-2048"), ("threads", "1")];
/// 4 MiB, while pages are copied, of which none is asked for twice.
pub(in crate::store) const COPY_CACHE: (&str, &str) = ("cache_size", "-4096");
/// Of a database that is made here.
const DEFAULT_PAGE_SIZE: i64 = 4096;
/// Ids that are compared in one read transaction of the live database.
const IDS_AT_ONCE: u32 = 100_000;

/// What a replica is built from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BuiltFrom {
    /// The stream, and where that does not hold a message any more, the stored row.
    Stream,
    /// The stored rows alone.
    Rows,
}

/// Opens the shadow of a live database, whose lock the caller has. Goes on with it where it was begun for the same end.
///
/// # Errors
/// Where a file cannot be read or written.
pub(in crate::store) fn open_shadow(
    lock: &Lock,
    live: &Path,
    rules: &Rules,
    built_from: BuiltFrom,
) -> Result<DatabaseFile, StoreError> {
    let path = lock.database();
    let about = about(live, rules, built_from)?;
    let page_size: i64 = open_for_reading(live)?.query_row("PRAGMA page_size", [], |row| row.get(0))?;
    let kept = open_file(path, page_size).and_then(|built| Ok((read_about(&built)?, built)));
    let connection = match kept {
        Ok((Some(found), built)) if found == about && is_of(&built, live)? => built,
        _ => {
            remove_database(path)?;
            let built = open_file(path, page_size)?;
            create(&built, live, &about)?;
            built
        }
    };
    DatabaseFile::of(connection, path, Durability::Volatile)
}

/// Opens a shadow that is complete, to be installed in the place of a live database.
///
/// # Errors
/// [`StoreError::NotBuilt`] where it is another file, or by other rules.
pub(in crate::store) fn open_complete_shadow(
    lock: &Lock,
    live: &Path,
    rules: &Rules,
) -> Result<DatabaseFile, StoreError> {
    let path = lock.database();
    let not_built = |why: &str| StoreError::NotBuilt { path: path.to_owned(), why: why.to_owned() };
    if !path.is_file() {
        return Err(not_built("there is no such file"));
    }
    let connection = open_file(path, DEFAULT_PAGE_SIZE)?;
    set_pragmas(&connection, &[COPY_CACHE])?;
    let about = about(live, rules, BuiltFrom::Stream)?;
    if read_about(&connection).ok().flatten().is_none_or(|found| found != about) {
        return Err(not_built("it was built from another database, or by another configuration than the worker has"));
    }
    if !is_of(&connection, live)? {
        return Err(not_built("it goes by another history: this database was put back since"));
    }
    if !postponed(&connection)?.is_empty() {
        return Err(not_built("it is not finished"));
    }
    DatabaseFile::of(connection, path, Durability::Volatile)
}

/// Makes a database where there was none, to be filled from the stream alone. Goes on with it where it was begun and
/// judged by the same criteria, which `judged_by` tells.
///
/// # Errors
/// Where the file cannot be written.
pub(in crate::store) async fn create_shadow(
    lock: &Lock,
    rules: Rules,
    judged_by: &str,
) -> Result<DatabaseFile, StoreError> {
    let path = lock.database().to_owned();
    let about = format!("stream alone {} {:?} {judged_by}", boot_id(), fingerprints(&rules));
    let begun = about_of(&path);
    if begun.as_ref().is_some_and(|begun| *begun != about) {
        remove_database(&path)?;
    }
    migrate::up(lock).await?;
    blocking(move || {
        let built = open_file(&path, DEFAULT_PAGE_SIZE)?;
        if begun.is_none_or(|begun| begun != about) {
            transact(&built, |tx| postpone(tx, &about))?;
        }
        DatabaseFile::of(built, &path, Durability::Volatile)
    })
    .await
}

/// The page size counts for a file that is not there yet.
fn open_file(path: &Path, page_size: i64) -> rusqlite::Result<Connection> {
    let built = Connection::open(path)?;
    built.pragma_update(None, "page_size", page_size)?;
    // What is copied from the live database has set them off there.
    built.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
    // Whoever goes on with it reads its log.
    built.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    built.busy_timeout(BUSY_TIMEOUT)?;
    built.set_prepared_statement_cache_capacity(MAX_PREPARED_STATEMENTS);
    set_pragmas(&built, &PRAGMAS)?;
    built.pragma_update(None, "wal_autocheckpoint", MAX_PAGES)?;
    Ok(built)
}

/// What it is made of, in one text: equal texts, equal files.
fn about(live: &Path, rules: &Rules, built_from: BuiltFrom) -> Result<String, StoreError> {
    let live = open_for_reading(live)?;
    let schema: Vec<String> = live
        .prepare("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name")?
        .query_map([], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    let epochs: Vec<(i64, i64, i64)> = live
        .prepare("SELECT epoch, stream_created_ns, first_seq FROM _positions ORDER BY epoch")?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect::<rusqlite::Result<_>>()?;
    Ok(format!("{built_from:?} {} {epochs:?} {:?} {schema:?}", boot_id(), fingerprints(rules)))
}

fn read_about(built: &Connection) -> rusqlite::Result<Option<String>> {
    built.query_row("SELECT made_from FROM _shadow WHERE id = 1", [], |row| row.get(0)).optional()
}

/// Whether it goes by the history of the live database as it is now: neither is it ahead, nor has that one, put back,
/// decided otherwise of a message that it has passed.
fn is_of(built: &Connection, live: &Path) -> Result<bool, StoreError> {
    built.execute("ATTACH ?1 AS live", [attachable(live)?])?;
    let sql = "SELECT NOT EXISTS (SELECT 1 FROM main._positions b WHERE NOT EXISTS (SELECT 1 FROM live._positions l \
                   WHERE l.epoch = b.epoch AND l.last_seq >= b.last_seq)) \
               AND NOT EXISTS (SELECT 1 FROM live._rejections l JOIN main._positions b \
                   ON b.epoch = l.epoch AND l.stream_seq <= b.last_seq WHERE l.state <> 'applied' \
                   AND NOT EXISTS (SELECT 1 FROM main._shadow_passed r \
                       WHERE r.epoch = l.epoch AND r.stream_seq = l.stream_seq)) \
               AND NOT EXISTS (SELECT 1 FROM main._shadow_passed r WHERE NOT EXISTS (SELECT 1 FROM live._rejections l \
                   WHERE l.epoch = r.epoch AND l.stream_seq = r.stream_seq))";
    let is_of = built.query_row(sql, [], |row| row.get(0));
    built.execute("DETACH live", [])?;
    Ok(is_of?)
}

/// Sequences are passed because the ledger lists them.
pub(in crate::store) fn record_passed(tx: &Transaction<'_>, epoch: i64, listed: &[u64]) -> rusqlite::Result<()> {
    let mut insert = tx.prepare_cached("INSERT INTO _shadow_passed (epoch, stream_seq) VALUES (?1, ?2)")?;
    listed.iter().try_for_each(|seq| insert.execute(params![epoch, to_sql(*seq)]).map(drop))
}

/// One of them was applied since.
pub(in crate::store) fn forget_passed(tx: &Transaction<'_>, epoch: i64, seq: u64) -> rusqlite::Result<()> {
    let sql = "DELETE FROM _shadow_passed WHERE epoch = ?1 AND stream_seq = ?2";
    tx.prepare_cached(sql)?.execute(params![epoch, to_sql(seq)]).map(drop)
}

fn create(built: &Connection, live: &Path, about: &str) -> Result<(), StoreError> {
    let live = open_for_reading(live)?;
    ensure_known_columns(&live)?;
    for pragma in ["user_version", "application_id"] {
        let value: i64 = live.query_row(&format!("PRAGMA {pragma}"), [], |row| row.get(0))?;
        built.pragma_update(None, pragma, value)?;
    }
    let sql = "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND substr(name, 1, 7) <> 'sqlite_' \
               ORDER BY type <> 'table', type <> 'index', name";
    let schema: Vec<String> = live.prepare(sql)?.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    if let Some(table) =
        schema.iter().find(|sql| sql.get(..15).is_some_and(|head| head.eq_ignore_ascii_case("CREATE VIRTUAL ")))
    {
        return Err(StoreError::CannotCarryOver { what: format!("a virtual table: {table}") });
    }
    transact(built, |tx| {
        for statement in &schema {
            tx.execute_batch(statement)?;
        }
        postpone(tx, about)
    })
}

/// What others have added to a raw table's rows comes from no message.
fn ensure_known_columns(live: &Connection) -> Result<(), StoreError> {
    let known = |table: &str| match table {
        AnalyticsEvent::TABLE => AnalyticsEvent::COLUMNS,
        Metric::TABLE => Metric::COLUMNS,
        _ => SessionMessage::COLUMNS,
    };
    for table in RAW_TABLES {
        let columns: Vec<String> = live
            .prepare("SELECT name FROM pragma_table_info(?1)")?
            .query_map([table], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        let all: Vec<&str> = known(table).split(", ").chain(ORIGIN_COLUMNS.split(", ")).collect();
        if let Some(column) = columns.iter().find(|column| !all.contains(&column.as_str())) {
            return Err(StoreError::CannotCarryOver { what: format!("column {column} of {table}") });
        }
    }
    Ok(())
}

/// Takes away what loading does not need, and remembers it.
fn postpone(tx: &Transaction<'_>, about: &str) -> Result<(), StoreError> {
    let raw = RAW_TABLES.map(|table| format!("'{table}'")).join(", ");
    // Indexes of internal tables are for their own writes.
    let sql = format!(
        "SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL AND (type IN ('view', 'trigger') OR \
         type = 'index' AND (tbl_name IN ({raw}) OR substr(tbl_name, 1, 1) <> '_')) ORDER BY type, name"
    );
    let postponed: Vec<(String, String, String)> = tx
        .prepare(&sql)?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect::<rusqlite::Result<_>>()?;
    for (kind, name, _) in &postponed {
        // A trigger may have gone with its view.
        tx.execute_batch(&format!("DROP {kind} IF EXISTS \"{}\"", name.replace('"', "\"\"")))?;
    }
    let statements: Vec<String> = postponed.into_iter().map(|(_, _, sql)| sql).collect();
    tx.execute_batch(ABOUT)?;
    let statements = serde_json::to_string(&statements).unwrap_or_default();
    tx.execute("INSERT INTO _shadow (id, made_from, postponed) VALUES (1, ?1, ?2)", params![about, statements])?;
    Ok(())
}

/// What was postponed and is not made yet.
fn postponed(built: &Connection) -> rusqlite::Result<Vec<String>> {
    let text: String = built.query_row("SELECT postponed FROM _shadow WHERE id = 1", [], |row| row.get(0))?;
    Ok(serde_json::from_str(&text).unwrap_or_default())
}

/// Makes what was postponed last. Returns whether there was any.
pub(in crate::store) fn make_postponed(tx: &Transaction<'_>) -> rusqlite::Result<bool> {
    let mut statements = postponed(tx)?;
    let Some(statement) = statements.pop() else { return Ok(false) };
    set_pragmas(tx, &INDEX_PRAGMAS)?;
    tx.execute_batch(&statement)?;
    if statements.is_empty() {
        set_pragmas(tx, &[CACHE])?;
    }
    let statements = serde_json::to_string(&statements).unwrap_or_default();
    tx.execute("UPDATE _shadow SET postponed = ?1", [statements])?;
    Ok(true)
}

/// It is a database like any other.
pub(in crate::store) fn forget(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch("DROP TABLE IF EXISTS _shadow; DROP TABLE IF EXISTS _shadow_passed")
}

/// Of the next ids of a raw table of the database that is attached as `live`: the last, and the first that is not here
/// though the replay has passed its message. None where there are no more.
fn lost_rows(
    built: &Connection,
    table: &str,
    after: &str,
    count: u32,
) -> Result<Option<(String, Option<String>)>, StoreError> {
    // One moment of both; short, since the live one's write-ahead log cannot shrink meanwhile.
    let read = built.unchecked_transaction()?;
    let upto = format!("SELECT max(id) FROM (SELECT id FROM live.{table} WHERE id > ?1 ORDER BY id LIMIT ?2)");
    let upto: Option<String> = read.query_row(&upto, params![after, count], |row| row.get(0))?;
    let Some(upto) = upto else { return Ok(None) };
    let lost = format!(
        "SELECT id FROM live.{table} l WHERE id > ?1 AND id <= ?2 \
         AND NOT EXISTS (SELECT 1 FROM main.{table} b WHERE b.id = l.id) \
         AND NOT EXISTS (SELECT 1 FROM main._positions p WHERE p.epoch = l.epoch AND l.stream_seq > p.last_seq) \
         ORDER BY id LIMIT 1"
    );
    Ok(Some((upto.clone(), read.query_row(&lost, params![after, upto], |row| row.get(0)).optional()?)))
}

/// Makes sure that a database that is built aside holds every raw row of the live one, as far as it has come. Blocks.
///
/// # Errors
/// [`StoreError::WouldLose`] names the first that it does not hold.
pub fn ensure_nothing_lost(file: &Path, live: &Path) -> Result<(), StoreError> {
    let built = open_for_reading(file)?;
    built.execute("ATTACH ?1 AS live", [attachable(live)?])?;
    for table in RAW_TABLES {
        let mut after = String::new();
        while let Some((upto, lost)) = lost_rows(&built, table, &after, IDS_AT_ONCE)? {
            if let Some(id) = lost {
                let why = "no message that was accepted is this row".to_owned();
                return Err(StoreError::WouldLose { table, id, why });
            }
            after = upto;
        }
    }
    Ok(())
}

/// Rows of a table.
pub(in crate::store) fn count(connection: &Connection, table: &str) -> rusqlite::Result<i64> {
    connection.query_row(&format!("SELECT count(*) FROM main.{table}"), [], |row| row.get(0))
}

/// Where the shadow lies that is to be installed in the place of a database.
pub fn shadow_path(database: &Path) -> PathBuf {
    with_suffix(database, ".shadow")
}

/// Where the shadow lies that a database is compared with.
pub fn verify_path(database: &Path) -> PathBuf {
    with_suffix(database, ".verify")
}

/// Whether a file is one that a rebuild was killed in.
pub fn is_unfinished(path: &Path) -> bool {
    about_of(path).is_some()
}

fn about_of(path: &Path) -> Option<String> {
    let built = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).ok()?;
    read_about(&built).ok().flatten()
}
