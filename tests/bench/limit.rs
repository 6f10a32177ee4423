//! Measures the limit: SQLite's prepared statements alone insert the workload's raw rows from memory. There is no
//! NATS, no JSON and nothing derived. Schema, pragmas and batch size are the same.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::{Connection, Transaction, TransactionBehavior, params};
use streamgauge::config::Config;
use streamgauge::judge::{Judge, Message};
use streamgauge::model::{AnalyticsEvent, JsonObject, Metric};
use streamgauge::nats::Outgoing;
use streamgauge::store::WRITER_PRAGMAS;

use crate::full::copy;
use crate::workload::delivery;

const EVENT: &str = "INSERT INTO analytics_events (id, event_type, event_name, timestamp, session_id, user_id, \
     properties, context, page_url, referrer, epoch, stream_seq, recv_ms, supplied, anonymous_id) \
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, 1, ?11, 0, 0, ?12)";
const METRIC: &str = "INSERT INTO metrics (id, name, metric_type, value, timestamp, tags, unit, epoch, stream_seq, \
     recv_ms, supplied) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 1, ?8, 0, 0)";

/// Returns the rows a second into an empty file.
pub async fn of_an_empty_file(config: &Config, messages: &[Outgoing]) -> f64 {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("limit.db");
    drop(crate::open(config, &database).await);
    rate_per_s(config, &database, messages)
}

/// Returns the rows a second into a copy of a file.
pub fn of_a_copy(config: &Config, file: &Path, messages: &[Outgoing]) -> f64 {
    let database = file.with_file_name("limit.db");
    copy(file, &database);
    let rate = rate_per_s(config, &database, messages);
    std::fs::remove_file(database).unwrap();
    rate
}

fn rate_per_s(config: &Config, database: &Path, messages: &[Outgoing]) -> f64 {
    let took = measure(database, messages, config.batch.max_messages, &crate::judge(config));
    messages.len() as f64 / took.as_secs_f64()
}

/// A row whose timestamp is formatted already.
enum Row {
    Event(AnalyticsEvent, String),
    Metric(Metric, String),
}

/// Returns how long it takes to insert the messages into a migrated file.
fn measure(database: &Path, messages: &[Outgoing], batch_messages: usize, judge: &Judge) -> Duration {
    let rows: Vec<Row> = messages.iter().map(|message| row(judge, message)).collect();
    let connection = Connection::open(database).unwrap();
    for (pragma, value) in WRITER_PRAGMAS {
        connection.pragma_update(None, pragma, value).unwrap();
    }
    // The sequences continue after the last one that a copied file has.
    let last = "SELECT max(seq) FROM (SELECT max(stream_seq) AS seq FROM analytics_events \
                UNION ALL SELECT max(stream_seq) FROM metrics)";
    let mut sequence = connection.query_row(last, [], |row| row.get::<_, Option<i64>>(0)).unwrap().unwrap_or_default();
    let began = Instant::now();
    for batch in rows.chunks(batch_messages) {
        let tx = Transaction::new_unchecked(&connection, TransactionBehavior::Immediate).unwrap();
        insert(&tx, batch, &mut sequence);
        tx.commit().unwrap();
    }
    began.elapsed()
}

fn insert(tx: &Transaction<'_>, rows: &[Row], sequence: &mut i64) {
    let mut insert_event = tx.prepare_cached(EVENT).unwrap();
    let mut insert_metric = tx.prepare_cached(METRIC).unwrap();
    for row in rows {
        *sequence += 1;
        let inserted = match row {
            Row::Event(event, timestamp) => insert_event.execute(params![
                event.id,
                event.event_type,
                event.event_name,
                timestamp,
                event.session_id,
                event.user_id,
                event.properties.as_ref().map(JsonObject::as_str),
                event.context.as_ref().map(JsonObject::as_str),
                event.page_url,
                event.referrer,
                *sequence,
                event.anonymous_id,
            ]),
            Row::Metric(metric, timestamp) => insert_metric.execute(params![
                metric.id,
                metric.name,
                metric.metric_type.as_str(),
                metric.value,
                timestamp,
                metric.tags.as_ref().map(JsonObject::as_str),
                metric.unit,
                *sequence,
            ]),
        };
        assert_eq!(inserted.unwrap(), 1);
    }
}

fn row(judge: &Judge, message: &Outgoing) -> Row {
    match judge.judge(delivery(message, 1)).outcome.unwrap() {
        Message::Event(event) => {
            let timestamp = event.record.timestamp.to_string();
            Row::Event(event.record, timestamp)
        }
        Message::Metric(metric) => {
            let timestamp = metric.record.timestamp.to_string();
            Row::Metric(metric.record, timestamp)
        }
        Message::Session(_) => unreachable!("the workload has no session messages"),
    }
}
