//! Health, version and metrics over HTTP.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

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

    fn not_ready(&self) -> Option<&'static str> {
        if !self.is_migrated.load(Ordering::Relaxed) {
            return Some("the database is not open yet\n");
        }
        match self.connection.get() {
            Some(connection) if connection.is_connected() => None,
            _ => Some("not connected to NATS\n"),
        }
    }
}

#[derive(Clone)]
struct Served {
    health: Arc<Health>,
    telemetry: Arc<Telemetry>,
    token: Option<Arc<str>>,
}

/// `/livez`, `/readyz`, `/version` and `/metrics`; the last asks for `http.token` where there is one.
pub fn router(health: Arc<Health>, telemetry: Arc<Telemetry>, token: Option<String>) -> Router {
    Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/version", get(version))
        .route("/metrics", get(metrics))
        .with_state(Served { health, telemetry, token: token.map(Arc::from) })
}

/// Serves until `stop`.
pub async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    let served = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await;
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
    if let Some(token) = &served.token
        && !is_authorized(&headers, token)
    {
        let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
        return (StatusCode::UNAUTHORIZED, challenge, "http.token is needed as a bearer token\n").into_response();
    }
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, content_type)], served.telemetry.render()).into_response()
}

/// Compares all bytes whatever differs, so that the time taken tells nothing of the token.
fn is_authorized(headers: &HeaderMap, token: &str) -> bool {
    let sent = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let Some(sent) = sent.and_then(|value| value.strip_prefix("Bearer ")) else { return false };
    let differences = sent.bytes().zip(token.bytes()).fold(0, |sum, (left, right)| sum | (left ^ right));
    sent.len() == token.len() && differences == 0
}
