//! Rollups: a rollup combines all samples of one metric and one tag set in one period (`SEMANTICS` section 2).

use serde::{Deserialize, Serialize};

use super::{ByKey, Distribution, ExactSum, Group, Merge, State, merged, period};
use crate::model::{JsonObject, Metric, MetricAggregate, MetricType, PeriodType, Timestamp, natural_id};

/// The group of `metric_aggregates`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rollups;

/// One metric, one tag set, one period.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RollupKey {
    /// The metric's name.
    pub name: String,
    /// The tags as canonical JSON; `{}` if there are no tags.
    pub tags: String,
    /// The length of the period.
    pub period_type: PeriodType,
    /// The start of the period.
    pub period_start: Timestamp,
}

impl RollupKey {
    /// Returns the id of the row: UUIDv5 over the key. Name, period type and start contain no `|`, so no two keys
    /// give the same text.
    pub fn id(&self) -> String {
        let Self { name, tags, period_type, period_start } = self;
        natural_id::of(&format!("metric_aggregates|{name}|{}|{period_start}|{tags}", period_type.as_str()))
    }
}

impl Group for Rollups {
    type Key = RollupKey;
    type Fact = Rollup;
    type State = Rollup;

    fn apply(before: Option<&mut Rollup>, fact: Rollup) -> Rollup {
        merged(before.as_deref(), fact)
    }
}

/// All that is known of the samples of one key.
#[derive(Debug, Clone, PartialEq)]
pub struct Rollup {
    count: u64,
    sum: ExactSum,
    min: f64,
    max: f64,
    /// The samples that are not counters. Only these samples enter the percentiles.
    distribution: Distribution,
    last: Last,
}

/// The last sample in the order of time, then of id.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Last {
    timestamp_ms: i64,
    id: String,
    value: f64,
}

impl Rollup {
    fn of(metric: &Metric) -> Self {
        let mut sum = ExactSum::default();
        sum.add(metric.value);
        let mut distribution = Distribution::default();
        if metric.metric_type != MetricType::Counter {
            distribution.add(metric.value);
        }
        let last = Last { timestamp_ms: metric.timestamp.as_millis(), id: metric.id.clone(), value: metric.value };
        Self { count: 1, sum, min: metric.value, max: metric.value, distribution, last }
    }

    /// Returns the number of samples, counters included.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Returns the exact sum, rounded once.
    pub fn sum(&self) -> f64 {
        self.sum.to_f64()
    }

    /// Returns the mean.
    pub fn avg(&self) -> f64 {
        self.sum() / self.count as f64
    }

    /// Returns the least sample.
    pub fn min(&self) -> f64 {
        self.min
    }

    /// Returns the greatest sample.
    pub fn max(&self) -> f64 {
        self.max
    }

    /// Returns the value of the last sample in the order of time, then of id.
    pub fn last(&self) -> f64 {
        self.last.value
    }

    /// Returns a percentile, by nearest rank, of the samples that are not counters. `None` if all samples are
    /// counters.
    pub fn percentile(&self, percent: u8) -> Option<f64> {
        self.distribution.percentile(u64::from(percent), self.min, self.max)
    }

    /// Returns the row of `metric_aggregates`.
    pub fn row(&self, key: &RollupKey) -> MetricAggregate {
        MetricAggregate {
            id: key.id(),
            name: key.name.clone(),
            period_start: key.period_start,
            period_type: key.period_type,
            count: i64::try_from(self.count).unwrap_or(i64::MAX),
            sum: self.sum(),
            min: self.min,
            max: self.max,
            avg: self.avg(),
            p50: self.percentile(50),
            p90: self.percentile(90),
            p99: self.percentile(99),
            tags: Some(JsonObject::from_stored(key.tags.clone())),
        }
    }
}

impl Merge for Rollup {
    fn merge(&mut self, other: Self) {
        self.count += other.count;
        self.sum.merge(other.sum);
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        self.distribution.merge(other.distribution);
        if (other.last.timestamp_ms, &other.last.id) > (self.last.timestamp_ms, &self.last.id) {
            self.last = other.last;
        }
    }
}

/// The stored form of a rollup.
#[derive(Serialize, Deserialize)]
struct RollupBytes<D, L> {
    count: u64,
    sum: Vec<u8>,
    min: f64,
    max: f64,
    distribution: D,
    last: L,
}

impl State for Rollup {
    const VERSION: u8 = 1;

    fn encode(&self, bytes: Vec<u8>) -> Vec<u8> {
        let Self { count, sum, min, max, distribution, last } = self;
        let rollup = RollupBytes { count: *count, sum: sum.to_bytes(), min: *min, max: *max, distribution, last };
        // Writing numbers and texts into a vector cannot fail.
        postcard::to_extend(&rollup, bytes).unwrap_or_default()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (stored, rest) = postcard::take_from_bytes::<RollupBytes<Distribution, Last>>(bytes).ok()?;
        let RollupBytes { count, sum, min, max, distribution, last } = stored;
        let is_whole = rest.is_empty() && count > 0;
        is_whole.then_some(Self { count, sum: ExactSum::from_bytes(&sum)?, min, max, distribution, last })
    }
}

impl ByKey<Rollups> {
    /// Adds a metric to its hour. `roll_up` adds the longer periods later.
    pub fn add_metric(&mut self, metric: &Metric) {
        let key = RollupKey {
            name: metric.name.clone(),
            tags: metric.tags.as_ref().map_or("{}", |tags| tags.as_str()).to_owned(),
            period_type: PeriodType::Hourly,
            period_start: period::start(PeriodType::Hourly, metric.timestamp),
        };
        self.add(key, Rollup::of(metric));
    }

    /// Returns the hours together with their days, weeks and months. Each hour is added to the longer periods once,
    /// which is cheaper than once for each sample.
    pub fn roll_up(self) -> Self {
        let mut all = Self::default();
        for (key, hour) in self.0 {
            for period_type in [PeriodType::Daily, PeriodType::Weekly, PeriodType::Monthly] {
                let period_start = period::start(period_type, key.period_start);
                all.add(RollupKey { period_type, period_start, ..key.clone() }, hour.clone());
            }
            all.add(key, hour);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::MetricBuilder;

    /// 2026-11-23T00:00:00Z
    const DAY_MS: i64 = 1_795_392_000_000;
    const HOUR_MS: i64 = 3_600_000;

    proptest! {

        #![proptest_config(crate::property_config())]

        /// L3: the stored states of 24 hours merge exactly into the state of the day.
        #[test]
        fn hours_merge_to_their_day(samples in prop::collection::vec((0..24 * HOUR_MS, -1e9..1e9_f64), 1..300)) {
            let metric = |(number, (ms, value)): (usize, &(i64, f64))| {
                let timestamp = Timestamp::from_millis(DAY_MS + ms);
                MetricBuilder::gauge("m", *value).id(&number.to_string()).timestamp(timestamp).build()
            };
            let metrics: Vec<Metric> = samples.iter().enumerate().map(metric).collect();
            let (mut hours, mut day) = (ByKey::<Rollups>::default(), None::<Rollup>);
            for metric in &metrics {
                hours.add_metric(metric);
                match &mut day {
                    None => day = Some(Rollup::of(metric)),
                    Some(day) => day.merge(Rollup::of(metric)),
                }
            }
            let hours = hours.into_sorted();
            let stored = hours.iter().map(|(_, hour)| Rollup::from_bytes(&hour.to_bytes()).unwrap());
            let merged = stored.reduce(|mut one, other| {
                one.merge(other);
                one
            });
            prop_assert!(hours.iter().all(|(key, _)| key.period_type == PeriodType::Hourly));
            prop_assert_eq!(merged.unwrap().to_bytes(), day.unwrap().to_bytes());
        }
    }
}
