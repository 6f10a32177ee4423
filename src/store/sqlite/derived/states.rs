//! How groups keep their states.

use rusqlite::{CachedStatement, Params, Row};

use crate::analytics::{Change, Group, State};
use crate::store::error::StoreError;

/// Where a group keeps its states. Loads and puts them by the batch; merging happens in [`crate::analytics`].
pub(super) trait StateTable<G: Group> {
    /// Reads the states of the keys that facts speak of, in their order; none where a key is new.
    fn load(&mut self, facts: &[(G::Key, G::Fact)]) -> Result<Vec<Option<G::State>>, StoreError>;

    /// Writes what is stored of a key beside its state, and fills into the facts what they need to know of it.
    fn put_members(&mut self, _facts: &mut [(G::Key, G::Fact)]) -> Result<(), StoreError> {
        Ok(())
    }

    /// Writes changed states, and the public rows that show them.
    fn put_many(&mut self, changes: &[(G::Key, Change<G>)]) -> Result<(), StoreError>;
}

/// The state that a statement selects for a key; `named` names the key where it is unreadable.
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

/// Writes a state: with fewer steps than an upsert, since it is known whether there is one.
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

/// The state in a column.
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

/// A new key has no state, and so must have no row.
pub(super) fn row_without_state(table: &'static str, key: &str) -> StoreError {
    StoreError::Damaged { table, key: key.to_owned(), why: "there is none, but a row that shows it".into() }
}
