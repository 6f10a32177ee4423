//! A message that passed validation.

use super::rejection::Rejection;
use crate::model::{AnalyticsEvent, Metric, SessionMessage};

/// A valid message. The store accepts it if its id is new and its timestamp is acceptable.
#[derive(Debug, Clone, PartialEq)]
pub struct Accepted<T> {
    /// The record to store.
    pub record: T,
    /// The fields that the server supplied.
    pub supplied: Supplied,
    /// Why the timestamp is not acceptable, or `None` if it is. Counts only if the id is new.
    pub untimely: Option<Rejection>,
}

/// A valid message of any kind.
#[derive(Debug, Clone, PartialEq)]
pub enum Message {
    /// An event.
    Event(Box<Accepted<AnalyticsEvent>>),
    /// A metric.
    Metric(Box<Accepted<Metric>>),
    /// A session message.
    Session(Box<Accepted<SessionMessage>>),
}

/// The fields that the server supplied because the message left them out. [`compare`](super::compare) ignores them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Supplied(u8);

impl Supplied {
    /// The id, made from the message's place in the stream.
    pub const ID: Supplied = Supplied(1);
    /// The timestamp, copied from `recv`.
    pub const TIMESTAMP: Supplied = Supplied(2);
    /// The event_type, taken from the subject.
    pub const EVENT_TYPE: Supplied = Supplied(4);
    /// The metric_type, which is then `gauge`.
    pub const METRIC_TYPE: Supplied = Supplied(8);

    /// Returns the bits that the database stores.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Reads the bits that the database stores.
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits)
    }

    /// Returns whether this set contains all fields of `other`.
    pub const fn contains(self, other: Supplied) -> bool {
        self.0 & other.0 == other.0
    }

    /// Returns the fields of both sets.
    pub const fn union(self, other: Supplied) -> Self {
        Self(self.0 | other.0)
    }

    /// Returns this set, with the fields of `other` added if `when` is true.
    pub(super) const fn with(self, other: Supplied, when: bool) -> Self {
        if when { self.union(other) } else { self }
    }
}
