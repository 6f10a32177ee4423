//! The window: messages without an ack, oldest first, and the one task that owns them.
//!
//! The cause of a failed ack is usually the connection or the stream. So after a pause, all messages without an ack
//! are sent again. When the connection is back, they are sent again at once.

use std::collections::VecDeque;
use std::time::Duration;

use async_nats::header::NATS_MESSAGE_ID;
use async_nats::{Client, HeaderMap, PublishErrorKind};
use futures::FutureExt;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};

use super::acks::{Acks, Said};
use super::{Acknowledged, Outgoing, PublishFailure, PublishResult, PublisherOptions};
use crate::judge::subject;
use crate::nats::backoff::Backoff;
use crate::nats::connect::{Connection, REQUEST_TIMEOUT};

/// How long the client may take to accept a message. The client buffers messages; if its buffer is full, the
/// connection hangs.
const SEND_PATIENCE: Duration = Duration::from_secs(1);
/// How long an ack may take before the message is sent again.
const ACK_PATIENCE: Duration = REQUEST_TIMEOUT;
/// How many messages are taken before acks are handled.
const TAKEN_AT_ONCE: usize = 256;
/// How many entries the window has for each message that may be in flight: settled messages may stay in it for a
/// while.
const WINDOWS: usize = 2;

const _: () =
    assert!(SEND_PATIENCE.as_millis() < ACK_PATIENCE.as_millis(), "a message is sent before its ack counts as late");
const NOT_CONNECTED: &str = "not connected to NATS";

/// A message, or a request, that a publisher hands to its window.
#[derive(Debug)]
pub(super) enum Handed {
    Message(OutgoingMessage),
    /// Is answered when all earlier messages are settled.
    Flush(oneshot::Sender<()>),
}

/// A message on its way, with its deadline.
#[derive(Debug)]
pub(super) struct OutgoingMessage {
    pub(super) outgoing: Outgoing,
    /// When the message is handed back. Later messages have later deadlines, except if clones of a publisher overtake
    /// each other.
    pub(super) deadline: Instant,
    pub(super) answer: oneshot::Sender<PublishResult>,
    /// The message's places in the window. They are free again when this value is dropped.
    pub(super) places: [Option<OwnedSemaphorePermit>; 2],
}

impl OutgoingMessage {
    fn answer(self, answer: PublishResult) {
        // The places are freed first: the receiver of the answer may publish the next message.
        drop(self.places);
        if let Err(Err(error)) = self.answer.send(answer) {
            let id = self.outgoing.message_id;
            tracing::warn!(id, "a message was not published, and nobody waits for its receipt: {error}");
        }
    }
}

pub(super) struct Window {
    connection: Connection,
    client: Client,
    /// `None` without a subscription, for example after the client has died. Then nothing is sent.
    acks: Option<Acks>,
    prefix: String,
    patience: Duration,
    /// `None` stands for a settled message.
    messages: VecDeque<Option<InFlight>>,
    /// Maximum length of `messages`, settled ones included. Beyond it, no new message is taken until the oldest is
    /// settled.
    max_messages: usize,
    /// The number of the first entry in `messages`. Messages are numbered in the order of arrival; acks name the
    /// number.
    first: u64,
    /// Flushes that wait. Each is answered when all messages with lower numbers are settled.
    flushes: VecDeque<(u64, oneshot::Sender<()>)>,
    /// When to send again after a failure. Until then, new messages are not sent either.
    retry_at: Option<Instant>,
    backoff: Backoff,
}

struct InFlight {
    job: OutgoingMessage,
    /// `None` if the message must be sent, or sent again.
    sent_at: Option<Instant>,
    tries: u32,
    /// The last error. A missing answer does not overwrite it, because a missing answer says less.
    last_error: Option<String>,
}

impl InFlight {
    /// Returns when the message is due: to be handed back, or to be sent again.
    fn due(&self) -> Instant {
        self.sent_at.map_or(self.job.deadline, |sent_at| self.job.deadline.min(sent_at + ACK_PATIENCE))
    }
}

/// The result of a try to send a message.
enum Sent {
    /// The message is on its way.
    Yes,
    /// The client takes no message now.
    No,
    /// The server takes no message of this size.
    TooLarge(String),
}

impl Window {
    pub(super) fn new(connection: Connection, options: &PublisherOptions) -> Self {
        Self {
            client: connection.client(),
            acks: None,
            connection,
            prefix: options.prefix.clone(),
            patience: options.patience,
            messages: VecDeque::new(),
            max_messages: options.max_in_flight as usize * WINDOWS,
            first: 0,
            flushes: VecDeque::new(),
            retry_at: None,
            backoff: Backoff::default(),
        }
    }

    /// Sends incoming messages, until all publishers are dropped and no message is in flight.
    pub(super) async fn run(mut self, mut queue: mpsc::UnboundedReceiver<Handed>) {
        let mut returns = self.connection.connects();
        let mut handed = Vec::with_capacity(TAKEN_AT_ONCE);
        let mut is_open = true;
        self.subscribe().await;
        loop {
            self.answer_flushes();
            if !is_open && self.messages.is_empty() {
                return;
            }
            let (due, has_room) = (self.due(), self.messages.len() < self.max_messages);
            tokio::select! {
                biased;
                ack = next(&mut self.acks) => self.take_acks(ack),
                Ok(()) = returns.changed() => {
                    // The event of the first connect may arrive after the first messages were sent.
                    if *returns.borrow_and_update() > 1 || self.retry_at.is_some() {
                        self.backoff.reset();
                        self.send_again().await;
                    }
                }
                count = queue.recv_many(&mut handed, TAKEN_AT_ONCE), if is_open && has_room => {
                    is_open = count > 0;
                    for handed in handed.drain(..) {
                        self.take(handed).await;
                    }
                }
                () = reached(due) => self.do_due().await,
            }
        }
    }

    async fn subscribe(&mut self) {
        self.client = self.connection.client();
        match Acks::subscribe(&self.client).await {
            Ok(acks) => self.acks = Some(acks),
            Err(error) => {
                tracing::debug!("cannot subscribe to acks: {error}");
                self.retry_later();
            }
        }
    }

    fn answer_flushes(&mut self) {
        while self.flushes.front().is_some_and(|(upto, _)| *upto <= self.first) {
            if let Some((_, done)) = self.flushes.pop_front() {
                // The caller of `flush` may have gone.
                let _ = done.send(());
            }
        }
    }

    async fn take(&mut self, handed: Handed) {
        let number = self.first + self.messages.len() as u64;
        let job = match handed {
            Handed::Flush(done) => return self.flushes.push_back((number, done)),
            Handed::Message(job) => job,
        };
        let mut message = InFlight { job, sent_at: None, tries: 0, last_error: None };
        if self.retry_at.is_none() {
            match self.send(number, &mut message).await {
                Sent::Yes => {}
                Sent::No => self.retry_later(),
                Sent::TooLarge(why) => return message.job.answer(Err(PublishFailure::TooLarge(why))),
            }
        }
        self.messages.push_back(Some(message));
    }

    async fn send(&mut self, number: u64, message: &mut InFlight) -> Sent {
        message.sent_at = None;
        let Some(acks) = self.acks.as_ref().filter(|_| self.connection.is_connected()) else { return Sent::No };
        let Outgoing { kind, payload, message_id } = &message.job.outgoing;
        let mut headers = HeaderMap::new();
        headers.insert(NATS_MESSAGE_ID, message_id.as_str());
        let subject = subject::publish(&self.prefix, *kind);
        message.tries += 1;
        let sending = self.client.publish_with_reply_and_headers(subject, acks.reply(number), headers, payload.clone());
        match timeout(SEND_PATIENCE, sending).await {
            Ok(Ok(())) => message.sent_at = Some(Instant::now()),
            Ok(Err(error)) if error.kind() == PublishErrorKind::MaxPayloadExceeded => {
                return Sent::TooLarge(error.to_string());
            }
            Ok(Err(error)) => {
                message.last_error = Some(error.to_string());
                // The client has died, and its subscription with it.
                self.acks = None;
                return Sent::No;
            }
            Err(_) => {
                message.last_error = Some("the connection takes no more messages".into());
                return Sent::No;
            }
        }
        Sent::Yes
    }

    fn retry_later(&mut self) {
        if self.retry_at.is_none() {
            self.retry_at = Some(Instant::now() + self.backoff.next_delay());
        }
    }

    /// Handles an ack, and the acks that have arrived after it.
    fn take_acks(&mut self, first: Option<(u64, Said)>) {
        let mut arrived = Some(first);
        while let Some(ack) = arrived {
            let Some((number, said)) = ack else {
                self.acks = None;
                return self.retry_later();
            };
            self.take_ack(number, said);
            arrived = next(&mut self.acks).now_or_never();
        }
    }

    /// Settles a message, or has it sent again. After a second try, the answer to the first try may arrive, or both
    /// answers.
    fn take_ack(&mut self, number: u64, said: Said) {
        let place = number.checked_sub(self.first).and_then(|place| usize::try_from(place).ok());
        let Some(message) = place.and_then(|place| self.messages.get_mut(place)) else { return };
        let answer = match said {
            Said::Stored { sequence, is_duplicate } => {
                self.backoff.reset();
                // After a second try, the stream may know the copy from the first try.
                let is_first = message.as_ref().is_some_and(|message| message.tries == 1);
                Ok(Acknowledged { sequence, is_duplicate: is_duplicate && is_first })
            }
            Said::TooLarge(why) => Err(PublishFailure::TooLarge(why)),
            Said::NotStored(why) => {
                if let Some(message) = message {
                    tracing::debug!("not acknowledged, will be sent again: {why}");
                    (message.sent_at, message.last_error) = (None, Some(why));
                    self.retry_later();
                }
                return;
            }
        };
        if let Some(message) = message.take() {
            message.job.answer(answer);
        }
        self.forget_settled();
    }

    fn forget_settled(&mut self) {
        while let Some(None) = self.messages.front() {
            self.messages.pop_front();
            self.first += 1;
        }
    }

    fn due(&self) -> Option<Instant> {
        let oldest = self.messages.front().and_then(Option::as_ref).map(InFlight::due);
        [oldest, self.retry_at].into_iter().flatten().min()
    }

    async fn do_due(&mut self) {
        let now = Instant::now();
        if let Some(Some(oldest)) = self.messages.front_mut()
            && oldest.due() <= now
        {
            if oldest.job.deadline <= now {
                return self.hand_back_oldest();
            }
            oldest.sent_at = None;
            self.retry_later();
        }
        if self.retry_at.is_some_and(|retry_at| retry_at <= now) {
            self.send_again().await;
        }
    }

    /// Hands back the oldest message, whose deadline has passed.
    fn hand_back_oldest(&mut self) {
        let Some(Some(oldest)) = self.messages.pop_front() else { return };
        self.first += 1;
        self.forget_settled();
        let answered = oldest.last_error.filter(|_| self.connection.is_connected());
        let last = answered.or_else(|| self.why_unanswered()).unwrap_or_else(|| "no answer".into());
        oldest.job.answer(Err(PublishFailure::NotAcknowledged { patience: self.patience, last }));
    }

    fn why_unanswered(&self) -> Option<String> {
        if !self.connection.is_connected() {
            return Some(NOT_CONNECTED.into());
        }
        let refusal = self.connection.refusal_within(self.patience)?;
        Some(format!("no answer; the server says: {refusal}"))
    }

    /// Sends all messages without an ack again.
    async fn send_again(&mut self) {
        if let Err(error) = self.connection.revive_if_dead().await {
            tracing::debug!("{error}");
        }
        if self.acks.is_none() {
            self.subscribe().await;
        } else if let Some(ack) = next(&mut self.acks).now_or_never() {
            self.take_acks(ack);
        }
        self.retry_at = None;
        let mut can_send = true;
        let mut messages = std::mem::take(&mut self.messages);
        for (number, place) in (self.first..).zip(&mut messages) {
            let Some(message) = place else { continue };
            message.sent_at = None;
            // A client that does not take one message takes no other.
            if !can_send {
                continue;
            }
            match self.send(number, message).await {
                Sent::Yes => {}
                Sent::No => can_send = false,
                Sent::TooLarge(why) => {
                    if let Some(message) = place.take() {
                        message.job.answer(Err(PublishFailure::TooLarge(why)));
                    }
                }
            }
        }
        self.messages = messages;
        self.forget_settled();
        if !can_send {
            self.retry_later();
        }
    }
}

/// Waits for the next ack; forever if there is no subscription.
async fn next(acks: &mut Option<Acks>) -> Option<(u64, Said)> {
    match acks {
        Some(acks) => acks.next().await,
        None => std::future::pending().await,
    }
}

async fn reached(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}
