//! The tables of each group of derived tables.

use rusqlite::types::Value;

use crate::analytics::{GroupName, GroupSet, Rules, dashboard, funnel};

/// A table and its primary key.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) struct GroupTable {
    pub(in crate::store) name: &'static str,
    pub(in crate::store) key: &'static [&'static str],
    /// The column that tells which group a row belongs to, if several groups share the table.
    pub(in crate::store) shared_by: Option<&'static str>,
}

impl GroupTable {
    /// Returns whether readers see the rows. Rows of internal tables may differ although they mean the same: a
    /// history can be cut into segments at other hits, and a session can be due for a look at another time.
    pub(in crate::store) fn is_public(&self) -> bool {
        !self.name.starts_with('_')
    }
}

const fn table(name: &'static str, key: &'static [&'static str]) -> GroupTable {
    GroupTable { name, key, shared_by: None }
}

const fn shared_table(name: &'static str, key: &'static [&'static str], column: &'static str) -> GroupTable {
    GroupTable { name, key, shared_by: Some(column) }
}

const ROLLUP_TABLES: [GroupTable; 2] = [table("metric_aggregates", &["id"]), table("_rollup_states", &["id"])];
const FEATURE_TABLES: [GroupTable; 3] = [
    table("feature_usage", &["id"]),
    table("_feature_states", &["feature_name", "date"]),
    table("_feature_users", &["feature_name", "date", "user_id"]),
];
const SESSION_TABLES: [GroupTable; 5] = [
    table("analytics_sessions", &["id"]),
    table("_session_states", &["id"]),
    table("_gap_sessions", &["actor", "started_at"]),
    table("_session_deadlines", &["look_at", "id"]),
    table("_watermark", &["id"]),
];
const ACTIVITY_TABLES: [GroupTable; 4] = [
    table("user_activity", &["id"]),
    table("_activity_states", &["user_id", "date"]),
    table("_activity_names", &["user_id", "date", "name"]),
    table("_activity_sessions", &["user_id", "started_at", "session_id"]),
];

const LINK_TABLES: [GroupTable; 1] = [table("_links", &["anonymous_id"])];
const FUNNEL_TABLES: [GroupTable; 3] = [
    shared_table("funnel_conversions", &["id"], "funnel_id"),
    shared_table("_funnel_segments", &["funnel", "actor", "first_ms", "first_step", "first_event_id"], "funnel"),
    shared_table("_funnel_episodes", &["funnel", "actor", "opened_ms", "opened_by"], "funnel"),
];
const EVENT_COUNT_TABLES: [GroupTable; 1] = [table("_event_counts", &["date", "event_name"])];
const SERIES_TABLES: [GroupTable; 2] = [
    shared_table("_series_states", &["series", "period_type", "period_start"], "series"),
    shared_table("_series_members", &["series", "period_type", "period_start", "member"], "series"),
];

/// Returns the tables of a group. The public table is first, if the group has one.
pub(in crate::store) const fn tables_of(group: &GroupName) -> &'static [GroupTable] {
    match group {
        GroupName::Rollups => &ROLLUP_TABLES,
        GroupName::Features => &FEATURE_TABLES,
        GroupName::Links => &LINK_TABLES,
        GroupName::Sessions => &SESSION_TABLES,
        GroupName::Activity => &ACTIVITY_TABLES,
        GroupName::EventCounts => &EVENT_COUNT_TABLES,
        GroupName::Funnel(_) => &FUNNEL_TABLES,
        GroupName::Series(_) => &SERIES_TABLES,
    }
}

/// Returns the value that marks a group's rows in a column of a shared table. `None` if the group shares no table.
pub(in crate::store) fn in_column(group: &GroupName, column: &str) -> Option<Value> {
    match (group, column) {
        (GroupName::Funnel(name), "funnel_id") => Some(Value::from(funnel::id_of(name))),
        (GroupName::Funnel(name), _) => Some(Value::from(funnel::key_of(name))),
        (GroupName::Series(name), _) => Some(Value::from(dashboard::key_of(name))),
        _ => None,
    }
}

/// Returns the tables of all groups.
pub(in crate::store) fn all_tables() -> impl Iterator<Item = &'static GroupTable> {
    let tables: [&'static [GroupTable]; 8] = [
        &ROLLUP_TABLES,
        &FEATURE_TABLES,
        &LINK_TABLES,
        &SESSION_TABLES,
        &ACTIVITY_TABLES,
        &EVENT_COUNT_TABLES,
        &FUNNEL_TABLES,
        &SERIES_TABLES,
    ];
    tables.into_iter().flatten()
}

/// Returns the groups that have rows in a table.
pub(in crate::store) fn groups_of_table(rules: &Rules, name: &str) -> GroupSet {
    let has = |group: &GroupName| tables_of(group).iter().any(|table| table.name == name);
    GroupName::all(rules).into_iter().filter(has).collect()
}
