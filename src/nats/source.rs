//! Reads the messages of the stream in order, without omissions, from the position in the database.
//!
//! Acks alone would lose messages. After a reconnect, a pull brings the next new messages. Their ack also
//! acknowledges the messages that were in flight when the connection broke. So every start resets the consumer to the
//! position in the database. From there the consumer sequences must be 1, 2, 3, ...; after any break, reading starts
//! again.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use async_nats::Subject;
use async_nats::jetstream::consumer::pull::{self, MessagesErrorKind};
use async_nats::jetstream::stream::Stream;
use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::watch;

use super::claim::{ConsumerClaim, ResetBy};
use super::connect::Connection;
use super::consumer::{self, Instance, PULL_EXPIRY};
use super::error::NatsError;
use super::lookup::{self, Found, nanos};
use super::{fetch, replay_consumer, stream};
use crate::config;
use crate::judge::{Batch, BatchLimits, Delivery};
use crate::position::{Position, StreamRefusal, StreamState};
use crate::store::{CommitReceipt, MAX_BATCHES};

const HEARTBEAT: Duration = Duration::from_secs(2);
/// A stream that is missing for longer was deleted. Until then, a leader may be changing.
const MISSING_PATIENCE: Duration = Duration::from_secs(5);

const _: () = assert!(HEARTBEAT.as_millis() * 2 < PULL_EXPIRY.as_millis(), "the server refuses a longer heartbeat");

/// Why reading stopped. The remedy is always to start again.
#[derive(Debug, thiserror::Error)]
pub enum Interrupted {
    /// The connection, the server or the consumer failed.
    #[error("reading stopped: {0}")]
    Failed(String),
    /// Messages were lost between server and client.
    #[error("messages were lost between server and client: consumer sequence {found} arrived instead of {expected}")]
    Lost {
        /// The consumer sequence that arrived.
        found: u64,
        /// The consumer sequence that was due.
        expected: u64,
    },
    /// Another process reset the consumer.
    #[error("another process reset the consumer")]
    ForeignReset,
}

/// Why no message arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Silence {
    /// No message waits, as far as is known.
    Quiet,
    /// The consumer has delivered messages that did not arrive. If they were the stream's last, no later message
    /// reveals the loss, and the server's heartbeats continue.
    TailLost,
    /// Messages wait but are not delivered, for example a message that is larger than a pull may be.
    Stalled,
}

/// Reads the stream through one consumer, and acknowledges what is committed.
#[derive(Debug)]
pub struct Source {
    connection: Connection,
    config: config::Stream,
    through: Through,
    batch: BatchLimits,
    is_paused: bool,
    missing_since: Option<Instant>,
    pull: Option<Pull>,
}

/// The consumer through which the stream is read.
#[derive(Debug)]
enum Through {
    /// The durable consumer of the configuration. It is claimed, and it gets acks.
    Durable(ConsumerClaim),
    /// A temporary consumer of a replay, created at each start. It needs no acks, and does not touch the durable
    /// consumer.
    Ephemeral,
}

/// One pull. It begins when the consumer is reset or created.
struct Pull {
    consumer: String,
    /// `None` after the pull was stopped.
    messages: Option<pull::Stream>,
    connects: u64,
    next_consumer_seq: u64,
    last_stream_seq: u64,
    pending: u64,
    last_reply: Option<Subject>,
    /// Batches that are being written: the last sequence of each batch, and the subject for its ack.
    unacked: VecDeque<(u64, Subject)>,
}

impl std::fmt::Debug for Pull {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pull").field("last_stream_seq", &self.last_stream_seq).finish_non_exhaustive()
    }
}

impl Source {
    /// Makes a source that reads through the durable consumer. One pull asks for as much as a batch takes.
    pub fn live(connection: Connection, config: config::Stream, batch: BatchLimits, instance: Instance) -> Self {
        Self::through(Through::Durable(ConsumerClaim::of(instance)), connection, config, batch)
    }

    /// Makes a source for a replay, which reads earlier messages again beside the live reader. It never creates the
    /// stream.
    pub fn replay(connection: Connection, config: config::Stream, batch: BatchLimits) -> Self {
        Self::through(Through::Ephemeral, connection, config::Stream { create: false, ..config }, batch)
    }

    fn through(through: Through, connection: Connection, config: config::Stream, batch: BatchLimits) -> Self {
        Self { batch, is_paused: false, connection, config, through, missing_since: None, pull: None }
    }

    /// Returns the state of the stream. Creates a missing stream if `stream.create` is true. A missing stream that
    /// the database has read before is created only if `new_epoch` is true.
    ///
    /// # Errors
    /// If the lookup fails, or the stream is missing and may not be created.
    pub async fn stream_state(
        &mut self,
        position: Option<&Position>,
        new_epoch: bool,
    ) -> Result<StreamState, NatsError> {
        let stream = match lookup::find(&self.connection.jetstream(), &self.config.name).await? {
            Found::Stream(stream) => *stream,
            Found::Missing => self.missing(position, new_epoch).await?,
        };
        self.missing_since = None;
        lookup::state(&self.connection.jetstream(), &stream, position).await
    }

    async fn missing(&mut self, position: Option<&Position>, new_epoch: bool) -> Result<Stream, NatsError> {
        let name = &self.config.name;
        let since = *self.missing_since.get_or_insert_with(Instant::now);
        let last_read = position.filter(|position| position.stream == *name);
        if let Some(position) = last_read {
            if since.elapsed() < MISSING_PATIENCE {
                return Err(NatsError::missing_yet(format!("stream {name}"), ""));
            }
            if !new_epoch {
                return Err(StreamRefusal::Deleted { stream: name.clone(), last_seq: position.last_seq }.into());
            }
        }
        if !self.config.create {
            let hint = "; create it, or set stream.create = true".to_owned();
            return Err(NatsError::Missing { what: format!("stream {name}"), hint, may_come: false });
        }
        stream::create_ingest(&self.connection.jetstream(), &self.config).await
    }

    /// Claims the consumer, resets it to the sequence after `position`, and begins to pull. A replay creates its own
    /// consumer there instead.
    ///
    /// # Errors
    /// If a request fails, another reader is active, or the stream is not the one of `position`.
    pub async fn start(&mut self, position: &Position) -> Result<(), NatsError> {
        self.pull = None;
        let stream = self
            .connection
            .jetstream()
            .get_stream(&self.config.name)
            .await
            .map_err(|error| NatsError::request("cannot open the stream", error))?;
        let connects = *self.connection.connects().borrow();
        let next_seq = position.last_seq + 1;
        let consumer = match &mut self.through {
            Through::Durable(claim) => {
                // The batches of a transaction, and those that are read meanwhile.
                let batches = MAX_BATCHES + 3;
                let max_ack_pending = i64::try_from(self.batch.max_messages.saturating_mul(batches));
                claim.take_over(&stream, &self.config, max_ack_pending.unwrap_or(i64::MAX), next_seq).await?
            }
            Through::Ephemeral => replay_consumer::create_at(&stream, next_seq).await?,
        };
        // The stream may have been recreated: then the consumer belongs to the new stream, and the position to the
        // old one.
        let info =
            stream.get_info().await.map_err(|error| NatsError::request("cannot read the stream's state", error))?;
        if nanos(info.created) != position.stream_created_ns {
            return Err(NatsError::Recreated { stream: self.config.name.clone() });
        }
        // A pull with a byte limit never brings a message that is larger than the limit.
        let max_message_bytes = self.connection.max_payload_bytes() * 2;
        let messages = consumer
            .stream()
            .max_messages_per_batch(self.batch.max_messages)
            .max_bytes_per_batch(self.batch.max_bytes.max(max_message_bytes))
            .expires(PULL_EXPIRY)
            .heartbeat(HEARTBEAT)
            .messages()
            .await
            .map_err(|error| NatsError::request("cannot pull", error))?;
        self.pull = Some(Pull {
            consumer: consumer.cached_info().name.clone(),
            messages: Some(messages),
            connects,
            next_consumer_seq: 1,
            last_stream_seq: position.last_seq,
            pending: consumer.cached_info().num_pending,
            last_reply: None,
            unacked: VecDeque::new(),
        });
        Ok(())
    }

    /// Returns a counter that changes when the connection is lost. Messages in flight are then lost too.
    pub fn connection_losses(&self) -> watch::Receiver<u64> {
        self.connection.losses()
    }

    /// Returns a counter that changes when the connection is back.
    pub fn connection_returns(&self) -> watch::Receiver<u64> {
        self.connection.connects()
    }

    /// Returns the next message. The future may be dropped before it is ready: no message is lost.
    ///
    /// # Errors
    /// [`Interrupted`]: the messages delivered before it are complete. Continue with [`Source::start`].
    pub async fn next(&mut self) -> Result<Delivery, Interrupted> {
        let not_started = || Interrupted::Failed("the source was not started".into());
        let pull = self.pull.as_mut().ok_or_else(not_started)?;
        let messages = pull.messages.as_mut().ok_or_else(not_started)?;
        loop {
            let message = match messages.next().await {
                Some(Ok(message)) => message,
                Some(Err(error)) if error.kind() == MessagesErrorKind::ConsumerDeleted => {
                    return Err(Interrupted::Failed("the consumer was deleted".into()));
                }
                Some(Err(error)) => return Err(Interrupted::Failed(error.to_string())),
                None => return Err(Interrupted::Failed("the pull ended".into())),
            };
            let info = message.info().map_err(|error| Interrupted::Failed(error.to_string()))?;
            let expected = pull.next_consumer_seq;
            if info.consumer_sequence != expected {
                let found = info.consumer_sequence;
                let is_reset = found < expected && pull.connects == *self.connection.connects().borrow();
                return Err(if is_reset { self.why_reset() } else { Interrupted::Lost { found, expected } });
            }
            pull.next_consumer_seq += 1;
            pull.pending = info.pending;
            // The server redelivered this message after ack_wait. It was read before.
            if info.stream_sequence <= pull.last_stream_seq {
                continue;
            }
            pull.last_stream_seq = info.stream_sequence;
            let (stream_sequence, recv_ns) = (info.stream_sequence, nanos(info.published));
            let async_nats::Message { subject, payload, reply, length: size_bytes, .. } = message.message;
            pull.last_reply = reply;
            return Ok(Delivery { subject: subject.into_string(), payload, size_bytes, stream_sequence, recv_ns });
        }
    }

    /// Stops the pull, which would otherwise continue by itself when the connection is back. Delivered messages can
    /// still be acknowledged.
    pub fn stop_pulling(&mut self) {
        if let Some(pull) = &mut self.pull {
            pull.messages = None;
        }
    }

    /// Finds out why no message arrives. Logs when the consumer was paused or resumed.
    pub async fn silence(&mut self) -> Silence {
        let Some(pull) = &self.pull else { return Silence::Quiet };
        let Some(info) = consumer::look(&self.connection, &self.config.name, &pull.consumer).await else {
            return Silence::Quiet;
        };
        if info.paused != self.is_paused {
            self.is_paused = info.paused;
            let name = &pull.consumer;
            tracing::warn!("consumer {name} was {}", if info.paused { "paused: nothing is read" } else { "resumed" });
        }
        if info.delivered.consumer_sequence >= pull.next_consumer_seq {
            Silence::TailLost
        } else if info.num_pending > 0 && !info.paused {
            Silence::Stalled
        } else {
            Silence::Quiet
        }
    }

    /// Reads the single next message after `position` without the consumer, so it also returns a message that cannot
    /// be delivered. Returns `None` at the end of the stream.
    ///
    /// # Errors
    /// If the request fails.
    pub async fn fetch_after(&mut self, position: &Position) -> Result<Option<Delivery>, NatsError> {
        fetch::from(&self.connection.jetstream(), &self.config.name, position.last_seq + 1).await
    }

    /// Makes sure that undelivered sequences are gone from the stream, and sets the reason of the batch's gaps.
    ///
    /// # Errors
    /// If they may still be in the stream. Then the batch must not be kept.
    pub async fn vouch_for(&self, batch: &mut Batch) -> Result<(), NatsError> {
        // In a replay, the stored rows stand for these messages.
        if matches!(self.through, Through::Ephemeral) {
            return Ok(());
        }
        batch.reason_gaps(consumer::vouch_for_gaps(&self.connection, &self.config).await?);
        Ok(())
    }

    /// Makes a new client if the old one has died.
    ///
    /// # Errors
    /// If the new client cannot connect.
    pub async fn revive(&mut self) -> Result<(), NatsError> {
        self.connection.revive_if_dead().await
    }

    fn why_reset(&mut self) -> Interrupted {
        match &mut self.through {
            Through::Durable(claim) => match claim.saw_reset() {
                ResetBy::Us => Interrupted::Failed("an earlier reset without an answer took effect late".into()),
                ResetBy::Others => Interrupted::ForeignReset,
            },
            Through::Ephemeral => Interrupted::ForeignReset,
        }
    }

    /// Whether the stream held more messages when the last one was delivered.
    pub fn has_backlog(&self) -> bool {
        self.pull.as_ref().is_some_and(|pull| pull.pending > 0)
    }

    /// Returns how many messages the stream held after the last delivered one, as of that delivery.
    pub fn pending(&self) -> u64 {
        self.pull.as_ref().map_or(0, |pull| pull.pending)
    }

    /// Remembers that the messages delivered so far end a batch that is about to be committed.
    pub fn mark_batch(&mut self) {
        if let Some(pull) = &mut self.pull
            && let Some(reply) = pull.last_reply.take()
            && matches!(self.through, Through::Durable(_))
        {
            pull.unacked.push_back((pull.last_stream_seq, reply));
        }
    }

    /// Sends one ack for all committed messages, on the last of them. A lost ack does no harm: the position is in the
    /// database.
    pub async fn ack(&mut self, receipt: &CommitReceipt) {
        let Some(pull) = &mut self.pull else { return };
        let committed_seq = receipt.position().last_seq;
        let mut reply = None;
        while pull.unacked.front().is_some_and(|(seq, _)| *seq <= committed_seq) {
            reply = pull.unacked.pop_front();
        }
        if let Some((_, reply)) = reply
            && let Err(error) = self.connection.client().publish(reply, Bytes::new()).await
        {
            tracing::debug!("ack not sent: {error}");
        }
    }
}
