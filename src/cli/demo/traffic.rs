//! Generates believable traffic: people visit, create missions, write specs, search, and complete their missions.

use std::collections::BTreeMap;

use fastrand::Rng;
use serde_json::json;

use crate::model::{
    AnalyticsEvent, EventBuilder, Metric, MetricBuilder, SessionBuilder, SessionMessage, Timestamp, events, metrics,
};

const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 60 * MINUTE_MS;
const USERS: u32 = 400;
const QUERIES: [&str; 5] = ["stream gauge", "exactly once", "late data", "funnel", "percentiles"];
const ITEMS: [&str; 3] = ["agent", "tool", "workflow"];
const DEVICES: [(&str, &str, &str); 4] = [
    ("desktop", "Firefox", "Linux"),
    ("desktop", "Chrome", "Windows"),
    ("mobile", "Safari", "iOS"),
    ("tablet", "Chrome", "Android"),
];
const COUNTRIES: [&str; 6] = ["DE", "FR", "NL", "PL", "US", "JP"];

/// A message of any kind.
#[derive(Debug, Clone)]
pub(super) enum DemoMessage {
    Event(AnalyticsEvent),
    Metric(Metric),
    Session(SessionMessage),
    /// A message of a client with a bug. The worker rejects it: it ends in the ledger, with its reason.
    Bad(&'static str),
}

/// Planned messages, in the order of their times.
#[derive(Debug)]
pub(super) struct Traffic {
    random: Rng,
    visits: u64,
    /// By time in milliseconds, and by a number that separates messages of the same time.
    planned: BTreeMap<(i64, u64), DemoMessage>,
    messages: u64,
}

impl Traffic {
    pub(super) fn new(seed: u64) -> Self {
        Self { random: Rng::with_seed(seed), visits: 0, planned: BTreeMap::new(), messages: 0 }
    }

    /// Plans the visits of the hours before a time: fewer visits at night, more on the last day.
    pub(super) fn plan_history(&mut self, hours: i64, until: Timestamp) {
        for hour in (0..hours).rev() {
            let start_ms = until.as_millis() - (hour + 1) * HOUR_MS;
            let of_day = (start_ms.rem_euclid(24 * HOUR_MS) / HOUR_MS) as f64;
            let daylight = 1.0 + (std::f64::consts::TAU * (of_day - 9.0) / 24.0).sin();
            let growth = if hour < 24 { 1.25 } else { 1.0 };
            let visits = 50.0 + 150.0 * daylight * growth * (0.8 + 0.4 * self.random.f64());
            for _ in 0..visits as u32 {
                let at = start_ms + self.random.i64(0..HOUR_MS);
                self.plan_visit(at, 20.0);
            }
        }
    }

    /// Plans a visit that begins at a time. `pace_seconds` is the mean time from one step to the next.
    pub(super) fn plan_visit(&mut self, at_ms: i64, pace_seconds: f64) {
        self.visits += 1;
        let user = format!("user-{}", (self.random.f64().powi(2) * f64::from(USERS)) as u32);
        let mut visit = Visit { session: format!("visit-{}-{}", at_ms, self.visits), user, at_ms, pace_seconds };
        let (device, browser, os) = DEVICES[self.random.usize(..DEVICES.len())];
        let start = SessionBuilder::start(&visit.session).device_type(device).browser(browser).os(os);
        let start = start.country(COUNTRIES[self.random.usize(..COUNTRIES.len())]);
        self.plan(&visit, DemoMessage::Session(start.user_id(&visit.user).timestamp(visit.at()).build()));
        self.request(&mut visit, "/home");
        self.event(&mut visit, EventBuilder::page("https://missions.example/"));
        for _ in 0..self.random.u32(0..4) {
            self.search(&mut visit);
        }
        if self.random.f64() < 0.6 {
            self.mission(&mut visit);
        }
        if self.random.f64() < 0.25 {
            let (item, kind) = (format!("item-{}", self.visits), ITEMS[self.random.usize(..ITEMS.len())]);
            self.request(&mut visit, "/forge");
            let is_success = self.random.f64() < 0.9;
            self.event(&mut visit, events::forge_item_created(&item, kind).property("success", is_success));
        }
        if self.random.f64() < 0.002 {
            self.plan(&visit, DemoMessage::Bad(r#"{"event_type":"track","event_name":"login","user_id":"undefined"}"#));
        }
        let end = SessionBuilder::end(&visit.session).user_id(&visit.user).timestamp(visit.at()).build();
        self.plan(&visit, DemoMessage::Session(end));
    }

    fn search(&mut self, visit: &mut Visit) {
        let results = self.random.i32(0..20);
        let took_ms = self.request(visit, "/search");
        let query = QUERIES[self.random.usize(..QUERIES.len())];
        let search = events::search_performed(query, results).property("success", results > 0);
        self.event(visit, search.property("duration_ms", took_ms));
    }

    fn mission(&mut self, visit: &mut Visit) {
        let mission = format!("mission-{}", self.visits);
        let began_ms = visit.at_ms;
        self.request(visit, "/missions");
        self.event(visit, events::mission_created(&mission));
        let created = metrics::missions_created().timestamp(visit.at()).build();
        self.plan(visit, DemoMessage::Metric(created));
        if self.random.f64() < 0.72 {
            self.request(visit, "/specs");
            self.event(visit, events::spec_created(&format!("spec-{}", self.visits), &mission));
            if self.random.f64() < 0.55 {
                self.request(visit, "/missions");
                self.event(visit, events::mission_completed(&mission, visit.at_ms - began_ms));
            }
        }
    }

    /// Plans a step of a visit: an event, some time after the step before.
    fn event(&mut self, visit: &mut Visit, event: EventBuilder) {
        visit.at_ms += (visit.pace_seconds * 1000.0 * (0.2 + 1.6 * self.random.f64())) as i64;
        let event = event.user_id(&visit.user).session_id(&visit.session).timestamp(visit.at());
        let event = event.context(json!({"app": "missions"})).build();
        self.plan(visit, DemoMessage::Event(event));
    }

    /// Plans the metric of a request. Returns how long the request took, in milliseconds.
    fn request(&mut self, visit: &mut Visit, endpoint: &str) -> f64 {
        let slow = if endpoint == "/search" { 3.0 } else { 1.0 };
        let took_ms = (slow * 12.0 * (2.2 * self.random.f64()).exp() * 100.0).round() / 100.0;
        let status = if self.random.f64() < 0.01 { 500 } else { 200 };
        let request: MetricBuilder = metrics::api_request(endpoint, took_ms, status);
        self.plan(visit, DemoMessage::Metric(request.timestamp(visit.at()).build()));
        took_ms
    }

    fn plan(&mut self, visit: &Visit, message: DemoMessage) {
        self.messages += 1;
        self.planned.insert((visit.at_ms, self.messages), message);
    }

    /// Takes the messages that are planned up to a time.
    pub(super) fn until(&mut self, now: Timestamp) -> Vec<DemoMessage> {
        let later = self.planned.split_off(&(now.as_millis() + 1, 0));
        std::mem::replace(&mut self.planned, later).into_values().collect()
    }

    /// Returns the time until the next visit begins, in milliseconds: four seconds on average.
    pub(super) fn next_visit_ms(&mut self) -> i64 {
        (-4_000.0 * (1.0 - self.random.f64()).ln()) as i64
    }
}

struct Visit {
    session: String,
    user: String,
    at_ms: i64,
    pace_seconds: f64,
}

impl Visit {
    fn at(&self) -> Timestamp {
        Timestamp::from_millis(self.at_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_lies_before_now_but_for_visits_that_are_not_over() {
        let now = Timestamp::from_millis(1_793_520_000_000);
        let mut traffic = Traffic::new(7);
        traffic.plan_history(48, now);
        let past = traffic.until(now);
        assert!(past.len() > 50_000, "{}", past.len());
        assert!(traffic.planned.len() < past.len() / 20, "{}", traffic.planned.len());
        assert!(traffic.until(now).is_empty());
        assert!(past.iter().any(|message| matches!(message, DemoMessage::Bad(_))));
    }
}
