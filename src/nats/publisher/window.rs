//! The window: messages that are not acknowledged, oldest first, and the one task that owns them.
//!
//! Acks are awaited in order. Where one fails, it is the connection or the stream as a rule, so after a pause all that
//! are not acknowledged are sent again; when the connection is back, at once.

use std::collections::VecDeque;
use std::future::IntoFuture;
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::publish::PublishAck;
use futures::FutureExt;
use futures::future::{BoxFuture, Fuse};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::{Acknowledged, Answer, Outgoing, PublishFailure, PublisherOptions};
use crate::nats::{Backoff, Connection};
use crate::subject;

/// How long the client may take to accept a message. It buffers; where the buffer is full, the connection hangs.
const SEND_PATIENCE: Duration = Duration::from_secs(1);
const NOT_CONNECTED: &str = "not connected to NATS";

/// What a publisher hands to its window.
#[derive(Debug)]
pub(super) enum Handed {
    Message(Job),
    /// To be told when everything before is settled.
    Flush(oneshot::Sender<()>),
}

/// A message on its way.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) outgoing: Outgoing,
    /// When it is handed back. In the order of handing over, but for clones that overtake each other.
    pub(super) deadline: Instant,
    pub(super) answer: oneshot::Sender<Answer>,
    /// Its places in the window; free again when the job is dropped.
    pub(super) places: [Option<OwnedSemaphorePermit>; 2],
}

pub(super) struct Window {
    connection: Connection,
    jetstream: jetstream::Context,
    prefix: String,
    patience: Duration,
    entries: VecDeque<Entry>,
    /// When to send again, where something failed. Until then nothing new is sent either.
    retry_at: Option<Instant>,
    backoff: Backoff,
}

enum Entry {
    Message(Box<InFlight>),
    Flush(oneshot::Sender<()>),
}

struct InFlight {
    job: Job,
    /// None where it is to be sent, or sent again.
    ack: Option<Ack>,
    tries: u32,
    /// What the last answer said.
    last_error: Option<String>,
}

impl InFlight {
    /// Keeps what the last answer said; that none came says less than one that did.
    fn note(&mut self, error: &PublishError) {
        if error.kind() != PublishErrorKind::TimedOut {
            self.last_error = Some(describe(error));
        }
    }
}

/// Pending for ever once it was ready.
type Ack = Fuse<BoxFuture<'static, Result<PublishAck, PublishError>>>;

impl Window {
    pub(super) fn new(connection: Connection, options: &PublisherOptions) -> Self {
        Self {
            jetstream: connection.jetstream(),
            connection,
            prefix: options.prefix.clone(),
            patience: options.patience,
            entries: VecDeque::new(),
            retry_at: None,
            backoff: Backoff::default(),
        }
    }

    /// Sends what comes, until all publishers are dropped and nothing is in flight.
    pub(super) async fn run(mut self, mut queue: mpsc::UnboundedReceiver<Handed>) {
        let mut returns = self.connection.connects();
        let mut is_open = true;
        loop {
            self.answer_flushes();
            if !is_open && self.entries.is_empty() {
                return;
            }
            tokio::select! {
                biased;
                ack = oldest(&mut self.entries) => match ack {
                    Some(ack) => self.settle_oldest(ack),
                    None => self.hand_back_oldest(),
                },
                () = reached(self.retry_at) => self.send_again().await,
                Ok(()) = returns.changed() => {
                    self.backoff.reset();
                    self.send_again().await;
                }
                handed = queue.recv(), if is_open => match handed {
                    Some(Handed::Message(job)) => self.take(job).await,
                    Some(Handed::Flush(done)) => self.entries.push_back(Entry::Flush(done)),
                    None => is_open = false,
                },
            }
        }
    }

    fn answer_flushes(&mut self) {
        while let Some(Entry::Flush(_)) = self.entries.front() {
            if let Some(Entry::Flush(done)) = self.entries.pop_front() {
                // Who asked may have gone.
                let _ = done.send(());
            }
        }
    }

    async fn take(&mut self, job: Job) {
        let mut message = Box::new(InFlight { job, ack: None, tries: 0, last_error: None });
        if self.retry_at.is_none() && !self.send(&mut message).await {
            self.retry_later();
        }
        self.entries.push_back(Entry::Message(message));
    }

    /// Tells whether the client takes messages.
    async fn send(&mut self, message: &mut InFlight) -> bool {
        if !self.connection.is_connected() {
            message.ack = None;
            return false;
        }
        let Outgoing { kind, payload, message_id } = &message.job.outgoing;
        let publish = PublishMessage::build().payload(payload.clone()).message_id(message_id);
        let subject = subject::publish(&self.prefix, *kind);
        message.tries += 1;
        match timeout(SEND_PATIENCE, self.jetstream.send_publish(subject, publish)).await {
            Ok(Ok(ack)) => message.ack = Some(ack.into_future().fuse()),
            Ok(Err(error)) => message.ack = Some(std::future::ready(Err(error)).boxed().fuse()),
            Err(_) => {
                message.ack = None;
                message.last_error = Some("the connection takes no more messages".into());
                return false;
            }
        }
        true
    }

    fn retry_later(&mut self) {
        if self.retry_at.is_none() {
            self.retry_at = Some(Instant::now() + self.backoff.next_delay());
        }
    }

    /// The oldest message is acknowledged, will never be, or not this time.
    fn settle_oldest(&mut self, ack: Result<PublishAck, PublishError>) {
        let Some(Entry::Message(oldest)) = self.entries.front_mut() else { return };
        match ack {
            Ok(ack) => {
                // After another try, the copy that the stream knows may be that of the first.
                let is_duplicate = ack.duplicate && oldest.tries == 1;
                self.backoff.reset();
                self.answer_oldest(Ok(Acknowledged { sequence: ack.sequence, is_duplicate }));
            }
            Err(error) if is_too_large(&error) => {
                let error = PublishFailure::TooLarge(describe(&error));
                self.answer_oldest(Err(error));
            }
            // All else may pass: a leader's change even answers "stream not found".
            Err(error) => {
                tracing::debug!("not acknowledged, to be sent again: {}", describe(&error));
                oldest.ack = None;
                oldest.note(&error);
                self.retry_later();
            }
        }
    }

    /// The oldest message's time is over.
    fn hand_back_oldest(&mut self) {
        let Some(Entry::Message(oldest)) = self.entries.front_mut() else { return };
        let answered = oldest.last_error.take().filter(|_| self.connection.is_connected());
        let last = answered.or_else(|| self.why_unanswered()).unwrap_or_else(|| "no answer".into());
        self.answer_oldest(Err(PublishFailure::NotAcknowledged { patience: self.patience, last }));
    }

    fn why_unanswered(&self) -> Option<String> {
        if !self.connection.is_connected() {
            return Some(NOT_CONNECTED.into());
        }
        let refusal = self.connection.refusal_within(self.patience)?;
        Some(format!("no answer; the server says: {refusal}"))
    }

    fn answer_oldest(&mut self, answer: Answer) {
        let Some(Entry::Message(message)) = self.entries.pop_front() else { return };
        let Job { outgoing, answer: receipt, places, .. } = message.job;
        drop(places);
        if let Err(Err(error)) = receipt.send(answer) {
            let id = outgoing.message_id;
            tracing::warn!(id, "a message was not published, and nobody waits for its receipt: {error}");
        }
    }

    /// Sends again what is not acknowledged by now.
    async fn send_again(&mut self) {
        self.retry_at = None;
        if let Err(error) = self.connection.revive_if_dead().await {
            tracing::debug!("{error}");
        }
        self.jetstream = self.connection.jetstream();
        let mut can_send = true;
        let mut entries = std::mem::take(&mut self.entries);
        for entry in &mut entries {
            let Entry::Message(message) = entry else { continue };
            match message.ack.as_mut().and_then(FutureExt::now_or_never) {
                Some(Err(error)) if !is_too_large(&error) => message.note(&error),
                Some(settled) => {
                    message.ack = Some(std::future::ready(settled).boxed().fuse());
                    continue;
                }
                None => {}
            }
            message.ack = None;
            // A client that takes one message no more takes no other.
            can_send = can_send && self.send(message).await;
        }
        self.entries = entries;
        if !can_send {
            self.retry_later();
        }
    }
}

/// The oldest message's ack, none once its time is over. Never ready where there is no message.
async fn oldest(entries: &mut VecDeque<Entry>) -> Option<Result<PublishAck, PublishError>> {
    let Some(Entry::Message(message)) = entries.front_mut() else { return std::future::pending().await };
    let deadline = message.job.deadline;
    match &mut message.ack {
        Some(ack) => timeout_at(deadline, ack).await.ok(),
        None => {
            sleep_until(deadline).await;
            None
        }
    }
}

async fn reached(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Whether the server's or the stream's limit speaks against this very message: sending it again does not help.
fn is_too_large(error: &PublishError) -> bool {
    let code = || {
        let source = std::error::Error::source(error)?;
        Some(source.downcast_ref::<jetstream::Error>()?.error_code())
    };
    error.kind() == PublishErrorKind::MaxPayloadExceeded || code() == Some(ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM)
}

fn describe(error: &PublishError) -> String {
    match error.kind() {
        PublishErrorKind::StreamNotFound => "no stream took it (stream not found)".into(),
        _ => error.to_string(),
    }
}
