//! The readiness of the worker: is the database open, and is NATS connected?

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// The readiness of the worker: it is ready if the database is migrated and NATS is connected.
#[derive(Debug, Default)]
pub struct Health {
    is_migrated: AtomicBool,
    is_connected: OnceLock<Arc<AtomicBool>>,
}

impl Health {
    /// Records that the database is open and migrated.
    pub fn set_migrated(&self) {
        self.is_migrated.store(true, Ordering::Relaxed);
    }

    /// Records that NATS was connected once. From now on the flag tells whether NATS is connected.
    pub fn set_connection(&self, is_connected: Arc<AtomicBool>) {
        let _ = self.is_connected.set(is_connected);
    }

    pub(super) fn is_connected(&self) -> bool {
        self.is_connected.get().is_some_and(|flag| flag.load(Ordering::Relaxed))
    }

    pub(super) fn why_not_ready(&self) -> Option<&'static str> {
        if !self.is_migrated.load(Ordering::Relaxed) {
            return Some("the database is not open yet\n");
        }
        (!self.is_connected()).then_some("not connected to NATS\n")
    }
}
