//! All code that uses NATS. No other folder names `async_nats`.
//!
//! ```text
//! source      reads the stream in order; claim and consumer own the durable consumer, fetch reads single messages
//! outbox      publishes dead letters and the numbers of widgets
//! publisher   publishes the messages of producers
//! viewer      follows the numbers of widgets, as a subscriber
//! stream      creates the stream of messages and the stream of dead letters, with all their settings
//! connect     makes the connection; lookup finds streams and consumers, and reads their state
//! ```

mod backoff;
mod claim;
mod connect;
mod consumer;
mod error;
mod fetch;
mod lookup;
mod outbox;
mod publisher;
mod replay_consumer;
mod source;
mod stream;
mod viewer;

pub use backoff::Backoff;
pub(crate) use connect::without_secrets;
pub use connect::{Connection, connect, connect_once};
pub use consumer::Instance;
pub use error::NatsError;
pub use lookup::{lag, last_sequence, last_sequence_before, wait_for_stream};
pub use outbox::{DashboardOutbox, DeadLetterOutbox};
pub use publisher::{
    Acknowledged, Outgoing, PublishFailure, Publishable, Publisher, PublisherOptions, Receipt, Unsent,
};
pub use source::{Interrupted, Silence, Source};
pub use viewer::{LiveNumber, Seen, Viewer};
