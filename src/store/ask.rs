//! Asks for what only the holder of the database may do: the running worker, or, where none runs, this process.

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

/// How often to look whether the holder is gone.
const LOOK_FOR_LOCK_EVERY: Duration = Duration::from_secs(1);
/// How often to tell how far it is.
const TELL_EVERY: Duration = Duration::from_millis(200);
/// Things that a message names.
const MAX_NAMED: usize = 5;

/// Why a request did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No worker runs, and these rules would take away what the worker's configuration defines.
    #[error(
        "the database was made by another configuration than this command has, which would undo: {}; name the worker's \
         configuration with --config, or, where this is the new one, start the worker with it first", named(.undone)
    )]
    WouldUndo {
        /// What they would take away, or make otherwise.
        undone: Vec<String>,
    },
    /// The holder of the database refused, or failed.
    #[error("{0}")]
    Failed(String),
    /// The stop came first.
    #[error("interrupted; the worker, or the next one, goes on with it")]
    Interrupted,
}

/// The first names of a list, and how many more there are.
fn named(names: &[String]) -> String {
    let more = names.len().saturating_sub(MAX_NAMED);
    let first = names.iter().take(MAX_NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    if more > 0 { format!("{first} and {more} more") } else { first }
}

/// What this process works by where no worker runs.
#[derive(Debug, Clone)]
pub struct Asker<'a> {
    /// The database.
    pub database: &'a Path,
    /// What the lock file says meanwhile.
    pub command: &'a str,
    /// The rules of derived tables.
    pub rules: &'a Rules,
    /// What dead letters are judged by.
    pub criteria: &'a Criteria,
}

impl Asker<'_> {
    /// Leaves a request and waits until it is done. Calls `tell` now and then.
    ///
    /// # Errors
    /// [`AskError`] says why it is not done. After an interruption the worker, or the next one, goes on with it.
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

    /// Opens the database for writing, unless that would undo something.
    async fn open_writer(&self, lock: &Lock, pending: &mut Option<PendingRequest>) -> Result<Writer, AskError> {
        if let Err(error) = ensure_nothing_undone(self.database, self.rules).await {
            // Nobody is to do later what was refused.
            if let Some(pending) = pending.take() {
                blocking(move || pending.take_back()).await?;
            }
            return Err(error);
        }
        Ok(open_writer(lock, self.rules.clone()).await?)
    }

    /// Leaves the request where it is not left yet, does it where this process is the writer, and looks for the outcome.
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

/// Makes sure that a writer with these rules would take away nothing that the worker's configuration defines.
///
/// # Errors
/// [`AskError::WouldUndo`] names what it would take away.
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
        // What was damaged is left out from now on.
        Err(StoreError::Frozen { .. }) => Ok(true),
        result => result,
    }
}
