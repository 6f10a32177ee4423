//! Sessions: what all messages of one session add up to (`SEMANTICS` section 3).
//!
//! A message alone is a small session; two sessions of one id merge into one. Everything in it is a least, a greatest
//! or a count, so the order of merging cannot be seen.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Group, Merge, State, Stored, merged};
use crate::model::{AnalyticsEvent, AnalyticsSession, JsonObject, Kind, SessionKind, SessionMessage, Timestamp};

/// The group of `analytics_sessions`. Key: the session id.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sessions;

impl Group for Sessions {
    type Key = String;
    type Fact = Session;
    type State = Session;

    fn apply(before: Option<&Session>, fact: Session) -> Session {
        merged(before, fact)
    }
}

/// All that is known of a session.
#[derive(Debug, Clone, PartialEq)]
pub struct Session {
    started_at: Timestamp,
    last_activity_at: Timestamp,
    /// Whether an `end` arrived, whenever.
    has_end: bool,
    event_count: u64,
    /// What messages told, by [`Column`].
    claims: [Option<Claim>; Column::COUNT],
}

/// The columns that a message tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Column {
    UserId,
    DeviceType,
    Browser,
    Os,
    Country,
    City,
    Referrer,
    LandingPage,
    ExitPage,
}

impl Column {
    const COUNT: usize = 9;
    /// In the order of their numbers, which is part of the stored form.
    const ALL: [Column; Column::COUNT] = [
        Column::UserId,
        Column::DeviceType,
        Column::Browser,
        Column::Os,
        Column::Country,
        Column::City,
        Column::Referrer,
        Column::LandingPage,
        Column::ExitPage,
    ];

    /// Whose word counts, if two messages tell this.
    fn prefers(self, one: &Teller, other: &Teller) -> bool {
        match self {
            Column::UserId | Column::LandingPage => one < other,
            Column::ExitPage => one > other,
            // A `start` before any other.
            _ => (!one.is_start, one) < (!other.is_start, other),
        }
    }
}

/// A value, and the message that told it.
#[derive(Debug, Clone, PartialEq)]
struct Claim {
    teller: Arc<Teller>,
    value: String,
}

/// A message, in the order of `SEMANTICS` section 0: by time, then kind, then id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Teller {
    timestamp_ms: i64,
    kind: Kind,
    id: String,
    is_start: bool,
}

impl Session {
    /// What a message says of a session, and of which one; none where it names none.
    pub fn of(message: Stored<'_>) -> Option<(String, Self)> {
        match message {
            Stored::Event(event) => Some((event.session_id.clone()?, Self::of_event(event))),
            Stored::Session(message) => Some((message.session_id.clone(), Self::of_session_message(message))),
            Stored::Metric(_) => None,
        }
    }

    fn of_event(event: &AnalyticsEvent) -> Self {
        let teller = Teller {
            timestamp_ms: event.timestamp.as_millis(),
            kind: Kind::Event,
            id: event.id.clone(),
            is_start: false,
        };
        let context = event.context.as_ref().map(Context::read).unwrap_or_default();
        let mut session = Self::at(event.timestamp);
        session.event_count = 1;
        session.claims = claims(teller, |column| match column {
            Column::UserId => event.user_id.clone(),
            Column::DeviceType => context.device_type(),
            Column::Browser => context.browser(),
            Column::Os => context.os(),
            Column::Country => context.country(),
            Column::City => context.city(),
            Column::Referrer => event.referrer.clone(),
            Column::LandingPage | Column::ExitPage => event.page_url.clone(),
        });
        session
    }

    fn of_session_message(message: &SessionMessage) -> Self {
        let teller = Teller {
            timestamp_ms: message.timestamp.as_millis(),
            kind: Kind::Session,
            id: message.id.clone(),
            is_start: message.kind == SessionKind::Start,
        };
        let mut session = Self::at(message.timestamp);
        session.has_end = message.kind == SessionKind::End;
        session.claims = claims(teller, |column| {
            let value = match column {
                Column::UserId => &message.user_id,
                Column::DeviceType => &message.device_type,
                Column::Browser => &message.browser,
                Column::Os => &message.os,
                Column::Country => &message.country,
                Column::City => &message.city,
                Column::Referrer => &message.referrer,
                Column::LandingPage => &message.landing_page,
                Column::ExitPage => &message.exit_page,
            };
            value.clone()
        });
        session
    }

    fn at(timestamp: Timestamp) -> Self {
        Self {
            started_at: timestamp,
            last_activity_at: timestamp,
            has_end: false,
            event_count: 0,
            claims: Default::default(),
        }
    }

    fn told(&self, column: Column) -> Option<&str> {
        self.claims[column as usize].as_ref().map(|claim| claim.value.as_str())
    }

    /// The greatest timestamp.
    pub fn last_activity_at(&self) -> Timestamp {
        self.last_activity_at
    }

    /// Whether the other's row is the same but for what most messages change: count, duration, end and exit page.
    pub fn differs_in_activity_alone(&self, other: &Self) -> bool {
        let is_same = |column: Column| self.told(column) == other.told(column);
        self.started_at == other.started_at
            && Column::ALL.into_iter().all(|column| column == Column::ExitPage || is_same(column))
    }

    /// The row that shows it. It is closed where an `end` arrived, or its last activity lies before `closed_before`.
    pub fn row(&self, id: &str, closed_before: Timestamp) -> AnalyticsSession {
        let is_closed = self.has_end || self.last_activity_at < closed_before;
        let told = |column: Column| self.told(column).map(str::to_owned);
        AnalyticsSession {
            id: id.to_owned(),
            user_id: told(Column::UserId),
            started_at: self.started_at,
            ended_at: is_closed.then_some(self.last_activity_at),
            duration_ms: self.last_activity_at.as_millis() - self.started_at.as_millis(),
            event_count: i64::try_from(self.event_count).unwrap_or(i64::MAX),
            device_type: told(Column::DeviceType),
            browser: told(Column::Browser),
            os: told(Column::Os),
            country: told(Column::Country),
            city: told(Column::City),
            referrer: told(Column::Referrer),
            landing_page: told(Column::LandingPage),
            exit_page: told(Column::ExitPage),
        }
    }
}

fn claims(teller: Teller, value: impl Fn(Column) -> Option<String>) -> [Option<Claim>; Column::COUNT] {
    let teller = Arc::new(teller);
    Column::ALL.map(|column| value(column).map(|value| Claim { teller: Arc::clone(&teller), value }))
}

impl Merge for Session {
    fn merge(&mut self, other: Self) {
        self.started_at = self.started_at.min(other.started_at);
        self.last_activity_at = self.last_activity_at.max(other.last_activity_at);
        self.has_end |= other.has_end;
        self.event_count += other.event_count;
        for (column, theirs) in Column::ALL.into_iter().zip(other.claims) {
            let mine = &mut self.claims[column as usize];
            let is_better = match (&*mine, &theirs) {
                (Some(mine), Some(theirs)) => column.prefers(&theirs.teller, &mine.teller),
                (None, Some(_)) => true,
                (_, None) => false,
            };
            if is_better {
                *mine = theirs;
            }
        }
    }
}

/// The stored form of a session. A message that told several things stands in it once.
#[derive(Serialize, Deserialize)]
struct SessionBytes {
    started_at_ms: i64,
    /// After the start.
    duration_ms: i64,
    has_end: bool,
    event_count: u64,
    /// In their order.
    tellers: Vec<Arc<Teller>>,
    /// By [`Column`]: the teller's place, and the value.
    claims: [Option<(u8, String)>; Column::COUNT],
}

impl State for Session {
    const VERSION: u8 = 1;

    fn encode(&self, bytes: Vec<u8>) -> Vec<u8> {
        let mut tellers: Vec<_> = self.claims.iter().flatten().map(|claim| Arc::clone(&claim.teller)).collect();
        tellers.sort_unstable();
        tellers.dedup();
        let place = |teller: &Arc<Teller>| tellers.binary_search(teller).ok().and_then(|at| u8::try_from(at).ok());
        let claims = std::array::from_fn(|at| {
            let claim = self.claims[at].as_ref()?;
            Some((place(&claim.teller)?, claim.value.clone()))
        });
        let session = SessionBytes {
            started_at_ms: self.started_at.as_millis(),
            duration_ms: self.last_activity_at.as_millis() - self.started_at.as_millis(),
            has_end: self.has_end,
            event_count: self.event_count,
            claims,
            tellers,
        };
        // Writing numbers and texts into a vector cannot fail.
        postcard::to_extend(&session, bytes).unwrap_or_default()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (stored, rest) = postcard::take_from_bytes::<SessionBytes>(bytes).ok()?;
        let mut claims: [Option<Claim>; Column::COUNT] = Default::default();
        for (claim, stored_claim) in claims.iter_mut().zip(stored.claims) {
            if let Some((place, value)) = stored_claim {
                let teller = Arc::clone(stored.tellers.get(usize::from(place))?);
                *claim = Some(Claim { teller, value });
            }
        }
        let last_activity_ms = stored.started_at_ms.checked_add(stored.duration_ms)?;
        rest.is_empty().then_some(Self {
            started_at: Timestamp::from_millis(stored.started_at_ms),
            last_activity_at: Timestamp::from_millis(last_activity_ms),
            has_end: stored.has_end,
            event_count: stored.event_count,
            claims,
        })
    }
}

/// What an event's context says of its session. All else in it is passed over.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Context {
    device_type: Value,
    device: Value,
    browser: Value,
    os: Value,
    country: Value,
    city: Value,
    geo: Value,
}

impl Context {
    fn read(context: &JsonObject) -> Self {
        serde_json::from_str(context.as_str()).unwrap_or_default()
    }

    fn device_type(&self) -> Option<String> {
        text(&self.device_type).or_else(|| text(&self.device["type"]))
    }

    fn browser(&self) -> Option<String> {
        text(&self.browser).or_else(|| text(&self.browser["name"]))
    }

    fn os(&self) -> Option<String> {
        text(&self.os).or_else(|| text(&self.os["name"]))
    }

    fn country(&self) -> Option<String> {
        text(&self.country).or_else(|| text(&self.geo["country"]))
    }

    fn city(&self) -> Option<String> {
        text(&self.city).or_else(|| text(&self.geo["city"]))
    }
}

/// A text that says something: as everywhere on the wire, "" means absent.
fn text(value: &Value) -> Option<String> {
    value.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests;
