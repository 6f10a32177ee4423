//! The live data of the page. The database is read once for each change, however many pages are open.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::{Mutex, Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::analytics::{Rules, dashboard};
use crate::http::health::Health;
use crate::store::{CommitNotice, NumberKey, Overview, Reader, Status, StoreError};
use crate::telemetry::Telemetry;

/// Shortest time between two snapshots.
const MIN_INTERVAL: Duration = Duration::from_millis(250);
/// Reading takes at most 1/`MAX_SHARE` of the time. If reading is slow, snapshots are rarer.
const MAX_SHARE: u32 = 10;
/// How long to wait for a change. Then a snapshot is sent anyway, as a sign of life.
pub(super) const MAX_SILENCE: Duration = Duration::from_secs(5);
/// Window over which the rate of messages is measured.
const RATE_WINDOW: Duration = Duration::from_secs(10);
/// How long one read of the history serves all pages: many pages that load together cost one read. Snapshots bring
/// newer values.
const HISTORY_MAX_AGE: Duration = Duration::from_secs(1);
/// How long a page waits before it reconnects to a lost event stream.
const RETRY_MS: u64 = 1_000;
/// Pause after the database could not be read.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// JSON that many requests share.
pub(super) type Json = Arc<str>;

/// Sends snapshots to the open pages.
#[derive(Debug, Default)]
pub struct LivePage {
    events: watch::Sender<Bytes>,
    wanted: Notify,
    source: OnceLock<PageSource>,
    history: Mutex<Option<(Instant, Json)>>,
}

/// The sources of a snapshot.
#[derive(Debug, Clone)]
pub struct PageSource {
    /// Reads the database.
    pub reader: Reader,
    /// Receives a notice of every commit.
    pub notices: watch::Receiver<CommitNotice>,
    /// Knows whether NATS is connected.
    pub health: Arc<Health>,
    /// The counters of the worker.
    pub telemetry: Arc<Telemetry>,
}

/// Applied sequences and the times when they were seen, to measure the rate.
#[derive(Default)]
struct Rate(VecDeque<(Instant, u64)>);

impl Rate {
    /// Returns the messages per second since the start of the window.
    fn at(&mut self, now: Instant, applied_seq: u64) -> f64 {
        self.0.push_back((now, applied_seq));
        // Keeps one point that is at least as old as the window, as its start.
        while self.0.get(1).is_some_and(|(at, _)| now - *at >= RATE_WINDOW) {
            self.0.pop_front();
        }
        let Some((began, first)) = self.0.front().filter(|(began, _)| *began < now) else { return 0.0 };
        applied_seq.saturating_sub(*first) as f64 / (now - *began).as_secs_f64()
    }
}

impl LivePage {
    /// Subscribes to snapshots, as server-sent events. The first one is read at once. Open receivers are counted.
    pub(in crate::http) fn subscribe(&self) -> watch::Receiver<Bytes> {
        let mut events = self.events.subscribe();
        events.mark_unchanged();
        self.wanted.notify_one();
        events
    }

    /// Returns the number of open receivers.
    pub(in crate::http) fn subscribers(&self) -> usize {
        self.events.receiver_count()
    }

    /// Reads and sends snapshots until `stop`: after each change, but only while a page is open.
    pub async fn run(&self, source: PageSource, stop: CancellationToken) {
        let mut notices = source.notices.clone();
        let _ = self.source.set(source.clone());
        let mut rate = Rate::default();
        while !stop.is_cancelled() {
            notices.mark_unchanged();
            let mut pause = MIN_INTERVAL;
            if self.subscribers() > 0 {
                let began = Instant::now();
                match read(&source, Some(&mut rate)).await {
                    Ok(snapshot) => {
                        // Compact JSON has no line breaks, so one `data` line holds all of it.
                        let event = format!("retry: {RETRY_MS}\nevent: snapshot\ndata: {snapshot}\n\n");
                        self.events.send_replace(event.into());
                        pause = pause.max(began.elapsed() * (MAX_SHARE - 1));
                    }
                    Err(error) => {
                        tracing::warn!("cannot update the page: {error}");
                        pause = RETRY_AFTER;
                    }
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            tokio::select! {
                () = stop.cancelled() => return,
                changed = notices.changed(), if self.subscribers() > 0 => if changed.is_err() { return },
                () = self.wanted.notified() => {}
                () = tokio::time::sleep(MAX_SILENCE), if self.subscribers() > 0 => {}
            }
        }
    }

    /// Returns the hours for the charts; `None` before the database is open.
    pub(in crate::http) async fn history(&self) -> Option<Result<Json, StoreError>> {
        let source = self.source.get()?;
        let mut kept = self.history.lock().await;
        if let Some((_, history)) = kept.as_ref().filter(|(at, _)| at.elapsed() < HISTORY_MAX_AGE) {
            return Some(Ok(Arc::clone(history)));
        }
        let rules = Arc::clone(&source.notices.borrow().rules);
        let read = source.reader.hourly_values(rules).await;
        Some(read.map(|history| {
            let history: Json = json!({ "widgets": history }).to_string().into();
            *kept = Some((Instant::now(), Arc::clone(&history)));
            history
        }))
    }

    /// Reads the status of the database; `None` before the database is open.
    pub(in crate::http) async fn status(&self) -> Option<Result<Status, StoreError>> {
        let source = self.source.get()?;
        Some(source.reader.status().await)
    }

    /// Reads a snapshot now; `None` before the database is open.
    pub(in crate::http) async fn now(&self) -> Option<Result<Json, StoreError>> {
        Some(read(self.source.get()?, None).await)
    }
}

async fn read(source: &PageSource, rate: Option<&mut Rate>) -> Result<Json, StoreError> {
    source.telemetry.page_read();
    let status = source.reader.status().await?;
    let rules = Arc::clone(&source.notices.borrow().rules);
    let overview = source.reader.overview(Arc::clone(&rules)).await?;
    let applied_seq = overview.as_of.values().sum();
    let mut snapshot = as_json(&rules, &overview, &status);
    let is_connected = source.health.is_connected();
    let lag = is_connected.then(|| source.telemetry.pending());
    let streams = status.streams.iter().map(
        |stream| json!({"name": stream.name, "epoch": stream.epoch, "applied_seq": stream.applied_seq, "lag": lag}),
    );
    snapshot["streams"] = streams.collect();
    snapshot["nats_connected"] = is_connected.into();
    if let Some(rate) = rate {
        snapshot["messages_per_second"] = rate.at(Instant::now(), applied_seq).into();
    }
    Ok(snapshot.to_string().into())
}

fn as_json(rules: &Rules, overview: &Overview, status: &Status) -> Value {
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "t": overview.t,
        "as_of": overview.as_of,
        "date": overview.t.map(|t| crate::analytics::period::date(t).to_string()),
        "dead_letters": status.dead_letters,
        "gaps": status.gaps,
        "missing_messages": status.missing_messages,
        "gap_ranges": status.gap_ranges,
        "rebuilding": status.rebuilding,
        "open_sessions": overview.open_sessions,
        "top_events": overview.top_events,
        "top_features": overview.top_features,
        "funnels": overview.funnels,
        "widgets": widgets(rules, overview),
    })
}

fn widgets(rules: &Rules, overview: &Overview) -> Vec<Value> {
    let widget = |widget: &dashboard::Widget| {
        let metrics = widget.metrics.iter().map(|(key, expression)| {
            let key_of_number = NumberKey { widget_id: widget.id.clone(), metric_key: key.clone() };
            let number = overview.numbers.get(&key_of_number).cloned().unwrap_or_default();
            json!({
                "key": key,
                "expression": expression.text,
                "value": number.shown.value,
                "previous_value": number.shown.previous_value,
                "change_percent": number.shown.change_percent,
                "updated_at": number.updated_at,
                "is_frozen": number.frozen_at.is_some(),
                "as_of": number.frozen_at.as_ref().unwrap_or(&overview.as_of),
                "hour": number.hour,
            })
        });
        let metrics: Vec<Value> = metrics.collect();
        json!({"id": widget.id, "title": widget.title, "period": dashboard::period_name(widget.period), "metrics": metrics})
    };
    rules.dashboards.widgets.iter().map(widget).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_over_the_last_ten_seconds() {
        let (mut rate, began) = (Rate::default(), Instant::now());
        let mut at = |seconds: u64, seq| rate.at(began + Duration::from_secs(seconds), seq);
        assert_eq!((at(0, 100), at(1, 300), at(2, 500)), (0.0, 200.0, 200.0));
        assert_eq!((at(11, 500), at(12, 500), at(30, 500)), (20.0, 0.0, 0.0));
        // The stream was recreated: sequences start again.
        assert_eq!(at(31, 3), 0.0);
    }
}
