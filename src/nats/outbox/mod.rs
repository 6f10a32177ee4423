//! What is committed, on its way to NATS: dead letters to their stream, numbers of widgets to their bucket.

pub(super) mod bucket;
mod dashboard;
mod dead_letters;

pub use dashboard::DashboardOutbox;
pub use dead_letters::DeadLetterOutbox;
