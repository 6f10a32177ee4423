//! Health, version, metrics and the live page over HTTP.

mod auth;
mod limited;
mod live;
mod page;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use live::{Live, Source};

use self::auth::Guard;
use self::limited::Limited;
use crate::nats::Connection;
use crate::telemetry::Telemetry;

/// Whether the worker can do its work.
#[derive(Debug, Default)]
pub struct Health {
    is_migrated: AtomicBool,
    connection: OnceLock<Connection>,
}

impl Health {
    /// The database is open and migrated.
    pub fn set_migrated(&self) {
        self.is_migrated.store(true, Ordering::Relaxed);
    }

    /// NATS was reached; from here on the connection itself tells.
    pub fn set_connection(&self, connection: Connection) {
        let _ = self.connection.set(connection);
    }

    fn is_connected(&self) -> bool {
        self.connection.get().is_some_and(Connection::is_connected)
    }

    fn not_ready(&self) -> Option<&'static str> {
        if !self.is_migrated.load(Ordering::Relaxed) {
            return Some("the database is not open yet\n");
        }
        (!self.is_connected()).then_some("not connected to NATS\n")
    }
}

/// What handlers share.
#[derive(Debug, Clone)]
pub struct Served {
    health: Arc<Health>,
    telemetry: Arc<Telemetry>,
    live: Arc<Live>,
    guard: Guard,
    stop: CancellationToken,
}

impl Served {
    /// What a worker tells, to those who have the token where there is one.
    pub fn new(
        health: Arc<Health>,
        telemetry: Arc<Telemetry>,
        live: Arc<Live>,
        token: Option<String>,
        stop: CancellationToken,
    ) -> Self {
        Self { health, telemetry, live, guard: Guard::new(token), stop }
    }

    /// `/livez`, `/readyz` and `/version` for all; `/metrics`, the page and what it reads for those who may look.
    pub fn router(self) -> Router {
        Router::new()
            .route("/livez", get(async || "ok\n"))
            .route("/readyz", get(readyz))
            .route("/version", get(version))
            .route("/metrics", get(metrics))
            .route("/", get(page::index))
            .route("/login", post(page::login))
            .route("/page.css", get(page::style))
            .route("/page.js", get(page::script))
            .route("/chart.js", get(page::chart_script))
            .route("/api/stream", get(page::stream))
            .route("/api/history", get(page::history))
            .route("/api/snapshot", get(page::snapshot))
            .with_state(self)
    }
}

/// Serves until `stop`.
pub async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    let served = axum::serve(Limited::new(listener), router).with_graceful_shutdown(stop.cancelled_owned()).await;
    if let Err(error) = served {
        tracing::error!("HTTP stopped: {error}");
    }
}

async fn readyz(State(served): State<Served>) -> Response {
    match served.health.not_ready() {
        None => "ok\n".into_response(),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, why).into_response(),
    }
}

async fn version() -> impl IntoResponse {
    let body = serde_json::json!({"name": "streamgauge", "version": env!("CARGO_PKG_VERSION")});
    ([(header::CONTENT_TYPE, "application/json")], format!("{body}\n"))
}

async fn metrics(State(served): State<Served>, headers: HeaderMap) -> Response {
    if !served.guard.admits_program(&headers) {
        return unauthorized();
    }
    // Where the database cannot be read, they are as they were.
    if let Some(Ok(status)) = served.live.status().await {
        served.telemetry.ledgers(&status);
    }
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, content_type)], served.telemetry.render()).into_response()
}

fn unauthorized() -> Response {
    let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
    (StatusCode::UNAUTHORIZED, challenge, "http.token is needed as a bearer token\n").into_response()
}
