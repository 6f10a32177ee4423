//! `streamgauge digest`

use super::Failure;
use crate::config::Config;
use crate::store::Reader;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn execute(args: Args, config: Config) -> Result<(), Failure> {
    let reader = Reader::open_unchecked(&config.database_path);
    let digest = reader.digest().await?;
    if args.json {
        out!("{}", serde_json::to_string(&digest)?);
        return Ok(());
    }
    for (stream, sequence) in &digest.as_of {
        out!("as of {stream} {sequence}");
    }
    for (table, hash) in &digest.tables {
        out!("{hash}  {table}");
    }
    Ok(())
}
