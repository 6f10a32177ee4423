//! `feature_usage`, its states in `_feature_states`, and the users of each feature and day in `_feature_users`.

use rusqlite::{CachedStatement, Transaction, params};

use super::states::{StateTable, put_state, row_without_state, select_state};
use crate::analytics::{Change, FeatureDay, FeatureFact, FeatureState, Features, State};
use crate::store::error::StoreError;

const STATES: &str = "_feature_states";
const SELECT_STATE: &str = "SELECT state FROM _feature_states WHERE feature_name = ?1 AND date = ?2";
const INSERT_STATE: &str = "INSERT INTO _feature_states (feature_name, date, state) VALUES (?1, ?2, ?3)";
const UPDATE_STATE: &str = "UPDATE _feature_states SET state = ?3 WHERE feature_name = ?1 AND date = ?2";
const INSERT_USER: &str = "INSERT INTO _feature_users (feature_name, date, user_id) VALUES (?1, ?2, ?3) \
     ON CONFLICT DO NOTHING";
const INSERT_ROW: &str = "INSERT INTO feature_usage (id, usage_count, unique_users, avg_duration_ms, success_rate, \
     feature_name, date) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT DO NOTHING";
/// Sets no indexed column, so no index entry moves.
const UPDATE_ROW: &str = "UPDATE feature_usage SET usage_count = ?2, unique_users = ?3, avg_duration_ms = ?4, \
     success_rate = ?5 WHERE id = ?1";

pub(super) struct FeatureTables<'tx> {
    select_state: CachedStatement<'tx>,
    insert_state: CachedStatement<'tx>,
    update_state: CachedStatement<'tx>,
    insert_user: CachedStatement<'tx>,
    insert_row: CachedStatement<'tx>,
    update_row: CachedStatement<'tx>,
}

impl<'tx> FeatureTables<'tx> {
    pub(super) fn prepare(tx: &'tx Transaction<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            select_state: tx.prepare_cached(SELECT_STATE)?,
            insert_state: tx.prepare_cached(INSERT_STATE)?,
            update_state: tx.prepare_cached(UPDATE_STATE)?,
            insert_user: tx.prepare_cached(INSERT_USER)?,
            insert_row: tx.prepare_cached(INSERT_ROW)?,
            update_row: tx.prepare_cached(UPDATE_ROW)?,
        })
    }

    fn put(&mut self, key: &FeatureDay, change: &Change<Features>) -> Result<(), StoreError> {
        let date = key.date.to_string();
        put_state(&mut self.insert_state, &mut self.update_state, change.before.is_some(), |put| {
            put.execute(params![key.feature_name, date, change.after.to_bytes()])
        })?;
        let row = change.after.row(key);
        let counts = (row.usage_count, row.unique_users, row.avg_duration_ms, row.success_rate);
        let updated = match change.before {
            None => 0,
            Some(_) => self.update_row.execute(params![row.id, counts.0, counts.1, counts.2, counts.3])?,
        };
        if updated > 0 {
            return Ok(());
        }
        let inserted =
            self.insert_row.execute(params![row.id, counts.0, counts.1, counts.2, counts.3, row.feature_name, date])?;
        match inserted {
            0 => Err(row_without_state(STATES, &row.id)),
            _ => Ok(()),
        }
    }
}

impl StateTable<Features> for FeatureTables<'_> {
    fn load(&mut self, facts: &[(FeatureDay, FeatureFact)]) -> Result<Vec<Option<FeatureState>>, StoreError> {
        let state = |(key, _): &(FeatureDay, FeatureFact)| {
            let date = key.date.to_string();
            let named = || format!("{} {date}", key.feature_name);
            select_state(&mut self.select_state, (&key.feature_name, &date), STATES, named)
        };
        facts.iter().map(state).collect()
    }

    /// Adds users to their feature and day. Leaves in each fact only the users that are new there.
    fn put_members(&mut self, facts: &mut [(FeatureDay, FeatureFact)]) -> Result<(), StoreError> {
        for (key, fact) in facts {
            let date = key.date.to_string();
            let mut new_users = std::collections::BTreeSet::new();
            for user_id in std::mem::take(&mut fact.users) {
                if self.insert_user.execute(params![key.feature_name, date, user_id])? > 0 {
                    new_users.insert(user_id);
                }
            }
            fact.users = new_users;
        }
        Ok(())
    }

    fn put_many(&mut self, changes: &[(FeatureDay, Change<Features>)]) -> Result<(), StoreError> {
        changes.iter().try_for_each(|(key, change)| self.put(key, change))
    }
}
