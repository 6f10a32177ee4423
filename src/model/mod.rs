//! The types of the specification, their builders, and the session message.
//!
//! Names are the specification's. Some field types are stricter, to remove a class of errors. A [`Timestamp`] has one
//! text form and sorts as text. A [`JsonObject`] is always an object in canonical form. Closed sets are enums.

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

/// The kind of a message: the token after the prefix in its subject.
///
/// The order of the variants is the tie-break of `SEMANTICS`. At equal times, an event comes before a metric, and a
/// metric before a session message.
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

    /// Returns the subject token. `Nats-Msg-Id` begins with this token. Ids that the server supplies depend on it too.
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Event => "events",
            Kind::Metric => "metrics",
            Kind::Session => "sessions",
        }
    }

    /// Returns the kind that a subject token names, or `None` if it names no kind.
    pub fn from_token(token: &str) -> Option<Self> {
        Kind::ALL.into_iter().find(|kind| kind.as_str() == token)
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
