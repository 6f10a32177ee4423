//! The command line: one file for each command. Data goes to stdout, messages to stderr.
//!
//! Exit status: 0 done; 1 failed, or a difference was found; 2 wrong usage or configuration.

/// Prints a line of data to stdout. A closed pipe is not a failure: the reader has all that it wants.
macro_rules! out {
    ($($line:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout(), $($line)*);
    }};
}

/// Prints a message to stderr.
macro_rules! err {
    ($($line:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($line)*);
    }};
}

mod check;
mod completions;
mod demo;
mod digest;
mod dlq;
mod funnel;
mod lines;
mod migrate;
mod progress;
mod publish;
mod rebuild;
mod run;
mod signals;
mod status;
mod verify;
mod watch;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{self, ConfigError, Sources};

/// Exact, live analytics from NATS JetStream in one SQLite file.
#[derive(Debug, Parser)]
#[command(name = "streamgauge", version, propagate_version = true)]
pub struct Cli {
    /// Configuration file; else STREAMGAUGE_CONFIG, else streamgauge.toml if it exists
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// NATS servers, separated by commas (nats.url)
    #[arg(long, global = true, value_name = "URL")]
    nats: Option<String>,
    /// The SQLite file (database.url)
    #[arg(long, global = true, value_name = "URL")]
    database: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Read the stream into the database, until SIGTERM or SIGINT
    Run(run::Args),
    /// Run everything on this machine: a nats-server, a worker, live traffic and the page
    Demo(demo::Args),
    /// Publish lines of JSON
    Publish(publish::Args),
    /// Show the position of the database, lag, dead letters, gaps and rebuilds
    Status(status::Args),
    /// Follow the numbers of widgets as they change
    Watch(watch::Args),
    /// Hash the public tables: equal digests mean equal tables
    Digest(digest::Args),
    /// List funnels, show a funnel, or explain the way of an actor through a funnel
    #[command(subcommand)]
    Funnel(funnel::Action),
    /// List, show, retry or drop dead letters
    #[command(subcommand)]
    Dlq(dlq::Action),
    /// Rebuild the database from the stream or from its stored rows, while the worker keeps running
    Rebuild(rebuild::Args),
    /// Verify that the database equals a rebuild from its messages
    Verify(verify::Args),
    /// Apply, revert or list migrations
    Migrate(migrate::Args),
    /// Print a script that completes commands in a shell
    Completions(completions::Args),
    /// Parse the configuration and print the result, with secrets hidden
    Check,
}

/// Why a command did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Exit status 2.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Exit status 2.
    #[error("{0}")]
    Usage(String),
    /// Exit status 1.
    #[error("{0}")]
    Failed(String),
    /// Exit status 1; the command has printed its messages already.
    #[error("failed")]
    Reported,
}

/// Converts errors whose text is a complete message.
macro_rules! fails_with {
    ($($error:ty),* $(,)?) => {$(
        impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self::Failed(error.to_string())
            }
        }
    )*};
}
fails_with!(
    std::io::Error,
    serde_json::Error,
    toml::ser::Error,
    crate::app::AppError,
    crate::nats::NatsError,
    crate::rebuild::RebuildError,
    crate::store::AskError,
    crate::store::StoreError,
);

impl Cli {
    /// Runs the command.
    pub async fn execute(self) -> ExitCode {
        match self.dispatch().await {
            Ok(()) => ExitCode::SUCCESS,
            Err(Failure::Reported) => ExitCode::from(1),
            Err(failure) => {
                err!("streamgauge: {failure}");
                ExitCode::from(if matches!(failure, Failure::Config(_) | Failure::Usage(_)) { 2 } else { 1 })
            }
        }
    }

    async fn dispatch(self) -> Result<(), Failure> {
        if let (Command::Demo(_), Some(flag)) = (&self.command, self.configuring_flag()) {
            let why = "it starts its own nats-server, with its own database and configuration";
            return Err(Failure::Usage(format!("demo takes no {flag}: {why}; see `streamgauge demo --help`")));
        }
        // These two commands use no configuration.
        let sources = match self.command {
            Command::Demo(args) => return demo::execute(args).await,
            Command::Completions(args) => return completions::execute(&args),
            _ => self.sources(),
        };
        let (raw, config) = config::load(&sources)?;
        match self.command {
            Command::Run(args) => {
                let mut sources = sources.pinned();
                let load = move || {
                    sources = sources.clone().pinned();
                    config::load(&sources).map(|(_, config)| config)
                };
                run::execute(args, config, load).await
            }
            Command::Publish(args) => publish::execute(args, config).await,
            Command::Watch(args) => watch::execute(args, config).await,
            Command::Demo(_) | Command::Completions(_) => Ok(()),
            Command::Status(args) => status::execute(args, config).await,
            Command::Digest(args) => digest::execute(args, config).await,
            Command::Funnel(action) => funnel::execute(action, config).await,
            Command::Dlq(action) => dlq::execute(action, config).await,
            Command::Rebuild(args) => rebuild::execute(args, config).await,
            Command::Verify(args) => verify::execute(args, config).await,
            Command::Migrate(args) => migrate::execute(args, config).await,
            Command::Check => check::execute(raw),
        }
    }

    /// Returns the first given flag that chooses or changes the configuration.
    fn configuring_flag(&self) -> Option<&'static str> {
        let flags = [
            ("--config", self.config.is_some()),
            ("--nats", self.nats.is_some()),
            ("--database", self.database.is_some()),
        ];
        flags.into_iter().find_map(|(flag, is_set)| is_set.then_some(flag))
    }

    fn sources(&self) -> Sources {
        let flags = [("nats.url", &self.nats), ("database.url", &self.database)];
        Sources {
            file: self.config.clone(),
            // Ignores variables that are not Unicode: none of them is a key of the configuration.
            env: std::env::vars_os()
                .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
                .collect(),
            flags: flags.into_iter().filter_map(|(key, value)| Some((key, value.clone()?))).collect(),
        }
    }
}
