//! Sessions: each combines all messages of one session (`SEMANTICS` section 3).
//!
//! One message makes a small session. Two sessions with the same id merge into one. Every part of a session is a
//! minimum, a maximum, a count or a flag that stays set, so the order of merges does not affect the result. The module
//! [`gap`] decides which events without a `session_id` form a session.

mod context;
mod gap;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{ByKey, Change, Facts, Group, Merge, State, merged};
use crate::model::{AnalyticsEvent, AnalyticsSession, Kind, SessionKind, SessionMessage, Timestamp};

pub use context::{Context, Contexts, USER_AGENT_READER};
pub use gap::{Actor, ActorRef, Placed, UnnamedSessions, candidate_ids, place, reach};

/// The group of `analytics_sessions`. Key: the session id, as it was sent. Sessions that nobody named have no key
/// until their neighbours are known: they go through [`place`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sessions;

impl Group for Sessions {
    type Key = String;
    type Fact = Session;
    type State = Session;

    fn apply(before: Option<&mut Session>, fact: Session) -> Session {
        merged(before.as_deref(), fact)
    }

    fn onward(id: &String, change: &Change<Self>, facts: &mut Facts) {
        facts.session_changed(change.before.as_ref().map(|before| (id.as_str(), before)), Some((id, &change.after)));
    }
}

impl ByKey<Sessions> {
    /// Returns the facts about a session so far. If there are none, begins them at `timestamp`, the time of the
    /// message to add.
    pub fn of_session(&mut self, id: &str, timestamp: Timestamp) -> &mut Session {
        self.of(id, str::to_owned, || Session::at(timestamp))
    }
}

/// All that is known about a session.
#[derive(Debug, Clone, PartialEq)]
pub struct Session {
    /// The source of the id, if nobody named the session. `None` if a message named it.
    unnamed: Option<Unnamed>,
    started_at: Timestamp,
    last_activity_at: Timestamp,
    /// Whether an `end` arrived, at any time.
    has_end: bool,
    event_count: u64,
    /// The values that messages gave, by [`Column`]. Boxed, because sessions are moved in memory more often than they
    /// are read.
    claims: Box<[Option<Claim>; Column::COUNT]>,
}

/// The columns whose value comes from one message.
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
    /// All columns in the order of their numbers. The order is part of the stored form.
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

    /// Returns whether message `one` decides this column if message `other` also has a value for it.
    fn prefers(self, one: TellerRef<'_>, other: TellerRef<'_>) -> bool {
        match self {
            Column::UserId | Column::LandingPage => one < other,
            Column::ExitPage => one > other,
            // A `start` comes before all other messages.
            _ => (!one.is_start, one) < (!other.is_start, other),
        }
    }
}

/// A value, and the message that gave it.
#[derive(Debug, Clone, PartialEq)]
struct Claim {
    teller: Arc<Teller>,
    value: String,
}

/// A message that gave a value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Teller {
    timestamp_ms: i64,
    kind: Kind,
    id: String,
    is_start: bool,
}

/// A borrowed [`Teller`]. Sorts in the order of `SEMANTICS` section 0: by time, then kind, then id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct TellerRef<'a> {
    timestamp_ms: i64,
    kind: Kind,
    id: &'a str,
    is_start: bool,
}

impl Teller {
    fn by_ref(&self) -> TellerRef<'_> {
        let Self { timestamp_ms, kind, id, is_start } = self;
        TellerRef { timestamp_ms: *timestamp_ms, kind: *kind, id, is_start: *is_start }
    }
}

impl TellerRef<'_> {
    fn to_teller(self) -> Arc<Teller> {
        let Self { timestamp_ms, kind, id, is_start } = self;
        Arc::new(Teller { timestamp_ms, kind, id: id.to_owned(), is_start })
    }
}

/// The source of the id of a session that nobody named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Unnamed {
    actor: Actor,
    /// The event with the earliest time. If several events have that time: the event with the least id.
    first_event_id: String,
}

impl Session {
    /// Creates a session that nobody named, at its first event. Does not add the event.
    pub fn of_actor(actor: Actor, first: &AnalyticsEvent) -> Self {
        let unnamed = Some(Unnamed { actor, first_event_id: first.id.clone() });
        Self { unnamed, ..Self::at(first.timestamp) }
    }

    /// Adds an event and its context.
    pub fn add_event(&mut self, event: &AnalyticsEvent, context: &Context) {
        self.event_count += 1;
        let timestamp_ms = event.timestamp.as_millis();
        let mut telling = self.tell(TellerRef { timestamp_ms, kind: Kind::Event, id: &event.id, is_start: false });
        telling.that(Column::UserId, &event.user_id);
        telling.that(Column::DeviceType, &context.device_type);
        telling.that(Column::Browser, &context.browser);
        telling.that(Column::Os, &context.os);
        telling.that(Column::Country, &context.country);
        telling.that(Column::City, &context.city);
        telling.that(Column::Referrer, &event.referrer);
        telling.that(Column::LandingPage, &event.page_url);
        telling.that(Column::ExitPage, &event.page_url);
    }

    /// Adds a session message.
    pub fn add_message(&mut self, message: &SessionMessage) {
        self.has_end |= message.kind == SessionKind::End;
        let (timestamp_ms, is_start) = (message.timestamp.as_millis(), message.kind == SessionKind::Start);
        let mut telling = self.tell(TellerRef { timestamp_ms, kind: Kind::Session, id: &message.id, is_start });
        telling.that(Column::UserId, &message.user_id);
        telling.that(Column::DeviceType, &message.device_type);
        telling.that(Column::Browser, &message.browser);
        telling.that(Column::Os, &message.os);
        telling.that(Column::Country, &message.country);
        telling.that(Column::City, &message.city);
        telling.that(Column::Referrer, &message.referrer);
        telling.that(Column::LandingPage, &message.landing_page);
        telling.that(Column::ExitPage, &message.exit_page);
    }

    /// Creates a session that has a time and nothing else.
    pub fn at(timestamp: Timestamp) -> Self {
        Self {
            unnamed: None,
            started_at: timestamp,
            last_activity_at: timestamp,
            has_end: false,
            event_count: 0,
            claims: Default::default(),
        }
    }

    fn tell<'a>(&'a mut self, teller: TellerRef<'a>) -> Telling<'a> {
        let timestamp = Timestamp::from_millis(teller.timestamp_ms);
        if let Some(unnamed) = &mut self.unnamed
            && (timestamp, teller.id) < (self.started_at, unnamed.first_event_id.as_str())
        {
            teller.id.clone_into(&mut unnamed.first_event_id);
        }
        self.started_at = self.started_at.min(timestamp);
        self.last_activity_at = self.last_activity_at.max(timestamp);
        Telling { claims: &mut self.claims, teller, kept: None }
    }

    fn told(&self, column: Column) -> Option<&str> {
        self.claims[column as usize].as_ref().map(|claim| claim.value.as_str())
    }

    /// Returns the earliest timestamp.
    pub fn started_at(&self) -> Timestamp {
        self.started_at
    }

    /// Returns the latest timestamp.
    pub fn last_activity_at(&self) -> Timestamp {
        self.last_activity_at
    }

    /// Returns the time from the start to the last activity, in milliseconds, also while the session is open.
    pub fn duration_ms(&self) -> i64 {
        self.last_activity_at.as_millis() - self.started_at.as_millis()
    }

    /// Returns the user of the first message that has a user.
    pub fn user_id(&self) -> Option<&str> {
        self.told(Column::UserId)
    }

    /// Returns the actor of a session that nobody named. `None` if a message named the session.
    pub fn actor(&self) -> Option<&Actor> {
        self.unnamed.as_ref().map(|unnamed| &unnamed.actor)
    }

    /// Returns whether the session is open: no `end` arrived, and its last activity is not before `closed_before`.
    /// That time moves with T, so a message of another session may close this one.
    pub fn is_open(&self, closed_before: Timestamp) -> bool {
        !self.has_end && self.last_activity_at >= closed_before
    }

    /// Returns whether the other session has the same row, apart from the columns that most messages change: count,
    /// duration, end and exit page.
    pub fn differs_in_activity_alone(&self, other: &Self) -> bool {
        let is_same = |column: Column| self.told(column) == other.told(column);
        self.started_at == other.started_at
            && Column::ALL.into_iter().all(|column| column == Column::ExitPage || is_same(column))
    }

    /// Returns the row that shows the session. The session is closed if an `end` arrived, or if its last activity is
    /// before `closed_before`.
    pub fn row(&self, id: &str, closed_before: Timestamp) -> AnalyticsSession {
        let is_closed = !self.is_open(closed_before);
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

/// A message while its values are added to a session.
struct Telling<'a> {
    claims: &'a mut [Option<Claim>; Column::COUNT],
    teller: TellerRef<'a>,
    /// The message as the session keeps it. `None` until a value of the message is kept.
    kept: Option<Arc<Teller>>,
}

impl Telling<'_> {
    fn that(&mut self, column: Column, value: &Option<String>) {
        let Some(value) = value else { return };
        let claim = &mut self.claims[column as usize];
        if claim.as_ref().is_none_or(|claim| column.prefers(self.teller, claim.teller.by_ref())) {
            let teller = Arc::clone(self.kept.get_or_insert_with(|| self.teller.to_teller()));
            *claim = Some(Claim { teller, value: value.clone() });
        }
    }
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
        for (column, theirs) in Column::ALL.into_iter().zip(*other.claims) {
            let mine = &mut self.claims[column as usize];
            let is_better = match (&*mine, &theirs) {
                (Some(mine), Some(theirs)) => column.prefers(theirs.teller.by_ref(), mine.teller.by_ref()),
                (None, Some(_)) => true,
                (_, None) => false,
            };
            if is_better {
                *mine = theirs;
            }
        }
    }
}

/// The stored form of a session. A message that gave several values is stored once.
#[derive(Serialize, Deserialize)]
struct SessionBytes<U, T, V> {
    unnamed: Option<U>,
    started_at_ms: i64,
    /// From the start to the last activity.
    duration_ms: i64,
    has_end: bool,
    event_count: u64,
    /// The messages that gave values, sorted.
    tellers: Vec<T>,
    /// By [`Column`]: the place of the message in `tellers`, and the value.
    claims: [Option<(u8, V)>; Column::COUNT],
}

impl State for Session {
    const VERSION: u8 = 3;

    fn encode(&self, bytes: Vec<u8>) -> Vec<u8> {
        let mut tellers: Vec<&Teller> = self.claims.iter().flatten().map(|claim| &*claim.teller).collect();
        tellers.sort_unstable();
        tellers.dedup();
        let place = |teller: &Teller| tellers.binary_search(&teller).ok().and_then(|at| u8::try_from(at).ok());
        let claims = std::array::from_fn(|at| {
            let claim = self.claims[at].as_ref()?;
            Some((place(&claim.teller)?, claim.value.as_str()))
        });
        let session = SessionBytes {
            unnamed: self.unnamed.as_ref(),
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
        let (stored, rest) = postcard::take_from_bytes::<SessionBytes<Unnamed, Arc<Teller>, String>>(bytes).ok()?;
        let mut claims: Box<[Option<Claim>; Column::COUNT]> = Box::default();
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
