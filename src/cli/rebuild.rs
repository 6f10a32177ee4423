//! `streamgauge rebuild`

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Failure;
use super::ask::ask;
use super::progress::Progress;
use super::signals::stop_token;
use crate::config::Config;
use crate::model::Timestamp;
use crate::nats::{self, Connection};
use crate::replay::{End, Replay};
use crate::store::{self, Lock, Request, StoreError};

/// Messages that may be left for the worker to take in while it waits.
const MAX_LEFT_MESSAGES: u64 = 2_000;
/// Rounds after which the worker takes in what is left, however much: it writes faster than it is followed.
const MAX_ROUNDS: u32 = 20;
/// What a rebuild takes on the disk at its end, as often as the database is large: that one, the new one, and the new one
/// on its way into the old one.
const DISK_FACTOR: u64 = 3;
const DRAW_EVERY: Duration = Duration::from_millis(200);

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum From {
    /// The stream; where it does not hold a message any more, the stored row
    Stream,
    /// The stored rows alone
    Database,
}

/// Where to stop.
#[derive(Debug, Clone, Copy)]
enum Until {
    Sequence(u64),
    Time(Timestamp),
}

impl std::str::FromStr for Until {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(seq) = text.parse() {
            return Ok(Self::Sequence(seq));
        }
        let time = text.parse().map_err(|error| format!("{text:?} is no sequence, and as a time it {error}"))?;
        Ok(Self::Time(time))
    }
}

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What to make it from
    #[arg(long, value_enum, default_value = "stream")]
    from: From,
    /// Only these tables, and those that depend on them, from the stored rows
    #[arg(long, value_name = "GROUP", conflicts_with_all = ["into", "until"], value_delimiter = ',',
          value_parser = ["rollups", "sessions", "activity", "features", "funnels", "dashboard"])]
    only: Vec<String>,
    /// Make a new file, and leave the database as it is
    #[arg(long, value_name = "FILE")]
    into: Option<PathBuf>,
    /// Stop after this sequence of the stream, or before the first message that was received at or after this time
    #[arg(long, value_name = "SEQUENCE|TIME", requires = "into")]
    until: Option<Until>,
}

pub(super) async fn execute(args: Args, config: Config) -> Result<(), Failure> {
    if let Some(file) = args.into.clone() {
        return into_file(&args, config, &file).await;
    }
    if !args.only.is_empty() || args.from == From::Database {
        return groups(args.only, &config).await;
    }
    whole(config).await
}

/// Groups of derived tables, by the worker, or without one by this process.
async fn groups(groups: Vec<String>, config: &Config) -> Result<(), Failure> {
    let mut progress = Progress::of_messages("rebuilding", 0, 0);
    let database = &config.database_path;
    let tell = || {
        if let Ok(Some(built)) = store::build_progress(database) {
            progress.set_of(built.rows, built.total);
        }
    };
    let outcome = ask(config, "rebuild", Request::Rebuild { groups }, tell).await?;
    progress.finish();
    out!("rebuilt: {} rows differed, ingestion waited {} ms", outcome.rows_that_differed, outcome.pause_ms);
    Ok(())
}

async fn into_file(args: &Args, config: Config, file: &Path) -> Result<(), Failure> {
    let live = config.database_path.clone();
    let live = live.is_file().then_some(live);
    if live.is_none() && args.from == From::Database {
        return Err(Failure::failed(StoreError::Missing { path: config.database_path }));
    }
    if file.exists() && !store::is_unfinished(file) {
        return Err(Failure::Failed(format!("{} is there already; name another file", file.display())));
    }
    let connection = match args.from {
        From::Stream => Some(nats::connect(&config.nats).await.map_err(Failure::failed)?),
        From::Database => None,
    };
    let end = end_of(args.until, live.as_deref(), connection.as_ref(), &config).await?;
    if let Some(live) = &live {
        store::ensure_room(file, store::size_bytes(live) * (DISK_FACTOR - 1)).map_err(Failure::failed)?;
    }
    let stop = stop_token(Some("stopping; the same command goes on from here"))?;
    let replay = Replay::open(config, connection, live.as_deref(), file).await.map_err(Failure::failed)?;
    let position = follow(&replay, live.as_deref(), end, &stop).await?;
    finish(&replay, &stop).await?;
    let done = replay.writer().run(move |writer| writer.become_a_file(live.as_deref())).await;
    done.map_err(Failure::failed)?;
    replay.close().await.map_err(Failure::failed)?;
    store::discard_lock(file);
    out!("{}: as of {position}", file.display());
    Ok(())
}

async fn end_of(
    until: Option<Until>,
    live: Option<&Path>,
    connection: Option<&Connection>,
    config: &Config,
) -> Result<Option<End>, Failure> {
    let name = &config.stream.name;
    match (until, live) {
        (None, Some(_)) => Ok(None),
        (Some(Until::Sequence(seq)), Some(live)) => {
            let last = store::positions(live).map_err(Failure::failed)?.pop();
            Ok(last.map(|last| End { epoch: last.epoch, seq }))
        }
        (Some(Until::Time(time)), Some(live)) => {
            let place = store::last_place_before(live, time).map_err(Failure::failed)?;
            Ok(Some(place.map_or(End { epoch: 0, seq: 0 }, |(epoch, seq)| End { epoch, seq })))
        }
        (until, None) => {
            let Some(connection) = connection else { return Ok(None) };
            let seq = match until {
                Some(Until::Sequence(seq)) => seq,
                Some(Until::Time(time)) => {
                    nats::last_sequence_before(connection, name, time).await.map_err(Failure::failed)?
                }
                None => nats::last_sequence(connection, name).await.map_err(Failure::failed)?,
            };
            Ok(Some(End { epoch: 1, seq }))
        }
    }
}

/// The whole database, aside, and then into its place.
async fn whole(config: Config) -> Result<(), Failure> {
    let live = config.database_path.clone();
    ensure_same_rules(&config, &live).await?;
    let file = store::replica_path(&live);
    let needed_bytes = (store::size_bytes(&live) * DISK_FACTOR).saturating_sub(store::size_bytes(&file));
    store::ensure_room(&file, needed_bytes).map_err(Failure::failed)?;
    let stop = stop_token(Some("stopping; the same command goes on from here"))?;
    let connection = nats::connect(&config.nats).await.map_err(Failure::failed)?;
    let replay =
        Replay::open(config.clone(), Some(connection), Some(&live), &file).await.map_err(Failure::failed)?;
    follow(&replay, Some(&live), None, &stop).await?;
    finish(&replay, &stop).await?;
    // What came meanwhile.
    follow(&replay, Some(&live), None, &stop).await?;
    let database = live.clone();
    replay.writer().run(move |writer| writer.ensure_nothing_lost(&database)).await.map_err(Failure::failed)?;
    follow(&replay, Some(&live), None, &stop).await?;
    replay.close().await.map_err(Failure::failed)?;
    let file = std::path::absolute(&file).map_err(Failure::failed)?;
    let outcome = ask(&config, "rebuild", Request::Replace { file: file.clone() }, || ()).await?;
    store::discard_lock(&file);
    out!("rebuilt: the new database is in the place of the old one; ingestion waited {} ms", outcome.pause_ms);
    Ok(())
}

/// A worker has its own rules: what is built by others could not take its place.
async fn ensure_same_rules(config: &Config, live: &Path) -> Result<(), Failure> {
    drop(store::open_reader(live).await.map_err(Failure::failed)?);
    let Err(StoreError::Locked { .. }) = Lock::try_acquire(live, "rebuild") else { return Ok(()) };
    let differing = store::differing_groups(live, &config.rules).map_err(Failure::failed)?;
    if differing.is_empty() {
        return Ok(());
    }
    Err(Failure::Failed(format!(
        "the worker goes by another configuration than this command, or has not made by it yet: {}; name the worker's with \
         --config, or wait until `streamgauge status` shows nothing as rebuilding",
        differing.join(", ")
    )))
}

/// Fills the file until it is close to the live database, or at the end, with a bar. Returns the sequence it stands at.
async fn follow(
    replay: &Replay,
    live: Option<&Path>,
    end: Option<End>,
    stop: &CancellationToken,
) -> Result<u64, Failure> {
    for _ in 0..MAX_ROUNDS {
        let last = live.map(store::positions).transpose().map_err(Failure::failed)?.and_then(|mut all| all.pop());
        let upto = end.map(|end| end.seq).or(last.map(|last| last.last_seq)).unwrap_or_default();
        let telemetry = replay.telemetry();
        let mut progress = Progress::of_messages("rebuilding", telemetry.applied(), upto);
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
        let seq = stands.map_or(0, |stands| stands.last_seq);
        let Some(live) = live.filter(|_| end.is_none()) else { return Ok(seq) };
        let last = store::positions(live).map_err(Failure::failed)?.pop();
        if last.is_none_or(|last| last.last_seq.saturating_sub(seq) <= MAX_LEFT_MESSAGES) {
            return Ok(seq);
        }
    }
    Ok(0)
}

fn interrupted(stop: &CancellationToken) -> Result<(), Failure> {
    if stop.is_cancelled() {
        return Err(Failure::Failed("interrupted; the same command goes on from here".into()));
    }
    Ok(())
}

/// Makes the indexes.
async fn finish(replay: &Replay, stop: &CancellationToken) -> Result<(), Failure> {
    let mut made = 0;
    while replay.writer().run(|writer| writer.make_postponed()).await.map_err(Failure::failed)? {
        made += 1;
        interrupted(stop)?;
    }
    tracing::debug!(made, "indexes are made");
    Ok(())
}
