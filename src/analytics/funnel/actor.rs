//! Names of funnel actors in the database.

/// The prefix of the name of every session.
pub const SESSION_PREFIX: &str = "session|";

/// Returns the actor name of a session.
pub fn session_actor(id: &str) -> String {
    format!("{SESSION_PREFIX}{id}")
}

/// Returns the actor name of a user.
pub fn user_actor(id: &str) -> String {
    format!("user|{id}")
}

/// Returns the actor name of an anonymous id that belongs to no user.
pub fn anonymous_actor(id: &str) -> String {
    format!("anonymous|{id}")
}
