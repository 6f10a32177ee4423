//! `metric_aggregates`, and its states in `_rollup_states`.

use rusqlite::{CachedStatement, Transaction, params};

use super::states::{StateTable, put_state, row_without_state, select_state};
use crate::analytics::{Change, Rollup, RollupKey, Rollups, State};
use crate::store::error::StoreError;

const STATES: &str = "_rollup_states";
const SELECT_STATE: &str = "SELECT state FROM _rollup_states WHERE id = ?1";
const INSERT_STATE: &str = "INSERT INTO _rollup_states (id, state) VALUES (?1, ?2)";
const UPDATE_STATE: &str = "UPDATE _rollup_states SET state = ?2 WHERE id = ?1";
const INSERT_ROW: &str = "INSERT INTO metric_aggregates (id, count, sum, min, max, avg, p50, p90, p99, name, \
     period_start, period_type, tags) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13) \
     ON CONFLICT DO NOTHING";
/// Sets no indexed column, so no index entry moves.
const UPDATE_ROW: &str = "UPDATE metric_aggregates SET count = ?2, sum = ?3, min = ?4, max = ?5, avg = ?6, p50 = ?7, \
     p90 = ?8, p99 = ?9 WHERE id = ?1";

pub(super) struct RollupTables<'tx> {
    select_state: CachedStatement<'tx>,
    insert_state: CachedStatement<'tx>,
    update_state: CachedStatement<'tx>,
    insert_row: CachedStatement<'tx>,
    update_row: CachedStatement<'tx>,
}

impl<'tx> RollupTables<'tx> {
    pub(super) fn prepare(tx: &'tx Transaction<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            select_state: tx.prepare_cached(SELECT_STATE)?,
            insert_state: tx.prepare_cached(INSERT_STATE)?,
            update_state: tx.prepare_cached(UPDATE_STATE)?,
            insert_row: tx.prepare_cached(INSERT_ROW)?,
            update_row: tx.prepare_cached(UPDATE_ROW)?,
        })
    }

    fn put(&mut self, key: &RollupKey, change: &Change<Rollups>) -> Result<(), StoreError> {
        let row = change.after.row(key);
        put_state(&mut self.insert_state, &mut self.update_state, change.before.is_some(), |put| {
            put.execute(params![row.id, change.after.to_bytes()])
        })?;
        let updated = match change.before {
            None => 0,
            Some(_) => self
                .update_row
                .execute(params![row.id, row.count, row.sum, row.min, row.max, row.avg, row.p50, row.p90, row.p99,])?,
        };
        if updated > 0 {
            return Ok(());
        }
        let inserted = self.insert_row.execute(params![
            row.id,
            row.count,
            row.sum,
            row.min,
            row.max,
            row.avg,
            row.p50,
            row.p90,
            row.p99,
            row.name,
            row.period_start.to_string(),
            row.period_type.as_str(),
            key.tags,
        ])?;
        match inserted {
            0 => Err(row_without_state(STATES, &row.id)),
            _ => Ok(()),
        }
    }
}

impl StateTable<Rollups> for RollupTables<'_> {
    fn load(&mut self, facts: &[(RollupKey, Rollup)]) -> Result<Vec<Option<Rollup>>, StoreError> {
        let select = &mut self.select_state;
        facts.iter().map(|(key, _)| select_state(select, [key.id()], STATES, || key.id())).collect()
    }

    fn put_many(&mut self, changes: &[(RollupKey, Change<Rollups>)]) -> Result<(), StoreError> {
        changes.iter().try_for_each(|(key, change)| self.put(key, change))
    }
}
