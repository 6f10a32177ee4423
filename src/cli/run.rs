//! `streamgauge run`

use super::Failure;
use super::signals::stop_token;
use crate::app;
use crate::config::Config;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where the stream was recreated or rolled back: go on with what it holds now. Rows stay, and messages with ids
    /// are still counted once
    #[arg(long)]
    new_epoch: bool,
}

pub(super) async fn execute(args: Args, config: Config) -> Result<(), Failure> {
    let stop = stop_token("stopping: finishing the batch")?;
    app::run(config, args.new_epoch, stop).await.map_err(Failure::failed)?;
    tracing::info!("stopped");
    Ok(())
}
