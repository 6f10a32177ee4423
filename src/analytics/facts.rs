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
