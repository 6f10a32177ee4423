//! A producer: publishes messages with many acks outstanding, and tries again until each is acknowledged.
//!
//! One task owns the window of messages that are not acknowledged, in the order in which they were handed over. It
//! awaits the oldest ack; where that one does not come, all that are not acknowledged are sent again, since what broke,
//! broke for all. The stream drops what it stored already, by `Nats-Msg-Id`, and after that the worker does, by id.

use std::collections::VecDeque;
use std::future::IntoFuture;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::publish::PublishAck;
use futures::FutureExt;
use futures::future::{BoxFuture, Fuse};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

use super::outgoing::{Outgoing, Publishable};
use super::{Backoff, Connection, NatsError, connect_once};
use crate::{config, subject};

/// How long the client may take to accept a message. It buffers; where the buffer is full, the connection hangs.
const SEND_PATIENCE: Duration = Duration::from_secs(1);
const NOT_CONNECTED: &str = "not connected to NATS";

/// How a [`Publisher`] publishes.
#[derive(Debug, Clone)]
pub struct PublisherOptions {
    /// `stream.prefix`: messages go to `<prefix>.events`, `<prefix>.metrics`, `<prefix>.sessions`.
    pub prefix: String,
    /// Messages that are not acknowledged yet; more have to wait.
    pub max_in_flight: u32,
    /// Their bytes; they are kept to be sent again.
    pub max_in_flight_bytes: u32,
    /// How long a message may take to be acknowledged, all tries together, before it is handed back; and how long
    /// handing it over may take.
    pub patience: Duration,
}

impl Default for PublisherOptions {
    fn default() -> Self {
        Self {
            prefix: "analytics".into(),
            max_in_flight: 4_000,
            max_in_flight_bytes: 32 << 20,
            patience: Duration::from_secs(60),
        }
    }
}

/// A producer of events, metrics and session messages. Clones share its connection and its window.
#[derive(Debug, Clone)]
pub struct Publisher {
    options: Arc<PublisherOptions>,
    jobs: mpsc::UnboundedSender<Job>,
    messages: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
}

/// What the stream said of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acknowledged {
    /// Its sequence in the stream.
    pub sequence: u64,
    /// Whether the stream knew its `Nats-Msg-Id` already: from an earlier try, or an earlier message.
    pub is_duplicate: bool,
}

/// Why a message was not published.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishFailure {
    /// No message that a worker could accept.
    #[error("{0}")]
    Invalid(String),
    /// The server takes no message of this size; sending it again does not help.
    #[error("{0}")]
    TooLarge(String),
    /// No place was free in the window.
    #[error("{max_in_flight} messages were waiting for their acks for {patience:?}; is nats-server there?")]
    WindowFull {
        /// The window.
        max_in_flight: u32,
        /// How long this one waited for a place in it.
        patience: Duration,
    },
    /// Nobody acknowledged it. It may be in the stream nevertheless: publishing it again, with the same id, is safe.
    #[error("not acknowledged within {patience:?}: {last}")]
    NotAcknowledged {
        /// How long was tried.
        patience: Duration,
        /// What the last try said.
        last: String,
    },
    /// The runtime that the publisher was made in has ended.
    #[error("the publisher's runtime has ended")]
    Stopped,
}

/// A message that was not published, handed back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{error}")]
pub struct Unsent<M> {
    /// The message.
    pub message: M,
    /// Why.
    pub error: PublishFailure,
}

/// A message that was handed over: a future of its ack. It is sent whether this is awaited or not; but only who awaits
/// it learns that it was not acknowledged.
#[derive(Debug)]
#[must_use = "a message that cannot be published is handed back here"]
pub struct Receipt<M> {
    message: Option<M>,
    answer: oneshot::Receiver<Answer>,
}

type Answer = Result<Acknowledged, PublishFailure>;

impl<M: Unpin> Future for Receipt<M> {
    type Output = Result<Acknowledged, Unsent<M>>;

    /// # Panics
    /// Where it is polled again after it was ready, as any future may.
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = match self.answer.poll_unpin(context) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(answer) => answer.unwrap_or(Err(PublishFailure::Stopped)),
        };
        let hand_back = |error| Unsent { message: self.message.take().expect("polled after it was ready"), error };
        Poll::Ready(answer.map_err(hand_back))
    }
}

impl Publisher {
    /// Connects without credentials and TLS; for those make a [`Connection`] of a [`config::Nats`].
    ///
    /// # Errors
    /// Where the server cannot be reached, or is too old.
    pub async fn connect(url: &str, options: PublisherOptions) -> Result<Self, NatsError> {
        Ok(Self::new(connect_once(&config::Nats::at(url)).await?, options))
    }

    /// Publishes on a connection. To be called within a tokio runtime, which does the sending.
    pub fn new(connection: Connection, mut options: PublisherOptions) -> Self {
        options.max_in_flight = options.max_in_flight.max(1);
        let (jobs, queue) = mpsc::unbounded_channel();
        let window = Window {
            jetstream: connection.jetstream(),
            connection,
            prefix: options.prefix.clone(),
            patience: options.patience,
            in_flight: VecDeque::new(),
            backoff: Backoff::default(),
        };
        tokio::spawn(window.run(queue));
        Self {
            messages: Arc::new(Semaphore::new(options.max_in_flight as usize)),
            bytes: Arc::new(Semaphore::new(options.max_in_flight_bytes as usize)),
            options: Arc::new(options),
            jobs,
        }
    }

    /// Hands a message over to be sent. Waits while the window is full, no longer than [`PublisherOptions::patience`].
    ///
    /// # Errors
    /// [`Unsent`] hands the message back where it cannot be sent; nothing was sent then.
    pub async fn publish<M: Publishable>(&self, message: M) -> Result<Receipt<M>, Unsent<M>> {
        let outgoing = match message.outgoing() {
            Ok(outgoing) => outgoing,
            Err(error) => return Err(Unsent { message, error: PublishFailure::Invalid(error) }),
        };
        let deadline = Instant::now() + self.options.patience;
        let Ok(places) = timeout_at(deadline, self.places(outgoing.payload.len())).await else {
            let PublisherOptions { max_in_flight, patience, .. } = *self.options;
            return Err(Unsent { message, error: PublishFailure::WindowFull { max_in_flight, patience } });
        };
        let (answer, receipt) = oneshot::channel();
        let deadline = Instant::now() + self.options.patience;
        match self.jobs.send(Job { outgoing, deadline, answer, _places: places }) {
            Ok(()) => Ok(Receipt { message: Some(message), answer: receipt }),
            Err(_) => Err(Unsent { message, error: PublishFailure::Stopped }),
        }
    }

    /// Waits until every message that was handed over before is acknowledged or handed back, which takes no longer than
    /// [`PublisherOptions::patience`] and a few seconds. What is handed over meanwhile, by clones, waits until then. To be
    /// called before the runtime ends.
    pub async fn flush(&self) {
        let _ = self.messages.acquire_many(self.options.max_in_flight).await;
    }

    /// A message's places in the window.
    async fn places(&self, size_bytes: usize) -> [Option<OwnedSemaphorePermit>; 2] {
        // A message that is larger than the window has it alone.
        let size_bytes = u32::try_from(size_bytes).unwrap_or(u32::MAX).min(self.options.max_in_flight_bytes);
        // The semaphores are never closed.
        [
            Arc::clone(&self.messages).acquire_owned().await.ok(),
            Arc::clone(&self.bytes).acquire_many_owned(size_bytes).await.ok(),
        ]
    }
}

/// A message on its way to the window.
#[derive(Debug)]
struct Job {
    outgoing: Outgoing,
    deadline: Instant,
    answer: oneshot::Sender<Answer>,
    /// Free again when the job is dropped.
    _places: [Option<OwnedSemaphorePermit>; 2],
}

/// The messages that are not acknowledged, oldest first. Deadlines are in the same order.
struct Window {
    connection: Connection,
    jetstream: jetstream::Context,
    prefix: String,
    patience: Duration,
    in_flight: VecDeque<InFlight>,
    backoff: Backoff,
}

struct InFlight {
    job: Job,
    ack: Ack,
}

/// Pending for ever once it was ready.
type Ack = Fuse<BoxFuture<'static, Result<PublishAck, PublishError>>>;

impl Window {
    /// Sends what comes, until all publishers are dropped and nothing is in flight.
    async fn run(mut self, mut queue: mpsc::UnboundedReceiver<Job>) {
        let mut is_open = true;
        while is_open || !self.in_flight.is_empty() {
            tokio::select! {
                biased;
                ack = oldest(&mut self.in_flight) => self.settle_oldest(ack).await,
                job = queue.recv(), if is_open => match job {
                    Some(job) => {
                        let ack = self.send(&job.outgoing).await.unwrap_or_else(|error| known(Err(error)));
                        self.in_flight.push_back(InFlight { job, ack });
                    }
                    None => is_open = false,
                },
            }
        }
    }

    async fn send(&mut self, outgoing: &Outgoing) -> Result<Ack, PublishError> {
        let passing = |why: &str| PublishError::with_source(PublishErrorKind::Other, why.to_owned());
        if !self.connection.is_connected() {
            return Err(passing(NOT_CONNECTED));
        }
        let mut publish = PublishMessage::build().payload(outgoing.payload.clone());
        if let Some(id) = &outgoing.message_id {
            publish = publish.message_id(id);
        }
        let subject = subject::publish(&self.prefix, outgoing.kind);
        match timeout(SEND_PATIENCE, self.jetstream.send_publish(subject, publish)).await {
            Ok(sent) => Ok(sent?.into_future().fuse()),
            Err(_) => Err(passing("the connection takes no more messages")),
        }
    }

    /// The oldest message is acknowledged, or not in time, or not this time.
    async fn settle_oldest(&mut self, ack: Result<PublishAck, PublishError>) {
        let Some(oldest) = self.in_flight.front() else { return };
        let answer = match ack {
            Ok(ack) => Ok(Acknowledged { sequence: ack.sequence, is_duplicate: ack.duplicate }),
            Err(error) if error.kind() == PublishErrorKind::MaxPayloadExceeded => {
                Err(PublishFailure::TooLarge(error.to_string()))
            }
            // All else may pass: a leader's change even answers "stream not found".
            Err(error) if Instant::now() < oldest.job.deadline => return self.send_again(&error).await,
            Err(error) => {
                let last = if self.connection.is_connected() { describe(&error) } else { NOT_CONNECTED.into() };
                Err(PublishFailure::NotAcknowledged { patience: self.patience, last })
            }
        };
        if answer.is_ok() {
            self.backoff.reset();
        }
        let Some(InFlight { job, .. }) = self.in_flight.pop_front() else { return };
        if let Err(Err(error)) = job.answer.send(answer) {
            let id = job.outgoing.message_id;
            tracing::warn!(id, "a message was not published, and nobody waits for its receipt: {error}");
        }
    }

    /// After a pause, sends again what is not acknowledged by then.
    async fn send_again(&mut self, why: &PublishError) {
        let delay = self.backoff.next_delay();
        let why = describe(why);
        tracing::debug!(in_flight = self.in_flight.len(), retry_in_ms = delay.as_millis(), "trying again: {why}");
        let mut returns = self.connection.connects();
        let deadline = self.in_flight.front().map(|oldest| oldest.job.deadline);
        let until = deadline.unwrap_or_else(Instant::now).min(Instant::now() + delay);
        let _ = timeout_at(until, returns.changed()).await;
        self.jetstream = self.connection.jetstream();
        let mut can_send = true;
        for mut message in std::mem::take(&mut self.in_flight) {
            message.ack = match (&mut message.ack).now_or_never() {
                Some(Ok(ack)) => known(Ok(ack)),
                Some(Err(error)) if error.kind() == PublishErrorKind::MaxPayloadExceeded => known(Err(error)),
                // A client that takes one message no more takes no other.
                _ if !can_send => known(Err(PublishError::with_source(PublishErrorKind::Other, why.clone()))),
                _ => self.send(&message.job.outgoing).await.unwrap_or_else(|error| {
                    can_send = error.kind() == PublishErrorKind::MaxPayloadExceeded;
                    known(Err(error))
                }),
            };
            self.in_flight.push_back(message);
        }
    }
}

fn known(result: Result<PublishAck, PublishError>) -> Ack {
    std::future::ready(result).boxed().fuse()
}

/// The oldest message's ack, once it is there or its time is over; never where there is none.
async fn oldest(in_flight: &mut VecDeque<InFlight>) -> Result<PublishAck, PublishError> {
    match in_flight.front_mut() {
        None => std::future::pending().await,
        Some(InFlight { ack, job }) => {
            let in_time = timeout_at(job.deadline, ack).await;
            in_time.unwrap_or_else(|_| Err(PublishError::new(PublishErrorKind::TimedOut)))
        }
    }
}

fn describe(error: &PublishError) -> String {
    match error.kind() {
        PublishErrorKind::StreamNotFound => "no stream took it (stream not found)".into(),
        _ => error.to_string(),
    }
}
