//! The measures of a series, and their names in expressions.

/// The number that a widget shows for a series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// The count. For a funnel: the episodes that entered.
    Count,
    /// The count per elapsed minute.
    PerMinute,
    /// The mean duration of sessions, in milliseconds.
    AvgDuration,
    /// The sum of samples.
    Sum,
    /// The sum of samples per elapsed second.
    Rate,
    /// The mean of samples.
    Avg,
    /// The least sample.
    Min,
    /// The greatest sample.
    Max,
    /// A percentile of samples, by nearest rank.
    Percentile(u8),
    /// The last sample, by time and then by id.
    Last,
    /// Successes divided by the usages that report success or failure.
    SuccessRate,
    /// Episodes that were completed.
    Converted,
    /// Completed episodes divided by entered episodes.
    ConversionRate,
}

impl Measure {
    /// Returns whether the measure can change although no input changes, because time elapses within the period.
    pub fn is_per_time(self) -> bool {
        matches!(self, Self::PerMinute | Self::Rate)
    }
}

pub(super) const EVENT_MEASURES: [(&str, Measure); 2] = [("count", Measure::Count), ("per_minute", Measure::PerMinute)];
pub(super) const USER_MEASURES: [(&str, Measure); 1] = [("active", Measure::Count)];
pub(super) const SESSION_MEASURES: [(&str, Measure); 2] =
    [("count", Measure::Count), ("avg_duration", Measure::AvgDuration)];
pub(super) const SAMPLE_MEASURES: [(&str, Measure); 10] = [
    ("count", Measure::Count),
    ("sum", Measure::Sum),
    ("rate", Measure::Rate),
    ("avg", Measure::Avg),
    ("min", Measure::Min),
    ("max", Measure::Max),
    ("p50", Measure::Percentile(50)),
    ("p90", Measure::Percentile(90)),
    ("p99", Measure::Percentile(99)),
    ("last", Measure::Last),
];
pub(super) const FEATURE_MEASURES: [(&str, Measure); 3] =
    [("usage", Measure::Count), ("users", Measure::Count), ("success_rate", Measure::SuccessRate)];
pub(super) const FUNNEL_MEASURES: [(&str, Measure); 3] =
    [("entered", Measure::Count), ("converted", Measure::Converted), ("rate", Measure::ConversionRate)];
