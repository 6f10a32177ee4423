//! Percentiles of samples: exact for few samples, from an integer histogram for more.
//!
//! The definition is nearest rank. The percentile p of n sorted samples is the sample at rank `ceil(p n / 100)`,
//! computed in integers. This is SQL's `percentile_disc`: the result is always one of the samples.
//!
//! Up to [`MAX_EXACT`] samples, the values themselves are kept. More samples go into a log-linear histogram in the
//! way of HdrHistogram (G. Tene). The buckets here need no floating-point arithmetic: a bucket is the sign and the
//! top bits of an f64. There are 64 buckets in an octave, and zero has its own bucket. The reported percentile is the
//! midpoint of the rank's bucket, clamped to the least and greatest sample. The error is at most half a bucket: 1/128
//! of the value, or 0.79 %.
//!
//! Both forms depend only on the multiset of samples, so states merge in any order.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

use serde::{Deserialize, Serialize};

use super::Merge;

/// The greatest number of samples that are kept as exact values.
pub const MAX_EXACT: usize = 64;
/// Number of low bits of an f64 that do not decide the bucket. 6 of the 52 fraction bits are kept: 64 buckets an
/// octave.
const DROPPED_BITS: u32 = 52 - 6;

/// The distribution of some samples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Distribution {
    /// At most [`MAX_EXACT`] samples, in ascending order.
    Exact(Vec<f64>),
    /// More than [`MAX_EXACT`] samples: the number of samples in each bucket.
    Histogram(Buckets),
}

/// Buckets in ascending order, each with its number of samples. The type is a vector, because a whole state is read,
/// copied and written for every few new samples.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Vec<(i32, u64)>")]
pub struct Buckets(Vec<(i32, u64)>);

impl TryFrom<Vec<(i32, u64)>> for Buckets {
    type Error = &'static str;

    fn try_from(buckets: Vec<(i32, u64)>) -> Result<Self, Self::Error> {
        let is_sorted = buckets.is_sorted_by(|(one, _), (other, _)| one < other);
        if is_sorted { Ok(Self(buckets)) } else { Err("buckets must be in ascending order, each once") }
    }
}

impl Buckets {
    fn of(samples: &[f64]) -> Self {
        let mut buckets = Self::default();
        buckets.add_all(samples);
        buckets
    }

    fn add(&mut self, sample: f64) {
        let bucket = bucket(sample);
        match self.0.binary_search_by_key(&bucket, |(other, _)| *other) {
            Ok(at) => self.0[at].1 += 1,
            Err(at) => self.0.insert(at, (bucket, 1)),
        }
    }

    fn add_all(&mut self, samples: &[f64]) {
        samples.iter().for_each(|sample| self.add(*sample));
    }

    fn count(&self) -> u64 {
        self.0.iter().map(|(_, count)| count).sum()
    }

    /// Returns the bucket of the sample at a rank.
    fn at_rank(&self, rank: u64) -> Option<i32> {
        let mut seen = 0;
        let reaches = |(_, count): &&(i32, u64)| {
            seen += count;
            seen >= rank
        };
        self.0.iter().find(reaches).map(|(bucket, _)| *bucket)
    }

    fn merge(&mut self, other: &Self) {
        let mut merged = Vec::with_capacity(self.0.len() + other.0.len());
        let mut others = other.0.iter().copied().peekable();
        for (bucket, count) in self.0.drain(..) {
            merged.extend(std::iter::from_fn(|| others.next_if(|(other, _)| *other < bucket)));
            let same = others.next_if(|(other, _)| *other == bucket);
            merged.push((bucket, count + same.map_or(0, |(_, count)| count)));
        }
        merged.extend(others);
        self.0 = merged;
    }
}

impl Default for Distribution {
    fn default() -> Self {
        Self::Exact(Vec::new())
    }
}

impl Distribution {
    /// Adds a sample. The sample must be neither NaN nor -0.0.
    pub fn add(&mut self, sample: f64) {
        match self {
            Self::Exact(samples) if samples.len() < MAX_EXACT => {
                let at = samples.partition_point(|other| other.total_cmp(&sample).is_lt());
                samples.insert(at, sample);
            }
            Self::Exact(samples) => {
                *self = Self::Histogram(Buckets::of(samples));
                self.add(sample);
            }
            Self::Histogram(buckets) => buckets.add(sample),
        }
    }

    /// Number of samples.
    pub fn count(&self) -> u64 {
        match self {
            Self::Exact(samples) => samples.len() as u64,
            Self::Histogram(buckets) => buckets.count(),
        }
    }

    /// Returns a percentile of the samples; `None` if there are no samples. `percent` is 1 to 100. All samples lie
    /// between `min` and `max`.
    pub fn percentile(&self, percent: u64, min: f64, max: f64) -> Option<f64> {
        let rank = rank(percent, self.count());
        match self {
            Self::Exact(samples) => samples.get(usize::try_from(rank).ok()?.checked_sub(1)?).copied(),
            Self::Histogram(buckets) => Some(midpoint(buckets.at_rank(rank)?).clamp(min, max)),
        }
    }
}

/// Returns `ceil(percent * count / 100)`.
fn rank(percent: u64, count: u64) -> u64 {
    let product = u128::from(percent) * u128::from(count);
    u64::try_from(product.div_ceil(100)).unwrap_or(u64::MAX)
}

impl Merge for Distribution {
    fn merge(&mut self, other: Self) {
        let mine = std::mem::take(self);
        *self = match (mine, other) {
            (Self::Exact(mut samples), Self::Exact(others)) if samples.len() + others.len() <= MAX_EXACT => {
                samples.extend(others);
                samples.sort_unstable_by(f64::total_cmp);
                Self::Exact(samples)
            }
            (Self::Histogram(mut buckets), Self::Histogram(others)) => {
                buckets.merge(&others);
                Self::Histogram(buckets)
            }
            (Self::Histogram(mut buckets), Self::Exact(samples))
            | (Self::Exact(samples), Self::Histogram(mut buckets)) => {
                buckets.add_all(&samples);
                Self::Histogram(buckets)
            }
            (Self::Exact(samples), Self::Exact(others)) => {
                let mut buckets = Buckets::of(&samples);
                buckets.add_all(&others);
                Self::Histogram(buckets)
            }
        };
    }
}

/// Returns the bucket of a sample. Buckets are in the order of samples; zero has bucket 0.
fn bucket(sample: f64) -> i32 {
    let magnitude = (sample.abs().to_bits() >> DROPPED_BITS) as i32;
    if sample.is_sign_negative() { -magnitude } else { magnitude }
}

fn midpoint(bucket: i32) -> f64 {
    let edge = |bucket: u32| f64::from_bits(u64::from(bucket) << DROPPED_BITS);
    let magnitude = bucket.unsigned_abs();
    let (lower, upper) = (edge(magnitude), edge(magnitude + 1));
    // The greatest finite bucket has no finite upper edge.
    let middle = if magnitude == 0 { 0.0 } else { lower + (upper.min(f64::MAX) - lower) / 2.0 };
    if bucket < 0 { -middle } else { middle }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn distribution(samples: &[f64]) -> Distribution {
        let mut distribution = Distribution::default();
        samples.iter().for_each(|sample| distribution.add(*sample));
        distribution
    }

    #[test]
    fn few_samples_are_exact_by_nearest_rank() {
        for (samples, expected) in [
            (&[][..], [None, None, None]),
            (&[7.0], [Some(7.0); 3]),
            (&[2.0, 1.0], [Some(1.0), Some(2.0), Some(2.0)]),
            (&[3.0, 1.0, 2.0], [Some(2.0), Some(3.0), Some(3.0)]),
            (&[5.0, -1.0, 0.0, 5.0], [Some(0.0), Some(5.0), Some(5.0)]),
        ] {
            let percentiles = [50, 90, 99].map(|percent| distribution(samples).percentile(percent, -1.0, 7.0));
            assert_eq!(percentiles, expected, "{samples:?}");
        }
        let hundred: Vec<f64> = (1..=64).map(f64::from).collect();
        assert_eq!(distribution(&hundred).percentile(50, 1.0, 64.0), Some(32.0));
        assert_eq!(distribution(&hundred).percentile(99, 1.0, 64.0), Some(64.0));
    }

    #[test]
    fn ranks_do_not_overflow() {
        assert_eq!(rank(99, u64::MAX), u64::MAX / 100 * 99 + (u64::MAX % 100 * 99).div_ceil(100));
    }

    #[test]
    fn buckets_in_disorder_are_no_state() {
        for buckets in [vec![(2, 1), (1, 1)], vec![(1, 1), (1, 1)]] {
            let stored = postcard::to_stdvec(&buckets).unwrap();
            assert!(postcard::from_bytes::<Buckets>(&stored).is_err());
        }
    }

    fn samples() -> impl Strategy<Value = Vec<f64>> {
        let any_size = any::<u64>().prop_map(f64::from_bits).prop_filter("normal", |sample| sample.is_normal());
        let near = (-1_000..1_000_i32).prop_map(|sample| f64::from(sample) / 4.0);
        prop::collection::vec(prop_oneof![1 => any_size, 4 => near], 1..200)
    }

    proptest! {

        #![proptest_config(crate::property_config())]

        #[test]
        fn percentiles_are_within_the_bound(samples in samples(), percent in 1..=100_u64) {
            let mut sorted = samples.clone();
            sorted.sort_unstable_by(f64::total_cmp);
            let (min, max) = (sorted[0], sorted[sorted.len() - 1]);
            let at = usize::try_from(rank(percent, sorted.len() as u64)).unwrap() - 1;
            let percentile = distribution(&samples).percentile(percent, min, max).unwrap();
            if samples.len() <= MAX_EXACT {
                prop_assert_eq!(percentile, sorted[at]);
            } else {
                let error = (percentile - sorted[at]).abs() / sorted[at].abs().max(f64::MIN_POSITIVE);
                prop_assert!(error <= 1.0 / 128.0, "{} for {}: {}", percentile, sorted[at], error);
            }
        }

        /// A map of buckets and [`Buckets`] have the same stored form.
        #[test]
        fn buckets_are_stored_as_a_map(buckets in prop::collection::btree_map(any::<i32>(), any::<u64>(), 0..100)) {
            let stored = postcard::to_stdvec(&buckets).unwrap();
            let read: Buckets = postcard::from_bytes(&stored).unwrap();
            prop_assert_eq!(postcard::to_stdvec(&read).unwrap(), stored);
            prop_assert_eq!(read.0, buckets.into_iter().collect::<Vec<_>>());
        }

        #[test]
        fn partitions_merge_to_the_whole(samples in samples(), cut in any::<prop::sample::Index>()) {
            let (one, other) = samples.split_at(cut.index(samples.len() + 1));
            let mut merged = distribution(other);
            merged.merge(distribution(one));
            prop_assert_eq!(merged, distribution(&samples));
        }
    }
}
