//! Subjects: what they say of a message, and where a dead letter goes.

use crate::model::Kind;

/// What a subject says of the message on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route<'a> {
    /// The kind of message.
    pub kind: Kind,
    /// The first token after the kind, which names the event's type where the message does not.
    pub suffix: Option<&'a str>,
}

/// Reads `<prefix>.<kind>[.<suffix>...]`; none where the subject is something else.
pub fn route<'a>(prefix: &str, subject: &'a str) -> Option<Route<'a>> {
    let rest = subject.strip_prefix(prefix)?.strip_prefix('.')?;
    let mut tokens = rest.split('.');
    let kind = Kind::from_token(tokens.next()?)?;
    Some(Route { kind, suffix: tokens.next().filter(|token| !token.is_empty()) })
}

/// `<prefix>.>`, which the stream reads.
pub fn ingest(prefix: &str) -> String {
    format!("{prefix}.>")
}

/// `<prefix>.<kind>`, which producers publish to.
pub fn publish(prefix: &str, kind: Kind) -> String {
    format!("{prefix}.{kind}")
}

/// `dlq.<prefix>.>`, which the stream of dead letters reads.
pub fn dead_letters(prefix: &str) -> String {
    format!("dlq.{prefix}.>")
}

/// `dlq.<prefix>.<kind>.<reason>`; the kind of a message on an unknown subject is `unknown`.
pub fn dead_letter(prefix: &str, kind: &str, reason: &str) -> String {
    format!("dlq.{prefix}.{kind}.{reason}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_names_a_kind_and_perhaps_a_type() {
        for (subject, expected) in [
            ("analytics.events", Some((Kind::Event, None))),
            ("analytics.events.track", Some((Kind::Event, Some("track")))),
            ("analytics.events.track.web", Some((Kind::Event, Some("track")))),
            ("analytics.metrics.cpu", Some((Kind::Metric, Some("cpu")))),
            ("analytics.sessions", Some((Kind::Session, None))),
            ("analytics.eventsx", None),
            ("analytics.Events", None),
            ("analytics", None),
            ("analyticsevents", None),
            ("other.events", None),
            ("analytics.foo.events", None),
        ] {
            let found = route("analytics", subject).map(|route| (route.kind, route.suffix));
            assert_eq!(found, expected, "{subject}");
        }
        assert_eq!(route("a.b", "a.b.events.x").unwrap().suffix, Some("x"));
    }
}
