//! The judge of messages, and the verdict on a message.

use super::accepted::Message;
use super::decode::decode;
use super::delivery::Delivery;
use super::rejection::{Reason, Rejection};
use super::subject;
use super::validate::{Limits, Origin, validate};
use crate::model::Kind;
use crate::position::Position;

/// The settings that messages of any stream are judged by.
#[derive(Debug, Clone)]
pub struct Criteria {
    /// `stream.prefix`
    pub prefix: String,
    /// `[limits]`
    pub limits: Limits,
}

impl Criteria {
    /// Makes the judge for messages after a position, in the position's stream and epoch.
    pub fn judge_at(&self, position: &Position) -> Judge {
        let (stream, epoch) = (position.stream.clone(), position.epoch);
        Judge { prefix: self.prefix.clone(), stream, epoch, limits: self.limits.clone() }
    }
}

/// Judges the messages of one epoch of a stream.
#[derive(Debug, Clone)]
pub struct Judge {
    /// `stream.prefix`
    pub prefix: String,
    /// The stream's name.
    pub stream: String,
    /// The stream's epoch in this database.
    pub epoch: i64,
    /// `[limits]`
    pub limits: Limits,
}

/// A message and its outcome. The store makes the final decision, because only the store knows which ids are new.
#[derive(Debug, Clone)]
pub struct Verdict {
    /// The message as the stream delivered it, for the ledger.
    pub delivery: Delivery,
    /// The kind that the subject names. `None` if the subject is unknown.
    pub kind: Option<Kind>,
    /// The valid message, or why it is rejected.
    pub outcome: Result<Message, Rejection>,
}

impl Judge {
    /// Judges a message.
    pub fn judge(&self, delivery: Delivery) -> Verdict {
        let route = subject::route(&self.prefix, &delivery.subject);
        let outcome = match route {
            None => Err(Rejection::message(Reason::UnknownSubject, self.unknown_subject())),
            Some(route) => decode(route.kind, route.suffix, &delivery.payload, self.limits.max_payload_bytes)
                .and_then(|wire| validate(wire, self.origin(&delivery), &self.limits)),
        };
        Verdict { kind: route.map(|route| route.kind), delivery, outcome }
    }

    fn origin(&self, delivery: &Delivery) -> Origin<'_> {
        Origin {
            stream: &self.stream,
            epoch: self.epoch,
            stream_sequence: delivery.stream_sequence,
            recv: delivery.recv(),
        }
    }

    fn unknown_subject(&self) -> String {
        let prefix = &self.prefix;
        format!("the subject must be {prefix}.events, {prefix}.metrics or {prefix}.sessions, with any suffix")
    }
}
