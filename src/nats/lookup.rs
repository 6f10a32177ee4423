//! What is there: streams, consumers, and what they say of themselves.

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

/// How long a producer waits for the stream: the worker that makes it may be starting.
const STREAM_PATIENCE: Duration = Duration::from_secs(10);
/// A server that denies a permission does not answer.
const FETCH_PATIENCE: Duration = Duration::from_secs(1);

/// What a look for a stream found.
pub(super) enum Found {
    Stream(Box<Stream>),
    Missing,
}

/// Looks for a stream.
pub(super) async fn find(jetstream: &jetstream::Context, name: &str) -> Result<Found, NatsError> {
    match jetstream.get_stream(name).await {
        Ok(stream) => Ok(Found::Stream(Box::new(stream))),
        Err(error) => match error.kind() {
            GetStreamErrorKind::JetStream(api) if api.error_code() == ErrorCode::STREAM_NOT_FOUND => Ok(Found::Missing),
            _ => {
                let what = format!("cannot look up stream {name} (is JetStream on, and $JS.API permitted?)");
                Err(NatsError::request(what, error))
            }
        },
    }
}

/// Looks for a consumer.
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

/// What a stream that was just looked up says of itself, as far as going on from `position` needs it.
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

/// When the stream received the message at a sequence; none where it was deleted.
async fn recv_ns(jetstream: &jetstream::Context, stream: &Stream, sequence: u64) -> Result<Option<i64>, NatsError> {
    let fetched = fetch::at(jetstream, &stream.cached_info().config.name, sequence);
    let denied = match tokio::time::timeout(FETCH_PATIENCE, fetched).await {
        Ok(Ok(message)) => return Ok(message.map(|message| message.recv_ns)),
        Ok(Err(error)) => error,
        Err(elapsed) => NatsError::request("cannot read a message by $JS.API.STREAM.MSG.GET", elapsed),
    };
    // A worker with few permissions may have this one instead. It comes second: it brings headers in a form that
    // async-nats may not be able to parse.
    match stream.direct_get(sequence).await {
        Ok(message) => Ok(Some(nanos(message.time))),
        Err(error) if error.kind() == DirectGetErrorKind::NotFound => Ok(None),
        Err(_) => Err(denied),
    }
}

/// Nanoseconds since the Unix epoch, to the year 2262.
pub(super) fn nanos(time: async_nats::datetime::DateTime) -> i64 {
    i64::try_from(time.unix_timestamp_nanos()).unwrap_or(i64::MAX)
}

/// The last sequence of the ingest stream.
///
/// # Errors
/// Where it cannot be asked.
pub async fn last_sequence(connection: &Connection, name: &str) -> Result<u64, NatsError> {
    match find(&connection.jetstream(), name).await? {
        Found::Stream(stream) => Ok(stream.cached_info().state.last_sequence),
        Found::Missing => Err(NatsError::missing_yet(format!("stream {name}"), "")),
    }
}

/// The last sequence before the first message that the stream received at or after a time.
///
/// # Errors
/// Where it cannot be asked.
pub async fn last_sequence_before(connection: &Connection, name: &str, time: Timestamp) -> Result<u64, NatsError> {
    let Found::Stream(stream) = find(&connection.jetstream(), name).await? else {
        return Err(NatsError::missing_yet(format!("stream {name}"), ""));
    };
    replay_consumer::first_seq_at(&stream, time).await.map(|first| match first {
        Some(first_seq) => first_seq.saturating_sub(1),
        None => stream.cached_info().state.last_sequence,
    })
}

/// Waits until the stream is there, so that a mistake in the configuration shows at once and not message by message.
///
/// # Errors
/// Where it is not there. Where nobody answers, there may be no permission to ask: then publishing will show.
pub async fn wait_for_stream(connection: &Connection, name: &str) -> Result<(), NatsError> {
    let until = Instant::now() + STREAM_PATIENCE;
    let mut backoff = Backoff::default();
    loop {
        let error = match connection.jetstream().get_stream(name).await {
            Ok(_) => return Ok(()),
            Err(error) if is_unanswered(&error) => {
                tracing::warn!("nobody tells whether stream {name} is there; publishing without knowing: {error}");
                return Ok(());
            }
            Err(error) => error,
        };
        if Instant::now() >= until {
            let hint =
                format!(" ({error}): start `streamgauge run`, which creates it, and nats-server with --jetstream");
            return Err(NatsError::Missing { what: format!("stream {name}"), hint, may_come: false });
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

/// A server that denies a permission does not answer.
fn is_unanswered(error: &GetStreamError) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<RequestError>());
    source.is_some_and(|source| source.kind() == RequestErrorKind::TimedOut)
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
            return Err(NatsError::missing_yet(format!("stream {}", config.name), ""));
        }
    };
    let state = &stream.cached_info().state;
    Ok(match consumer_info(&stream, &config.consumer).await? {
        // A consumer that is ahead of the file was put there for another one: it says nothing of this.
        Some(info) if info.ack_floor.stream_sequence <= applied_seq => info.num_pending + info.num_ack_pending as u64,
        _ => state.last_sequence.saturating_sub(applied_seq.max(state.first_sequence.saturating_sub(1))),
    })
}
