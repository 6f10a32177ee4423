//! Describes the machine that was measured. Without the machine, no absolute figure means anything.

use std::process::Command;

use crate::support::nats_server;

/// Returns the facts of the machine as names and values.
pub fn description() -> serde_json::Value {
    let facts = facts().into_iter().map(|(name, value)| (name.to_owned(), value.into()));
    facts.collect::<serde_json::Map<String, serde_json::Value>>().into()
}

pub fn sentence() -> String {
    facts().map(|(_, value)| value).join(", ")
}

fn facts() -> [(&'static str, String); 7] {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    [
        ("processor", field_of("/proc/cpuinfo", "model name")),
        ("cores", format!("{cores} cores")),
        ("memory", memory()),
        ("system", format!("Linux {}", read("/proc/sys/kernel/osrelease").trim())),
        ("file_system", file_system()),
        ("sqlite", format!("SQLite {}", rusqlite::version())),
        ("nats_server", server()),
    ]
}

fn read(file: &str) -> String {
    std::fs::read_to_string(file).unwrap_or_default()
}

/// Returns the value of the first line with this name, in a file with lines such as `model name : x`.
fn field_of(file: &str, name: &str) -> String {
    let text = read(file);
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.split_once(':'));
    value.map_or_else(|| "unknown".into(), |(_, value)| value.trim().to_owned())
}

fn memory() -> String {
    let kib = field_of("/proc/meminfo", "MemTotal");
    let kib: f64 = kib.split_whitespace().next().and_then(|kib| kib.parse().ok()).unwrap_or_default();
    format!("{:.0} GiB", kib / f64::from(1 << 20))
}

/// Returns the type of the file system that holds the databases and streams.
fn file_system() -> String {
    let (folder, mounts) = (std::env::temp_dir(), read("/proc/mounts"));
    let mounts = mounts.lines().filter_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        Some((fields.next()?, fields.next()?))
    });
    let of_folder = mounts.filter(|(at, _)| folder.starts_with(at));
    of_folder.max_by_key(|(at, _)| at.len()).map_or("unknown", |(_, kind)| kind).to_owned()
}

fn server() -> String {
    let output = Command::new(nats_server()).arg("--version").output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim().replace(": v", " ")
}
