//! The session message, which a producer sends about a session as a whole, and the session that it becomes part of.

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sqlx::FromRow;

use super::Timestamp;

/// What a session message reports.
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

    /// Returns the name on the wire and in the database.
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
    /// 1 to 128 printable ASCII characters. The first accepted session message with an id is stored.
    pub id: String,
    /// The session that the message is about.
    pub session_id: String,
    /// What the message reports.
    pub kind: SessionKind,
    /// The message's time, by the producer's clock.
    pub timestamp: Timestamp,
    /// The user of the session, if known.
    pub user_id: Option<String>,
    /// An id that stands for the user before the user is known.
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

/// A row of `analytics_sessions`: all events and session messages of one session, combined.
#[derive(Debug, Clone, PartialEq, FromRow, Serialize, Deserialize)]
pub struct AnalyticsSession {
    /// The session id as it was sent. For a session that nobody named, an id made from its actor and first event.
    pub id: String,
    /// The user of the first message that names a user.
    pub user_id: Option<String>,
    /// The least timestamp of the session's messages.
    pub started_at: Timestamp,
    /// The time of the last activity. `None` while the session is open.
    pub ended_at: Option<Timestamp>,
    /// The time from the first activity to the last, in milliseconds. Also set while the session is open.
    pub duration_ms: i64,
    /// Number of events. Session messages do not count.
    pub event_count: i64,
    /// The device type of the first `start` message that has one. If there is none, of the first other message that
    /// has one. The same holds for the fields below, except the two pages.
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
    /// The page of the first message that has a page.
    pub landing_page: Option<String>,
    /// The page of the last message that has a page.
    pub exit_page: Option<String>,
}
