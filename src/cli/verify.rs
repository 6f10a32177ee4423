//! `streamgauge verify`

use std::path::Path;

use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::Failure;
use super::replaying::{From, connect, ensure_made_by, follow, interrupted};
use super::signals::stop_token;
use crate::config::Config;
use crate::replay::{End, Replay};
use crate::store::{self, Compared, Comparison, How, Status};

/// Where a write-ahead log grows beyond this, somebody keeps it from being moved into the file.
const LARGE_WAL_BYTES: u64 = 256 << 20;
/// What is built aside, as often as the database is large; and its own write-ahead log.
const DISK_FACTOR: u64 = 2;
const WHAT: &str = "verifying";

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What to hold the database against
    #[arg(long, value_enum, default_value = "stream")]
    from: From,
    /// Check so many keys, chosen at random, in seconds
    #[arg(long, value_name = "KEYS", num_args = 0..=1, default_missing_value = "200", conflicts_with = "from",
          value_parser = clap::value_parser!(u32).range(1..))]
    sample: Option<u32>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn execute(args: Args, config: Config) -> Result<(), Failure> {
    let live = config.database_path.clone();
    let pool = store::open_reader(&live).await.map_err(Failure::failed)?;
    let status = store::status(&pool, &live).await.map_err(Failure::failed)?;
    pool.close().await;
    ensure_made_by(&config, &live)?;
    if status.wal_bytes > LARGE_WAL_BYTES {
        err!(
            "the write-ahead log has {} MiB: some program reads the database in one long transaction, and it grows until \
             that ends",
            status.wal_bytes >> 20
        );
    }
    let (compared, as_of) = match args.sample {
        Some(keys) => {
            let (rules, database) = (config.rules.clone(), live.clone());
            let compared = store::blocking(move || store::sample(&database, &rules, keys)).await;
            (compared.map_err(Failure::failed)?, None)
        }
        None => whole(&args, &config, &live).await.map(|(compared, as_of)| (compared, Some(as_of)))?,
    };
    let is_equal = compared.iter().all(|table| table.difference.is_none());
    if args.json {
        out!("{}", as_json(&compared, as_of, &status));
    } else {
        print(&compared, as_of, &status);
    }
    if is_equal { Ok(()) } else { Err(Failure::Reported) }
}

/// Rebuilds aside, and compares in read transactions that end before the write-ahead log grows.
async fn whole(args: &Args, config: &Config, live: &Path) -> Result<(Vec<Compared>, u64), Failure> {
    let file = store::verified_path(live);
    let needed_bytes = (store::size_bytes(live) * DISK_FACTOR).saturating_sub(store::size_bytes(&file));
    store::ensure_room(&file, needed_bytes).map_err(Failure::failed)?;
    let stop = stop_token(Some("stopping; the same command goes on from here"))?;
    let connection = match args.from {
        From::Stream => Some(connect(config).await?),
        From::Database => None,
    };
    let replay = Replay::open(config.clone(), connection, Some(live), &file).await.map_err(Failure::failed)?;
    follow(&replay, Some(live), None, &stop, WHAT).await?;
    let comparison = Comparison::open(live, &file).map_err(Failure::failed)?;
    let compared = compare(&replay, comparison, live, &stop).await?;
    replay.close().await.map_err(Failure::failed)?;
    store::remove_database(&file).map_err(Failure::failed)?;
    store::discard_lock(&file);
    Ok(compared)
}

async fn compare(
    replay: &Replay,
    mut comparison: Comparison,
    live: &Path,
    stop: &CancellationToken,
) -> Result<(Vec<Compared>, u64), Failure> {
    loop {
        let moment = comparison.hold().map_err(Failure::failed)?;
        let end = moment.position.as_ref().map(|position| End { epoch: position.epoch, seq: position.last_seq });
        replay.follow(end, stop).await.map_err(Failure::failed)?;
        interrupted(stop)?;
        // Where a dead letter was applied meanwhile, that is in what is built aside already.
        let is_done = if comparison.is_at(&moment, live).map_err(Failure::failed)? {
            let went_on;
            (comparison, went_on) = store::blocking(move || {
                let is_done = comparison.go_on()?;
                Ok((comparison, is_done))
            })
            .await
            .map_err(Failure::failed)?;
            went_on
        } else {
            false
        };
        comparison.let_go().map_err(Failure::failed)?;
        if is_done {
            return Ok((comparison.compared().to_vec(), end.map_or(0, |end| end.seq)));
        }
    }
}

fn print(compared: &[Compared], as_of: Option<u64>, status: &Status) {
    for table in compared {
        let (name, rows) = (table.table, table.equal_rows);
        let Some(difference) = &table.difference else {
            out!("equal    {name}: {rows} rows");
            continue;
        };
        let how = match &difference.how {
            How::Extra => "the database has this row, and a rebuild does not".to_owned(),
            How::Missing => "a rebuild has this row, and the database does not".to_owned(),
            How::Other { column, found, rebuilt } => format!("{column} is {found}, and a rebuild has {rebuilt}"),
        };
        out!("DIFFERS  {name}: id {}: {how}", difference.id);
    }
    match as_of {
        Some(as_of) => out!("as of {as_of}"),
        None => out!("a sample: the rest was not looked at"),
    }
    super::status::print_gaps(status);
    if compared.iter().any(|table| table.difference.is_some()) {
        err!(
            "the database is not what its messages make; `streamgauge rebuild` makes it so, or names a \
             row that it would lose"
        );
    }
}

fn as_json(compared: &[Compared], as_of: Option<u64>, status: &Status) -> serde_json::Value {
    let is_equal = compared.iter().all(|table| table.difference.is_none());
    json!({
        "equal": is_equal,
        "as_of": as_of,
        "tables": compared,
        "gaps": status.gaps,
        "missing_messages": status.missing_messages,
        "gap_ranges": status.gap_ranges,
    })
}
