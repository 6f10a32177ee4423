//! Judges a message from its subject and bytes: route, decode, validate. Live and on replay, the code is the same.
//!
//! ```text
//! Delivery -> subject     the kind of message, or unknown_subject
//!          -> decode      bytes -> fields of the right types, or a rejection
//!          -> validate    limits and rules, or a rejection
//!          -> Verdict     -> Batch: the messages that are written together
//! ```
//! Only the store knows whether an id is new. For a known id, [`compare`] tells a copy from a conflict.
//!
//! Architecture invariant: this module does not depend on NATS, on SQL, on the clock, or on the configuration.

mod accepted;
mod batch;
mod decode;
mod delivery;
mod duplicate;
mod rejection;
pub mod subject;
mod validate;
mod verdict;

pub use accepted::{Accepted, Message, Supplied};
pub use batch::{Batch, BatchLimits};
pub use decode::{Wire, WireEvent, WireMetric, WireSession, decode};
pub use delivery::Delivery;
pub use duplicate::{Record, compare, unreadable};
pub use rejection::{Findings, Reason, Rejection};
pub use validate::{Limits, Origin, validate};
pub use verdict::{Criteria, Judge, Verdict};

#[cfg(test)]
mod tests;
