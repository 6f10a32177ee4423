//! What widgets cost: of the writer's rate, and from a publish to the dashboard message at a subscriber.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use futures::StreamExt;
use streamgauge::config::{self, Config, Sources};

use crate::support::{NatsServer, Worker};

/// Widgets and their numbers.
#[derive(Debug, Clone, Copy)]
pub enum Numbers {
    /// A thousand, ten of which change.
    FewOfMany,
    /// Those of `deploy/demo.toml`, which has features and a funnel too.
    OfDemo,
}

impl Numbers {
    fn toml(self) -> String {
        if let Self::OfDemo = self {
            return include_str!("../../deploy/demo.toml").to_owned();
        }
        let mut toml = String::new();
        for widget in 0..100 {
            let _ = writeln!(toml, "[[widgets]]\nid = \"w{widget}\"\n[widgets.metrics]");
            for number in 0..10 {
                let name = if widget == 0 { format!("event_{number}") } else { format!("never_{widget}_{number}") };
                let _ = writeln!(toml, "m{number} = \"events.count{{event_name={name}}}\"");
            }
        }
        toml
    }

    /// A configuration with these, and nothing else that is not the default.
    pub fn config(self) -> Config {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("numbers.toml");
        std::fs::write(&file, self.toml()).unwrap();
        config::load(&Sources { file: Some(file), ..Sources::default() }).unwrap().1
    }
}

const LIVE: &str = "[[widgets]]\nid = \"live\"\nmax_rate = \"0ms\"\nmetrics = { events = \"events.count\" }\n";

/// Milliseconds from the publish of each event, so many a second, to the first dashboard message that counts it: sorted.
pub async fn latency_ms(per_second: u32, count: u32) -> Vec<f64> {
    let server = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("live.toml");
    std::fs::write(&file, LIVE).unwrap();
    let mut worker = Worker::new(folder.path(), &server.url()).env("STREAMGAUGE_CONFIG", file.to_str().unwrap());
    worker.start_reading().await;
    let client = async_nats::connect(server.url()).await.unwrap();
    let mut messages = client.subscribe("dashboard.live.events").await.unwrap();
    client.flush().await.unwrap();
    let began = Instant::now();
    let seen = tokio::spawn(async move {
        let mut seen: Vec<Instant> = Vec::new();
        while seen.len() < count as usize {
            let message = messages.next().await.unwrap();
            let body: serde_json::Value = serde_json::from_slice(&message.payload).unwrap();
            let value = body["value"].as_f64().unwrap() as usize;
            seen.resize(value.max(seen.len()), Instant::now());
        }
        seen
    });
    let mut ticks = tokio::time::interval(Duration::from_millis(1));
    let mut published = Vec::new();
    while published.len() < count as usize {
        ticks.tick().await;
        while published.len() < count as usize
            && began.elapsed() >= Duration::from_secs(1) * u32::try_from(published.len()).unwrap() / per_second
        {
            let number = published.len();
            let body = format!(
                r#"{{"id":"{number}","event_type":"track","event_name":"n","user_id":"u{}","timestamp":"2026-11-01T08:00:00Z"}}"#,
                number % 100
            );
            published.push(Instant::now());
            client.publish("analytics.events", body.into()).await.unwrap();
        }
    }
    let seen = tokio::time::timeout(crate::support::PATIENCE, seen).await.expect("all events").unwrap();
    assert!(worker.stop().await.success());
    let mut taken_ms: Vec<f64> =
        published.iter().zip(&seen).map(|(one, other)| (*other - *one).as_secs_f64() * 1e3).collect();
    taken_ms.sort_by(f64::total_cmp);
    taken_ms
}
