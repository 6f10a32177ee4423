//! `streamgauge rebuild`

use std::path::PathBuf;

use super::Failure;
use super::progress::Progress;
use super::signals::stop_token;
use super::verify::From;
use crate::analytics::GroupName;
use crate::config::Config;
use crate::rebuild::{Until, rebuild_database, rebuild_groups, rebuild_into_file};

const WHAT: &str = "rebuilding";

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Source of the rebuild
    #[arg(long, value_enum, default_value = "stream")]
    from: From,
    /// Rebuild only these groups of tables, and the groups that depend on them, from the stored rows
    #[arg(long, value_name = "GROUP", conflicts_with_all = ["into", "until"], value_delimiter = ',',
          value_parser = GroupName::WORDS)]
    only: Vec<String>,
    /// Rebuild into a new file, and leave the database unchanged
    #[arg(long, value_name = "FILE")]
    into: Option<PathBuf>,
    /// Stop after this sequence of the stream, or before the first message that was received at or after this time
    #[arg(long, value_name = "SEQUENCE|TIME", requires = "into")]
    until: Option<Until>,
}

pub(super) async fn execute(args: Args, config: Config) -> Result<(), Failure> {
    let stop = stop_token(Some("stopping; run the same command again to continue"))?;
    let mut progress = Progress::of_messages(WHAT);
    let tell = &mut |done, of| progress.set_of(done, of);
    if let Some(file) = args.into {
        let seq = rebuild_into_file(config, &file, args.from.into(), args.until, &stop, tell).await?;
        progress.finish();
        out!("{}: as of {seq}", file.display());
    } else if !args.only.is_empty() || args.from == From::Database {
        let outcome = rebuild_groups(&config, args.only, &stop, tell).await?;
        progress.finish();
        out!("rebuilt: {} rows differed, ingestion waited {} ms", outcome.rows_that_differed, outcome.pause_ms);
    } else {
        let outcome = rebuild_database(&config, &stop, tell).await?;
        progress.finish();
        out!("rebuilt: the new database is in the place of the old one; ingestion waited {} ms", outcome.pause_ms);
    }
    Ok(())
}
