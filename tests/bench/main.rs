//! The ruler: measures what ingestion costs on this machine, beside what SQLite alone costs. `deploy/bench` runs it.
//!
//! The ratios are the result. Absolute figures differ from machine to machine, and on a shared machine from hour to
//! hour.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

#[allow(dead_code, unused_imports, reason = "shared with the tests")]
#[path = "../support/mod.rs"]
mod support;

mod chart;
mod closing;
mod dashboards;
mod everything;
mod flame;
mod full;
mod funnels;
mod growth;
mod ingestion;
mod instead;
mod latency;
mod limit;
mod machine;
mod memory;
mod publish;
mod replay;
mod report;
mod workload;

use std::path::Path;

use streamgauge::config::{self, Config, Sources};
use streamgauge::judge::Judge;
use streamgauge::store::{self, Lock, Writer};

use dashboards::Numbers;
use everything::ALL;
use full::Bench;
use funnels::{Funnels, LATENESS};
use report::{COUNT, MIB, MS, PER_SECOND, PERCENT, RATIO, Report, SECONDS, percentile};
use workload::{W, Workload};

/// How much is measured.
struct Sizes {
    rounds: usize,
    /// The number of messages in a measurement.
    messages: usize,
    /// How many messages a file already holds when it is measured again.
    stored: &'static [usize],
    /// How many messages wait while memory is measured. For messages of 64 KiB it is one 200th of this.
    backlog: usize,
    /// How many sessions close at once.
    open_sessions: u64,
    /// How many seconds messages arrive at each rate.
    latency_s: f64,
}

const WHOLE: Sizes = Sizes {
    rounds: 3,
    messages: 500_000,
    stored: &[100_000, 1_000_000, 5_000_000, 10_000_000],
    backlog: 2_000_000,
    open_sessions: 1_000_000,
    latency_s: 10.0,
};
const SHORT: Sizes =
    Sizes { rounds: 1, messages: 50_000, stored: &[50_000], backlog: 100_000, open_sessions: 50_000, latency_s: 2.0 };

/// The greatest number of messages in measurements of funnels, dashboards, latency and growth.
const FEW_MESSAGES: usize = 200_000;

/// The measured parts: those that the arguments name, or everything. A flame graph is drawn only if it is named.
pub struct Chosen(Vec<String>);

const FLAME: &str = "flame";
const PARTS: [&str; 12] = [
    "closing",
    "funnels",
    "dashboards",
    "workloads",
    "parts",
    "scripts",
    "replay",
    "publish",
    "latency",
    "memory",
    "growth",
    FLAME,
];

impl Chosen {
    fn by_arguments() -> Self {
        let named: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
        let unknown = named.iter().find(|name| !PARTS.contains(&name.as_str()));
        assert!(unknown.is_none(), "{unknown:?} is not a part; the parts are {PARTS:?}");
        Self(named)
    }

    pub fn has(&self, part: &str) -> bool {
        (self.0.is_empty() && part != FLAME) || self.0.iter().any(|name| name == part)
    }
}

#[tokio::main]
async fn main() {
    let (is_short, chosen) = (std::env::args().any(|argument| argument == "--short"), Chosen::by_arguments());
    let sizes = if is_short { SHORT } else { WHOLE };
    let config = config::load(&Sources::default()).unwrap().1;
    let mut report = Report::new(is_short);
    println!("{}", machine::sentence());
    // First, before this process takes memory for anything else.
    if chosen.has("closing") {
        close_sessions(&mut report, &config, sizes.open_sessions).await;
        install_sessions(&mut report, &config).await;
    }
    if chosen.has("memory") {
        measure_memory(&mut report, sizes.backlog).await;
    }
    if chosen.has("funnels") {
        measure_funnels(&mut report, &config, &sizes).await;
    }
    if chosen.has("dashboards") {
        measure_dashboards(&mut report, &config, &sizes).await;
    }
    if ["workloads", "parts", "scripts", "replay"].iter().any(|part| chosen.has(part)) {
        ingestion::measure(&mut report, &config, &chosen, sizes.messages, sizes.rounds).await;
    }
    if chosen.has("publish") {
        measure_publish(&mut report, &sizes).await;
    }
    if chosen.has("latency") {
        measure_latency(&mut report, &sizes).await;
    }
    if chosen.has("growth") {
        let messages = sizes.messages.min(FEW_MESSAGES);
        growth::measure(&mut report, &config, sizes.stored, messages, sizes.rounds).await;
    }
    if chosen.has(FLAME) {
        println!("drawn: {}", flame::measure(sizes.messages).await.display());
    }
    println!("\nwritten to {}", report.write().display());
}

/// Measures the writer's rate with funnels beside the rate without, and the hits that run again.
async fn measure_funnels(report: &mut Report, config: &Config, sizes: &Sizes) {
    let kinds = [
        ("1 that nothing matches", Funnels::Unmatched(1)),
        ("10 that nothing matches", Funnels::Unmatched(10)),
        ("100 that nothing matches", Funnels::Unmatched(100)),
        ("10, 1 event in 3 in one of them", Funnels::InOne),
        ("10, 1 event in 3 in five of them", Funnels::InFive),
    ];
    let messages = Workload::new(W).take_outgoing(sizes.messages.min(FEW_MESSAGES));
    for _ in 0..sizes.rounds {
        let without = funnels::writer_rate(config, &messages).await.rate_per_s;
        for (what, funnels) in kinds {
            let with = funnels::writer_rate(&funnels.config(), &messages).await;
            report.add(
                "funnels of five steps: the writer's rate / the rate without",
                what,
                RATIO,
                with.rate_per_s / without,
            );
        }
    }
    for (what, lateness_ms) in LATENESS {
        let hits_run = funnels::hits_run_each(lateness_ms);
        report.add("hits that run for each hit that arrives", what, COUNT, hits_run);
    }
    report.print();
}

/// Measures the writer's rate with widgets beside the rate without.
async fn measure_dashboards(report: &mut Report, config: &Config, sizes: &Sizes) {
    let kinds = [("1,000, of which ten change", Numbers::FewOfMany), ("those of the demo", Numbers::OfDemo)];
    let messages = Workload::new(W).take_outgoing(sizes.messages.min(FEW_MESSAGES));
    for _ in 0..sizes.rounds {
        let without = funnels::writer_rate(config, &messages).await.rate_per_s;
        for (what, numbers) in kinds {
            let with = funnels::writer_rate(&numbers.config(), &messages).await;
            let (ratio, percent) = (with.rate_per_s / without, with.dashboards_share * 100.0);
            report.add("numbers of widgets: the writer's rate / the rate without", what, RATIO, ratio);
            report.add("numbers of widgets: share of the writer's time", what, PERCENT, percent);
        }
    }
    report.print();
}

async fn measure_publish(report: &mut Report, sizes: &Sizes) {
    for _ in 0..sizes.rounds {
        let rates = publish::measure(sizes.messages).await;
        let what = "streamgauge publish, each acknowledged, each id once";
        report.add(
            "publish from a file / what the server takes without acks",
            what,
            RATIO,
            rates.command / rates.server,
        );
        report.add("publish from a file", what, PER_SECOND, rates.command);
        report.add("publish from a file", "the server, without acks", PER_SECOND, rates.server);
    }
    report.print();
}

/// Measures the time from a publish to its row and to a dashboard message.
async fn measure_latency(report: &mut Report, sizes: &Sizes) {
    const IDLE_PER_SECOND: f64 = 50.0;
    let mut bench = Bench::start().await;
    bench.publish(Workload::new(W).take_outgoing(sizes.messages.min(FEW_MESSAGES))).await;
    for _ in 0..sizes.rounds {
        let maximum = bench.run_anew(&ALL.toml()).await.rate_per_s;
        for (rate, per_second) in
            [("idle", IDLE_PER_SECOND), ("2,000/s", 2_000.0), ("half of the maximum", maximum / 2.0)]
        {
            let messages = Workload::new(W).take_outgoing((per_second * sizes.latency_s) as usize);
            let latency = latency::measure(messages, per_second).await;
            for (group, taken_ms) in
                [("publish to row", latency.row_ms), ("publish to dashboard message", latency.dashboard_ms)]
            {
                for percent in [50.0, 99.0, 99.9] {
                    report.add(group, &format!("{rate}, p{percent}"), MS, percentile(&taken_ms, percent));
                }
            }
        }
    }
    report.print();
}

async fn measure_memory(report: &mut Report, backlog: usize) {
    let group = "peak resident, with everything, working off a backlog";
    let run = memory::with_backlog(backlog).await;
    report.add(group, &format!("{backlog} messages of W"), MIB, run.peak_mib);
    let large = backlog / 200;
    let run = memory::with_large_payloads(large).await;
    report.add(group, &format!("{large} messages of 64 KiB"), MIB, run.peak_mib);
    report.print();
}

async fn close_sessions(report: &mut Report, config: &Config, count: u64) {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("closing.db");
    let mut writer = open(config, &database).await;
    writer.begin_epoch("ANALYTICS", 1, 1).unwrap();
    let batch = config.batch.max_messages as u64;
    let closing = closing::measure(&mut writer, &judge(config), &database, count, batch);
    let group = "open sessions closed at once, in one transaction";
    report.add(group, &format!("{count} of them"), SECONDS, closing.transaction.as_secs_f64());
    report.add(group, "write-ahead log", MIB, closing.wal_bytes as f64 / f64::from(1 << 20));
    report.add(group, "growth of memory", MIB, closing.memory_mib);
    report.print();
}

/// Rebuilds 100,000 closed sessions with another `limits.session_timeout`, by which all of them are open.
async fn install_sessions(report: &mut Report, config: &Config) {
    const ROWS: u64 = 100_000;
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("install.db");
    let mut writer = open(config, &database).await;
    writer.begin_epoch("ANALYTICS", 1, 1).unwrap();
    closing::measure(&mut writer, &judge(config), &database, ROWS, config.batch.max_messages as u64);
    drop(writer);
    let mut other = config.clone();
    other.rules.session_timeout_ms *= 2 * 24 * 60;
    let mut writer = open(&other, &database).await;
    let (built, installed) = closing::measure_install(&mut writer, &database);
    assert!(installed.rows_that_differed >= usize::try_from(ROWS).unwrap());
    let group = "rebuild of 100,000 sessions with another timeout, all rows differ";
    report.add(group, "beside the worker", SECONDS, built.as_secs_f64());
    report.add(group, "ingestion waits", SECONDS, installed.pause.as_secs_f64());
    report.print();
}

async fn open(config: &Config, database: &Path) -> Writer {
    let lock = Lock::acquire(database, "bench").await.unwrap();
    store::open_writer(&lock, config.rules.clone()).await.unwrap()
}

fn judge(config: &Config) -> Judge {
    let limits = config.limits.clone();
    Judge { prefix: config.stream.prefix.clone(), stream: config.stream.name.clone(), epoch: 1, limits }
}
