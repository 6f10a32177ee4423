//! Links: an anonymous id belongs to the user of the first event that carries both. Users are never linked with
//! users.

use serde::{Deserialize, Serialize};

use super::{ByKey, Change, Facts, Group, Merge, State};
use crate::model::AnalyticsEvent;

/// The group of links. The key is the anonymous id.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Links;

/// The first event that carries both a user and the anonymous id. Links are in the order of time, then of event id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Link {
    timestamp_ms: i64,
    event_id: String,
    /// The user.
    pub user_id: String,
}

/// An anonymous id whose user changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Linked {
    /// The anonymous id.
    pub anonymous_id: String,
    /// The user before. `None` if the id had no user.
    pub before: Option<String>,
    /// The user now.
    pub after: String,
}

impl Merge for Link {
    fn merge(&mut self, other: Self) {
        if other < *self {
            *self = other;
        }
    }
}

impl Group for Links {
    type Key = String;
    type Fact = Link;
    type State = Link;

    fn apply(before: Option<&mut Link>, fact: Link) -> Link {
        super::merged(before.as_deref(), fact)
    }

    fn onward(anonymous_id: &String, change: &Change<Self>, facts: &mut Facts) {
        let before = change.before.as_ref().map(|link| link.user_id.clone());
        let after = change.after.user_id.clone();
        if before.as_ref() != Some(&after) {
            facts.funnels.linked.push(Linked { anonymous_id: anonymous_id.clone(), before, after });
        }
    }
}

impl ByKey<Links> {
    /// Adds the link of an event that carries both an anonymous id and a user.
    pub fn add_event(&mut self, event: &AnalyticsEvent) {
        if let (Some(anonymous_id), Some(user_id)) = (&event.anonymous_id, &event.user_id) {
            let timestamp_ms = event.timestamp.as_millis();
            self.add(anonymous_id.clone(), Link { timestamp_ms, event_id: event.id.clone(), user_id: user_id.clone() });
        }
    }
}

impl State for Link {
    const VERSION: u8 = 1;

    fn encode(&self, bytes: Vec<u8>) -> Vec<u8> {
        // Writing numbers and texts into a vector cannot fail.
        postcard::to_extend(self, bytes).unwrap_or_default()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (link, rest) = postcard::take_from_bytes(bytes).ok()?;
        rest.is_empty().then_some(link)
    }
}
