//! Publishes dead letters from the ledger to the stream, each once within the stream's duplicate window.

use std::collections::BTreeSet;

use async_nats::jetstream::message::PublishMessage;
use async_nats::{HeaderMap, HeaderName, HeaderValue};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config;
use crate::judge::subject;
use crate::model::Timestamp;
use crate::nats::backoff::Backoff;
use crate::nats::connect::{Connection, MAX_ACK_INFLIGHT};
use crate::nats::error::NatsError;
use crate::nats::stream;
use crate::store::{DeadLetterKey, DeadLetterMessage, Reader, StoreError, Unpublished, WriterThread};

/// How many rows are published at once, and marked together.
const PAGE_ROWS: u32 = 256;
/// Payload bytes in memory at once. The last payload may exceed this limit.
const MAX_IN_FLIGHT_BYTES: usize = 8 << 20;
/// Longer header values are cut. They only explain; the body and the database have the rest.
const MAX_HEADER_CHARS: usize = 1024;

const _: () = assert!(PAGE_ROWS <= MAX_ACK_INFLIGHT, "a page would wait for its own acks");

/// Publishes rows of the ledger after they are committed.
#[derive(Debug)]
pub struct DeadLetterOutbox {
    connection: Connection,
    config: config::Stream,
    reader: Reader,
    writer: WriterThread,
}

/// The result of one pass over the outbox.
#[derive(Debug, Default)]
struct Pass {
    published: usize,
    failed: usize,
    /// Subjects of failed rows. Other rows on such a subject would fail too, for example because a permission is
    /// missing. They wait for the next pass.
    failed_subjects: BTreeSet<String>,
    last_error: Option<String>,
}

impl DeadLetterOutbox {
    /// Makes an outbox that publishes from a database to a stream.
    pub fn new(connection: Connection, config: config::Stream, reader: Reader, writer: WriterThread) -> Self {
        Self { connection, config, reader, writer }
    }

    /// Publishes the waiting rows, then new rows whenever `rejections` announces them. At the `stop`, makes a last
    /// pass over the remaining rows, and returns.
    ///
    /// # Errors
    /// If the database fails. A failure of NATS is not an error: the rows wait in the ledger.
    pub async fn run(self, mut rejections: watch::Receiver<u64>, stop: CancellationToken) -> Result<(), StoreError> {
        let mut backoff = Backoff::default();
        let mut retry_at = None;
        let mut tried = None;
        self.ensure_stream().await;
        loop {
            rejections.mark_unchanged();
            // Failed rows are tried again at `retry_at`. New rows do not wait for them.
            if retry_at.is_some_and(|at| Instant::now() >= at) || stop.is_cancelled() {
                (retry_at, tried) = (None, None);
            }
            let pass = self.publish_after(&mut tried).await?;
            if pass.failed > 0 {
                retry_at.get_or_insert_with(|| Instant::now() + backoff.next_delay());
                self.ensure_stream().await;
            } else if retry_at.is_none() {
                backoff.reset();
            }
            if stop.is_cancelled() {
                return Ok(());
            }
            tokio::select! {
                () = stop.cancelled() => {}
                changed = rejections.changed() => if changed.is_err() { stop.cancelled().await },
                () = tokio::time::sleep_until(retry_at.unwrap_or_else(Instant::now)), if retry_at.is_some() => {}
            }
        }
    }

    async fn ensure_stream(&self) {
        if let Err(error) = stream::ensure_dead_letters(&self.connection, &self.config).await {
            tracing::warn!("dead letters, if there are any, wait in the database: {error}");
        }
    }

    /// Makes one pass over the rows after `tried`, in stream order. A failed row stays; rows on other subjects are
    /// still published.
    async fn publish_after(&self, tried: &mut Option<DeadLetterKey>) -> Result<Pass, StoreError> {
        let mut pass = Pass::default();
        loop {
            let rows = self.reader.unpublished(*tried, PAGE_ROWS).await?;
            let Some(last) = rows.last() else { break };
            *tried = Some(last.key);
            let published = self.publish_page(rows, &mut pass).await?;
            if !published.is_empty() {
                self.writer.run(move |writer| writer.mark_published(&published)).await?;
            }
        }
        if let Some(error) = &pass.last_error {
            let (failed, published) = (pass.failed, pass.published);
            tracing::warn!(failed, published, "dead letters wait in the database, to be published later: {error}");
        }
        Ok(pass)
    }

    async fn publish_page(&self, rows: Vec<Unpublished>, pass: &mut Pass) -> Result<Vec<DeadLetterKey>, StoreError> {
        let mut in_flight = FuturesUnordered::new();
        let mut in_flight_bytes = 0;
        let mut published = Vec::new();
        let mut rows = rows.into_iter();
        loop {
            while in_flight_bytes < MAX_IN_FLIGHT_BYTES
                && let Some(Unpublished { key, kind, reason }) = rows.next()
            {
                let subject = subject::dead_letter(&self.config.prefix, &kind, &reason);
                if pass.failed_subjects.contains(&subject) {
                    pass.failed += 1;
                    continue;
                }
                let Some(row) = self.reader.dead_letter_message(key).await? else { continue };
                let bytes = row.payload.len();
                in_flight_bytes += bytes;
                in_flight.push(async move {
                    (key, bytes, self.publish(&subject, row).await.map_err(|error| (subject, error)))
                });
            }
            let Some((key, bytes, result)) = in_flight.next().await else { break };
            in_flight_bytes -= bytes;
            match result {
                Ok(()) => published.push(key),
                Err((subject, error)) => {
                    pass.failed += 1;
                    pass.failed_subjects.insert(subject);
                    pass.last_error = Some(error.to_string());
                }
            }
        }
        pass.published += published.len();
        Ok(published)
    }

    async fn publish(&self, subject: &str, row: DeadLetterMessage) -> Result<(), NatsError> {
        let what = format!("cannot publish dead letter {}:{}:{}", row.stream, row.epoch, row.stream_seq);
        let max_bytes = self.connection.max_payload_bytes();
        let (headers, body) = message(row, &self.config.dlq, max_bytes);
        let publish = PublishMessage::build().headers(headers).payload(body);
        let ack = self
            .connection
            .jetstream()
            .send_publish(subject.to_owned(), publish)
            .await
            .map_err(|error| NatsError::request(&what, error))?;
        ack.await.map(|_| ()).map_err(|error| NatsError::request(&what, error))
    }
}

/// Builds headers and body. If both together exceed the server's maximum, the body is cut; the database keeps the
/// whole body.
fn message(row: DeadLetterMessage, dlq: &str, max_bytes: usize) -> (HeaderMap, Bytes) {
    let mut headers = HeaderMap::new();
    let recv = Timestamp::from_millis(row.recv_ms).to_string();
    let id = format!("{}:{}:{}", row.stream, row.epoch, row.stream_seq);
    let seq = row.stream_seq.to_string();
    for (name, value) in [
        // Another stream of the operator may take these subjects too, even the ingest stream. It must refuse the
        // message.
        ("Nats-Expected-Stream", Some(dlq)),
        ("Nats-Msg-Id", Some(id.as_str())),
        ("Dlq-Reason", Some(&row.reason)),
        ("Dlq-Error", Some(&row.error)),
        ("Dlq-Field", row.field.as_deref()),
        ("Dlq-Subject", Some(&row.subject)),
        ("Dlq-Stream", Some(&row.stream)),
        ("Dlq-Stream-Seq", Some(&seq)),
        ("Dlq-Time", Some(&recv)),
    ] {
        if let Some(value) = value {
            headers.insert(HeaderName::from_static(name), HeaderValue::from(ascii(value)));
        }
    }
    let mut body = Bytes::from(row.payload);
    if wire_bytes(&headers) + body.len() > max_bytes {
        headers.insert(HeaderName::from_static("Dlq-Truncated"), HeaderValue::from(body.len().to_string()));
        body.truncate(max_bytes.saturating_sub(wire_bytes(&headers)));
    }
    (headers, body)
}

/// Counts the bytes of the headers on the wire: `NATS/1.0`, a line for each header, an empty line.
fn wire_bytes(headers: &HeaderMap) -> usize {
    let lines = headers.iter().flat_map(|(name, values)| {
        let name_bytes = AsRef::<str>::as_ref(name).len();
        values.iter().map(move |value| name_bytes + value.as_str().len() + ": \r\n".len())
    });
    lines.sum::<usize>() + "NATS/1.0\r\n\r\n".len()
}

/// Keeps printable ASCII and escapes everything else, so that a value is one line in any client. Cuts the result.
fn ascii(text: &str) -> String {
    let escaped = text.chars().flat_map(|c| {
        let is_plain = matches!(c, ' '..='~');
        let plain = is_plain.then_some(c);
        let unicode = (!is_plain).then(|| c.escape_unicode());
        plain.into_iter().chain(unicode.into_iter().flatten())
    });
    escaped.take(MAX_HEADER_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(payload: Vec<u8>) -> DeadLetterMessage {
        DeadLetterMessage {
            stream: "ANALYTICS".into(),
            epoch: 2,
            stream_seq: 77,
            kind: "events".into(),
            reason: "too_deep".into(),
            field: Some("properties.é\n".into()),
            error: "x".repeat(5000),
            subject: "analytics.events".into(),
            recv_ms: 1_769_860_800_123,
            payload,
        }
    }

    fn value<'a>(headers: &'a HeaderMap, name: &'static str) -> Option<&'a str> {
        headers.get(name).map(|value| value.as_str())
    }

    #[test]
    fn headers_are_short_ascii_lines() {
        let (headers, body) = message(row(b"abc".to_vec()), "DLQ", 1 << 20);
        assert_eq!(&body[..], b"abc");
        assert_eq!(value(&headers, "Nats-Msg-Id"), Some("ANALYTICS:2:77"));
        assert_eq!(value(&headers, "Dlq-Field"), Some(r"properties.\u{e9}\u{a}"));
        assert_eq!(value(&headers, "Dlq-Time"), Some("2026-01-31T12:00:00.123Z"));
        assert_eq!(value(&headers, "Dlq-Error").map(str::len), Some(MAX_HEADER_CHARS));
        assert_eq!(value(&headers, "Dlq-Truncated"), None);
    }

    #[test]
    fn a_body_is_cut_only_where_it_does_not_fit() {
        let whole = vec![b'x'; 10_000];
        let overhead = wire_bytes(&message(row(whole.clone()), "DLQ", usize::MAX).0);
        let (headers, body) = message(row(whole.clone()), "DLQ", 10_000 + overhead);
        assert_eq!((value(&headers, "Dlq-Truncated"), body.len()), (None, 10_000));
        let (headers, body) = message(row(whole), "DLQ", 10_000 + overhead - 1);
        assert_eq!(value(&headers, "Dlq-Truncated"), Some("10000"));
        assert_eq!(body.len() + wire_bytes(&headers), 10_000 + overhead - 1);
    }
}
