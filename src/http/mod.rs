//! Serves health, version, metrics and the live page over HTTP.

mod auth;
mod health;
mod limited;
mod page;
mod probes;
mod served;

use axum::Router;
use axum::routing::{get, post};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use health::Health;
pub use page::live::{LivePage, PageSource};
pub use served::Served;

use self::limited::Limited;

/// Routes all requests. `/livez`, `/readyz` and `/version` are open to everybody; `/metrics`, the page and its data
/// are guarded.
pub fn router(served: Served) -> Router {
    Router::new()
        .route("/livez", get(probes::livez))
        .route("/readyz", get(probes::readyz))
        .route("/version", get(probes::version))
        .route("/metrics", get(probes::metrics))
        .route("/", get(page::index))
        .route("/login", post(page::login))
        .route("/page.css", get(page::style))
        .route("/page.js", get(page::script))
        .route("/chart.js", get(page::chart_script))
        .route("/api/stream", get(page::stream))
        .route("/api/history", get(page::history))
        .route("/api/snapshot", get(page::snapshot))
        .with_state(served)
}

/// Serves until `stop`.
pub async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    let served = axum::serve(Limited::new(listener), router).with_graceful_shutdown(stop.cancelled_owned()).await;
    if let Err(error) = served {
        tracing::error!("HTTP stopped: {error}");
    }
}
