//! Sends requests that only the holder of the database may do. The holder is the running worker, or this process if
//! no worker runs.

use std::path::Path;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::error::StoreError;
use super::sqlite::blocking::blocking;
use super::sqlite::file::lock::Lock;
use super::sqlite::ledger::requests::{PendingRequest, Request, RequestOutcome};
use super::sqlite::read::Reader;
use super::writer::{Writer, open_writer};
use crate::analytics::Rules;
use crate::judge::Criteria;

/// How often to try the lock again, in case its holder has ended.
const LOOK_FOR_LOCK_EVERY: Duration = Duration::from_secs(1);
/// How often to report progress.
const TELL_EVERY: Duration = Duration::from_millis(200);
/// How many names an error message lists.
const MAX_NAMED: usize = 5;

/// Why a request did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No worker runs, and the rules of this command would undo what the worker's configuration defines.
    #[error(
        "the database was made with another configuration; the configuration of this command would undo: {}; name the \
         worker's configuration with --config; if this configuration is the new one, start the worker with it first",
        named(.undone)
    )]
    WouldUndo {
        /// What the rules would remove or change.
        undone: Vec<String>,
    },
    /// The holder of the database refused the request, or failed to do it.
    #[error("{0}")]
    Failed(String),
    /// The command was stopped before the request was done.
    #[error("interrupted; the running worker or the next one continues the request")]
    Interrupted,
}

/// Joins the first names of a list, and says how many more there are.
fn named(names: &[String]) -> String {
    let more = names.len().saturating_sub(MAX_NAMED);
    let first = names.iter().take(MAX_NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    if more > 0 { format!("{first} and {more} more") } else { first }
}

/// Sends requests to the holder of a database. If no worker runs, this process does them, with these rules and
/// criteria.
#[derive(Debug, Clone)]
pub struct Asker<'a> {
    /// The database.
    pub database: &'a Path,
    /// The name of the command that the lock file shows while this process holds the lock.
    pub command: &'a str,
    /// The rules of derived tables.
    pub rules: &'a Rules,
    /// The criteria for judging dead letters again.
    pub criteria: &'a Criteria,
}

impl Asker<'_> {
    /// Leaves a request in the database and waits until it is done. Calls `tell` every 200 ms meanwhile.
    ///
    /// # Errors
    /// [`AskError`] says why the request is not done. After an interruption, the running worker or the next one
    /// continues the request.
    pub async fn ask(
        &self,
        request: &Request,
        stop: &CancellationToken,
        mut tell: impl AsyncFnMut(),
    ) -> Result<RequestOutcome, AskError> {
        if !self.database.is_file() {
            return Err(StoreError::Missing { path: self.database.to_owned() }.into());
        }
        let mut pending: Option<PendingRequest> = None;
        loop {
            let lock = match Lock::acquire(self.database, self.command).await {
                Ok(lock) => Some(lock),
                Err(StoreError::Locked { .. }) => None,
                Err(error) => return Err(error.into()),
            };
            let writer = match &lock {
                Some(lock) => Some(self.open_writer(lock, &mut pending).await?),
                None => None,
            };
            let round = self.round(pending.take(), request, writer, stop);
            tokio::pin!(round);
            let (asked, outcome) = loop {
                tokio::select! {
                    done = &mut round => break done?,
                    () = tokio::time::sleep(TELL_EVERY) => tell().await,
                }
            };
            drop(lock);
            match outcome {
                Some(RequestOutcome { error: Some(error), .. }) => return Err(AskError::Failed(error)),
                Some(outcome) => return Ok(outcome),
                None if stop.is_cancelled() => return Err(AskError::Interrupted),
                None => pending = Some(asked),
            }
        }
    }

    /// Opens the database for writing, unless the rules of this command would undo something. In that case withdraws
    /// the request, if it was left already.
    async fn open_writer(&self, lock: &Lock, pending: &mut Option<PendingRequest>) -> Result<Writer, AskError> {
        if let Err(error) = ensure_nothing_undone(self.database, self.rules).await {
            // A refused request must not be done later.
            if let Some(pending) = pending.take() {
                blocking(move || pending.take_back()).await?;
            }
            return Err(error);
        }
        Ok(open_writer(lock, self.rules.clone()).await?)
    }

    /// Leaves the request if it is not left yet, does it if this process is the writer, and looks for the outcome.
    async fn round(
        &self,
        pending: Option<PendingRequest>,
        request: &Request,
        writer: Option<Writer>,
        stop: &CancellationToken,
    ) -> Result<(PendingRequest, Option<RequestOutcome>), StoreError> {
        let (database, criteria, request) = (self.database.to_owned(), self.criteria.clone(), request.clone());
        let stop = stop.clone();
        blocking(move || {
            let pending = match pending {
                Some(pending) => pending,
                None => PendingRequest::leave(&database, &request)?,
            };
            if let Some(mut writer) = writer {
                while !stop.is_cancelled() && do_next_request(&mut writer, &criteria)? {}
                writer.rebuild_groups()?;
                while !stop.is_cancelled() && do_next_request(&mut writer, &criteria)? {}
            }
            let until = Instant::now() + LOOK_FOR_LOCK_EVERY;
            let mut outcome = None;
            while outcome.is_none() && !stop.is_cancelled() && Instant::now() < until {
                outcome = pending.outcome()?;
            }
            Ok((pending, outcome))
        })
        .await
    }
}

/// Checks that a writer with these rules would not remove or change what the worker's configuration defines.
///
/// # Errors
/// [`AskError::WouldUndo`] names what the writer would remove or change.
pub async fn ensure_nothing_undone(database: &Path, rules: &Rules) -> Result<(), AskError> {
    let reader = Reader::open(database).await?;
    let undone = reader.undone_by(rules.clone().into()).await;
    reader.close();
    match undone? {
        undone if undone.is_empty() => Ok(()),
        undone => Err(AskError::WouldUndo { undone }),
    }
}

fn do_next_request(writer: &mut Writer, criteria: &Criteria) -> Result<bool, StoreError> {
    match writer.do_next_request(criteria) {
        // The damaged groups are frozen now, so the next try leaves them out.
        Err(StoreError::Frozen { .. }) => Ok(true),
        result => result,
    }
}
