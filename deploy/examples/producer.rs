//! A producer: publishes a session with a few events, and a metric. Needs a nats-server and a worker; see the README.
//!
//! `cargo run --example producer`. `NATS_URL` names the server; the default is 127.0.0.1:4222.
#![allow(clippy::print_stdout, missing_docs)]

use std::error::Error;

use streamgauge::model::{EventBuilder, SessionBuilder, events, metrics};
use streamgauge::nats::{Publisher, PublisherOptions};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = std::env::var("NATS_URL").unwrap_or_else(|_| "nats://127.0.0.1:4222".into());
    let publisher = Publisher::connect(&url, PublisherOptions::default()).await?;

    // A message gets its id and timestamp when it is built. Sending it again is safe as long as its id is the same.
    let session_id = format!("session-{}", std::process::id());
    let start = SessionBuilder::start(&session_id).user_id("ada").device_type("desktop").os("linux").build();
    let view = EventBuilder::page("https://example.com/missions").user_id("ada").session_id(&session_id).build();
    let created = events::mission_created("m1").user_id("ada").session_id(&session_id).build();
    let end = SessionBuilder::end(&session_id).build();

    // `publish` hands the message over. The receipt is ready once the stream has stored the message.
    let session = [publisher.publish(start).await?, publisher.publish(end).await?];
    let page = publisher.publish(view).await?.await?;
    let mission = publisher.publish(created).await?.await?;
    let request = publisher.publish(metrics::api_request("/missions", 12.5, 201).build()).await?.await?;
    for receipt in session {
        receipt.await?;
    }
    println!("session {session_id}: sequences {}, {} and {}", page.sequence, mission.sequence, request.sequence);
    Ok(())
}
