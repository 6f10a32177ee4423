//! `streamgauge rebuild`

use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

use super::Failure;
use super::ask::ask;
use super::progress::Progress;
use super::replaying::{From, connect, ensure_same_rules, follow, interrupted};
use super::signals::stop_token;
use crate::config::Config;
use crate::model::Timestamp;
use crate::nats::{self, Connection};
use crate::replay::{End, Replay};
use crate::store::{self, Request, StoreError};

/// What a rebuild takes on the disk at its end, as often as the database is large: that one, the new one, and the new one
/// on its way into the old one.
const DISK_FACTOR: u64 = 3;
const WHAT: &str = "rebuilding";

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
    let mut progress = Progress::of_messages(WHAT, 0, 0);
    let database = &config.database_path;
    let tell = || {
        if let Ok(Some(built)) = store::build_progress(database) {
            progress.set_of(built.rows, built.total);
        }
    };
    store::ensure_room(database, store::MIN_FREE_BYTES + store::size_bytes(database) / 2).map_err(Failure::failed)?;
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
        From::Stream => Some(connect(&config).await?),
        From::Database => None,
    };
    let end = end_of(args.until, live.as_deref(), connection.as_ref(), &config).await?;
    if let Some(live) = &live {
        store::ensure_room(file, store::size_bytes(live) * (DISK_FACTOR - 1)).map_err(Failure::failed)?;
    }
    let stop = stop_token(Some("stopping; the same command goes on from here"))?;
    let replay = Replay::open(config, connection, live.as_deref(), file).await.map_err(Failure::failed)?;
    ensure_not_beyond(&replay, end, file).await?;
    let position = follow(&replay, live.as_deref(), end, &stop, WHAT).await?;
    finish(&replay, &stop).await?;
    let done = replay.writer().run(move |writer| writer.become_a_file(live.as_deref())).await;
    done.map_err(Failure::failed)?;
    replay.close().await.map_err(Failure::failed)?;
    store::discard_lock(file);
    out!("{}: as of {position}", file.display());
    Ok(())
}

/// A rebuild that was killed may have come further.
async fn ensure_not_beyond(replay: &Replay, end: Option<End>, file: &Path) -> Result<(), Failure> {
    let position = replay.writer().run(|writer| writer.position()).await.map_err(Failure::failed)?;
    let stands = position.map(|position| End { epoch: position.epoch, seq: position.last_seq });
    match stands.filter(|stands| end.is_some_and(|end| *stands > end)) {
        None => Ok(()),
        Some(stands) => Err(Failure::Failed(format!(
            "{} was begun for a later end, and stands at {} already; remove it with its -wal file, or name another",
            file.display(),
            stands.seq
        ))),
    }
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
    let connection = connect(&config).await?;
    let replay = Replay::open(config.clone(), Some(connection), Some(&live), &file).await.map_err(Failure::failed)?;
    follow(&replay, Some(&live), None, &stop, WHAT).await?;
    let (built, database) = (file.clone(), live.clone());
    let check = move || store::ensure_nothing_lost(&built, &database);
    // Beside the making of indexes.
    let checked = tokio::spawn(store::blocking(check.clone()));
    finish(&replay, &stop).await?;
    // What came meanwhile.
    follow(&replay, Some(&live), None, &stop, WHAT).await?;
    if checked.await.map_err(Failure::failed)?.is_err() {
        // It may have been a dead letter that was applied just then.
        if let Err(error) = store::blocking(check).await {
            replay.close().await.map_err(Failure::failed)?;
            store::remove_database(&file).map_err(Failure::failed)?;
            return Err(Failure::failed(error));
        }
    }
    replay.close().await.map_err(Failure::failed)?;
    let file = std::path::absolute(&file).map_err(Failure::failed)?;
    let outcome = ask(&config, "rebuild", Request::Replace { file: file.clone() }, || ()).await?;
    store::discard_lock(&file);
    out!("rebuilt: the new database is in the place of the old one; ingestion waited {} ms", outcome.pause_ms);
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
