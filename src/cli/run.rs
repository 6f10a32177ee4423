//! `streamgauge run`

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::Failure;
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
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).map_err(Failure::failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::failed)?;
    let on_signal = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping: finishing the batch");
        on_signal.cancel();
    });
    app::run(config, args.new_epoch, stop).await.map_err(Failure::failed)?;
    tracing::info!("stopped");
    Ok(())
}
