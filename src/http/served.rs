//! The state that all HTTP handlers share.

use std::sync::Arc;

use axum::extract::FromRef;
use tokio_util::sync::CancellationToken;

use super::auth::Guard;
use super::health::Health;
use super::page::live::LivePage;
use crate::telemetry::Telemetry;

/// The parts of a worker that the HTTP handlers read.
#[derive(Debug, Clone)]
pub struct Served {
    health: Arc<Health>,
    telemetry: Arc<Telemetry>,
    page: Arc<LivePage>,
    guard: Guard,
    stop: CancellationToken,
}

impl Served {
    /// Collects the parts. If a token is given, metrics and page need it.
    pub fn new(
        health: Arc<Health>,
        telemetry: Arc<Telemetry>,
        page: Arc<LivePage>,
        token: Option<String>,
        stop: CancellationToken,
    ) -> Self {
        Self { health, telemetry, page, guard: Guard::new(token), stop }
    }
}

/// Lets a handler extract a part by its type.
macro_rules! parts {
    ($($field:ident: $part:ty),* $(,)?) => {$(
        impl FromRef<Served> for $part {
            fn from_ref(served: &Served) -> Self {
                served.$field.clone()
            }
        }
    )*};
}
parts!(health: Arc<Health>, telemetry: Arc<Telemetry>, page: Arc<LivePage>, guard: Guard, stop: CancellationToken);
