//! Arguments and logging. The library does the rest.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use streamgauge::cli::Cli;
use tracing_subscriber::EnvFilter;

/// The reader allocates messages and the writer's thread frees them. glibc's allocator is slow at that: with
/// mimalloc, the worker took about a sixth less CPU.
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
        // With `true`, the worker would panic after the reader of its log has gone.
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
    // Does not wait for a pending read of standard input: only more input would end that read.
    runtime.shutdown_background();
    code
}
