//! The step machine: makes episodes from an actor's hits, which it takes in order.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::model::AnalyticsEvent;

/// The properties of a funnel that its machine needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// The maximum time between the first event of a chain and any other event of the chain, in milliseconds,
    /// inclusive.
    pub window_ms: i64,
    /// The number of steps.
    pub steps: u8,
}

/// An event that matches a step. Hits sort in the order in which the machine takes them: by time, then step, then
/// event id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Hit {
    /// The time of the event.
    pub timestamp_ms: i64,
    /// The step that the event matches, from 1.
    pub step: u8,
    /// The id of the event.
    pub event_id: String,
    /// The user of the event, as it was sent.
    pub user_id: Option<String>,
    /// The anonymous id of the event, as it was sent.
    pub anonymous_id: Option<String>,
    /// The session of the event, as it was sent.
    pub session_id: Option<String>,
}

impl Hit {
    /// Returns the hit of an event on a step.
    pub fn of(event: &AnalyticsEvent, step: u8) -> Self {
        Self {
            timestamp_ms: event.timestamp.as_millis(),
            step,
            event_id: event.id.clone(),
            user_id: event.user_id.clone(),
            anonymous_id: event.anonymous_id.clone(),
            session_id: event.session_id.clone(),
        }
    }
}

/// The hit of step 1 that opened an episode. It identifies the episode.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Opening {
    /// The time of the hit.
    pub timestamp_ms: i64,
    /// The id of the hit's event.
    pub event_id: String,
}

impl Hit {
    /// Returns the opening of the episode that this hit opens, if it opens an episode.
    pub fn opening(&self) -> Opening {
        Opening { timestamp_ms: self.timestamp_ms, event_id: self.event_id.clone() }
    }

    /// Returns the position of this hit among the hits of the actor.
    pub fn position(&self) -> (i64, u8, &str) {
        (self.timestamp_ms, self.step, &self.event_id)
    }
}

impl Opening {
    /// Returns the position of the opening hit among the hits of the actor.
    pub fn position(&self) -> (i64, u8, &str) {
        (self.timestamp_ms, 1, &self.event_id)
    }
}

/// Hits of the steps 1, 2 and so on, each of a different event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain(Vec<Arc<Hit>>);

impl Chain {
    pub(super) fn from_hits(hits: Vec<Arc<Hit>>) -> Option<Self> {
        (!hits.is_empty()).then_some(Self(hits))
    }

    /// Returns the hits, at least one.
    pub fn hits(&self) -> &[Arc<Hit>] {
        &self.0
    }

    /// Returns the time of the first hit, in milliseconds.
    pub fn started_at_ms(&self) -> i64 {
        self.0[0].timestamp_ms
    }

    /// Returns the step that the chain has reached.
    pub fn step(&self) -> u8 {
        u8::try_from(self.0.len()).unwrap_or(u8::MAX)
    }

    fn has_room_for(&self, hit: &Hit, rule: Rule) -> bool {
        self.is_live(hit.timestamp_ms, rule) && !self.holds(hit)
    }

    fn is_live(&self, now_ms: i64, rule: Rule) -> bool {
        now_ms - self.started_at_ms() <= rule.window_ms
    }

    fn holds(&self, hit: &Hit) -> bool {
        self.0.iter().any(|own| own.event_id == hit.event_id)
    }

    fn extended(&self, hit: &Arc<Hit>) -> Self {
        Self(self.0.iter().chain([hit]).map(Arc::clone).collect())
    }
}

/// The best live chain that ends at a step.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) now: Option<Chain>,
    /// The time at which `now` last changed.
    pub(super) changed_at_ms: Option<i64>,
    /// The chain before that time.
    pub(super) before: Option<Chain>,
}

impl Slot {
    fn fill(&mut self, chain: Chain, now_ms: i64) {
        if self.changed_at_ms != Some(now_ms) {
            self.before = self.now.take();
            self.changed_at_ms = Some(now_ms);
        }
        self.now = Some(chain);
    }

    fn held_before(&self, now_ms: i64) -> Option<&Chain> {
        if self.changed_at_ms == Some(now_ms) { self.before.as_ref() } else { self.now.as_ref() }
    }
}

/// The effect of a hit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// The hit opened an episode.
    Opened,
    /// This chain now ends with the hit.
    Filled(Chain),
    /// This chain ended with the hit. The episode ended with the chain.
    Completed(Chain),
    /// No episode is open, and the hit is not of step 1.
    NothingOpen,
    /// No chain that has reached the step before can be extended.
    NothingToExtend(Unfit),
    /// The chain that already ends at this step began at the same time or later.
    NotLater,
}

/// The reason why no chain can be extended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unfit {
    /// No chain has reached the step before.
    NotReached,
    /// The chains that have reached the step before began longer ago than the window.
    OutOfWindow,
    /// The live chains that have reached the step before already contain this event.
    SameEvent,
}

/// The slots of an actor: one for each step while an episode is open, and no slots otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Machine {
    pub(super) slots: Vec<Slot>,
}

impl Machine {
    /// Returns whether an episode is open.
    pub fn is_open(&self) -> bool {
        !self.slots.is_empty()
    }

    /// Lets time pass. Closes the episode if its latest chain is out of the window.
    pub fn pass(&mut self, now_ms: i64, rule: Rule) {
        let is_live =
            self.slots.first().and_then(|slot| slot.now.as_ref()).is_some_and(|chain| chain.is_live(now_ms, rule));
        if !is_live {
            self.slots.clear();
        }
    }

    /// Returns the machine as hits at `now_ms` and later see it. Leaves out everything that can have no effect on
    /// such hits.
    pub fn as_of(&self, now_ms: i64, rule: Rule) -> Self {
        let mut machine = self.clone();
        machine.pass(now_ms, rule);
        for slot in &mut machine.slots {
            let is_live = |chain: &Chain| chain.is_live(now_ms, rule);
            slot.now = slot.now.take().filter(is_live);
            slot.before = slot.before.take().filter(is_live);
            if slot.changed_at_ms != Some(now_ms) {
                (slot.before, slot.changed_at_ms) = (None, None);
            }
        }
        machine
    }

    /// Takes the next hit. Returns the effect of the hit.
    pub fn advance(&mut self, hit: &Arc<Hit>, rule: Rule) -> Fate {
        let now_ms = hit.timestamp_ms;
        self.pass(now_ms, rule);
        if !self.is_open() {
            if hit.step != 1 {
                return Fate::NothingOpen;
            }
            self.slots = vec![Slot::default(); usize::from(rule.steps)];
            self.slots[0].fill(Chain(vec![Arc::clone(hit)]), now_ms);
            return Fate::Opened;
        }
        let chain = if hit.step == 1 {
            Chain(vec![Arc::clone(hit)])
        } else {
            let previous = &self.slots[usize::from(hit.step) - 2];
            let candidates = || previous.now.as_ref().into_iter().chain(previous.held_before(now_ms));
            let Some(chain) = candidates().find(|chain| chain.has_room_for(hit, rule)) else {
                let is_live = candidates().any(|chain| chain.is_live(now_ms, rule));
                return Fate::NothingToExtend(match (candidates().next(), is_live) {
                    (None, _) => Unfit::NotReached,
                    (Some(_), false) => Unfit::OutOfWindow,
                    (Some(_), true) => Unfit::SameEvent,
                });
            };
            chain.extended(hit)
        };
        let slot = &mut self.slots[usize::from(hit.step) - 1];
        if slot.now.as_ref().is_some_and(|own| own.started_at_ms() >= chain.started_at_ms()) {
            return Fate::NotLater;
        }
        if hit.step == rule.steps {
            self.slots.clear();
            return Fate::Completed(chain);
        }
        slot.fill(chain.clone(), now_ms);
        Fate::Filled(chain)
    }
}
