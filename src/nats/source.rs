//! The source: messages of the stream in order, none left out, from where the database stands.
//!
//! A watermark of acks alone loses messages: after a reconnect a pull brings the next new ones, and acknowledging them
//! acknowledges those that were on their way when the connection broke. So the consumer is reset to the database's
//! position at every start, and from there its sequences must be 1, 2, 3, ...; any break means to start again.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use async_nats::Subject;
use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::consumer::pull::{self, MessagesErrorKind};
use async_nats::jetstream::stream::Stream;
use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::watch;

use super::consumer::{self, Instance, PULL_EXPIRY};
use super::stream::{self, Found, nanos};
use super::{Connection, NatsError, fetch};
use crate::config;
use crate::judge::{Batch, BatchLimits, Delivery};
use crate::position::{Position, Refusal, StreamState};
use crate::store::{Committed, MAX_BATCHES};

const HEARTBEAT: Duration = Duration::from_secs(2);
/// A stream that is missing for so long was deleted; before, a leader may be changing.
const MISSING_PATIENCE: Duration = Duration::from_secs(5);
/// Resets that nobody here sent, within the window: then two readers fight.
const MAX_FOREIGN_RESETS: usize = 3;
const FOREIGN_RESETS_WINDOW: Duration = Duration::from_secs(60);

/// Why reading stopped. All are mended by starting again.
#[derive(Debug, thiserror::Error)]
pub enum Interrupted {
    /// The connection, the server or the consumer failed.
    #[error("reading stopped: {0}")]
    Failed(String),
    /// Messages were lost between server and client.
    #[error("messages were lost on the way: consumer sequence {found} came where {expected} was due")]
    Lost {
        /// What came.
        found: u64,
        /// What was due.
        expected: u64,
    },
    /// Somebody else reset the consumer.
    #[error("the consumer was reset by somebody else")]
    ForeignReset,
}

/// Why nothing comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Silence {
    /// There is nothing, as far as can be told.
    Quiet,
    /// The consumer has delivered messages that did not arrive. Where they were the stream's last, no later one tells,
    /// and the server's heartbeats go on.
    TailLost,
    /// There are messages that are not delivered, such as one that is larger than a pull may be.
    Stalled,
}

/// Reads the stream.
#[derive(Debug)]
pub struct Source {
    connection: Connection,
    config: config::Stream,
    /// None where it replays: through a consumer of its own, which needs no acks and leaves the durable one alone.
    instance: Option<Instance>,
    batch: BatchLimits,
    is_paused: bool,
    missing_since: Option<Instant>,
    foreign_resets: VecDeque<Instant>,
    unanswered_resets: u32,
    reading: Option<Reading>,
}

/// One pull, from one reset on.
struct Reading {
    /// None once it is stopped.
    messages: Option<pull::Stream>,
    connects: u64,
    next_consumer_seq: u64,
    last_stream_seq: u64,
    pending: u64,
    last_reply: Option<Subject>,
    /// Replies to batches that are being written: the batch's last sequence, and where its ack goes.
    unacked: VecDeque<(u64, Subject)>,
}

impl std::fmt::Debug for Reading {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reading").field("last_stream_seq", &self.last_stream_seq).finish_non_exhaustive()
    }
}

impl Source {
    /// A source that asks for as much at once as a batch takes.
    pub fn new(connection: Connection, config: config::Stream, batch: BatchLimits, instance: Instance) -> Self {
        Self::of(connection, config, batch, Some(instance))
    }

    /// A source that reads what a database has read before, beside whoever reads now.
    pub fn replay(connection: Connection, config: config::Stream, batch: BatchLimits) -> Self {
        Self::of(connection, config::Stream { create: false, ..config }, batch, None)
    }

    fn of(connection: Connection, config: config::Stream, batch: BatchLimits, instance: Option<Instance>) -> Self {
        Self {
            batch,
            is_paused: false,
            connection,
            config,
            instance,
            missing_since: None,
            foreign_resets: VecDeque::new(),
            unanswered_resets: 0,
            reading: None,
        }
    }

    /// What the stream says of itself. A stream that is missing is made, unless it has been read before.
    ///
    /// # Errors
    /// Where it cannot be asked, or is gone.
    pub async fn stream_state(
        &mut self,
        position: Option<&Position>,
        new_epoch: bool,
    ) -> Result<StreamState, NatsError> {
        let stream = match stream::find(&self.connection.jetstream(), &self.config.name).await? {
            Found::Stream(stream) => *stream,
            Found::Missing => self.missing(position, new_epoch).await?,
        };
        self.missing_since = None;
        stream::state(&self.connection.jetstream(), &stream, position).await
    }

    async fn missing(&mut self, position: Option<&Position>, new_epoch: bool) -> Result<Stream, NatsError> {
        let name = &self.config.name;
        let since = *self.missing_since.get_or_insert_with(Instant::now);
        let last_read = position.filter(|position| position.stream == *name);
        if let Some(position) = last_read {
            if since.elapsed() < MISSING_PATIENCE {
                return Err(NatsError::Transient(format!("stream {name} is missing")));
            }
            if !new_epoch {
                return Err(Refusal::Deleted { stream: name.clone(), last_seq: position.last_seq }.into());
            }
        }
        if !self.config.create {
            return Err(NatsError::Fatal(format!(
                "stream {name} does not exist; create it, or set stream.create = true"
            )));
        }
        stream::create_ingest(&self.connection.jetstream(), &self.config).await
    }

    /// Claims the consumer, puts it after `position`, and begins to pull.
    ///
    /// # Errors
    /// Where that fails, or another reader is there.
    pub async fn start(&mut self, position: &Position) -> Result<(), NatsError> {
        self.reading = None;
        let stream = self
            .connection
            .jetstream()
            .get_stream(&self.config.name)
            .await
            .map_err(|error| NatsError::transient("cannot open the stream", error))?;
        let connects = *self.connection.connects().borrow();
        let consumer = match self.instance.clone() {
            Some(instance) => self.take_over(&stream, &instance, position.last_seq + 1).await?,
            None => {
                let consumer = consumer::ephemeral(&stream, position.last_seq + 1).await?;
                self.config.consumer.clone_from(&consumer.cached_info().name);
                consumer
            }
        };
        // The consumer may have been made in a stream that took the place of the one whose position this is.
        let info =
            stream.get_info().await.map_err(|error| NatsError::transient("cannot read the stream's state", error))?;
        if nanos(info.created) != position.stream_created_ns {
            return Err(NatsError::Transient("the stream was recreated".into()));
        }
        // A pull by bytes never brings a message that is larger than the pull.
        let max_message_bytes = self.connection.max_payload_bytes() * 2;
        let messages = consumer
            .stream()
            .max_messages_per_batch(self.batch.max_messages)
            .max_bytes_per_batch(self.batch.max_bytes.max(max_message_bytes))
            .expires(PULL_EXPIRY)
            .heartbeat(HEARTBEAT)
            .messages()
            .await
            .map_err(|error| NatsError::transient("cannot pull", error))?;
        self.reading = Some(Reading {
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

    /// Claims the durable consumer, and puts it before a sequence.
    async fn take_over(&mut self, stream: &Stream, instance: &Instance, seq: u64) -> Result<PullConsumer, NatsError> {
        self.stop_where_fought_over(stream, instance).await?;
        // What a transaction takes, and what is read meanwhile.
        let batches = MAX_BATCHES + 3;
        let max_ack_pending = i64::try_from(self.batch.max_messages.saturating_mul(batches)).unwrap_or(i64::MAX);
        let mut consumer = consumer::claim(stream, &self.config, max_ack_pending, instance).await?;
        self.reset(&mut consumer, seq).await?;
        Ok(consumer)
    }

    async fn reset(&mut self, consumer: &mut PullConsumer, to_seq: u64) -> Result<(), NatsError> {
        // Without an answer it may take effect all the same, later.
        self.unanswered_resets += 1;
        let what = format!("cannot reset the consumer to sequence {to_seq}");
        consumer.reset(Some(to_seq)).await.map_err(|error| NatsError::transient(&what, error))?;
        self.unanswered_resets -= 1;
        Ok(())
    }

    async fn stop_where_fought_over(&mut self, stream: &Stream, instance: &Instance) -> Result<(), NatsError> {
        self.foreign_resets.retain(|at| at.elapsed() < FOREIGN_RESETS_WINDOW);
        if self.foreign_resets.len() < MAX_FOREIGN_RESETS {
            return Ok(());
        }
        let other = consumer::other_reader(stream, &self.config.consumer, instance).await;
        Err(consumer::fought_over(&self.config, other.as_ref()))
    }

    /// Changes when the connection is lost, and with it what was on its way.
    pub fn connection_losses(&self) -> watch::Receiver<u64> {
        self.connection.losses()
    }

    /// Changes when the connection is there again.
    pub fn connection_returns(&self) -> watch::Receiver<u64> {
        self.connection.connects()
    }

    /// The next message. Safe to drop before it is ready.
    ///
    /// # Errors
    /// [`Interrupted`]: what was delivered before is whole; go on with [`Source::start`].
    pub async fn next(&mut self) -> Result<Delivery, Interrupted> {
        let not_started = || Interrupted::Failed("not started".into());
        let reading = self.reading.as_mut().ok_or_else(not_started)?;
        let messages = reading.messages.as_mut().ok_or_else(not_started)?;
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
            let expected = reading.next_consumer_seq;
            if info.consumer_sequence != expected {
                let found = info.consumer_sequence;
                let is_reset = found < expected && reading.connects == *self.connection.connects().borrow();
                return Err(if is_reset { self.foreign_reset() } else { Interrupted::Lost { found, expected } });
            }
            reading.next_consumer_seq += 1;
            reading.pending = info.pending;
            // Redelivered after ack_wait: it was read before.
            if info.stream_sequence <= reading.last_stream_seq {
                continue;
            }
            reading.last_stream_seq = info.stream_sequence;
            let (stream_sequence, recv_ns) = (info.stream_sequence, nanos(info.published));
            let async_nats::Message { subject, payload, reply, length: size_bytes, .. } = message.message;
            reading.last_reply = reply;
            return Ok(Delivery { subject: subject.into_string(), payload, size_bytes, stream_sequence, recv_ns });
        }
    }

    /// Stops the pull. Left alone it would pull again by itself when the connection is back. What was delivered can
    /// still be acknowledged.
    pub fn stop_pulling(&mut self) {
        if let Some(reading) = &mut self.reading {
            reading.messages = None;
        }
    }

    /// Looked at when nothing comes: why that may be.
    pub async fn silence(&mut self) -> Silence {
        let Some(reading) = &self.reading else { return Silence::Quiet };
        let Some(info) = consumer::look(&self.connection, &self.config).await else { return Silence::Quiet };
        if info.paused != self.is_paused {
            self.is_paused = info.paused;
            let name = &self.config.consumer;
            tracing::warn!("consumer {name} was {}", if info.paused { "paused: nothing is read" } else { "resumed" });
        }
        if info.delivered.consumer_sequence >= reading.next_consumer_seq {
            Silence::TailLost
        } else if info.num_pending > 0 && !info.paused {
            Silence::Stalled
        } else {
            Silence::Quiet
        }
    }

    /// Reads the next message after a position by itself, whatever keeps it from being delivered.
    ///
    /// # Errors
    /// Where it cannot be asked for.
    pub async fn fetch_after(&mut self, position: &Position) -> Result<Option<Delivery>, NatsError> {
        fetch::from(&self.connection.jetstream(), &self.config.name, position.last_seq + 1).await
    }

    /// Makes sure that sequences which were not delivered are gone from the stream, and tells how they went.
    ///
    /// # Errors
    /// Where they may not be gone; what was read around them is not to be kept.
    pub async fn vouch_for(&self, batch: &mut Batch) -> Result<(), NatsError> {
        // In a replay the stored rows stand for them.
        if self.instance.is_none() {
            return Ok(());
        }
        batch.reason_gaps(consumer::vouch_for_gaps(&self.connection, &self.config).await?);
        Ok(())
    }

    /// Makes a new client where the old one has died.
    ///
    /// # Errors
    /// Where the server cannot be reached.
    pub async fn revive(&mut self) -> Result<(), NatsError> {
        self.connection.revive_if_dead().await
    }

    fn foreign_reset(&mut self) -> Interrupted {
        if self.unanswered_resets > 0 {
            self.unanswered_resets -= 1;
            return Interrupted::Failed("a reset that was not answered took effect late".into());
        }
        self.foreign_resets.push_back(Instant::now());
        Interrupted::ForeignReset
    }

    /// Whether the stream holds more than was delivered when the last message was.
    pub fn has_backlog(&self) -> bool {
        self.reading.as_ref().is_some_and(|reading| reading.pending > 0)
    }

    /// Messages in the stream after the last one delivered, as of then.
    pub fn pending(&self) -> u64 {
        self.reading.as_ref().map_or(0, |reading| reading.pending)
    }

    /// Remembers that what was delivered so far is about to be committed together.
    pub fn mark_batch(&mut self) {
        if let Some(reading) = &mut self.reading
            && let Some(reply) = reading.last_reply.take()
            && self.instance.is_some()
        {
            reading.unacked.push_back((reading.last_stream_seq, reply));
        }
    }

    /// Acknowledges what is committed, once, for the last message. An ack that is lost does no harm: the position is in
    /// the database.
    pub async fn ack(&mut self, committed: &Committed) {
        let Some(reading) = &mut self.reading else { return };
        let committed_seq = committed.position().last_seq;
        let mut reply = None;
        while reading.unacked.front().is_some_and(|(seq, _)| *seq <= committed_seq) {
            reply = reading.unacked.pop_front();
        }
        if let Some((_, reply)) = reply
            && let Err(error) = self.connection.client().publish(reply, Bytes::new()).await
        {
            tracing::debug!("ack not sent: {error}");
        }
    }
}
