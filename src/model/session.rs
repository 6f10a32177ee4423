//! The session message, what a producer says of a session as a whole; and the session that it becomes part of.

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sqlx::FromRow;

use super::Timestamp;

/// What a session message tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "TEXT")]
#[sqlx(rename_all = "snake_case")]
pub enum SessionKind {
    /// The session begins.
    Start,
    /// The session is still going on.
    Heartbeat,
    /// The session is over.
    End,
}

impl SessionKind {
    /// All kinds.
    pub const ALL: [SessionKind; 3] = [SessionKind::Start, SessionKind::Heartbeat, SessionKind::End];

    /// The name on the wire and in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            SessionKind::Start => "start",
            SessionKind::Heartbeat => "heartbeat",
            SessionKind::End => "end",
        }
    }
}

impl FromStr for SessionKind {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        SessionKind::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or(())
    }
}

/// A row of `_session_messages`, and the message on `analytics.sessions` that becomes it.
#[derive(Debug, Clone, PartialEq, FromRow, Serialize, Deserialize)]
pub struct SessionMessage {
    /// 1 to 128 printable ASCII characters; the first accepted session message with an id wins.
    pub id: String,
    /// The session that it speaks of.
    pub session_id: String,
    /// What it says.
    pub kind: SessionKind,
    /// When, by the producer's clock.
    pub timestamp: Timestamp,
    /// Whose session it is, where that is known.
    pub user_id: Option<String>,
    /// Whose session it is before they are known.
    pub anonymous_id: Option<String>,
    /// `desktop`, `phone`, or the producer's own word.
    pub device_type: Option<String>,
    /// The browser's name.
    pub browser: Option<String>,
    /// The operating system's name.
    pub os: Option<String>,
    /// The country.
    pub country: Option<String>,
    /// The city.
    pub city: Option<String>,
    /// The page that led to the session.
    pub referrer: Option<String>,
    /// The session's first page.
    pub landing_page: Option<String>,
    /// The session's last page.
    pub exit_page: Option<String>,
}

/// A row of `analytics_sessions`: what all messages of one session add up to.
#[derive(Debug, Clone, PartialEq, FromRow, Serialize, Deserialize)]
pub struct AnalyticsSession {
    /// The session id as it was sent.
    pub id: String,
    /// The user of the first message that has one.
    pub user_id: Option<String>,
    /// The least timestamp.
    pub started_at: Timestamp,
    /// The last activity; none while the session is open.
    pub ended_at: Option<Timestamp>,
    /// From the first activity to the last, in milliseconds, also while the session is open.
    pub duration_ms: i64,
    /// Number of events; session messages do not count.
    pub event_count: i64,
    /// The first that was told, by a `start` message before any other; so with all that follows but the pages.
    pub device_type: Option<String>,
    /// The browser's name.
    pub browser: Option<String>,
    /// The operating system's name.
    pub os: Option<String>,
    /// The country.
    pub country: Option<String>,
    /// The city.
    pub city: Option<String>,
    /// The page that led to the session.
    pub referrer: Option<String>,
    /// The page of the first message that has one.
    pub landing_page: Option<String>,
    /// The page of the last message that has one.
    pub exit_page: Option<String>,
}
