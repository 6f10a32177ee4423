//! Sessions of events without a `session_id`. An actor's events belong to one session if no gap between neighbours is
//! longer than the timeout. A late event may extend a session, begin a session before it, or bridge two sessions.
//!
//! The stored sessions of an actor are more than the timeout apart. So a new session touches only the sessions that
//! begin or end within the timeout of it. The session that results from the merge touches no other stored session.

use std::fmt;

use hashbrown::{Equivalent, HashMap};
use serde::{Deserialize, Serialize};

use super::{Context, Session};
use crate::analytics::{Merge as _, entry_of};
use crate::model::{AnalyticsEvent, Timestamp, natural_id};

/// The actor of an event: its user, or else its anonymous id. A user and an anonymous id with the same text are two
/// actors.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Actor {
    is_user: bool,
    id: String,
}

impl Actor {
    /// Returns the anonymous id. `None` if the actor is a user.
    pub fn anonymous_id(&self) -> Option<&str> {
        (!self.is_user).then_some(self.id.as_str())
    }
}

/// Writes the actor as the database stores it.
impl fmt::Display for Actor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}|{}", if self.is_user { "user" } else { "anonymous" }, self.id)
    }
}

/// A borrowed actor. It has the same hash as the [`Actor`].
#[derive(Debug, Clone, Copy, Hash)]
pub struct ActorRef<'a> {
    is_user: bool,
    id: &'a str,
}

impl<'a> ActorRef<'a> {
    /// Returns the actor of an event. `None` if the event has no user and no anonymous id.
    pub fn of(event: &'a AnalyticsEvent) -> Option<Self> {
        let user = event.user_id.as_ref().map(|id| Self { is_user: true, id });
        user.or_else(|| event.anonymous_id.as_ref().map(|id| Self { is_user: false, id }))
    }

    /// Returns an owned copy.
    pub fn to_actor(self) -> Actor {
        Actor { is_user: self.is_user, id: self.id.to_owned() }
    }
}

impl Equivalent<Actor> for ActorRef<'_> {
    fn equivalent(&self, key: &Actor) -> bool {
        self.is_user == key.is_user && self.id == key.id
    }
}

/// The sessions that new events without a `session_id` form, by actor.
#[derive(Debug, Default)]
pub struct UnnamedSessions(HashMap<Actor, Vec<Session>>);

impl UnnamedSessions {
    /// Returns the number of sessions so far. [`Self::into_sorted`] may still merge some of them.
    pub fn len(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }

    /// Returns whether there are no sessions.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds an event of an actor.
    pub fn add_event(&mut self, actor: ActorRef<'_>, event: &AnalyticsEvent, context: &Context, timeout_ms: i64) {
        let sessions = entry_of(&mut self.0, &actor, |actor| actor.to_actor(), Vec::new);
        let (from, to) = reach_of(event.timestamp, event.timestamp, timeout_ms);
        // Most events touch the actor's last session. For any other event, `join` later finds the sessions that it
        // touches.
        let is_touched = |last: &&mut Session| last.started_at <= to && last.last_activity_at >= from;
        if let Some(last) = sessions.last_mut().filter(is_touched) {
            last.add_event(event, context);
        } else {
            let mut session = Session::of_actor(actor.to_actor(), event);
            session.add_event(event, context);
            sessions.push(session);
        }
    }

    /// Returns the sessions, sorted by actor. The sessions of an actor are in the order of time and more than the
    /// timeout apart.
    pub fn into_sorted(self, timeout_ms: i64) -> Vec<(Actor, Vec<Session>)> {
        let join = |(actor, sessions)| (actor, join(sessions, timeout_ms));
        let mut sessions: Vec<_> = self.0.into_iter().map(join).collect();
        sessions.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        sessions
    }

    /// Adds sessions of an actor that were collected elsewhere.
    #[cfg(test)]
    pub fn add(&mut self, actor: Actor, sessions: Vec<Session>) {
        self.0.entry(actor).or_default().extend(sessions);
    }
}

/// Sorts the sessions of one actor by time, and merges sessions that are no further apart than the timeout.
fn join(mut sessions: Vec<Session>, timeout_ms: i64) -> Vec<Session> {
    if sessions.len() < 2 {
        return sessions;
    }
    sessions.sort_unstable_by_key(Session::started_at);
    let mut joined: Vec<Session> = Vec::new();
    for session in sessions {
        match joined.last_mut() {
            Some(last) if is_near(last, &session, timeout_ms) => last.merge(session),
            _ => joined.push(session),
        }
    }
    joined
}

/// Returns whether `later` begins within the timeout after the end of `earlier`. `earlier` must begin first.
fn is_near(earlier: &Session, later: &Session, timeout_ms: i64) -> bool {
    later.started_at.as_millis() - earlier.last_activity_at.as_millis() <= timeout_ms
}

/// Returns the two times that decide which stored sessions touch this session. A stored session touches it if it
/// begins no later than the second time and ends no earlier than the first time.
pub fn reach(session: &Session, timeout_ms: i64) -> (Timestamp, Timestamp) {
    reach_of(session.started_at, session.last_activity_at, timeout_ms)
}

fn reach_of(first: Timestamp, last: Timestamp, timeout_ms: i64) -> (Timestamp, Timestamp) {
    (Timestamp::from_millis(first.as_millis() - timeout_ms), Timestamp::from_millis(last.as_millis() + timeout_ms))
}

/// A session, and the stored sessions that became part of it.
#[derive(Debug, PartialEq)]
pub struct Placed {
    /// The stored sessions that are now part of it, with their ids.
    pub before: Vec<(String, Session)>,
    /// The session now.
    pub after: Session,
}

impl Placed {
    /// Returns the id that the session keeps: the id of the stored session with the same first event. `None` if no
    /// stored session has the same first event.
    pub fn kept_id(&self) -> Option<&str> {
        let is_same = |before: &&(String, Session)| before.1.unnamed == self.after.unnamed;
        self.before.iter().find(is_same).map(|(id, _)| id.as_str())
    }
}

/// Merges the new sessions of an actor with the stored sessions that they touch.
pub fn place(stored: Vec<(String, Session)>, new: Vec<Session>, timeout_ms: i64) -> Vec<Placed> {
    let stored = stored.into_iter().map(|(id, session)| Placed { after: session.clone(), before: vec![(id, session)] });
    let new = new.into_iter().map(|session| Placed { before: Vec::new(), after: session });
    let mut all: Vec<Placed> = stored.chain(new).collect();
    all.sort_by_key(|placed| placed.after.started_at);
    let mut sessions: Vec<Placed> = Vec::new();
    for Placed { before, after } in all {
        match sessions.last_mut() {
            Some(last) if is_near(&last.after, &after, timeout_ms) => {
                last.before.extend(before);
                last.after.merge(after);
            }
            _ => sessions.push(Placed { before, after }),
        }
    }
    sessions
}

/// Returns the ids that an unnamed session may have, in order. The session gets the first id that nobody sent as a
/// `session_id`. Returns no ids if the session was named.
pub fn candidate_ids(session: &Session) -> impl Iterator<Item = String> {
    let first = session.unnamed.as_ref().map(|unnamed| {
        let event_id = unnamed.first_event_id.clone();
        (natural_id::within(natural_id::uuid(&unnamed.actor.to_string()), &event_id), event_id)
    });
    let next = |(id, event_id): &(uuid::Uuid, String)| Some((natural_id::within(*id, event_id), event_id.clone()));
    std::iter::successors(first, next).map(|(id, _)| id.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::EventBuilder;

    const TIMEOUT_MS: i64 = 1_800_000;

    fn session(ms: i64, id: &str) -> Session {
        let event = EventBuilder::track("x").user_id("ada").timestamp(Timestamp::from_millis(ms)).id(id).build();
        let mut sessions = UnnamedSessions::default();
        sessions.add_event(ActorRef::of(&event).unwrap(), &event, &Context::default(), TIMEOUT_MS);
        sessions.into_sorted(TIMEOUT_MS).remove(0).1.remove(0)
    }

    fn spans(sessions: &[Session]) -> Vec<(i64, i64)> {
        sessions.iter().map(|session| (session.started_at.as_millis(), session.last_activity_at.as_millis())).collect()
    }

    #[test]
    fn the_timeout_itself_is_still_the_same_session() {
        let near = join(vec![session(TIMEOUT_MS, "b"), session(0, "a")], TIMEOUT_MS);
        assert_eq!(spans(&near), [(0, TIMEOUT_MS)]);
        let far = join(vec![session(TIMEOUT_MS + 1, "b"), session(0, "a")], TIMEOUT_MS);
        assert_eq!(spans(&far), [(0, 0), (TIMEOUT_MS + 1, TIMEOUT_MS + 1)]);
    }

    #[test]
    fn a_late_event_bridges_and_the_first_events_id_stays() {
        let stored = vec![("one".to_owned(), session(0, "a")), ("two".to_owned(), session(2 * TIMEOUT_MS, "c"))];
        let placed = place(stored.clone(), vec![session(TIMEOUT_MS, "b")], TIMEOUT_MS);
        assert_eq!(placed.len(), 1);
        assert_eq!(placed[0].before, stored);
        assert_eq!(placed[0].kept_id(), Some("one"));
        assert_eq!(spans(&[placed[0].after.clone()]), [(0, 2 * TIMEOUT_MS)]);
    }

    #[test]
    fn an_earlier_event_or_one_of_the_same_time_with_a_lesser_id_is_the_first() {
        for (ms, id, is_kept) in [(-1, "z", false), (0, "0", false), (0, "b", true), (1, "0", true)] {
            let placed = place(vec![("one".to_owned(), session(0, "a"))], vec![session(ms, id)], TIMEOUT_MS);
            assert_eq!(placed[0].kept_id().is_some(), is_kept, "{ms} {id}");
            let id_of = |session: &Session| candidate_ids(session).next().unwrap();
            assert_eq!(id_of(&placed[0].after) == id_of(&session(0, "a")), is_kept, "{ms} {id}");
        }
    }

    #[test]
    fn users_and_anonymous_ids_of_one_text_are_two() {
        let user = EventBuilder::track("x").user_id("ada").build();
        let anonymous = AnalyticsEvent { user_id: None, anonymous_id: Some("ada".into()), ..user.clone() };
        let both = AnalyticsEvent { anonymous_id: Some("x".into()), ..user.clone() };
        let actor = |event: &AnalyticsEvent| ActorRef::of(event).map(|actor| actor.to_actor().to_string());
        assert_eq!(actor(&user).as_deref(), Some("user|ada"));
        assert_eq!(actor(&both).as_deref(), Some("user|ada"));
        assert_eq!(actor(&anonymous).as_deref(), Some("anonymous|ada"));
        assert_eq!(actor(&AnalyticsEvent { user_id: None, ..user }), None);
    }
}
