//! Activity: what one user did on one UTC day (`SEMANTICS` section 4).
//!
//! Events are only added. Sessions can move: if a session turns out to begin earlier, or gets another user, the
//! session moves from the old [`UserDay`] to the new one.

use std::collections::BTreeMap;

use chrono::NaiveDate;
use hashbrown::Equivalent;
use serde::{Deserialize, Serialize};

use super::{ByKey, Group, Merge, Session, State, period};
use crate::model::{AnalyticsEvent, JsonObject, Timestamp, natural_id};

/// The greatest number of names that a breakdown shows. The counts of all other names are summed under `$other`.
pub const MAX_NAMES: usize = 100;
const OTHER: &str = "$other";

/// The group of `user_activity`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Activity;

/// One user, one day.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserDay {
    /// The user.
    pub user_id: String,
    /// The day.
    pub date: NaiveDate,
}

impl UserDay {
    fn new(user_id: &str, timestamp: Timestamp) -> Self {
        Self { user_id: user_id.to_owned(), date: period::date(timestamp) }
    }

    /// Returns the id of the row: UUIDv5 over the key.
    pub fn id(&self) -> String {
        natural_id::of(&format!("user_activity|{}|{}", self.date, self.user_id))
    }
}

/// A borrowed [`UserDay`], with the same hash.
#[derive(Debug, Hash)]
pub struct UserDayRef<'a> {
    /// The user.
    pub user_id: &'a str,
    /// The day.
    pub date: NaiveDate,
}

impl Equivalent<UserDay> for UserDayRef<'_> {
    fn equivalent(&self, key: &UserDay) -> bool {
        self.user_id == key.user_id && self.date == key.date
    }
}

/// The time from the first to the last of some moments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    first_ms: i64,
    last_ms: i64,
}

impl Span {
    /// Creates the span from `first` to `last`.
    pub fn new(first: Timestamp, last: Timestamp) -> Self {
        Self { first_ms: first.as_millis(), last_ms: last.as_millis() }
    }

    fn union(one: Option<Self>, other: Option<Self>) -> Option<Self> {
        match (one, other) {
            (Some(one), Some(other)) => {
                Some(Self { first_ms: one.first_ms.min(other.first_ms), last_ms: one.last_ms.max(other.last_ms) })
            }
            (one, other) => one.or(other),
        }
    }
}

/// The facts of a user's day, from messages and from sessions that changed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ActivityFact {
    event_count: u64,
    events_span: Option<Span>,
    names: BTreeMap<String, u64>,
    session_count: i64,
    duration_ms: i64,
    starts: BTreeMap<(Timestamp, String), Presence>,
    /// The first and last start of all remaining sessions. `None` if no lookup was needed, because no session was
    /// removed.
    starts_span: Option<Option<Span>>,
}

/// Whether a session begins on a day, after a batch that added or removed the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// The session now begins on the day.
    Came,
    /// The session no longer begins on the day.
    Went,
}

impl ActivityFact {
    /// Adds an event of that user and day.
    pub fn add_event(&mut self, event: &AnalyticsEvent) {
        self.event_count += 1;
        self.events_span = Span::union(self.events_span, Some(Span::new(event.timestamp, event.timestamp)));
        match self.names.get_mut(&event.event_name) {
            Some(count) => *count += 1,
            None => {
                self.names.insert(event.event_name.clone(), 1);
            }
        }
    }

    /// Returns the sessions that were added or removed, in the order of start and id.
    pub fn starts(&self) -> impl Iterator<Item = (Timestamp, &str, Presence)> {
        self.starts.iter().map(|((started_at, id), presence)| (*started_at, id.as_str(), *presence))
    }

    /// Returns whether a session was removed. If so, the first and last start must be looked up: the removed session
    /// may have been the first or the last.
    pub fn has_session_gone(&self) -> bool {
        self.starts.values().any(|presence| *presence == Presence::Went)
    }

    /// Sets the first and last start of all remaining sessions. `span` is `None` if no session remains.
    pub fn set_starts_span(&mut self, span: Option<Span>) {
        self.starts_span = Some(span);
    }

    fn came_span(&self) -> Option<Span> {
        let came = self.starts.iter().filter(|(_, presence)| **presence == Presence::Came);
        came.fold(None, |span, ((started_at, _), _)| Span::union(span, Some(Span::new(*started_at, *started_at))))
    }
}

impl Merge for ActivityFact {
    /// If both facts contain the same session start, `other` wins: the changes of a session come in order.
    fn merge(&mut self, other: Self) {
        self.event_count += other.event_count;
        self.events_span = Span::union(self.events_span, other.events_span);
        for (name, count) in other.names {
            *self.names.entry(name).or_default() += count;
        }
        self.session_count += other.session_count;
        self.duration_ms += other.duration_ms;
        self.starts.extend(other.starts);
    }
}

/// Event counts by name.
#[derive(Debug, Clone, PartialEq)]
pub enum Names {
    /// All names, at most [`MAX_NAMES`].
    Few(BTreeMap<String, u64>),
    /// Too many names for a state: each name has its own row. These counts are still to be added to the rows.
    Many(BTreeMap<String, u64>),
}

impl Names {
    fn add(self, more: BTreeMap<String, u64>) -> Self {
        match self {
            Self::Many(_) => Self::Many(more),
            Self::Few(mut names) => {
                for (name, count) in more {
                    *names.entry(name).or_default() += count;
                }
                if names.len() > MAX_NAMES { Self::Many(names) } else { Self::Few(names) }
            }
        }
    }
}

/// All that is known of a user's day, except the rows of names and of session starts.
#[derive(Debug, Clone, PartialEq)]
pub struct ActivityState {
    event_count: u64,
    events_span: Option<Span>,
    names: Names,
    session_count: i64,
    duration_ms: i64,
    starts_span: Option<Span>,
}

/// The columns of `user_activity`, except those of the key.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "named as in UserActivity")]
pub struct ActivityRow {
    pub session_count: i64,
    pub event_count: i64,
    pub total_duration_ms: i64,
    pub first_seen_at: Timestamp,
    pub last_seen_at: Timestamp,
    pub events_breakdown: Option<JsonObject>,
}

impl Default for ActivityState {
    fn default() -> Self {
        Self {
            event_count: 0,
            events_span: None,
            names: Names::Few(BTreeMap::new()),
            session_count: 0,
            duration_ms: 0,
            starts_span: None,
        }
    }
}

impl ActivityState {
    /// Returns whether no event and no session is counted. Such a day has no row.
    pub fn is_nothing(&self) -> bool {
        self.event_count == 0 && self.session_count == 0
    }

    /// Returns the event counts by name.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// Returns the row, without the columns of the key. `greatest` holds the names with the greatest counts, at most
    /// [`MAX_NAMES`].
    pub fn row(&self, greatest: &BTreeMap<String, u64>) -> ActivityRow {
        let span = Span::union(self.events_span, self.starts_span);
        let (first_ms, last_ms) = span.map_or((0, 0), |span| (span.first_ms, span.last_ms));
        ActivityRow {
            session_count: self.session_count,
            event_count: i64::try_from(self.event_count).unwrap_or(i64::MAX),
            total_duration_ms: self.duration_ms,
            first_seen_at: Timestamp::from_millis(first_ms),
            last_seen_at: Timestamp::from_millis(last_ms),
            events_breakdown: self.breakdown(greatest),
        }
    }

    /// Returns the names in `greatest` with their counts, and the sum of all other counts. `None` if there are no
    /// events. The names are in the order of canonical JSON.
    fn breakdown(&self, greatest: &BTreeMap<String, u64>) -> Option<JsonObject> {
        if self.event_count == 0 {
            return None;
        }
        let rest = self.event_count - greatest.values().sum::<u64>().min(self.event_count);
        if rest == 0 {
            return Some(JsonObject::of_counts(greatest));
        }
        let mut shown = greatest.clone();
        // An event may have the name `$other` itself.
        *shown.entry(OTHER.to_owned()).or_default() += rest;
        Some(JsonObject::of_counts(&shown))
    }
}

impl Group for Activity {
    type Key = UserDay;
    type Fact = ActivityFact;
    type State = ActivityState;

    fn apply(before: Option<&mut ActivityState>, fact: ActivityFact) -> ActivityState {
        let before = before.map(std::mem::take).unwrap_or_default();
        let came = fact.came_span();
        ActivityState {
            event_count: before.event_count + fact.event_count,
            events_span: Span::union(before.events_span, fact.events_span),
            names: before.names.add(fact.names),
            session_count: before.session_count + fact.session_count,
            duration_ms: before.duration_ms + fact.duration_ms,
            starts_span: fact.starts_span.unwrap_or_else(|| Span::union(before.starts_span, came)),
        }
    }
}

impl ByKey<Activity> {
    /// Returns the fact of a user's day so far, to be extended.
    pub fn of_day(&mut self, day: UserDayRef<'_>) -> &mut ActivityFact {
        let owned = |day: &UserDayRef<'_>| UserDay { user_id: day.user_id.to_owned(), date: day.date };
        self.of(&day, owned, ActivityFact::default)
    }

    /// Moves a session from the day that had the session to the day on which the session now begins.
    pub fn move_session(&mut self, before: Option<(&str, &Session)>, after: Option<(&str, &Session)>) {
        let place = |(id, session): (&str, &Session)| {
            let user_id = session.user_id()?;
            let start = (session.started_at(), id.to_owned());
            Some((UserDay::new(user_id, session.started_at()), start, session.duration_ms()))
        };
        let (before, after) = (before.and_then(place), after.and_then(place));
        if let (Some((key, start, duration_ms)), Some((key_after, start_after, duration_ms_after))) = (&before, &after)
            && (key, start) == (key_after, start_after)
        {
            if duration_ms != duration_ms_after {
                let fact = ActivityFact { duration_ms: duration_ms_after - duration_ms, ..ActivityFact::default() };
                self.add(key.clone(), fact);
            }
            return;
        }
        let moves = [(before, -1, Presence::Went), (after, 1, Presence::Came)];
        for (place, count, presence) in moves {
            if let Some((key, start, duration_ms)) = place {
                let starts = BTreeMap::from([(start, presence)]);
                let duration_ms = count * duration_ms;
                self.add(key, ActivityFact { session_count: count, duration_ms, starts, ..ActivityFact::default() });
            }
        }
    }
}

/// The stored form of a user's day.
#[derive(Serialize, Deserialize)]
struct ActivityBytes<N> {
    event_count: u64,
    events_span: Option<Span>,
    /// Event counts by name. `None` if each name has its own row.
    names: Option<N>,
    session_count: i64,
    duration_ms: i64,
    starts_span: Option<Span>,
}

impl State for ActivityState {
    const VERSION: u8 = 1;

    fn encode(&self, bytes: Vec<u8>) -> Vec<u8> {
        let names = match &self.names {
            Names::Few(names) => Some(names),
            Names::Many(_) => None,
        };
        let Self { event_count, events_span, names: _, session_count, duration_ms, starts_span } = *self;
        let stored = ActivityBytes { event_count, events_span, names, session_count, duration_ms, starts_span };
        // Writing numbers and texts into a vector cannot fail.
        postcard::to_extend(&stored, bytes).unwrap_or_default()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (stored, rest) = postcard::take_from_bytes::<ActivityBytes<BTreeMap<String, u64>>>(bytes).ok()?;
        let ActivityBytes { event_count, events_span, names, session_count, duration_ms, starts_span } = stored;
        let names = names.map_or_else(|| Names::Many(BTreeMap::new()), Names::Few);
        let state = Self { event_count, events_span, names, session_count, duration_ms, starts_span };
        rest.is_empty().then_some(state)
    }
}
