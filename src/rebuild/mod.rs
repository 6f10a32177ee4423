//! Rebuilds: make the database again from its accepted log, to install the result, to compare it, or to keep it as a
//! file.
//!
//! ```text
//! groups     rebuilds groups of derived tables from raw rows, while the worker keeps writing
//! replay     sends accepted messages, from the stream or from stored rows, through the pipeline into a shadow
//! database   fills a shadow of the whole database, and installs it
//! file       fills a shadow that becomes a separate file
//! verify     fills a shadow, and compares the database with it
//! room       how much free disk space each of them needs
//! ```
//! A rebuild that is killed continues at the next call. If the process died while it installed a shadow, the next start
//! of the holder finishes or repeats that (`store::open_writer`, `Writer::do_next_request`).
//!
//! A replay does not judge messages again: the ledger lists the messages that were not accepted, and all others were.

mod database;
mod file;
mod groups;
mod replay;
mod room;
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

/// Reports progress. Called now and then with the number of messages or rows that are done, and the total.
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
    /// The process that holds the database refused or failed.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// NATS does not answer.
    #[error("NATS at {url} does not answer; `--from database` needs only the stored rows")]
    NoAnswer {
        /// The address, without secrets.
        url: String,
    },
    /// Other rules made the database, or some of its groups are being rebuilt.
    #[error(
        "groups of the database are being rebuilt, or another configuration than this command's made them: {}; wait \
         until `streamgauge status` shows no group as rebuilding, or name the worker's configuration with --config",
        .differing.join(", ")
    )]
    OtherRules {
        /// The names of these groups.
        differing: Vec<String>,
    },
    /// The target file exists.
    #[error("{path} exists already; name another file")]
    FileExists {
        /// The file.
        path: PathBuf,
    },
    /// An earlier rebuild, which was killed, has passed the end of this one.
    #[error(
        "{path} was begun with a later end, and stands at {seq} already; remove it and its -wal file, or name another"
    )]
    BeyondEnd {
        /// The file.
        path: PathBuf,
        /// The last sequence in the file.
        seq: u64,
    },
    /// A file's path cannot be resolved.
    #[error("{path}: {source}")]
    Path {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        source: std::io::Error,
    },
    /// The stop came before the end.
    #[error("interrupted; run the same command again to continue")]
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

async fn connect(config: &Config, stop: &CancellationToken) -> Result<Connection, RebuildError> {
    let connected = tokio::select! {
        () = stop.cancelled() => return Err(RebuildError::Interrupted),
        connected = tokio::time::timeout(NATS_PATIENCE, nats::connect(&config.nats)) => connected,
    };
    let no_answer = |_| RebuildError::NoAnswer { url: nats::without_secrets(&config.nats.url) };
    Ok(connected.map_err(no_answer)??)
}

/// Ensures that the rules of this configuration made the database.
///
/// # Errors
/// [`RebuildError::OtherRules`] names the groups that other rules made, and the groups that are being rebuilt.
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
