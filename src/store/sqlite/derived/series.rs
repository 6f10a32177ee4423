//! `_series_states` and `_series_members`: the counts behind widgets, by series and period.

use std::collections::BTreeSet;

use rusqlite::{CachedStatement, Connection, Transaction, params};

use super::states::{StateTable, put_state, select_state};
use crate::analytics::dashboard::{Dashboards, SeriesFact, SeriesGroup, SeriesPeriod, Tally};
use crate::analytics::{Change, Rules, State};
use crate::model::{PeriodType, Timestamp};
use crate::store::error::StoreError;

const STATES: &str = "_series_states";
const SELECT: &str = "SELECT state FROM _series_states WHERE series = ?1 AND period_type = ?2 AND period_start = ?3";
const INSERT: &str = "INSERT INTO _series_states (series, period_type, period_start, state) VALUES (?1, ?2, ?3, ?4)";
const UPDATE: &str =
    "UPDATE _series_states SET state = ?4 WHERE series = ?1 AND period_type = ?2 AND period_start = ?3";
const DELETE: &str = "DELETE FROM _series_states WHERE series = ?1 AND period_type = ?2 AND period_start = ?3";
const INSERT_MEMBER: &str = "INSERT INTO _series_members (series, period_type, period_start, member) \
     VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING";

/// Returns the code of a period's length in the tables.
pub(in crate::store) const fn code(period_type: PeriodType) -> i64 {
    match period_type {
        PeriodType::Hourly => 0,
        PeriodType::Daily => 1,
        PeriodType::Weekly => 2,
        PeriodType::Monthly => 3,
    }
}

pub(super) struct SeriesTables<'tx> {
    /// The keys of series, by their places in the configuration.
    keys: Vec<i64>,
    select: CachedStatement<'tx>,
    insert: CachedStatement<'tx>,
    update: CachedStatement<'tx>,
    delete: CachedStatement<'tx>,
    insert_member: CachedStatement<'tx>,
}

impl<'tx> SeriesTables<'tx> {
    pub(super) fn prepare(tx: &'tx Connection, dashboards: &Dashboards) -> rusqlite::Result<Self> {
        Ok(Self {
            keys: dashboards.counted.iter().map(|counted| counted.key).collect(),
            select: tx.prepare_cached(SELECT)?,
            insert: tx.prepare_cached(INSERT)?,
            update: tx.prepare_cached(UPDATE)?,
            delete: tx.prepare_cached(DELETE)?,
            insert_member: tx.prepare_cached(INSERT_MEMBER)?,
        })
    }

    /// Reads the state of a series in a period. `None` if there is none.
    pub(super) fn tally(&mut self, period: &SeriesPeriod) -> Result<Option<Tally>, StoreError> {
        let key = self.keys[period.at];
        let place = (key, code(period.period_type), period.start.as_millis());
        select_state(&mut self.select, place, STATES, || format!("{key} {}", period.start))
    }
}

impl StateTable<SeriesGroup> for SeriesTables<'_> {
    fn load(&mut self, facts: &[(SeriesPeriod, SeriesFact)]) -> Result<Vec<Option<Tally>>, StoreError> {
        facts.iter().map(|(period, _)| self.tally(period)).collect()
    }

    /// Adds members to their periods. Leaves in each fact only the members that are new there.
    fn put_members(&mut self, facts: &mut [(SeriesPeriod, SeriesFact)]) -> Result<(), StoreError> {
        for (period, fact) in facts {
            let (key, code, start) = (self.keys[period.at], code(period.period_type), period.start.as_millis());
            let mut new_members = BTreeSet::new();
            for member in std::mem::take(&mut fact.members) {
                if self.insert_member.execute(params![key, code, start, member])? > 0 {
                    new_members.insert(member);
                }
            }
            fact.members = new_members;
        }
        Ok(())
    }

    fn put_many(&mut self, changes: &[(SeriesPeriod, Change<SeriesGroup>)]) -> Result<(), StoreError> {
        for (period, Change { before, after }) in changes {
            let (key, code, start) = (self.keys[period.at], code(period.period_type), period.start.as_millis());
            if after.is_empty() {
                self.delete.execute(params![key, code, start])?;
            } else if before.as_ref() != Some(after) {
                put_state(&mut self.insert, &mut self.update, before.is_some(), |put| {
                    put.execute(params![key, code, start, after.to_bytes()])
                })?;
            }
        }
        Ok(())
    }
}

/// Deletes the periods that are no longer kept at the watermark `t`.
pub(super) fn prune(tx: &Transaction<'_>, rules: &Rules, t: Timestamp) -> rusqlite::Result<()> {
    for counted in &rules.dashboards.counted {
        for period_type in &counted.periods {
            let kept_from = rules.dashboards.kept_from(*period_type, t).as_millis();
            for table in [STATES, "_series_members"] {
                let sql = format!("DELETE FROM {table} WHERE series = ?1 AND period_type = ?2 AND period_start < ?3");
                tx.prepare_cached(&sql)?.execute(params![counted.key, code(*period_type), kept_from])?;
            }
        }
    }
    Ok(())
}

/// Deletes all states and members of a series.
pub(super) fn forget(tx: &Transaction<'_>, key: i64) -> rusqlite::Result<()> {
    tx.execute("DELETE FROM _series_states WHERE series = ?1", [key])?;
    tx.execute("DELETE FROM _series_members WHERE series = ?1", [key])?;
    Ok(())
}
