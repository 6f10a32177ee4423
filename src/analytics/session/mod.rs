//! Sessions: what all messages of one session add up to (`SEMANTICS` section 3).
//!
//! A message alone is a small session; two sessions of one id merge into one. Everything in it is a least, a greatest
//! or a count, so the order of merging cannot be seen. Which events that name no session make one is in [`gap`].

mod context;
mod gap;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use self::context::Told;
use super::{Change, Facts, Group, Merge, State, Stored, merged};
use crate::model::{AnalyticsEvent, AnalyticsSession, Kind, SessionKind, SessionMessage, Timestamp};

pub use context::USER_AGENT_READER;
pub use gap::{Actor, Placed, candidate_ids, join, place, reach};

/// The group of `analytics_sessions`. Key: the session id, as it was sent. Sessions that nobody named have no key before
/// their neighbours are known: they go through [`place`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sessions;

impl Group for Sessions {
    type Key = String;
    type Fact = Session;
    type State = Session;

    fn apply(before: Option<&Session>, fact: Session) -> Session {
        merged(before, fact)
    }

    fn onward(id: &String, change: &Change<Self>, facts: &mut Facts) {
        facts.session_changed(change.before.as_ref().map(|before| (id.as_str(), before)), Some((id, &change.after)));
    }
}

/// All that is known of a session.
#[derive(Debug, Clone, PartialEq)]
pub struct Session {
    /// Where nobody named it: whose it is.
    unnamed: Option<Unnamed>,
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

/// What the id of a session comes from that nobody named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Unnamed {
    actor: Actor,
    /// The event of the least time, and of those the one with the least id.
    first_event_id: String,
}

/// Which session a message belongs to.
#[derive(Debug, PartialEq)]
pub enum Place {
    /// The session that it names.
    Named(String),
    /// That of its actor which is going on then.
    Unnamed(Actor),
}

impl Session {
    /// What a message says of a session, and of which one; none where it belongs to none.
    pub fn of(message: Stored<'_>) -> Option<(Place, Self)> {
        match message {
            Stored::Event(event) => {
                let mut session = Self::of_event(event);
                if let Some(session_id) = &event.session_id {
                    return Some((Place::Named(session_id.clone()), session));
                }
                let actor = Actor::of(event)?;
                session.unnamed = Some(Unnamed { actor: actor.clone(), first_event_id: event.id.clone() });
                Some((Place::Unnamed(actor), session))
            }
            Stored::Session(message) => {
                Some((Place::Named(message.session_id.clone()), Self::of_session_message(message)))
            }
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
        let told = event.context.as_ref().map(Told::by).unwrap_or_default();
        let mut session = Self::at(event.timestamp);
        session.event_count = 1;
        session.claims = claims(teller, |column| match column {
            Column::UserId => event.user_id.clone(),
            Column::DeviceType => told.device_type.clone(),
            Column::Browser => told.browser.clone(),
            Column::Os => told.os.clone(),
            Column::Country => told.country.clone(),
            Column::City => told.city.clone(),
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
            unnamed: None,
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

    /// The least timestamp.
    pub fn started_at(&self) -> Timestamp {
        self.started_at
    }

    /// The greatest timestamp.
    pub fn last_activity_at(&self) -> Timestamp {
        self.last_activity_at
    }

    /// From the one to the other, also while the session is open.
    pub fn duration_ms(&self) -> i64 {
        self.last_activity_at.as_millis() - self.started_at.as_millis()
    }

    /// The user of the first message that has one.
    pub fn user_id(&self) -> Option<&str> {
        self.told(Column::UserId)
    }

    /// Whose it is, where nobody named it.
    pub fn actor(&self) -> Option<&Actor> {
        self.unnamed.as_ref().map(|unnamed| &unnamed.actor)
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
            duration_ms: self.duration_ms(),
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
        if let (Some(mine), Some(theirs)) = (&self.unnamed, &other.unnamed)
            && (other.started_at, &theirs.first_event_id) < (self.started_at, &mine.first_event_id)
        {
            self.unnamed = other.unnamed;
        }
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
    unnamed: Option<Unnamed>,
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
    const VERSION: u8 = 2;

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
            unnamed: self.unnamed.clone(),
            started_at_ms: self.started_at.as_millis(),
            duration_ms: self.duration_ms(),
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
            unnamed: stored.unnamed,
            started_at: Timestamp::from_millis(stored.started_at_ms),
            last_activity_at: Timestamp::from_millis(last_activity_ms),
            has_end: stored.has_end,
            event_count: stored.event_count,
            claims,
        })
    }
}

#[cfg(test)]
mod tests;
