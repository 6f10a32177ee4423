//! What a message is judged by, and the verdict on it.

use super::accepted::Message;
use super::decode::decode;
use super::delivery::Delivery;
use super::rejection::{Reason, Rejection};
use super::subject;
use super::validate::{Limits, Origin, validate};
use crate::model::Kind;
use crate::position::Position;

/// What messages of any stream are judged by.
#[derive(Debug, Clone)]
pub struct Criteria {
    /// `stream.prefix`
    pub prefix: String,
    /// `[limits]`
    pub limits: Limits,
}

impl Criteria {
    /// The judge of messages that come after a position: in its stream, and in its epoch.
    pub fn judge_at(&self, position: &Position) -> Judge {
        let (stream, epoch) = (position.stream.clone(), position.epoch);
        Judge { prefix: self.prefix.clone(), stream, epoch, limits: self.limits.clone() }
    }
}

/// What messages of one epoch of a stream are judged by.
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

/// A message and what was found about it. The store decides what becomes of it, since it knows which ids are new.
#[derive(Debug, Clone)]
pub struct Verdict {
    /// The message as it was delivered, for the ledger.
    pub delivery: Delivery,
    /// What its subject says it is; none where the subject is unknown.
    pub kind: Option<Kind>,
    /// What it is, or why it is not accepted.
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
        format!("the subject is none of {prefix}.events, {prefix}.metrics, {prefix}.sessions, with any suffix")
    }
}
