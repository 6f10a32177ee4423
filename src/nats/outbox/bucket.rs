//! The KV bucket of dashboards, which is created if it is missing.

use async_nats::jetstream::stream::{Config, DiscardPolicy, Info, Republish, StorageType};

use crate::config;
use crate::nats::connect::Connection;
use crate::nats::error::NatsError;
use crate::nats::lookup::{Found, find, nanos};

/// Returns the name of the stream behind a bucket.
pub(in crate::nats) fn stream_of(bucket: &str) -> String {
    format!("KV_{bucket}")
}

/// The state of a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::nats) struct BucketState {
    /// When the bucket was created, in nanoseconds since the Unix epoch.
    pub(in crate::nats) created_ns: i64,
    /// The revision of the last put or deletion of any key.
    pub(in crate::nats) last_revision: u64,
    /// Number of messages in the bucket: one for each key that was ever put and not purged, because the bucket keeps
    /// one revision of a key.
    pub(in crate::nats) messages: u64,
}

impl BucketState {
    fn of(info: &Info) -> Self {
        let (created_ns, state) = (nanos(info.created), &info.state);
        Self { created_ns, last_revision: state.last_sequence, messages: state.messages }
    }
}

/// Creates the bucket if it is missing, with the settings that KV clients expect, and has it republish every put.
/// Creates or changes the bucket only if `stream.create` is true. Returns the state of the bucket.
pub(in crate::nats) async fn ensure(
    connection: &Connection,
    config: &config::Dashboard,
    stream: &config::Stream,
) -> Result<BucketState, NatsError> {
    let name = stream_of(&config.bucket);
    let jetstream = connection.jetstream();
    let republish = Republish {
        source: format!("$KV.{}.>", config.bucket),
        destination: format!("{}.>", config.prefix),
        headers_only: false,
    };
    match find(&jetstream, &name).await? {
        Found::Stream(found) if is_same(found.cached_info().config.republish.as_ref(), &republish) => {
            Ok(BucketState::of(found.cached_info()))
        }
        Found::Stream(found) if !stream.create => {
            let wanted = format!("{} to {}", republish.source, republish.destination);
            tracing::warn!("bucket {} does not republish {wanted}, and stream.create is false", config.bucket);
            Ok(BucketState::of(found.cached_info()))
        }
        Found::Stream(found) => {
            let wanted = Config { republish: Some(republish), ..found.cached_info().config.clone() };
            let updated = jetstream.update_stream(wanted).await;
            let updated = updated.map_err(|error| NatsError::request(format!("cannot change stream {name}"), error))?;
            tracing::info!(bucket = config.bucket, prefix = config.prefix, "the bucket republishes to new subjects");
            Ok(BucketState::of(&updated))
        }
        Found::Missing if !stream.create => {
            Err(NatsError::missing_yet(format!("bucket {}", config.bucket), ", and stream.create is false"))
        }
        Found::Missing => {
            let wanted = Config {
                name: name.clone(),
                description: Some("what streamgauge's dashboards show".into()),
                subjects: vec![republish.source.clone()],
                // The dashboard outbox counts on one message for each key.
                max_messages_per_subject: 1,
                storage: StorageType::File,
                num_replicas: stream.replicas,
                discard: DiscardPolicy::New,
                allow_rollup: true,
                deny_delete: true,
                allow_direct: true,
                republish: Some(republish),
                ..Config::default()
            };
            let created = jetstream.create_stream(wanted).await;
            let created = created.map_err(|error| NatsError::request(format!("cannot create stream {name}"), error))?;
            tracing::info!(bucket = config.bucket, "created");
            Ok(BucketState::of(created.cached_info()))
        }
    }
}

fn is_same(found: Option<&Republish>, wanted: &Republish) -> bool {
    found.is_some_and(|found| found.source == wanted.source && found.destination == wanted.destination)
}
