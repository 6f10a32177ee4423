//! Answers the requests of programs: `/livez`, `/readyz`, `/version` and `/metrics`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::auth::{Guard, unauthorized};
use super::health::Health;
use super::page::live::LivePage;
use crate::telemetry::Telemetry;

/// `/livez`: always 200 while the process serves HTTP.
pub(super) async fn livez() -> &'static str {
    "ok\n"
}

/// `/readyz`: 200, or 503 with the reason while the worker is not ready.
pub(super) async fn readyz(State(health): State<Arc<Health>>) -> Response {
    match health.why_not_ready() {
        None => "ok\n".into_response(),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, why).into_response(),
    }
}

/// `/version`: name and version as JSON.
pub(super) async fn version() -> impl IntoResponse {
    let body = serde_json::json!({"name": "streamgauge", "version": env!("CARGO_PKG_VERSION")});
    ([(header::CONTENT_TYPE, "application/json")], format!("{body}\n"))
}

/// `/metrics`: the metrics in the OpenMetrics text format of Prometheus.
pub(super) async fn metrics(
    State(guard): State<Guard>,
    State(page): State<Arc<LivePage>>,
    State(telemetry): State<Arc<Telemetry>>,
    headers: HeaderMap,
) -> Response {
    if !guard.admits_program(&headers) {
        return unauthorized();
    }
    // If the database cannot be read, the gauges of its ledgers keep their old values.
    if let Some(Ok(status)) = page.status().await {
        telemetry.ledgers(&status);
    }
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, content_type)], telemetry.render()).into_response()
}
