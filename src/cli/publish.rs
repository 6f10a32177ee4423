//! `streamgauge publish`

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures::FutureExt;
use tokio::io::AsyncRead;
use tokio_util::sync::CancellationToken;

use super::Failure;
use super::lines::{Line, LineReader};
use super::progress::Progress;
use super::signals::stop_token;
use crate::config::Config;
use crate::model::Kind;
use crate::nats::{
    self, Acknowledged, Outgoing, PublishFailure, Publisher, PublisherOptions, Receipt, Unsent, wait_for_stream,
};

/// Largest number of entries in the list of failures. Consecutive lines with the same error are one entry. Further
/// failures are only counted.
const MAX_LISTED_FAILURES: usize = 1_000;
/// How long messages in flight may take to be acknowledged after a signal.
const DRAIN_PATIENCE: Duration = Duration::from_secs(3);

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Kind of the messages
    #[arg(long, value_enum, default_value_t = KindArg::Events)]
    kind: KindArg,
    /// Longest time until a line is acknowledged, over all tries, after the server was reached
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = humantime::parse_duration)]
    patience: Duration,
    /// File with one JSON object per line; `-` or no file reads standard input
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

/// The source of the lines.
struct Input {
    name: String,
    lines: Box<dyn AsyncRead + Unpin + Send>,
    /// `None` if the input is not a regular file.
    size_bytes: Option<u64>,
}

impl Input {
    async fn open(file: Option<PathBuf>) -> Result<Self, Failure> {
        let Some(path) = file.filter(|file| file.as_os_str() != "-") else {
            return Ok(Self { name: "standard input".into(), lines: Box::new(tokio::io::stdin()), size_bytes: None });
        };
        let name = path.display().to_string();
        let cannot_read = |error| Failure::Failed(format!("cannot read {name}: {error}"));
        let file = tokio::fs::File::open(&path).await.map_err(cannot_read)?;
        let metadata = file.metadata().await.map_err(cannot_read)?;
        let size_bytes = metadata.is_file().then_some(metadata.len());
        Ok(Self { name, lines: Box::new(file), size_bytes })
    }
}

pub(super) async fn execute(args: Args, config: Config) -> Result<(), Failure> {
    let input = Input::open(args.file).await?;
    let connection = nats::connect_once(&config.nats).await?;
    wait_for_stream(&connection, &config.stream.name).await?;
    let options = PublisherOptions {
        prefix: config.stream.prefix.clone(),
        patience: args.patience,
        ..PublisherOptions::default()
    };
    let max_line_bytes = connection.max_payload_bytes();
    let mut lines = Lines {
        kind: args.kind.into(),
        publisher: Publisher::new(connection, options),
        receipts: VecDeque::new(),
        tally: LineTally::default(),
    };
    let stop = stop_token(Some("stopping: waiting for the acks of messages in flight"))?;
    let began = Instant::now();
    lines.publish(input, max_line_bytes, stop).await;
    lines.tally.report(began.elapsed())
}

/// The lines in flight, and the results of the others.
struct Lines {
    kind: Kind,
    publisher: Publisher,
    /// Line numbers and receipts, oldest first. The publisher's window limits their number.
    receipts: VecDeque<(u64, Receipt<Outgoing>)>,
    tally: LineTally,
}

impl Lines {
    /// Publishes the lines until the end, a signal, a read error, or a line that is not acknowledged: then no other
    /// line would be acknowledged either.
    async fn publish(&mut self, input: Input, max_line_bytes: usize, stop: CancellationToken) {
        let mut progress = Progress::of_bytes("publishing", input.size_bytes);
        let mut reader = LineReader::new(input.lines, max_line_bytes);
        let mut number = 0;
        let why_early = loop {
            while let Some(result) = oldest(&mut self.receipts).now_or_never() {
                self.settle_oldest(result);
            }
            if self.tally.has_given_up {
                break Some("gave up".to_owned());
            }
            let line = match reader.next().now_or_never() {
                Some(line) if !stop.is_cancelled() => line,
                _ => tokio::select! {
                    biased;
                    () = stop.cancelled() => break Some("interrupted".to_owned()),
                    result = oldest(&mut self.receipts) => {
                        self.settle_oldest(result);
                        continue;
                    }
                    line = reader.next() => line,
                },
            };
            match line {
                Ok(None) => break None,
                Err(error) => break Some(format!("cannot read {}: {error}", input.name)),
                Ok(Some((line, size_bytes))) => {
                    number += 1;
                    progress.advance(size_bytes as u64, self.tally.published());
                    self.hand_over(number, line, &stop).await;
                }
            }
        };
        self.tally.ended_early = why_early.map(|why| format!("{why}: nothing after line {number} was sent"));
        let drained = async {
            while !self.receipts.is_empty() {
                let result = oldest(&mut self.receipts).await;
                self.settle_oldest(result);
            }
        };
        let overdue = async {
            stop.cancelled().await;
            tokio::time::sleep(DRAIN_PATIENCE).await;
        };
        tokio::select! {
            () = drained => {}
            () = overdue => {}
        }
        for (line, _) in std::mem::take(&mut self.receipts) {
            self.tally.fail(line, "not acknowledged before the interruption".into());
        }
        progress.finish();
    }

    async fn hand_over(&mut self, number: u64, line: Line, stop: &CancellationToken) {
        let text = match line {
            Line::Text(text) if text.trim_ascii().is_empty() => return,
            Line::Text(text) => text,
            Line::TooLong { size_bytes } => {
                return self.tally.fail(number, format!("{size_bytes} bytes are more than the server accepts"));
            }
        };
        let publishing = self.publisher.publish(Outgoing::of_line(self.kind, &text));
        tokio::select! {
            biased;
            handed_over = publishing => match handed_over {
                Ok(receipt) => self.receipts.push_back((number, receipt)),
                Err(unsent) => self.tally.add(number, Err(unsent)),
            },
            () = stop.cancelled() => self.tally.fail(number, "not sent before the interruption".into()),
        }
    }

    fn settle_oldest(&mut self, result: Result<Acknowledged, Unsent<Outgoing>>) {
        if let Some((line, _)) = self.receipts.pop_front() {
            self.tally.add(line, result);
        }
    }
}

/// Waits for the result of the oldest receipt; waits for ever if there is no receipt.
async fn oldest(receipts: &mut VecDeque<(u64, Receipt<Outgoing>)>) -> Result<Acknowledged, Unsent<Outgoing>> {
    match receipts.front_mut() {
        Some((_, receipt)) => receipt.await,
        None => std::future::pending().await,
    }
}

/// Consecutive lines that failed with the same error.
struct FailedLines {
    first: u64,
    last: u64,
    error: String,
}

/// The results of lines.
#[derive(Default)]
struct LineTally {
    stored: u64,
    duplicates: u64,
    failed: u64,
    listed: Vec<FailedLines>,
    unlisted: u64,
    /// Whether a line failed for a reason that holds for the other lines too.
    has_given_up: bool,
    /// Why the remaining lines were not sent; `None` if the input was read to its end.
    ended_early: Option<String>,
}

impl LineTally {
    fn add(&mut self, line: u64, result: Result<Acknowledged, Unsent<Outgoing>>) {
        match result {
            Ok(Acknowledged { is_duplicate: true, .. }) => self.duplicates += 1,
            Ok(_) => self.stored += 1,
            Err(Unsent { error, .. }) => {
                // A message that is too large or invalid does not affect the other messages.
                self.has_given_up |= !matches!(error, PublishFailure::TooLarge(_) | PublishFailure::Invalid(_));
                self.fail(line, error.to_string());
            }
        }
    }

    fn fail(&mut self, line: u64, error: String) {
        self.failed += 1;
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
        let Self { stored, duplicates, failed, listed, unlisted, ended_early, .. } = self;
        let seconds = took.as_secs_f64().max(f64::EPSILON);
        let rate = self.published() as f64 / seconds;
        err!("published {stored}, known already {duplicates}, failed {failed}, in {seconds:.1} s ({rate:.0}/s)");
        for FailedLines { first, last, error } in listed {
            if first == last {
                err!("line {first}: {error}");
            } else {
                err!("lines {first} to {last}: {error}");
            }
        }
        if *unlisted > 0 {
            err!("and {unlisted} more failed lines");
        }
        if let Some(why) = ended_early {
            err!("{why}");
        }
        if *failed > 0 || ended_early.is_some() { Err(Failure::Reported) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_lines_in_a_row_are_listed_together() {
        let mut tally = LineTally::default();
        let error = |text: &str| PublishFailure::TooLarge(text.into());
        for (line, text) in [(3, "a"), (4, "a"), (6, "a"), (7, "b")] {
            let message = Outgoing::of_line(Kind::Event, b"{}");
            tally.add(line, Err(Unsent { message, error: error(text) }));
        }
        let listed: Vec<_> = tally.listed.iter().map(|lines| (lines.first, lines.last, lines.error.as_str())).collect();
        assert_eq!(listed, [(3, 4, "a"), (6, 6, "a"), (7, 7, "b")]);
        assert!(!tally.has_given_up && tally.report(Duration::ZERO).is_err());
    }
}
