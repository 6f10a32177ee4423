//! Creates the ingest stream and the stream of dead letters if they are missing.

use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::stream::{Compression, Config, RetentionPolicy, StorageType, Stream};

use super::connect::Connection;
use super::error::NatsError;
use super::lookup::{Found, find};
use crate::config;
use crate::judge::subject;

/// How long the stream of dead letters recognises a dead letter that is published again after a crash.
const DEAD_LETTER_DUPLICATE_WINDOW: Duration = Duration::from_secs(3600);

/// Creates the ingest stream, from which messages are read.
pub(super) async fn create_ingest(
    jetstream: &jetstream::Context,
    config: &config::Stream,
) -> Result<Stream, NatsError> {
    let wanted = Config {
        name: config.name.clone(),
        subjects: vec![subject::ingest(&config.prefix)],
        description: Some("analytics messages, read by streamgauge".into()),
        max_age: config.max_age.unwrap_or_default(),
        max_bytes: config.max_bytes.unwrap_or(-1),
        duplicate_window: within(config.duplicate_window, config.max_age),
        ..common(config)
    };
    create(jetstream, wanted).await
}

/// Creates the stream of dead letters if it is missing and `stream.create` is true.
pub(super) async fn ensure_dead_letters(connection: &Connection, config: &config::Stream) -> Result<(), NatsError> {
    match find(&connection.jetstream(), &config.dlq).await? {
        Found::Stream(_) => Ok(()),
        Found::Missing if !config.create => {
            Err(NatsError::missing_yet(format!("stream {}", config.dlq), ", and stream.create is false"))
        }
        Found::Missing => {
            let wanted = Config {
                name: config.dlq.clone(),
                subjects: vec![subject::dead_letters(&config.prefix)],
                description: Some("messages that streamgauge did not accept, with the reason".into()),
                duplicate_window: DEAD_LETTER_DUPLICATE_WINDOW,
                ..common(config)
            };
            create(&connection.jetstream(), wanted).await.map(|_| ())
        }
    }
}

fn common(config: &config::Stream) -> Config {
    Config {
        retention: RetentionPolicy::Limits,
        storage: StorageType::File,
        num_replicas: config.replicas,
        allow_direct: true,
        compression: Some(Compression::S2),
        ..Config::default()
    }
}

/// Limits the duplicate window to `max_age`: the server refuses a window that is longer than messages live.
fn within(window: Duration, max_age: Option<Duration>) -> Duration {
    max_age.map_or(window, |max_age| window.min(max_age))
}

async fn create(jetstream: &jetstream::Context, config: Config) -> Result<Stream, NatsError> {
    let name = config.name.clone();
    let stream = jetstream
        .create_stream(config)
        .await
        .map_err(|error| NatsError::request(format!("cannot create stream {name}"), error))?;
    tracing::info!(stream = name, "created");
    Ok(stream)
}
