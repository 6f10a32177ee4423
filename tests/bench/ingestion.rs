//! Measures the whole way on empty files, in rounds. Each round measures everything that is compared once, so that
//! other work on the machine affects all of it alike.

use streamgauge::config::Config;
use streamgauge::nats::Outgoing;

use crate::everything::{ALL, WITHOUT};
use crate::full::{Bench, Run};
use crate::instead::SCRIPTS;
use crate::report::{MIB, PER_SECOND, PERCENT, RATIO, Report, SECONDS};
use crate::workload::{Variant, W, Workload};
use crate::{Chosen, limit, replay};

const LIMIT: &str = "raw rows through SQLite alone: the limit";
const FULL: &str = "everything: 3 funnels, 20 numbers, features";
const VARIANTS: [(&str, Variant); 3] = [
    ("UUIDv4 ids", Variant { has_random_ids: true, ..W }),
    ("1,000 users", Variant { users: 1_000, ..W }),
    ("100,000 users", Variant { users: 100_000, ..W }),
];

/// A filled stream, and the messages that fill it.
struct Filled {
    what: &'static str,
    bench: Bench,
    messages: Vec<Outgoing>,
}

impl Filled {
    async fn new(what: &'static str, variant: Variant, count: usize) -> Self {
        let (mut bench, messages) = (Bench::start().await, Workload::new(variant).take_outgoing(count));
        bench.publish(messages.clone()).await;
        Self { what, bench, messages }
    }
}

pub async fn measure(report: &mut Report, config: &Config, chosen: &Chosen, messages: usize, rounds: usize) {
    let mut w = Filled::new("W", W, messages).await;
    let mut variants = Vec::new();
    if chosen.has("workloads") {
        for (what, variant) in VARIANTS {
            variants.push(Filled::new(what, variant, messages).await);
        }
    }
    for _ in 0..rounds {
        let limit = limit::of_an_empty_file(config, &w.messages).await;
        let full = w.bench.run_anew(&ALL.toml()).await;
        of_full(report, limit, &full);
        if chosen.has("replay") {
            replays(report, &w, &full);
        }
        if chosen.has("parts") {
            for (what, parts) in WITHOUT {
                let run = w.bench.run_anew(&parts.toml()).await;
                report.add("stream to committed / limit, by what is configured", what, RATIO, run.rate_per_s / limit);
            }
        }
        for variant in &mut variants {
            let limit = limit::of_an_empty_file(config, &variant.messages).await;
            let run = variant.bench.run_anew(&ALL.toml()).await;
            let what = variant.what;
            report.add("everything / limit, by the workload", what, RATIO, run.rate_per_s / limit);
            report.add("everything, beside everything with W", what, RATIO, run.rate_per_s / full.rate_per_s);
        }
        if chosen.has("scripts") {
            scripts(report, &w, limit, &full).await;
        }
    }
    report.print();
}

fn of_full(report: &mut Report, limit: f64, full: &Run) {
    report.add("stream to committed / limit, by what is configured", FULL, RATIO, full.rate_per_s / limit);
    let group = "stream to committed, everything configured";
    report.add(group, LIMIT, PER_SECOND, limit);
    report.add(group, FULL, PER_SECOND, full.rate_per_s);
    report.add(group, "CPU of the worker for a million messages", SECONDS, full.cpu_s_per_million);
    report.add(group, "peak resident", MIB, full.peak_mib);
    let total_s: f64 = full.write_s.values().sum();
    for (part, s) in &full.write_s {
        report.add("of the writer's time, by part", part, PERCENT, s / total_s * 100.0);
    }
}

/// Measures the scripts that people would write instead.
async fn scripts(report: &mut Report, w: &Filled, limit: f64, full: &Run) {
    for script in SCRIPTS {
        let Some(rate) = script.rate_per_s(&w.bench, w.messages.len()).await else {
            println!("left out, because its packages are missing: {}", script.what);
            continue;
        };
        report.add("everything / a script that inserts raw rows alone", script.what, RATIO, full.rate_per_s / rate);
        report.add("scripts that insert raw rows alone / limit", script.what, RATIO, rate / limit);
    }
}

fn replays(report: &mut Report, w: &Filled, full: &Run) {
    for replayed in replay::measure(&w.bench, w.messages.len()) {
        let what = replayed.what;
        report.add("rebuild / everything, live", what, RATIO, replayed.rate_per_s / full.rate_per_s);
        report.add("rebuild: peak resident", what, MIB, replayed.peak_mib);
    }
}
