//! The raw table `metrics`.

use rusqlite::{CachedStatement, Row, params};

use super::{RawTable, RowOrigin};
use crate::judge::{Accepted, Message};
use crate::model::{JsonObject, Metric, Timestamp};
use crate::store::sqlite::values::parsed;

impl RawTable for Metric {
    const TABLE: &'static str = "metrics";
    const COLUMNS: &'static str = "id, name, metric_type, value, timestamp, tags, unit";

    fn message(judged: Accepted<Self>) -> Message {
        Message::Metric(Box::new(judged))
    }

    fn insert(&self, statement: &mut CachedStatement<'_>, origin: RowOrigin) -> rusqlite::Result<usize> {
        statement.execute(params![
            self.id,
            self.name,
            self.metric_type.as_str(),
            self.value,
            self.timestamp.to_string(),
            self.tags.as_ref().map(JsonObject::as_str),
            self.unit,
            origin.epoch,
            origin.stream_seq,
            origin.recv_ms,
            origin.supplied,
        ])
    }

    fn from_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get(0)?,
            name: row.get(1)?,
            metric_type: parsed(row, 2, |text| text.parse().ok())?,
            value: row.get(3)?,
            timestamp: parsed(row, 4, Timestamp::from_stored)?,
            tags: row.get::<_, Option<String>>(5)?.map(JsonObject::from_stored),
            unit: row.get(6)?,
        })
    }
}
