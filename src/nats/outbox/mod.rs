//! Publishes committed data to NATS: dead letters to their stream, and numbers of widgets to their bucket.

pub(super) mod bucket;
mod dashboard;
mod dead_letters;

pub use dashboard::DashboardOutbox;
pub use dead_letters::DeadLetterOutbox;
