//! Publishes lines of JSON, with acks pipelined.

use std::collections::VecDeque;
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::context::{PublishAckFuture, PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::publish::PublishAck;
use bytes::Bytes;
use futures::FutureExt;

use super::{Backoff, Connection, NatsError};
use crate::model::Kind;
use crate::{clock, subject};

/// Acks outstanding at once.
const MAX_IN_FLIGHT: usize = 4_000;
/// Bytes of what is not acknowledged, which is kept to be sent again.
const MAX_IN_FLIGHT_BYTES: usize = 32 << 20;
/// Tries for a line before it is given up, and all that are not acknowledged by then with it: a minute of no server.
const MAX_TRIES: u32 = 8;
/// A failure that lasts longer than this many lines is reported by count alone.
const MAX_FAILED_LINES: usize = 1_000;

/// A line that was not published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedLine {
    /// Its number, from 1.
    pub line: u64,
    /// Why.
    pub error: String,
}

/// How it went.
#[derive(Debug, Default)]
pub struct Published {
    /// Lines that the stream stored.
    pub stored: u64,
    /// Lines that the stream knew already by their id.
    pub duplicates: u64,
    /// Lines that were given up.
    pub failed: u64,
    /// The first of them.
    pub failed_lines: Vec<FailedLine>,
}

/// Publishes lines. A line that brings no id gets one, so that trying again never counts it twice.
#[derive(Debug)]
pub struct LinePublisher {
    connection: Connection,
    jetstream: jetstream::Context,
    subject: String,
    kind: Kind,
    in_flight: VecDeque<InFlight>,
    in_flight_bytes: usize,
    published: Published,
    has_given_up: bool,
}

#[derive(Debug)]
struct InFlight {
    line: u64,
    message: Outgoing,
    ack: Ack,
}

#[derive(Debug)]
enum Ack {
    Waiting(PublishAckFuture),
    Known(Result<PublishAck, PublishError>),
}

impl Ack {
    async fn wait(self) -> Result<PublishAck, PublishError> {
        match self {
            Ack::Waiting(ack) => ack.await,
            Ack::Known(result) => result,
        }
    }

    /// The ack, if it has come.
    fn by_now(self) -> Result<PublishAck, PublishError> {
        let too_late = || Err(PublishError::new(PublishErrorKind::TimedOut));
        self.wait().now_or_never().unwrap_or_else(too_late)
    }
}

#[derive(Debug, Clone)]
struct Outgoing {
    payload: Bytes,
    /// `<kind>:<id>`; none where the line is no object, and so goes to the dead letters.
    message_id: Option<String>,
}

impl LinePublisher {
    /// A publisher of one kind of message.
    pub fn new(connection: Connection, prefix: &str, kind: Kind) -> Self {
        Self {
            jetstream: connection.jetstream(),
            connection,
            subject: subject::publish(prefix, kind),
            kind,
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            published: Published::default(),
            has_given_up: false,
        }
    }

    /// Sends a line. Waits for the oldest ack where too many are outstanding. False once a line was given up because
    /// nobody acknowledged it: then no other would be.
    pub async fn publish(&mut self, line: u64, text: &[u8]) -> bool {
        let message = outgoing(self.kind, text);
        self.in_flight_bytes += message.payload.len();
        let ack = self.send(&message).await;
        self.in_flight.push_back(InFlight { line, message, ack });
        while self.in_flight.len() >= MAX_IN_FLIGHT || self.in_flight_bytes >= MAX_IN_FLIGHT_BYTES {
            self.settle_oldest().await;
        }
        !self.has_given_up
    }

    /// How many lines are settled, one way or the other.
    pub fn settled(&self) -> u64 {
        self.published.stored + self.published.duplicates + self.published.failed
    }

    /// Waits for all acks.
    pub async fn finish(mut self) -> Published {
        while !self.in_flight.is_empty() {
            self.settle_oldest().await;
        }
        self.published
    }

    async fn send(&self, message: &Outgoing) -> Ack {
        let mut publish = PublishMessage::build().payload(message.payload.clone());
        if let Some(id) = &message.message_id {
            publish = publish.message_id(id);
        }
        match self.jetstream.send_publish(self.subject.clone(), publish).await {
            Ok(ack) => Ack::Waiting(ack),
            Err(error) => Ack::Known(Err(error)),
        }
    }

    async fn settle_oldest(&mut self) {
        let Some(InFlight { line, message, ack }) = self.in_flight.pop_front() else { return };
        self.in_flight_bytes -= message.payload.len();
        let result = if self.has_given_up { ack.by_now() } else { self.settle(line, &message, ack).await };
        match result {
            Ok(ack) if ack.duplicate => self.published.duplicates += 1,
            Ok(_) => self.published.stored += 1,
            Err(error) => {
                self.published.failed += 1;
                // What is too large says nothing of the others.
                self.has_given_up |= error.kind() != PublishErrorKind::MaxPayloadExceeded;
                if self.published.failed_lines.len() < MAX_FAILED_LINES {
                    self.published.failed_lines.push(FailedLine { line, error: describe(&error) });
                }
            }
        }
    }

    /// Waits for an ack. Where there is none, all that is in flight is sent again: what broke, broke for all.
    async fn settle(&mut self, line: u64, message: &Outgoing, mut ack: Ack) -> Result<PublishAck, PublishError> {
        let mut backoff = Backoff::default();
        let mut tries = 1;
        loop {
            let error = match ack.wait().await {
                Ok(ack) => return Ok(ack),
                Err(error) => error,
            };
            // What is too large stays so. All else passes: a leader's change even answers "stream not found".
            if error.kind() == PublishErrorKind::MaxPayloadExceeded || tries >= MAX_TRIES {
                return Err(error);
            }
            tracing::debug!(line, tries, "not acknowledged, trying again: {error}");
            tokio::time::sleep(backoff.next_delay()).await;
            tries += 1;
            ack = self.send(message).await;
            self.send_again().await;
        }
    }

    /// Sends again what is in flight and not acknowledged by now.
    async fn send_again(&mut self) {
        for mut later in std::mem::take(&mut self.in_flight) {
            later.ack = match later.ack.by_now() {
                Ok(ack) => Ack::Known(Ok(ack)),
                Err(error) if error.kind() == PublishErrorKind::MaxPayloadExceeded => Ack::Known(Err(error)),
                Err(_) => self.send(&later.message).await,
            };
            self.in_flight.push_back(later);
        }
    }

    /// Whether the stream is there, so that a mistake in the configuration shows at once and not line by line.
    ///
    /// # Errors
    /// Where it is not.
    pub async fn check_stream(&self, name: &str) -> Result<(), NatsError> {
        let patience = Duration::from_secs(10);
        let mut backoff = Backoff::default();
        let check = async {
            loop {
                match super::last_sequence(&self.connection, name).await {
                    Ok(_) => return,
                    Err(error) => tracing::debug!("{error}"),
                }
                tokio::time::sleep(backoff.next_delay()).await;
            }
        };
        tokio::time::timeout(patience, check).await.map_err(|_| {
            NatsError::Fatal(format!("stream {name} does not answer: start `streamgauge run`, which creates it, and nats-server with --jetstream"))
        })
    }
}

fn describe(error: &PublishError) -> String {
    match error.kind() {
        PublishErrorKind::StreamNotFound => "no stream took it (stream not found)".into(),
        _ => error.to_string(),
    }
}

/// The message for a line: an object without an id gets a UUIDv7 as its first field.
fn outgoing(kind: Kind, line: &[u8]) -> Outgoing {
    let as_is = |message_id| Outgoing { payload: Bytes::copy_from_slice(line), message_id };
    let Ok(text) = std::str::from_utf8(line) else { return as_is(None) };
    let Ok(serde_json::Value::Object(mut object)) = serde_json::from_str(text) else { return as_is(None) };
    let sent = match object.get("id") {
        Some(serde_json::Value::String(id)) if !id.is_empty() => Some(id.clone()),
        Some(serde_json::Value::Number(id)) => Some(id.to_string()),
        // null and "" mean absent.
        None | Some(serde_json::Value::Null | serde_json::Value::String(_)) => None,
        Some(_) => return as_is(None),
    };
    if let Some(id) = sent {
        // A header is a line of ASCII; an id that is none is rejected by the worker anyway.
        return as_is(id.bytes().all(|byte| byte.is_ascii_graphic()).then(|| format!("{kind}:{id}")));
    }
    let id = clock::new_id().to_string();
    let message_id = Some(format!("{kind}:{id}"));
    let payload = if object.remove("id").is_some() {
        object.insert("id".into(), id.into());
        serde_json::Value::Object(object).to_string()
    } else {
        // The rest stays as it was written, to the digit.
        let rest = text.trim_start().strip_prefix('{').unwrap_or_default();
        let comma = if object.is_empty() { "" } else { "," };
        format!("{{\"id\":\"{id}\"{comma}{rest}")
    };
    Outgoing { payload: payload.into(), message_id }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_keeps_its_id_or_gets_one() {
        let sent = outgoing(Kind::Metric, br#"{"id":"a","value":1}"#);
        assert_eq!(sent.message_id.as_deref(), Some("metrics:a"));
        assert_eq!(&sent.payload[..], br#"{"id":"a","value":1}"#);

        for text in [" {\"value\":1} ", "{}", "{ }", r#"{"id":null}"#, r#"{"a":1,"id":""}"#] {
            let given = outgoing(Kind::Event, text.as_bytes());
            let object: serde_json::Value = serde_json::from_slice(&given.payload).unwrap();
            assert_eq!(given.message_id, Some(format!("events:{}", object["id"].as_str().unwrap())));
        }
        for text in ["not json", "[1]", r#"{"id":[]}"#] {
            let sent = outgoing(Kind::Event, text.as_bytes());
            assert_eq!((sent.message_id, &sent.payload[..]), (None, text.as_bytes()));
        }
    }
}
