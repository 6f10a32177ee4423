//! `streamgauge verify`

use serde_json::json;

use super::Failure;
use super::progress::Progress;
use super::signals::stop_token;
use crate::config::Config;
use crate::rebuild::{Verified, verify, verify_sample};
use crate::store::{BuiltFrom, How, Reader, Status};

/// Where a write-ahead log grows beyond this, somebody keeps it from being moved into the file.
const LARGE_WAL_BYTES: u64 = 256 << 20;
const WHAT: &str = "verifying";

/// What a database is made from, or held against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum From {
    /// The stream; where it does not hold a message any more, the stored row
    Stream,
    /// The stored rows alone
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
    let reader = Reader::open(&config.database_path).await?;
    let status = reader.status().await?;
    reader.close();
    if status.wal_bytes > LARGE_WAL_BYTES {
        err!(
            "the write-ahead log has {} MiB: some program reads the database in one long transaction, and it grows until \
             that ends",
            status.wal_bytes >> 20
        );
    }
    let verified = match args.sample {
        Some(keys) => verify_sample(&config, keys).await?,
        None => {
            let stop = stop_token(Some("stopping; the same command goes on from here"))?;
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
            How::Extra => "the database has this row, and a rebuild does not".to_owned(),
            How::Missing => "a rebuild has this row, and the database does not".to_owned(),
            How::Other { column, found, rebuilt } => format!("{column} is {found}, and a rebuild has {rebuilt}"),
        };
        out!("DIFFERS  {name}: id {}: {how}", difference.id);
    }
    match verified.as_of {
        Some(as_of) => out!("as of {as_of}"),
        None => out!("a sample: the rest was not looked at"),
    }
    super::status::print_gaps(status);
    if !verified.is_equal() {
        err!(
            "the database is not what its messages make; `streamgauge rebuild` makes it so, or names a \
             row that it would lose"
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
