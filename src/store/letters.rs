//! `_rejections`, read by people: dead letters, chosen, listed and shown.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use rusqlite::types::Value;
use rusqlite::{OptionalExtension, Row, params_from_iter};
use serde::{Deserialize, Serialize};
use sqlx::FromRow;

use super::open::open_blocking_reader;
use super::{StoreError, from_sql};
use crate::model::Timestamp;

/// Names a row of the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, FromRow, Serialize, Deserialize)]
pub struct DeadLetterKey {
    /// The epoch.
    pub epoch: i64,
    /// The sequence in the stream.
    pub stream_seq: i64,
}

impl fmt::Display for DeadLetterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.epoch, self.stream_seq)
    }
}

/// An id of a dead letter, as people write it: a sequence of the last epoch that has one there, `<epoch>:<sequence>`, or
/// `<stream>:<epoch>:<sequence>`, as `Nats-Msg-Id` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeadLetterId {
    epoch: Option<i64>,
    stream_seq: i64,
}

impl fmt::Display for DeadLetterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.epoch {
            Some(epoch) => write!(f, "{epoch}:{}", self.stream_seq),
            None => write!(f, "{}", self.stream_seq),
        }
    }
}

impl FromStr for DeadLetterId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no id of a dead letter; `streamgauge dlq list` shows them, such as 1:17");
        let number = |part: &str| part.parse::<i64>().ok().filter(|number| *number > 0).ok_or_else(wrong);
        let mut parts = text.rsplit(':');
        let stream_seq = number(parts.next().unwrap_or_default())?;
        Ok(Self { epoch: parts.next().map(number).transpose()?, stream_seq })
    }
}

/// Which dead letters are meant. What is left out is any.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selection {
    /// These; none where all are.
    pub keys: Option<Vec<DeadLetterKey>>,
    /// Of this reason.
    pub reason: Option<String>,
    /// On this subject; where it ends in `>`, on those that begin so.
    pub subject: Option<String>,
    /// Received at or after this time, in milliseconds since the Unix epoch.
    pub since_ms: Option<i64>,
    /// Received before this time, likewise.
    pub until_ms: Option<i64>,
}

impl Selection {
    /// As a condition, and what it binds.
    pub(super) fn condition(&self) -> (String, Vec<Value>) {
        let (mut conditions, mut values) = (vec!["true".to_owned()], Vec::new());
        let mut bind = |value: Value| {
            values.push(value);
            format!("?{}", values.len())
        };
        if let Some(keys) = &self.keys {
            let keys: Vec<_> = keys.iter().map(|key| format!("({}, {})", key.epoch, key.stream_seq)).collect();
            conditions.push(format!("(epoch, stream_seq) IN (VALUES {})", keys.join(", ")));
            if keys.is_empty() {
                conditions = vec!["false".to_owned()];
            }
        }
        if let Some(reason) = &self.reason {
            conditions.push(format!("reason = {}", bind(reason.clone().into())));
        }
        match self.subject.as_ref().map(|subject| (subject, subject.strip_suffix('>'))) {
            Some((_, Some(prefix))) => {
                let place = bind(prefix.to_owned().into());
                conditions.push(format!("substr(subject, 1, length({place})) = {place}"));
            }
            Some((subject, None)) => conditions.push(format!("subject = {}", bind(subject.clone().into()))),
            None => {}
        }
        if let Some(since_ms) = self.since_ms {
            conditions.push(format!("recv_ms >= {}", bind(since_ms.into())));
        }
        if let Some(until_ms) = self.until_ms {
            conditions.push(format!("recv_ms < {}", bind(until_ms.into())));
        }
        (conditions.join(" AND "), values)
    }
}

/// A dead letter, without its payload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "named as the columns")]
pub struct Letter {
    pub id: String,
    pub stream: String,
    pub epoch: i64,
    pub stream_seq: u64,
    pub kind: String,
    pub reason: String,
    pub field: Option<String>,
    pub error: String,
    pub subject: String,
    pub received_at: String,
    pub state: String,
    pub published: bool,
    pub size_bytes: u64,
}

const COLUMNS: &str = "(SELECT stream FROM _positions p WHERE p.epoch = r.epoch), epoch, stream_seq, kind, reason, field, \
     error, subject, recv_ms, state, published, length(payload)";

fn letter(row: &Row<'_>) -> rusqlite::Result<Letter> {
    let key = DeadLetterKey { epoch: row.get(1)?, stream_seq: row.get(2)? };
    Ok(Letter {
        id: key.to_string(),
        stream: row.get::<_, Option<String>>(0)?.unwrap_or_default(),
        epoch: key.epoch,
        stream_seq: from_sql(key.stream_seq),
        kind: row.get(3)?,
        reason: row.get(4)?,
        field: row.get(5)?,
        error: row.get(6)?,
        subject: row.get(7)?,
        received_at: Timestamp::from_millis(row.get(8)?).to_string(),
        state: row.get(9)?,
        published: row.get(10)?,
        size_bytes: from_sql(row.get(11)?),
    })
}

/// Hands over the chosen dead letters in the given state (any where there is none), in the order of the stream; it may
/// say that it has enough. Blocks.
///
/// # Errors
/// Where the database cannot be read.
pub fn letters(
    database: &Path,
    which: &Selection,
    state: Option<&str>,
    mut take: impl FnMut(Letter) -> bool,
) -> Result<(), StoreError> {
    let connection = open_blocking_reader(database)?;
    let (condition, mut values) = which.condition();
    let of_state = state.map_or_else(|| "true".to_owned(), |_| format!("state = ?{}", values.len() + 1));
    values.extend(state.map(|state| Value::from(state.to_owned())));
    let sql =
        format!("SELECT {COLUMNS} FROM _rejections r WHERE {of_state} AND {condition} ORDER BY epoch, stream_seq");
    let mut statement = connection.prepare(&sql)?;
    let mut rows = statement.query(params_from_iter(values))?;
    while let Some(row) = rows.next()? {
        if !take(letter(row)?) {
            break;
        }
    }
    Ok(())
}

/// One dead letter, and its payload; none where there is none. Blocks.
///
/// # Errors
/// Where the database cannot be read.
pub fn letter_with_payload(database: &Path, id: DeadLetterId) -> Result<Option<(Letter, Vec<u8>)>, StoreError> {
    let connection = open_blocking_reader(database)?;
    let sql = format!(
        "SELECT {COLUMNS}, payload FROM _rejections r WHERE stream_seq = ?1 AND (?2 IS NULL OR epoch = ?2) \
         ORDER BY epoch DESC LIMIT 1"
    );
    let found = connection.query_row(&sql, (id.stream_seq, id.epoch), |row| Ok((letter(row)?, row.get(12)?)));
    Ok(found.optional()?)
}
