//! `_positions`: reads positions, begins epochs, and moves a position by compare-and-set.

use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

use crate::position::Position;
use crate::store::error::StoreError;
use crate::store::sqlite::values::{from_sql, to_sql};

const COLUMNS: &str = "stream, epoch, stream_created_ns, first_seq, last_seq, last_recv_ns";

fn from_row(row: &Row<'_>) -> rusqlite::Result<Position> {
    Ok(Position {
        stream: row.get(0)?,
        epoch: row.get(1)?,
        stream_created_ns: row.get(2)?,
        first_seq: from_sql(row.get(3)?),
        last_seq: from_sql(row.get(4)?),
        last_recv_ns: row.get(5)?,
    })
}

/// Returns the position in the latest epoch.
pub(in crate::store) fn last(connection: &Connection) -> rusqlite::Result<Option<Position>> {
    let sql = format!("SELECT {COLUMNS} FROM _positions ORDER BY epoch DESC LIMIT 1");
    connection.prepare_cached(&sql)?.query_row([], from_row).optional()
}

/// Returns how far an epoch was read.
pub(in crate::store) fn of_epoch(connection: &Connection, epoch: i64) -> rusqlite::Result<Option<Position>> {
    let sql = format!("SELECT {COLUMNS} FROM _positions WHERE epoch = ?1");
    connection.prepare_cached(&sql)?.query_row([epoch], from_row).optional()
}

/// Returns how far each epoch was read, in the order of epochs.
pub(in crate::store) fn all(connection: &Connection) -> rusqlite::Result<Vec<Position>> {
    let sql = format!("SELECT {COLUMNS} FROM _positions ORDER BY epoch");
    connection.prepare_cached(&sql)?.query_map([], from_row)?.collect()
}

/// Begins an epoch.
pub(in crate::store) fn insert(tx: &Transaction<'_>, position: &Position) -> rusqlite::Result<()> {
    let sql =
        "INSERT INTO _positions (epoch, stream, stream_created_ns, first_seq, last_seq) VALUES (?1, ?2, ?3, ?4, ?5)";
    tx.execute(
        sql,
        params![
            position.epoch,
            position.stream,
            position.stream_created_ns,
            to_sql(position.first_seq),
            to_sql(position.last_seq),
        ],
    )?;
    Ok(())
}

/// Moves the position from `after` to `end`. Fails if the position is not at `after`: then another program wrote.
pub(in crate::store) fn advance(tx: &Transaction<'_>, after: &Position, end: &Position) -> Result<(), StoreError> {
    let sql =
        "UPDATE _positions SET last_seq = ?1, last_recv_ns = ?2 WHERE epoch = ?3 AND stream = ?4 AND last_seq = ?5";
    let moved = tx.prepare_cached(sql)?.execute(params![
        to_sql(end.last_seq),
        end.last_recv_ns,
        after.epoch,
        after.stream,
        to_sql(after.last_seq),
    ])?;
    if moved == 1 { Ok(()) } else { Err(StoreError::PositionMoved) }
}

/// Adds stored messages and duplicates to the counts of an epoch.
pub(in crate::store) fn add_counts(
    tx: &Transaction<'_>,
    epoch: i64,
    stored: u64,
    duplicates: u64,
) -> rusqlite::Result<()> {
    let sql = "UPDATE _positions SET stored = stored + ?1, duplicates = duplicates + ?2 WHERE epoch = ?3";
    tx.prepare_cached(sql)?.execute(params![to_sql(stored), to_sql(duplicates), epoch])?;
    Ok(())
}
