//! `streamgauge completions`

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Cli, Failure};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Shell that the script is for
    shell: Shell,
}

pub(super) fn execute(args: &Args) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "streamgauge", &mut script);
    out!("{}", String::from_utf8_lossy(&script).trim_end());
    Ok(())
}
