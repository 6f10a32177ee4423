//! Rebuilds groups of derived tables while the worker keeps writing. In a worker, only this module fills
//! `store::ShadowGroups`.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{RebuildError, Tell, room};
use crate::config::Config;
use crate::store::{
    self, Asker, GroupRebuild, Reader, Request, RequestOutcome, STEP_MESSAGES, ShadowGroups, StoreError, WriterThread,
};

/// Pause after a failure, for example of the disk.
const RETRY_AFTER: Duration = Duration::from_secs(10);
/// Pause if the disk is full.
const RETRY_WHEN_FULL_AFTER: Duration = Duration::from_secs(60);
/// Largest number of messages that may be left when the groups are installed. If ingestion is faster than the
/// rebuild, more are left. The rebuild then takes turns with ingestion on the writer's thread, and each turn takes in
/// half of the rest.
const MAX_BEHIND: u64 = 100_000;
const LOG_EVERY: Duration = Duration::from_secs(10);

/// Rebuilds groups of derived tables whenever a rebuild is wanted.
#[derive(Debug, Clone)]
pub struct GroupRebuilder {
    /// The rebuild that is wanted; `None` if no rebuild is wanted.
    pub rebuilds: watch::Receiver<Option<GroupRebuild>>,
    /// The database.
    pub database: PathBuf,
    /// Installs the result.
    pub writer: WriterThread,
}

impl GroupRebuilder {
    /// Runs until `stop`. An unfinished rebuild continues at the next start.
    pub async fn run(mut self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let wanted = self.rebuilds.borrow_and_update().clone();
            let result = match wanted {
                Some(rebuild) => self.rebuild(rebuild, &stop).await,
                // No rebuild is wanted any more: removes an unfinished shadow file.
                None => store::discard_shadow_groups(&self.database),
            };
            let is_full = result.as_ref().is_err_and(StoreError::is_full);
            if (is_full || result.as_ref().is_err_and(StoreError::is_damage))
                && let Err(error) = store::discard_shadow_groups(&self.database)
            {
                tracing::warn!("{error}");
            }
            let retry_after = if is_full { RETRY_WHEN_FULL_AFTER } else { RETRY_AFTER };
            if let Err(error) = &result {
                tracing::warn!(retry_in_s = retry_after.as_secs(), "cannot rebuild derived tables: {error}");
            }
            tokio::select! {
                () = stop.cancelled() => return,
                changed = self.rebuilds.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(retry_after), if result.is_err() => {}
            }
        }
    }

    /// Fills a shadow file and has the writer install it. Returns early if another rebuild is wanted, or at `stop`.
    async fn rebuild(&self, rebuild: GroupRebuild, stop: &CancellationToken) -> Result<(), StoreError> {
        let groups = rebuild.names().join(" ");
        tracing::info!(groups, "rebuilding derived tables from raw rows");
        let database = self.database.clone();
        let mut shadow = store::blocking(move || ShadowGroups::open(&database, rebuild)).await?;
        let mut logged = Instant::now();
        loop {
            if stop.is_cancelled() || self.rebuilds.has_changed().unwrap_or(true) {
                return Ok(());
            }
            let mut has_more;
            (shadow, has_more) = store::blocking(move || {
                let has_more = shadow.step(shadow.step_messages())?;
                Ok((shadow, has_more))
            })
            .await?;
            if has_more && shadow.messages_behind()?.is_some_and(|behind| behind > MAX_BEHIND) {
                shadow = self.writer.run(move |_| catch_up_by_half(shadow)).await?;
                has_more = shadow.messages_behind()?.is_none_or(|behind| behind > MAX_BEHIND);
            }
            if !has_more {
                self.writer.run(move |writer| writer.install_groups(shadow)).await?;
                return Ok(());
            }
            if logged.elapsed() >= LOG_EVERY {
                logged = Instant::now();
                let progress = shadow.progress();
                tracing::info!(groups, rows = progress.rows, of = progress.total, "still rebuilding derived tables");
            }
        }
    }
}

/// Takes in half of the messages that are left, on the writer's thread. Ingestion waits meanwhile.
fn catch_up_by_half(mut shadow: ShadowGroups) -> Result<ShadowGroups, StoreError> {
    let began = shadow.messages_behind()?;
    while shadow.messages_behind()? > began.map(|behind| behind / 2) && shadow.step(STEP_MESSAGES)? {}
    Ok(shadow)
}

/// Rebuilds groups of derived tables from raw rows; all groups if none are named. The running worker does it; without
/// a worker, this process does it.
///
/// # Errors
/// Fails if the disk has no room, or if the process that holds the database fails.
pub async fn rebuild_groups(
    config: &Config,
    groups: Vec<String>,
    stop: &CancellationToken,
    tell: Tell<'_>,
) -> Result<RequestOutcome, RebuildError> {
    let database = &config.database_path;
    room::ensure_for_groups(database)?;
    Reader::open(database).await?.close();
    let criteria = config.criteria();
    let asker = Asker { database, command: "rebuild", rules: &config.rules, criteria: &criteria };
    let told = async || {
        // A connection for each look: the last connection that closes must be one that can write.
        let reader = Reader::open_unchecked(database);
        if let Ok(Some(progress)) = reader.rebuild_progress().await {
            tell(progress.rows, progress.total);
        }
        reader.close();
    };
    Ok(asker.ask(&Request::Rebuild { groups }, stop, told).await?)
}
