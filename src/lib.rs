//! Streamgauge reads analytics messages from NATS JetStream and keeps exact, live analytics in one SQLite file.
//!
//! # The way of a message
//! ```text
//! stream -> nats::source     durable pull consumer, positioned from the database, gap check
//!        -> judge            subject -> kind; decode: bytes -> typed message; validate: limits and rules
//!        -> batch            what is decoded when the writer is free; under backlog it waits to fill
//!        -> store::writer    one transaction: raw rows, what they add up to, ledger of rejections, gaps, position
//!             analytics      what stored messages say of the derived tables: facts, combined, applied to states
//!        -> ack              once, for the last message, after the commit
//!        -> nats::dead_letter   drains the ledger to ANALYTICS_DLQ
//!        -> nats::dashboard     puts what widgets show into the bucket DASHBOARD
//!        -> http::live          tells it to open pages
//! ```
//! [`replay`] sends the same messages through the same pipeline once more, into a file aside: to rebuild, or to verify.
//! [`pipeline`] shows the whole of it on one screen. The modules below stand in reading order.
//!
//! # Producers
//! [`model`] has the messages and their builders, [`nats::Publisher`] publishes them:
//! ```no_run
//! use streamgauge::model::{SessionBuilder, events};
//! use streamgauge::nats::{Publisher, PublisherOptions};
//!
//! # async fn publish() -> Result<(), Box<dyn std::error::Error>> {
//! let publisher = Publisher::connect("nats://127.0.0.1:4222", PublisherOptions::default()).await?;
//! let started = publisher.publish(SessionBuilder::start("s1").user_id("ada").os("linux").build()).await?;
//! let created = publisher.publish(events::mission_created("m1").user_id("ada").session_id("s1").build()).await?;
//! // Both are on their way. Each receipt is ready once its message is acknowledged, or hands it back.
//! (started.await?, created.await?);
//! # Ok(())
//! # }
//! ```
//!
//! # The promises
//! - **Exactly once in effect.** A batch's rows and the stream position commit in one transaction or not at all.
//! - **Nothing disappears in silence.** Every message ends as stored, as a duplicate, or in the ledger of rejections with
//!   its reason; what the stream lost before it was read is in the gap ledger.
//! - **The database is the authority**, not the consumer: a restored file catches up by itself.
//! - **Bounded.** Every queue, batch and retry has a named limit.

pub mod clock;
pub mod config;
pub mod model;

pub mod app;
pub mod pipeline;
pub mod rebuild;

pub mod nats;

pub mod judge;

pub mod position;

pub mod analytics;
pub mod store;

pub mod cli;
pub mod http;
pub mod telemetry;

/// How properties of units are tested: what once failed is kept beside the other tests.
#[cfg(test)]
fn property_config() -> proptest::prelude::ProptestConfig {
    use proptest::test_runner::FileFailurePersistence::SourceParallel;
    proptest::prelude::ProptestConfig {
        failure_persistence: Some(Box::new(SourceParallel("tests/proptest-regressions"))),
        ..Default::default()
    }
}
