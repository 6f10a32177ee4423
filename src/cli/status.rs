//! `streamgauge status`

use std::time::Duration;

use serde_json::json;

use super::Failure;
use crate::config::Config;
use crate::nats;
use crate::store::{ClosedDeadLetters, Reader, Status, StreamStatus};

/// How long NATS may take to answer before its numbers are left out.
const NATS_PATIENCE: Duration = Duration::from_secs(2);

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Last sequence and lag of the configured stream, from NATS.
#[derive(Debug, Clone, Copy)]
struct StreamLag {
    last_seq: u64,
    lag: u64,
}

pub(super) async fn execute(args: Args, config: Config) -> Result<(), Failure> {
    let reader = Reader::open(&config.database_path).await?;
    let mut status = reader.status().await?;
    let closed = reader.closed_dead_letters().await?;
    reader.close();
    let name = &config.stream.name;
    if !status.streams.iter().any(|stream| stream.name == *name) {
        status.streams.push(StreamStatus::unread(name));
    }
    let applied_seq = status.streams.iter().find(|stream| stream.name == *name).map_or(0, |stream| stream.applied_seq);
    let live = tokio::time::timeout(NATS_PATIENCE, ask_nats(&config, applied_seq)).await.ok().flatten();
    if args.json {
        out!("{}", as_json(&status, closed, name, live));
    } else {
        print_text(&status, closed, name, live);
    }
    Ok(())
}

/// Asks NATS for the lag; `None` if NATS does not answer or has no such stream.
async fn ask_nats(config: &Config, applied_seq: u64) -> Option<StreamLag> {
    let connection = nats::connect_once(&config.nats).await.ok()?;
    let last_seq = nats::last_sequence(&connection, &config.stream.name).await.ok()?;
    let lag = nats::lag(&connection, &config.stream, applied_seq).await.ok()?;
    Some(StreamLag { last_seq, lag })
}

fn as_json(status: &Status, closed: ClosedDeadLetters, configured: &str, live: Option<StreamLag>) -> serde_json::Value {
    let streams: Vec<_> = status
        .streams
        .iter()
        .map(|stream| {
            let live = live.filter(|_| stream.name == configured);
            json!({
                "name": stream.name,
                "epoch": stream.epoch,
                "applied_seq": stream.applied_seq,
                "last_seq": live.map(|live| live.last_seq),
                "lag": live.map(|live| live.lag),
                "stored": stream.stored,
                "duplicates": stream.duplicates,
            })
        })
        .collect();
    json!({
        "streams": streams,
        "dead_letters": status.dead_letters,
        "dead_letters_closed": {
            "applied": closed.applied, "duplicate": closed.duplicate, "dropped": closed.dropped,
        },
        "unpublished_dead_letters": status.unpublished_dead_letters,
        "gaps": status.gaps,
        "missing_messages": status.missing_messages,
        "gap_ranges": status.gap_ranges,
        "rebuilding": status.rebuilding,
        "database": {"size_bytes": status.size_bytes, "wal_bytes": status.wal_bytes},
        "version": env!("CARGO_PKG_VERSION"),
    })
}

fn print_text(status: &Status, closed: ClosedDeadLetters, configured: &str, live: Option<StreamLag>) {
    for stream in &status.streams {
        let live = live.filter(|_| stream.name == configured);
        let or_unknown = |number: Option<u64>| number.map_or_else(|| "?".to_owned(), |number| number.to_string());
        out!("stream        {} (epoch {})", stream.name, stream.epoch);
        out!("  applied     {} of {}", stream.applied_seq, or_unknown(live.map(|live| live.last_seq)));
        out!("  lag         {}", or_unknown(live.map(|live| live.lag)));
        out!("  stored      {}", stream.stored);
        out!("  duplicates  {}", stream.duplicates);
    }
    out!("dead letters  {} open, {} not published yet", status.dead_letters, status.unpublished_dead_letters);
    let ClosedDeadLetters { applied, duplicate, dropped } = closed;
    if applied + duplicate + dropped > 0 {
        out!("  closed      {applied} applied, {duplicate} duplicates, {dropped} dropped");
    }
    print_gaps(status);
    for group in &status.rebuilding {
        out!("rebuilding    {}: {} of {} rows", group.group, group.rows_done, group.rows_total);
    }
    out!("database      {} bytes, write-ahead log {} bytes", status.size_bytes, status.wal_bytes);
    out!("version       {}", env!("CARGO_PKG_VERSION"));
}

/// Prints the gaps: messages that were no longer in the stream when the worker wanted to read them.
pub(super) fn print_gaps(status: &Status) {
    out!("gaps          {} with {} messages", status.gaps, status.missing_messages);
    for gap in &status.gap_ranges {
        out!(
            "  {} epoch {}: {} to {}, {}, found {}",
            gap.stream,
            gap.epoch,
            gap.first_seq,
            gap.last_seq,
            gap.reason,
            gap.found_at
        );
    }
}
