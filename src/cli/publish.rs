//! `streamgauge publish`

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures::FutureExt;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};

use super::Failure;
use super::progress::Progress;
use crate::config::Config;
use crate::model::Kind;
use crate::nats::{
    self, Acknowledged, Outgoing, PublishFailure, Publisher, PublisherOptions, Receipt, Unsent, wait_for_stream,
};

const READ_BUFFER_BYTES: usize = 1 << 20;
/// Failures that are listed, lines in a row with the same one together; beyond that they are reported by count alone.
const MAX_LISTED_FAILURES: usize = 1_000;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What the lines are
    #[arg(long, value_enum, default_value_t = KindArg::Events)]
    kind: KindArg,
    /// How long a line may take to be acknowledged, all tries together
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = humantime::parse_duration)]
    patience: Duration,
    /// File with a JSON object a line; `-` or nothing reads standard input
    file: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum KindArg {
    Events,
    Metrics,
    Sessions,
}

impl From<KindArg> for Kind {
    fn from(kind: KindArg) -> Self {
        match kind {
            KindArg::Events => Kind::Event,
            KindArg::Metrics => Kind::Metric,
            KindArg::Sessions => Kind::Session,
        }
    }
}

/// Where lines come from, and how many bytes they are, where that is known.
struct Input {
    lines: Box<dyn AsyncRead + Unpin + Send>,
    size_bytes: Option<u64>,
}

impl Input {
    async fn open(file: Option<PathBuf>) -> Result<Self, Failure> {
        let Some(path) = file.filter(|file| file.as_os_str() != "-") else {
            return Ok(Self { lines: Box::new(tokio::io::stdin()), size_bytes: None });
        };
        let cannot_read = |error| Failure::Failed(format!("cannot read {}: {error}", path.display()));
        let file = tokio::fs::File::open(&path).await.map_err(cannot_read)?;
        let metadata = file.metadata().await.map_err(cannot_read)?;
        Ok(Self { lines: Box::new(file), size_bytes: metadata.is_file().then_some(metadata.len()) })
    }
}

pub(super) async fn execute(args: Args, config: Config) -> Result<(), Failure> {
    let input = Input::open(args.file).await?;
    let connection = nats::connect_once(&config.nats).await.map_err(Failure::failed)?;
    wait_for_stream(&connection, &config.stream.name).await.map_err(Failure::failed)?;
    let options = PublisherOptions {
        prefix: config.stream.prefix.clone(),
        patience: args.patience,
        ..PublisherOptions::default()
    };
    let began = Instant::now();
    let mut lines = Lines { kind: args.kind.into(), receipts: VecDeque::new(), tally: Tally::default() };
    lines.publish(&Publisher::new(connection, options), input).await.map_err(Failure::failed)?;
    lines.tally.report(began.elapsed())
}

/// The lines that are on their way, and how the others ended.
struct Lines {
    kind: Kind,
    /// Oldest first; the publisher's window bounds them.
    receipts: VecDeque<(u64, Receipt<Outgoing>)>,
    tally: Tally,
}

impl Lines {
    async fn publish(&mut self, publisher: &Publisher, input: Input) -> std::io::Result<()> {
        let mut progress = Progress::of_bytes("publishing", input.size_bytes);
        let mut lines = BufReader::with_capacity(READ_BUFFER_BYTES, input.lines).split(b'\n');
        let mut line = 0;
        while let Some(text) = lines.next_segment().await? {
            line += 1;
            progress.advance(text.len() as u64 + 1, self.tally.published());
            if text.trim_ascii().is_empty() {
                continue;
            }
            match publisher.publish(Outgoing::of_line(self.kind, &text)).await {
                Ok(receipt) => self.receipts.push_back((line, receipt)),
                Err(unsent) => self.tally.add(line, Err(unsent)),
            }
            self.settle_what_is_known();
            if self.tally.has_given_up {
                self.tally.given_up_after_line = Some(line);
                break;
            }
        }
        for (line, receipt) in std::mem::take(&mut self.receipts) {
            self.tally.add(line, receipt.await);
        }
        progress.finish();
        Ok(())
    }

    fn settle_what_is_known(&mut self) {
        while let Some((line, receipt)) = self.receipts.front_mut()
            && let Some(result) = receipt.now_or_never()
        {
            self.tally.add(*line, result);
            self.receipts.pop_front();
        }
    }
}

/// Lines in a row that failed for the same reason.
struct FailedLines {
    first: u64,
    last: u64,
    error: PublishFailure,
}

/// How lines ended.
#[derive(Default)]
struct Tally {
    stored: u64,
    duplicates: u64,
    failed: u64,
    listed: Vec<FailedLines>,
    unlisted: u64,
    /// Whether a line was not acknowledged: then no other would be.
    has_given_up: bool,
    given_up_after_line: Option<u64>,
}

impl Tally {
    fn add(&mut self, line: u64, result: Result<Acknowledged, Unsent<Outgoing>>) {
        match result {
            Ok(Acknowledged { is_duplicate: true, .. }) => self.duplicates += 1,
            Ok(_) => self.stored += 1,
            Err(Unsent { error, .. }) => {
                self.failed += 1;
                // What is too large says nothing of the others.
                self.has_given_up |= !matches!(error, PublishFailure::TooLarge(_) | PublishFailure::Invalid(_));
                self.list(line, error);
            }
        }
    }

    fn list(&mut self, line: u64, error: PublishFailure) {
        let is_room = self.listed.len() < MAX_LISTED_FAILURES;
        match self.listed.last_mut() {
            Some(FailedLines { last, error: same, .. }) if *last + 1 == line && *same == error => *last = line,
            _ if is_room => self.listed.push(FailedLines { first: line, last: line, error }),
            _ => self.unlisted += 1,
        }
    }

    fn published(&self) -> u64 {
        self.stored + self.duplicates
    }

    fn report(&self, took: Duration) -> Result<(), Failure> {
        let Self { stored, duplicates, failed, listed, unlisted, given_up_after_line, .. } = self;
        let seconds = took.as_secs_f64().max(f64::EPSILON);
        let rate = self.published() as f64 / seconds;
        eprintln!("published {stored}, known already {duplicates}, failed {failed}, in {seconds:.1} s ({rate:.0}/s)");
        for FailedLines { first, last, error } in listed {
            if first == last {
                eprintln!("line {first}: {error}")
            } else {
                eprintln!("lines {first} to {last}: {error}")
            }
        }
        if *unlisted > 0 {
            eprintln!("and {unlisted} more");
        }
        if let Some(line) = given_up_after_line {
            eprintln!("gave up: no line after {line} was sent");
        }
        if *failed > 0 { Err(Failure::Reported) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_lines_in_a_row_are_listed_together() {
        let mut tally = Tally::default();
        let error = |text: &str| PublishFailure::TooLarge(text.into());
        for (line, text) in [(3, "a"), (4, "a"), (6, "a"), (7, "b")] {
            let message = Outgoing::of_line(Kind::Event, b"{}");
            tally.add(line, Err(Unsent { message, error: error(text) }));
        }
        let listed: Vec<_> = tally.listed.iter().map(|lines| (lines.first, lines.last, lines.error.clone())).collect();
        assert_eq!(listed, [(3, 4, error("a")), (6, 6, error("a")), (7, 7, error("b"))]);
        assert!(!tally.has_given_up && tally.report(Duration::ZERO).is_err());
    }
}
