//! Features: usages, users, mean duration and success rate of a feature on one UTC day (`SEMANTICS` section 5).

use std::collections::BTreeSet;

use chrono::NaiveDate;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::parsed::{ParsedEvent, is_asked_for};
use super::{ByKey, ExactSum, Group, Merge, State, period};
use crate::model::{AnalyticsEvent, FeatureUsage, JsonObject, natural_id};

const MAX_NAME_CHARS: usize = 128;
/// By default, every event of this type is a usage.
const FEATURE_TYPE: &str = "feature";
/// By default, this property names a feature.
const FEATURE_PROPERTY: &str = "feature";
/// Canonical JSON contains this text if an object in it has [`FEATURE_PROPERTY`]. Without this text, the
/// defaults need not parse the properties.
const FEATURE_PROPERTY_KEY: &str = "\"feature\":";

/// Returns whether a text may name a feature: 1 to 128 characters, no control characters, not blank.
pub fn is_feature_name(name: &str) -> bool {
    let is_short = name.chars().nth(MAX_NAME_CHARS).is_none();
    is_short && !name.trim().is_empty() && !name.chars().any(char::is_control)
}

/// The rules that decide which events are usages of which features.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FeatureRules {
    /// `features_defaults`: events of type `feature`, and events with a text `properties.feature`.
    pub has_defaults: bool,
    /// `[[features]]`
    pub rules: Vec<FeatureRule>,
}

/// A rule: the events that match are usages of a feature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FeatureRule {
    /// The feature that the events are usages of.
    pub feature: FeatureName,
    /// The event types that match. An empty list matches any type.
    pub event_types: Vec<String>,
    /// The event names that match. An empty list matches any name.
    pub event_names: Vec<String>,
}

/// How a rule names a feature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum FeatureName {
    /// The rule names the feature literally.
    Literal(String),
    /// The text at this path in the event's properties names the feature.
    Property(Vec<String>),
}

impl FeatureRules {
    /// Returns the features that an event is a usage of, each once.
    pub fn names(&self, parsed: &mut ParsedEvent<'_>) -> BTreeSet<String> {
        let event = parsed.event;
        let mut names = BTreeSet::new();
        for rule in self.rules.iter().filter(|rule| rule.matches(event)) {
            names.extend(match &rule.feature {
                FeatureName::Literal(name) => Some(name.clone()),
                FeatureName::Property(path) => text(parsed, path).map(str::to_owned),
            });
        }
        if self.has_defaults {
            let json = event.properties.as_ref().map_or("", JsonObject::as_str);
            let named = if json.contains(FEATURE_PROPERTY_KEY) {
                text(parsed, &[FEATURE_PROPERTY]).filter(|name| !name.is_empty()).map(str::to_owned)
            } else {
                None
            };
            let or_event_name = || (event.event_type == FEATURE_TYPE).then(|| event.event_name.clone());
            names.extend(named.or_else(or_event_name));
        }
        names.retain(|name| is_feature_name(name));
        names
    }
}

impl FeatureRule {
    fn matches(&self, event: &AnalyticsEvent) -> bool {
        is_asked_for(&self.event_types, &self.event_names, event)
    }
}

/// Returns whether a usage succeeded. `None` if the properties do not say.
pub fn success(properties: &Map<String, Value>) -> Option<bool> {
    properties.get("success").and_then(Value::as_bool)
}

/// Returns the text at a path in an event's properties. `None` if there is no text.
fn text<'p>(parsed: &'p mut ParsedEvent<'_>, path: &[impl AsRef<str>]) -> Option<&'p str> {
    let (first, rest) = path.split_first()?;
    let value = parsed.properties().get(first.as_ref());
    rest.iter().fold(value, |value, key| value?.get(key.as_ref()))?.as_str()
}

/// The group of `feature_usage`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Features;

/// One feature, one day.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FeatureDay {
    /// The feature.
    pub feature_name: String,
    /// The day.
    pub date: NaiveDate,
}

impl FeatureDay {
    /// Returns the id of the row: UUIDv5 over the key.
    pub fn id(&self) -> String {
        natural_id::of(&format!("feature_usage|{}|{}", self.date, self.feature_name))
    }
}

/// The facts of a feature's day.
#[derive(Debug, Clone, Default)]
pub struct FeatureFact {
    usage: Usage,
    /// Users of the feature. The store removes users that are already known for that day.
    pub users: BTreeSet<String>,
}

/// All that is known of a feature's day, except the rows of its users.
#[derive(Debug, Clone, Default)]
pub struct FeatureState {
    usage: Usage,
    unique_users: u64,
}

#[derive(Debug, Clone, Default)]
struct Usage {
    count: u64,
    durations_ms: ExactSum,
    /// Number of usages with a duration.
    timed: u64,
    successes: u64,
    failures: u64,
}

impl Usage {
    fn of(properties: &Map<String, Value>) -> Self {
        let mut usage = Self { count: 1, ..Self::default() };
        let duration_ms = properties.get("duration_ms").and_then(Value::as_f64);
        if let Some(duration_ms) = duration_ms.filter(|ms| ms.is_finite() && *ms >= 0.0) {
            // A subnormal number counts as 0, as in metrics.
            usage.durations_ms.add(if duration_ms.is_subnormal() { 0.0 } else { duration_ms });
            usage.timed = 1;
        }
        match success(properties) {
            Some(true) => usage.successes = 1,
            Some(false) => usage.failures = 1,
            None => {}
        }
        usage
    }
}

impl Merge for Usage {
    fn merge(&mut self, other: Self) {
        self.count += other.count;
        self.durations_ms.merge(other.durations_ms);
        self.timed += other.timed;
        self.successes += other.successes;
        self.failures += other.failures;
    }
}

impl Merge for FeatureFact {
    fn merge(&mut self, other: Self) {
        self.usage.merge(other.usage);
        self.users.extend(other.users);
    }
}

impl FeatureState {
    /// Returns the row of `feature_usage`.
    pub fn row(&self, key: &FeatureDay) -> FeatureUsage {
        let Usage { count, durations_ms, timed, successes, failures } = &self.usage;
        let told = successes + failures;
        FeatureUsage {
            id: key.id(),
            feature_name: key.feature_name.clone(),
            date: key.date,
            usage_count: i64::try_from(*count).unwrap_or(i64::MAX),
            unique_users: i64::try_from(self.unique_users).unwrap_or(i64::MAX),
            avg_duration_ms: (*timed > 0).then(|| durations_ms.mean(*timed)),
            success_rate: (told > 0).then(|| *successes as f64 / told as f64),
        }
    }
}

impl Group for Features {
    type Key = FeatureDay;
    type Fact = FeatureFact;
    type State = FeatureState;

    fn apply(before: Option<&mut FeatureState>, fact: FeatureFact) -> FeatureState {
        let mut after = before.map(std::mem::take).unwrap_or_default();
        after.usage.merge(fact.usage);
        after.unique_users += fact.users.len() as u64;
        after
    }
}

impl ByKey<Features> {
    /// Adds one usage by the event to each feature in `features`.
    pub fn add_usages(&mut self, features: BTreeSet<String>, parsed: &mut ParsedEvent<'_>) {
        let event = parsed.event;
        let fact =
            FeatureFact { usage: Usage::of(parsed.properties()), users: event.user_id.iter().cloned().collect() };
        let date = period::date(event.timestamp);
        for feature_name in features {
            self.add(FeatureDay { feature_name, date }, fact.clone());
        }
    }
}

/// The stored form of a feature's day.
#[derive(Serialize, Deserialize)]
struct FeatureBytes {
    count: u64,
    durations_ms: Vec<u8>,
    timed: u64,
    successes: u64,
    failures: u64,
    unique_users: u64,
}

impl State for FeatureState {
    const VERSION: u8 = 1;

    fn encode(&self, bytes: Vec<u8>) -> Vec<u8> {
        let Usage { count, durations_ms, timed, successes, failures } = self.usage.clone();
        let durations_ms = durations_ms.to_bytes();
        let unique_users = self.unique_users;
        let stored = FeatureBytes { count, durations_ms, timed, successes, failures, unique_users };
        // Writing numbers into a vector cannot fail.
        postcard::to_extend(&stored, bytes).unwrap_or_default()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (stored, rest) = postcard::take_from_bytes::<FeatureBytes>(bytes).ok()?;
        let FeatureBytes { count, durations_ms, timed, successes, failures, unique_users } = stored;
        let durations_ms = ExactSum::from_bytes(&durations_ms)?;
        let usage = Usage { count, durations_ms, timed, successes, failures };
        rest.is_empty().then_some(Self { usage, unique_users })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::EventBuilder;

    fn rules(has_defaults: bool, rules: Vec<FeatureRule>) -> FeatureRules {
        FeatureRules { has_defaults, rules }
    }

    fn names(rules: &FeatureRules, event: &AnalyticsEvent) -> Vec<String> {
        rules.names(&mut ParsedEvent::of(event)).into_iter().collect()
    }

    #[test]
    fn by_default_a_usage_names_its_feature_or_is_of_type_feature() {
        let defaults = rules(true, Vec::new());
        let long = "x".repeat(129);
        for (event_type, properties, expected) in [
            ("track", json!({"feature": "search"}), vec!["search"]),
            ("feature", json!({"feature": "search"}), vec!["search"]),
            ("feature", json!({}), vec!["clicked"]),
            ("feature", json!({"feature": ""}), vec!["clicked"]),
            ("feature", json!({"feature": 7}), vec!["clicked"]),
            ("track", json!({"feature": 7}), vec![]),
            ("track", json!({"other": {"feature": "search"}}), vec![]),
            ("track", json!({"feature": "  "}), vec![]),
            ("track", json!({"feature": "a\nb"}), vec![]),
            ("track", json!({ "feature": long }), vec![]),
            ("track", json!({"feature": long[1..]}), vec![&long[1..]]),
        ] {
            let event = EventBuilder::new(event_type, "clicked").properties(properties.clone()).build();
            assert_eq!(names(&defaults, &event), expected, "{event_type} {properties}");
            assert!(names(&rules(false, Vec::new()), &event).is_empty());
        }
        assert_eq!(names(&defaults, &EventBuilder::new("feature", "clicked").build()), ["clicked"]);
    }

    #[test]
    fn rules_ask_for_type_and_name_and_one_feature_counts_once() {
        let rule = |feature, event_types: &[&str], event_names: &[&str]| FeatureRule {
            feature,
            event_types: event_types.iter().map(|text| (*text).to_owned()).collect(),
            event_names: event_names.iter().map(|text| (*text).to_owned()).collect(),
        };
        let literal = |name: &str| FeatureName::Literal(name.into());
        let path = |path: &[&str]| FeatureName::Property(path.iter().map(|key| (*key).to_owned()).collect());
        let rules = rules(
            true,
            vec![
                rule(literal("search"), &["track"], &["search_performed", "searched"]),
                rule(literal("search"), &[], &["searched"]),
                rule(path(&["item", "kind"]), &[], &[]),
                rule(literal("nothing"), &["no such type"], &[]),
            ],
        );
        let event = |event_type: &str, name: &str, properties: Value| {
            EventBuilder::new(event_type, name).properties(properties).build()
        };
        let nested = json!({"item": {"kind": "ring"}, "feature": "search"});
        assert_eq!(names(&rules, &event("track", "searched", nested)), ["ring", "search"]);
        assert_eq!(names(&rules, &event("page", "search_performed", json!({"item": {"kind": 1}}))), [""; 0]);
        assert_eq!(names(&rules, &event("page", "searched", json!({"item": "ring"}))), ["search"]);
    }
}
