//! Facts about funnels, from messages, links and changed sessions.

use hashbrown::HashMap;

use super::{Funnels, Hit, HitActor};
use crate::analytics::Linked;
use crate::analytics::parsed::ParsedEvent;
use crate::analytics::session::{Actor, Session};
use crate::model::Timestamp;

/// Facts about funnels, from messages, links and changed sessions.
#[derive(Debug, Default)]
pub struct FunnelFacts {
    /// New hits, by the place of the funnel and by actor.
    pub hits: HashMap<(usize, HitActor), Vec<Hit>>,
    /// Anonymous ids that now belong to another user, or to a user for the first time.
    pub linked: Vec<Linked>,
    /// Unnamed sessions whose hits now belong to another id: the former id and the new id. The order matters.
    pub moved_sessions: Vec<(String, String)>,
    /// Changed unnamed sessions as they are now, by actor: the first time, the last time, and the id.
    placed_sessions: HashMap<Actor, Vec<(Timestamp, Timestamp, String)>>,
}

impl FunnelFacts {
    /// Returns the number of new hits.
    pub fn len(&self) -> usize {
        self.hits.values().map(Vec::len).sum()
    }

    /// Returns whether there are no new hits.
    pub fn is_empty(&self) -> bool {
        self.hits.is_empty()
    }

    /// Adds the hits of an event.
    pub fn add_event(&mut self, funnels: &Funnels, parsed: &mut ParsedEvent<'_>) {
        funnels.hits_of(parsed, |funnel, actor, hit| self.hits.entry((funnel, actor)).or_default().push(hit));
    }

    /// Records the times and the id that an unnamed session has now. Ignores a named session.
    pub fn place_session(&mut self, id: &str, session: &Session) {
        if let Some(actor) = session.actor() {
            let place = (session.started_at(), session.last_activity_at(), id.to_owned());
            self.placed_sessions.entry_ref(actor).or_default().push(place);
        }
    }

    /// Returns the id of the unnamed session that contains an actor's event at this time. `None` if no session that
    /// changed contains it.
    pub fn session_of(&self, actor: &Actor, timestamp_ms: i64) -> Option<&str> {
        let at = Timestamp::from_millis(timestamp_ms);
        let places = self.placed_sessions.get(actor)?;
        places.iter().rev().find(|(from, to, _)| *from <= at && at <= *to).map(|(_, _, id)| id.as_str())
    }
}
