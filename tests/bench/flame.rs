//! Draws a flame graph: where the worker's time goes while it works off a backlog. Needs Linux's perf.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::everything::ALL;
use crate::full::Bench;
use crate::report::output_folder;
use crate::workload::{W, Workload};

/// Where `deploy/bench` puts the tools that draw the graph.
const TOOLS: &str = "inferno/bin";

/// Writes `flame.svg`. Returns its path.
pub async fn measure(messages: usize) -> PathBuf {
    let mut bench = Bench::start().await;
    bench.publish(Workload::new(W).take_outgoing(messages)).await;
    let (recorded, drawn) = (output_folder().join("perf.data"), output_folder().join("flame.svg"));
    let run = bench.run_recorded(&ALL.toml(), &recorded).await;
    println!("{:.0}/s while perf sampled the worker", run.rate_per_s);
    draw(&recorded, &drawn);
    drawn
}

/// Samples a process with perf until the process ends.
pub fn record(pid: u32, file: &Path) -> std::process::Child {
    let mut perf = Command::new("perf");
    // Stacks come from the unwind tables, because nothing is built with frame pointers.
    perf.args(["record", "--quiet", "--freq", "199", "--call-graph", "dwarf,16384", "--pid", &pid.to_string(), "-o"]);
    perf.arg(file).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("perf is missing: install Linux's perf")
}

fn draw(recorded: &Path, drawn: &Path) {
    let tool = |name: &str| output_folder().join(TOOLS).join(name);
    let script = format!(
        "perf script --no-inline -i '{}' 2>/dev/null | '{}' | tee '{}' | '{}' > '{}'",
        recorded.display(),
        tool("inferno-collapse-perf").display(),
        drawn.with_extension("folded").display(),
        tool("inferno-flamegraph").display(),
        drawn.display()
    );
    assert!(Command::new("sh").args(["-c", &script]).status().unwrap().success(), "{script}");
}
