//! The groups of derived tables: what each depends on, and which of them are up to date.
//!
//! A group stores a fingerprint of the rules and of the configuration that its rows were made by. Where that is not the
//! one of now, its rows are frozen and it is built anew aside (`store::aside`), with all groups that depend on it.

use std::collections::BTreeSet;

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use crate::analytics::{ActivityState, FeatureState, Rollup, Rules, Session, State, USER_AGENT_READER};
use crate::clock;

/// A group of derived tables. In the order in which one speaks to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::store) enum GroupName {
    Rollups,
    Features,
    /// And T, the watermark, which closes them.
    Sessions,
    Activity,
}

/// A set of groups.
pub(in crate::store) type GroupSet = BTreeSet<GroupName>;

/// Count up with every change of a group's rules that its state's version does not tell.
const ROLLUP_RULES: u32 = 1;
const FEATURE_RULES: u32 = 1;
const SESSION_RULES: u32 = 2;
const ACTIVITY_RULES: u32 = 1;

/// A table and its primary key.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) struct Table {
    pub(in crate::store) name: &'static str,
    pub(in crate::store) key: &'static [&'static str],
}

const fn table(name: &'static str, key: &'static [&'static str]) -> Table {
    Table { name, key }
}

const ROLLUP_TABLES: [Table; 2] = [table("metric_aggregates", &["id"]), table("_rollup_states", &["id"])];
const FEATURE_TABLES: [Table; 3] = [
    table("feature_usage", &["id"]),
    table("_feature_states", &["feature_name", "date"]),
    table("_feature_users", &["feature_name", "date", "user_id"]),
];
const SESSION_TABLES: [Table; 5] = [
    table("analytics_sessions", &["id"]),
    table("_session_states", &["id"]),
    table("_gap_sessions", &["actor", "started_at"]),
    table("_session_deadlines", &["look_at", "id"]),
    table("_watermark", &["id"]),
];
const ACTIVITY_TABLES: [Table; 4] = [
    table("user_activity", &["id"]),
    table("_activity_states", &["user_id", "date"]),
    table("_activity_names", &["user_id", "date", "name"]),
    table("_activity_sessions", &["user_id", "started_at", "session_id"]),
];

impl GroupName {
    pub(in crate::store) const ALL: [GroupName; 4] =
        [GroupName::Rollups, GroupName::Features, GroupName::Sessions, GroupName::Activity];

    pub(in crate::store) const fn as_str(self) -> &'static str {
        match self {
            GroupName::Rollups => "rollups",
            GroupName::Features => "features",
            GroupName::Sessions => "sessions",
            GroupName::Activity => "activity",
        }
    }

    /// Its tables, the public one first.
    pub(in crate::store) const fn tables(self) -> &'static [Table] {
        match self {
            GroupName::Rollups => &ROLLUP_TABLES,
            GroupName::Features => &FEATURE_TABLES,
            GroupName::Sessions => &SESSION_TABLES,
            GroupName::Activity => &ACTIVITY_TABLES,
        }
    }

    /// The groups whose changes it is told of.
    const fn listens_to(self) -> &'static [GroupName] {
        match self {
            GroupName::Activity => &[GroupName::Sessions],
            GroupName::Rollups | GroupName::Features | GroupName::Sessions => &[],
        }
    }

    /// The group of a table.
    pub(in crate::store) fn of_table(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|group| group.tables().iter().any(|table| table.name == name))
    }

    /// What its rows depend on beside the raw rows, and beside the groups that it listens to.
    fn fingerprint(self, rules: &Rules) -> String {
        match self {
            GroupName::Rollups => format!("rules={ROLLUP_RULES} state={}", Rollup::VERSION),
            GroupName::Features => {
                let features = serde_json::to_string(&rules.features).unwrap_or_default();
                format!("rules={FEATURE_RULES} state={} {features}", FeatureState::VERSION)
            }
            GroupName::Sessions => format!(
                "rules={SESSION_RULES} state={} timeout_ms={} user_agents={USER_AGENT_READER}",
                Session::VERSION,
                rules.session_timeout_ms
            ),
            GroupName::Activity => format!("rules={ACTIVITY_RULES} state={}", ActivityState::VERSION),
        }
    }
}

/// With all groups that depend on these.
fn with_dependents(mut groups: GroupSet) -> GroupSet {
    for group in GroupName::ALL {
        if group.listens_to().iter().any(|other| groups.contains(other)) {
            groups.insert(group);
        }
    }
    groups
}

/// With all groups that these depend on.
pub(in crate::store) fn with_sources(mut groups: GroupSet) -> GroupSet {
    for group in GroupName::ALL.into_iter().rev() {
        if groups.contains(&group) {
            groups.extend(group.listens_to());
        }
    }
    groups
}

/// What is built aside, to be put in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Build {
    /// Its name: what was built for another build is of no use to this one.
    pub(in crate::store) id: String,
    /// The groups that it replaces.
    pub(in crate::store) groups: GroupSet,
}

impl Build {
    /// The names of the groups that it replaces.
    pub fn names(&self) -> Vec<&'static str> {
        self.groups.iter().map(|group| group.as_str()).collect()
    }
}

/// Finds the groups that are not up to date by these rules, and those that depend on them: the build that makes them
/// so, the one that was begun already where nothing else has changed since. None where all are up to date.
pub(in crate::store) fn freeze_changed(tx: &Transaction<'_>, rules: &Rules) -> rusqlite::Result<Option<Build>> {
    let (mut changed, mut begun) = (GroupSet::new(), BTreeSet::new());
    let mut select = tx.prepare("SELECT fingerprint, build FROM _groups WHERE name = ?1")?;
    for group in GroupName::ALL {
        let stored: Option<(String, Option<String>)> =
            select.query_row([group.as_str()], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
        let (fingerprint, build) = stored.unwrap_or_default();
        let is_current = fingerprint == group.fingerprint(rules);
        if !is_current || build.is_some() {
            changed.insert(group);
            begun.insert(build.filter(|_| is_current));
        }
    }
    if !changed.contains(&GroupName::Sessions) && !has_watermark(tx)? {
        changed.insert(GroupName::Sessions);
        begun.insert(None);
    }
    let groups = with_dependents(changed.clone());
    if groups.is_empty() {
        return Ok(None);
    }
    if groups == changed
        && begun.len() == 1
        && let Some(Some(id)) = begun.pop_first()
    {
        return Ok(Some(Build { id, groups }));
    }
    begin(tx, rules, groups).map(Some)
}

/// Whether there is a T, or nothing that it could come from.
fn has_watermark(tx: &Transaction<'_>) -> rusqlite::Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM _watermark) OR NOT EXISTS (SELECT 1 FROM _positions WHERE stored > 0)";
    tx.query_row(sql, [], |row| row.get(0))
}

/// Begins a build: from now on the groups' rows stay as they are.
fn begin(tx: &Transaction<'_>, rules: &Rules, groups: GroupSet) -> rusqlite::Result<Build> {
    let build = Build { id: clock::new_id().to_string(), groups };
    let sql = "INSERT INTO _groups (name, fingerprint, build) VALUES (?1, ?2, ?3) \
               ON CONFLICT (name) DO UPDATE SET fingerprint = excluded.fingerprint, build = excluded.build";
    for group in &build.groups {
        tx.execute(sql, params![group.as_str(), group.fingerprint(rules), build.id])?;
    }
    Ok(build)
}

/// Begins a build of one more group, what depends on it, and all that are frozen already.
pub(in crate::store) fn freeze(
    tx: &Transaction<'_>,
    rules: &Rules,
    group: GroupName,
    frozen: &GroupSet,
) -> rusqlite::Result<Build> {
    let mut groups = frozen.clone();
    groups.insert(group);
    begin(tx, rules, with_dependents(groups))
}

/// The build is in: its groups are up to date.
pub(in crate::store) fn thaw(tx: &Transaction<'_>, build: &Build) -> rusqlite::Result<()> {
    tx.execute("UPDATE _groups SET build = NULL WHERE build = ?1", [&build.id])?;
    Ok(())
}

/// Whether there are raw rows.
pub(in crate::store) fn has_raw_rows(connection: &Connection) -> rusqlite::Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM analytics_events) OR EXISTS (SELECT 1 FROM metrics) \
               OR EXISTS (SELECT 1 FROM _session_messages)";
    connection.query_row(sql, [], |row| row.get(0))
}
