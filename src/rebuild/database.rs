//! Rebuilds the whole database: fills a shadow database from the stream, and installs it while the worker keeps
//! running.

use std::path::Path;

use tokio_util::sync::CancellationToken;

use super::replay::Replay;
use super::{RebuildError, Tell, connect, ensure_made_by, ensure_not_stopped, room};
use crate::config::Config;
use crate::store::{
    self, Asker, Lock, Reader, Request, RequestOutcome, StoreError, ensure_nothing_lost, ensure_nothing_undone,
};

/// Rebuilds the database from the stream and installs the result. If the process dies, the next call continues.
///
/// # Errors
/// Fails if the stream, the database or the shadow cannot be read or written, or if rows would be lost. The database
/// is then unchanged.
pub async fn rebuild_database(
    config: &Config,
    stop: &CancellationToken,
    tell: Tell<'_>,
) -> Result<RequestOutcome, RebuildError> {
    let live = config.database_path.clone();
    Reader::open(&live).await?.close();
    ensure_same_rules(config, &live).await?;
    let file = store::shadow_path(&live);
    room::ensure_for_install(&live, &file)?;
    let connection = connect(config, stop).await?;
    let replay = Replay::open(config.clone(), Some(connection), Some(&live), &file).await?;
    replay.follow_closely(None, stop, tell).await?;
    let (built, database) = (file.clone(), live.clone());
    let check = move || ensure_nothing_lost(&built, &database);
    // Runs while the indexes are created.
    let checking = tokio::spawn(store::blocking(check.clone()));
    replay.finish(stop).await?;
    // Takes in the messages that arrived while the indexes were created.
    replay.follow_closely(None, stop, tell).await?;
    let checked = checking.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
    // Checks once more: the missing row may be a dead letter that was applied during the first check.
    let lost = if checked.is_err() { store::blocking(check).await } else { checked };
    replay.close().await?;
    if let Err(error) = lost {
        store::remove_database(&file)?;
        return Err(error.into());
    }
    // After the request is made, the worker installs the shadow whatever happens to this process.
    ensure_not_stopped(stop)?;
    let file = std::path::absolute(&file).map_err(|source| RebuildError::Path { path: file, source })?;
    let criteria = config.criteria();
    let asker = Asker { database: &live, command: "rebuild", rules: &config.rules, criteria: &criteria };
    let outcome = asker.ask(&Request::Install { file: file.clone() }, stop, async || ()).await?;
    Lock::discard_of(&file);
    Ok(outcome)
}

/// Ensures that the rules of this command fit the database. If a worker runs, its rules must have made the same
/// groups: a shadow by other rules cannot be installed. Without a worker, these rules must not undo any existing
/// group or number.
async fn ensure_same_rules(config: &Config, live: &Path) -> Result<(), RebuildError> {
    match Lock::try_acquire(live, "rebuild") {
        Err(StoreError::Locked { .. }) => ensure_made_by(config, live).await,
        _ => Ok(ensure_nothing_undone(live, &config.rules).await?),
    }
}
