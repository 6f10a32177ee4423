//! The groups of derived tables: their order, their dependencies, and the fingerprints of the rules that make their
//! rows.

use std::collections::{BTreeMap, BTreeSet};

use super::dashboard::{Dashboards, Series, Tally};
use super::funnel::{Scope, Segment};
use super::{ActivityState, FeatureState, Link, Rollup, Rules, Session, State, USER_AGENT_READER};

/// A group of derived tables. The variants are in the order in which groups are applied: a group gives facts only to
/// later groups.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum GroupName {
    /// Metrics by name, tags and period.
    Rollups,
    /// Usages of features by day.
    Features,
    /// Which user an anonymous id belongs to.
    Links,
    /// Sessions, and the watermark T, which closes sessions.
    Sessions,
    /// Activity of users by day.
    Activity,
    /// Events by name and day.
    EventCounts,
    /// One funnel, by its name. Each funnel is a group of its own.
    Funnel(String),
    /// One series that widgets count, by its name. Each series is a group of its own.
    Series(String),
}

/// A set of groups.
pub type GroupSet = BTreeSet<GroupName>;

/// Increase a group's number with every change of its rules that does not change the version of its state.
const ROLLUP_RULES: u32 = 1;
const FEATURE_RULES: u32 = 1;
const SESSION_RULES: u32 = 2;
const ACTIVITY_RULES: u32 = 1;
const LINK_RULES: u32 = 1;
const FUNNEL_RULES: u32 = 1;
const EVENT_COUNT_RULES: u32 = 1;
const SERIES_RULES: u32 = 1;

/// Prefix of the name of a funnel's group.
pub const FUNNEL_PREFIX: &str = "funnel ";
/// Prefix of the name of a series' group.
pub const SERIES_PREFIX: &str = "series ";

impl GroupName {
    /// Returns all groups of these rules, in their order.
    pub fn all(rules: &Rules) -> Vec<Self> {
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

    /// Returns the name that the database and the commands use.
    pub fn name(&self) -> String {
        match self {
            GroupName::Funnel(name) => format!("{FUNNEL_PREFIX}{name}"),
            GroupName::Series(name) => format!("{SERIES_PREFIX}{name}"),
            other => other.kind().to_owned(),
        }
    }

    /// Returns the kind of the group. All funnels share one word, and all series share another.
    pub const fn kind(&self) -> &'static str {
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

    /// The words by which a command names groups.
    pub const WORDS: [&str; 6] = ["rollups", "sessions", "activity", "features", "funnels", "dashboard"];

    /// Returns the word of [`GroupName::WORDS`] that names this group.
    const fn word(&self) -> &'static str {
        match self {
            GroupName::Links | GroupName::Funnel(_) => "funnels",
            GroupName::EventCounts | GroupName::Series(_) => "dashboard",
            other => other.kind(),
        }
    }

    /// Returns the groups that a command's words mean, or all groups if there are no words.
    pub fn meant_by(rules: &Rules, words: &[String]) -> GroupSet {
        let is_meant = |group: &Self| words.is_empty() || words.iter().any(|word| word == group.word());
        Self::all(rules).into_iter().filter(is_meant).collect()
    }

    /// Returns the groups whose freezing also freezes this one: the groups that this group listens to and, for a
    /// series, the group that keeps T.
    fn depends_on(&self, rules: &Rules) -> Vec<GroupName> {
        let mut groups = self.listens_to(rules);
        if matches!(self, GroupName::Series(_)) {
            groups.push(GroupName::Sessions);
        }
        groups
    }

    /// Returns the groups whose changes give facts to this group.
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

    /// Returns the fingerprint: all that the rows depend on, except the raw rows and the groups that this group
    /// listens to.
    pub fn fingerprint(&self, rules: &Rules) -> String {
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

/// Adds all groups that depend on these groups, directly or through others.
pub fn with_dependents(rules: &Rules, mut groups: GroupSet) -> GroupSet {
    for group in GroupName::all(rules) {
        if group.depends_on(rules).iter().any(|other| groups.contains(other)) {
            groups.insert(group);
        }
    }
    groups
}

/// Adds all groups that these groups listen to, directly or through others.
pub fn with_sources(rules: &Rules, mut groups: GroupSet) -> GroupSet {
    for group in GroupName::all(rules).into_iter().rev() {
        if groups.contains(&group) {
            groups.extend(group.listens_to(rules));
        }
    }
    groups
}

/// Returns the places of the series whose groups are in `groups`.
pub fn current_series(dashboards: &Dashboards, groups: &GroupSet) -> BTreeSet<usize> {
    let of_group = groups.iter().filter_map(|group| match group {
        GroupName::Series(name) => dashboards.place_by_name(name),
        _ => None,
    });
    of_group.collect()
}

/// Returns the names of all groups of these rules, each with the group's fingerprint.
pub fn fingerprints(rules: &Rules) -> BTreeMap<String, String> {
    GroupName::all(rules).iter().map(|group| (group.name(), group.fingerprint(rules))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_group_has_a_word_and_each_word_a_group() {
        let (funnel, series) = (GroupName::Funnel("f".into()), GroupName::Series("s".into()));
        let fixed = [GroupName::Rollups, GroupName::Features, GroupName::Links, GroupName::Sessions];
        let groups = fixed.into_iter().chain([GroupName::Activity, GroupName::EventCounts, funnel, series]);
        let words: BTreeSet<&str> = groups.map(|group| group.word()).collect();
        assert_eq!(words, GroupName::WORDS.into());
    }
}
