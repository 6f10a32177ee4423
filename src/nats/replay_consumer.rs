//! Temporary consumers for replays. The server deletes them when they are inactive, and they need no acks.

use std::time::Duration;

use async_nats::datetime::DateTime;
use async_nats::jetstream::consumer::pull::Config;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, PullConsumer};
use async_nats::jetstream::stream::Stream;
use futures::StreamExt;

use super::error::NatsError;
use crate::clock;
use crate::model::Timestamp;

/// Prefix of the names of replay consumers.
const REPLAY_PREFIX: &str = "streamgauge-replay-";
/// How long a replay consumer outlives its reader.
const REPLAY_INACTIVE: Duration = Duration::from_secs(30);

/// Creates a consumer that begins at `start_seq`.
pub(super) async fn create_at(stream: &Stream, start_seq: u64) -> Result<PullConsumer, NatsError> {
    create(stream, DeliverPolicy::ByStartSequence { start_sequence: start_seq }).await
}

/// Returns the sequence of the first message that the stream received at or after `time`. Returns `None` if there is
/// no such message.
pub(super) async fn first_seq_at(stream: &Stream, time: Timestamp) -> Result<Option<u64>, NatsError> {
    let failed = |error: String| NatsError::request("cannot find a message by its time", error);
    let nanos = i128::from(time.as_millis()) * 1_000_000;
    let start_time = DateTime::from_unix_timestamp_nanos(nanos).map_err(|error| failed(error.to_string()))?;
    let consumer = create(stream, DeliverPolicy::ByStartTime { start_time }).await?;
    if consumer.cached_info().num_pending == 0 {
        return Ok(None);
    }
    let mut first = consumer.fetch().max_messages(1).messages().await.map_err(|error| failed(error.to_string()))?;
    let Some(message) = first.next().await else { return Ok(None) };
    let message = message.map_err(|error| failed(error.to_string()))?;
    message.info().map(|info| Some(info.stream_sequence)).map_err(|error| failed(error.to_string()))
}

async fn create(stream: &Stream, deliver_policy: DeliverPolicy) -> Result<PullConsumer, NatsError> {
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
    stream.create_consumer(wanted).await.map_err(|error| NatsError::request("cannot create a replay consumer", error))
}
