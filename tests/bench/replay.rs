//! Measures how fast a rebuild makes the database, beside live ingestion of the same messages.

use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::full::{Bench, peak_mib};

/// The result of one way to rebuild the database.
pub struct Replayed {
    pub what: &'static str,
    /// Messages a second, from the command's start to its end.
    pub rate_per_s: f64,
    /// The peak resident size, in MiB.
    pub peak_mib: f64,
}

const WAYS: [(&str, &[&str]); 4] = [
    ("from the stream, into a file", &["rebuild", "--into", "stream.db"]),
    ("from the rows, into a file", &["rebuild", "--from", "database", "--into", "rows.db"]),
    ("from the stream, installed", &["rebuild"]),
    ("from the rows, installed", &["rebuild", "--from", "database"]),
];

/// Rebuilds the bench's database in every way.
pub fn measure(bench: &Bench, messages: usize) -> Vec<Replayed> {
    let measured = WAYS.map(|(what, args)| {
        let began = Instant::now();
        let mut command = bench.command().args(args).stdout(Stdio::null()).stderr(Stdio::inherit()).spawn().unwrap();
        let mut peak = 0.0_f64;
        let status = loop {
            if let Some(status) = command.try_wait().unwrap() {
                break status;
            }
            peak = peak.max(peak_mib(command.id()));
            std::thread::sleep(Duration::from_millis(5));
        };
        let rate_per_s = messages as f64 / began.elapsed().as_secs_f64();
        assert!(status.success(), "{what}");
        if let ["--into", file] = args[args.len().saturating_sub(2)..] {
            std::fs::remove_file(bench.database().with_file_name(file)).unwrap();
        }
        Replayed { what, rate_per_s, peak_mib: peak }
    });
    measured.into()
}
