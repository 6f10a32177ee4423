//! Builder for session messages.

use crate::clock;
use crate::model::{SessionKind, SessionMessage, Timestamp};

/// Builder for session messages. Every message gets a new UUIDv7 and the time of the call.
#[derive(Debug, Clone)]
pub struct SessionBuilder {
    message: SessionMessage,
}

impl SessionBuilder {
    /// The session begins.
    pub fn start(session_id: impl Into<String>) -> Self {
        Self::new(session_id, SessionKind::Start)
    }

    /// The session is still going on.
    pub fn heartbeat(session_id: impl Into<String>) -> Self {
        Self::new(session_id, SessionKind::Heartbeat)
    }

    /// The session is over.
    pub fn end(session_id: impl Into<String>) -> Self {
        Self::new(session_id, SessionKind::End)
    }

    fn new(session_id: impl Into<String>, kind: SessionKind) -> Self {
        Self {
            message: SessionMessage {
                id: clock::new_id().to_string(),
                session_id: session_id.into(),
                kind,
                timestamp: Timestamp::now(),
                user_id: None,
                anonymous_id: None,
                device_type: None,
                browser: None,
                os: None,
                country: None,
                city: None,
                referrer: None,
                landing_page: None,
                exit_page: None,
            },
        }
    }

    /// Its id, in place of a new one: 1 to 128 printable ASCII characters.
    pub fn id(mut self, id: &str) -> Self {
        self.message.id = id.to_owned();
        self
    }

    /// When it happened, in place of now.
    pub fn timestamp(mut self, timestamp: Timestamp) -> Self {
        self.message.timestamp = timestamp;
        self
    }

    /// Whose session it is.
    pub fn user_id(mut self, id: &str) -> Self {
        self.message.user_id = Some(id.to_owned());
        self
    }

    /// Whose session it is, before they are known.
    pub fn anonymous_id(mut self, id: &str) -> Self {
        self.message.anonymous_id = Some(id.to_owned());
        self
    }

    /// `desktop`, `phone`, or a word of your own.
    pub fn device_type(mut self, device_type: &str) -> Self {
        self.message.device_type = Some(device_type.to_owned());
        self
    }

    /// The browser's name.
    pub fn browser(mut self, browser: &str) -> Self {
        self.message.browser = Some(browser.to_owned());
        self
    }

    /// The operating system's name.
    pub fn os(mut self, os: &str) -> Self {
        self.message.os = Some(os.to_owned());
        self
    }

    /// The country.
    pub fn country(mut self, country: &str) -> Self {
        self.message.country = Some(country.to_owned());
        self
    }

    /// The city.
    pub fn city(mut self, city: &str) -> Self {
        self.message.city = Some(city.to_owned());
        self
    }

    /// The page that led to the session.
    pub fn referrer(mut self, referrer: &str) -> Self {
        self.message.referrer = Some(referrer.to_owned());
        self
    }

    /// The session's first page.
    pub fn landing_page(mut self, landing_page: &str) -> Self {
        self.message.landing_page = Some(landing_page.to_owned());
        self
    }

    /// The session's last page.
    pub fn exit_page(mut self, exit_page: &str) -> Self {
        self.message.exit_page = Some(exit_page.to_owned());
        self
    }

    /// The message.
    pub fn build(self) -> SessionMessage {
        self.message
    }
}
