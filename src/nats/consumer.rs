//! The durable consumer: made, checked, and claimed. One process reads through it at a time.
//!
//! The consumer is a cursor that is put where the database stands; it is not trusted with a position. Two readers
//! would take messages from each other, so each leaves its name in the consumer's metadata.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use async_nats::datetime::DateTime;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::consumer::pull::Config;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, Info, PullConsumer};
use async_nats::jetstream::context::ConsumerInfoErrorKind;
use async_nats::jetstream::stream::Stream;
use futures::StreamExt;

use super::stream::{Found, find};
use super::{Connection, NatsError};
use crate::model::Timestamp;
use crate::{clock, config};

/// How long a pull request waits for messages. A reader that died leaves one behind for so long at most.
pub(super) const PULL_EXPIRY: Duration = Duration::from_secs(5);
/// Redelivery is of no use to a reader that positions itself; it must be longer than any commit.
const ACK_WAIT: Duration = Duration::from_secs(60);
/// What the name of a consumer for a replay begins with.
const REPLAY_PREFIX: &str = "streamgauge-replay-";
/// How long such a consumer outlives its reader.
const REPLAY_INACTIVE: Duration = Duration::from_secs(30);
/// How often to look whether another reader is still there.
const POLL: Duration = Duration::from_millis(250);
/// How many looks in a row must find it gone.
const QUIET_POLLS: u32 = 2;

const INSTANCE_KEY: &str = "streamgauge_instance";
const HOST_KEY: &str = "streamgauge_host";
const DATABASE_KEY: &str = "streamgauge_database";

/// Who reads: made anew at each start.
#[derive(Debug, Clone)]
pub struct Instance {
    id: String,
    host: String,
    database: String,
}

impl Instance {
    /// This process, for a database.
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

    /// The reader that a consumer names, if it is another one.
    fn other(&self, info: &Info) -> Option<Instance> {
        let get = |key: &str| info.config.metadata.get(key).cloned();
        let id = get(INSTANCE_KEY).filter(|id| *id != self.id)?;
        let or_unknown = |value: Option<String>| value.unwrap_or_else(|| "unknown".into());
        Some(Self { id, host: or_unknown(get(HOST_KEY)), database: or_unknown(get(DATABASE_KEY)) })
    }
}

impl std::fmt::Display for Instance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the streamgauge on host {} with database {} (instance {})", self.host, self.database, self.id)
    }
}

/// Makes the consumer ours: creates it, or takes it over from a reader that is gone.
///
/// # Errors
/// [`NatsError::Fatal`] where another reader is there, or the consumer is of another sort.
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
    let Some(info) = info(stream, name).await? else {
        let what = format!("cannot create consumer {name}");
        return stream.create_consumer_strict(wanted).await.map_err(|error| NatsError::transient(&what, error));
    };
    check(&info)?;
    if let Some(other) = instance.other(&info) {
        wait_until_gone(stream, info, &other).await?;
    }
    let what = format!("cannot update consumer {name}");
    stream.update_consumer(wanted).await.map_err(|error| NatsError::transient(&what, error))
}

/// Makes a consumer for a replay: it forgets itself, and needs no acks.
pub(super) async fn ephemeral(stream: &Stream, start_seq: u64) -> Result<PullConsumer, NatsError> {
    replaying(stream, DeliverPolicy::ByStartSequence { start_sequence: start_seq }).await
}

/// The first sequence that the stream received at or after a time.
pub(super) async fn first_seq_at(stream: &Stream, time: Timestamp) -> Result<Option<u64>, NatsError> {
    let failed = |error: String| NatsError::transient("cannot find a message by its time", error);
    let nanos = i128::from(time.as_millis()) * 1_000_000;
    let start_time = DateTime::from_unix_timestamp_nanos(nanos).map_err(|error| failed(error.to_string()))?;
    let consumer = replaying(stream, DeliverPolicy::ByStartTime { start_time }).await?;
    if consumer.cached_info().num_pending == 0 {
        return Ok(None);
    }
    let mut first = consumer.fetch().max_messages(1).messages().await.map_err(|error| failed(error.to_string()))?;
    let Some(message) = first.next().await else { return Ok(None) };
    let message = message.map_err(|error| failed(error.to_string()))?;
    message.info().map(|info| Some(info.stream_sequence)).map_err(|error| failed(error.to_string()))
}

async fn replaying(stream: &Stream, deliver_policy: DeliverPolicy) -> Result<PullConsumer, NatsError> {
    let wanted = Config {
        name: Some(format!("{REPLAY_PREFIX}{}", clock::new_id().simple())),
        description: Some("replays for streamgauge".into()),
        deliver_policy,
        ack_policy: AckPolicy::None,
        inactive_threshold: REPLAY_INACTIVE,
        memory_storage: true,
        num_replicas: 1,
        ..Config::default()
    };
    stream.create_consumer(wanted).await.map_err(|error| NatsError::transient("cannot create a consumer", error))
}

/// Names the other reader of the consumer, if the consumer names one.
pub(super) async fn other_reader(stream: &Stream, name: &str, instance: &Instance) -> Option<Instance> {
    let info = info(stream, name).await.ok()??;
    instance.other(&info)
}

async fn info(stream: &Stream, name: &str) -> Result<Option<Info>, NatsError> {
    match stream.consumer_info(name).await {
        Ok(info) => Ok(Some(info)),
        Err(error) => match error.kind() {
            ConsumerInfoErrorKind::NotFound => Ok(None),
            ConsumerInfoErrorKind::JetStream(api) if api.error_code() == ErrorCode::CONSUMER_NOT_FOUND => Ok(None),
            _ => Err(NatsError::transient(&format!("cannot look up consumer {name}"), error)),
        },
    }
}

/// What the server says of a consumer through which nothing comes.
pub(super) async fn look(connection: &Connection, config: &config::Stream) -> Option<Info> {
    let Ok(Found::Stream(stream)) = find(&connection.jetstream(), &config.name).await else { return None };
    info(&stream, &config.consumer).await.ok()?
}

/// Makes sure that sequences which the consumer left out are gone from the stream, and not filtered away. Returns the
/// stream's first sequence.
pub(super) async fn vouch_for_gaps(connection: &Connection, config: &config::Stream) -> Result<u64, NatsError> {
    let gone = |what: &str| NatsError::Transient(format!("{what} is missing, which was being read"));
    let Found::Stream(stream) = find(&connection.jetstream(), &config.name).await? else {
        return Err(gone("the stream"));
    };
    let info = info(&stream, &config.consumer).await?.ok_or_else(|| gone("the consumer"))?;
    check(&info)?;
    Ok(stream.cached_info().state.first_sequence)
}

fn check(info: &Info) -> Result<(), NatsError> {
    let config = &info.config;
    let wrong = if config.deliver_subject.is_some() {
        "it pushes"
    } else if config.ack_policy != AckPolicy::All {
        "its ack policy is not `all`"
    } else if config.deliver_policy != DeliverPolicy::All {
        "its deliver policy is not `all`"
    } else if !config.filter_subject.is_empty() || !config.filter_subjects.is_empty() {
        "it filters subjects"
    } else if config.headers_only {
        "it leaves payloads out"
    } else {
        return Ok(());
    };
    Err(NatsError::Fatal(format!(
        "consumer {} of stream {} is not one that streamgauge can read through: {wrong}; delete it, or name another with \
         stream.consumer",
        info.name, info.stream_name
    )))
}

/// Waits one pull expiry for another reader to be gone: no pull waits, and nothing is delivered.
async fn wait_until_gone(stream: &Stream, first: Info, other: &Instance) -> Result<(), NatsError> {
    let name = first.name.clone();
    let since = Instant::now();
    let mut last = first;
    let mut quiet_polls = 0;
    loop {
        tokio::time::sleep(POLL).await;
        let Some(now) = info(stream, &name).await? else { return Ok(()) };
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
    NatsError::Fatal(format!(
        "consumer {} of stream {} is being read by {other}: stop that one, or give this one a consumer of its own with \
         stream.consumer",
        info.name, info.stream_name
    ))
}

/// What to tell when resets come that nobody here sent.
pub(super) fn fought_over(config: &config::Stream, other: Option<&Instance>) -> NatsError {
    let who = other.map_or_else(|| "somebody else".to_owned(), Instance::to_string);
    NatsError::Fatal(format!(
        "consumer {} of stream {} was reset by others again and again; {who} uses it too: stop that one, or give this \
         one a consumer of its own with stream.consumer",
        config.consumer, config.name
    ))
}

/// What the consumer has pending, delivered or not; what follows `applied_seq` where no consumer stands
/// for this file.
///
/// # Errors
/// Where it cannot be asked.
pub async fn lag(connection: &Connection, config: &config::Stream, applied_seq: u64) -> Result<u64, NatsError> {
    let stream = match find(&connection.jetstream(), &config.name).await? {
        Found::Stream(stream) => stream,
        Found::Missing => {
            return Err(NatsError::Transient(format!("stream {} does not exist", config.name)));
        }
    };
    let state = &stream.cached_info().state;
    Ok(match info(&stream, &config.consumer).await? {
        // A consumer that is ahead of the file was put there for another one: it says nothing of this.
        Some(info) if info.ack_floor.stream_sequence <= applied_seq => info.num_pending + info.num_ack_pending as u64,
        _ => state.last_sequence.saturating_sub(applied_seq.max(state.first_sequence.saturating_sub(1))),
    })
}
