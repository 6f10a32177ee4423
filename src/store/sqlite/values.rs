//! Converts values of columns. SQLite's integers are signed, and other programs may have written anything.

use rusqlite::Row;

use crate::store::error::{SqliteFailure, StoreError};

/// Converts a sequence to SQLite's signed integer. JetStream's sequences never reach 2^63.
pub(in crate::store) fn to_sql(sequence: u64) -> i64 {
    i64::try_from(sequence).unwrap_or(i64::MAX)
}

pub(in crate::store) fn from_sql(sequence: i64) -> u64 {
    u64::try_from(sequence).unwrap_or(0)
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::ErrorCode::{DatabaseCorrupt, DiskFull, NotADatabase};
        let failure = match error.sqlite_error_code() {
            Some(DiskFull) => SqliteFailure::DiskFull,
            Some(DatabaseCorrupt | NotADatabase) => SqliteFailure::Unreadable,
            _ => SqliteFailure::Other,
        };
        Self::Sqlite { failure, message: error.to_string() }
    }
}

/// Returns whether the error means that a row holds something that this program does not write.
pub(in crate::store) fn is_unreadable(error: &rusqlite::Error) -> bool {
    use rusqlite::Error::{FromSqlConversionFailure, IntegralValueOutOfRange, InvalidColumnType, Utf8Error};
    matches!(error, FromSqlConversionFailure(..) | IntegralValueOutOfRange(..) | InvalidColumnType(..) | Utf8Error(..))
}

/// Reads a column that holds the text form of a type.
pub(in crate::store) fn parsed<T>(
    row: &Row<'_>,
    column: usize,
    parse: impl FnOnce(&str) -> Option<T>,
) -> rusqlite::Result<T> {
    let text = row.get_ref(column)?.as_str()?;
    parse(text).ok_or_else(|| {
        let error = format!("column {column} holds {text:?}");
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, error.into())
    })
}

/// Returns how many bytes the texts in the first `columns` columns of a row take.
pub(in crate::store) fn text_bytes(row: &Row<'_>, columns: usize) -> rusqlite::Result<usize> {
    let of_column = |column| Ok(row.get_ref(column)?.as_bytes_or_null().ok().flatten().map_or(0, <[u8]>::len));
    (0..columns).map(of_column).sum()
}
