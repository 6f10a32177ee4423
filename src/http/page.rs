//! The page, and what it reads.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Form;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use futures::StreamExt;
use serde::Deserialize;

use super::Served;
use super::auth::Refusal;
use super::live::Shared;
use crate::store::StoreError;

/// Pages that may be open at once.
const MAX_PAGES: usize = 400;
/// Nothing but what this server sends is run, shown or asked.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
     connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";
const HTML: &str = "text/html; charset=utf-8";
const INDEX: &str = include_str!("page/index.html");
const LOGIN: &str = include_str!("page/login.html");
const FOREIGN_HOST: &str =
    "this address is for this machine; to look from another, or by another name, set http.token\n";

/// A file that is part of the program.
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
    asset(StatusCode::OK, "text/css; charset=utf-8", include_str!("page/page.css"))
}

pub(super) async fn script() -> Response {
    asset(StatusCode::OK, "text/javascript; charset=utf-8", include_str!("page/page.js"))
}

pub(super) async fn chart_script() -> Response {
    asset(StatusCode::OK, "text/javascript; charset=utf-8", include_str!("page/chart.js"))
}

/// `/`; where a token is needed, the form that asks for it.
pub(super) async fn index(State(served): State<Served>, headers: HeaderMap) -> Response {
    match served.guard.check(&headers) {
        Ok(()) => asset(StatusCode::OK, HTML, INDEX),
        Err(Refusal::NoToken) => asset(StatusCode::UNAUTHORIZED, HTML, LOGIN),
        Err(Refusal::ForeignHost) => (StatusCode::FORBIDDEN, FOREIGN_HOST).into_response(),
    }
}

#[derive(Deserialize)]
pub(super) struct Login {
    token: String,
}

/// The form's answer: a cookie, and the page.
pub(super) async fn login(State(served): State<Served>, Form(login): Form<Login>) -> Response {
    match served.guard.cookie_for(&login.token) {
        Some(cookie) => ([(header::SET_COOKIE, cookie)], Redirect::to("/")).into_response(),
        None => asset(StatusCode::UNAUTHORIZED, HTML, LOGIN),
    }
}

/// Why a request for data is refused, where it is.
fn refused(served: &Served, headers: &HeaderMap) -> Option<Response> {
    match served.guard.check(headers) {
        Ok(()) => None,
        Err(Refusal::NoToken) => Some(super::unauthorized()),
        Err(Refusal::ForeignHost) => Some((StatusCode::FORBIDDEN, FOREIGN_HOST).into_response()),
    }
}

/// `/api/stream`: snapshots as server-sent events, the first at once.
pub(super) async fn stream(State(served): State<Served>, headers: HeaderMap) -> Response {
    if let Some(refused) = refused(&served, &headers) {
        return refused;
    }
    if served.live.subscribers() >= MAX_PAGES {
        return (StatusCode::SERVICE_UNAVAILABLE, "too many pages are open\n").into_response();
    }
    // The bytes of an event are shared by all pages.
    let events = futures::stream::unfold(served.live.subscribe(), async |mut events| {
        events.changed().await.ok()?;
        let event = events.borrow_and_update().clone();
        Some((event, events))
    });
    let events = events.map(Ok::<_, Infallible>).take_until(served.stop.cancelled_owned());
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, Body::from_stream(events)).into_response()
}

/// `/api/history`: hourly values of every number.
pub(super) async fn history(State(served): State<Served>, headers: HeaderMap) -> Response {
    match refused(&served, &headers) {
        Some(refused) => refused,
        None => as_json(served.live.history().await),
    }
}

/// `/api/snapshot`: one snapshot, for programs.
pub(super) async fn snapshot(State(served): State<Served>, headers: HeaderMap) -> Response {
    match refused(&served, &headers) {
        Some(refused) => refused,
        None => as_json(served.live.now().await),
    }
}

fn as_json(read: Option<Result<Shared, StoreError>>) -> Response {
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
    match read {
        Some(Ok(json)) => (headers, Arc::clone(&json).to_string()).into_response(),
        Some(Err(error)) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response(),
        None => (StatusCode::SERVICE_UNAVAILABLE, "the database is not open yet\n").into_response(),
    }
}
