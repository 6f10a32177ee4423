//! The rules: they turn stored messages into facts for the keys of each group.

use super::dashboard::{SeriesFacts, SessionHours};
use super::funnel::FunnelFacts;
use super::parsed::ParsedEvent;
use super::session::{ActorRef, Contexts, Session, UnnamedSessions};
use super::{
    Activity, ByKey, EventCounts, Features, Links, Rollups, Rules, Sessions, Stored, UserDayRef, feature, period,
};
use crate::model::{AnalyticsEvent, Timestamp};

/// The facts of a transaction's stored messages: the watermark, and facts for the keys of every group.
#[derive(Debug, Default)]
pub struct Facts {
    /// The greatest min(timestamp, recv) of the messages, for the watermark T. The minimum keeps T from passing the
    /// server's time if a sender's clock runs ahead.
    pub watermark: Option<Timestamp>,
    /// Rollups of metrics by hour. Longer periods are made from the hours.
    pub rollups: ByKey<Rollups>,
    /// Named sessions, by session id.
    pub sessions: ByKey<Sessions>,
    /// Sessions of events that name no session, by actor.
    pub unnamed_sessions: UnnamedSessions,
    /// Activity, by user and day.
    pub activity: ByKey<Activity>,
    /// Usages, by feature and day.
    pub features: ByKey<Features>,
    /// Links to users, by anonymous id.
    pub links: ByKey<Links>,
    /// Hits of actors in funnels.
    pub funnels: FunnelFacts,
    /// Event counts, by day and name.
    pub event_counts: EventCounts,
    /// Series that widgets count, by hour. Facts from sessions and episodes follow when sessions and funnels are
    /// applied.
    pub series: SeriesFacts,
    /// Sessions that were added, changed or removed, by hour.
    pub session_hours: SessionHours,
}

impl Facts {
    /// Adds the facts of messages. Each message comes with the time at which the server received it.
    pub fn add<'a>(&mut self, rules: &Rules, messages: impl IntoIterator<Item = (Stored<'a>, Timestamp)>) {
        let mut contexts = Contexts::default();
        for (message, recv) in messages {
            let timestamp = match message {
                Stored::Event(event) => {
                    self.add_event(rules, event, &mut contexts);
                    event.timestamp
                }
                Stored::Metric(metric) => {
                    self.rollups.add_metric(metric);
                    metric.timestamp
                }
                Stored::Session(message) => {
                    self.sessions.of_session(&message.session_id, message.timestamp).add_message(message);
                    message.timestamp
                }
            };
            self.watermark = self.watermark.max(Some(timestamp.min(recv)));
        }
    }

    /// Returns the number of keys with facts, as a measure of memory use. Each unnamed session and each new funnel
    /// hit counts as a key. Series, session hours and event counts are not counted.
    pub fn keys(&self) -> usize {
        let sessions = self.sessions.len() + self.unnamed_sessions.len();
        sessions
            + self.rollups.len()
            + self.activity.len()
            + self.features.len()
            + self.links.len()
            + self.funnels.len()
    }

    fn add_event<'a>(&mut self, rules: &Rules, event: &'a AnalyticsEvent, contexts: &mut Contexts<'a>) {
        if let Some(session_id) = &event.session_id {
            let session = self.sessions.of_session(session_id, event.timestamp);
            session.add_event(event, contexts.of(event));
        } else if let Some(actor) = ActorRef::of(event) {
            self.unnamed_sessions.add_event(actor, event, contexts.of(event), rules.session_timeout_ms);
        }
        if let Some(user_id) = &event.user_id {
            self.activity.of_day(UserDayRef { user_id, date: period::date(event.timestamp) }).add_event(event);
        }
        self.links.add_event(event);
        let mut parsed = ParsedEvent::of(event);
        let features = rules.features.names(&mut parsed);
        if !features.is_empty() {
            self.series.add_usages(&rules.dashboards, &features, event, feature::success(parsed.properties()));
            self.features.add_usages(features, &mut parsed);
        }
        self.event_counts.add_event(event);
        self.series.add_event(&rules.dashboards, event);
        self.funnels.add_event(&rules.funnels, &mut parsed);
    }

    /// Adds the facts for other groups after a session appeared, changed, disappeared or got another id.
    pub fn session_changed(&mut self, before: Option<(&str, &Session)>, after: Option<(&str, &Session)>) {
        self.activity.move_session(before, after);
        self.session_hours.move_session(before.map(|(_, session)| session), after.map(|(_, session)| session));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::analytics::dashboard::{Dashboards, SeriesGroup, Widget};
    use crate::analytics::funnel::Funnels;
    use crate::analytics::{FeatureRules, Group, State};
    use crate::model::{EventBuilder, MetricBuilder, SessionBuilder};

    const TIMEOUT_MS: i64 = 1_000;

    fn rules() -> Rules {
        let features = FeatureRules { has_defaults: true, rules: Vec::new() };
        let expressions = ["events.count", "events.count{event_name=n3}", "users.active", "metric.m.p99"];
        let expressions = expressions.into_iter().chain(["feature.f1.usage", "feature.f1.users"]);
        let metrics = expressions.map(|text| (text.replace('.', "_"), text.parse().unwrap())).collect();
        let (id, max_rate) = ("w".into(), std::time::Duration::ZERO);
        let widget = Widget { id, title: None, period: crate::model::PeriodType::Daily, max_rate, metrics };
        let dashboards = Dashboards::new(vec![widget], 86_400_000);
        Rules { session_timeout_ms: TIMEOUT_MS, features, funnels: Funnels::default(), dashboards }
    }

    /// Returns the facts of an event, a metric or a session message. Users and times are few, so keys repeat.
    fn facts_of(number: usize, says: u8, user: u8, step: i64) -> Facts {
        let at = Timestamp::from_millis(step * TIMEOUT_MS / 2);
        let id = format!("{:03}", (number * 7919) % 1000);
        let of = |stored: Stored<'_>| {
            let mut facts = Facts::default();
            facts.add(&rules(), [(stored, at)]);
            facts
        };
        match says {
            0 => of((&MetricBuilder::gauge("m", f64::from(user)).id(&id).timestamp(at).build()).into()),
            1 => of((&SessionBuilder::start("s").id(&id).timestamp(at).user_id("u").build()).into()),
            _ => {
                let properties = json!({"feature": format!("f{user}"), "duration_ms": number, "success": step > 2});
                let event = EventBuilder::track(format!("n{says}")).id(&id).timestamp(at).properties(properties);
                let event = event.user_id(&format!("u{user}")).page_url(&id).anonymous_id(&format!("a{}", step % 2));
                of((&if says == 2 { event.session_id("s") } else { event }.build()).into())
            }
        }
    }

    fn merge(whole: &mut Facts, part: Facts) {
        use crate::analytics::Merge as _;
        fn merge<G: Group>(whole: &mut ByKey<G>, part: ByKey<G>) {
            part.into_sorted().into_iter().for_each(|(key, fact)| whole.add(key, fact));
        }
        whole.watermark = whole.watermark.max(part.watermark);
        merge(&mut whole.rollups, part.rollups);
        merge(&mut whole.sessions, part.sessions);
        merge(&mut whole.activity, part.activity);
        merge(&mut whole.features, part.features);
        merge(&mut whole.links, part.links);
        merge(&mut whole.series, part.series);
        whole.session_hours.merge(part.session_hours);
        whole.event_counts.merge(part.event_counts);
        for (actor, sessions) in part.unnamed_sessions.into_sorted(TIMEOUT_MS) {
            whole.unnamed_sessions.add(actor, sessions);
        }
    }

    /// Returns the facts as bytes of states. Equal states have equal bytes.
    fn states(facts: Facts) -> Vec<Vec<u8>> {
        let Facts { watermark, rollups, sessions, unnamed_sessions, activity, features, links, .. } = facts;
        let (mut series, event_counts) = (facts.series, facts.event_counts);
        series.add_rollups(&rules().dashboards, &rollups);
        let series = series.roll_up(&rules().dashboards, watermark.unwrap_or(Timestamp::from_millis(0)));
        let mut states = vec![format!("{watermark:?} {:?}", event_counts.into_sorted()).into_bytes()];
        states.extend(rollups.into_sorted().iter().map(|(_, fact)| fact.to_bytes()));
        states.extend(sessions.into_sorted().iter().map(|(_, fact)| fact.to_bytes()));
        states.extend(
            unnamed_sessions.into_sorted(TIMEOUT_MS).iter().flat_map(|(_, sessions)| sessions).map(State::to_bytes),
        );
        states.extend(activity.into_sorted().into_iter().map(|(_, fact)| Activity::apply(None, fact).to_bytes()));
        states.extend(links.into_sorted().iter().map(|(_, fact)| fact.to_bytes()));
        for (_, fact) in series.into_sorted() {
            states.push(format!("{:?}", fact.members).into_bytes());
            states.push(SeriesGroup::apply(None, fact).to_bytes());
        }
        for (_, fact) in features.into_sorted() {
            states.push(format!("{:?}", fact.users).into_bytes());
            states.push(Features::apply(None, fact).to_bytes());
        }
        states
    }

    proptest! {

        #![proptest_config(crate::property_config())]

        /// L5: for any split of messages into partitions, the parts merge to the whole, in any order.
        #[test]
        fn partitions_merge_to_the_whole(
            messages in prop::collection::vec((0..6_u8, 0..3_u8, 0..12_i64, 0..4_usize), 1..40),
            turn in 0..4_usize,
        ) {
            let facts = |(number, (says, user, step, _)): (usize, &(u8, u8, i64, usize))| facts_of(number, *says, *user, *step);
            let merged = |parts: &mut dyn Iterator<Item = Facts>| {
                let mut whole = Facts::default();
                parts.for_each(|part| merge(&mut whole, part));
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
