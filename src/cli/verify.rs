//! `streamgauge verify`

use serde_json::json;

use super::Failure;
use super::progress::Progress;
use super::signals::stop_token;
use crate::config::Config;
use crate::rebuild::{Verified, verify, verify_sample};
use crate::store::{BuiltFrom, How, Reader, Status};

/// A write-ahead log beyond this size shows that a reader keeps it from being moved into the database file.
const LARGE_WAL_BYTES: u64 = 256 << 20;
const WHAT: &str = "verifying";

/// The source of a rebuild, or of a verification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum From {
    /// The stream, and the stored row of a message that the stream no longer holds
    Stream,
    /// Only the stored rows
    Database,
}

impl std::convert::From<From> for BuiltFrom {
    fn from(from: From) -> Self {
        match from {
            From::Stream => Self::Stream,
            From::Database => Self::Rows,
        }
    }
}

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Source of the rebuild that the database is compared with
    #[arg(long, value_enum, default_value = "stream")]
    from: From,
    /// Check only a random sample, which takes seconds: up to KEYS users and KEYS hours of metrics
    #[arg(long, value_name = "KEYS", num_args = 0..=1, default_missing_value = "200", conflicts_with = "from",
          value_parser = clap::value_parser!(u32).range(1..))]
    sample: Option<u32>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn execute(args: Args, config: Config) -> Result<(), Failure> {
    let reader = Reader::open(&config.database_path).await?;
    let status = reader.status().await?;
    reader.close();
    if status.wal_bytes > LARGE_WAL_BYTES {
        err!(
            "the write-ahead log has {} MiB: some program reads the database in one long transaction, and the log \
             grows until that transaction ends",
            status.wal_bytes >> 20
        );
    }
    let verified = match args.sample {
        Some(keys) => verify_sample(&config, keys).await?,
        None => {
            let stop = stop_token(Some("stopping; run the same command again to continue"))?;
            let mut progress = Progress::of_messages(WHAT);
            let tell = &mut |done, of| progress.set_of(done, of);
            let verified = verify(&config, args.from.into(), &stop, tell).await?;
            progress.finish();
            verified
        }
    };
    if args.json {
        out!("{}", as_json(&verified, &status));
    } else {
        print(&verified, &status);
    }
    if verified.is_equal() { Ok(()) } else { Err(Failure::Reported) }
}

fn print(verified: &Verified, status: &Status) {
    for table in &verified.tables {
        let (name, rows) = (table.table, table.equal_rows);
        let Some(difference) = &table.difference else {
            out!("equal    {name}: {rows} rows");
            continue;
        };
        let how = match &difference.how {
            How::Extra => "the database has this row, but a rebuild does not".to_owned(),
            How::Missing => "a rebuild has this row, but the database does not".to_owned(),
            How::Other { column, found, rebuilt } => format!("{column} is {found}, but a rebuild has {rebuilt}"),
        };
        out!("DIFFERS  {name}: id {}: {how}", difference.id);
    }
    match verified.as_of {
        Some(as_of) => out!("as of {as_of}"),
        None => out!("a sample: the other rows were not checked"),
    }
    super::status::print_gaps(status);
    if !verified.is_equal() {
        err!(
            "the database differs from a rebuild of its messages; `streamgauge rebuild` repairs the database, or \
             names a row that it would lose"
        );
    }
}

fn as_json(verified: &Verified, status: &Status) -> serde_json::Value {
    json!({
        "equal": verified.is_equal(),
        "as_of": verified.as_of,
        "tables": verified.tables,
        "gaps": status.gaps,
        "missing_messages": status.missing_messages,
        "gap_ranges": status.gap_ranges,
    })
}
