//! Publishes live numbers from the outbox to the KV bucket, which republishes them.
//!
//! The bucket itself tells which state was published last. It is read when the worker starts, and after every failed
//! put. So the last state always arrives, whatever died in between, and nothing is put twice. At most one put of a
//! key is in flight, and each put names the revision that it follows. The server refuses a put that comes late, or
//! after a put of another writer.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::message::PublishMessage;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::{self, FuturesUnordered};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::bucket;
use crate::analytics::dashboard::Shown;
use crate::config;
use crate::nats::backoff::Backoff;
use crate::nats::connect::{Connection, MAX_ACK_INFLIGHT};
use crate::nats::error::NatsError;
use crate::nats::fetch;
use crate::store::{CommitNotice, Number, NumberKey, Reader, StoreError};

/// How often the bucket is checked: another program may have changed it.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// How many puts, or reads of the bucket, wait for an answer at once.
const MAX_IN_FLIGHT: usize = 256;

const _: () = assert!(MAX_IN_FLIGHT <= MAX_ACK_INFLIGHT as usize, "puts would wait for their own acks");
const KV_OPERATION: &str = "KV-Operation";
const DELETE: &str = "DEL";

/// Publishes the numbers that widgets show.
#[derive(Debug)]
pub struct DashboardOutbox {
    /// The connection to the server.
    pub connection: Connection,
    /// The bucket, and the subjects to which it republishes.
    pub config: config::Dashboard,
    /// Tells whether the bucket may be created, and with how many replicas.
    pub stream: config::Stream,
    /// The database, for reading.
    pub reader: Reader,
    /// Brings the commit notices.
    pub notices: watch::Receiver<CommitNotice>,
}

/// The body of a dashboard message.
#[derive(Serialize)]
struct DashboardMessage<'a> {
    widget_id: &'a str,
    metric_key: &'a str,
    value: Option<f64>,
    previous_value: Option<f64>,
    change_percent: Option<f64>,
    updated_at: &'a str,
    as_of: BTreeMap<&'a str, u64>,
}

/// The part of a body that decides whether the number has changed.
#[derive(Deserialize)]
struct Triple {
    value: Option<f64>,
    previous_value: Option<f64>,
    change_percent: Option<f64>,
}

/// The value of a key in the bucket.
#[derive(Debug, Clone, Copy, Default)]
struct BucketValue {
    /// Whether the key has a value.
    is_there: bool,
    /// `None` if there is no value, or a value that streamgauge did not write.
    shown: Option<Shown>,
    /// The revision that the next put follows; 0 if there is none.
    revision: u64,
}

type PutAnswer = (Number, Result<u64, PutError>);

/// Why a put failed.
enum PutError {
    /// The bucket holds another revision than the put named.
    Overtaken,
    Failed(String),
}

/// The numbers that wait to be published, and the published state as far as it is known.
#[derive(Default)]
struct NumbersInHand {
    /// The last change that was read from the database.
    seen: i64,
    /// The last states that are not yet published.
    waiting: BTreeMap<NumberKey, Number>,
    held: HashMap<NumberKey, BucketValue>,
    in_flight: BTreeSet<NumberKey>,
    answers: FuturesUnordered<BoxFuture<'static, PutAnswer>>,
    /// When the bucket was created that holds the values in `held`.
    bucket_created_ns: Option<i64>,
    /// When the numbers of a widget may be published again.
    next_at: HashMap<String, Instant>,
}

impl DashboardOutbox {
    /// Publishes until `stop`, then publishes the numbers that still wait, and returns.
    ///
    /// # Errors
    /// If the database fails. A failure of NATS is not an error: the outbox keeps the last states.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), StoreError> {
        let mut backoff = Backoff::default();
        let mut outbox = NumbersInHand::default();
        loop {
            match self.publish(&mut outbox, &mut backoff, &stop).await? {
                Ok(()) => return Ok(()),
                Err(error) => {
                    let delay = backoff.next_delay();
                    tracing::warn!(retry_in_ms = delay.as_millis(), "live numbers wait in the database: {error}");
                    // Puts in flight may or may not have reached the bucket.
                    outbox = NumbersInHand::default();
                    tokio::select! {
                        () = stop.cancelled() => return Ok(()),
                        () = tokio::time::sleep(delay) => {}
                    }
                }
            }
        }
    }

    /// Publishes until `stop`, or until NATS fails.
    async fn publish(
        &mut self,
        outbox: &mut NumbersInHand,
        backoff: &mut Backoff,
        stop: &CancellationToken,
    ) -> Result<Result<(), NatsError>, StoreError> {
        let mut connects = self.connection.connects();
        let mut look = tokio::time::interval_at(Instant::now() + LOOK_EVERY, LOOK_EVERY);
        let (mut is_ready, mut seen_commit) = (false, None);
        loop {
            let notice = self.notices.borrow_and_update().clone();
            if seen_commit != Some(notice.shown) || !is_ready {
                seen_commit = Some(notice.shown);
                let mut changed = self.reader.numbers_changed(outbox.seen).await?;
                if changed.is_empty() || !is_ready {
                    // Another program may have restarted the count of changes.
                    changed = self.reader.numbers_changed(0).await?;
                }
                let has_numbers = !changed.is_empty() || !notice.rules.dashboards.widgets.is_empty();
                if has_numbers
                    && !is_ready
                    && let Err(error) = self.look_into_bucket(outbox, &changed).await
                {
                    return Ok(Err(error));
                }
                is_ready = true;
                changed.into_iter().for_each(|number| outbox.take(number));
            }
            let due_at = self.put_due(outbox, &notice, stop.is_cancelled());
            if stop.is_cancelled() && outbox.answers.is_empty() {
                return Ok(Ok(()));
            }
            tokio::select! {
                () = stop.cancelled(), if !stop.is_cancelled() => {}
                changed = self.notices.changed() => if changed.is_err() { stop.cancelled().await },
                // The server may have come back without the bucket's values.
                _ = connects.changed() => is_ready = *connects.borrow_and_update() <= 1,
                // Another program may have put, deleted or purged a key.
                _ = look.tick() => is_ready = false,
                Some((number, answer)) = outbox.answers.next() => {
                    if let Err(error) = self.settle(outbox, number, answer).await {
                        return Ok(Err(error));
                    }
                    backoff.reset();
                }
                () = tokio::time::sleep_until(due_at.unwrap_or_else(Instant::now)), if due_at.is_some() => {}
            }
        }
    }

    /// Creates the bucket if it is missing, and reads the values of these numbers from it. Skips the reads if the
    /// bucket is unchanged since the last put, or if puts are in flight.
    async fn look_into_bucket(&self, outbox: &mut NumbersInHand, numbers: &[Number]) -> Result<(), NatsError> {
        let state = bucket::ensure(&self.connection, &self.config, &self.stream).await?;
        let revisions = outbox.held.values().map(|held| held.revision);
        let is_as_left = state.last_revision == revisions.max().unwrap_or_default()
            && state.messages == outbox.held.values().filter(|held| held.revision > 0).count() as u64
            && Some(state.created_ns) == outbox.bucket_created_ns.replace(state.created_ns);
        if is_as_left || !outbox.in_flight.is_empty() {
            return Ok(());
        }
        let keys: Vec<NumberKey> = numbers.iter().map(|number| number.key.clone()).collect();
        let reads = keys.into_iter().map(|key| self.read(key));
        let mut reads = stream::iter(reads).buffer_unordered(MAX_IN_FLIGHT);
        while let Some(read) = reads.next().await {
            let (key, held) = read?;
            outbox.held.insert(key, held);
        }
        Ok(())
    }

    async fn read(&self, key: NumberKey) -> Result<(NumberKey, BucketValue), NatsError> {
        let held = self.held(&key).await?;
        Ok((key, held))
    }

    /// Reads the value of a key from the bucket.
    async fn held(&self, key: &NumberKey) -> Result<BucketValue, NatsError> {
        let stream = bucket::stream_of(&self.config.bucket);
        let last = fetch::last_of(&self.connection.jetstream(), &stream, &self.subject(key)).await?;
        Ok(last.map_or_else(BucketValue::default, |last| {
            // The value may be deleted, or written by another program: then the number must be put.
            let is_there = !last.payload.is_empty();
            let triple: Option<Triple> = serde_json::from_slice(&last.payload).ok();
            let shown = triple.map(|Triple { value, previous_value, change_percent }| Shown {
                value,
                previous_value,
                change_percent,
            });
            BucketValue { is_there, shown, revision: last.stream_sequence }
        }))
    }

    fn subject(&self, key: &NumberKey) -> String {
        format!("$KV.{}.{}.{}", self.config.bucket, key.widget_id, key.metric_key)
    }

    /// Puts all numbers that are due, the numbers of a widget together. Returns when the next number is due.
    fn put_due(&self, outbox: &mut NumbersInHand, notice: &CommitNotice, is_last: bool) -> Option<Instant> {
        let now = Instant::now();
        let mut due_at: Option<Instant> = None;
        let mut put: BTreeSet<String> = BTreeSet::new();
        let mut due = Vec::new();
        for key in outbox.waiting.keys().filter(|key| !outbox.in_flight.contains(*key)) {
            if outbox.answers.len() + due.len() >= MAX_IN_FLIGHT {
                // An answer makes room; after it, this function runs again.
                break;
            }
            match outbox.next_at.get(&key.widget_id).copied().filter(|at| *at > now && !is_last) {
                Some(at) => due_at = Some(due_at.map_or(at, |due_at| due_at.min(at))),
                None => due.push(key.clone()),
            }
        }
        for key in due {
            if let Some(number) = outbox.waiting.remove(&key) {
                put.insert(key.widget_id.clone());
                let held = outbox.held.get(&key).copied().unwrap_or_default();
                outbox.in_flight.insert(key);
                outbox.answers.push(self.put(number, held.revision));
            }
        }
        for widget_id in put {
            let widget = notice.rules.dashboards.widgets.iter().find(|widget| widget.id == widget_id);
            let max_rate = widget.map_or(Duration::ZERO, |widget| widget.max_rate);
            outbox.next_at.insert(widget_id, now + max_rate);
        }
        due_at
    }

    /// Puts one number, which must follow `revision`. The answer is the new revision.
    fn put(&self, number: Number, revision: u64) -> BoxFuture<'static, PutAnswer> {
        let (subject, jetstream) = (self.subject(&number.key), self.connection.jetstream());
        let mut message = PublishMessage::build().expected_last_subject_sequence(revision);
        message = if number.is_gone { message.header(KV_OPERATION, DELETE) } else { message.payload(body(&number)) };
        Box::pin(async move {
            let failed = |error: &dyn std::fmt::Display| PutError::Failed(error.to_string());
            let put = async {
                let ack = jetstream.send_publish(subject, message).await.map_err(|error| failed(&error))?;
                ack.await.map(|ack| ack.sequence).map_err(|error| match error.kind() {
                    PublishErrorKind::WrongLastSequence => PutError::Overtaken,
                    PublishErrorKind::Other if is_overtaken(&error) => PutError::Overtaken,
                    _ => failed(&error),
                })
            };
            let answer = put.await;
            (number, answer)
        })
    }

    /// Handles the answer to a put. After an overtaken put, reads the key again.
    async fn settle(
        &self,
        outbox: &mut NumbersInHand,
        number: Number,
        answer: Result<u64, PutError>,
    ) -> Result<(), NatsError> {
        let key = number.key.clone();
        match answer {
            Ok(revision) => {
                let (is_there, shown) = (!number.is_gone, Some(number.shown).filter(|_| !number.is_gone));
                outbox.held.insert(key.clone(), BucketValue { is_there, shown, revision });
            }
            Err(PutError::Failed(error)) => {
                return Err(NatsError::request(format!("cannot put {}", self.subject(&key)), error));
            }
            Err(PutError::Overtaken) => {
                outbox.held.insert(key.clone(), self.held(&key).await?);
                outbox.waiting.entry(key.clone()).or_insert(number);
            }
        }
        outbox.in_flight.remove(&key);
        outbox.skip_what_is_held(&key);
        Ok(())
    }
}

/// Whether the put was overtaken. In a cluster, the leader may know of a put that the other servers have not yet
/// confirmed.
fn is_overtaken(error: &async_nats::jetstream::context::PublishError) -> bool {
    let source = std::error::Error::source(error);
    let source = source.and_then(|source| source.downcast_ref::<async_nats::jetstream::Error>());
    source.is_some_and(|source| source.error_code() == ErrorCode::STREAM_WRONG_LAST_SEQUENCE_CONSTANT)
}

fn body(number: &Number) -> bytes::Bytes {
    let Shown { value, previous_value, change_percent } = number.shown;
    let message = DashboardMessage {
        widget_id: &number.key.widget_id,
        metric_key: &number.key.metric_key,
        value,
        previous_value,
        change_percent,
        updated_at: &number.updated_at,
        as_of: BTreeMap::from([(number.stream.as_str(), number.as_of)]),
    };
    // Plain values: writing them cannot fail.
    serde_json::to_vec(&message).unwrap_or_default().into()
}

impl NumbersInHand {
    /// Adds the last state of a number.
    fn take(&mut self, number: Number) {
        self.seen = self.seen.max(number.change);
        let key = number.key.clone();
        self.waiting.insert(key.clone(), number);
        self.skip_what_is_held(&key);
    }

    /// Removes a waiting number that the bucket already holds, unless a put of its key is in flight.
    fn skip_what_is_held(&mut self, key: &NumberKey) {
        let Some(number) = self.waiting.get(key).filter(|_| !self.in_flight.contains(key)) else { return };
        let held = self.held.get(key).copied().unwrap_or_default();
        if if number.is_gone { !held.is_there } else { held.shown == Some(number.shown) } {
            self.waiting.remove(key);
        }
    }
}
