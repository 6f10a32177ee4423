//! Sessions of events that name none: an actor's events are of one session where no gap between neighbours is longer
//! than the timeout. A late event may extend a session, begin one before it, or bridge two.
//!
//! The sessions of an actor lie apart by more than the timeout. So a new one touches only those that begin or end within
//! the timeout of it, and what these merge to touches no other that is stored.

use serde::{Deserialize, Serialize};

use super::{Contexts, Session};
use crate::analytics::Merge as _;
use crate::model::{AnalyticsEvent, Timestamp};
use crate::natural_id;

/// Who an event is of: its user, else its anonymous id. A user and an anonymous id of the same text are two.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Actor(String);

impl Actor {
    /// The actor of an event; none where it has none.
    pub fn of(event: &AnalyticsEvent) -> Option<Self> {
        let user = event.user_id.as_ref().map(|user_id| format!("user|{user_id}"));
        let anonymous = || event.anonymous_id.as_ref().map(|anonymous_id| format!("anonymous|{anonymous_id}"));
        user.or_else(anonymous).map(Self)
    }

    /// As it stands in the database.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The sessions that an actor's events make, in the order of time, apart by more than the timeout.
pub fn sessions_of<'a>(
    actor: &Actor,
    mut events: Vec<&'a AnalyticsEvent>,
    timeout_ms: i64,
    contexts: &mut Contexts<'a>,
) -> Vec<Session> {
    events.sort_unstable_by_key(|event| event.timestamp);
    let mut sessions: Vec<Session> = Vec::new();
    for event in events {
        let is_near = |last: &Session| event.timestamp.as_millis() - last.last_activity_at.as_millis() <= timeout_ms;
        if !sessions.last().is_some_and(is_near) {
            sessions.push(Session::of_actor(actor.clone(), event));
        }
        if let Some(session) = sessions.last_mut() {
            session.add_event(event, contexts.of(event));
        }
    }
    sessions
}

/// Sessions of one actor, in the order of time, those merged that lie no further apart than the timeout.
pub fn join(mut sessions: Vec<Session>, timeout_ms: i64) -> Vec<Session> {
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

/// Whether a session begins within the timeout after the end of one that began before it.
fn is_near(earlier: &Session, later: &Session, timeout_ms: i64) -> bool {
    later.started_at.as_millis() - earlier.last_activity_at.as_millis() <= timeout_ms
}

/// The times between which a stored session touches this one: it begins no later than the second, and ends no earlier
/// than the first.
pub fn reach(session: &Session, timeout_ms: i64) -> (Timestamp, Timestamp) {
    let from_ms = session.started_at.as_millis() - timeout_ms;
    let to_ms = session.last_activity_at.as_millis() + timeout_ms;
    (Timestamp::from_millis(from_ms), Timestamp::from_millis(to_ms))
}

/// A session and what it came of.
#[derive(Debug, PartialEq)]
pub struct Placed {
    /// The stored sessions that it holds, with their ids.
    pub before: Vec<(String, Session)>,
    /// The session now.
    pub after: Session,
}

impl Placed {
    /// The id that it has already: that of the stored session with the same first event.
    pub fn kept_id(&self) -> Option<&str> {
        let is_same = |before: &&(String, Session)| before.1.unnamed == self.after.unnamed;
        self.before.iter().find(is_same).map(|(id, _)| id.as_str())
    }
}

/// Puts new sessions of an actor among the stored ones that they touch.
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

/// The ids that an unnamed session may have: it has the first that nobody sent as a `session_id`. Empty where the session
/// was named.
pub fn candidate_ids(session: &Session) -> impl Iterator<Item = String> {
    let first = session.unnamed.as_ref().map(|unnamed| {
        let event_id = unnamed.first_event_id.clone();
        (natural_id::within(natural_id::uuid(unnamed.actor.as_str()), &event_id), event_id)
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
        let actor = Actor::of(&event).unwrap();
        sessions_of(&actor, vec![&event], TIMEOUT_MS, &mut Contexts::default()).remove(0)
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
        assert_ne!(Actor::of(&user), Actor::of(&anonymous));
        assert_eq!(Actor::of(&user), Actor::of(&both));
        assert_eq!(Actor::of(&AnalyticsEvent { user_id: None, ..user }), None);
    }
}
