//! What commands that replay share: where from, how far, and how it is told.

use std::path::Path;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Failure;
use super::progress::Progress;
use crate::config::Config;
use crate::nats::{self, Connection};
use crate::replay::{End, Replay};
use crate::store::{self, Lock, StoreError};

/// Messages that may be left for the worker to take in while it waits.
const MAX_LEFT_MESSAGES: u64 = 2_000;
/// Rounds after which the worker takes in what is left, however much: it writes faster than it is followed.
const MAX_ROUNDS: u32 = 20;
/// Things that a message names.
const MAX_NAMED: usize = 5;
/// How long NATS may take to answer.
const NATS_PATIENCE: Duration = Duration::from_secs(10);
const DRAW_EVERY: Duration = Duration::from_millis(200);

/// What is replayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum From {
    /// The stream; where it does not hold a message any more, the stored row
    Stream,
    /// The stored rows alone
    Database,
}

pub(super) async fn connect(config: &Config) -> Result<Connection, Failure> {
    let connected = tokio::time::timeout(NATS_PATIENCE, nats::connect(&config.nats)).await;
    let connected = connected.map_err(|_| {
        let url = nats::without_secrets(&config.nats.url);
        Failure::Failed(format!("NATS at {url} does not answer; `--from database` makes do with the stored rows"))
    })?;
    connected.map_err(Failure::failed)
}

/// A worker has its own rules: what is built by others could not take its place. Without one, nothing may be undone.
pub(super) async fn ensure_same_rules(config: &Config, live: &Path) -> Result<(), Failure> {
    drop(store::open_reader(live).await.map_err(Failure::failed)?);
    match Lock::try_acquire(live, "rebuild") {
        Err(StoreError::Locked { .. }) => ensure_made_by(config, live),
        _ => ensure_nothing_undone(config, live),
    }
}

/// A command that does the worker's work must not take away what the worker's configuration defines.
pub(super) fn ensure_nothing_undone(config: &Config, live: &Path) -> Result<(), Failure> {
    let undone = store::undone_by(live, &config.rules).map_err(Failure::failed)?;
    if undone.is_empty() {
        return Ok(());
    }
    let more = if undone.len() > MAX_NAMED { format!(" and {} more", undone.len() - MAX_NAMED) } else { String::new() };
    Err(Failure::Failed(format!(
        "the database was made by another configuration than this command has, which would undo: {}{more}; name the \
         worker's configuration with --config, or, where this is the new one, start the worker with it first",
        undone.iter().take(MAX_NAMED).map(String::as_str).collect::<Vec<_>>().join(", ")
    )))
}

/// The database must be made by the rules of this configuration.
pub(super) fn ensure_made_by(config: &Config, live: &Path) -> Result<(), Failure> {
    let differing = store::differing_groups(live, &config.rules).map_err(Failure::failed)?;
    if differing.is_empty() {
        return Ok(());
    }
    Err(Failure::Failed(format!(
        "the database is being made anew, or was made by another configuration than this command has: {}; wait until \
         `streamgauge status` shows nothing as rebuilding, or name the worker's configuration with --config",
        differing.join(", ")
    )))
}

/// Fills the file until it is close to the live database, or at the end, with a bar. Returns the sequence it stands at.
pub(super) async fn follow(
    replay: &Replay,
    live: Option<&Path>,
    end: Option<End>,
    stop: &CancellationToken,
    what: &'static str,
) -> Result<u64, Failure> {
    let mut seq = 0;
    for _ in 0..MAX_ROUNDS {
        let last = live.map(store::positions).transpose().map_err(Failure::failed)?.and_then(|mut all| all.pop());
        let upto = end.map(|end| end.seq).or(last.map(|last| last.last_seq)).unwrap_or_default();
        let telemetry = replay.telemetry();
        let mut progress = Progress::of_messages(what, telemetry.applied(), upto);
        let following = replay.follow(end, stop);
        tokio::pin!(following);
        let stands = loop {
            tokio::select! {
                stands = &mut following => break stands,
                () = tokio::time::sleep(DRAW_EVERY) => progress.set(telemetry.applied()),
            }
        };
        progress.finish();
        let stands = stands.map_err(Failure::failed)?;
        interrupted(stop)?;
        seq = stands.map_or(0, |stands| stands.last_seq);
        let Some(live) = live.filter(|_| end.is_none()) else { return Ok(seq) };
        let last = store::positions(live).map_err(Failure::failed)?.pop();
        if last.is_none_or(|last| last.last_seq.saturating_sub(seq) <= MAX_LEFT_MESSAGES) {
            return Ok(seq);
        }
    }
    Ok(seq)
}

pub(super) fn interrupted(stop: &CancellationToken) -> Result<(), Failure> {
    if stop.is_cancelled() {
        return Err(Failure::Failed("interrupted; the same command goes on from here".into()));
    }
    Ok(())
}
