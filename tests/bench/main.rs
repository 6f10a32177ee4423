//! The ruler: what ingestion costs on this machine, beside what SQLite alone costs. Called by `deploy/bench`.
//!
//! Ratios are the result: absolute figures differ from machine to machine, and from hour to hour on a shared one.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

#[allow(dead_code, unused_imports, reason = "shared with the tests")]
#[path = "../support/mod.rs"]
mod support;

mod closing;
mod dashboards;
mod everything;
mod full;
mod funnels;
mod instead;
mod limit;
mod replay;
mod workload;

use std::path::Path;

use streamgauge::config::{self, Config, Sources};
use streamgauge::judge::Judge;
use streamgauge::nats::Outgoing;
use streamgauge::store::{self, Lock, Writer};

use dashboards::Numbers;
use full::{Bench, Run};
use funnels::{Funnels, LATENESS};
use workload::Workload;

/// How much is measured.
struct Sizes {
    /// Messages of a measurement.
    messages: usize,
    /// Messages that the file holds already when it is measured again; 0 leaves that out.
    stored: usize,
    /// Messages that are replayed where nothing else is measured.
    replayed: usize,
    /// Sessions that close at once.
    open_sessions: u64,
    /// Events whose way to a subscriber is timed.
    live_events: u32,
}

const WHOLE: Sizes =
    Sizes { messages: 500_000, stored: 5_000_000, replayed: 2_000_000, open_sessions: 1_000_000, live_events: 20_000 };
const SHORT: Sizes =
    Sizes { messages: 100_000, stored: 0, replayed: 100_000, open_sessions: 50_000, live_events: 6_000 };

/// As many as funnels and dashboards are measured with.
const FUNNEL_MESSAGES: usize = 200_000;
/// The best of so many counts: what else the machine does only ever slows down.
const FUNNEL_ROUNDS: usize = 3;

#[tokio::main]
async fn main() {
    let is_short = std::env::args().any(|argument| argument == "--short");
    let sizes = if is_short { SHORT } else { WHOLE };
    let config = config::load(&Sources::default()).unwrap().1;
    if std::env::args().any(|argument| argument == "--replay") {
        let mut bench = Bench::start().await;
        let mut workload = Workload::new();
        for _ in 0..sizes.replayed / sizes.messages {
            bench.publish(workload.take_outgoing(sizes.messages)).await;
        }
        let run = bench.run().await;
        measure_replays(&bench, &run, sizes.replayed);
        return;
    }
    // First, while this process has not taken memory for anything else.
    close_sessions(&config, sizes.open_sessions).await;
    swap_sessions(&config).await;

    let mut workload = Workload::new();
    let messages = workload.take_outgoing(sizes.messages);
    let bytes: usize = messages.iter().map(|message| message.payload.len()).sum();
    println!("workload W: {} messages of {} bytes in the mean", messages.len(), bytes / messages.len());
    measure_funnels(&config, &messages[..messages.len().min(FUNNEL_MESSAGES)]).await;
    measure_dashboards(&config, &messages[..messages.len().min(FUNNEL_MESSAGES)], sizes.live_events).await;
    let limit = limit_of_an_empty_file(&config, &messages).await;
    let mut bench = Bench::start().await;
    let publish = bench.publish(messages).await;
    let run = bench.run().await;
    report("on an empty file", limit, &run);
    println!("  publish, every message acknowledged   {publish:>9.0}/s");
    measure_replays(&bench, &run, sizes.messages);
    measure_parts(&mut bench, limit).await;
    measure_scripts(&bench, &run, sizes.messages).await;

    if sizes.stored > 0 {
        for _ in 0..(sizes.stored / sizes.messages - 1) {
            bench.purge().await;
            bench.publish(workload.take_outgoing(sizes.messages)).await;
            bench.run().await;
        }
        bench.purge().await;
        let messages = workload.take_outgoing(sizes.messages);
        let limit = limit_of_a_copy(&config, &bench.database(), &messages);
        bench.publish(messages).await;
        let run = bench.run().await;
        report(&format!("on a file of {} messages", sizes.stored), limit, &run);
    }

    let latency_ms = bench.idle_latency_ms().await;
    let percentile = |percent| percentile(&latency_ms, percent);
    println!("publish to row, idle: p50 {:.1} ms, p99 {:.1} ms", percentile(50), percentile(99));
}

/// The writer's rate with funnels beside that without, and hits that run again.
async fn measure_funnels(config: &Config, messages: &[Outgoing]) {
    let kinds = [
        ("1 that nothing matches", Funnels::Unmatched(1)),
        ("10 that nothing matches", Funnels::Unmatched(10)),
        ("100 that nothing matches", Funnels::Unmatched(100)),
        ("10, 1 event in 3 in one of them", Funnels::InOne),
        ("10, 1 event in 3 in five of them", Funnels::InFive),
    ];
    let (mut without, mut with) = (0.0_f64, [(0.0_f64, 0); 5]);
    for _ in 0..FUNNEL_ROUNDS {
        without = without.max(funnels::writer_rate(config, messages).await.rate_per_s);
        for (best, (_, funnels)) in with.iter_mut().zip(kinds) {
            let written = funnels::writer_rate(&funnels.config(), messages).await;
            *best = (best.0.max(written.rate_per_s), written.conversions);
        }
    }
    println!("funnels of five steps: rate of the writer alone, beside {without:.0}/s without any");
    for ((rate, rows), (what, _)) in with.iter().zip(kinds) {
        println!("  {what:<37} {:>11.2}  ({rows} rows)", rate / without);
    }
    println!("hits that the machine takes for each that comes");
    for (what, lateness_ms) in LATENESS {
        println!("  {what:<37} {:>11.2}", funnels::hits_run_each(lateness_ms));
    }
}

/// Of sorted values, by nearest rank.
fn percentile(sorted: &[f64], percent: usize) -> f64 {
    sorted[(sorted.len() * percent).div_ceil(100) - 1]
}

/// The writer's rate with widgets beside that without, and the way of a change to a subscriber.
async fn measure_dashboards(config: &Config, messages: &[Outgoing], live_events: u32) {
    let kinds = [("1,000, of which ten change", Numbers::FewOfMany), ("those of the demo", Numbers::OfDemo)];
    let (mut without, mut with) = (0.0_f64, [(0.0_f64, 0.0); 2]);
    for _ in 0..FUNNEL_ROUNDS {
        without = without.max(funnels::writer_rate(config, messages).await.rate_per_s);
        for (best, (_, numbers)) in with.iter_mut().zip(kinds) {
            let written = funnels::writer_rate(&numbers.config(), messages).await;
            *best = (best.0.max(written.rate_per_s), written.dashboards_share * 100.0);
        }
    }
    println!("numbers of widgets: rate of the writer alone, beside {without:.0}/s without any");
    for ((rate, percent), (what, _)) in with.iter().zip(kinds) {
        println!("  {what:<37} {:>11.2}  ({percent:.1} % of its time)", rate / without);
    }
    let latency_ms = dashboards::latency_ms(2_000, live_events).await;
    let percentile = |percent| percentile(&latency_ms, percent);
    println!("publish to dashboard message, 2,000/s: p50 {:.1} ms, p99 {:.1} ms", percentile(50), percentile(99));
}

fn report(what: &str, limit: f64, run: &Run) {
    println!("{what}");
    println!("  limit: raw rows through SQLite alone  {limit:>9.0}/s");
    println!("  full: stream to committed             {:>9.0}/s", run.rate_per_s);
    println!("  full / limit                          {:>11.2}", run.rate_per_s / limit);
    let total_s: f64 = run.write_s.values().sum();
    for (part, s) in &run.write_s {
        println!("  write time: {part:<26}{:>9.0} %", s / total_s * 100.0);
    }
    println!("  CPU of the worker                     {:>9.1} s for a million messages", run.cpu_s_per_million);
    println!("  peak resident                         {:>9.0} MiB", run.peak_mib);
}

/// The whole way with all that can be configured, and without each part of it.
async fn measure_parts(bench: &mut Bench, limit: f64) {
    println!("stream to committed / limit, by what is configured");
    for (what, parts) in everything::KINDS {
        let run = bench.run_anew(&parts.toml()).await;
        println!("  {what:<45} {:>11.2}  ({:.0}/s)", run.rate_per_s / limit, run.rate_per_s);
    }
}

/// What people would write instead, beside the whole way with what is the default.
async fn measure_scripts(bench: &Bench, full: &Run, messages: usize) {
    println!("raw rows alone by a script: stream to committed / script");
    for script in instead::SCRIPTS {
        match script.rate_per_s(bench, messages).await {
            Some(rate) => println!("  {:<45} {:>11.2}  ({rate:.0}/s)", script.what, full.rate_per_s / rate),
            None => println!("  {:<45}   left out: its packages are not there", script.what),
        }
    }
}

/// How fast the database is made anew, beside the worker's rate with the same messages.
fn measure_replays(bench: &Bench, live: &Run, messages: usize) {
    println!("made anew: rate beside the worker's {:.0}/s", live.rate_per_s);
    for replayed in replay::measure(bench, messages) {
        let (rate, peak) = (replayed.rate_per_s, replayed.peak_mib);
        println!("  {:<37} {:>11.2}  ({rate:.0}/s, {peak:.0} MiB)", replayed.what, rate / live.rate_per_s);
    }
}

async fn limit_of_an_empty_file(config: &Config, messages: &[Outgoing]) -> f64 {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("limit.db");
    drop(open(config, &database).await);
    rate(config, &database, messages)
}

fn limit_of_a_copy(config: &Config, file: &Path, messages: &[Outgoing]) -> f64 {
    let copy = file.with_file_name("limit.db");
    std::fs::copy(file, &copy).unwrap();
    let rate = rate(config, &copy, messages);
    std::fs::remove_file(copy).unwrap();
    rate
}

fn rate(config: &Config, database: &Path, messages: &[Outgoing]) -> f64 {
    let took = limit::measure(database, messages, config.batch.max_messages, &judge(config));
    messages.len() as f64 / took.as_secs_f64()
}

async fn close_sessions(config: &Config, count: u64) {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("closing.db");
    let mut writer = open(config, &database).await;
    writer.begin_epoch("ANALYTICS", 1, 1).unwrap();
    let batch = config.batch.max_messages as u64;
    let closing = closing::measure(&mut writer, &judge(config), &database, count, batch);
    println!(
        "{count} open sessions closed at once: {:.2} s, WAL {:.0} MiB, memory {:+.0} MiB",
        closing.transaction.as_secs_f64(),
        closing.wal_bytes as f64 / f64::from(1 << 20),
        closing.memory_mib
    );
}

/// 100,000 sessions that were closed, all of them open by another `limits.session_timeout`.
async fn swap_sessions(config: &Config) {
    const ROWS: u64 = 100_000;
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("swap.db");
    let mut writer = open(config, &database).await;
    writer.begin_epoch("ANALYTICS", 1, 1).unwrap();
    closing::measure(&mut writer, &judge(config), &database, ROWS, config.batch.max_messages as u64);
    drop(writer);
    let mut other = config.clone();
    other.rules.session_timeout_ms *= 2 * 24 * 60;
    let mut writer = open(&other, &database).await;
    let (built, swapped) = closing::measure_swap(&mut writer, &database);
    assert!(swapped.rows_that_differed >= usize::try_from(ROWS).unwrap());
    println!(
        "{ROWS} sessions made anew by another timeout: {:.2} s beside the worker; {} rows differed, and ingestion \
         waited {:.2} s for them",
        built.as_secs_f64(),
        swapped.rows_that_differed,
        swapped.pause.as_secs_f64()
    );
}

async fn open(config: &Config, database: &Path) -> Writer {
    let lock = Lock::acquire(database, "bench").await.unwrap();
    store::open_writer(&lock, config.rules.clone()).await.unwrap()
}

fn judge(config: &Config) -> Judge {
    let limits = config.limits.clone();
    Judge { prefix: config.stream.prefix.clone(), stream: config.stream.name.clone(), epoch: 1, limits }
}
