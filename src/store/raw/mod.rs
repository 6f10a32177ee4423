//! The raw tables: insert where the id is new, else compare with what is stored.

mod events;
mod metrics;
mod session_messages;
mod write;

use rusqlite::{CachedStatement, Row, Transaction};

use crate::judge::{Accepted, Message, Record, Rejection, Supplied, compare, unreadable};

pub use write::Counts;
pub(super) use write::{End, Written, stored, write, write_accepted};

/// A raw table: a record's columns, then where it came from.
pub(super) trait RawTable: Record + Sized {
    const TABLE: &'static str;
    /// The record's columns, in the order in which [`RawTable::insert`] binds them and [`RawTable::from_row`] reads them.
    const COLUMNS: &'static str;

    /// The record as a message that was judged.
    fn message(judged: Accepted<Self>) -> Message;
    fn insert(&self, statement: &mut CachedStatement<'_>, origin: RowOrigin) -> rusqlite::Result<usize>;
    fn from_row(row: &Row<'_>) -> rusqlite::Result<Self>;
}

/// The columns that say where a row came from, bound after the record's own.
pub(super) const ORIGIN_COLUMNS: &str = "epoch, stream_seq, recv_ms, supplied";

/// Where a row came from.
#[derive(Debug, Clone, Copy)]
pub(super) struct RowOrigin {
    pub(super) epoch: i64,
    pub(super) stream_seq: i64,
    pub(super) recv_ms: i64,
    pub(super) supplied: u8,
}

/// What became of a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Stored,
    Duplicate,
    Rejected(Rejection),
}

/// One raw table's statements, for one transaction.
pub(super) struct Insert<'tx> {
    insert: CachedStatement<'tx>,
    select: CachedStatement<'tx>,
}

impl<'tx> Insert<'tx> {
    pub(super) fn prepare<T: RawTable>(tx: &'tx Transaction<'_>) -> rusqlite::Result<Self> {
        let (table, columns) = (T::TABLE, T::COLUMNS);
        let width = columns.split(',').count() + ORIGIN_COLUMNS.split(',').count();
        let places = (1..=width).map(|place| format!("?{place}")).collect::<Vec<_>>().join(", ");
        let insert =
            format!("INSERT INTO {table} ({columns}, {ORIGIN_COLUMNS}) VALUES ({places}) ON CONFLICT (id) DO NOTHING");
        let select = format!("SELECT {columns}, supplied FROM {table} WHERE id = ?1");
        Ok(Self { insert: tx.prepare_cached(&insert)?, select: tx.prepare_cached(&select)? })
    }

    /// Stores a record where its id is new and its time permits.
    pub(super) fn insert_new<T: RawTable>(
        &mut self,
        judged: &Accepted<T>,
        origin: RowOrigin,
    ) -> rusqlite::Result<Outcome> {
        if let Some(untimely) = &judged.untimely {
            let outcome = self.compare(judged)?;
            return Ok(outcome.unwrap_or_else(|| Outcome::Rejected(untimely.clone())));
        }
        if judged.record.insert(&mut self.insert, origin)? == 1 {
            return Ok(Outcome::Stored);
        }
        Ok(self.compare(judged)?.unwrap_or(Outcome::Duplicate))
    }

    /// Compares with the stored record of the same id; none where there is none.
    fn compare<T: RawTable>(&mut self, judged: &Accepted<T>) -> rusqlite::Result<Option<Outcome>> {
        let columns = self.select.column_count();
        let stored = self
            .select
            .query_row([judged.record.id()], |row| Ok((T::from_row(row)?, Supplied::from_bits(row.get(columns - 1)?))));
        let compared = match stored {
            Ok((stored, supplied)) => compare(&stored, supplied, judged),
            Err(rusqlite::Error::QueryReturnedNoRows) => return Ok(None),
            // Some other program wrote that row.
            Err(error) if is_unreadable(&error) => Err(unreadable::<T>(judged.record.id(), &error)),
            Err(error) => return Err(error),
        };
        Ok(Some(compared.map_or_else(Outcome::Rejected, |()| Outcome::Duplicate)))
    }
}

/// Whether a row holds what this program does not write.
pub(super) fn is_unreadable(error: &rusqlite::Error) -> bool {
    use rusqlite::Error::{FromSqlConversionFailure, IntegralValueOutOfRange, InvalidColumnType, Utf8Error};
    matches!(error, FromSqlConversionFailure(..) | IntegralValueOutOfRange(..) | InvalidColumnType(..) | Utf8Error(..))
}

/// A column that holds the text form of some type.
pub(super) fn parsed<T>(row: &Row<'_>, column: usize, parse: impl FnOnce(&str) -> Option<T>) -> rusqlite::Result<T> {
    let text = row.get_ref(column)?.as_str()?;
    parse(text).ok_or_else(|| {
        let error = format!("column {column} holds {text:?}");
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, error.into())
    })
}

/// What the texts of a row take.
pub(super) fn size_bytes(row: &Row<'_>, columns: usize) -> rusqlite::Result<usize> {
    let text_bytes = |column| Ok(row.get_ref(column)?.as_bytes_or_null().ok().flatten().map_or(0, <[u8]>::len));
    (0..columns).map(text_bytes).sum()
}
