//! Event time: UTC, whole milliseconds, one text form.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Datelike, Timelike, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::sqlite::{Sqlite, SqliteArgumentsBuffer, SqliteTypeInfo, SqliteValueRef};

use crate::clock;

/// 0000-01-01T00:00:00.000Z and 9999-12-31T23:59:59.999Z. Between them a year has four digits: text sorts as time.
const MIN_MS: i64 = -62_167_219_200_000;
const MAX_MS: i64 = 253_402_300_799_999;
/// 1971-01-01T00:00:00.000Z. An earlier time on the wire comes from a clock that is unset or broken.
const MIN_WIRE_MS: i64 = 31_536_000_000;

/// A moment in UTC, in whole milliseconds since the Unix epoch, in the years 0000 to 9999.
///
/// Its text form is `YYYY-MM-DDTHH:MM:SS.mmmZ`, always 24 characters, so text sorts as time. SQLite and JSON hold
/// this form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

/// Why Streamgauge does not accept a text as a timestamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TimestampError {
    /// The text is not RFC 3339, or has no offset.
    #[error("is not RFC 3339 with an offset, such as 2026-01-31T12:00:00.000Z")]
    NotRfc3339,
    /// The time has second 60, which does not exist on the UTC scale of SQLite and chrono.
    #[error("has second 60; use second 59 or the following second 00")]
    LeapSecond,
    /// The time is outside the years 1971 to 9999 in UTC.
    #[error("is outside the years 1971 to 9999")]
    YearOutOfRange,
}

impl Timestamp {
    /// Returns the wall clock's time. Builders use it as the default. Rules never use it.
    pub fn now() -> Self {
        Self::from_millis(clock::now_ms())
    }

    /// Returns the moment `ms` milliseconds after the Unix epoch, clamped to the years 0000 to 9999.
    pub fn from_millis(ms: i64) -> Self {
        Self(ms.clamp(MIN_MS, MAX_MS))
    }

    /// Returns the moment `ns` nanoseconds after the Unix epoch, floored to milliseconds.
    pub fn from_nanos(ns: i64) -> Self {
        Self::from_millis(ns.div_euclid(1_000_000))
    }

    /// Returns the milliseconds since the Unix epoch. Negative before 1970.
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// Parses RFC 3339 with an offset, converts the time to UTC and floors it to milliseconds.
    ///
    /// # Errors
    /// If the text is not RFC 3339 with an offset, has second 60, or is outside the years 1971 to 9999.
    pub fn parse(text: &str) -> Result<Self, TimestampError> {
        // chrono also accepts U+2212 as a minus sign.
        let parsed = DateTime::parse_from_rfc3339(text).ok().filter(|_| text.is_ascii());
        let parsed = parsed.ok_or(TimestampError::NotRfc3339)?;
        // chrono represents second 60 as second 59 with more than 10^9 nanoseconds.
        if parsed.nanosecond() >= 1_000_000_000 {
            return Err(TimestampError::LeapSecond);
        }
        let ms = parsed.timestamp_millis();
        if !(MIN_WIRE_MS..=MAX_MS).contains(&ms) {
            return Err(TimestampError::YearOutOfRange);
        }
        Ok(Self(ms))
    }

    /// Parses the text form that [`Display`](fmt::Display) writes. Unlike [`Timestamp::parse`], it accepts any year:
    /// a stored timestamp may be a `recv`, which is whatever the server's clock showed.
    pub(crate) fn from_stored(text: &str) -> Option<Self> {
        DateTime::parse_from_rfc3339(text).ok().map(|parsed| Self::from(parsed.to_utc()))
    }
}

impl From<DateTime<Utc>> for Timestamp {
    fn from(value: DateTime<Utc>) -> Self {
        Self::from_millis(value.timestamp_millis())
    }
}

impl From<Timestamp> for DateTime<Utc> {
    fn from(value: Timestamp) -> Self {
        DateTime::from_timestamp_millis(value.0).unwrap_or_default()
    }
}

impl FromStr for Timestamp {
    type Err = TimestampError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let utc = DateTime::<Utc>::from(*self);
        let mut text = *b"0000-00-00T00:00:00.000Z";
        let year = utc.year().unsigned_abs();
        let millis = utc.nanosecond() / 1_000_000;
        let parts = [(year, 0..4), (utc.month(), 5..7), (utc.day(), 8..10), (utc.hour(), 11..13)];
        let rest = [(utc.minute(), 14..16), (utc.second(), 17..19), (millis, 20..23)];
        for (mut number, places) in parts.into_iter().chain(rest) {
            for digit in text[places].iter_mut().rev() {
                *digit += (number % 10) as u8;
                number /= 10;
            }
        }
        f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(|error| de::Error::custom(format!("timestamp {error}")))
    }
}

impl sqlx::Type<Sqlite> for Timestamp {
    fn type_info() -> SqliteTypeInfo {
        <str as sqlx::Type<Sqlite>>::type_info()
    }

    fn compatible(ty: &SqliteTypeInfo) -> bool {
        <str as sqlx::Type<Sqlite>>::compatible(ty)
    }
}

impl sqlx::Encode<'_, Sqlite> for Timestamp {
    fn encode_by_ref(&self, buffer: &mut SqliteArgumentsBuffer) -> Result<IsNull, BoxDynError> {
        <String as sqlx::Encode<'_, Sqlite>>::encode(self.to_string(), buffer)
    }
}

impl<'r> sqlx::Decode<'r, Sqlite> for Timestamp {
    fn decode(value: SqliteValueRef<'r>) -> Result<Self, BoxDynError> {
        let text = <&str as sqlx::Decode<'r, Sqlite>>::decode(value)?;
        Self::from_stored(text).ok_or_else(|| format!("{text:?} is not a timestamp").into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<String, TimestampError> {
        Timestamp::parse(text).map(|timestamp| timestamp.to_string())
    }

    #[test]
    fn accepts_rfc_3339_and_floors_to_milliseconds_in_utc() {
        for (text, expected) in [
            ("2026-01-31T12:00:00Z", "2026-01-31T12:00:00.000Z"),
            ("2026-01-31T12:00:00.999999999Z", "2026-01-31T12:00:00.999Z"),
            ("2026-01-31T23:30:00.5+05:30", "2026-01-31T18:00:00.500Z"),
            ("2026-01-01T00:00:00-23:59", "2026-01-01T23:59:00.000Z"),
            ("1971-01-01T00:00:00Z", "1971-01-01T00:00:00.000Z"),
            ("9999-12-31T23:59:59.9999Z", "9999-12-31T23:59:59.999Z"),
            ("2024-02-29t00:00:00z", "2024-02-29T00:00:00.000Z"),
        ] {
            assert_eq!(parse(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn rejects_what_is_not_a_moment_it_can_keep() {
        use TimestampError::*;
        for (text, expected) in [
            ("2026-01-31T12:00:00", NotRfc3339),
            ("2026-01-31", NotRfc3339),
            ("1769860800", NotRfc3339),
            ("2026-02-29T12:00:00Z", NotRfc3339),
            ("2026-01-31T24:00:00Z", NotRfc3339),
            ("2026-01-31T12:00:00\u{2212}01:00", NotRfc3339),
            ("", NotRfc3339),
            ("2016-12-31T23:59:60Z", LeapSecond),
            ("1970-12-31T23:59:59.999Z", YearOutOfRange),
            ("1971-01-01T00:00:00+00:01", YearOutOfRange),
            ("9999-12-31T23:59:59-00:01", YearOutOfRange),
        ] {
            assert_eq!(parse(text), Err(expected), "{text}");
        }
    }

    #[test]
    fn text_sorts_as_time_and_floors_below_1970() {
        let before = Timestamp::from_nanos(-1);
        assert_eq!(before.to_string(), "1969-12-31T23:59:59.999Z");
        assert!(before.to_string() < Timestamp::from_millis(0).to_string());
        assert_eq!(Timestamp::from_millis(i64::MIN).to_string().len(), 24);
        assert_eq!(Timestamp::from_millis(i64::MAX).to_string(), "9999-12-31T23:59:59.999Z");
    }
}
