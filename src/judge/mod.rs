//! Subject and bytes to a verdict: route, decode, validate. The same live and on replay.
//!
//! ```text
//! Delivery -> subject     which kind of message, or unknown_subject
//!          -> decode      bytes -> fields of the right types, or a rejection
//!          -> validate    limits and rules, or a rejection
//!          -> Verdict     -> Batch: what one transaction takes
//! ```
//! Whether an id is new is known to the store alone. There [`compare`] tells a copy from a conflict.
//!
//! Architecture invariant: nothing here knows of NATS, of SQL, of the clock, or of the configuration.

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
