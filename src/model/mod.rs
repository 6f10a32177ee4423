//! The types of the specification, their builders, and what a session message is.
//!
//! Names are the specification's. Field types are stronger where that removes a class of error: a [`Timestamp`] has
//! one text form and sorts as text, a [`JsonObject`] is an object in canonical form and nothing else, and closed sets
//! are enums.

mod aggregate;
mod builder;
mod event;
mod json;
mod metric;
pub mod natural_id;
mod session;
mod timestamp;

pub use aggregate::{DashboardMetric, FeatureUsage, MetricAggregate, PeriodType, UserActivity};
pub use builder::{EventBuilder, MetricBuilder, SessionBuilder, events, metrics};
pub use event::AnalyticsEvent;
pub use json::JsonObject;
pub use metric::{Metric, MetricType};
pub use session::{AnalyticsSession, SessionKind, SessionMessage};
pub use timestamp::{Timestamp, TimestampError};

/// What a message is about: the token after the prefix in its subject.
///
/// The order is the order of `SEMANTICS`' tie-break: at equal times an event comes before a metric, a metric before a
/// session message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub enum Kind {
    /// `analytics.events`
    Event,
    /// `analytics.metrics`
    Metric,
    /// `analytics.sessions`
    Session,
}

impl Kind {
    /// All kinds, in tie-break order.
    pub const ALL: [Kind; 3] = [Kind::Event, Kind::Metric, Kind::Session];

    /// The subject token, which is also the prefix of `Nats-Msg-Id` and a part of ids that the server supplies.
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Event => "events",
            Kind::Metric => "metrics",
            Kind::Session => "sessions",
        }
    }

    /// The kind that a subject token names, if it is one.
    pub fn from_token(token: &str) -> Option<Self> {
        Kind::ALL.into_iter().find(|kind| kind.as_str() == token)
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
