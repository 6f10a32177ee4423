//! Measures the worker's peak resident size, with everything configured, while it works off a backlog.

use streamgauge::model::Kind;
use streamgauge::nats::Outgoing;

use crate::everything::ALL;
use crate::full::{Bench, Run};
use crate::workload::{W, Workload};

const CHUNK_MESSAGES: usize = 250_000;
/// The largest message that `limits.max_payload` accepts.
const LARGE_BYTES: usize = 64 << 10;

/// Runs the worker with this many messages of W waiting.
pub async fn with_backlog(messages: usize) -> Run {
    let (mut bench, mut workload) = (Bench::start().await, Workload::new(W));
    for at in (0..messages).step_by(CHUNK_MESSAGES) {
        bench.publish(workload.take_outgoing(CHUNK_MESSAGES.min(messages - at))).await;
    }
    bench.run_anew(&ALL.toml()).await
}

/// Runs the worker with this many messages of 64 KiB waiting.
pub async fn with_large_payloads(messages: usize) -> Run {
    let mut bench = Bench::start().await;
    bench.publish((0..messages).map(large).collect()).await;
    bench.run_anew(&ALL.toml()).await
}

fn large(n: usize) -> Outgoing {
    // Each text is shorter than `limits.max_string`.
    let text = "x".repeat(8_000);
    let texts: String = (0..8).map(|at| format!(r#","text_{at}":"{text}""#)).collect();
    let mut payload = format!(
        r#"{{"id":"large-{n}","event_type":"track","event_name":"event_1","user_id":"user-{}","properties":{{"n":{n}{texts}}},"page_url":"/""#,
        n % 1_000
    );
    payload.push_str(&" ".repeat(LARGE_BYTES - 1 - payload.len()));
    payload.push('}');
    Outgoing { kind: Kind::Event, message_id: format!("events:large-{n}"), payload: payload.into() }
}
