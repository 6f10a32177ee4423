//! Asks for what only the holder of the database may do: the running worker, or, where none runs, this process.

use std::time::Duration;

use super::Failure;
use super::replaying::ensure_nothing_undone;
use super::signals::stop_token;
use crate::config::Config;
use crate::judge::Criteria;
use crate::store::{self, Asking, Lock, Outcome, Request, StoreError};

/// How often to look whether the holder is gone.
const LOOK_FOR_LOCK_EVERY: Duration = Duration::from_secs(1);

/// How often to tell how far it is.
const TELL_EVERY: Duration = Duration::from_millis(200);

/// Leaves a request and waits until it is done. `command` is what the lock file says meanwhile; `tell` is called now and
/// then.
pub(super) async fn ask(
    config: &Config,
    command: &str,
    request: Request,
    mut tell: impl FnMut(),
) -> Result<Outcome, Failure> {
    let path = config.database_path.clone();
    if !path.is_file() {
        return Err(Failure::failed(StoreError::Missing { path }));
    }
    let stop = stop_token(None)?;
    let mut asking: Option<Asking> = None;
    loop {
        let lock = match Lock::acquire(&path, command).await {
            Ok(lock) => Some(lock),
            Err(StoreError::Locked { .. }) => None,
            Err(error) => return Err(Failure::failed(error)),
        };
        if lock.is_some() {
            drop(store::open_reader(&path).await.map_err(Failure::failed)?);
            if let Err(refused) = ensure_nothing_undone(config, &path) {
                // Nobody is to do later what was refused.
                asking.map_or(Ok(()), |asked| asked.take_back()).map_err(Failure::failed)?;
                return Err(refused);
            }
        }
        let writer = match &lock {
            Some(lock) => Some(store::open_writer(lock, config.rules.clone()).await.map_err(Failure::failed)?),
            None => None,
        };
        let (database, criteria, request, stop) = (path.clone(), config.criteria(), request.clone(), stop.clone());
        let waiting = store::blocking(move || {
            let asked = match asking {
                Some(asked) => asked,
                None => Asking::ask(&database, &request)?,
            };
            if let Some(mut writer) = writer {
                while !stop.is_cancelled() && attend(&mut writer, &criteria)? {}
                writer.rebuild()?;
                while !stop.is_cancelled() && attend(&mut writer, &criteria)? {}
            }
            let until = std::time::Instant::now() + LOOK_FOR_LOCK_EVERY;
            let mut outcome = None;
            while outcome.is_none() && !stop.is_cancelled() && std::time::Instant::now() < until {
                outcome = asked.outcome()?;
            }
            Ok((asked, outcome, stop.is_cancelled()))
        });
        tokio::pin!(waiting);
        let waited = loop {
            tokio::select! {
                waited = &mut waiting => break waited,
                () = tokio::time::sleep(TELL_EVERY) => tell(),
            }
        };
        let (asked, outcome, is_stopped) = waited.map_err(Failure::failed)?;
        drop(lock);
        match outcome {
            Some(Outcome { error: Some(error), .. }) => return Err(Failure::Failed(error)),
            Some(outcome) => return Ok(outcome),
            None if is_stopped => {
                return Err(Failure::Failed("interrupted; the worker, or the next one, goes on with it".into()));
            }
            None => asking = Some(asked),
        }
    }
}

fn attend(writer: &mut store::Writer, criteria: &Criteria) -> Result<bool, StoreError> {
    match writer.attend(criteria) {
        // What was damaged is left out from now on.
        Err(StoreError::Frozen { .. }) => Ok(true),
        result => result,
    }
}
