//! The derived tables: how facts become rows. The rules are in [`crate::analytics`]; here is where states are kept.

mod activity;
mod dashboard;
mod event_counts;
mod features;
mod funnels;
mod gap_sessions;
mod groups;
mod links;
mod rollups;
mod segments;
mod series;
mod sessions;
mod swap;
mod watermark;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rusqlite::{CachedStatement, Params, Row, Transaction};

use self::activity::ActivityTables;
use self::features::FeatureTables;
use self::funnels::FunnelTables;
use self::gap_sessions::GapSessions;
use self::links::LinkTable;
use self::rollups::RollupTables;
use self::series::SeriesTables;
use self::sessions::SessionTables;
use super::{Spent, StoreError};
use crate::analytics::funnel::Funnel;
use crate::analytics::{self, ByKey, Change, Facts, Group, Rules, State};
use crate::model::Timestamp;

pub(super) use dashboard::{Touched, define as define_dashboards, evaluate};
pub(super) use funnels::{anonymous_actor, define as define_funnels, session_actor, user_actor};
pub use groups::Build;
pub(super) use groups::{
    GroupName, GroupSet, SERIES_PREFIX, freeze, freeze_changed, has_raw_rows, refresh, thaw, with_sources,
};
pub(super) use links::user_of;
pub(super) use segments::StoredSegments;
pub(super) use series::code as period_code;
pub(super) use swap::swap;
pub(super) use watermark::get as watermark;

/// Where a group keeps its states. Gets and puts them by the batch; merging happens in [`crate::analytics`].
trait Table<G: Group> {
    /// The states of the keys that facts speak of, in their order; none where a key is new. What is stored of a key
    /// beside its state is brought up to date, and what the facts need to know of it is filled in.
    fn get_many(&mut self, facts: &mut [(G::Key, G::Fact)]) -> Result<Vec<Option<G::State>>, StoreError>;

    /// Writes changed states, and the public rows that show them.
    fn put_many(&mut self, changes: &[(G::Key, Change<G>)]) -> Result<(), StoreError>;
}

/// Brings the tables of these groups up to what the stored messages of a batch say. Groups stand in the order in which
/// one speaks to another: what an earlier one says to a later one is added to the facts in time. `t_before` is T as far as
/// it is known without these facts. Returns the series of which a period changed, by their places.
pub(super) fn apply(
    tx: &Transaction<'_>,
    rules: &Rules,
    groups: &GroupSet,
    mut facts: Facts,
    t_before: Option<Timestamp>,
    spent: &mut Spent,
) -> Result<BTreeSet<usize>, StoreError> {
    let t = t_before.max(facts.watermark);
    facts.series.add_rollups(&rules.dashboards, &facts.rollups);
    for group in groups {
        match group {
            GroupName::Rollups => {
                facts.rollups = std::mem::take(&mut facts.rollups).roll_up();
                apply_group(&mut RollupTables::prepare(tx)?, &mut facts, |facts| &mut facts.rollups)?;
            }
            GroupName::Features => {
                apply_group(&mut FeatureTables::prepare(tx)?, &mut facts, |facts| &mut facts.features)?;
            }
            GroupName::Links => {
                apply_group(&mut LinkTable::prepare(tx)?, &mut facts, |facts| &mut facts.links)?;
            }
            GroupName::Sessions => apply_sessions(tx, rules, &mut facts)?,
            GroupName::Activity => {
                apply_group(&mut ActivityTables::prepare(tx)?, &mut facts, |facts| &mut facts.activity)?;
            }
            GroupName::EventCounts => event_counts::add(tx, std::mem::take(&mut facts.event_counts))?,
            GroupName::Funnel(_) | GroupName::Series(_) => continue,
        }
        spent.lap(group.kind());
    }
    // All of them together: an event may be a hit in several.
    let of_group = |(at, funnel): (usize, &Arc<Funnel>)| {
        groups.contains(&GroupName::Funnel(funnel.name.clone())).then(|| (at, Arc::clone(funnel)))
    };
    let wanted: BTreeMap<usize, Arc<Funnel>> = rules.funnels.iter().enumerate().filter_map(of_group).collect();
    if !wanted.is_empty() {
        let (funnels, series) = (std::mem::take(&mut facts.funnels), &mut facts.series);
        FunnelTables::prepare(tx, wanted, &rules.dashboards, series)?.apply(funnels)?;
        spent.lap("funnels");
    }
    facts.series.add_sessions(&rules.dashboards, std::mem::take(&mut facts.session_hours));
    let touched = apply_series(tx, rules, groups, &mut facts, t)?;
    spent.lap("dashboards");
    Ok(touched)
}

/// What widgets count, in the periods that are kept at the watermark `t`.
fn apply_series(
    tx: &Transaction<'_>,
    rules: &Rules,
    groups: &GroupSet,
    facts: &mut Facts,
    t: Option<Timestamp>,
) -> Result<BTreeSet<usize>, StoreError> {
    let live = dashboard::live_series(&rules.dashboards, groups);
    let hours = std::mem::take(&mut facts.series).of_series(&live);
    // A file that is built aside for others has no tables of series.
    let Some(t) = t.filter(|_| !hours.is_empty()) else { return Ok(BTreeSet::new()) };
    facts.series = hours.roll_up(&rules.dashboards, t);
    let touched = facts.series.places();
    apply_group(&mut SeriesTables::prepare(tx, &rules.dashboards)?, facts, |facts| &mut facts.series)?;
    Ok(touched)
}

/// Sessions, and T, which closes them.
fn apply_sessions(tx: &Transaction<'_>, rules: &Rules, facts: &mut Facts) -> Result<(), StoreError> {
    let before = watermark::get(tx)?;
    let Some(t) = before.max(facts.watermark) else { return Ok(()) };
    let closed_before = rules.closed_before(t);
    let mut tables = SessionTables::prepare(tx, closed_before)?;
    let mut named = std::mem::take(&mut facts.sessions).into_sorted();
    let states = tables.get_many(&mut named)?;
    let evicted = tables.take_evicted();
    for (id, session) in &evicted {
        facts.session_changed(Some((id, session)), None);
    }
    let changes = analytics::apply(states, named, facts);
    tables.put_many(&changes)?;
    let mut gap_sessions = GapSessions::prepare(tx, rules.session_timeout_ms)?;
    gap_sessions.put_back(&mut tables, evicted, facts)?;
    gap_sessions.apply(&mut tables, facts)?;
    if before < Some(t) {
        sessions::close(tx, closed_before)?;
        watermark::put(tx, t)?;
    }
    Ok(())
}

fn apply_group<G: Group>(
    table: &mut impl Table<G>,
    facts: &mut Facts,
    group: impl Fn(&mut Facts) -> &mut ByKey<G>,
) -> Result<(), StoreError> {
    let own = std::mem::take(group(facts));
    if own.is_empty() {
        return Ok(());
    }
    let mut own = own.into_sorted();
    let states = table.get_many(&mut own)?;
    let changes = analytics::apply(states, own, facts);
    table.put_many(&changes)
}

/// The state that a statement selects for a key; `named` names the key where it is unreadable.
fn select_state<S: State>(
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
fn put_state(
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
fn read_state<S: State>(
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
fn row_without_state(table: &'static str, key: &str) -> StoreError {
    StoreError::Damaged { table, key: key.to_owned(), why: "there is none, but a row that shows it".into() }
}
