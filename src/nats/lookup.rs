//! Looks up streams and consumers, and reads their state.

use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::consumer::Info;
use async_nats::jetstream::context::{
    ConsumerInfoErrorKind, GetStreamError, GetStreamErrorKind, RequestError, RequestErrorKind,
};
use async_nats::jetstream::stream::{DirectGetErrorKind, RetentionPolicy, Stream};
use tokio::time::Instant;

use super::backoff::Backoff;
use super::connect::Connection;
use super::error::NatsError;
use super::{fetch, replay_consumer};
use crate::config;
use crate::model::Timestamp;
use crate::position::{Position, StreamState};

/// How long a producer waits for the stream: the worker that creates it may still be starting.
const STREAM_PATIENCE: Duration = Duration::from_secs(10);
/// How long to wait for a single message. A server that denies the permission does not answer.
const FETCH_PATIENCE: Duration = Duration::from_secs(1);

/// The result of a lookup of a stream.
pub(super) enum Found {
    Stream(Box<Stream>),
    Missing,
}

/// Looks up a stream. A missing stream is not an error.
pub(super) async fn find(jetstream: &jetstream::Context, name: &str) -> Result<Found, NatsError> {
    match jetstream.get_stream(name).await {
        Ok(stream) => Ok(Found::Stream(Box::new(stream))),
        Err(error) => match error.kind() {
            GetStreamErrorKind::JetStream(api) if api.error_code() == ErrorCode::STREAM_NOT_FOUND => Ok(Found::Missing),
            _ => {
                let what = format!("cannot look up stream {name} (is JetStream enabled, and $JS.API permitted?)");
                Err(NatsError::request(what, error))
            }
        },
    }
}

/// Looks up a consumer. Returns `None` if it does not exist.
pub(super) async fn consumer_info(stream: &Stream, name: &str) -> Result<Option<Info>, NatsError> {
    match stream.consumer_info(name).await {
        Ok(info) => Ok(Some(info)),
        Err(error) => match error.kind() {
            ConsumerInfoErrorKind::NotFound => Ok(None),
            ConsumerInfoErrorKind::JetStream(api) if api.error_code() == ErrorCode::CONSUMER_NOT_FOUND => Ok(None),
            _ => Err(NatsError::request(format!("cannot look up consumer {name}"), error)),
        },
    }
}

/// Returns the state of a stream that was just looked up: all that [`stand`](crate::position::stand) needs to decide
/// how to continue from `position`.
pub(super) async fn state(
    jetstream: &jetstream::Context,
    stream: &Stream,
    position: Option<&Position>,
) -> Result<StreamState, NatsError> {
    let info = stream.cached_info();
    let (first_seq, last_seq) = (info.state.first_sequence, info.state.last_sequence);
    let mut recv_ns_at_position = None;
    if let Some(position) = position
        && (first_seq..=last_seq).contains(&position.last_seq)
        && position.last_recv_ns != 0
    {
        recv_ns_at_position = recv_ns(jetstream, stream, position.last_seq).await?;
    }
    Ok(StreamState {
        name: info.config.name.clone(),
        created_ns: nanos(info.created),
        first_seq,
        last_seq,
        has_limits_retention: info.config.retention == RetentionPolicy::Limits,
        recv_ns_at_position,
    })
}

/// Returns when the stream received the message at a sequence, in nanoseconds. Returns `None` if the message was
/// deleted.
async fn recv_ns(jetstream: &jetstream::Context, stream: &Stream, sequence: u64) -> Result<Option<i64>, NatsError> {
    let fetched = fetch::at(jetstream, &stream.cached_info().config.name, sequence);
    let denied = match tokio::time::timeout(FETCH_PATIENCE, fetched).await {
        Ok(Ok(message)) => return Ok(message.map(|message| message.recv_ns)),
        Ok(Err(error)) => error,
        Err(elapsed) => NatsError::request("cannot read a message with $JS.API.STREAM.MSG.GET", elapsed),
    };
    // A worker with few permissions may be allowed to use the direct API instead. It is the second choice: its answer
    // brings headers in a form that async-nats may not be able to parse.
    match stream.direct_get(sequence).await {
        Ok(message) => Ok(Some(nanos(message.time))),
        Err(error) if error.kind() == DirectGetErrorKind::NotFound => Ok(None),
        Err(_) => Err(denied),
    }
}

/// Converts a time to nanoseconds since the Unix epoch; times after the year 2262 become `i64::MAX`.
pub(super) fn nanos(time: async_nats::datetime::DateTime) -> i64 {
    i64::try_from(time.unix_timestamp_nanos()).unwrap_or(i64::MAX)
}

/// Returns the last sequence of the ingest stream, whose name is `name`.
///
/// # Errors
/// If a request fails, or the stream does not exist.
pub async fn last_sequence(connection: &Connection, name: &str) -> Result<u64, NatsError> {
    match find(&connection.jetstream(), name).await? {
        Found::Stream(stream) => Ok(stream.cached_info().state.last_sequence),
        Found::Missing => Err(NatsError::missing_yet(format!("stream {name}"), "")),
    }
}

/// Returns the last sequence before the first message that the stream received at or after `time`. If there is no
/// such message, returns the stream's last sequence.
///
/// # Errors
/// If a request fails, or the stream does not exist.
pub async fn last_sequence_before(connection: &Connection, name: &str, time: Timestamp) -> Result<u64, NatsError> {
    let Found::Stream(stream) = find(&connection.jetstream(), name).await? else {
        return Err(NatsError::missing_yet(format!("stream {name}"), ""));
    };
    replay_consumer::first_seq_at(&stream, time).await.map(|first| match first {
        Some(first_seq) => first_seq.saturating_sub(1),
        None => stream.cached_info().state.last_sequence,
    })
}

/// Waits until the stream exists, so that a mistake in the configuration shows at once and not message by message.
///
/// # Errors
/// If the stream cannot be found within 10 seconds. No answer is not an error: the permission to ask may be missing.
/// Then publishing will show whether the stream exists.
pub async fn wait_for_stream(connection: &Connection, name: &str) -> Result<(), NatsError> {
    let until = Instant::now() + STREAM_PATIENCE;
    let mut backoff = Backoff::default();
    loop {
        let error = match connection.jetstream().get_stream(name).await {
            Ok(_) => return Ok(()),
            Err(error) if is_unanswered(&error) => {
                tracing::warn!("the server does not say whether stream {name} exists; publishing anyway: {error}");
                return Ok(());
            }
            Err(error) => error,
        };
        if Instant::now() >= until {
            let hint =
                format!(" ({error}): start nats-server with --jetstream, and `streamgauge run`, which creates it");
            return Err(NatsError::Missing { what: format!("stream {name}"), hint, may_come: false });
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

/// Whether nobody answered: a server that denies a permission does not answer.
fn is_unanswered(error: &GetStreamError) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<RequestError>());
    source.is_some_and(|source| source.kind() == RequestErrorKind::TimedOut)
}

/// Returns how many messages wait for this file: the consumer's pending messages, and its delivered messages without
/// an ack. If no consumer belongs to this file, counts the sequences after `applied_seq`.
///
/// # Errors
/// If a request fails, or the stream does not exist.
pub async fn lag(connection: &Connection, config: &config::Stream, applied_seq: u64) -> Result<u64, NatsError> {
    let stream = match find(&connection.jetstream(), &config.name).await? {
        Found::Stream(stream) => stream,
        Found::Missing => {
            return Err(NatsError::missing_yet(format!("stream {}", config.name), ""));
        }
    };
    let state = &stream.cached_info().state;
    Ok(match consumer_info(&stream, &config.consumer).await? {
        // A consumer that is ahead of the file was positioned for another file: its numbers do not apply here.
        Some(info) if info.ack_floor.stream_sequence <= applied_seq => info.num_pending + info.num_ack_pending as u64,
        _ => state.last_sequence.saturating_sub(applied_seq.max(state.first_sequence.saturating_sub(1))),
    })
}
