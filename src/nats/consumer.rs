//! The requests to the durable consumer: create, check, reset, write the claim. One process at a time reads through it;
//! `claim` decides who.
//!
//! The consumer is only a cursor. Every start resets it to the position in the database; its own position is not
//! trusted. Two readers would take messages from each other, so each reader writes its name into the consumer's
//! metadata.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::pull::Config;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, Info, PullConsumer};
use async_nats::jetstream::stream::Stream;

use super::connect::Connection;
use super::error::NatsError;
use super::lookup::{Found, consumer_info, find};
use crate::{clock, config};

/// How long a pull request waits for messages. A dead reader's pull request remains on the server for at most this
/// time.
pub(super) const PULL_EXPIRY: Duration = Duration::from_secs(5);
/// When the server redelivers. This reader resets the consumer itself and has no use for redelivery, so this wait
/// must be longer than any commit.
const ACK_WAIT: Duration = Duration::from_secs(60);
/// How often to check whether another reader is still active.
const POLL: Duration = Duration::from_millis(250);
/// How many checks in a row must find that reader inactive.
const QUIET_POLLS: u32 = 2;

const _: () = {
    assert!(PULL_EXPIRY.as_millis() < ACK_WAIT.as_millis(), "a pull must end before the wait for its acks");
    assert!(POLL.as_millis() * QUIET_POLLS as u128 <= PULL_EXPIRY.as_millis(), "quiet checks must fit into one pull");
};

const INSTANCE_KEY: &str = "streamgauge_instance";
const HOST_KEY: &str = "streamgauge_host";
const DATABASE_KEY: &str = "streamgauge_database";

/// Identifies a reader. Every start of a process makes a new one.
#[derive(Debug, Clone)]
pub struct Instance {
    id: String,
    host: String,
    database: String,
}

impl Instance {
    /// Makes the instance of this process, which fills `database`.
    pub fn new(database: &Path) -> Self {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let host = Some(host.trim().to_owned()).filter(|host| !host.is_empty());
        Self {
            id: clock::new_id().to_string(),
            host: host.or_else(|| std::env::var("HOSTNAME").ok()).unwrap_or_else(|| "unknown".into()),
            database: database.display().to_string(),
        }
    }

    fn metadata(&self) -> HashMap<String, String> {
        let entries = [(INSTANCE_KEY, &self.id), (HOST_KEY, &self.host), (DATABASE_KEY, &self.database)];
        entries.into_iter().map(|(key, value)| (key.to_owned(), value.clone())).collect()
    }

    /// Returns the reader that the consumer's metadata names, if it is not this one.
    fn other(&self, info: &Info) -> Option<Instance> {
        let get = |key: &str| info.config.metadata.get(key).cloned();
        let id = get(INSTANCE_KEY).filter(|id| *id != self.id)?;
        let or_unknown = |value: Option<String>| value.unwrap_or_else(|| "unknown".into());
        Some(Self { id, host: or_unknown(get(HOST_KEY)), database: or_unknown(get(DATABASE_KEY)) })
    }
}

impl std::fmt::Display for Instance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "streamgauge on host {} with database {} (instance {})", self.host, self.database, self.id)
    }
}

/// Claims the consumer for `instance`: creates it, or takes it over from a reader that is gone.
///
/// # Errors
/// [`NatsError::ConsumerInUse`] if another reader is active; [`NatsError::UnfitConsumer`] if the settings do not fit;
/// [`NatsError::Request`] if a request fails.
pub(super) async fn claim(
    stream: &Stream,
    config: &config::Stream,
    max_ack_pending: i64,
    instance: &Instance,
) -> Result<PullConsumer, NatsError> {
    let name = &config.consumer;
    let wanted = Config {
        durable_name: Some(name.clone()),
        description: Some("reads for streamgauge, which positions it from its database".into()),
        deliver_policy: DeliverPolicy::All,
        ack_policy: AckPolicy::All,
        ack_wait: ACK_WAIT,
        max_ack_pending,
        metadata: instance.metadata(),
        ..Config::default()
    };
    let Some(info) = consumer_info(stream, name).await? else {
        let what = format!("cannot create consumer {name}");
        return stream.create_consumer_strict(wanted).await.map_err(|error| NatsError::request(what, error));
    };
    check(&info)?;
    if let Some(other) = instance.other(&info) {
        wait_until_gone(stream, info, &other).await?;
    }
    let what = format!("cannot update consumer {name}");
    stream.update_consumer(wanted).await.map_err(|error| NatsError::request(what, error))
}

/// Returns the other reader of the consumer, if the lookup succeeds and the metadata names one.
pub(super) async fn other_reader(stream: &Stream, name: &str, instance: &Instance) -> Option<Instance> {
    let info = consumer_info(stream, name).await.ok()??;
    instance.other(&info)
}

/// Returns the server's view of a consumer that brings no message. Returns `None` if there is no consumer or no
/// answer.
pub(super) async fn look(connection: &Connection, stream: &str, consumer: &str) -> Option<Info> {
    let Ok(Found::Stream(stream)) = find(&connection.jetstream(), stream).await else { return None };
    consumer_info(&stream, consumer).await.ok()?
}

/// Makes sure that skipped sequences are gone from the stream, and not filtered out by the consumer. Returns the
/// stream's first sequence.
pub(super) async fn vouch_for_gaps(connection: &Connection, config: &config::Stream) -> Result<u64, NatsError> {
    let gone = |what: String| NatsError::missing_yet(what, ", though it was being read");
    let Found::Stream(stream) = find(&connection.jetstream(), &config.name).await? else {
        return Err(gone(format!("stream {}", config.name)));
    };
    let info = consumer_info(&stream, &config.consumer).await?;
    let info = info.ok_or_else(|| gone(format!("consumer {}", config.consumer)))?;
    check(&info)?;
    Ok(stream.cached_info().state.first_sequence)
}

fn check(info: &Info) -> Result<(), NatsError> {
    let config = &info.config;
    let wrong = if config.deliver_subject.is_some() {
        "it is a push consumer"
    } else if config.ack_policy != AckPolicy::All {
        "its ack policy is not `all`"
    } else if config.deliver_policy != DeliverPolicy::All {
        "its deliver policy is not `all`"
    } else if !config.filter_subject.is_empty() || !config.filter_subjects.is_empty() {
        "it filters subjects"
    } else if config.headers_only {
        "it delivers headers without payloads"
    } else {
        return Ok(());
    };
    let (consumer, stream) = (info.name.clone(), info.stream_name.clone());
    Err(NatsError::UnfitConsumer { consumer, stream, why: wrong })
}

/// Waits up to about one pull expiry until the other reader is gone: no pull request waits, and nothing is delivered
/// or acknowledged. Fails if that reader stays active.
async fn wait_until_gone(stream: &Stream, first: Info, other: &Instance) -> Result<(), NatsError> {
    let name = first.name.clone();
    let since = Instant::now();
    let mut last = first;
    let mut quiet_polls = 0;
    loop {
        tokio::time::sleep(POLL).await;
        let Some(now) = consumer_info(stream, &name).await? else { return Ok(()) };
        let is_quiet = now.num_waiting == 0 && now.delivered == last.delivered && now.ack_floor == last.ack_floor;
        quiet_polls = if is_quiet { quiet_polls + 1 } else { 0 };
        if quiet_polls >= QUIET_POLLS {
            return Ok(());
        }
        if since.elapsed() > PULL_EXPIRY + 2 * POLL {
            return Err(in_use(&now, other));
        }
        last = now;
    }
}

fn in_use(info: &Info, other: &Instance) -> NatsError {
    let (consumer, stream) = (info.name.clone(), info.stream_name.clone());
    NatsError::ConsumerInUse { consumer, stream, other: other.to_string() }
}

/// Returns the error for repeated resets that this process did not send.
pub(super) fn contested(config: &config::Stream, other: Option<&Instance>) -> NatsError {
    let other = other.map_or_else(|| "another process".to_owned(), Instance::to_string);
    NatsError::ConsumerContested { consumer: config.consumer.clone(), stream: config.name.clone(), other }
}
