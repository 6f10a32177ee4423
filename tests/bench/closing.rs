//! Measures open sessions that close at once when T jumps.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;
use streamgauge::judge::{Batch, Delivery, Judge};
use streamgauge::store::{InstallReceipt, ShadowGroups, Writer};

use crate::full::peak_mib;

/// 2026-01-01T00:00:00Z
const START_MS: i64 = 1_767_225_600_000;
const DAY_MS: i64 = 86_400_000;

/// The cost of closing all sessions.
pub struct Closing {
    pub transaction: Duration,
    pub wal_bytes: u64,
    /// The growth of the process's peak resident size, in MiB.
    pub memory_mib: f64,
}

/// Opens `count` sessions, and lets T jump by a day.
pub fn measure(writer: &mut Writer, judge: &Judge, database: &Path, count: u64, batch_messages: u64) -> Closing {
    let mut seq = 0;
    while seq < count {
        let upto = (seq + batch_messages).min(count);
        write(writer, judge, (seq..upto).map(heartbeat));
        seq = upto;
    }
    let checkpoint = "PRAGMA wal_checkpoint(TRUNCATE)";
    let reader = rusqlite::Connection::open(database).unwrap();
    // The checkpoint returns busy while the writer's own thread still moves the last pages.
    while reader.query_row(checkpoint, [], |row| row.get::<_, bool>(0)).unwrap() {
        std::thread::sleep(Duration::from_millis(1));
    }
    forget_peak();
    let pid = std::process::id();
    let peak_before_mib = peak_mib(pid);
    let jump = json!({"id": "jump", "name": "t", "value": 1, "timestamp": timestamp(START_MS + DAY_MS)}).to_string();
    let began = Instant::now();
    write(writer, judge, [delivery("analytics.metrics", jump, count)]);
    Closing {
        transaction: began.elapsed(),
        wal_bytes: database.with_extension("db-wal").metadata().unwrap().len(),
        memory_mib: peak_mib(pid) - peak_before_mib,
    }
}

/// Rebuilds session rows that all differ by other rules, and installs the shadow file. Returns the time of the
/// rebuild, and the receipt of the install.
pub fn measure_install(writer: &mut Writer, database: &Path) -> (Duration, InstallReceipt) {
    let began = Instant::now();
    let build = writer.rebuilds().borrow().clone().unwrap();
    let mut shadow = ShadowGroups::open(database, build).unwrap();
    while shadow.step(shadow.step_messages()).unwrap() {}
    let built = began.elapsed();
    (built, writer.install_groups(shadow).unwrap().unwrap())
}

/// Resets the peak resident size of this process to its current size.
fn forget_peak() {
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
}

fn write(writer: &mut Writer, judge: &Judge, deliveries: impl IntoIterator<Item = Delivery>) {
    let mut batch = Batch::after(writer.position().unwrap().unwrap());
    for delivery in deliveries {
        batch.push(judge.judge(delivery));
    }
    assert_eq!(writer.commit(&batch).unwrap().counts().rejected, 0);
}

fn heartbeat(n: u64) -> Delivery {
    // All heartbeats lie within ten minutes, so none of them closes another session.
    let ms = START_MS + i64::try_from(n % 600_000).unwrap();
    // Session ids as SDKs make them: in random order.
    let name = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let session_id = format!("{:08x}-{:04x}-4000-8000-{n:012x}", name >> 32, name & 0xffff);
    let body = json!({"id": n.to_string(), "session_id": session_id, "kind": "heartbeat", "user_id": "u",
        "timestamp": timestamp(ms)});
    delivery("analytics.sessions", body.to_string(), n)
}

fn delivery(subject: &str, body: String, n: u64) -> Delivery {
    let recv_ns = (START_MS + 2 * DAY_MS) * 1_000_000;
    Delivery { subject: subject.into(), size_bytes: body.len(), payload: body.into(), stream_sequence: n + 1, recv_ns }
}

fn timestamp(ms: i64) -> String {
    let time = chrono::DateTime::from_timestamp_millis(ms).unwrap();
    time.to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
}
