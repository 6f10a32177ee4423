//! Everything that speaks NATS: the only folder that names `async_nats`.
//!
//! ```text
//! source      reads the stream: consumer claims it, fetch reads single messages
//! outbox      dead letters, and the numbers of widgets, to NATS
//! publisher   messages of producers
//! viewer      numbers of widgets, as a subscriber has them
//! connect     the connection; lookup and stream: what is there, and what is made
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
