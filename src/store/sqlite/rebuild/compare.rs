//! Compares two databases row by row: the live database and a shadow.

use std::cmp::Ordering;
use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::types::{Value, ValueRef};
use rusqlite::{Connection, Row, params_from_iter};
use serde::Serialize;

use crate::position::Position;
use crate::store::error::StoreError;
use crate::store::sqlite::file::pragmas::open_for_reading;
use crate::store::sqlite::ledger::{positions, rejections};
use crate::store::sqlite::schema::PUBLIC_TABLES;

/// How long one read transaction of the live database may last during a comparison: the write-ahead log cannot shrink
/// meanwhile.
const MAX_SNAPSHOT: Duration = Duration::from_secs(2);
/// Rows that are compared between two looks at the clock.
const LOOK_EVERY_ROWS: u64 = 1_000;
/// Characters of a value that are shown at most.
const MAX_SHOWN_CHARS: usize = 200;

/// The result of one table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Compared {
    /// The table.
    pub table: &'static str,
    /// Rows that are equal in both databases.
    pub equal_rows: u64,
    /// The first row that differs. The rows after it were not compared.
    pub difference: Option<Difference>,
}

impl Compared {
    pub(super) fn none(table: &'static str) -> Self {
        Self { table, equal_rows: 0, difference: None }
    }
}

/// A row that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The id of the row.
    pub id: String,
    /// How the row differs.
    #[serde(flatten)]
    pub how: How,
}

/// How a row differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "how")]
pub enum How {
    /// The live database has the row, and the rebuild does not.
    Extra,
    /// The rebuild has the row, and the live database does not.
    Missing,
    /// A column has another value.
    Other {
        /// The first column that differs.
        column: String,
        /// The value in the live database.
        found: String,
        /// The value in the rebuild.
        rebuilt: String,
    },
}

/// A comparison, and how far it is.
#[derive(Debug)]
pub struct Comparison {
    live: Connection,
    built: Connection,
    /// The results of the finished tables, and of the current table so far.
    compared: Vec<Compared>,
    /// The id after which the comparison of the current table continues.
    after: Option<Value>,
    is_within: bool,
}

/// The state of the live database when a snapshot of it began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moment {
    /// The position of the live database.
    pub position: Option<Position>,
    last_retry: i64,
}

impl Comparison {
    /// Opens both databases to compare them. All methods block.
    ///
    /// # Errors
    /// Fails if a database cannot be read.
    pub fn open(live: &Path, built: &Path) -> Result<Self, StoreError> {
        let (live, built) = (open_for_reading(live)?, open_for_reading(built)?);
        Ok(Self { live, built, compared: Vec::new(), after: None, is_within: false })
    }

    /// Begins a snapshot of the live database: from now on it is read as it is at this moment.
    ///
    /// # Errors
    /// Fails if the live database cannot be read.
    pub fn hold(&mut self) -> Result<Moment, StoreError> {
        self.let_go()?;
        self.live.execute_batch("SAVEPOINT compared")?;
        Ok(Moment { position: positions::last(&self.live)?, last_retry: rejections::last_retry(&self.live)? })
    }

    /// Returns whether the shadow is exactly at that moment, and no dead letter was retried since.
    ///
    /// # Errors
    /// Fails if the shadow, or the live database as it is now, cannot be read.
    pub fn is_at(&self, moment: &Moment, live: &Path) -> Result<bool, StoreError> {
        let retry_now = rejections::last_retry(&open_for_reading(live)?)?;
        let seq = |position: &Option<Position>| position.as_ref().map(|position| (position.epoch, position.last_seq));
        Ok(seq(&positions::last(&self.built)?) == seq(&moment.position) && retry_now == moment.last_retry)
    }

    /// Ends the snapshot of the live database, if there is one.
    ///
    /// # Errors
    /// Fails if SQLite cannot end the snapshot.
    pub fn let_go(&mut self) -> Result<(), StoreError> {
        if !self.live.is_autocommit() {
            self.live.execute_batch("RELEASE compared")?;
        }
        Ok(())
    }

    /// Compares rows for as long as one snapshot may last. Returns whether all rows are compared.
    ///
    /// # Errors
    /// Fails if a database cannot be read.
    pub fn go_on(&mut self) -> Result<bool, StoreError> {
        let began = Instant::now();
        while let Some((table, columns)) = PUBLIC_TABLES.get(self.compared.len() - usize::from(self.is_within)) {
            if !self.is_within {
                self.compared.push(Compared::none(table));
                (self.is_within, self.after) = (true, None);
            }
            let Some(compared) = self.compared.last_mut() else { return Ok(true) };
            let (live, built) = (&self.live, &self.built);
            let is_done = compare_table(live, built, columns, compared, &mut self.after, began)?;
            self.is_within = !is_done;
            if !is_done || began.elapsed() > MAX_SNAPSHOT {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Returns the results so far.
    pub fn compared(&self) -> &[Compared] {
        &self.compared
    }
}

/// Compares rows in the order of their ids, until a row differs, the rows end, or the time is up. Returns whether the
/// table is finished.
fn compare_table(
    live: &Connection,
    built: &Connection,
    columns: &str,
    compared: &mut Compared,
    after: &mut Option<Value>,
    began: Instant,
) -> Result<bool, StoreError> {
    let condition = if after.is_some() { "id > ?1" } else { "?1 IS NULL" };
    let key = [after.clone().unwrap_or(Value::Null)];
    compare_rows(live, built, columns, condition, &key, compared, |found, equal_rows| {
        let is_over = equal_rows.is_multiple_of(LOOK_EVERY_ROWS) && began.elapsed() > MAX_SNAPSHOT;
        if is_over {
            *after = Some(found.get(0)?);
        }
        Ok(is_over)
    })
}

/// Compares the rows that a condition selects in both databases. Stops at the first row that differs, or when
/// `is_enough` returns true for an equal row and the number of equal rows so far. Compares nothing if `compared`
/// already has a difference. Returns whether the comparison is finished.
pub(super) fn compare_rows(
    live: &Connection,
    built: &Connection,
    columns: &str,
    condition: &str,
    key: &[Value],
    compared: &mut Compared,
    mut is_enough: impl FnMut(&Row<'_>, u64) -> rusqlite::Result<bool>,
) -> Result<bool, StoreError> {
    if compared.difference.is_some() {
        return Ok(true);
    }
    let sql = format!("SELECT {columns} FROM {} WHERE {condition} ORDER BY id", compared.table);
    let (mut of_live, mut of_built) = (live.prepare_cached(&sql)?, built.prepare(&sql)?);
    let names: Vec<String> = of_live.column_names().into_iter().map(str::to_owned).collect();
    let (mut left, mut right) = (of_live.query(params_from_iter(key))?, of_built.query(params_from_iter(key))?);
    loop {
        let (found, rebuilt) = (left.next()?, right.next()?);
        compared.difference = one_of(found, rebuilt, &names)?;
        let Some(found) = found.filter(|_| compared.difference.is_none()) else { return Ok(true) };
        compared.equal_rows += 1;
        if is_enough(found, compared.equal_rows)? {
            return Ok(false);
        }
    }
}

fn one_of(
    found: Option<&Row<'_>>,
    rebuilt: Option<&Row<'_>>,
    names: &[String],
) -> rusqlite::Result<Option<Difference>> {
    Ok(match (found, rebuilt) {
        (None, None) => None,
        (Some(found), None) => Some(Difference { id: shown(found.get_ref(0)?), how: How::Extra }),
        (None, Some(rebuilt)) => Some(Difference { id: shown(rebuilt.get_ref(0)?), how: How::Missing }),
        (Some(found), Some(rebuilt)) => difference(found, rebuilt, names)?,
    })
}

fn difference(found: &Row<'_>, rebuilt: &Row<'_>, names: &[String]) -> rusqlite::Result<Option<Difference>> {
    let (id, id_rebuilt) = (found.get_ref(0)?, rebuilt.get_ref(0)?);
    match order(id, id_rebuilt) {
        Ordering::Less => return Ok(Some(Difference { id: shown(id), how: How::Extra })),
        Ordering::Greater => return Ok(Some(Difference { id: shown(id_rebuilt), how: How::Missing })),
        Ordering::Equal => {}
    }
    for (at, column) in names.iter().enumerate() {
        let (left, right) = (found.get_ref(at)?, rebuilt.get_ref(at)?);
        if !is_same(left, right) {
            let how = How::Other { column: column.clone(), found: shown(left), rebuilt: shown(right) };
            return Ok(Some(Difference { id: shown(id), how }));
        }
    }
    Ok(None)
}

/// Compares two values to the bit, as the digest does.
fn is_same(left: ValueRef<'_>, right: ValueRef<'_>) -> bool {
    match (left, right) {
        (ValueRef::Real(left), ValueRef::Real(right)) => left.to_bits() == right.to_bits(),
        (left, right) => left == right,
    }
}

/// Compares keys in SQLite's order: NULL, numbers, texts by their bytes, blobs.
fn order(left: ValueRef<'_>, right: ValueRef<'_>) -> Ordering {
    let class = |value: ValueRef<'_>| match value {
        ValueRef::Null => 0,
        ValueRef::Integer(_) | ValueRef::Real(_) => 1,
        ValueRef::Text(_) => 2,
        ValueRef::Blob(_) => 3,
    };
    let number = |value: ValueRef<'_>| match value {
        ValueRef::Integer(integer) => integer as f64,
        ValueRef::Real(real) => real,
        _ => 0.0,
    };
    match (left, right) {
        (ValueRef::Text(left), ValueRef::Text(right)) | (ValueRef::Blob(left), ValueRef::Blob(right)) => {
            left.cmp(right)
        }
        _ => class(left).cmp(&class(right)).then(number(left).total_cmp(&number(right))),
    }
}

fn shown(value: ValueRef<'_>) -> String {
    let text = match value {
        ValueRef::Null => "NULL".to_owned(),
        ValueRef::Integer(integer) => integer.to_string(),
        ValueRef::Real(real) => format!("{real:?}"),
        ValueRef::Text(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        ValueRef::Blob(bytes) => format!("{} bytes", bytes.len()),
    };
    text.chars().take(MAX_SHOWN_CHARS).map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}
