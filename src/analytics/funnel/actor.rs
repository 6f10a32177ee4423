//! Actors of funnels, as the database names them.

/// What the name of a session begins with.
pub const SESSION_PREFIX: &str = "session|";

/// The name of a session.
pub fn session_actor(id: &str) -> String {
    format!("{SESSION_PREFIX}{id}")
}

/// The name of a user.
pub fn user_actor(id: &str) -> String {
    format!("user|{id}")
}

/// The name of an anonymous id that belongs to no user.
pub fn anonymous_actor(id: &str) -> String {
    format!("anonymous|{id}")
}
