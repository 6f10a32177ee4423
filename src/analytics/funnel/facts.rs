//! What messages, links and sessions that changed say to funnels.

use hashbrown::HashMap;

use super::{Funnels, Hit, HitActor};
use crate::analytics::Linked;
use crate::analytics::parsed::ParsedEvent;
use crate::analytics::session::{Actor, Session};
use crate::model::Timestamp;

/// What messages, links and sessions that changed say to funnels.
#[derive(Debug, Default)]
pub struct FunnelFacts {
    /// New hits, by the place of the funnel and whose they are.
    pub hits: HashMap<(usize, HitActor), Vec<Hit>>,
    /// Anonymous ids whose user is another now.
    pub linked: Vec<Linked>,
    /// Unnamed sessions whose hits have another id now: from which to which, one after the other.
    pub moved_sessions: Vec<(String, String)>,
    /// Unnamed sessions as they are now, by actor: from when, until when, and the id.
    placed_sessions: HashMap<Actor, Vec<(Timestamp, Timestamp, String)>>,
}

impl FunnelFacts {
    /// New hits.
    pub fn len(&self) -> usize {
        self.hits.values().map(Vec::len).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.hits.is_empty()
    }

    /// Adds what an event says.
    pub fn add_event(&mut self, funnels: &Funnels, parsed: &mut ParsedEvent<'_>) {
        funnels.hits_of(parsed, |funnel, actor, hit| self.hits.entry((funnel, actor)).or_default().push(hit));
    }

    /// Tells where an unnamed session is now.
    pub fn place_session(&mut self, id: &str, session: &Session) {
        if let Some(actor) = session.actor() {
            let place = (session.started_at(), session.last_activity_at(), id.to_owned());
            self.placed_sessions.entry_ref(actor).or_default().push(place);
        }
    }

    /// The id of the unnamed session that an actor's event is of, where that changed.
    pub fn session_of(&self, actor: &Actor, timestamp_ms: i64) -> Option<&str> {
        let at = Timestamp::from_millis(timestamp_ms);
        let places = self.placed_sessions.get(actor)?;
        places.iter().rev().find(|(from, to, _)| *from <= at && at <= *to).map(|(_, _, id)| id.as_str())
    }
}
