//! The rules: what stored messages say of which keys of which groups.

use std::collections::BTreeMap;

use chrono::NaiveDate;
use foldhash::HashMap;

use super::session::{Actor, Contexts, Session, join, sessions_of};
use super::{Activity, ActivityFact, ByKey, Features, Merge, Rollups, Rules, Sessions, Stored, UserDay, period};
use crate::model::{AnalyticsEvent, Timestamp};

/// What the stored messages of a batch say: of time, and of the keys of every group.
#[derive(Debug, Default)]
pub struct Facts {
    /// The greatest min(timestamp, recv): what they say of T, the watermark. A clock that runs ahead does not move it
    /// past the server's time.
    pub watermark: Option<Timestamp>,
    /// Of metrics in periods.
    pub rollups: ByKey<Rollups>,
    /// Of sessions that were named, by session id.
    pub sessions: ByKey<Sessions>,
    /// Of sessions that were not, by whose they are: in the order of time, apart by more than the timeout.
    pub unnamed_sessions: BTreeMap<Actor, Vec<Session>>,
    /// Of users on days.
    pub activity: ByKey<Activity>,
    /// Of features on days.
    pub features: ByKey<Features>,
}

impl Facts {
    /// What messages say, each with when the server received it.
    pub fn of<'a>(rules: &Rules, messages: impl IntoIterator<Item = (Stored<'a>, Timestamp)>) -> Self {
        let mut gathered = Gathered::default();
        for (message, recv) in messages {
            gathered.add(rules, message, recv);
        }
        gathered.into_facts(rules)
    }

    /// What a session that changed, came, went, or got another id says to other groups.
    pub fn session_changed(&mut self, before: Option<(&str, &Session)>, after: Option<(&str, &Session)>) {
        self.activity.move_session(before, after);
    }

    /// Takes in what other messages say.
    pub fn merge(&mut self, rules: &Rules, other: Self) {
        let Self { watermark, rollups, sessions, unnamed_sessions, activity, features } = other;
        self.watermark = self.watermark.max(watermark);
        self.rollups.merge(rollups);
        self.sessions.merge(sessions);
        self.activity.merge(activity);
        self.features.merge(features);
        for (actor, theirs) in unnamed_sessions {
            let mine = self.unnamed_sessions.entry(actor).or_default();
            if mine.is_empty() {
                *mine = theirs;
            } else {
                mine.extend(theirs);
                *mine = join(std::mem::take(mine), rules.session_timeout_ms);
            }
        }
    }
}

/// Facts while they are gathered. Keys are borrowed from the messages: most are spoken of more than once.
#[derive(Default)]
struct Gathered<'a> {
    facts: Facts,
    sessions: HashMap<&'a str, Session>,
    /// Events that name no session, by whether their actor is a user, and its id.
    unnamed: HashMap<(bool, &'a str), Vec<&'a AnalyticsEvent>>,
    activity: HashMap<(&'a str, NaiveDate), ActivityFact>,
    contexts: Contexts<'a>,
}

impl<'a> Gathered<'a> {
    fn add(&mut self, rules: &Rules, message: Stored<'a>, recv: Timestamp) {
        let timestamp = match message {
            Stored::Event(event) => {
                self.add_event(rules, event);
                event.timestamp
            }
            Stored::Metric(metric) => {
                self.facts.rollups.add_metric(metric);
                metric.timestamp
            }
            Stored::Session(message) => {
                let at = || Session::at(message.timestamp);
                self.sessions.entry(&message.session_id).or_insert_with(at).add_message(message);
                message.timestamp
            }
        };
        self.facts.watermark = self.facts.watermark.max(Some(timestamp.min(recv)));
    }

    fn add_event(&mut self, rules: &Rules, event: &'a AnalyticsEvent) {
        if let Some(session_id) = &event.session_id {
            let session = self.sessions.entry(session_id).or_insert_with(|| Session::at(event.timestamp));
            session.add_event(event, self.contexts.of(event));
        } else if let Some(user_id) = &event.user_id {
            self.unnamed.entry((true, user_id)).or_default().push(event);
        } else if let Some(anonymous_id) = &event.anonymous_id {
            self.unnamed.entry((false, anonymous_id)).or_default().push(event);
        }
        if let Some(user_id) = &event.user_id {
            self.activity.entry((user_id, period::date(event.timestamp))).or_default().add_event(event);
        }
        self.facts.features.add_event(&rules.features, event);
    }

    fn into_facts(self, rules: &Rules) -> Facts {
        let Self { mut facts, sessions, unnamed, activity, mut contexts } = self;
        facts.rollups.roll_up();
        for (session_id, session) in sessions {
            facts.sessions.add(session_id.to_owned(), session);
        }
        for events in unnamed.into_values() {
            if let Some(actor) = events.first().and_then(|event| Actor::of(event)) {
                let sessions = sessions_of(&actor, events, rules.session_timeout_ms, &mut contexts);
                facts.unnamed_sessions.insert(actor, sessions);
            }
        }
        for ((user_id, date), fact) in activity {
            facts.activity.add(UserDay { user_id: user_id.to_owned(), date }, fact);
        }
        facts
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::analytics::{FeatureRules, Group, State};
    use crate::model::{EventBuilder, MetricBuilder, SessionBuilder};

    const TIMEOUT_MS: i64 = 1_000;

    fn rules() -> Rules {
        let features = FeatureRules { has_defaults: true, rules: Vec::new() };
        Rules { session_timeout_ms: TIMEOUT_MS, features }
    }

    /// An event, a metric or a session message, of few users, at few times.
    fn facts_of(number: usize, says: u8, user: u8, step: i64) -> Facts {
        let at = Timestamp::from_millis(step * TIMEOUT_MS / 2);
        let id = format!("{:03}", (number * 7919) % 1000);
        let of = |stored: Stored<'_>| Facts::of(&rules(), [(stored, at)]);
        match says {
            0 => of((&MetricBuilder::gauge("m", f64::from(user)).id(&id).timestamp(at).build()).into()),
            1 => of((&SessionBuilder::start("s").id(&id).timestamp(at).user_id("u").build()).into()),
            _ => {
                let properties = json!({"feature": format!("f{user}"), "duration_ms": number, "success": step > 2});
                let event = EventBuilder::track(format!("n{says}")).id(&id).timestamp(at).properties(properties);
                let event = event.user_id(&format!("u{user}")).page_url(&id);
                of((&if says == 2 { event.session_id("s") } else { event }.build()).into())
            }
        }
    }

    /// What the facts are as states: equal states have equal bytes.
    fn states(facts: Facts) -> Vec<Vec<u8>> {
        let Facts { watermark, rollups, sessions, unnamed_sessions, activity, features } = facts;
        let mut states = vec![format!("{watermark:?}").into_bytes()];
        states.extend(rollups.iter().map(|(_, fact)| fact.to_bytes()));
        states.extend(sessions.iter().map(|(_, fact)| fact.to_bytes()));
        states.extend(unnamed_sessions.values().flatten().map(State::to_bytes));
        states.extend(activity.iter().map(|(_, fact)| Activity::apply(None, fact.clone()).to_bytes()));
        for (_, fact) in features.iter() {
            states.push(format!("{:?}", fact.users).into_bytes());
            states.push(Features::apply(None, fact.clone()).to_bytes());
        }
        states
    }

    proptest! {
        /// L5: any split of messages into partitions merges to the whole, in any order.
        #[test]
        fn partitions_merge_to_the_whole(
            messages in prop::collection::vec((0..6_u8, 0..3_u8, 0..12_i64, 0..4_usize), 1..40),
            turn in 0..4_usize,
        ) {
            let facts = |(number, (says, user, step, _)): (usize, &(u8, u8, i64, usize))| facts_of(number, *says, *user, *step);
            let merged = |parts: &mut dyn Iterator<Item = Facts>| {
                let mut whole = Facts::default();
                parts.for_each(|part| whole.merge(&rules(), part));
                whole
            };
            let whole = merged(&mut messages.iter().enumerate().map(facts));
            let mut partitions: Vec<Facts> = (0..4)
                .map(|partition| {
                    let own = messages.iter().enumerate().filter(|(_, message)| message.3 == partition);
                    merged(&mut own.map(facts))
                })
                .collect();
            partitions.rotate_left(turn);
            prop_assert_eq!(states(merged(&mut partitions.into_iter())), states(whole));
        }
    }
}
