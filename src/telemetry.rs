//! The worker's Prometheus metrics. Counters count from the start of the process.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::store::{CommitReceipt, GapRange, Status};

/// Label for the outcome of messages.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

/// Label for the part of a transaction that takes time.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PartLabel {
    part: &'static str,
}

/// Labels for a range of the gap ledger.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct GapLabels {
    stream: String,
    epoch: i64,
    first_seq: i64,
    last_seq: i64,
    reason: String,
    found_at: String,
}

/// The worker's metrics.
#[derive(Debug)]
pub struct Telemetry {
    registry: Registry,
    messages: Family<OutcomeLabel, Counter>,
    batches: Counter,
    commit_seconds: Histogram,
    write_seconds: Family<PartLabel, Counter<f64, AtomicU64>>,
    binds: Counter,
    applied_sequence: Gauge<u64, AtomicU64>,
    pending: Gauge<u64, AtomicU64>,
    page_reads: Counter,
    gaps: Gauge,
    missing: Gauge,
    gap_messages: Family<GapLabels, Gauge>,
    dead_letters: Gauge,
}

impl Default for Telemetry {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("streamgauge");
        let messages = Family::default();
        let batches = Counter::default();
        // 0.5 ms to 16 s.
        let commit_seconds = Histogram::new(exponential_buckets(0.0005, 2.0, 16));
        let (binds, applied_sequence, pending) = (Counter::default(), Gauge::default(), Gauge::default());
        registry.register("messages", "Messages, by outcome", messages.clone());
        registry.register("batches", "Transactions with messages", batches.clone());
        let help = "Time from handing a batch to the writer to its commit";
        registry.register_with_unit("commit", help, Unit::Seconds, commit_seconds.clone());
        let write_seconds = Family::<PartLabel, Counter<f64, AtomicU64>>::default();
        let help =
            "Time that the writer spent, by part: raw rows, facts, each group of derived tables, commit, checkpoint";
        registry.register_with_unit("write", help, Unit::Seconds, write_seconds.clone());
        registry.register("binds", "How often the worker began to read the stream", binds.clone());
        registry.register("applied_sequence", "Last stream sequence that is committed", applied_sequence.clone());
        registry.register("pending_messages", "Messages in the stream after the last read message", pending.clone());
        let page_reads = Counter::default();
        registry.register(
            "page_reads",
            "Reads of the database for the live page; all open pages share each read",
            page_reads.clone(),
        );
        let (gaps, missing, gap_messages) = (Gauge::default(), Gauge::default(), Family::default());
        registry.register("gaps", "Ranges of the gap ledger", gaps.clone());
        registry.register("missing_messages", "Messages in all gaps: lost before they were read", missing.clone());
        let help = "Messages in a gap, by stream, sequences, reason and time found; only the latest gaps";
        registry.register("gap_messages", help, gap_messages.clone());
        let dead_letters = Gauge::default();
        registry.register("dead_letters_open", "Open dead letters in the ledger of rejections", dead_letters.clone());
        Self {
            gaps,
            missing,
            gap_messages,
            dead_letters,
            registry,
            messages,
            batches,
            commit_seconds,
            write_seconds,
            binds,
            applied_sequence,
            pending,
            page_reads,
        }
    }
}

impl Telemetry {
    /// Counts a committed batch.
    pub fn committed(&self, receipt: &CommitReceipt, pending: u64, took: Duration) {
        let (counts, timings) = (receipt.counts(), receipt.timings());
        for (outcome, count) in [
            ("event", counts.events),
            ("metric", counts.metrics),
            ("session", counts.sessions),
            ("duplicate", counts.duplicates),
            ("rejected", counts.rejected),
            ("missing", counts.missing),
        ] {
            self.messages.get_or_create(&OutcomeLabel { outcome }).inc_by(count);
        }
        self.batches.inc();
        self.commit_seconds.observe(took.as_secs_f64());
        for (part, took) in timings.parts() {
            self.write_seconds.get_or_create(&PartLabel { part }).inc_by(took.as_secs_f64());
        }
        self.applied_sequence.set(receipt.position().last_seq);
        self.pending.set(pending);
    }

    /// Counts messages that were no longer in the stream when the worker wanted to read them.
    pub fn skipped(&self, missing: u64) {
        self.messages.get_or_create(&OutcomeLabel { outcome: "missing" }).inc_by(missing);
    }

    /// Counts that reading of the stream began, and sets the last applied sequence.
    pub fn bound(&self, applied_seq: u64) {
        self.binds.inc();
        self.applied_sequence.set(applied_seq);
    }

    /// Returns the last stream sequence that is committed.
    pub fn applied(&self) -> u64 {
        self.applied_sequence.get()
    }

    /// Sets the last sequence that a replay has committed.
    pub fn replayed(&self, seq: u64) {
        self.applied_sequence.set(seq);
    }

    /// Counts a read of the database for the page.
    pub fn page_read(&self) {
        self.page_reads.inc();
    }

    /// Returns the messages in the stream after the last read message, as of the last commit.
    pub fn pending(&self) -> u64 {
        self.pending.get()
    }

    /// Sets the gauges of gaps and dead letters from the ledgers of the database.
    pub fn ledgers(&self, status: &Status) {
        self.gaps.set(status.gaps);
        self.missing.set(status.missing_messages);
        self.dead_letters.set(status.dead_letters);
        self.gap_messages.clear();
        for gap in &status.gap_ranges {
            let GapRange { stream, epoch, first_seq, last_seq, reason, found_at } = gap.clone();
            let labels = GapLabels { stream, epoch, first_seq, last_seq, reason, found_at };
            self.gap_messages.get_or_create(&labels).set(last_seq - first_seq + 1);
        }
    }

    /// Renders the metrics in the OpenMetrics text format of Prometheus.
    pub fn render(&self) -> String {
        let mut text = String::new();
        // Writing into a string cannot fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        text
    }
}
