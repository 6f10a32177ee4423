//! Streamgauge reads analytics messages from NATS JetStream and keeps exact, live analytics in one SQLite file.
//!
//! # The way of a message
//! ```text
//! stream -> nats::Source             durable pull consumer, positioned from the database; checks for gaps
//!        -> judge::Judge             subject -> kind; decode: bytes -> typed message; validate: limits and rules
//!        -> judge::Batch             messages judged while the writer is busy; a backlog fills it
//!        -> store::Writer            one transaction: raw rows, derived tables, ledger, gaps, position
//!             analytics              rules of the derived tables: stored message -> facts -> applied to states
//!        -> nats::Source::ack        one ack, for the last message, after the commit
//!        -> nats::DeadLetterOutbox   publishes the ledger's rejected messages to ANALYTICS_DLQ
//!        -> nats::DashboardOutbox    puts the numbers of widgets into the bucket DASHBOARD
//!        -> http::LivePage           sends snapshots to open pages
//! ```
//! [`rebuild::Replay`] sends accepted messages through the same pipeline again, into a shadow database: to rebuild,
//! or to verify. [`pipeline`] shows the whole flow on one screen. The modules below are declared in reading order.
//!
//! # Producers
//! [`model`] has the messages and their builders. [`nats::Publisher`] publishes the messages:
//! ```no_run
//! use streamgauge::model::{SessionBuilder, events};
//! use streamgauge::nats::{Publisher, PublisherOptions};
//!
//! # async fn publish() -> Result<(), Box<dyn std::error::Error>> {
//! let publisher = Publisher::connect("nats://127.0.0.1:4222", PublisherOptions::default()).await?;
//! let started = publisher.publish(SessionBuilder::start("s1").user_id("ada").os("linux").build()).await?;
//! let created = publisher.publish(events::mission_created("m1").user_id("ada").session_id("s1").build()).await?;
//! // Both messages are on their way. Each receipt resolves when the server has acknowledged its message.
//! // If the message could not be published, the receipt hands it back.
//! (started.await?, created.await?);
//! # Ok(())
//! # }
//! ```
//!
//! # The promises
//! - **Exactly once in effect.** A batch's rows and the stream position commit in one transaction or not at all.
//! - **Nothing disappears in silence.** Every message ends as stored, as a duplicate, or in the ledger of rejections
//!   with its reason. The gap ledger lists messages that the stream lost before they were read.
//! - **The database is the authority**, not the consumer. A restored database file catches up by itself.
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

/// Configures property tests of units: inputs that once failed are kept in `tests/proptest-regressions`.
#[cfg(test)]
fn property_config() -> proptest::prelude::ProptestConfig {
    use proptest::test_runner::FileFailurePersistence::SourceParallel;
    proptest::prelude::ProptestConfig {
        failure_persistence: Some(Box::new(SourceParallel("tests/proptest-regressions"))),
        ..Default::default()
    }
}
