//! The raw table `analytics_events`.

use rusqlite::{CachedStatement, Row, params};

use super::{RawTable, RowOrigin};
use crate::judge::{Accepted, Message};
use crate::model::{AnalyticsEvent, JsonObject, Timestamp};
use crate::store::sqlite::values::parsed;

impl RawTable for AnalyticsEvent {
    const TABLE: &'static str = "analytics_events";
    const COLUMNS: &'static str = "id, event_type, event_name, timestamp, session_id, user_id, properties, context, page_url, \
         referrer, anonymous_id";

    fn message(judged: Accepted<Self>) -> Message {
        Message::Event(Box::new(judged))
    }

    fn insert(&self, statement: &mut CachedStatement<'_>, origin: RowOrigin) -> rusqlite::Result<usize> {
        statement.execute(params![
            self.id,
            self.event_type,
            self.event_name,
            self.timestamp.to_string(),
            self.session_id,
            self.user_id,
            self.properties.as_ref().map(JsonObject::as_str),
            self.context.as_ref().map(JsonObject::as_str),
            self.page_url,
            self.referrer,
            self.anonymous_id,
            origin.epoch,
            origin.stream_seq,
            origin.recv_ms,
            origin.supplied,
        ])
    }

    fn from_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get(0)?,
            event_type: row.get(1)?,
            event_name: row.get(2)?,
            timestamp: parsed(row, 3, Timestamp::from_stored)?,
            session_id: row.get(4)?,
            user_id: row.get(5)?,
            properties: row.get::<_, Option<String>>(6)?.map(JsonObject::from_stored),
            context: row.get::<_, Option<String>>(7)?.map(JsonObject::from_stored),
            page_url: row.get(8)?,
            referrer: row.get(9)?,
            anonymous_id: row.get(10)?,
        })
    }
}
