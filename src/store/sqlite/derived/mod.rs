//! The derived tables: how facts become rows. The rules are in [`crate::analytics`]. This module stores the states.

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
mod states;
mod watermark;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rusqlite::Transaction;

use self::activity::ActivityTables;
use self::features::FeatureTables;
use self::funnels::FunnelTables;
use self::gap_sessions::GapSessions;
use self::links::LinkTable;
use self::rollups::RollupTables;
use self::series::SeriesTables;
use self::sessions::SessionTables;
use self::states::StateTable;
use crate::analytics::funnel::Funnel;
use crate::analytics::{self, ByKey, Facts, Group, GroupName, GroupSet, Rules, current_series};
use crate::model::Timestamp;
use crate::store::error::StoreError;
use crate::store::receipt::Timings;

pub(in crate::store) use dashboard::{define as define_dashboards, evaluate};
pub(in crate::store) use funnels::define as define_funnels;
pub(in crate::store) use groups::{GroupTable, all_tables, groups_of_table, in_column, tables_of};
pub(in crate::store) use links::user_of;
pub(in crate::store) use segments::StoredSegments;
pub(in crate::store) use series::code as period_code;
pub(in crate::store) use watermark::get as watermark;

/// Applies the facts of stored messages to the tables of these groups. A group comes after the groups whose facts it
/// needs: an earlier group adds its facts for a later group before the later group is applied. `t_before` is T as far
/// as it is known without these facts. Returns the places of the series in which a period changed.
pub(in crate::store) fn apply(
    tx: &Transaction<'_>,
    rules: &Rules,
    groups: &GroupSet,
    mut facts: Facts,
    t_before: Option<Timestamp>,
    timings: &mut Timings,
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
        timings.lap(group.kind());
    }
    // All funnels together: an event may be a hit in several funnels.
    let of_group = |(at, funnel): (usize, &Arc<Funnel>)| {
        groups.contains(&GroupName::Funnel(funnel.name.clone())).then(|| (at, Arc::clone(funnel)))
    };
    let wanted: BTreeMap<usize, Arc<Funnel>> = rules.funnels.iter().enumerate().filter_map(of_group).collect();
    if !wanted.is_empty() {
        let (funnels, series) = (std::mem::take(&mut facts.funnels), &mut facts.series);
        FunnelTables::prepare(tx, wanted, &rules.dashboards, series)?.apply(funnels)?;
        timings.lap("funnels");
    }
    facts.series.add_sessions(&rules.dashboards, std::mem::take(&mut facts.session_hours));
    let touched = apply_series(tx, rules, groups, &mut facts, t)?;
    timings.lap("dashboards");
    Ok(touched)
}

/// Applies the facts of series, in the periods that are kept at the watermark `t`. Returns the places of the series
/// in which a period changed.
fn apply_series(
    tx: &Transaction<'_>,
    rules: &Rules,
    groups: &GroupSet,
    facts: &mut Facts,
    t: Option<Timestamp>,
) -> Result<BTreeSet<usize>, StoreError> {
    let live = current_series(&rules.dashboards, groups);
    let hours = std::mem::take(&mut facts.series).of_series(&live);
    // A shadow file of other groups has no tables of series.
    let Some(t) = t.filter(|_| !hours.is_empty()) else { return Ok(BTreeSet::new()) };
    facts.series = hours.roll_up(&rules.dashboards, t);
    let touched = facts.series.places();
    apply_group(&mut SeriesTables::prepare(tx, &rules.dashboards)?, facts, |facts| &mut facts.series)?;
    Ok(touched)
}

/// Applies the facts of sessions, moves T, and closes the sessions that T closes.
fn apply_sessions(tx: &Transaction<'_>, rules: &Rules, facts: &mut Facts) -> Result<(), StoreError> {
    let before = watermark::get(tx)?;
    let Some(t) = before.max(facts.watermark) else { return Ok(()) };
    let closed_before = rules.closed_before(t);
    let mut tables = SessionTables::prepare(tx, closed_before)?;
    let named = std::mem::take(&mut facts.sessions).into_sorted();
    let mut states = tables.load(&named)?;
    let evicted = tables.evict_unnamed(&named, &mut states)?;
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
    table: &mut impl StateTable<G>,
    facts: &mut Facts,
    group: impl Fn(&mut Facts) -> &mut ByKey<G>,
) -> Result<(), StoreError> {
    let own = std::mem::take(group(facts));
    if own.is_empty() {
        return Ok(());
    }
    let mut own = own.into_sorted();
    let states = table.load(&own)?;
    table.put_members(&mut own)?;
    let changes = analytics::apply(states, own, facts);
    table.put_many(&changes)
}
