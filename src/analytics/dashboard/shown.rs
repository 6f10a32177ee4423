//! What a widget shows of a number: its value, that of the period before, and the change.

use super::{Measure, Tally};
use crate::analytics::period;
use crate::model::{PeriodType, Timestamp};

const MINUTE_MS: i64 = 60_000;

/// A number as it is published. Two are the same where their bits are.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Shown {
    /// Over the period that contains T; none where there is no sample.
    pub value: Option<f64>,
    /// Over the whole period before it.
    pub previous_value: Option<f64>,
    /// From the one to the other, in percent.
    pub change_percent: Option<f64>,
}

impl Shown {
    /// What a measure shows at the watermark `t`, of what is known of the period that contains it and of the one before.
    pub fn of(measure: Measure, period: PeriodType, t: Timestamp, current: &Tally, previous: &Tally) -> Self {
        let start = period::start(period, t);
        let before = period::before(period, t);
        let value = current.number(measure, whole_minutes(start, t)).map(canonical);
        let previous_value = previous.number(measure, whole_minutes(before, start)).map(canonical);
        Self { value, previous_value, change_percent: change_percent(value, previous_value) }
    }
}

/// The whole minutes from one moment to another, at least one.
pub fn whole_minutes(from: Timestamp, to: Timestamp) -> i64 {
    ((to.as_millis() - from.as_millis()) / MINUTE_MS).max(1)
}

/// The minute that contains a moment.
pub fn minute(t: Timestamp) -> Timestamp {
    Timestamp::from_millis(t.as_millis().div_euclid(MINUTE_MS) * MINUTE_MS)
}

/// Finite, and without a negative zero.
fn canonical(number: f64) -> f64 {
    number.clamp(f64::MIN, f64::MAX) + 0.0
}

fn change_percent(value: Option<f64>, previous: Option<f64>) -> Option<f64> {
    let (value, previous) = (value?, previous?);
    if previous == 0.0 {
        return (value == 0.0).then_some(0.0);
    }
    Some(canonical(100.0 * (value - previous) / previous.abs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn change_is_in_percent_of_what_was() {
        for (value, previous, expected) in [
            (Some(120.0), Some(100.0), Some(20.0)),
            (Some(80.0), Some(100.0), Some(-20.0)),
            (Some(5.0), Some(-10.0), Some(150.0)),
            (Some(0.0), Some(0.0), Some(0.0)),
            (Some(1.0), Some(0.0), None),
            (Some(-1.0), Some(0.0), None),
            (Some(1.0), None, None),
            (None, Some(1.0), None),
            (Some(f64::MAX), Some(f64::MIN), Some(f64::MAX)),
            (Some(f64::MIN), Some(1.0), Some(f64::MIN)),
        ] {
            assert_eq!(change_percent(value, previous), expected, "{value:?} after {previous:?}");
        }
    }

    #[test]
    fn rates_are_by_whole_elapsed_minutes() {
        let at = |text: &str| Timestamp::from_stored(text).unwrap();
        let midnight = at("2026-11-23T00:00:00.000Z");
        for (t, minutes) in [
            ("2026-11-23T00:00:00.000Z", 1),
            ("2026-11-23T00:01:59.999Z", 1),
            ("2026-11-23T00:02:00.000Z", 2),
            ("2026-11-24T00:00:00.000Z", 1440),
        ] {
            assert_eq!(whole_minutes(midnight, at(t)), minutes, "{t}");
        }
        assert_eq!(minute(at("1969-12-31T23:59:59.999Z")), at("1969-12-31T23:59:00.000Z"));
    }
}
