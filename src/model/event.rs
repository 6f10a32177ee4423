//! The analytics event.

use serde::{Deserialize, Serialize};
use sqlx::FromRow;

use super::{JsonObject, Timestamp};

/// A row of `analytics_events`, and the message on `analytics.events` that becomes it.
#[derive(Debug, Clone, PartialEq, FromRow, Serialize, Deserialize)]
pub struct AnalyticsEvent {
    /// 1 to 128 printable ASCII characters. The first accepted event with an id is stored.
    pub id: String,
    /// The type of the event: `track`, `page`, `identify`, `feature`, or the producer's own type.
    pub event_type: String,
    /// What happened.
    pub event_name: String,
    /// When the event happened, by the producer's clock.
    pub timestamp: Timestamp,
    /// The session that the event belongs to, according to the producer.
    pub session_id: Option<String>,
    /// The user, if known.
    pub user_id: Option<String>,
    /// Data that is specific to this event.
    pub properties: Option<JsonObject>,
    /// Where the event happened: device, browser, place.
    pub context: Option<JsonObject>,
    /// The page that the event happened on.
    pub page_url: Option<String>,
    /// The page that led to `page_url`.
    pub referrer: Option<String>,
    /// An id that stands for the user before the user is known, such as the id of a device or browser.
    pub anonymous_id: Option<String>,
}
