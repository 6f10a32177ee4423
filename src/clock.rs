//! The one place that reads the clock and makes random ids.
//!
//! Architecture invariant: no public table depends on this module. Rules judge a message against its own `recv`.
//! The clock serves producers (a builder's default timestamp and id), internal bookkeeping and logs.
#![allow(clippy::disallowed_methods)]

use chrono::Utc;
use uuid::Uuid;

/// Returns the wall clock's time in milliseconds since the Unix epoch, floored.
pub fn now_ms() -> i64 {
    Utc::now().timestamp_millis()
}

/// Returns a new UUIDv7. Its first 48 bits are the time, so ids made one after another are neighbours in an index.
pub fn new_id() -> Uuid {
    Uuid::now_v7()
}
