//! Funnels: how far actors got through the steps of a definition (`SEMANTICS` section 6).
//!
//! ```text
//! event -> Funnels::hits_of          the steps that the event matches, in all funnels
//! hits of an actor, in order         Machine: slots that hold the best chain to each step
//! result of the machine              episodes, each a row of funnel_conversions
//! ```
//! [`Machine`] is the plain form: it takes hits in order and makes episodes. [`History`] is the incremental form: it
//! takes hits in any order. It keeps them in segments, and keeps the machine's state between segments. So a late hit
//! runs again only the hits that it can affect.

mod actor;
mod condition;
mod facts;
mod history;
mod machine;
mod report;
mod segment;

use std::sync::Arc;

use hashbrown::HashMap;
use serde::Serialize;

use super::parsed::{ParsedEvent, is_asked_for};
use super::session::{Actor, ActorRef};
use crate::model::{AnalyticsEvent, natural_id};

pub use actor::{SESSION_PREFIX, anonymous_actor, session_actor, user_actor};
pub use condition::{Condition, Op};
pub use facts::FunnelFacts;
pub use history::{History, Segments};
pub use machine::{Chain, Fate, Hit, Machine, Opening, Rule, Unfit};
pub use report::{Report, StepReport};
pub use segment::{Episode, MAX_SEGMENT_HITS, Piece, Segment};

/// The definition of a funnel.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Funnel {
    /// The name. The id is derived from it.
    pub name: String,
    /// The purpose of the funnel. It affects no number.
    #[serde(skip)]
    pub description: Option<String>,
    /// Whose events make a chain.
    pub scope: Scope,
    /// The maximum time between the first event of a chain and any other event of the chain, in milliseconds,
    /// inclusive.
    pub window_ms: i64,
    /// `true`: each episode of an actor is a row. `false`: one episode of an actor is a row, the first of those that
    /// got furthest.
    pub reentry: bool,
    /// The steps, from 2 to 16.
    pub steps: Vec<Step>,
}

impl Funnel {
    /// Returns the id: a UUIDv5 of the name.
    pub fn id(&self) -> String {
        id_of(&self.name)
    }

    /// Returns the first 8 bytes of the id. Internal tables identify the funnel by this key.
    pub fn key(&self) -> i64 {
        key_of(&self.name)
    }

    /// Returns the id of the episode with this opening.
    pub fn episode_id(&self, opening: &Opening) -> String {
        natural_id::of(&format!("funnel_conversions|{}|1|{}", self.id(), opening.event_id))
    }

    /// Returns the steps that ask for the type and name of an event, but have a condition that the event does not
    /// meet.
    pub fn misses(&self, event: &AnalyticsEvent) -> Vec<Miss> {
        let mut parsed = ParsedEvent::of(event);
        let asking = self.steps.iter().enumerate().filter(|(_, step)| step.asks_for(event));
        let miss = |(number, step): (usize, &Step)| {
            let condition = step.conditions.iter().find(|condition| !condition.holds(&mut parsed))?.clone();
            Some(Miss { hit: Hit::of(event, u8::try_from(number + 1).unwrap_or(u8::MAX)), condition })
        };
        asking.filter_map(miss).collect()
    }

    /// Returns the properties that the machine needs.
    pub fn rule(&self) -> Rule {
        Rule { window_ms: self.window_ms, steps: u8::try_from(self.steps.len()).unwrap_or(u8::MAX) }
    }
}

/// Returns the id of the funnel with this name.
pub fn id_of(name: &str) -> String {
    natural_id::of(&format!("funnels|{name}"))
}

/// Returns the key of the funnel with this name: the first 8 bytes of its id.
pub fn key_of(name: &str) -> i64 {
    natural_id::uuid(&format!("funnels|{name}")).as_u64_pair().0.cast_signed()
}

/// Whose events make a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// The events of a user, with the events of anonymous ids that belong to the user.
    User,
    /// The events of a session.
    Session,
}

/// A step, and the events that match it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Step {
    /// The name.
    pub name: String,
    /// The event types that match. An empty list matches any type.
    #[serde(rename = "event_type", skip_serializing_if = "Vec::is_empty")]
    pub event_types: Vec<String>,
    /// The event names that match. An empty list matches any name.
    #[serde(rename = "event_name", skip_serializing_if = "Vec::is_empty")]
    pub event_names: Vec<String>,
    /// The conditions, which must all hold.
    #[serde(rename = "where", skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

impl Step {
    fn asks_for(&self, event: &AnalyticsEvent) -> bool {
        is_asked_for(&self.event_types, &self.event_names, event)
    }

    fn matches(&self, parsed: &mut ParsedEvent<'_>) -> bool {
        self.asks_for(parsed.event) && self.conditions.iter().all(|condition| condition.holds(parsed))
    }
}

/// An event that a step asks for by type and name, but that does not meet a condition of the step.
#[derive(Debug, Clone, PartialEq)]
pub struct Miss {
    /// The hit that the event would be.
    pub hit: Hit,
    /// The first condition that does not hold.
    pub condition: Condition,
}

/// The actor of hits, before links of anonymous ids and ids of unnamed sessions are looked up.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HitActor {
    /// A user, or an anonymous id that may be linked to a user.
    Person(Actor),
    /// The session with this id.
    Session(String),
    /// The session that the actor's events form around the time of the hit.
    Unnamed(Actor),
}

/// All funnels, with an index of their steps by event name and event type.
#[derive(Debug, Clone, Default)]
pub struct Funnels {
    all: Vec<Arc<Funnel>>,
    /// The steps that ask for a name, by that name: the places of funnel and step, from 0.
    by_name: HashMap<String, Vec<(usize, usize)>>,
    /// The steps that ask for no name, but for a type, by that type.
    by_type: HashMap<String, Vec<(usize, usize)>>,
    /// The steps that ask for neither.
    of_any: Vec<(usize, usize)>,
}

impl PartialEq for Funnels {
    fn eq(&self, other: &Self) -> bool {
        self.all == other.all
    }
}

impl Funnels {
    /// Indexes the funnels of a configuration. Their names must differ.
    pub fn new(funnels: Vec<Funnel>) -> Self {
        let mut index = Self { all: funnels.into_iter().map(Arc::new).collect(), ..Self::default() };
        for (at, funnel) in index.all.iter().enumerate() {
            for (number, step) in funnel.steps.iter().enumerate() {
                let place = (at, number);
                let (keys, places) = match (step.event_names.is_empty(), step.event_types.is_empty()) {
                    (false, _) => (&step.event_names, &mut index.by_name),
                    (true, false) => (&step.event_types, &mut index.by_type),
                    (true, true) => {
                        index.of_any.push(place);
                        continue;
                    }
                };
                for key in keys {
                    let places = places.entry_ref(key.as_str()).or_default();
                    if places.last() != Some(&place) {
                        places.push(place);
                    }
                }
            }
        }
        index
    }

    /// Returns all funnels.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Funnel>> {
        self.all.iter()
    }

    /// Returns the funnel with this name.
    pub fn by_name(&self, name: &str) -> Option<&Arc<Funnel>> {
        self.all.iter().find(|funnel| funnel.name == name)
    }

    /// Finds the steps that an event matches. Calls `found` with the place of the funnel, the actor and the hit. An
    /// event that no step asks for costs two lookups, whatever the number of funnels.
    pub fn hits_of(&self, parsed: &mut ParsedEvent<'_>, mut found: impl FnMut(usize, HitActor, Hit)) {
        let event = parsed.event;
        let by_name = self.by_name.get(&event.event_name).into_iter().flatten();
        let by_type = self.by_type.get(&event.event_type).into_iter().flatten();
        for &(at, number) in by_name.chain(by_type).chain(&self.of_any) {
            let funnel = &self.all[at];
            if funnel.steps[number].matches(parsed)
                && let Some(actor) = HitActor::of(funnel.scope, event)
            {
                let step = u8::try_from(number + 1).unwrap_or(u8::MAX);
                found(at, actor, Hit::of(event, step));
            }
        }
    }
}

impl HitActor {
    fn of(scope: Scope, event: &AnalyticsEvent) -> Option<Self> {
        let actor = || ActorRef::of(event).map(ActorRef::to_actor);
        match scope {
            Scope::User => actor().map(Self::Person),
            Scope::Session => event.session_id.clone().map(Self::Session).or_else(|| actor().map(Self::Unnamed)),
        }
    }
}

#[cfg(test)]
mod tests;
