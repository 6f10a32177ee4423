//! Whether a database is what its messages make: compared with a shadow, row by row, or in a sample.

use std::path::Path;

use tokio_util::sync::CancellationToken;

use super::replay::{Replay, ReplayEnd};
use super::{RebuildError, Tell, connect, ensure_made_by, ensure_not_stopped};
use crate::config::Config;
use crate::store::{self, BuiltFrom, Compared, Comparison, Lock, Reader};

/// The disk holds the shadow and the write-ahead log beside it: so often as large as the database.
const DISK_FACTOR: u64 = 2;

/// What was compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// How each table fared.
    pub tables: Vec<Compared>,
    /// Up to which sequence; none where a sample was compared.
    pub as_of: Option<u64>,
}

impl Verified {
    /// Whether no row differs.
    pub fn is_equal(&self) -> bool {
        self.tables.iter().all(|table| table.difference.is_none())
    }
}

/// Checks so many users, and so many hours of metrics, chosen at random.
///
/// # Errors
/// Where other rules made the database, or it cannot be read.
pub async fn verify_sample(config: &Config, keys: u32) -> Result<Verified, RebuildError> {
    let live = &config.database_path;
    ensure_made_by(config, live).await?;
    let reader = Reader::open(live).await?;
    let tables = reader.sample(config.rules.clone().into(), keys).await?;
    reader.close();
    Ok(Verified { tables, as_of: None })
}

/// Fills a shadow and compares every row of the public tables, in read transactions that end before the write-ahead log
/// grows.
///
/// # Errors
/// Where other rules made the database, or the stream, the database or the shadow cannot be read or written.
pub async fn verify(
    config: &Config,
    built_from: BuiltFrom,
    stop: &CancellationToken,
    tell: Tell<'_>,
) -> Result<Verified, RebuildError> {
    let live = &config.database_path;
    ensure_made_by(config, live).await?;
    let file = store::verify_path(live);
    let needed_bytes = (store::size_bytes(live) * DISK_FACTOR).saturating_sub(store::size_bytes(&file));
    store::ensure_room(&file, needed_bytes)?;
    let connection = match built_from {
        BuiltFrom::Stream => Some(connect(config).await?),
        BuiltFrom::Rows => None,
    };
    let replay = Replay::open(config.clone(), connection, Some(live), &file).await?;
    replay.follow_closely(None, stop, tell).await?;
    let (tables, seq) = compare(&replay, live, &file, stop).await?;
    replay.close().await?;
    store::remove_database(&file)?;
    Lock::discard_of(&file);
    Ok(Verified { tables, as_of: Some(seq) })
}

async fn compare(
    replay: &Replay,
    live: &Path,
    file: &Path,
    stop: &CancellationToken,
) -> Result<(Vec<Compared>, u64), RebuildError> {
    let (database, shadow) = (live.to_owned(), file.to_owned());
    let mut comparison = store::blocking(move || Comparison::open(&database, &shadow)).await?;
    loop {
        let moment;
        (comparison, moment) = store::blocking(move || {
            let moment = comparison.hold()?;
            Ok((comparison, moment))
        })
        .await?;
        let end = moment.position.as_ref().map(|position| ReplayEnd { epoch: position.epoch, seq: position.last_seq });
        replay.follow(end, stop).await?;
        ensure_not_stopped(stop)?;
        let database = live.to_owned();
        let is_done;
        (comparison, is_done) = store::blocking(move || {
            // Where a dead letter was applied meanwhile, the shadow has it already.
            let is_done = comparison.is_at(&moment, &database)? && comparison.go_on()?;
            comparison.let_go()?;
            Ok((comparison, is_done))
        })
        .await?;
        if is_done {
            return Ok((comparison.compared().to_vec(), end.map_or(0, |end| end.seq)));
        }
    }
}
