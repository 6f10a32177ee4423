//! Serves the page. `index.html`, `page.js` and `chart.js` draw it; [`live`] sends it snapshots;
//! [`crate::store::Reader::overview`] reads them from the database.

pub(super) mod live;

use std::convert::Infallible;
use std::sync::Arc;

use axum::Form;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use futures::StreamExt;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use self::live::{Json, LivePage};
use super::auth::{AccessDenied, Guard, unauthorized};
use super::limited::{MAX_CONNECTIONS, MAX_SILENCE};
use crate::store::StoreError;

/// Largest number of pages that may be open at a time.
const MAX_PAGES: usize = 400;

const _: () = {
    assert!(MAX_PAGES < MAX_CONNECTIONS, "open pages would leave no connection to programs");
    assert!(
        live::MAX_SILENCE.as_millis() * 2 < MAX_SILENCE.as_millis(),
        "an open page would be taken for a silent one"
    );
};
/// The browser may run, show and request only what this server sends.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
     connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";
const HTML: &str = "text/html; charset=utf-8";
const INDEX: &str = include_str!("index.html");
const LOGIN: &str = include_str!("login.html");
const FOREIGN_HOST: &str =
    "this address serves only this machine; to use another machine or another name, set http.token\n";

/// Returns a file that is built into the program.
fn asset(status: StatusCode, content_type: &'static str, body: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, content_type),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (status, headers, body).into_response()
}

pub(super) async fn style() -> Response {
    asset(StatusCode::OK, "text/css; charset=utf-8", include_str!("page.css"))
}

pub(super) async fn script() -> Response {
    asset(StatusCode::OK, "text/javascript; charset=utf-8", include_str!("page.js"))
}

pub(super) async fn chart_script() -> Response {
    asset(StatusCode::OK, "text/javascript; charset=utf-8", include_str!("chart.js"))
}

/// `/`: the page, or the login form if the token is missing.
pub(super) async fn index(State(guard): State<Guard>, headers: HeaderMap) -> Response {
    match guard.check(&headers) {
        Ok(()) => asset(StatusCode::OK, HTML, INDEX),
        Err(AccessDenied::NoToken) => asset(StatusCode::UNAUTHORIZED, HTML, LOGIN),
        Err(AccessDenied::ForeignHost) => (StatusCode::FORBIDDEN, FOREIGN_HOST).into_response(),
    }
}

#[derive(Deserialize)]
pub(super) struct Login {
    token: String,
}

/// `/login`: sets the cookie and redirects to the page; shows the form again if the token is wrong.
pub(super) async fn login(State(guard): State<Guard>, Form(login): Form<Login>) -> Response {
    match guard.cookie_for(&login.token) {
        Some(cookie) => ([(header::SET_COOKIE, cookie)], Redirect::to("/")).into_response(),
        None => asset(StatusCode::UNAUTHORIZED, HTML, LOGIN),
    }
}

/// Returns the response to a request for data that must be refused; `None` if the request may pass.
fn refused(guard: &Guard, headers: &HeaderMap) -> Option<Response> {
    match guard.check(headers) {
        Ok(()) => None,
        Err(AccessDenied::NoToken) => Some(unauthorized()),
        Err(AccessDenied::ForeignHost) => Some((StatusCode::FORBIDDEN, FOREIGN_HOST).into_response()),
    }
}

/// `/api/stream`: snapshots as server-sent events; the first one comes at once.
pub(super) async fn stream(
    State(guard): State<Guard>,
    State(page): State<Arc<LivePage>>,
    State(stop): State<CancellationToken>,
    headers: HeaderMap,
) -> Response {
    if let Some(refused) = refused(&guard, &headers) {
        return refused;
    }
    if page.subscribers() >= MAX_PAGES {
        return (StatusCode::SERVICE_UNAVAILABLE, "too many pages are open\n").into_response();
    }
    // All pages share the bytes of an event.
    let events = futures::stream::unfold(page.subscribe(), async |mut events| {
        events.changed().await.ok()?;
        let event = events.borrow_and_update().clone();
        Some((event, events))
    });
    let events = events.map(Ok::<_, Infallible>).take_until(stop.cancelled_owned());
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, Body::from_stream(events)).into_response()
}

/// `/api/history`: hourly values of every number.
pub(super) async fn history(
    State(guard): State<Guard>,
    State(page): State<Arc<LivePage>>,
    headers: HeaderMap,
) -> Response {
    match refused(&guard, &headers) {
        Some(refused) => refused,
        None => as_json(page.history().await),
    }
}

/// `/api/snapshot`: one snapshot, for programs.
pub(super) async fn snapshot(
    State(guard): State<Guard>,
    State(page): State<Arc<LivePage>>,
    headers: HeaderMap,
) -> Response {
    match refused(&guard, &headers) {
        Some(refused) => refused,
        None => as_json(page.now().await),
    }
}

fn as_json(read: Option<Result<Json, StoreError>>) -> Response {
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
    match read {
        Some(Ok(json)) => (headers, Arc::clone(&json).to_string()).into_response(),
        Some(Err(error)) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response(),
        None => (StatusCode::SERVICE_UNAVAILABLE, "the database is not open yet\n").into_response(),
    }
}
