//! Finds the numbers that a transaction may have changed.

use std::collections::BTreeSet;

use super::{Measure, minute};
use crate::analytics::period;
use crate::model::{PeriodType, Timestamp};

/// The changes of a transaction that may affect numbers.
#[derive(Debug, Default)]
pub struct Touched {
    /// The places of the series that changed in some period.
    pub series: BTreeSet<usize>,
    /// T before the transaction. `None` if all numbers must be evaluated.
    pub t_before: Option<Timestamp>,
}

impl Touched {
    /// Returns whether T entered another period. `true` if `t_before` is `None`.
    pub fn has_entered(&self, period_type: PeriodType, t: Timestamp) -> bool {
        self.t_before.is_none_or(|before| period::start(period_type, before) != period::start(period_type, t))
    }

    /// Returns whether T entered another minute. `true` if `t_before` is `None`.
    pub fn is_new_minute(&self, t: Timestamp) -> bool {
        self.t_before.is_none_or(|before| minute(before) != minute(t))
    }

    /// Returns whether a number may have changed. There are three causes: its series changed; T entered another
    /// period; or T entered another minute and the number depends on elapsed time.
    pub fn is_due(&self, period_type: PeriodType, measure: Measure, series: usize, t: Timestamp) -> bool {
        self.has_entered(period_type, t)
            || self.series.contains(&series)
            || self.is_new_minute(t) && measure.is_per_time()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_due_by_series_by_period_and_by_minute() {
        let at = |text: &str| Timestamp::from_stored(text).unwrap();
        let touched = |t_before: Option<&str>, series: &[usize]| Touched {
            series: series.iter().copied().collect(),
            t_before: t_before.map(at),
        };
        let t = at("2026-01-31T12:30:30.000Z");
        let due = |touched: &Touched, measure| touched.is_due(PeriodType::Hourly, measure, 1, t);
        let (count, rate) = (Measure::Count, Measure::PerMinute);
        for (touched, count_is_due, rate_is_due) in [
            (touched(None, &[]), true, true),
            (touched(Some("2026-01-31T12:30:00.000Z"), &[]), false, false),
            (touched(Some("2026-01-31T12:30:00.000Z"), &[2]), false, false),
            (touched(Some("2026-01-31T12:30:00.000Z"), &[1]), true, true),
            (touched(Some("2026-01-31T12:29:59.999Z"), &[]), false, true),
            (touched(Some("2026-01-31T11:59:59.999Z"), &[]), true, true),
        ] {
            assert_eq!((due(&touched, count), due(&touched, rate)), (count_is_due, rate_is_due), "{touched:?}");
        }
    }
}
