//! `streamgauge run`

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use super::Failure;
use super::signals::stop_token;
use crate::analytics::Rules;
use crate::app;
use crate::config::{Config, ConfigError};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Continue with a stream that was recreated or rolled back, from what it holds now. Rows stay, and messages with
    /// ids are still counted once
    #[arg(long)]
    new_epoch: bool,
}

/// Runs the worker. `load` reads the configuration again after SIGHUP.
pub(super) async fn execute(
    args: Args,
    config: Config,
    load: impl FnMut() -> Result<Config, ConfigError> + Send + 'static,
) -> Result<(), Failure> {
    let stop = stop_token(Some("stopping: finishing the batch"))?;
    let (rules, new_rules) = watch::channel(config.rules.clone());
    let hangups = signal(SignalKind::hangup())?;
    tokio::spawn(reload(hangups, rules, load));
    app::run(config, args.new_epoch, new_rules, stop).await?;
    tracing::info!("stopped");
    Ok(())
}

/// Reads the rules again at every SIGHUP. A wrong configuration changes nothing.
async fn reload(
    mut hangups: Signal,
    rules: watch::Sender<Rules>,
    mut load: impl FnMut() -> Result<Config, ConfigError> + Send,
) {
    while hangups.recv().await.is_some() {
        match load() {
            Ok(config) => {
                tracing::info!(
                    "SIGHUP: features, funnels, widgets, dashboard.history and limits.session_timeout were read again; \
                     other keys change at the next start"
                );
                rules.send_replace(config.rules);
            }
            Err(error) => tracing::error!("SIGHUP: nothing changes: {error}"),
        }
    }
}
