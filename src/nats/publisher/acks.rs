//! Receives all acks through one subscription. One future for each ack, as async-nats has it, costs as much as all
//! the rest of publishing.

use async_nats::jetstream::{self, ErrorCode};
use async_nats::{Client, Message, StatusCode, Subject, SubscribeError, Subscriber};
use futures::StreamExt;
use serde::Deserialize;

/// The subscription that receives the acks.
pub(super) struct Acks {
    inbox: String,
    messages: Subscriber,
}

/// The server's answer to a message.
#[derive(Debug)]
pub(super) enum Said {
    Stored {
        sequence: u64,
        is_duplicate: bool,
    },
    /// The message exceeds a size limit. Another try does not help.
    TooLarge(String),
    /// Any other failure may pass. Even "stream not found" may only mean that a leader changes.
    NotStored(String),
}

#[derive(Deserialize)]
struct AckBody {
    #[serde(default)]
    seq: u64,
    #[serde(default)]
    duplicate: bool,
    error: Option<jetstream::Error>,
}

impl Acks {
    /// Subscribes to an inbox of its own.
    ///
    /// # Errors
    /// If the client has died.
    pub(super) async fn subscribe(client: &Client) -> Result<Self, SubscribeError> {
        let inbox = format!("{}.", client.new_inbox());
        let messages = client.subscribe(format!("{inbox}*")).await?;
        Ok(Self { inbox, messages })
    }

    /// Returns the subject for the ack of the message with this number.
    pub(super) fn reply(&self, number: u64) -> Subject {
        format!("{}{number}", self.inbox).into()
    }

    /// Returns the next ack: the number of the message, and the server's answer. Returns `None` if the client has
    /// died.
    pub(super) async fn next(&mut self) -> Option<(u64, Said)> {
        loop {
            let message = self.messages.next().await?;
            let number = message.subject.strip_prefix(self.inbox.as_str()).and_then(|number| number.parse().ok());
            if let Some(number) = number {
                return Some((number, said(&message)));
            }
        }
    }
}

fn said(message: &Message) -> Said {
    if message.status == Some(StatusCode::NO_RESPONDERS) {
        return Said::NotStored("no stream took the message (stream not found)".into());
    }
    match serde_json::from_slice(&message.payload) {
        Ok(AckBody { error: Some(error), .. }) if error.error_code() == ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM => {
            Said::TooLarge(error.to_string())
        }
        Ok(AckBody { error: Some(error), .. }) => Said::NotStored(error.to_string()),
        Ok(AckBody { seq: 0, .. }) => Said::NotStored("the answer is not a stream's ack: it has no sequence".into()),
        Ok(AckBody { seq: sequence, duplicate: is_duplicate, .. }) => Said::Stored { sequence, is_duplicate },
        Err(error) => Said::NotStored(format!("the answer is not a stream's ack: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said_with(payload: &'static str, status: Option<StatusCode>) -> Said {
        let (subject, payload) = ("_INBOX.a.1".into(), payload.into());
        said(&Message { subject, reply: None, payload, headers: None, status, description: None, length: 0 })
    }

    #[test]
    fn answers_are_told_apart() {
        for (payload, expected) in [
            (r#"{"stream":"A","seq":7}"#, "Stored { sequence: 7, is_duplicate: false }"),
            (r#"{"stream":"A","seq":7,"duplicate":true}"#, "Stored { sequence: 7, is_duplicate: true }"),
            (r#"{"error":{"code":400,"err_code":10054,"description":"too large"}}"#, "TooLarge("),
            (r#"{"error":{"code":503,"err_code":10077,"description":"maximum messages exceeded"}}"#, "NotStored("),
            (r#"{"stream":"A"}"#, "NotStored("),
            ("+OK", "NotStored("),
            ("", "NotStored("),
        ] {
            let said = format!("{:?}", said_with(payload, None));
            assert!(said.starts_with(expected), "{payload}: {said}");
        }
        assert!(matches!(said_with("", Some(StatusCode::NO_RESPONDERS)), Said::NotStored(_)));
    }
}
