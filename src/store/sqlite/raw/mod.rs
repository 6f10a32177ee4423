//! The raw tables. A record with a new id is inserted; any other record is compared with the stored one.

mod events;
mod metrics;
mod session_messages;
mod write;

use rusqlite::{CachedStatement, Row, Transaction};

use crate::judge::{Accepted, Message, Record, Rejection, Supplied, compare, unreadable};
use crate::store::sqlite::values::is_unreadable;

pub(in crate::store) use write::{write, write_accepted};

/// A raw table: the record's columns, then the columns that say where the row came from.
pub(in crate::store) trait RawTable: Record + Sized {
    const TABLE: &'static str;
    /// The record's columns. [`RawTable::insert`] binds them, and [`RawTable::from_row`] reads them, in this order.
    const COLUMNS: &'static str;

    /// Returns the record as a message that was judged.
    fn message(judged: Accepted<Self>) -> Message;
    fn insert(&self, statement: &mut CachedStatement<'_>, origin: RowOrigin) -> rusqlite::Result<usize>;
    fn from_row(row: &Row<'_>) -> rusqlite::Result<Self>;
}

/// The columns that say where a row came from, bound after the record's own.
pub(in crate::store) const ORIGIN_COLUMNS: &str = "epoch, stream_seq, recv_ms, supplied";

/// Where a row came from.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) struct RowOrigin {
    pub(in crate::store) epoch: i64,
    pub(in crate::store) stream_seq: i64,
    pub(in crate::store) recv_ms: i64,
    pub(in crate::store) supplied: u8,
}

/// How the insert of a message ended.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::store) enum InsertOutcome {
    Stored,
    Duplicate,
    Rejected(Rejection),
}

/// One raw table's statements, for one transaction.
pub(in crate::store) struct RawInsert<'tx> {
    insert: CachedStatement<'tx>,
    select: CachedStatement<'tx>,
}

impl<'tx> RawInsert<'tx> {
    pub(in crate::store) fn prepare<T: RawTable>(tx: &'tx Transaction<'_>) -> rusqlite::Result<Self> {
        let (table, columns) = (T::TABLE, T::COLUMNS);
        let width = columns.split(',').count() + ORIGIN_COLUMNS.split(',').count();
        let places = (1..=width).map(|place| format!("?{place}")).collect::<Vec<_>>().join(", ");
        let insert =
            format!("INSERT INTO {table} ({columns}, {ORIGIN_COLUMNS}) VALUES ({places}) ON CONFLICT (id) DO NOTHING");
        let select = format!("SELECT {columns}, supplied FROM {table} WHERE id = ?1");
        Ok(Self { insert: tx.prepare_cached(&insert)?, select: tx.prepare_cached(&select)? })
    }

    /// Stores a record if its id is new and its time is valid. If its id is known, compares it with the stored
    /// record.
    pub(in crate::store) fn insert_new<T: RawTable>(
        &mut self,
        judged: &Accepted<T>,
        origin: RowOrigin,
    ) -> rusqlite::Result<InsertOutcome> {
        if let Some(untimely) = &judged.untimely {
            let outcome = self.compare(judged)?;
            return Ok(outcome.unwrap_or_else(|| InsertOutcome::Rejected(untimely.clone())));
        }
        if judged.record.insert(&mut self.insert, origin)? == 1 {
            return Ok(InsertOutcome::Stored);
        }
        Ok(self.compare(judged)?.unwrap_or(InsertOutcome::Duplicate))
    }

    /// Compares a record with the stored record of the same id. Returns `None` if there is no such record.
    fn compare<T: RawTable>(&mut self, judged: &Accepted<T>) -> rusqlite::Result<Option<InsertOutcome>> {
        let columns = self.select.column_count();
        let stored = self
            .select
            .query_row([judged.record.id()], |row| Ok((T::from_row(row)?, Supplied::from_bits(row.get(columns - 1)?))));
        let compared = match stored {
            Ok((stored, supplied)) => compare(&stored, supplied, judged),
            Err(rusqlite::Error::QueryReturnedNoRows) => return Ok(None),
            // Another program wrote that row.
            Err(error) if is_unreadable(&error) => Err(unreadable::<T>(judged.record.id(), &error)),
            Err(error) => return Err(error),
        };
        Ok(Some(compared.map_or_else(InsertOutcome::Rejected, |()| InsertOutcome::Duplicate)))
    }
}
