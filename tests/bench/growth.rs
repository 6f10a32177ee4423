//! Measures whether stored messages slow down new ones.

use streamgauge::config::Config;

use crate::everything::ALL;
use crate::full::Bench;
use crate::limit;
use crate::report::{PER_SECOND, RATIO, Report};
use crate::workload::{W, Workload};

const GROUP: &str = "growth: everything / limit, on a file with this many messages";
/// The greatest number of messages that the stream holds at once.
const MAX_FILL_MESSAGES: usize = 500_000;

/// Fills one file, and measures on copies of it at each size.
pub async fn measure(report: &mut Report, config: &Config, sizes: &[usize], messages: usize, rounds: usize) {
    let mut bench = Bench::start().await;
    bench.configure(&ALL.toml());
    let (mut workload, mut stored) = (Workload::new(W), 0);
    for size in sizes {
        while stored < *size {
            let fill = MAX_FILL_MESSAGES.min(size - stored);
            bench.purge().await;
            bench.publish(workload.take_outgoing(fill)).await;
            bench.run().await;
            stored += fill;
        }
        let kept = bench.keep_copy();
        bench.purge().await;
        let more = workload.take_outgoing(messages);
        bench.publish(more.clone()).await;
        stored += messages;
        let what = size.to_string();
        for _ in 0..rounds {
            let limit = limit::of_a_copy(config, &kept, &more);
            let run = bench.run_on_copy(&kept).await;
            report.add(GROUP, &what, RATIO, run.rate_per_s / limit);
            report.add("growth: limit", &what, PER_SECOND, limit);
            report.add("growth: everything", &what, PER_SECOND, run.rate_per_s);
        }
        std::fs::remove_file(kept).unwrap();
    }
    report.print();
}
