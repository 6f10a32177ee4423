//! The tally of a series in a period, and the numbers that it shows.

use serde::{Deserialize, Serialize};

use super::Measure;
use crate::analytics::{Merge, Rollup, State};

/// The sum of all facts about one series in one period.
#[derive(Debug, Clone, PartialEq)]
pub enum Tally {
    /// The counters of any series except samples.
    Counters(Counters),
    /// The samples of all tag sets that match.
    Samples(Box<Rollup>),
}

/// Counters. A session or an episode that moves is subtracted from one period and added to another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Events, distinct users, sessions, usages, or episodes.
    pub count: i64,
    /// The total duration of the sessions, in milliseconds.
    pub duration_ms: i64,
    /// Usages that succeeded.
    pub successes: i64,
    /// Usages that failed.
    pub failures: i64,
    /// Episodes that were completed.
    pub converted: i64,
}

impl Default for Tally {
    fn default() -> Self {
        Self::Counters(Counters::default())
    }
}

impl Tally {
    /// Returns whether the tally holds nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Returns the number that a measure shows. `minutes` is the elapsed time. Returns `None` if there is no sample.
    pub fn number(&self, measure: Measure, minutes: i64) -> Option<f64> {
        match self {
            Self::Counters(counters) => counters.number(measure, minutes),
            Self::Samples(rollup) => number_of_samples(rollup, measure, minutes),
        }
    }
}

fn ratio(part: i64, whole: i64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

impl Counters {
    fn number(&self, measure: Measure, minutes: i64) -> Option<f64> {
        match measure {
            Measure::Count => Some(self.count as f64),
            Measure::Converted => Some(self.converted as f64),
            // A series of samples has empty counters before its first sample. Its sum is then 0.
            Measure::Sum => Some(0.0),
            Measure::PerMinute => (self.count > 0).then(|| self.count as f64 / minutes as f64),
            Measure::AvgDuration => ratio(self.duration_ms, self.count),
            Measure::SuccessRate => ratio(self.successes, self.successes + self.failures),
            Measure::ConversionRate => ratio(self.converted, self.count),
            Measure::Rate | Measure::Avg | Measure::Min | Measure::Max | Measure::Percentile(_) | Measure::Last => None,
        }
    }
}

fn number_of_samples(rollup: &Rollup, measure: Measure, minutes: i64) -> Option<f64> {
    match measure {
        Measure::Count => Some(rollup.count() as f64),
        Measure::Sum => Some(rollup.sum()),
        Measure::Rate => Some(rollup.sum() / (60.0 * minutes as f64)),
        Measure::Avg => Some(rollup.avg()),
        Measure::Min => Some(rollup.min()),
        Measure::Max => Some(rollup.max()),
        Measure::Percentile(percent) => rollup.percentile(percent),
        Measure::Last => Some(rollup.last()),
        Measure::PerMinute
        | Measure::AvgDuration
        | Measure::SuccessRate
        | Measure::Converted
        | Measure::ConversionRate => None,
    }
}

impl Merge for Tally {
    fn merge(&mut self, other: Self) {
        match (self, other) {
            (Self::Counters(own), Self::Counters(other)) => own.merge(other),
            (Self::Samples(own), Self::Samples(other)) => own.merge(*other),
            // An empty tally is the unit of both kinds.
            (own, other) if own.is_empty() => *own = other,
            _ => {}
        }
    }
}

impl Merge for Counters {
    fn merge(&mut self, other: Self) {
        self.count += other.count;
        self.duration_ms += other.duration_ms;
        self.successes += other.successes;
        self.failures += other.failures;
        self.converted += other.converted;
    }
}

const COUNTERS: u8 = 0;
const SAMPLES: u8 = 1;

impl State for Tally {
    const VERSION: u8 = 1;

    fn encode(&self, mut bytes: Vec<u8>) -> Vec<u8> {
        match self {
            Self::Counters(counters) => {
                bytes.push(COUNTERS);
                // Writing numbers into a vector cannot fail.
                postcard::to_extend(counters, bytes).unwrap_or_default()
            }
            Self::Samples(rollup) => {
                bytes.extend([SAMPLES, Rollup::VERSION]);
                rollup.encode(bytes)
            }
        }
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [COUNTERS, rest @ ..] => {
                let (counters, rest) = postcard::take_from_bytes(rest).ok()?;
                rest.is_empty().then_some(Self::Counters(counters))
            }
            [SAMPLES, rest @ ..] => Rollup::from_bytes(rest).ok().map(|rollup| Self::Samples(Box::new(rollup))),
            _ => None,
        }
    }
}
