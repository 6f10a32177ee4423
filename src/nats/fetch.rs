//! Reads single messages through the API that answers in JSON.
//!
//! This API is slow, but it returns any message. Some stored messages cannot be delivered through a pull: async-nats
//! cannot parse them (their headers or subjects break the protocol), or they are larger than a pull may ask for.

use async_nats::jetstream;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::json;

use super::error::NatsError;
use crate::judge::Delivery;

#[derive(Deserialize)]
struct MessageResponse {
    message: StoredMessage,
}

#[derive(Deserialize)]
struct StoredMessage {
    subject: String,
    seq: u64,
    #[serde(default)]
    data: String,
    time: chrono::DateTime<chrono::Utc>,
}

/// Returns the message at a sequence, or `None` if it was deleted.
pub(super) async fn at(
    jetstream: &jetstream::Context,
    stream: &str,
    sequence: u64,
) -> Result<Option<Delivery>, NatsError> {
    get(jetstream, stream, &json!({ "seq": sequence })).await
}

/// Returns the first message at or after a sequence, or `None` if the stream ends before it.
pub(super) async fn from(
    jetstream: &jetstream::Context,
    stream: &str,
    sequence: u64,
) -> Result<Option<Delivery>, NatsError> {
    get(jetstream, stream, &json!({ "seq": sequence, "next_by_subj": ">" })).await
}

/// Returns the last message on a subject, or `None` if the subject has no message.
pub(super) async fn last_of(
    jetstream: &jetstream::Context,
    stream: &str,
    subject: &str,
) -> Result<Option<Delivery>, NatsError> {
    get(jetstream, stream, &json!({ "last_by_subj": subject })).await
}

async fn get(
    jetstream: &jetstream::Context,
    stream: &str,
    request: &serde_json::Value,
) -> Result<Option<Delivery>, NatsError> {
    let api = format!("STREAM.MSG.GET.{stream}");
    let what = format!("cannot read a message with $JS.API.{api} (is the permission missing?)");
    let response: Response<MessageResponse> =
        jetstream.request(api, request).await.map_err(|error| NatsError::request(&what, error))?;
    let message = match response {
        Response::Ok(MessageResponse { message }) => message,
        Response::Err { error } if error.error_code() == ErrorCode::NO_MESSAGE_FOUND => return Ok(None),
        Response::Err { error } => return Err(NatsError::request(&what, error)),
    };
    let payload = STANDARD.decode(&message.data).map_err(|error| NatsError::request(&what, error))?;
    Ok(Some(Delivery {
        subject: message.subject,
        size_bytes: payload.len(),
        payload: payload.into(),
        stream_sequence: message.seq,
        // Nanoseconds are out of range from the year 2262 on.
        recv_ns: message.time.timestamp_nanos_opt().unwrap_or(i64::MAX),
    }))
}
