//! Rebuilds into a separate file, and leaves the database unchanged.

use std::path::Path;
use std::str::FromStr;

use tokio_util::sync::CancellationToken;

use super::replay::{Replay, ReplayEnd};
use super::{RebuildError, Tell, connect, room};
use crate::config::Config;
use crate::model::Timestamp;
use crate::nats::{self, Connection};
use crate::store::{self, BuiltFrom, Lock, Reader, StoreError};

/// Where the rebuild stops.
#[derive(Debug, Clone, Copy)]
pub enum Until {
    /// After this sequence of the stream.
    Sequence(u64),
    /// Before the first message that was received at or after this time.
    Time(Timestamp),
}

impl FromStr for Until {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(seq) = text.parse() {
            return Ok(Self::Sequence(seq));
        }
        let time = text.parse().map_err(|error| format!("{text:?} is not a sequence, and as a time it {error}"))?;
        Ok(Self::Time(time))
    }
}

/// Rebuilds the database into a file. Returns the last sequence in the file. If the process dies, the next call
/// continues.
///
/// # Errors
/// Fails if the file exists and is not an unfinished rebuild. Fails if the stream, the database or the file cannot be
/// read or written.
pub async fn rebuild_into_file(
    config: Config,
    file: &Path,
    built_from: BuiltFrom,
    until: Option<Until>,
    stop: &CancellationToken,
    tell: Tell<'_>,
) -> Result<u64, RebuildError> {
    let live = config.database_path.clone();
    let live = live.is_file().then_some(live);
    if live.is_none() && built_from == BuiltFrom::Rows {
        return Err(StoreError::Missing { path: config.database_path }.into());
    }
    if file.exists() && !store::is_unfinished(file) {
        return Err(RebuildError::FileExists { path: file.to_owned() });
    }
    let connection = match built_from {
        BuiltFrom::Stream => Some(connect(&config, stop).await?),
        BuiltFrom::Rows => None,
    };
    let end = end_of(until, live.as_deref(), connection.as_ref(), &config).await?;
    if let Some(live) = &live {
        room::ensure_for_file(live, file)?;
    }
    let replay = Replay::open(config, connection, live.as_deref(), file).await?;
    ensure_not_beyond(&replay, end, file).await?;
    let seq = replay.follow_closely(end, stop, tell).await?;
    replay.finish(stop).await?;
    replay.writer().run(move |writer| writer.make_standalone(live.as_deref())).await?;
    replay.close().await?;
    Lock::discard_of(file);
    Ok(seq)
}

/// Ensures that the file has not passed the end. An earlier rebuild that was killed may have had a later end.
async fn ensure_not_beyond(replay: &Replay, end: Option<ReplayEnd>, file: &Path) -> Result<(), RebuildError> {
    let position = replay.writer().run(|writer| writer.position()).await?;
    let stands = position.map(|position| ReplayEnd { epoch: position.epoch, seq: position.last_seq });
    match stands.filter(|stands| end.is_some_and(|end| *stands > end)) {
        None => Ok(()),
        Some(stands) => Err(RebuildError::BeyondEnd { path: file.to_owned(), seq: stands.seq }),
    }
}

/// Returns where the rebuild stops; `None` if it follows the live database to its current position.
async fn end_of(
    until: Option<Until>,
    live: Option<&Path>,
    connection: Option<&Connection>,
    config: &Config,
) -> Result<Option<ReplayEnd>, RebuildError> {
    let name = &config.stream.name;
    let Some(live) = live else {
        let Some(connection) = connection else { return Ok(None) };
        let seq = match until {
            Some(Until::Sequence(seq)) => seq,
            Some(Until::Time(time)) => nats::last_sequence_before(connection, name, time).await?,
            None => nats::last_sequence(connection, name).await?,
        };
        return Ok(Some(ReplayEnd { epoch: 1, seq }));
    };
    let Some(until) = until else { return Ok(None) };
    let reader = Reader::open(live).await?;
    let end = match until {
        Until::Sequence(seq) => reader.position().await?.map(|last| ReplayEnd { epoch: last.epoch, seq }),
        Until::Time(time) => {
            let place = reader.last_place_before(time).await?;
            Some(place.map_or(ReplayEnd { epoch: 0, seq: 0 }, |(epoch, seq)| ReplayEnd { epoch, seq }))
        }
    };
    reader.close();
    Ok(end)
}
