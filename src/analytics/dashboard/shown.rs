//! The form in which a widget shows a number: its value, the value of the period before, and the change.

use super::{Measure, Tally};
use crate::analytics::period;
use crate::model::{PeriodType, Timestamp};

const MINUTE_MS: i64 = 60_000;

/// A number as it is published. Two numbers are equal if their bits are equal.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Shown {
    /// The value over the period that contains T. `None` if there is no sample.
    pub value: Option<f64>,
    /// The value over the whole period before that period.
    pub previous_value: Option<f64>,
    /// The change from `previous_value` to `value`, in percent. `None` if either value is `None`, or if only
    /// `previous_value` is 0.
    pub change_percent: Option<f64>,
}

impl Shown {
    /// Computes a measure at the watermark `t`. `current` is the tally of the period that contains `t`, and
    /// `previous` is the tally of the period before.
    pub fn of(measure: Measure, period: PeriodType, t: Timestamp, current: &Tally, previous: &Tally) -> Self {
        let start = period::start(period, t);
        let before = period::before(period, t);
        let value = current.number(measure, whole_minutes(start, t)).map(canonical);
        let previous_value = previous.number(measure, whole_minutes(before, start)).map(canonical);
        Self { value, previous_value, change_percent: change_percent(value, previous_value) }
    }
}

/// Returns the whole minutes from one time to another, at least 1.
pub fn whole_minutes(from: Timestamp, to: Timestamp) -> i64 {
    ((to.as_millis() - from.as_millis()) / MINUTE_MS).max(1)
}

/// Returns the start of the minute that contains `t`.
pub fn minute(t: Timestamp) -> Timestamp {
    Timestamp::from_millis(t.as_millis().div_euclid(MINUTE_MS) * MINUTE_MS)
}

/// Makes a number finite, and turns a negative zero into zero.
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
