//! A producer: publishes messages with many acks outstanding, and tries again until each is acknowledged.
//!
//! A [`Publisher`] hands messages to a [`window`], whose one task sends them, in the order in which they came, and tries
//! again. What the stream stored already it drops, by `Nats-Msg-Id`, and after that a worker does, by id.

mod acks;
mod outgoing;
mod window;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

pub use outgoing::{Outgoing, Publishable};

use self::window::{Handed, OutgoingMessage, Window};
use super::connect::{Connection, MAX_ACK_INFLIGHT, connect_once};
use super::error::NatsError;
use crate::config;

/// Longer than anybody waits; keeps deadlines within what the clock can say.
const MAX_PATIENCE: Duration = Duration::from_secs(86_400);

/// How a [`Publisher`] publishes.
#[derive(Debug, Clone)]
pub struct PublisherOptions {
    /// `stream.prefix`: messages go to `<prefix>.events`, `<prefix>.metrics`, `<prefix>.sessions`.
    pub prefix: String,
    /// Messages that are not acknowledged yet, 1 to 16,384; more have to wait.
    pub max_in_flight: u32,
    /// Their bytes; they are kept to be sent again.
    pub max_in_flight_bytes: u32,
    /// How long a message may take from being handed over to being acknowledged, all tries together, before it is handed
    /// back; a day at most.
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
    window: mpsc::UnboundedSender<Handed>,
    messages: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
}

/// What the stream said of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acknowledged {
    /// Its sequence in the stream.
    pub sequence: u64,
    /// Whether the stream knew its `Nats-Msg-Id` already, from before the first try. False where it took more than one:
    /// then that cannot be told.
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
    answer: oneshot::Receiver<PublishResult>,
}

type PublishResult = Result<Acknowledged, PublishFailure>;

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
        options.max_in_flight = options.max_in_flight.clamp(1, MAX_ACK_INFLIGHT);
        options.patience = options.patience.min(MAX_PATIENCE);
        let (window, queue) = mpsc::unbounded_channel();
        tokio::spawn(Window::new(connection, &options).run(queue));
        Self {
            messages: Arc::new(Semaphore::new(options.max_in_flight as usize)),
            bytes: Arc::new(Semaphore::new(options.max_in_flight_bytes as usize)),
            options: Arc::new(options),
            window,
        }
    }

    /// Hands a message over to be sent. Waits while the window is full; [`PublisherOptions::patience`] begins now.
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
        match self.window.send(Handed::Message(OutgoingMessage { outgoing, deadline, answer, places })) {
            Ok(()) => Ok(Receipt { message: Some(message), answer: receipt }),
            Err(_) => Err(Unsent { message, error: PublishFailure::Stopped }),
        }
    }

    /// Waits until every message that was handed over before is acknowledged or handed back, which takes no longer than
    /// [`PublisherOptions::patience`]. To be called before the runtime ends.
    pub async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        if self.window.send(Handed::Flush(done)).is_ok() {
            let _ = flushed.await;
        }
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
