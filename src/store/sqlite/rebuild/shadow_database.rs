//! A shadow database: a whole database that the worker's own writer fills from nothing.
//!
//! ```text
//! <database>         ledger, stored rows -- read, never locked -->  AcceptedLog
//! <file>             accepted messages, written by a Writer: no index that loading does not need, no fsync
//! <database>         <-- Writer::install_database, or the file becomes a database of its own
//! ```
//! If a process dies, the file stays at its last commit, and the next process continues from there. After a power cut
//! the rebuild starts over: until the file is finished, nothing in it is certain to be on the disk.

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

/// Tells what the file is, and what it still lacks.
///
/// made_from  the source and the rules of the rebuild: a file with another text is of no use
/// postponed  statements that create what loading does not need: indexes, views, triggers
///
/// `_shadow_passed` holds the sequences that the replay has passed because the ledger lists them. If a live database
/// that was restored from a backup has decided otherwise about one of them, the file is of no use.
const ABOUT: &str = "CREATE TABLE _shadow (id INTEGER PRIMARY KEY NOT NULL CHECK (id = 1), made_from TEXT NOT NULL, \
     postponed TEXT NOT NULL); \
     CREATE TABLE _shadow_passed (epoch INTEGER NOT NULL, stream_seq INTEGER NOT NULL, PRIMARY KEY (epoch, stream_seq)) \
     WITHOUT ROWID";
/// 64 MiB, so that pages that grow at random places stay in memory for longer.
const CACHE: (&str, &str) = ("cache_size", "-65536");
/// The settings of the shadow's connection.
const PRAGMAS: [(&str, &str); 5] =
    [("journal_mode", "WAL"), ("synchronous", "OFF"), ("foreign_keys", "OFF"), CACHE, ("temp_store", "FILE")];
/// The settings while indexes are created. What is sorted at once stays in the processor's cache (2 MiB). Sorting has
/// a thread of its own.
const INDEX_PRAGMAS: [(&str, &str); 2] = [("cache_size", "-2048"), ("threads", "1")];
/// 4 MiB while pages are copied, because no page is read twice.
pub(in crate::store) const COPY_CACHE: (&str, &str) = ("cache_size", "-4096");
/// The page size in bytes of a database that is created here.
const DEFAULT_PAGE_SIZE: i64 = 4096;
/// Ids that are compared in one read transaction of the live database.
const IDS_AT_ONCE: u32 = 100_000;

/// The source of a rebuild of the whole database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BuiltFrom {
    /// The stream, and the stored row of each message that the stream no longer holds.
    Stream,
    /// The stored rows only.
    Rows,
}

/// Opens the shadow of a live database. The caller has the lock of the shadow. Continues the shadow if it was begun
/// from the same source and with the same rules, else begins it from nothing.
///
/// # Errors
/// Fails if a file cannot be read or written.
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

/// Opens a complete shadow, to be installed in a live database.
///
/// # Errors
/// [`StoreError::NotBuilt`] if the file is missing or unfinished, or belongs to another database, other rules or
/// another history.
pub(in crate::store) fn open_complete_shadow(
    lock: &Lock,
    live: &Path,
    rules: &Rules,
) -> Result<DatabaseFile, StoreError> {
    let path = lock.database();
    let not_built = |why: &str| StoreError::NotBuilt { path: path.to_owned(), why: why.to_owned() };
    if !path.is_file() {
        return Err(not_built("the file does not exist"));
    }
    let connection = open_file(path, DEFAULT_PAGE_SIZE)?;
    set_pragmas(&connection, &[COPY_CACHE])?;
    let about = about(live, rules, BuiltFrom::Stream)?;
    if read_about(&connection).ok().flatten().is_none_or(|found| found != about) {
        return Err(not_built("it was made from another database, or with another configuration than the worker has"));
    }
    if !is_of(&connection, live)? {
        return Err(not_built("its history differs: this database was restored from a backup since"));
    }
    if !postponed(&connection)?.is_empty() {
        return Err(not_built("it is not finished"));
    }
    DatabaseFile::of(connection, path, Durability::Volatile)
}

/// Creates a database where there was none, to be filled from the stream only. Continues it if it was begun with the
/// same rules and judged by the same criteria, which `judged_by` describes.
///
/// # Errors
/// Fails if the file cannot be written.
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

/// Opens the file. The page size takes effect if the file does not exist yet.
fn open_file(path: &Path, page_size: i64) -> rusqlite::Result<Connection> {
    let built = Connection::open(path)?;
    built.pragma_update(None, "page_size", page_size)?;
    // The live database has already run the triggers for the rows that are copied from it.
    built.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
    // The next process to open the file reads its write-ahead log.
    built.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    built.busy_timeout(BUSY_TIMEOUT)?;
    built.set_prepared_statement_cache_capacity(MAX_PREPARED_STATEMENTS);
    set_pragmas(&built, &PRAGMAS)?;
    built.pragma_update(None, "wal_autocheckpoint", MAX_PAGES)?;
    Ok(built)
}

/// Describes in one text what the file is made from: source, schema, epochs, rules, and the machine's boot id. Equal
/// texts mean equal files.
fn about(live: &Path, rules: &Rules, built_from: BuiltFrom) -> Result<String, StoreError> {
    let live = open_for_reading(live)?;
    // The marks may still be there if a process died just after it installed a shadow.
    let schema: Vec<String> = live
        .prepare(
            "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT IN ('_shadow', '_shadow_passed') \
             ORDER BY name",
        )?
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

/// Returns whether the shadow follows the history of the live database as it is now. The shadow must not be ahead. A
/// live database that was restored from a backup must not have decided otherwise about a message that the shadow has
/// passed.
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

/// Records sequences that the replay passes because the ledger lists them.
pub(in crate::store) fn record_passed(tx: &Transaction<'_>, epoch: i64, listed: &[u64]) -> rusqlite::Result<()> {
    let mut insert = tx.prepare_cached("INSERT INTO _shadow_passed (epoch, stream_seq) VALUES (?1, ?2)")?;
    listed.iter().try_for_each(|seq| insert.execute(params![epoch, to_sql(*seq)]).map(drop))
}

/// Removes a recorded sequence, because its dead letter was applied since.
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
               AND name NOT IN ('_shadow', '_shadow_passed') ORDER BY type <> 'table', type <> 'index', name";
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

/// Makes sure that the raw tables have no columns that other programs added: no message can fill them.
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

/// Drops what loading does not need, and records the statements that create it again.
fn postpone(tx: &Transaction<'_>, about: &str) -> Result<(), StoreError> {
    let raw = RAW_TABLES.map(|table| format!("'{table}'")).join(", ");
    // Indexes of internal tables that are not raw stay: the writes of these tables need them.
    let sql = format!(
        "SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL AND (type IN ('view', 'trigger') OR \
         type = 'index' AND (tbl_name IN ({raw}) OR substr(tbl_name, 1, 1) <> '_')) ORDER BY type, name"
    );
    let postponed: Vec<(String, String, String)> = tx
        .prepare(&sql)?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect::<rusqlite::Result<_>>()?;
    for (kind, name, _) in &postponed {
        // A trigger may be gone already, with its view.
        tx.execute_batch(&format!("DROP {kind} IF EXISTS \"{}\"", name.replace('"', "\"\"")))?;
    }
    let statements: Vec<String> = postponed.into_iter().map(|(_, _, sql)| sql).collect();
    tx.execute_batch(ABOUT)?;
    let statements = serde_json::to_string(&statements).unwrap_or_default();
    tx.execute("INSERT INTO _shadow (id, made_from, postponed) VALUES (1, ?1, ?2)", params![about, statements])?;
    Ok(())
}

/// Returns the postponed statements that were not executed yet.
fn postponed(built: &Connection) -> rusqlite::Result<Vec<String>> {
    let text: String = built.query_row("SELECT postponed FROM _shadow WHERE id = 1", [], |row| row.get(0))?;
    Ok(serde_json::from_str(&text).unwrap_or_default())
}

/// Executes the last of the postponed statements. Returns whether there was one.
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

/// Drops the tables that mark the file as a shadow. It is then a database like any other.
pub(in crate::store) fn forget(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch("DROP TABLE IF EXISTS _shadow; DROP TABLE IF EXISTS _shadow_passed")
}

/// Checks the next `count` ids of a raw table in the database that is attached as `live`. Returns the last of these
/// ids, and the first lost one: an id that the shadow does not hold although the replay has passed its message.
/// `None` if there are no more ids.
fn lost_rows(
    built: &Connection,
    table: &str,
    after: &str,
    count: u32,
) -> Result<Option<(String, Option<String>)>, StoreError> {
    // One moment of both databases. It is short, since the live write-ahead log cannot shrink meanwhile.
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

/// Makes sure that a shadow holds every raw row of the live database, up to the shadow's position. Blocks.
///
/// # Errors
/// [`StoreError::WouldLose`] names the first row that the shadow does not hold.
pub fn ensure_nothing_lost(file: &Path, live: &Path) -> Result<(), StoreError> {
    let built = open_for_reading(file)?;
    built.execute("ATTACH ?1 AS live", [attachable(live)?])?;
    for table in RAW_TABLES {
        let mut after = String::new();
        while let Some((upto, lost)) = lost_rows(&built, table, &after, IDS_AT_ONCE)? {
            if let Some(id) = lost {
                let why = "no accepted message makes this row".to_owned();
                return Err(StoreError::WouldLose { table, id, why });
            }
            after = upto;
        }
    }
    Ok(())
}

/// Counts the rows of a table.
pub(in crate::store) fn count(connection: &Connection, table: &str) -> rusqlite::Result<i64> {
    connection.query_row(&format!("SELECT count(*) FROM main.{table}"), [], |row| row.get(0))
}

/// Returns the path of the shadow that is to be installed in a database.
pub fn shadow_path(database: &Path) -> PathBuf {
    with_suffix(database, ".shadow")
}

/// Returns the path of the shadow that a database is compared with.
pub fn verify_path(database: &Path) -> PathBuf {
    with_suffix(database, ".verify")
}

/// Returns whether a file is a shadow that a killed rebuild left behind.
pub fn is_unfinished(path: &Path) -> bool {
    about_of(path).is_some()
}

/// Removes a shadow that is installed, unless another process fills it again already.
///
/// # Errors
/// Fails if the system refuses to remove a file.
pub(in crate::store) fn remove_installed(path: &Path) -> Result<(), StoreError> {
    if !is_unfinished(path) {
        return Ok(());
    }
    match Lock::try_acquire(path, "rebuild (install)") {
        Err(StoreError::Locked { .. }) => Ok(()),
        lock => lock?.remove_database(),
    }
}

fn about_of(path: &Path) -> Option<String> {
    let built = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).ok()?;
    read_about(&built).ok().flatten()
}
