//! Publishes the messages of a producer, with many acks outstanding. Each message is tried again until it is
//! acknowledged.
//!
//! A [`Publisher`] hands messages to a [`window`]. The window's one task sends the messages in the order of arrival,
//! and tries again. The stream drops a copy of a stored message by its `Nats-Msg-Id`; later copies are dropped by a
//! worker, by id.

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

/// The longest patience. Nobody waits longer, and the clock can still represent the deadlines.
const MAX_PATIENCE: Duration = Duration::from_secs(86_400);

/// Options of a [`Publisher`].
#[derive(Debug, Clone)]
pub struct PublisherOptions {
    /// `stream.prefix`: messages go to `<prefix>.events`, `<prefix>.metrics`, `<prefix>.sessions`.
    pub prefix: String,
    /// Maximum number of messages without an ack, 1 to 16,384. Further messages wait.
    pub max_in_flight: u32,
    /// Maximum number of bytes in these messages, which are kept in memory to be sent again.
    pub max_in_flight_bytes: u32,
    /// How long a message may take from [`Publisher::publish`] to its ack, all tries together; a day at most. After
    /// that time the message is handed back.
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

/// Publishes events, metrics and session messages. Clones share the connection and the window.
#[derive(Debug, Clone)]
pub struct Publisher {
    options: Arc<PublisherOptions>,
    window: mpsc::UnboundedSender<Handed>,
    messages: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
}

/// The stream's ack of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acknowledged {
    /// The sequence of the message in the stream.
    pub sequence: u64,
    /// Whether the stream knew the message's `Nats-Msg-Id` before the first try. Always false after more than one
    /// try: then the stream may know the id from an earlier try.
    pub is_duplicate: bool,
}

/// Why a message was not published.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishFailure {
    /// No worker could accept such a message.
    #[error("{0}")]
    Invalid(String),
    /// The server takes no message of this size. Another try does not help.
    #[error("{0}")]
    TooLarge(String),
    /// No place was free in the window.
    #[error("the window of {max_in_flight} messages stayed full for {patience:?}; is nats-server running?")]
    WindowFull {
        /// The size of the window, in messages.
        max_in_flight: u32,
        /// How long the message waited for a place in the window.
        patience: Duration,
    },
    /// Nobody acknowledged the message. It may still be in the stream; it is safe to publish it again with the same
    /// id.
    #[error("not acknowledged within {patience:?}: {last}")]
    NotAcknowledged {
        /// How long the publisher tried.
        patience: Duration,
        /// The error of the last try.
        last: String,
    },
    /// The runtime that the publisher was made in has ended.
    #[error("the publisher's runtime has ended")]
    Stopped,
}

/// A message that was not published and is handed back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{error}")]
pub struct Unsent<M> {
    /// The message.
    pub message: M,
    /// The reason why it was not published.
    pub error: PublishFailure,
}

/// A future of a message's ack. The message is sent even if nobody awaits the receipt. But only a caller that awaits
/// it learns of a missing ack.
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
    /// If it is polled again after it was ready, as any future may.
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
    /// Connects without credentials files or TLS. For these, make a [`Connection`] from a [`config::Nats`], and call
    /// [`Publisher::new`].
    ///
    /// # Errors
    /// If the server cannot be reached, does not admit the client, or is too old.
    pub async fn connect(url: &str, options: PublisherOptions) -> Result<Self, NatsError> {
        Ok(Self::new(connect_once(&config::Nats::at(url)).await?, options))
    }

    /// Makes a publisher on a connection. Call it inside a tokio runtime, which runs the task that sends.
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

    /// Hands a message to the window, which sends it. Waits while the window is full. [`PublisherOptions::patience`]
    /// begins with this call.
    ///
    /// # Errors
    /// [`Unsent`] hands the message back if it cannot be sent. Then nothing was sent.
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

    /// Waits until every earlier message is acknowledged or handed back. This takes at most
    /// [`PublisherOptions::patience`]. Call it before the runtime ends.
    pub async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        if self.window.send(Handed::Flush(done)).is_ok() {
            let _ = flushed.await;
        }
    }

    /// Waits for a message's places in the window: one message, and its bytes.
    async fn places(&self, size_bytes: usize) -> [Option<OwnedSemaphorePermit>; 2] {
        // A message that is larger than the window takes all bytes of the window.
        let size_bytes = u32::try_from(size_bytes).unwrap_or(u32::MAX).min(self.options.max_in_flight_bytes);
        // The semaphores are never closed.
        [
            Arc::clone(&self.messages).acquire_owned().await.ok(),
            Arc::clone(&self.bytes).acquire_many_owned(size_bytes).await.ok(),
        ]
    }
}
