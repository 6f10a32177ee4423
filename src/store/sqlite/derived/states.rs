//! How groups load and write their states.

use rusqlite::{CachedStatement, Params, Row};

use crate::analytics::{Change, Group, State};
use crate::store::error::StoreError;

/// The table in which a group keeps its states. Loads and writes states by the batch. [`crate::analytics`] merges
/// them.
pub(super) trait StateTable<G: Group> {
    /// Reads the state of each fact's key, in the order of the facts. `None` for a new key.
    fn load(&mut self, facts: &[(G::Key, G::Fact)]) -> Result<Vec<Option<G::State>>, StoreError>;

    /// Writes the rows that a key has beside its state, such as its members. Adds to the facts what they need to know
    /// of these rows.
    fn put_members(&mut self, _facts: &mut [(G::Key, G::Fact)]) -> Result<(), StoreError> {
        Ok(())
    }

    /// Writes changed states, and the public rows that show them.
    fn put_many(&mut self, changes: &[(G::Key, Change<G>)]) -> Result<(), StoreError>;
}

/// Reads the state that a statement selects for a key. If the state is unreadable, `named` names the key in the
/// error.
pub(super) fn select_state<S: State>(
    select: &mut CachedStatement<'_>,
    key: impl Params,
    table: &'static str,
    named: impl Fn() -> String,
) -> Result<Option<S>, StoreError> {
    let mut rows = select.query(key)?;
    let Some(row) = rows.next()? else { return Ok(None) };
    read_state(row, 0, table, named).map(Some)
}

/// Updates or inserts a state. Takes fewer steps than an upsert, since the caller knows whether the state exists.
pub(super) fn put_state(
    insert: &mut CachedStatement<'_>,
    update: &mut CachedStatement<'_>,
    is_there: bool,
    execute: impl Fn(&mut CachedStatement<'_>) -> rusqlite::Result<usize>,
) -> rusqlite::Result<()> {
    if !is_there || execute(update)? == 0 {
        execute(insert)?;
    }
    Ok(())
}

/// Reads the state in a column.
pub(super) fn read_state<S: State>(
    row: &Row<'_>,
    column: usize,
    table: &'static str,
    named: impl Fn() -> String,
) -> Result<S, StoreError> {
    let damaged = |why: String| StoreError::Damaged { table, key: named(), why };
    let bytes = row.get_ref(column)?.as_blob().map_err(|error| damaged(error.to_string()))?;
    S::from_bytes(bytes).map_err(|error| damaged(error.to_string()))
}

/// Returns the error for a new key that has a row: a key without a state must have no row.
pub(super) fn row_without_state(table: &'static str, key: &str) -> StoreError {
    StoreError::Damaged { table, key: key.to_owned(), why: "the state is missing, but its row exists".into() }
}
