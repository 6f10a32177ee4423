//! What messages add up to: the rules of the derived tables. Pure: no SQL, no clock, no IO.
//!
//! # How derived state changes
//! In one way only, whatever the table:
//! ```text
//! stored message -> Facts::add       the rules: what it says of which keys of which groups
//! facts of a transaction             combined by key while they are added (Merge)
//! states         <- store.load       what was known of those keys
//! apply(states, facts)               new states, and facts for other groups
//! changes        -> store.put_many   the states as bytes with a version, and the public rows that show them
//! ```
//! A [`Group`] is a set of derived tables with one state for each key. Combination is associative and commutative, so
//! neither the order of messages nor their split into batches or partitions can be seen in a state: that is the law of
//! `SEMANTICS` section 0, and `tests/laws` holds every group to it.
//!
//! # To add a group
//! 1. A module here with its fact and state, their [`Merge`] and [`State`], and an empty type that is the [`Group`].
//! 2. A field in [`Facts`], and in `facts` the rule that fills it.
//! 3. A line for it in `groups`: its name, what it depends on, its fingerprint.
//! 4. A module in `store::sqlite::derived` that loads and puts its states, and a line in `store::sqlite::derived::apply`.
//!
//! No group reads another group's tables: what one learns of another comes as facts ([`Group::onward`]).

mod activity;
pub mod dashboard;
mod distribution;
mod event_count;
mod exact_sum;
mod facts;
mod feature;
pub mod funnel;
mod groups;
mod link;
mod parsed;
pub mod period;
mod rollup;
mod session;

use std::hash::Hash;

use hashbrown::hash_map::{Entry, EntryRef};
use hashbrown::{Equivalent, HashMap};

use dashboard::Dashboards;
use funnel::Funnels;

use crate::model::{AnalyticsEvent, Metric, SessionMessage, Timestamp};

pub use activity::{Activity, ActivityFact, ActivityState, MAX_NAMES, Names, Presence, Span, UserDay, UserDayRef};
pub use distribution::{Distribution, MAX_EXACT};
pub use event_count::EventCounts;
pub use exact_sum::ExactSum;
pub use facts::Facts;
pub use feature::{
    FeatureDay, FeatureFact, FeatureName, FeatureRule, FeatureRules, FeatureState, Features, is_feature_name,
};
pub use groups::{
    FUNNEL_PREFIX, GroupName, GroupSet, SERIES_PREFIX, current_series, fingerprints, with_dependents, with_sources,
};
pub use link::{Link, Linked, Links};
pub use rollup::{Rollup, RollupKey, Rollups};
pub use session::{Actor, Placed, Session, Sessions, USER_AGENT_READER, UnnamedSessions, candidate_ids, place, reach};

/// What the rules depend on beside the messages. Part of what `F(A, config)` is a function of.
#[derive(Debug, Clone, PartialEq)]
pub struct Rules {
    /// `limits.session_timeout`, milliseconds: a session that is silent for longer is closed, and so long may a gap be
    /// within a session that nobody named.
    pub session_timeout_ms: i64,
    /// Which events are usages of features.
    pub features: FeatureRules,
    /// Which events are steps of funnels.
    pub funnels: Funnels,
    /// What widgets show.
    pub dashboards: Dashboards,
}

impl Rules {
    /// Sessions whose last activity lies before this are closed, at the watermark `t`.
    pub fn closed_before(&self, t: Timestamp) -> Timestamp {
        Timestamp::from_millis(t.as_millis() - self.session_timeout_ms)
    }
}

/// Combination of what is known of one key: associative and commutative. The unit is to know nothing, an absent value.
pub trait Merge {
    /// Takes in what the other knows.
    fn merge(&mut self, other: Self);
}

/// What [`Group::apply`] is where a fact is a small state, that of its messages alone, and the state before is needed
/// still.
fn merged<S: Merge + Clone>(before: Option<&S>, fact: S) -> S {
    let mut after = fact;
    if let Some(before) = before {
        after.merge(before.clone());
    }
    after
}

/// What is stored for a key. Equal states have equal bytes.
pub trait State: Sized {
    /// The first byte of the encoding.
    const VERSION: u8;

    /// Adds the state to the bytes, which hold the version so far.
    fn encode(&self, bytes: Vec<u8>) -> Vec<u8>;

    /// Reads what [`State::encode`] wrote; none where the bytes are something else.
    fn decode(bytes: &[u8]) -> Option<Self>;

    /// Version and bytes, as the store keeps them.
    fn to_bytes(&self) -> Vec<u8> {
        self.encode(vec![Self::VERSION])
    }

    /// Reads a stored state.
    ///
    /// # Errors
    /// Where the bytes are no state of this version.
    fn from_bytes(bytes: &[u8]) -> Result<Self, StateError> {
        let error = || StateError { size_bytes: bytes.len(), expected: Self::VERSION };
        let (version, rest) = bytes.split_first().ok_or_else(error)?;
        if *version == Self::VERSION { Self::decode(rest).ok_or_else(error) } else { Err(error()) }
    }
}

/// Stored bytes that are no state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("its {size_bytes} bytes are no state of version {expected}")]
pub struct StateError {
    size_bytes: usize,
    expected: u8,
}

/// A set of derived tables that keeps one state for each key.
pub trait Group {
    /// What addresses a state.
    type Key: Ord + Hash;
    /// What messages say of a key: deltas and set operations.
    type Fact: Merge;
    /// What is known of a key.
    type State: State;

    /// The state before, if there was one, with the fact: the state after. What nobody asks of the state before any
    /// more may be taken out of it.
    fn apply(before: Option<&mut Self::State>, fact: Self::Fact) -> Self::State;

    /// What a changed state says to other groups.
    fn onward(_key: &Self::Key, _change: &Change<Self>, _facts: &mut Facts) {}
}

/// A state before and after a batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Change<G: Group + ?Sized> {
    /// None where the key is new.
    pub before: Option<G::State>,
    /// The state now.
    pub after: G::State,
}

/// The value of a key that is borrowed until it is known to be new.
fn entry_of<'m, K, V, Q>(
    map: &'m mut HashMap<K, V>,
    key: &Q,
    owned: impl FnOnce(&Q) -> K,
    first: impl FnOnce() -> V,
) -> &'m mut V
where
    K: Hash + Eq,
    Q: Hash + Equivalent<K> + ?Sized,
{
    match map.entry_ref(key) {
        EntryRef::Occupied(entry) => entry.into_mut(),
        EntryRef::Vacant(entry) => entry.insert_entry_with_key(owned(key), first()).into_mut(),
    }
}

/// Facts of one group by key, combined.
#[derive(Debug)]
pub struct ByKey<G: Group>(HashMap<G::Key, G::Fact>);

impl<G: Group> Default for ByKey<G> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<G: Group> ByKey<G> {
    /// Adds what a message says of a key.
    pub fn add(&mut self, key: G::Key, fact: G::Fact) {
        match self.0.entry(key) {
            Entry::Vacant(entry) => {
                entry.insert(fact);
            }
            Entry::Occupied(mut entry) => entry.get_mut().merge(fact),
        }
    }

    /// What is said of a key so far, to be added to; at first what `first` gives. Most keys are spoken of more than
    /// once, so one is borrowed until it is known to be new.
    fn of<Q>(&mut self, key: &Q, owned: impl FnOnce(&Q) -> G::Key, first: impl FnOnce() -> G::Fact) -> &mut G::Fact
    where
        Q: Hash + Equivalent<G::Key> + ?Sized,
    {
        entry_of(&mut self.0, key, owned, first)
    }

    /// What is said of which keys, in their order: so they are looked up, and so the writes come.
    pub fn into_sorted(self) -> Vec<(G::Key, G::Fact)> {
        let mut facts: Vec<_> = self.0.into_iter().collect();
        facts.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        facts
    }

    /// What is said of which keys, in no order.
    fn iter(&self) -> impl Iterator<Item = (&G::Key, &G::Fact)> {
        self.0.iter()
    }

    /// Of how many keys something is said.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Applies facts to the states that they address, given in the same order. What that says to other groups goes to
/// `onward`.
pub fn apply<G: Group>(
    states: impl IntoIterator<Item = Option<G::State>>,
    facts: Vec<(G::Key, G::Fact)>,
    onward: &mut Facts,
) -> Vec<(G::Key, Change<G>)> {
    let mut changes = Vec::with_capacity(facts.len());
    let mut states = states.into_iter();
    for (key, fact) in facts {
        let mut before = states.next().flatten();
        let after = G::apply(before.as_mut(), fact);
        let change = Change { before, after };
        G::onward(&key, &change, onward);
        changes.push((key, change));
    }
    changes
}

/// A message that became a row. Duplicates and rejections say nothing.
#[derive(Debug, Clone, Copy)]
pub enum Stored<'a> {
    /// An event.
    Event(&'a AnalyticsEvent),
    /// A metric.
    Metric(&'a Metric),
    /// A session message.
    Session(&'a SessionMessage),
}

impl<'a> From<&'a AnalyticsEvent> for Stored<'a> {
    fn from(event: &'a AnalyticsEvent) -> Self {
        Self::Event(event)
    }
}

impl<'a> From<&'a Metric> for Stored<'a> {
    fn from(metric: &'a Metric) -> Self {
        Self::Metric(metric)
    }
}

impl<'a> From<&'a SessionMessage> for Stored<'a> {
    fn from(session: &'a SessionMessage) -> Self {
        Self::Session(session)
    }
}
