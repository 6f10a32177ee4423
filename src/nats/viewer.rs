//! Live numbers, as a subscriber has them: the last value of each, then every change.

use std::collections::HashMap;

use async_nats::{HeaderMap, Subscriber};
use bytes::Bytes;
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Connection, NatsError, REQUEST_TIMEOUT, bucket};
use crate::config;

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

/// What a viewer learns.
#[derive(Debug, Clone, PartialEq)]
pub enum Seen {
    /// A number.
    Number(LiveNumber),
    /// A number that the configuration does not have any more: its widget and key.
    Gone(String, String),
}

/// Follows all numbers.
#[derive(Debug)]
pub struct Viewer {
    prefix: String,
    key_prefix: String,
    changes: Subscriber,
    /// What the bucket held at the beginning, the last first.
    held: Vec<(String, u64, Bytes)>,
    /// The last revision of each key that was told.
    revisions: HashMap<String, u64>,
}

impl Viewer {
    /// Subscribes first, then reads what the bucket holds: nothing is missed in between.
    ///
    /// # Errors
    /// Where the server does not answer.
    pub async fn open(connection: &Connection, config: &config::Dashboard) -> Result<Self, NatsError> {
        let failed = |error: &dyn std::fmt::Display| NatsError::transient("cannot follow the dashboards", error);
        let client = connection.client();
        let subject = format!("{}.>", config.prefix);
        let changes = client.subscribe(subject).await.map_err(|error| failed(&error))?;
        let mut viewer = Self {
            prefix: format!("{}.", config.prefix),
            key_prefix: format!("$KV.{}.", config.bucket),
            changes,
            held: Vec::new(),
            revisions: HashMap::new(),
        };
        let inbox = client.new_inbox();
        let mut answers = client.subscribe(inbox.clone()).await.map_err(|error| failed(&error))?;
        let request = json!({"multi_last": [format!("{}>", viewer.key_prefix)]}).to_string();
        let api = format!("$JS.API.DIRECT.GET.{}", bucket::stream_of(&config.bucket));
        client.publish_with_reply(api, inbox, request.into()).await.map_err(|error| failed(&error))?;
        loop {
            let answer = tokio::time::timeout(REQUEST_TIMEOUT, answers.next()).await;
            let Some(answer) = answer.map_err(|error| failed(&error))? else { break };
            // 204 ends the answers; 404, or nobody to answer, says that there is nothing yet.
            if answer.status.is_some() {
                break;
            }
            if let Some((subject, revision)) = origin(answer.headers.as_ref()) {
                viewer.held.push((subject, revision, answer.payload));
            }
        }
        viewer.held.reverse();
        Ok(viewer)
    }

    /// What comes next; none when the connection is closed for good.
    pub async fn next(&mut self) -> Option<Seen> {
        loop {
            if let Some((subject, revision, body)) = self.held.pop() {
                let key = subject.strip_prefix(&self.key_prefix).unwrap_or_default().to_owned();
                if let Some(seen) = self.tell(&key, revision, &body) {
                    return Some(seen);
                }
                continue;
            }
            let change = self.changes.next().await?;
            let key = change.subject.strip_prefix(&self.prefix).unwrap_or_default().to_owned();
            let revision = origin(change.headers.as_ref()).map_or(u64::MAX, |(_, revision)| revision);
            if let Some(seen) = self.tell(&key, revision, &change.payload) {
                return Some(seen);
            }
        }
    }

    /// What a body says, where it is no older than what was told.
    fn tell(&mut self, key: &str, revision: u64, body: &[u8]) -> Option<Seen> {
        let told = self.revisions.entry(key.to_owned()).or_default();
        if revision <= *told {
            return None;
        }
        *told = revision;
        if body.is_empty() {
            let (widget_id, metric_key) = key.split_once('.')?;
            return Some(Seen::Gone(widget_id.to_owned(), metric_key.to_owned()));
        }
        serde_json::from_slice(body).ok().map(Seen::Number)
    }
}

/// The subject and the revision that the server says a message has in the bucket.
fn origin(headers: Option<&HeaderMap>) -> Option<(String, u64)> {
    let headers = headers?;
    let subject = headers.get("Nats-Subject")?.to_string();
    Some((subject, headers.get("Nats-Sequence")?.as_str().parse().ok()?))
}
