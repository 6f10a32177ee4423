//! The raw tables are a function of the messages.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::json;
use streamgauge::judge::Delivery;

use super::{START_MS, Store, crash_points, runtime, shuffle};

/// A message from a small world, in which the same ids and contents occur again.
#[derive(Debug, Clone)]
struct Small {
    kind: usize,
    id: Option<u8>,
    content: u8,
    /// Milliseconds after the start. With `None`, the message has no timestamp.
    timestamp_ms: Option<i64>,
    is_broken: bool,
    /// The number of missing sequences before the message.
    gap: u64,
}

fn small() -> impl Strategy<Value = Small> {
    // A timestamp more than 600,000 ms after the time of receipt is in the future.
    let timestamp = prop_oneof![Just(None), (-1_000_000..1_200_000_i64).prop_map(Some)];
    let gap = prop_oneof![9 => Just(0_u64), 1 => 1..4_u64];
    (0..3_usize, proptest::option::weighted(0.8, 0..6_u8), 0..2_u8, timestamp, prop::bool::weighted(0.1), gap).prop_map(
        |(kind, id, content, timestamp_ms, is_broken, gap)| Small { kind, id, content, timestamp_ms, is_broken, gap },
    )
}

impl Small {
    const SUBJECTS: [&str; 3] = ["analytics.events", "analytics.metrics", "analytics.sessions"];

    fn delivery(&self, stream_sequence: u64) -> Delivery {
        let timestamp = self.timestamp_ms.map(|ms| {
            let time = chrono::DateTime::from_timestamp_millis(START_MS + ms).unwrap();
            time.to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
        });
        let mut message = match self.kind {
            0 => json!({"event_type": "t", "event_name": format!("n{}", self.content)}),
            1 => json!({"name": "m", "value": self.content}),
            _ => json!({"session_id": format!("s{}", self.content), "kind": "start"}),
        };
        message["id"] = self.id.map(|id| format!("id-{id}")).into();
        message["timestamp"] = timestamp.into();
        let text = if self.is_broken { "{".to_owned() } else { message.to_string() };
        let recv_ms = START_MS + i64::try_from(stream_sequence).unwrap();
        Delivery {
            subject: Self::SUBJECTS[self.kind].into(),
            payload: text.into(),
            size_bytes: 0,
            stream_sequence,
            recv_ns: recv_ms * 1_000_000,
        }
    }
}

/// Returns the messages as deliveries, with their sequences.
fn deliveries(messages: &[Small]) -> Vec<Delivery> {
    let mut seq = 0;
    let deliver = |message: &Small| {
        seq += 1 + message.gap;
        message.delivery(seq)
    };
    messages.iter().map(deliver).collect()
}

/// How each message must end, by the rules of `SEMANTICS` section 0, without the production code.
#[derive(Debug, Default, PartialEq, Eq)]
struct Account {
    /// The sequence of each stored message.
    stored: Vec<u64>,
    duplicates: usize,
    /// The reason of each rejected message, by sequence.
    rejected: BTreeMap<u64, &'static str>,
}

fn naive(messages: &[Small]) -> Account {
    let mut account = Account::default();
    let mut known: BTreeMap<(usize, u8), &Small> = BTreeMap::new();
    for (message, delivery) in messages.iter().zip(deliveries(messages)) {
        let seq = delivery.stream_sequence;
        let first = message.id.and_then(|id| known.get(&(message.kind, id)));
        let timestamps_differ = |first: &Small| match (first.timestamp_ms, message.timestamp_ms) {
            (Some(one), Some(other)) => one != other,
            _ => false,
        };
        if message.is_broken {
            account.rejected.insert(seq, "invalid_json");
        } else if let Some(first) = first {
            if first.content == message.content && !timestamps_differ(first) {
                account.duplicates += 1;
            } else {
                account.rejected.insert(seq, "duplicate_conflict");
            }
        } else if message.timestamp_ms.is_some_and(|ms| ms > i64::try_from(seq).unwrap() + 600_000) {
            account.rejected.insert(seq, "timestamp_in_future");
        } else {
            account.stored.push(seq);
            if let Some(id) = message.id {
                known.insert((message.kind, id), message);
            }
        }
    }
    account.stored.sort_unstable();
    account
}

fn account(store: &Store) -> Account {
    let database = store.database();
    database.assert_account_balances();
    let seqs = |table: &str| database.texts(&format!("SELECT cast(stream_seq AS TEXT) FROM {table}"));
    let mut stored: Vec<u64> = ["analytics_events", "metrics", "_session_messages"]
        .into_iter()
        .flat_map(seqs)
        .map(|seq| seq.parse().unwrap())
        .collect();
    stored.sort_unstable();
    let reasons = ["invalid_json", "duplicate_conflict", "timestamp_in_future"];
    let rejected = database.texts("SELECT stream_seq || ' ' || reason FROM _rejections").into_iter().map(|row| {
        let (seq, reason) = row.split_once(' ').unwrap();
        (seq.parse().unwrap(), *reasons.iter().find(|known| **known == reason).unwrap())
    });
    let rejected = rejected.collect();
    let duplicates = database.text("SELECT cast(duplicates AS TEXT) FROM _positions", []).parse().unwrap();
    Account { stored, duplicates, rejected }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// L1 for the raw tables: the tables are the same however the messages are split, and whatever fails in between.
    /// They also equal the result of a naive reading of the rules.
    #[test]
    fn any_split_gives_the_same_tables(
        messages in prop::collection::vec(small(), 1..60),
        sizes in prop::collection::vec(1..20_usize, 1..8),
        crash_points in prop::collection::vec(0..crash_points().len(), 1..4),
    ) {
        let runtime = runtime();
        let deliveries = deliveries(&messages);
        let mut whole = Store::new(&runtime);
        whole.write(&deliveries, &[deliveries.len()]);
        let mut split = Store::new(&runtime);
        split.write_with_crashes(&deliveries, &sizes, &crash_points);
        prop_assert_eq!(whole.digest(), split.digest());
        prop_assert_eq!(account(&whole), naive(&messages));
        prop_assert_eq!(account(&split), naive(&messages));
    }

    /// The other half of L1. All messages have ids and past timestamps, and no two messages with one id differ in
    /// content. Then any order, with any copies, gives the same tables.
    #[test]
    fn any_order_gives_the_same_tables(
        picks in prop::collection::vec((0..3_usize, 0..12_u8), 1..40),
        order in any::<prop::sample::Index>(),
        seed in any::<u64>(),
    ) {
        let runtime = runtime();
        let message = |(kind, id): (usize, u8)| Small {
            kind,
            id: Some(id),
            content: id % 2,
            timestamp_ms: Some(-i64::from(id)),
            is_broken: false,
            gap: 0,
        };
        let messages: Vec<Small> = picks.into_iter().map(message).collect();
        let mut shuffled = messages.clone();
        shuffle(&mut shuffled, seed);
        // A retry: one of the messages comes once more at the end.
        shuffled.push(messages[order.index(messages.len())].clone());
        let mut straight = Store::new(&runtime);
        straight.write(&deliveries(&messages), &[7]);
        let mut other = Store::new(&runtime);
        other.write(&deliveries(&shuffled), &[3, 11]);
        prop_assert_eq!(straight.digest(), other.digest());
        prop_assert_eq!(account(&other).rejected.len(), 0);
    }
}
