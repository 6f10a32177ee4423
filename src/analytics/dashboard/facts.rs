//! Facts about series, from messages, changed sessions and episodes.

use std::collections::BTreeSet;

use hashbrown::HashMap;

use super::{Counters, Index, Series, Tally};
use crate::analytics::{ByKey, Group, Merge, Rollups, Session, period};
use crate::model::{AnalyticsEvent, PeriodType, Timestamp};

/// The group of all series that widgets count.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SeriesGroup;

/// The key of a state: one series in one period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SeriesPeriod {
    /// The place of the series in the rules.
    pub at: usize,
    /// The length of the period.
    pub period_type: PeriodType,
    /// The start of the period.
    pub start: Timestamp,
}

/// The facts about one series in one period.
#[derive(Debug, Clone, Default)]
pub struct SeriesFact {
    /// The counters or samples to add.
    pub tally: Tally,
    /// Distinct members. The store removes the members that it already knows in that period.
    pub members: BTreeSet<String>,
}

impl Merge for SeriesFact {
    fn merge(&mut self, other: Self) {
        self.tally.merge(other.tally);
        self.members.extend(other.members);
    }
}

impl Group for SeriesGroup {
    type Key = SeriesPeriod;
    type Fact = SeriesFact;
    type State = Tally;

    fn apply(before: Option<&mut Tally>, fact: SeriesFact) -> Tally {
        let mut after = before.map(|before| before.clone()).unwrap_or_default();
        after.merge(fact.tally);
        let members = i64::try_from(fact.members.len()).unwrap_or(i64::MAX);
        after.merge(Tally::Counters(Counters { count: members, ..Counters::default() }));
        after
    }
}

/// Facts about series. They are by hour until `roll_up` combines them into periods.
pub type SeriesFacts = ByKey<SeriesGroup>;

/// Changes in the number and duration of sessions, by the hour in which a session starts. They are collected even if
/// no widget asks for sessions.
#[derive(Debug, Default)]
pub struct SessionHours(HashMap<Timestamp, Counters>);

impl SessionHours {
    /// Records a session that changed, appeared or disappeared. Subtracts `before` from its hour and adds `after` to
    /// its hour.
    pub fn move_session(&mut self, before: Option<&Session>, after: Option<&Session>) {
        for (session, sign) in [(before, -1), (after, 1)] {
            if let Some(session) = session {
                let start = period::start(PeriodType::Hourly, session.started_at());
                let duration_ms = sign * session.duration_ms();
                self.0.entry(start).or_default().merge(Counters { count: sign, duration_ms, ..Counters::default() });
            }
        }
    }

    /// Adds the changes that `other` holds.
    pub fn merge(&mut self, other: Self) {
        for (start, counters) in other.0 {
            self.0.entry(start).or_default().merge(counters);
        }
    }
}

impl SeriesFacts {
    fn hour(&mut self, at: usize, timestamp: Timestamp) -> &mut SeriesFact {
        let start = period::start(PeriodType::Hourly, timestamp);
        self.of(&SeriesPeriod { at, period_type: PeriodType::Hourly, start }, |key| *key, SeriesFact::default)
    }

    fn count(&mut self, at: usize, timestamp: Timestamp, counters: Counters) {
        if counters != Counters::default() {
            self.hour(at, timestamp).tally.merge(Tally::Counters(counters));
        }
    }

    fn add_member(&mut self, at: usize, timestamp: Timestamp, member: &str) {
        let members = &mut self.hour(at, timestamp).members;
        if !members.contains(member) {
            members.insert(member.to_owned());
        }
    }

    /// Adds the facts of an event, except usages of features.
    pub fn add_event(&mut self, rules: &Index, event: &AnalyticsEvent) {
        let one = Counters { count: 1, ..Counters::default() };
        let by_name = rules.events_by_name.get(event.event_name.as_str());
        for at in rules.events.iter().chain(by_name) {
            self.count(*at, event.timestamp, one);
        }
        if let (Some(at), Some(user_id)) = (rules.users, &event.user_id) {
            self.add_member(at, event.timestamp, user_id);
        }
    }

    /// Adds an event as a usage of each of `features`.
    pub fn add_usages(
        &mut self,
        rules: &Index,
        features: &BTreeSet<String>,
        event: &AnalyticsEvent,
        success: Option<bool>,
    ) {
        for feature in features {
            if let Some(at) = rules.usages.get(feature) {
                let (successes, failures) = (i64::from(success == Some(true)), i64::from(success == Some(false)));
                self.count(*at, event.timestamp, Counters { count: 1, successes, failures, ..Counters::default() });
            }
            if let (Some(at), Some(user_id)) = (rules.feature_users.get(feature), &event.user_id) {
                self.add_member(*at, event.timestamp, user_id);
            }
        }
    }

    /// Adds the facts of metrics: their hourly rollups.
    pub fn add_rollups(&mut self, rules: &Index, hours: &ByKey<Rollups>) {
        if rules.samples_by_name.is_empty() {
            return;
        }
        for (key, rollup) in hours.iter() {
            let Some(named) = rules.samples_by_name.get(key.name.as_str()) else { continue };
            let tags: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&key.tags).unwrap_or_default();
            for at in named {
                let Series::Samples { tags: wanted, .. } = &rules.counted[*at].series else { continue };
                let has = |(key, value): (&String, &String)| {
                    tags.get(key).and_then(serde_json::Value::as_str) == Some(value.as_str())
                };
                if wanted.iter().all(has) {
                    self.hour(*at, key.period_start).tally.merge(Tally::Samples(Box::new(rollup.clone())));
                }
            }
        }
    }

    /// Adds the facts of changed sessions.
    pub fn add_sessions(&mut self, rules: &Index, sessions: SessionHours) {
        if let Some(at) = rules.sessions {
            sessions.0.into_iter().for_each(|(start, counters)| self.count(at, start, counters));
        }
    }

    /// Adds a funnel's episode as it is now (`sign` 1), or subtracts the episode as it was before (`sign` -1).
    pub fn add_episode(&mut self, rules: &Index, funnel: &str, started_at: Timestamp, is_completed: bool, sign: i64) {
        if let Some(at) = rules.episodes.get(funnel) {
            let converted = if is_completed { sign } else { 0 };
            self.count(*at, started_at, Counters { count: sign, converted, ..Counters::default() });
        }
    }

    /// Returns only the facts about these series.
    pub fn of_series(mut self, places: &BTreeSet<usize>) -> Self {
        self.0.retain(|key, _| places.contains(&key.at));
        self
    }

    /// Returns the places of the series that have facts.
    pub fn places(&self) -> BTreeSet<usize> {
        self.iter().map(|(key, _)| key.at).collect()
    }

    /// Combines hourly facts into the periods of each series, hours included. Leaves out the periods that are not
    /// kept at the watermark `t`.
    pub fn roll_up(self, rules: &Index, t: Timestamp) -> Self {
        let mut all = Self::default();
        for (hour, fact) in self.into_sorted() {
            for period_type in &rules.counted[hour.at].periods {
                let start = period::start(*period_type, hour.start);
                if start >= rules.kept_from(*period_type, t) {
                    all.add(SeriesPeriod { period_type: *period_type, start, ..hour }, fact.clone());
                }
            }
        }
        all
    }
}
