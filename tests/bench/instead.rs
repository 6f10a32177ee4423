//! Runs what people would write instead: short scripts that only insert raw rows, with the same stream, schema,
//! pragmas and durability.

use std::path::Path;
use std::process::Command;

use streamgauge::store::WRITER_PRAGMAS;

use crate::full::Bench;
use crate::report::output_folder;
use crate::support::Database;

/// A script, and the program that runs it.
#[derive(Debug, Clone, Copy)]
pub struct Script {
    pub what: &'static str,
    program: &'static str,
    text: &'static str,
    file: &'static str,
    /// The folder into which `deploy/bench` puts the script's packages. It lies below cargo's build folder.
    packages: &'static str,
}

pub const SCRIPTS: [Script; 2] = [
    Script {
        what: "Python: nats-py, sqlite3",
        program: "python3",
        text: include_str!("instead.py"),
        file: "instead.py",
        packages: "python",
    },
    Script {
        what: "Node: @nats-io/jetstream, better-sqlite3",
        program: "node",
        text: include_str!("instead.mjs"),
        file: "instead.mjs",
        packages: "node",
    },
];

impl Script {
    /// Returns the rows a second into an empty file, from the first request to the last commit. Returns `None` if the
    /// script's packages are missing.
    pub async fn rate_per_s(self, bench: &Bench, messages: usize) -> Option<f64> {
        let packages = output_folder().join(self.packages);
        if !packages.is_dir() {
            return None;
        }
        // Node looks for packages beside the script.
        let script = packages.join(self.file);
        std::fs::write(&script, self.text).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let database = Database(folder.path().join("instead.db"));
        migrate(bench, &database.0);
        let pragmas = serde_json::to_string(&WRITER_PRAGMAS).unwrap();
        let output = Command::new(self.program)
            .arg(&script)
            .args([&bench.url(), database.0.to_str().unwrap(), &messages.to_string(), &pragmas])
            .env("PYTHONPATH", &packages)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        assert!(output.status.success(), "{said} {}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(database.count("analytics_events") + database.count("metrics"), messages as u64);
        bench.forget_consumers().await;
        Some(said.parse().unwrap())
    }
}

fn migrate(bench: &Bench, database: &Path) {
    let mut command = bench.command();
    command.args(["--database", database.to_str().unwrap(), "migrate", "up"]);
    assert!(command.output().unwrap().status.success());
}
