//! The rules of the derived tables: they turn messages into states. This module is pure: no SQL, no clock, no IO.
//!
//! # How derived state changes
//! The derived state of every table changes in the same way:
//! ```text
//! stored message -> Facts::add       the rules: facts for the keys of each group
//! facts of a transaction             combined by key while they are added (Merge)
//! states         <- store.load       the stored states of those keys
//! apply(states, facts)               new states, and facts for other groups
//! changes        -> store.put_many   the states as bytes with a version, and the public rows that show them
//! ```
//! A [`Group`] is a set of derived tables with one state for each key. Combination is associative and commutative. So
//! a state depends neither on the order of messages nor on their split into batches or partitions. This is the law of
//! `SEMANTICS` section 0, and `tests/laws` checks the law for every group.
//!
//! # To add a group
//! 1. Write a module here: the fact and the state, their [`Merge`] and [`State`], and an empty type that is the
//!    [`Group`].
//! 2. Add a field to [`Facts`], and to `facts` the rule that fills the field.
//! 3. Add the group to `groups`: its name, its dependencies and its fingerprint.
//! 4. Add a migration for its tables, and name the tables in `store::sqlite::derived::groups`.
//! 5. Write a module in `store::sqlite::derived` that loads and puts the states. Add a line for the module to
//!    `store::sqlite::derived::apply`.
//!
//! # To add a column to a group
//! Change the state here, its version and its row; the statements in `store::sqlite::derived`; the type in
//! [`crate::model`] and the columns in `store::sqlite::schema` if the table is public (`digest` and `verify` read
//! the columns that stand there); and add a migration. The version is part of the fingerprint, so the next
//! start rebuilds the group.
//!
//! No group reads the tables of another group. A group learns about other groups only from facts ([`Group::onward`]).

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

/// The inputs of the rules, except the messages. They are part of the inputs of `F(A, config)`.
#[derive(Debug, Clone, PartialEq)]
pub struct Rules {
    /// `limits.session_timeout`, in milliseconds. A session that is silent for longer is closed. In an unnamed
    /// session, no gap between events is longer.
    pub session_timeout_ms: i64,
    /// Which events are usages of features.
    pub features: FeatureRules,
    /// Which events are steps of funnels.
    pub funnels: Funnels,
    /// The widgets, and the series that they count.
    pub dashboards: Dashboards,
}

impl Rules {
    /// Returns the bound at the watermark `t`: a session is closed if its last activity lies before the bound.
    pub fn closed_before(&self, t: Timestamp) -> Timestamp {
        Timestamp::from_millis(t.as_millis() - self.session_timeout_ms)
    }
}

/// Combines knowledge of one key. Combination is associative and commutative. Its unit is an absent value: nothing is
/// known.
pub trait Merge {
    /// Adds the knowledge of `other`.
    fn merge(&mut self, other: Self);
}

/// Implements [`Group::apply`] for groups whose fact is a small state, made from the fact's messages alone. Does not
/// change `before`, because the caller still needs the state before.
fn merged<S: Merge + Clone>(before: Option<&S>, fact: S) -> S {
    let mut after = fact;
    if let Some(before) = before {
        after.merge(before.clone());
    }
    after
}

/// The state that is stored for a key. Equal states have equal bytes.
pub trait State: Sized {
    /// The first byte of the encoding.
    const VERSION: u8;

    /// Appends the state to `bytes`, which already hold the version.
    fn encode(&self, bytes: Vec<u8>) -> Vec<u8>;

    /// Reads bytes that [`State::encode`] wrote, without the version. Returns `None` for any other bytes.
    fn decode(bytes: &[u8]) -> Option<Self>;

    /// Returns the version and the encoded state, as the store keeps them.
    fn to_bytes(&self) -> Vec<u8> {
        self.encode(vec![Self::VERSION])
    }

    /// Reads a stored state.
    ///
    /// # Errors
    /// Fails if the bytes are not a state of version [`State::VERSION`].
    fn from_bytes(bytes: &[u8]) -> Result<Self, StateError> {
        let error = || StateError { size_bytes: bytes.len(), expected: Self::VERSION };
        let (version, rest) = bytes.split_first().ok_or_else(error)?;
        if *version == Self::VERSION { Self::decode(rest).ok_or_else(error) } else { Err(error()) }
    }
}

/// Stored bytes that are not a state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the {size_bytes} stored bytes are not a state of version {expected}")]
pub struct StateError {
    size_bytes: usize,
    expected: u8,
}

/// A set of derived tables that keeps one state for each key.
pub trait Group {
    /// Identifies a state.
    type Key: Ord + Hash;
    /// The facts that messages give to a key: deltas and set operations.
    type Fact: Merge;
    /// The knowledge of a key that is stored between batches.
    type State: State;

    /// Returns the state after: the state before, if there was one, combined with the fact. May move parts out of
    /// `before` that nobody reads afterwards.
    fn apply(before: Option<&mut Self::State>, fact: Self::Fact) -> Self::State;

    /// Adds the facts that a changed state gives to other groups. The default adds none.
    fn onward(_key: &Self::Key, _change: &Change<Self>, _facts: &mut Facts) {}
}

/// A state before and after a batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Change<G: Group + ?Sized> {
    /// The state before. `None` if the key is new.
    pub before: Option<G::State>,
    /// The state now.
    pub after: G::State,
}

/// Returns the value of a key. Inserts `first()` if the key is new; only then `owned` makes an owned key.
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

/// The facts of one group, combined by key.
#[derive(Debug)]
pub struct ByKey<G: Group>(HashMap<G::Key, G::Fact>);

impl<G: Group> Default for ByKey<G> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<G: Group> ByKey<G> {
    /// Adds a fact to a key.
    pub fn add(&mut self, key: G::Key, fact: G::Fact) {
        match self.0.entry(key) {
            Entry::Vacant(entry) => {
                entry.insert(fact);
            }
            Entry::Occupied(mut entry) => entry.get_mut().merge(fact),
        }
    }

    /// Returns the fact of a key so far, to be extended. A new key begins with `first()`. Takes a borrowed key,
    /// because most keys occur more than once; only a new key is made owned.
    fn of<Q>(&mut self, key: &Q, owned: impl FnOnce(&Q) -> G::Key, first: impl FnOnce() -> G::Fact) -> &mut G::Fact
    where
        Q: Hash + Equivalent<G::Key> + ?Sized,
    {
        entry_of(&mut self.0, key, owned, first)
    }

    /// Returns the keys and facts in the order of the keys. Lookups and writes follow this order.
    pub fn into_sorted(self) -> Vec<(G::Key, G::Fact)> {
        let mut facts: Vec<_> = self.0.into_iter().collect();
        facts.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        facts
    }

    /// Returns the keys and facts, in no order.
    fn iter(&self) -> impl Iterator<Item = (&G::Key, &G::Fact)> {
        self.0.iter()
    }

    /// Returns the number of keys that have facts.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns whether no key has facts.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Applies facts to the states of their keys, and returns the changes. `states` must be in the order of `facts`.
/// Facts for other groups are added to `onward`.
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

/// A message that became a row. Duplicates and rejected messages give no facts.
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
