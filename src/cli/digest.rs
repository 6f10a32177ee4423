//! `streamgauge digest`

use super::Failure;
use crate::config::Config;
use crate::store;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn execute(args: Args, config: Config) -> Result<(), Failure> {
    let digest = tokio::task::spawn_blocking(move || store::digest(&config.database_path))
        .await
        .map_err(Failure::failed)?
        .map_err(Failure::failed)?;
    if args.json {
        out!("{}", serde_json::to_string(&digest).map_err(Failure::failed)?);
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
