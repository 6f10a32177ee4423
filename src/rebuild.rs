//! Groups of derived tables whose rules have changed, made anew beside the worker that goes on writing: the one owner
//! of `store::Aside`.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::store::{self, Aside, Build, STEP_MESSAGES, StoreError, WriterThread};

/// How long to wait after a failure, say of the disk.
const RETRY_AFTER: Duration = Duration::from_secs(10);
/// How long where the disk is full.
const RETRY_WHEN_FULL_AFTER: Duration = Duration::from_secs(60);
/// Where ingestion is faster, it has to wait: before this many messages less are left, the builder takes turns with it on
/// the writer's thread, and each time takes in half of what is left.
const MAX_BEHIND: u64 = 100_000;
const LOG_EVERY: Duration = Duration::from_secs(10);

/// Builds what is wanted, whenever it is.
#[derive(Debug)]
pub struct Rebuild {
    /// The build that is wanted.
    pub builds: watch::Receiver<Option<Build>>,
    /// The database.
    pub database: PathBuf,
    /// Who puts in what was built.
    pub writer: WriterThread,
}

impl Rebuild {
    /// Runs until `stop`. A build that is not finished goes on at the next start.
    pub async fn run(mut self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let wanted = self.builds.borrow_and_update().clone();
            let result = match wanted {
                Some(build) => self.build(build, &stop).await,
                // Nothing any more: a file that was begun is of no use.
                None => store::discard_build(&self.database),
            };
            let is_full = result.as_ref().is_err_and(StoreError::is_full);
            if (is_full || result.as_ref().is_err_and(StoreError::is_damage))
                && let Err(error) = store::discard_build(&self.database)
            {
                tracing::warn!("{error}");
            }
            let retry_after = if is_full { RETRY_WHEN_FULL_AFTER } else { RETRY_AFTER };
            if let Err(error) = &result {
                tracing::warn!(retry_in_s = retry_after.as_secs(), "derived tables cannot be made anew: {error}");
            }
            tokio::select! {
                () = stop.cancelled() => return,
                changed = self.builds.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(retry_after), if result.is_err() => {}
            }
        }
    }

    /// Builds aside, until another build is wanted, and has it put in.
    async fn build(&self, build: Build, stop: &CancellationToken) -> Result<(), StoreError> {
        let groups = build.names().join(" ");
        tracing::info!(groups, "making derived tables anew from raw rows");
        let database = self.database.clone();
        let mut aside = store::blocking(move || Aside::open(&database, build)).await?;
        let mut logged = Instant::now();
        loop {
            if stop.is_cancelled() || self.builds.has_changed().unwrap_or(true) {
                return Ok(());
            }
            let mut has_more;
            (aside, has_more) = store::blocking(move || {
                let has_more = aside.step(aside.step_messages())?;
                Ok((aside, has_more))
            })
            .await?;
            if has_more && aside.messages_behind()?.is_some_and(|behind| behind > MAX_BEHIND) {
                aside = self.writer.run(move |_| catch_up_by_half(aside)).await?;
                has_more = aside.messages_behind()?.is_none_or(|behind| behind > MAX_BEHIND);
            }
            if !has_more {
                self.writer.run(move |writer| writer.swap(aside)).await?;
                return Ok(());
            }
            if logged.elapsed() >= LOG_EVERY {
                logged = Instant::now();
                let progress = aside.progress();
                tracing::info!(groups, rows = progress.rows, of = progress.total, "still making derived tables anew");
            }
        }
    }
}

fn catch_up_by_half(mut aside: Aside) -> Result<Aside, StoreError> {
    let began = aside.messages_behind()?;
    while aside.messages_behind()? > began.map(|behind| behind / 2) && aside.step(STEP_MESSAGES)? {}
    Ok(aside)
}
