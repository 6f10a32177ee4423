//! Rebuilds: the database is made once more from what it has accepted, to replace it, to compare it, or as another file.
//!
//! ```text
//! groups     groups of derived tables, from raw rows, beside the worker
//! replay     accepted messages through the pipeline into a shadow: from the stream, or from stored rows
//! database   a shadow of the whole database, installed in its place
//! file       a shadow that becomes a file of its own
//! verify     a shadow that the database is compared with
//! ```
//! A replay does not judge again: what the ledger lists was not accepted, anything else was.

mod database;
mod file;
mod groups;
mod replay;
mod verify;

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::nats::{self, Connection, NatsError};
use crate::pipeline::PipelineError;
use crate::store::{AskError, Reader, StoreError};

pub use database::rebuild_database;
pub use file::{Until, rebuild_into_file};
pub use groups::{GroupRebuilder, rebuild_groups};
pub use replay::{Replay, ReplayEnd};
pub use verify::{Verified, verify, verify_sample};

/// How long NATS may take to answer.
const NATS_PATIENCE: Duration = Duration::from_secs(10);

/// Called now and then with how many messages or rows are done, and of how many.
pub type Tell<'a> = &'a mut (dyn FnMut(u64, u64) + Send);

/// Why a rebuild did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// NATS.
    #[error(transparent)]
    Nats(#[from] NatsError),
    /// The database, or a shadow of it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The holder of the database.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// NATS does not answer.
    #[error("NATS at {url} does not answer; `--from database` makes do with the stored rows")]
    NoAnswer {
        /// The address, without secrets.
        url: String,
    },
    /// Other rules made the database, or groups of it are being rebuilt.
    #[error(
        "the database is being rebuilt, or was made by another configuration than this command has: {}; wait until \
         `streamgauge status` shows nothing as rebuilding, or name the worker's configuration with --config",
        .differing.join(", ")
    )]
    OtherRules {
        /// The groups.
        differing: Vec<String>,
    },
    /// The file to be made is there.
    #[error("{path} is there already; name another file")]
    FileExists {
        /// The file.
        path: PathBuf,
    },
    /// A rebuild that was killed has come further than this one is to go.
    #[error(
        "{path} was begun for a later end, and stands at {seq} already; remove it with its -wal file, or name another"
    )]
    BeyondEnd {
        /// The file.
        path: PathBuf,
        /// Where it stands.
        seq: u64,
    },
    /// A file's path cannot be resolved.
    #[error("{path}: {source}")]
    Path {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The stop came first.
    #[error("interrupted; the same command goes on from here")]
    Interrupted,
}

impl From<PipelineError> for RebuildError {
    fn from(error: PipelineError) -> Self {
        match error {
            PipelineError::Nats(error) => Self::Nats(error),
            PipelineError::Store(error) => Self::Store(error),
        }
    }
}

async fn connect(config: &Config) -> Result<Connection, RebuildError> {
    let connected = tokio::time::timeout(NATS_PATIENCE, nats::connect(&config.nats)).await;
    let no_answer = |_| RebuildError::NoAnswer { url: nats::without_secrets(&config.nats.url) };
    Ok(connected.map_err(no_answer)??)
}

/// Makes sure that the rules of this configuration made the database.
///
/// # Errors
/// [`RebuildError::OtherRules`] names the groups that they did not make.
pub async fn ensure_made_by(config: &Config, live: &Path) -> Result<(), RebuildError> {
    let reader = Reader::open(live).await?;
    let differing = reader.differing_groups(config.rules.clone().into()).await;
    reader.close();
    match differing? {
        differing if differing.is_empty() => Ok(()),
        differing => Err(RebuildError::OtherRules { differing }),
    }
}

fn ensure_not_stopped(stop: &CancellationToken) -> Result<(), RebuildError> {
    if stop.is_cancelled() { Err(RebuildError::Interrupted) } else { Ok(()) }
}
