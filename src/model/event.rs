//! The analytics event.

use serde::{Deserialize, Serialize};
use sqlx::FromRow;

use super::{JsonObject, Timestamp};

/// A row of `analytics_events`, and the message on `analytics.events` that becomes it.
#[derive(Debug, Clone, PartialEq, FromRow, Serialize, Deserialize)]
pub struct AnalyticsEvent {
    /// 1 to 128 printable ASCII characters; the first accepted event with an id wins.
    pub id: String,
    /// What sort of event this is: `track`, `page`, `identify`, `feature` or the producer's own.
    pub event_type: String,
    /// What happened.
    pub event_name: String,
    /// When it happened, by the producer's clock.
    pub timestamp: Timestamp,
    /// The session that the producer says it belongs to.
    pub session_id: Option<String>,
    /// Who did it, where that is known.
    pub user_id: Option<String>,
    /// What is particular to this event.
    pub properties: Option<JsonObject>,
    /// Where it happened: device, browser, place.
    pub context: Option<JsonObject>,
    /// The page it happened on.
    pub page_url: Option<String>,
    /// The page that led there.
    pub referrer: Option<String>,
    /// Who did it before they were known: a device's or a browser's own id.
    pub anonymous_id: Option<String>,
}
