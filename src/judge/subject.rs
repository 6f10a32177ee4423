//! Subjects: of messages that are read, and of dead letters.

use crate::model::Kind;

/// The parts of a message's subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route<'a> {
    /// The kind of message.
    pub kind: Kind,
    /// The first token after the kind. It is the event's type if the message has no type.
    pub suffix: Option<&'a str>,
}

/// Parses `<prefix>.<kind>[.<suffix>...]`. Returns `None` for any other subject.
pub fn route<'a>(prefix: &str, subject: &'a str) -> Option<Route<'a>> {
    let rest = subject.strip_prefix(prefix)?.strip_prefix('.')?;
    let mut tokens = rest.split('.');
    let kind = Kind::from_token(tokens.next()?)?;
    Some(Route { kind, suffix: tokens.next().filter(|token| !token.is_empty()) })
}

/// Returns `<prefix>.>`, the subjects of the ingest stream.
pub fn ingest(prefix: &str) -> String {
    format!("{prefix}.>")
}

/// Returns `<prefix>.<kind>`, the subject that producers publish to.
pub fn publish(prefix: &str, kind: Kind) -> String {
    format!("{prefix}.{kind}")
}

/// Returns `dlq.<prefix>.>`, the subjects of the dead-letter stream.
pub fn dead_letters(prefix: &str) -> String {
    format!("dlq.{prefix}.>")
}

/// Returns `dlq.<prefix>.<kind>.<reason>`, the subject of a dead letter. If the message came on an unknown subject,
/// its kind is `unknown`.
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
