//! Subject and bytes to a verdict: route, decode, validate. Pure; the same live and on replay.

use crate::config::Config;
use crate::decode::{self, Delivery};
use crate::model::Kind;
use crate::rejection::{Reason, Rejection};
use crate::subject;
use crate::validate::{self, Limits, Message, Origin};

/// What a message is judged by, besides itself.
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

/// A message and what was found about it. What becomes of it, the writer decides: it knows which ids are new.
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
    /// As a configuration says, before it is known in which epoch the stream is.
    pub fn of(config: &Config) -> Self {
        let (prefix, stream) = (config.stream.prefix.clone(), config.stream.name.clone());
        Self { prefix, stream, epoch: 0, limits: config.limits.clone() }
    }

    /// Judges a message.
    pub fn judge(&self, delivery: Delivery) -> Verdict {
        let route = subject::route(&self.prefix, &delivery.subject);
        let outcome = match route {
            None => Err(Rejection::message(Reason::UnknownSubject, self.unknown_subject())),
            Some(route) => decode::decode(route.kind, route.suffix, &delivery.payload, self.limits.max_payload_bytes)
                .and_then(|wire| validate::validate(wire, self.origin(&delivery), &self.limits)),
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

#[cfg(test)]
mod tests;
