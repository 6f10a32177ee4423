//! Selects rows: keys, ids as people write them, and conditions.

use std::fmt;
use std::str::FromStr;

use rusqlite::types::Value;
use serde::{Deserialize, Serialize};

/// Names a row of the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
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

/// An id of a dead letter, as people write it. Three forms: `<sequence>`, which means the latest epoch that has a
/// dead letter there; `<epoch>:<sequence>`; and `<stream>:<epoch>:<sequence>`, as in `Nats-Msg-Id`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeadLetterId {
    pub(super) epoch: Option<i64>,
    pub(super) stream_seq: i64,
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
        let wrong = || format!("{text:?} is not an id of a dead letter; `streamgauge dlq list` shows ids such as 1:17");
        let number = |part: &str| part.parse::<i64>().ok().filter(|number| *number > 0).ok_or_else(wrong);
        let mut parts = text.rsplit(':');
        let stream_seq = number(parts.next().unwrap_or_default())?;
        Ok(Self { epoch: parts.next().map(number).transpose()?, stream_seq })
    }
}

/// Selects dead letters. A field that is `None` selects any.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selection {
    /// Only dead letters with these keys.
    pub keys: Option<Vec<DeadLetterKey>>,
    /// Only those with this reason.
    pub reason: Option<String>,
    /// Only those on this subject. If this value ends in `>`, those whose subject begins with the text before `>`.
    pub subject: Option<String>,
    /// Only those received at or after this time, in milliseconds since the Unix epoch.
    pub since_ms: Option<i64>,
    /// Only those received before this time, in milliseconds since the Unix epoch.
    pub until_ms: Option<i64>,
}

impl Selection {
    /// Returns the selection as an SQL condition, and the values that the condition binds.
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
