//! Verifies that a database equals a rebuild from its messages: compares all rows with a shadow, or a sample of them.

use std::path::Path;

use tokio_util::sync::CancellationToken;

use super::replay::{Replay, ReplayEnd};
use super::{RebuildError, Tell, connect, ensure_made_by, ensure_not_stopped, room};
use crate::config::Config;
use crate::store::{self, BuiltFrom, Compared, Comparison, Lock, Reader};

/// The result of a verification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The result for each table.
    pub tables: Vec<Compared>,
    /// The last sequence that was compared; `None` for a sample.
    pub as_of: Option<u64>,
}

impl Verified {
    /// Whether no compared row differs.
    pub fn is_equal(&self) -> bool {
        self.tables.iter().all(|table| table.difference.is_none())
    }
}

/// Compares a random sample with a rebuild: up to `keys` users, and up to `keys` hours of metrics.
///
/// # Errors
/// Fails if other rules made the database, or if the database cannot be read.
pub async fn verify_sample(config: &Config, keys: u32) -> Result<Verified, RebuildError> {
    let live = &config.database_path;
    ensure_made_by(config, live).await?;
    let reader = Reader::open(live).await?;
    let tables = reader.sample(config.rules.clone().into(), keys).await?;
    reader.close();
    Ok(Verified { tables, as_of: None })
}

/// Fills a shadow and compares every row of the public tables. Each read transaction of the database is short, so
/// that its write-ahead log does not grow.
///
/// # Errors
/// Fails if other rules made the database, or if the stream, the database or the shadow cannot be read or written.
pub async fn verify(
    config: &Config,
    built_from: BuiltFrom,
    stop: &CancellationToken,
    tell: Tell<'_>,
) -> Result<Verified, RebuildError> {
    let live = &config.database_path;
    ensure_made_by(config, live).await?;
    let file = store::verify_path(live);
    room::ensure_for_file(live, &file)?;
    let connection = match built_from {
        BuiltFrom::Stream => Some(connect(config, stop).await?),
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

/// Compares in rounds: holds a snapshot of the live database, brings the shadow to its position, then compares rows.
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
            // A dead letter that was applied after the snapshot may be in the shadow: then this round compares
            // nothing.
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
