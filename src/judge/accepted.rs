//! A message that was found to be in order.

use super::rejection::Rejection;
use crate::model::{AnalyticsEvent, Metric, SessionMessage};

/// A message that is accepted where its id is new, and its time permits.
#[derive(Debug, Clone, PartialEq)]
pub struct Accepted<T> {
    /// The row.
    pub record: T,
    /// What the server supplied to it.
    pub supplied: Supplied,
    /// What speaks against its timestamp. Counts only where the id is new.
    pub untimely: Option<Rejection>,
}

/// An accepted message of any kind.
#[derive(Debug, Clone, PartialEq)]
pub enum Message {
    /// An event.
    Event(Box<Accepted<AnalyticsEvent>>),
    /// A metric.
    Metric(Box<Accepted<Metric>>),
    /// A session message.
    Session(Box<Accepted<SessionMessage>>),
}

/// Which fields the server supplied because the message left them out. They play no part in comparing copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Supplied(u8);

impl Supplied {
    /// The id, from the message's place in the stream.
    pub const ID: Supplied = Supplied(1);
    /// The timestamp, from `recv`.
    pub const TIMESTAMP: Supplied = Supplied(2);
    /// The event_type, from the subject.
    pub const EVENT_TYPE: Supplied = Supplied(4);
    /// The metric_type, `gauge`.
    pub const METRIC_TYPE: Supplied = Supplied(8);

    /// As the database stores it.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// From what the database stores.
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits)
    }

    /// Whether all of `other` are among these.
    pub const fn contains(self, other: Supplied) -> bool {
        self.0 & other.0 == other.0
    }

    /// What either side was supplied with.
    pub const fn union(self, other: Supplied) -> Self {
        Self(self.0 | other.0)
    }

    /// These and, when it holds, `other`.
    pub(super) const fn with(self, other: Supplied, when: bool) -> Self {
        if when { self.union(other) } else { self }
    }
}
