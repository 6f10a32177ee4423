//! The derived tables: how facts become rows. The rules are in [`crate::analytics`]; here is where states are kept.

mod rebuild;
mod rollups;
mod sessions;
mod watermark;

use rusqlite::{CachedStatement, Transaction};

use self::rollups::RollupTables;
use self::sessions::SessionTables;
use super::{Spent, StoreError};
use crate::analytics::{self, Change, Facts, Group, Rules, State};

pub(super) use rebuild::{is_current, rebuild};

/// Where a group keeps its states. Gets and puts them by the batch; merging happens in [`crate::analytics`].
trait Table<G: Group> {
    /// The states of keys, in their order; none where a key is new.
    fn get_many<'a>(&mut self, keys: impl Iterator<Item = &'a G::Key>) -> Result<Vec<Option<G::State>>, StoreError>
    where
        G::Key: 'a;

    /// Writes changed states, and the public rows that show them.
    fn put_many(&mut self, changes: &[(G::Key, Change<G>)]) -> Result<(), StoreError>;
}

/// Brings the derived tables up to what the stored messages of a batch say. Groups stand in the order in which one
/// speaks to another: what an earlier one says to a later one is added to the facts in time.
pub(super) fn apply(tx: &Transaction<'_>, rules: Rules, mut facts: Facts, spent: &mut Spent) -> Result<(), StoreError> {
    apply_group(&mut RollupTables::prepare(tx)?, &mut facts, |facts| &mut facts.rollups)?;
    spent.lap("rollups");
    let before = watermark::get(tx)?;
    let Some(t) = before.max(facts.watermark) else { return Ok(()) };
    let closed_before = rules.closed_before(t);
    apply_group(&mut SessionTables::prepare(tx, closed_before)?, &mut facts, |facts| &mut facts.sessions)?;
    if before < Some(t) {
        sessions::close(tx, before.map(|before| rules.closed_before(before)), closed_before)?;
        watermark::put(tx, t)?;
    }
    spent.lap("sessions");
    Ok(())
}

fn apply_group<G: Group>(
    table: &mut impl Table<G>,
    facts: &mut Facts,
    group: impl Fn(&mut Facts) -> &mut analytics::ByKey<G>,
) -> Result<(), StoreError> {
    let own = std::mem::take(group(facts));
    if own.is_empty() {
        return Ok(());
    }
    let states = table.get_many(own.keys())?;
    let changes = analytics::apply(states, own, facts);
    table.put_many(&changes)
}

/// The state that a statement selects for a key.
fn select_state<S: State>(
    select: &mut CachedStatement<'_>,
    table: &'static str,
    key: &str,
) -> Result<Option<S>, StoreError> {
    let damaged = |why: String| StoreError::Damaged { table, key: key.to_owned(), why };
    let mut rows = select.query([key])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let bytes = row.get_ref(0)?.as_blob().map_err(|error| damaged(error.to_string()))?;
    S::from_bytes(bytes).map(Some).map_err(|error| damaged(error.to_string()))
}

/// A new key has no state, and so must have no row.
fn row_without_state(table: &'static str, key: &str) -> StoreError {
    StoreError::Damaged { table, key: key.to_owned(), why: "there is none, but a row that shows it".into() }
}
