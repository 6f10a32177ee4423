//! The table `metric_aggregates`: rollups are a function of their samples.

use std::collections::BTreeMap;

use chrono::{DateTime, Datelike, NaiveDate, SecondsFormat, Timelike, Utc, Weekday};
use proptest::prelude::*;
use serde_json::json;
use streamgauge::judge::Delivery;

use super::{Store, crash_points, runtime, shuffle};
use crate::support::{Database, plain_sum};

/// 2027-06-01T00:00:00Z, after all timestamps.
const RECV_MS: i64 = 1_811_808_000_000;
/// Edges of hours, days, months and years, and of the ISO week 53 of 2026.
const TIMES: [&str; 10] = [
    "1971-01-01T00:00:00.000Z",
    "2024-02-29T23:59:59.999Z",
    "2024-03-01T00:00:00.000Z",
    "2026-12-27T23:59:59.999Z",
    "2026-12-28T00:00:00.000Z",
    "2026-12-31T23:59:59.999Z",
    "2027-01-01T00:00:00.000Z",
    "2027-01-01T00:59:59.999Z",
    "2027-01-03T23:59:59.999Z",
    "2027-01-04T00:00:00.000Z",
];
const VALUES: [f64; 12] = [0.0, 0.1, 0.2, 0.3, -0.1, 1.0, 3.5, -1e6, 1e300, -1e300, 1e-300, 12_345.678];
const TAGS: [&str; 4] = ["null", r#"{"a":"1","b":"2"}"#, r#"{"b":"2","a":"1"}"#, r#"{"a":"2"}"#];
const TYPES: [&str; 4] = ["counter", "gauge", "timer", "histogram"];
/// The greatest relative error of a percentile: half a bucket.
const BOUND: f64 = 1.0 / 128.0;

#[derive(Debug, Clone)]
struct Sample {
    name: u8,
    tags: &'static str,
    metric_type: &'static str,
    value: f64,
    timestamp: &'static str,
}

fn sample() -> impl Strategy<Value = Sample> {
    let select = |all: &'static [&'static str]| prop::sample::select(all);
    // Most samples have one name. Some keys then have more samples than are kept exactly.
    let name = prop_oneof![9 => Just(0_u8), 1 => Just(1_u8)];
    let value =
        prop_oneof![prop::sample::select(VALUES.as_slice()), (-1_000..1_000_i32).prop_map(|n| f64::from(n) / 8.0)];
    (name, select(&TAGS), select(&TYPES), value, select(&TIMES)).prop_map(
        |(name, tags, metric_type, value, timestamp)| {
            let value = if matches!(metric_type, "counter" | "timer") { value.abs() } else { value };
            Sample { name, tags, metric_type, value, timestamp }
        },
    )
}

fn deliveries(samples: &[Sample], order: &[usize]) -> Vec<Delivery> {
    let deliver = |(at, number): (usize, &usize)| {
        let Sample { name, tags, metric_type, value, timestamp } = &samples[*number];
        let tags: serde_json::Value = serde_json::from_str(tags).unwrap();
        let message = json!({"id": format!("{number:03}"), "name": format!("m{name}"), "metric_type": metric_type,
            "value": value, "timestamp": timestamp, "tags": tags});
        Delivery {
            subject: "analytics.metrics".into(),
            payload: message.to_string().into(),
            size_bytes: 0,
            stream_sequence: u64::try_from(at).unwrap() + 1,
            recv_ns: RECV_MS * 1_000_000,
        }
    };
    order.iter().enumerate().map(deliver).collect()
}

/// A row without its id: count, sum, min, max, avg, p50, p90, p99.
type Row = (i64, [f64; 4], [Option<f64>; 3]);
/// name, tags, period_type, period_start
type Key = (String, String, String, String);

fn period_starts(timestamp: &str) -> [(&'static str, String); 4] {
    let time: DateTime<Utc> = timestamp.parse().unwrap();
    let text = |date: NaiveDate, hour: u32| {
        date.and_hms_opt(hour, 0, 0).unwrap().and_utc().to_rfc3339_opts(SecondsFormat::Millis, true)
    };
    let date = time.date_naive();
    [
        ("hourly", text(date, time.hour())),
        ("daily", text(date, 0)),
        ("weekly", text(date.week(Weekday::Mon).first_day(), 0)),
        ("monthly", text(date.with_day(1).unwrap(), 0)),
    ]
}

/// Recomputes the rollups from the raw rows, in the plain way. Returns for each row also the number of samples behind
/// its percentiles.
fn recompute(database: &Database) -> BTreeMap<Key, (Row, usize)> {
    let connection = database.read();
    let mut statement = connection.prepare("SELECT name, tags, metric_type, value, timestamp FROM metrics").unwrap();
    let mut groups: BTreeMap<Key, (Vec<f64>, Vec<f64>)> = BTreeMap::new();
    let mut rows = statement.query([]).unwrap();
    while let Some(row) = rows.next().unwrap() {
        let text = |column: usize| row.get::<_, String>(column).unwrap();
        let value: f64 = row.get(3).unwrap();
        for (period_type, start) in period_starts(&text(4)) {
            let (all, samples) = groups.entry((text(0), text(1), period_type.into(), start)).or_default();
            all.push(value);
            if text(2) != "counter" {
                samples.push(value);
            }
        }
    }
    let reduce = |(key, (all, mut samples)): (Key, (Vec<f64>, Vec<f64>))| {
        let sum = plain_sum(&all);
        let (min, max) = (all.iter().copied().reduce(f64::min).unwrap(), all.iter().copied().reduce(f64::max).unwrap());
        samples.sort_by(f64::total_cmp);
        let percentile = |percent: usize| samples.get((percent * samples.len()).div_ceil(100).wrapping_sub(1)).copied();
        let count = i64::try_from(all.len()).unwrap();
        let row = (count, [sum, min, max, sum / all.len() as f64], [50, 90, 99].map(percentile));
        (key, (row, samples.len()))
    };
    groups.into_iter().map(reduce).collect()
}

fn stored(database: &Database) -> BTreeMap<Key, Row> {
    let connection = database.read();
    let sql =
        "SELECT name, tags, period_type, period_start, count, sum, min, max, avg, p50, p90, p99 FROM metric_aggregates";
    let mut statement = connection.prepare(sql).unwrap();
    let rows = statement.query_map([], |row| {
        let key = (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
        let exact = [row.get(5)?, row.get(6)?, row.get(7)?, row.get(8)?];
        Ok((key, (row.get(4)?, exact, [row.get(9)?, row.get(10)?, row.get(11)?])))
    });
    rows.unwrap().map(Result::unwrap).collect()
}

/// Asserts that every row is what the raw rows add up to. All columns are exact, except percentiles of more than 64
/// samples, which are within the bound.
pub fn assert_is_recomputed(database: &Database) {
    let (stored, recomputed) = (stored(database), recompute(database));
    assert_eq!(stored.keys().collect::<Vec<_>>(), recomputed.keys().collect::<Vec<_>>());
    for (key, ((count, exact, percentiles), samples)) in &recomputed {
        let (stored_count, stored_exact, stored_percentiles) = &stored[key];
        assert_eq!((stored_count, stored_exact), (count, exact), "{key:?}");
        for (percentile, expected) in stored_percentiles.iter().zip(percentiles) {
            let is_right = match (percentile, expected) {
                (Some(percentile), Some(expected)) if *samples > 64 => {
                    (percentile - expected).abs() <= expected.abs() * BOUND
                }
                (percentile, expected) => percentile == expected,
            };
            assert!(is_right, "{key:?}: {percentile:?} for {expected:?} of {samples}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    /// L1 and L2 hold for any order, any split, repeated messages, and transactions that are cut anywhere.
    #[test]
    fn rollups_are_a_function_of_their_samples(
        samples in prop::collection::vec(sample(), 1..400),
        repeats in prop::collection::vec(any::<prop::sample::Index>(), 0..10),
        seed in any::<u64>(),
        sizes in prop::collection::vec(1..80_usize, 1..8),
        crash_points in prop::collection::vec(0..crash_points().len(), 1..4),
    ) {
        let runtime = runtime();
        let mut order: Vec<usize> = (0..samples.len()).collect();
        let mut whole = Store::new(&runtime);
        whole.write(&deliveries(&samples, &order), &[samples.len()]);
        assert_is_recomputed(&whole.database());

        order.extend(repeats.iter().map(|repeat| repeat.index(samples.len())));
        shuffle(&mut order, seed);
        let mut other = Store::new(&runtime);
        other.write_with_crashes(&deliveries(&samples, &order), &sizes, &crash_points);
        prop_assert_eq!(whole.digest(), other.digest());
        prop_assert_eq!(whole.internals(), other.internals());
        let rebuilt = {
            other.database().write().execute_batch("DELETE FROM _groups").unwrap();
            other.reopen(&runtime, "")
        };
        prop_assert_eq!(whole.digest(), rebuilt.digest());
        prop_assert_eq!(whole.internals(), rebuilt.internals());
    }
}
