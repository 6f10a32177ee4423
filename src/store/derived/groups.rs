//! The groups of derived tables: what each depends on, and which of them are up to date.
//!
//! A group stores a fingerprint of the rules and of the configuration that its rows were made by. Where that is not the
//! one of now, its rows are frozen and it is built anew aside (`store::aside`), with all groups that depend on it.

use std::collections::BTreeSet;

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Transaction, params};

use crate::analytics::dashboard::{self, Series, Tally};
use crate::analytics::funnel::{self, Scope, Segment};
use crate::analytics::{ActivityState, FeatureState, Link, Rollup, Rules, Session, State, USER_AGENT_READER};
use crate::clock;

/// A group of derived tables. In the order in which one speaks to another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::store) enum GroupName {
    Rollups,
    Features,
    Links,
    /// And T, the watermark, which closes them.
    Sessions,
    Activity,
    EventCounts,
    /// Each is a group of its own, by its name.
    Funnel(String),
    /// What widgets count; each is a group of its own, by its name.
    Series(String),
}

/// A set of groups.
pub(in crate::store) type GroupSet = BTreeSet<GroupName>;

/// Count up with every change of a group's rules that its state's version does not tell.
const ROLLUP_RULES: u32 = 1;
const FEATURE_RULES: u32 = 1;
const SESSION_RULES: u32 = 2;
const ACTIVITY_RULES: u32 = 1;
const LINK_RULES: u32 = 1;
const FUNNEL_RULES: u32 = 1;
const EVENT_COUNT_RULES: u32 = 1;
const SERIES_RULES: u32 = 1;

/// A table and its primary key.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) struct Table {
    pub(in crate::store) name: &'static str,
    pub(in crate::store) key: &'static [&'static str],
    /// The column that says of which group a row is, where several share the table.
    pub(in crate::store) shared_by: Option<&'static str>,
}

impl Table {
    /// Whether readers see its rows. Others may differ where what they say is the same: where a history is cut into
    /// segments, when a session is looked at.
    pub(in crate::store) fn is_public(&self) -> bool {
        !self.name.starts_with('_')
    }
}

const fn table(name: &'static str, key: &'static [&'static str]) -> Table {
    Table { name, key, shared_by: None }
}

const fn shared_table(name: &'static str, key: &'static [&'static str], column: &'static str) -> Table {
    Table { name, key, shared_by: Some(column) }
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

const LINK_TABLES: [Table; 1] = [table("_links", &["anonymous_id"])];
const FUNNEL_TABLES: [Table; 3] = [
    shared_table("funnel_conversions", &["id"], "funnel_id"),
    shared_table("_funnel_segments", &["funnel", "actor", "first_ms", "first_step", "first_event_id"], "funnel"),
    shared_table("_funnel_episodes", &["funnel", "actor", "opened_ms", "opened_by"], "funnel"),
];
const EVENT_COUNT_TABLES: [Table; 1] = [table("_event_counts", &["date", "event_name"])];
const SERIES_TABLES: [Table; 2] = [
    shared_table("_series_states", &["series", "period_type", "period_start"], "series"),
    shared_table("_series_members", &["series", "period_type", "period_start", "member"], "series"),
];
/// What the id of a build begins with that freezes nothing.
const REFRESH_PREFIX: &str = "refresh ";
/// What the name of a funnel's group begins with.
pub(in crate::store) const FUNNEL_PREFIX: &str = "funnel ";
/// What the name of a series' group begins with.
pub(in crate::store) const SERIES_PREFIX: &str = "series ";

impl GroupName {
    /// All groups, in their order.
    pub(in crate::store) fn all(rules: &Rules) -> Vec<Self> {
        let fixed = [
            GroupName::Rollups,
            GroupName::Features,
            GroupName::Links,
            GroupName::Sessions,
            GroupName::Activity,
            GroupName::EventCounts,
        ];
        let funnels = rules.funnels.iter().map(|funnel| GroupName::Funnel(funnel.name.clone()));
        let series = rules.dashboards.counted.iter().map(|counted| GroupName::Series(counted.name.clone()));
        fixed.into_iter().chain(funnels).chain(series).collect()
    }

    pub(in crate::store) fn name(&self) -> String {
        match self {
            GroupName::Funnel(name) => format!("{FUNNEL_PREFIX}{name}"),
            GroupName::Series(name) => format!("{SERIES_PREFIX}{name}"),
            other => other.kind().to_owned(),
        }
    }

    /// What the column holds by which it shares a table with others.
    pub(super) fn in_column(&self, column: &str) -> Option<Value> {
        match (self, column) {
            (Self::Funnel(name), "funnel_id") => Some(Value::from(funnel::id_of(name))),
            (Self::Funnel(name), _) => Some(Value::from(funnel::key_of(name))),
            (Self::Series(name), _) => Some(Value::from(dashboard::key_of(name))),
            _ => None,
        }
    }

    /// What it is of: a word for all funnels, and for all series.
    pub(in crate::store) const fn kind(&self) -> &'static str {
        match self {
            GroupName::Rollups => "rollups",
            GroupName::Features => "features",
            GroupName::Links => "links",
            GroupName::Sessions => "sessions",
            GroupName::Activity => "activity",
            GroupName::EventCounts => "event_counts",
            GroupName::Funnel(_) => "funnels",
            GroupName::Series(_) => "dashboards",
        }
    }

    /// Its tables, the public one first.
    pub(in crate::store) const fn tables(&self) -> &'static [Table] {
        match self {
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

    /// Those that people mean by a word, or all where they say none.
    pub(in crate::store) fn meant_by(rules: &Rules, words: &[String]) -> GroupSet {
        let is_meant = |group: &Self| {
            let word = match group {
                GroupName::Links | GroupName::Funnel(_) => "funnels",
                GroupName::EventCounts | GroupName::Series(_) => "dashboard",
                other => other.kind(),
            };
            words.is_empty() || words.iter().any(|meant| meant == word)
        };
        Self::all(rules).into_iter().filter(is_meant).collect()
    }

    /// The tables of all groups.
    pub(in crate::store) fn all_tables() -> impl Iterator<Item = &'static Table> {
        let tables: [&'static [Table]; 8] = [
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

    /// The groups that it is frozen with: those that it listens to, and what keeps T.
    fn depends_on(&self, rules: &Rules) -> Vec<GroupName> {
        let mut groups = self.listens_to(rules);
        if matches!(self, GroupName::Series(_)) {
            groups.push(GroupName::Sessions);
        }
        groups
    }

    /// The groups whose changes it is told of.
    fn listens_to(&self, rules: &Rules) -> Vec<GroupName> {
        match self {
            GroupName::Activity => vec![GroupName::Sessions],
            GroupName::Funnel(name) => match rules.funnels.by_name(name).map(|funnel| funnel.scope) {
                Some(Scope::Session) => vec![GroupName::Sessions],
                _ => vec![GroupName::Links],
            },
            GroupName::Series(name) => match rules.dashboards.by_name(name).map(|counted| &counted.series) {
                Some(Series::Sessions) => vec![GroupName::Sessions],
                Some(Series::Episodes { funnel }) => vec![GroupName::Funnel(funnel.clone())],
                _ => Vec::new(),
            },
            GroupName::Rollups
            | GroupName::Features
            | GroupName::Links
            | GroupName::Sessions
            | GroupName::EventCounts => Vec::new(),
        }
    }

    /// The groups that have rows in a table.
    pub(in crate::store) fn of_table(rules: &Rules, name: &str) -> GroupSet {
        let has = |group: &Self| group.tables().iter().any(|table| table.name == name);
        Self::all(rules).into_iter().filter(has).collect()
    }

    /// What its rows depend on beside the raw rows, and beside the groups that it listens to.
    pub(in crate::store) fn fingerprint(&self, rules: &Rules) -> String {
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
            GroupName::Links => format!("rules={LINK_RULES} state={}", Link::VERSION),
            GroupName::Funnel(name) => {
                let funnel = rules.funnels.by_name(name).map(|funnel| serde_json::to_string(&**funnel));
                let funnel = funnel.and_then(Result::ok).unwrap_or_default();
                format!("rules={FUNNEL_RULES} state={} {funnel}", Segment::VERSION)
            }
            GroupName::EventCounts => format!("rules={EVENT_COUNT_RULES}"),
            GroupName::Series(name) => {
                let counted = rules.dashboards.by_name(name);
                let periods = counted.map(|counted| &counted.periods);
                let features = match counted.map(|counted| &counted.series) {
                    Some(Series::Usages { .. } | Series::FeatureUsers { .. }) => GroupName::Features.fingerprint(rules),
                    _ => String::new(),
                };
                let history_ms = rules.dashboards.history_ms;
                let versions = (Tally::VERSION, Rollup::VERSION);
                format!("rules={SERIES_RULES} states={versions:?} {periods:?} history_ms={history_ms} {features}")
            }
        }
    }
}

/// With all groups that depend on these.
fn with_dependents(rules: &Rules, mut groups: GroupSet) -> GroupSet {
    for group in GroupName::all(rules) {
        if group.depends_on(rules).iter().any(|other| groups.contains(other)) {
            groups.insert(group);
        }
    }
    groups
}

/// With all groups that these depend on.
pub(in crate::store) fn with_sources(rules: &Rules, mut groups: GroupSet) -> GroupSet {
    for group in GroupName::all(rules).into_iter().rev() {
        if groups.contains(&group) {
            groups.extend(group.listens_to(rules));
        }
    }
    groups
}

/// What is built aside, to be put in.
#[derive(Debug, Clone, PartialEq)]
pub struct Build {
    /// Its name: what was built for another build is of no use to this one.
    pub(in crate::store) id: String,
    /// The groups that it replaces.
    pub(in crate::store) groups: GroupSet,
    /// What they are to be built by.
    pub(in crate::store) rules: Rules,
}

impl Build {
    /// Whether rows stay as they are until it is put in: other rules made them. Those that somebody wants to be made anew
    /// by the same rules go on meanwhile.
    pub(in crate::store) fn freezes(&self) -> bool {
        !self.id.starts_with(REFRESH_PREFIX)
    }

    /// The names of the groups that it replaces.
    pub fn names(&self) -> Vec<String> {
        self.groups.iter().map(GroupName::name).collect()
    }
}

/// Finds the groups that are not up to date by these rules, and those that depend on them: the build that makes them
/// so, the one that was begun already where nothing else has changed since. None where all are up to date.
pub(in crate::store) fn freeze_changed(tx: &Transaction<'_>, rules: &Rules) -> rusqlite::Result<Option<Build>> {
    let (mut changed, mut begun) = (GroupSet::new(), BTreeSet::new());
    let mut select = tx.prepare("SELECT fingerprint, build FROM _groups WHERE name = ?1")?;
    for group in GroupName::all(rules) {
        let stored: Option<(String, Option<String>)> =
            select.query_row([group.name()], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
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
    let groups = with_dependents(rules, changed.clone());
    if groups.is_empty() {
        return Ok(None);
    }
    if groups == changed
        && begun.len() == 1
        && let Some(Some(id)) = begun.pop_first()
    {
        return Ok(Some(Build { id, groups, rules: rules.clone() }));
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
    begin_as(tx, rules, groups, clock::new_id().to_string())
}

fn begin_as(tx: &Transaction<'_>, rules: &Rules, groups: GroupSet, id: String) -> rusqlite::Result<Build> {
    let build = Build { id, groups, rules: rules.clone() };
    let sql = "INSERT INTO _groups (name, fingerprint, build) VALUES (?1, ?2, ?3) \
               ON CONFLICT (name) DO UPDATE SET fingerprint = excluded.fingerprint, build = excluded.build";
    for group in &build.groups {
        tx.execute(sql, params![group.name(), group.fingerprint(rules), build.id])?;
    }
    Ok(build)
}

/// Begins a build of these groups, and what depends on them.
pub(in crate::store) fn freeze(tx: &Transaction<'_>, rules: &Rules, groups: GroupSet) -> rusqlite::Result<Build> {
    begin(tx, rules, with_dependents(rules, groups))
}

/// Likewise of groups that are up to date, as far as is known: they go on until it is put in.
pub(in crate::store) fn refresh(tx: &Transaction<'_>, rules: &Rules, groups: GroupSet) -> rusqlite::Result<Build> {
    begin_as(tx, rules, with_dependents(rules, groups), format!("{REFRESH_PREFIX}{}", clock::new_id()))
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
