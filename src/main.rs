//! Arguments and logging; the rest is the library's.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use streamgauge::cli::Cli;
use tracing_subscriber::EnvFilter;

/// Messages are allocated by the reader and freed by the writer's thread, which glibc's allocator does slowly: with this
/// one the worker took about a sixth less CPU.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("streamgauge=info,async_nats=error,warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        // It would panic where nobody reads the log any more.
        .log_internal_errors(false)
        .init();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!("cannot start threads: {error}");
            return ExitCode::from(1);
        }
    };
    let code = runtime.block_on(cli.execute());
    // Without waiting for a read of standard input, which nothing ends but more input.
    runtime.shutdown_background();
    code
}
