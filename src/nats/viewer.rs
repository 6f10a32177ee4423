//! Follows live numbers as a subscriber: first the last value of each number, then every change.

use std::collections::HashMap;
use std::time::Duration;

use async_nats::{HeaderMap, Subscriber};
use bytes::Bytes;
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::Instant;

use super::connect::{Connection, REQUEST_TIMEOUT};
use super::error::NatsError;
use super::outbox::bucket;
use crate::config;

/// The server's status instead of an answer that would be too large.
const TOO_MANY: u16 = 413;

/// A number as it is published.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "named as in the message")]
pub struct LiveNumber {
    pub widget_id: String,
    pub metric_key: String,
    pub value: Option<f64>,
    pub previous_value: Option<f64>,
    pub change_percent: Option<f64>,
    pub updated_at: String,
    pub as_of: std::collections::BTreeMap<String, u64>,
}

/// One piece of news for a viewer.
#[derive(Debug, Clone, PartialEq)]
pub enum Seen {
    /// The value of a number.
    Number(LiveNumber),
    /// The configuration no longer has this number: its widget and its key.
    Gone(String, String),
}

/// How long after a read of the bucket older messages may still arrive. They were in flight during the read.
const OVERLAP: Duration = Duration::from_secs(5);

/// Follows the numbers of all widgets.
#[derive(Debug)]
pub struct Viewer {
    connection: Connection,
    prefix: String,
    bucket: String,
    changes: Subscriber,
    /// Changes when the connection is made again. Messages may have been missed before that.
    connects: watch::Receiver<u64>,
    /// The values that the bucket held, the last one first: [`Viewer::next`] takes them from the end.
    held: Vec<(String, u64, Bytes)>,
    held_at: Instant,
    /// The last reported revision of each key.
    revisions: HashMap<String, u64>,
}

impl Viewer {
    /// Subscribes first, then reads the bucket: no change in between is missed.
    ///
    /// # Errors
    /// If the server does not answer, or the bucket holds more numbers than the server returns at once.
    pub async fn open(connection: &Connection, config: &config::Dashboard) -> Result<Self, NatsError> {
        let mut connects = connection.connects();
        connects.mark_unchanged();
        let changes = connection.client().subscribe(format!("{}.>", config.prefix)).await.map_err(failed)?;
        let mut viewer = Self {
            connection: connection.clone(),
            prefix: format!("{}.", config.prefix),
            bucket: config.bucket.clone(),
            changes,
            connects,
            held: Vec::new(),
            held_at: Instant::now(),
            revisions: HashMap::new(),
        };
        viewer.read_bucket().await?;
        Ok(viewer)
    }

    async fn read_bucket(&mut self) -> Result<(), NatsError> {
        let client = self.connection.client();
        let inbox = client.new_inbox();
        let mut answers = client.subscribe(inbox.clone()).await.map_err(failed)?;
        let request = json!({"multi_last": [format!("$KV.{}.>", self.bucket)]}).to_string();
        let api = format!("$JS.API.DIRECT.GET.{}", bucket::stream_of(&self.bucket));
        client.publish_with_reply(api, inbox, request.into()).await.map_err(failed)?;
        self.held.clear();
        loop {
            let answer = tokio::time::timeout(REQUEST_TIMEOUT, answers.next()).await;
            let Some(answer) = answer.map_err(failed)? else { break };
            match answer.status.map(|status| status.as_u16()) {
                // The bucket holds more keys than the server returns at once.
                Some(TOO_MANY) => return Err(failed("the bucket holds more than 1,024 numbers; use `nats kv watch`")),
                // 204 ends the answers. 404, or no responder, means that there are no numbers yet.
                Some(_) => break,
                None => {}
            }
            if let Some((subject, revision)) = origin(answer.headers.as_ref()) {
                self.held.push((subject, revision, answer.payload));
            }
        }
        self.held.reverse();
        self.held_at = Instant::now();
        self.revisions.clear();
        Ok(())
    }

    /// Returns the next piece of news, or `None` when the connection is closed for good.
    ///
    /// # Errors
    /// If the bucket cannot be read again after the connection was lost.
    pub async fn next(&mut self) -> Result<Option<Seen>, NatsError> {
        loop {
            if let Some((subject, revision, body)) = self.held.pop() {
                let key = subject.strip_prefix(&format!("$KV.{}.", self.bucket)).unwrap_or_default().to_owned();
                self.revisions.insert(key.clone(), revision);
                if let Some(seen) = tell(&key, &body) {
                    return Ok(Some(seen));
                }
                continue;
            }
            let change = tokio::select! {
                change = self.changes.next() => change,
                Ok(()) = self.connects.changed() => {
                    if *self.connects.borrow_and_update() > 1 {
                        self.read_bucket().await?;
                    }
                    continue;
                }
            };
            let Some(change) = change else { return Ok(None) };
            let key = change.subject.strip_prefix(&self.prefix).unwrap_or_default();
            // A message without a revision was not republished from the bucket.
            let Some((_, revision)) = origin(change.headers.as_ref()) else { continue };
            let is_older = self.revisions.get(key).is_some_and(|told| revision <= *told);
            if is_older && self.held_at.elapsed() < OVERLAP {
                continue;
            }
            if let Some(seen) = tell(key, &change.payload) {
                return Ok(Some(seen));
            }
        }
    }
}

/// Reads a body as news of a key. An empty body means that the number is gone.
fn tell(key: &str, body: &[u8]) -> Option<Seen> {
    let (widget_id, metric_key) = key.split_once('.')?;
    let (widget_id, metric_key) = (widget_id.to_owned(), metric_key.to_owned());
    if body.is_empty() {
        return Some(Seen::Gone(widget_id, metric_key));
    }
    // The key names the number, whoever put the body there.
    let number: LiveNumber = serde_json::from_slice(body).ok()?;
    Some(Seen::Number(LiveNumber { widget_id, metric_key, ..number }))
}

fn failed(error: impl std::fmt::Display) -> NatsError {
    NatsError::request("cannot follow the dashboards", error)
}

/// Returns a message's subject and revision in the bucket, from the headers that the server added.
fn origin(headers: Option<&HeaderMap>) -> Option<(String, u64)> {
    let headers = headers?;
    let subject = headers.get("Nats-Subject")?.to_string();
    Some((subject, headers.get("Nats-Sequence")?.as_str().parse().ok()?))
}
