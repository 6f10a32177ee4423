//! The KV bucket of dashboards: made where it is missing.

use async_nats::jetstream::stream::{Config, DiscardPolicy, Republish, StorageType};

use super::stream::{Found, find};
use super::{Connection, NatsError};
use crate::config;

/// The stream behind a bucket.
pub(super) fn stream_of(bucket: &str) -> String {
    format!("KV_{bucket}")
}

/// Makes the bucket where it is missing, as KV clients expect one, and has it republish what is put.
pub(super) async fn ensure(
    connection: &Connection,
    config: &config::Dashboard,
    stream: &config::Stream,
) -> Result<(), NatsError> {
    let name = stream_of(&config.bucket);
    let jetstream = connection.jetstream();
    let republish = Republish {
        source: format!("$KV.{}.>", config.bucket),
        destination: format!("{}.>", config.prefix),
        headers_only: false,
    };
    match find(&jetstream, &name).await? {
        Found::Stream(found) if is_same(found.cached_info().config.republish.as_ref(), &republish) => Ok(()),
        Found::Stream(_) if !stream.create => {
            let wanted = format!("{} to {}", republish.source, republish.destination);
            tracing::warn!("bucket {} does not republish {wanted}, and stream.create is false", config.bucket);
            Ok(())
        }
        Found::Stream(found) => {
            let wanted = Config { republish: Some(republish), ..found.cached_info().config.clone() };
            let updated = jetstream.update_stream(wanted).await;
            updated.map_err(|error| NatsError::transient(&format!("cannot change stream {name}"), error))?;
            tracing::info!(bucket = config.bucket, prefix = config.prefix, "changed where the bucket republishes to");
            Ok(())
        }
        Found::Missing if !stream.create => {
            Err(NatsError::Transient(format!("bucket {} does not exist, and stream.create is false", config.bucket)))
        }
        Found::Missing => {
            let wanted = Config {
                name: name.clone(),
                description: Some("what streamgauge's dashboards show".into()),
                subjects: vec![republish.source.clone()],
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
            created.map_err(|error| NatsError::transient(&format!("cannot create stream {name}"), error))?;
            tracing::info!(bucket = config.bucket, "created");
            Ok(())
        }
    }
}

fn is_same(found: Option<&Republish>, wanted: &Republish) -> bool {
    found.is_some_and(|found| found.source == wanted.source && found.destination == wanted.destination)
}
