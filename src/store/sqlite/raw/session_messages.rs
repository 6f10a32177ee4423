//! The raw table `_session_messages`.

use rusqlite::{CachedStatement, Row, params};

use super::{RawTable, RowOrigin};
use crate::judge::{Accepted, Message};
use crate::model::{SessionMessage, Timestamp};
use crate::store::sqlite::values::parsed;

impl RawTable for SessionMessage {
    const TABLE: &'static str = "_session_messages";
    const COLUMNS: &'static str = "id, session_id, kind, timestamp, user_id, anonymous_id, device_type, browser, os, country, \
         city, referrer, landing_page, exit_page";

    fn message(judged: Accepted<Self>) -> Message {
        Message::Session(Box::new(judged))
    }

    fn insert(&self, statement: &mut CachedStatement<'_>, origin: RowOrigin) -> rusqlite::Result<usize> {
        statement.execute(params![
            self.id,
            self.session_id,
            self.kind.as_str(),
            self.timestamp.to_string(),
            self.user_id,
            self.anonymous_id,
            self.device_type,
            self.browser,
            self.os,
            self.country,
            self.city,
            self.referrer,
            self.landing_page,
            self.exit_page,
            origin.epoch,
            origin.stream_seq,
            origin.recv_ms,
            origin.supplied,
        ])
    }

    fn from_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get(0)?,
            session_id: row.get(1)?,
            kind: parsed(row, 2, |text| text.parse().ok())?,
            timestamp: parsed(row, 3, Timestamp::from_stored)?,
            user_id: row.get(4)?,
            anonymous_id: row.get(5)?,
            device_type: row.get(6)?,
            browser: row.get(7)?,
            os: row.get(8)?,
            country: row.get(9)?,
            city: row.get(10)?,
            referrer: row.get(11)?,
            landing_page: row.get(12)?,
            exit_page: row.get(13)?,
        })
    }
}
