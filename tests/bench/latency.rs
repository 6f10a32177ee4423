//! Measures the time from a publish to its row, and to the dashboard message that counts it, at several rates, with
//! everything configured.

use std::path::Path;
use std::time::{Duration, Instant};

use futures::StreamExt;
use rusqlite::{Connection, OpenFlags};
use streamgauge::model::Kind;
use streamgauge::nats::Outgoing;

use crate::everything::ALL;
use crate::support::{NatsServer, PATIENCE, Worker};

const LIVE: &str =
    "[[widgets]]\nid = \"live\"\nperiod = \"1d\"\nmax_rate = \"0ms\"\nmetrics = { events = \"events.count\" }\n";
/// How often a reader looks for new rows. The measurement is no finer than this.
const LOOK: Duration = Duration::from_micros(500);

/// Latencies in milliseconds, sorted.
pub struct Latency {
    pub row_ms: Vec<f64>,
    pub dashboard_ms: Vec<f64>,
}

/// Publishes the messages at this rate a second, without waiting for acks.
pub async fn measure(messages: Vec<Outgoing>, per_second: f64) -> Latency {
    let server = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("streamgauge.toml"), ALL.toml() + LIVE).unwrap();
    let mut worker = Worker::new(folder.path(), &server.url());
    worker.start_reading().await;
    let client = async_nats::connect(server.url()).await.unwrap();

    let events = messages.iter().filter(|message| message.kind == Kind::Event).count();
    let counts = client.subscribe("dashboard.live.events").await.unwrap();
    client.flush().await.unwrap();
    let counted = tokio::spawn(when_counted(counts, events));
    let (database, count) = (worker.database().0, messages.len());
    let stored = std::thread::spawn(move || when_stored(&database, count));

    let kinds: Vec<Kind> = messages.iter().map(|message| message.kind).collect();
    let published = publish(&client, messages, per_second).await;
    let counted = tokio::time::timeout(PATIENCE, counted).await.expect("all events").unwrap();
    let stored = tokio::task::spawn_blocking(|| stored.join().unwrap()).await.unwrap();
    assert!(worker.stop().await.success());
    assert_eq!(worker.database().count("_rejections"), 0);
    let of_events = published.iter().zip(kinds).filter(|(_, kind)| *kind == Kind::Event).map(|(at, _)| *at);
    Latency { row_ms: between(published.iter().copied(), &stored), dashboard_ms: between(of_events, &counted) }
}

async fn publish(client: &async_nats::Client, messages: Vec<Outgoing>, per_second: f64) -> Vec<Instant> {
    let mut ticks = tokio::time::interval(Duration::from_millis(1));
    let mut messages = messages.into_iter().peekable();
    let mut published = Vec::new();
    let began = Instant::now();
    while messages.peek().is_some() {
        ticks.tick().await;
        let due = began.elapsed().as_secs_f64() * per_second;
        while (published.len() as f64) <= due
            && let Some(message) = messages.next()
        {
            // Records when the message was due: if the publisher falls behind, its messages wait too.
            published.push(began + Duration::from_secs_f64(published.len() as f64 / per_second));
            client.publish(format!("analytics.{}", message.kind), message.payload).await.unwrap();
        }
    }
    published
}

/// Returns, for each count up to `events`, when the number first reached it.
async fn when_counted(mut counts: async_nats::Subscriber, events: usize) -> Vec<Instant> {
    let mut seen = Vec::new();
    while seen.len() < events {
        let message = counts.next().await.unwrap();
        let body: serde_json::Value = serde_json::from_slice(&message.payload).unwrap();
        let value = body["value"].as_f64().unwrap() as usize;
        seen.resize(value.max(seen.len()), Instant::now());
    }
    seen
}

/// Returns when another reader first saw the row of each message. The stream has no other messages.
fn when_stored(database: &Path, count: usize) -> Vec<Instant> {
    let reader = Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let mut select = reader.prepare("SELECT last_seq FROM _positions ORDER BY epoch DESC LIMIT 1").unwrap();
    let (mut seen, mut moved) = (Vec::new(), Instant::now());
    while seen.len() < count {
        let applied: u32 = select.query_row([], |row| row.get(0)).unwrap_or_default();
        let applied = applied as usize;
        if applied > seen.len() {
            moved = Instant::now();
            seen.resize(applied, moved);
        }
        assert!(moved.elapsed() < PATIENCE, "stuck at {applied}");
        std::thread::sleep(LOOK);
    }
    seen
}

fn between(published: impl Iterator<Item = Instant>, seen: &[Instant]) -> Vec<f64> {
    let mut taken_ms: Vec<f64> = published.zip(seen).map(|(one, other)| (*other - one).as_secs_f64() * 1e3).collect();
    taken_ms.sort_by(f64::total_cmp);
    taken_ms
}
