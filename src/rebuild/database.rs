//! Rebuilds the whole database: a shadow from the stream, installed in its place while the worker goes on.

use std::path::Path;

use tokio_util::sync::CancellationToken;

use super::replay::Replay;
use super::{RebuildError, Tell, connect, ensure_made_by};
use crate::config::Config;
use crate::store::{
    self, Asker, Lock, Request, RequestOutcome, StoreError, ensure_nothing_lost, ensure_nothing_undone,
};

/// The disk holds the database, its shadow, and the shadow's pages on their way into the database's log: so often as large
/// as the database.
const DISK_FACTOR: u64 = 3;

/// Rebuilds the database from the stream and installs the result. Where it dies, the next call goes on.
///
/// # Errors
/// Where the stream, the database or the shadow cannot be read or written, or rows would be lost; then the database is as
/// it was.
pub async fn rebuild_database(
    config: &Config,
    stop: &CancellationToken,
    tell: Tell<'_>,
) -> Result<RequestOutcome, RebuildError> {
    let live = config.database_path.clone();
    ensure_same_rules(config, &live).await?;
    let file = store::shadow_path(&live);
    let needed_bytes = (store::size_bytes(&live) * DISK_FACTOR).saturating_sub(store::size_bytes(&file));
    store::ensure_room(&file, needed_bytes)?;
    let connection = connect(config).await?;
    let replay = Replay::open(config.clone(), Some(connection), Some(&live), &file).await?;
    replay.follow_closely(None, stop, tell).await?;
    let (built, database) = (file.clone(), live.clone());
    let check = move || ensure_nothing_lost(&built, &database);
    // Beside the making of indexes.
    let checking = tokio::spawn(store::blocking(check.clone()));
    replay.finish(stop).await?;
    // What came meanwhile.
    replay.follow_closely(None, stop, tell).await?;
    let checked = checking.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
    // It may have been a dead letter that was applied just then.
    let lost = if checked.is_err() { store::blocking(check).await } else { checked };
    replay.close().await?;
    if let Err(error) = lost {
        store::remove_database(&file)?;
        return Err(error.into());
    }
    let file = std::path::absolute(&file).map_err(|source| RebuildError::Path { path: file, source })?;
    let criteria = config.criteria();
    let asker = Asker { database: &live, command: "rebuild", rules: &config.rules, criteria: &criteria };
    let outcome = asker.ask(&Request::Install { file: file.clone() }, stop, async || ()).await?;
    Lock::discard_of(&file);
    Ok(outcome)
}

/// A worker has its own rules: a shadow by other rules could not take its place. Without a worker, nothing may be undone.
async fn ensure_same_rules(config: &Config, live: &Path) -> Result<(), RebuildError> {
    match Lock::try_acquire(live, "rebuild") {
        Err(StoreError::Locked { .. }) => ensure_made_by(config, live).await,
        _ => Ok(ensure_nothing_undone(live, &config.rules).await?),
    }
}
