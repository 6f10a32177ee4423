//! Measures `streamgauge publish` from a file, beside the rate at which nats-server accepts the same messages from a
//! client that waits for nothing.

use std::io::Write as _;
use std::time::{Duration, Instant};

use streamgauge::model::Kind;
use streamgauge::nats::Outgoing;

use crate::full::Bench;
use crate::workload::{W, Workload};

/// If no message is stored for this long, the measurement ends.
const QUIET: Duration = Duration::from_secs(2);

/// The rates in messages a second.
pub struct Rates {
    /// The whole command, from its start to its end. Every message is acknowledged.
    pub command: f64,
    /// Messages are sent without ids and without acks, until the stream stores no more.
    pub server: f64,
}

pub async fn measure(messages: usize) -> Rates {
    let events: Vec<Outgoing> = Workload::new(W).filter(|message| message.kind == Kind::Event).take(messages).collect();
    Rates { command: by_command(&events).await, server: by_client(events).await }
}

async fn by_command(events: &[Outgoing]) -> f64 {
    let bench = Bench::start().await;
    let file = bench.database().with_file_name("events.ndjson");
    let mut lines = std::io::BufWriter::new(std::fs::File::create(&file).unwrap());
    for event in events {
        lines.write_all(&event.payload).unwrap();
        lines.write_all(b"\n").unwrap();
    }
    lines.into_inner().unwrap().sync_all().unwrap();
    let began = Instant::now();
    let output = bench.command().arg("publish").arg(&file).output().unwrap();
    let took = began.elapsed();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(bench.stream().await.cached_info().state.messages, events.len() as u64);
    events.len() as f64 / took.as_secs_f64()
}

/// Sends faster than the server stores. The server drops a part, so only the stored messages count.
async fn by_client(events: Vec<Outgoing>) -> f64 {
    let bench = Bench::start().await;
    let (client, mut stream) = (async_nats::connect(bench.url()).await.unwrap(), bench.stream().await);
    let (count, began) = (events.len() as u64, Instant::now());
    for event in events {
        client.publish("analytics.events", event.payload).await.unwrap();
    }
    client.flush().await.unwrap();
    let (mut stored, mut at) = (0, Instant::now());
    while stored < count && at.elapsed() < QUIET {
        tokio::time::sleep(Duration::from_millis(5)).await;
        let messages = stream.info().await.unwrap().state.messages;
        if messages > stored {
            (stored, at) = (messages, Instant::now());
        }
    }
    stored as f64 / (at - began).as_secs_f64()
}
