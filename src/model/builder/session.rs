//! Builder for session messages.

use crate::clock;
use crate::model::{SessionKind, SessionMessage, Timestamp};

/// Builder for session messages. By default, a message has a new UUIDv7 as its id, and the current time.
#[derive(Debug, Clone)]
pub struct SessionBuilder {
    message: SessionMessage,
}

impl SessionBuilder {
    /// Begins a `start` message: the session begins.
    pub fn start(session_id: impl Into<String>) -> Self {
        Self::new(session_id, SessionKind::Start)
    }

    /// Begins a `heartbeat` message: the session is still going on.
    pub fn heartbeat(session_id: impl Into<String>) -> Self {
        Self::new(session_id, SessionKind::Heartbeat)
    }

    /// Begins an `end` message: the session is over.
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

    /// Sets the id, in place of the new UUIDv7: 1 to 128 printable ASCII characters.
    pub fn id(mut self, id: &str) -> Self {
        self.message.id = id.to_owned();
        self
    }

    /// Sets the message's time, in place of the current time.
    pub fn timestamp(mut self, timestamp: Timestamp) -> Self {
        self.message.timestamp = timestamp;
        self
    }

    /// Sets the user of the session.
    pub fn user_id(mut self, id: &str) -> Self {
        self.message.user_id = Some(id.to_owned());
        self
    }

    /// Sets the anonymous id, which stands for the user before the user is known.
    pub fn anonymous_id(mut self, id: &str) -> Self {
        self.message.anonymous_id = Some(id.to_owned());
        self
    }

    /// Sets the device type: `desktop`, `phone`, or your own word.
    pub fn device_type(mut self, device_type: &str) -> Self {
        self.message.device_type = Some(device_type.to_owned());
        self
    }

    /// Sets the browser's name.
    pub fn browser(mut self, browser: &str) -> Self {
        self.message.browser = Some(browser.to_owned());
        self
    }

    /// Sets the operating system's name.
    pub fn os(mut self, os: &str) -> Self {
        self.message.os = Some(os.to_owned());
        self
    }

    /// Sets the country.
    pub fn country(mut self, country: &str) -> Self {
        self.message.country = Some(country.to_owned());
        self
    }

    /// Sets the city.
    pub fn city(mut self, city: &str) -> Self {
        self.message.city = Some(city.to_owned());
        self
    }

    /// Sets the page that led to the session.
    pub fn referrer(mut self, referrer: &str) -> Self {
        self.message.referrer = Some(referrer.to_owned());
        self
    }

    /// Sets the session's first page.
    pub fn landing_page(mut self, landing_page: &str) -> Self {
        self.message.landing_page = Some(landing_page.to_owned());
        self
    }

    /// Sets the session's last page.
    pub fn exit_page(mut self, exit_page: &str) -> Self {
        self.message.exit_page = Some(exit_page.to_owned());
        self
    }

    /// Returns the message.
    pub fn build(self) -> SessionMessage {
        self.message
    }
}
