//! Funnels: how far actors got through the steps of a definition (`SEMANTICS` section 6).
//!
//! ```text
//! event -> Funnels::hits_of          which steps of which funnels it matches
//! hits of an actor, in order         Machine: slots that hold the best chain to each step
//! what the machine shows             episodes, each a row of funnel_conversions
//! ```
//! [`Machine`] is the plain form: hits in order go in, episodes come out. [`History`] is the incremental one: hits in any
//! order, kept in segments with the machine's state between them, so that a late hit runs again what it can change and no
//! more.

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

/// A funnel.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Funnel {
    /// What it is called. Its id comes of this.
    pub name: String,
    /// What it is for. Part of no number.
    #[serde(skip)]
    pub description: Option<String>,
    /// Whose events make a chain.
    pub scope: Scope,
    /// What may lie between the first event of a chain and any other, milliseconds, inclusive.
    pub window_ms: i64,
    /// Whether each episode of an actor is a row, or the first of those that got furthest.
    pub reentry: bool,
    /// 2 to 16 of them.
    pub steps: Vec<Step>,
}

impl Funnel {
    /// UUIDv5 over the name.
    pub fn id(&self) -> String {
        id_of(&self.name)
    }

    /// The first 8 bytes of its id: as internal tables name it.
    pub fn key(&self) -> i64 {
        key_of(&self.name)
    }

    /// The id of the episode that an event opened.
    pub fn episode_id(&self, opening: &Opening) -> String {
        natural_id::of(&format!("funnel_conversions|{}|1|{}", self.id(), opening.event_id))
    }

    /// The steps that an event misses by a condition.
    pub fn misses(&self, event: &AnalyticsEvent) -> Vec<Miss> {
        let mut parsed = ParsedEvent::of(event);
        let asking = self.steps.iter().enumerate().filter(|(_, step)| step.asks_for(event));
        let miss = |(number, step): (usize, &Step)| {
            let condition = step.conditions.iter().find(|condition| !condition.holds(&mut parsed))?.clone();
            Some(Miss { hit: Hit::of(event, u8::try_from(number + 1).unwrap_or(u8::MAX)), condition })
        };
        asking.filter_map(miss).collect()
    }

    /// What its machine needs to know.
    pub fn rule(&self) -> Rule {
        Rule { window_ms: self.window_ms, steps: u8::try_from(self.steps.len()).unwrap_or(u8::MAX) }
    }
}

/// The id of the funnel of a name.
pub fn id_of(name: &str) -> String {
    natural_id::of(&format!("funnels|{name}"))
}

/// The first 8 bytes of that id.
pub fn key_of(name: &str) -> i64 {
    natural_id::uuid(&format!("funnels|{name}")).as_u64_pair().0.cast_signed()
}

/// Whose events make a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// A user's, those included that an anonymous id of this user's made.
    User,
    /// A session's.
    Session,
}

/// A step: which events match it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Step {
    /// What it is called.
    pub name: String,
    /// Of these types; none: of any.
    #[serde(rename = "event_type", skip_serializing_if = "Vec::is_empty")]
    pub event_types: Vec<String>,
    /// Of these names; none: of any.
    #[serde(rename = "event_name", skip_serializing_if = "Vec::is_empty")]
    pub event_names: Vec<String>,
    /// And all of these hold.
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

/// An event that a step asks for by type and name, but that does not meet a condition of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Miss {
    /// The hit that it would be.
    pub hit: Hit,
    /// The first condition that does not hold.
    pub condition: Condition,
}

/// Whose hits they are, before links of anonymous ids and ids of unnamed sessions are looked up.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HitActor {
    /// Of a user, or of an anonymous id that may be linked to one.
    Person(Actor),
    /// Of the session of that id.
    Session(String),
    /// Of the session that the actor's events make around that time.
    Unnamed(Actor),
}

/// All funnels, and where to look for what an event matches.
#[derive(Debug, Clone, Default)]
pub struct Funnels {
    all: Vec<Arc<Funnel>>,
    /// Funnel and step, from 0, of the steps that ask for a name.
    by_name: HashMap<String, Vec<(usize, usize)>>,
    /// Of those that ask for no name, but for a type.
    by_type: HashMap<String, Vec<(usize, usize)>>,
    /// Of those that ask for neither.
    of_any: Vec<(usize, usize)>,
}

impl PartialEq for Funnels {
    fn eq(&self, other: &Self) -> bool {
        self.all == other.all
    }
}

impl Funnels {
    /// The funnels of a configuration, whose names differ.
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

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Funnel>> {
        self.all.iter()
    }

    /// The one of that name.
    pub fn by_name(&self, name: &str) -> Option<&Arc<Funnel>> {
        self.all.iter().find(|funnel| funnel.name == name)
    }

    /// The steps that an event matches: the place of the funnel, whose hit it is, and the hit. What matches nothing costs
    /// two lookups, whatever the number of funnels.
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
