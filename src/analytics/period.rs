//! Periods of rollups, in UTC. Divisions round down, so that times before 1970 also fall into their period.

use chrono::{Datelike, NaiveDate};

use crate::model::{PeriodType, Timestamp};

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;
/// 1970-01-01 was a Thursday, three days after its ISO week began.
const EPOCH_DAYS_AFTER_MONDAY: i64 = 3;

/// Returns the start of the period that contains a moment.
pub fn start(period: PeriodType, timestamp: Timestamp) -> Timestamp {
    let ms = timestamp.as_millis();
    let day = ms.div_euclid(DAY_MS);
    let start_ms = match period {
        PeriodType::Hourly => ms.div_euclid(HOUR_MS) * HOUR_MS,
        PeriodType::Daily => day * DAY_MS,
        PeriodType::Weekly => (day - (day + EPOCH_DAYS_AFTER_MONDAY).rem_euclid(7)) * DAY_MS,
        PeriodType::Monthly => (day - i64::from(date(timestamp).day0())) * DAY_MS,
    };
    Timestamp::from_millis(start_ms)
}

/// Returns the start of the period before the period that contains a moment.
pub fn before(period: PeriodType, timestamp: Timestamp) -> Timestamp {
    start(period, Timestamp::from_millis(start(period, timestamp).as_millis() - 1))
}

/// Returns the UTC day of a moment.
pub fn date(timestamp: Timestamp) -> NaiveDate {
    let day = timestamp.as_millis().div_euclid(DAY_MS);
    // The conversion cannot fail: the years of a timestamp are 0000 to 9999.
    i32::try_from(day).ok().and_then(NaiveDate::from_epoch_days).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_begin_where_the_calendar_says() {
        use PeriodType::{Daily, Hourly, Monthly, Weekly};
        for (timestamp, period, expected) in [
            ("2026-01-31T23:59:59.999Z", Hourly, "2026-01-31T23:00:00.000Z"),
            ("2026-01-31T23:00:00.000Z", Hourly, "2026-01-31T23:00:00.000Z"),
            ("2026-01-31T23:59:59.999Z", Daily, "2026-01-31T00:00:00.000Z"),
            ("2024-02-29T12:00:00.000Z", Monthly, "2024-02-01T00:00:00.000Z"),
            // ISO week 53 of 2026 and ISO week 1 of 2025 begin in the year before these dates.
            ("2027-01-03T23:59:59.999Z", Weekly, "2026-12-28T00:00:00.000Z"),
            ("2027-01-04T00:00:00.000Z", Weekly, "2027-01-04T00:00:00.000Z"),
            ("2025-01-01T00:00:00.000Z", Weekly, "2024-12-30T00:00:00.000Z"),
            ("1969-12-31T23:59:59.999Z", Hourly, "1969-12-31T23:00:00.000Z"),
            ("1969-12-31T23:59:59.999Z", Daily, "1969-12-31T00:00:00.000Z"),
            ("1969-12-31T23:59:59.999Z", Weekly, "1969-12-29T00:00:00.000Z"),
            ("1969-12-31T23:59:59.999Z", Monthly, "1969-12-01T00:00:00.000Z"),
            ("1900-03-01T00:00:00.000Z", Monthly, "1900-03-01T00:00:00.000Z"),
        ] {
            let timestamp = Timestamp::from_stored(timestamp).unwrap();
            assert_eq!(start(period, timestamp).to_string(), expected, "{timestamp} {period:?}");
        }
    }
}
