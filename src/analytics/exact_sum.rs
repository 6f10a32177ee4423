//! Exact sums of f64 values.
//!
//! Every finite f64 is a whole multiple of 2^-1074, so a sum of f64 values is a whole number of such units. The
//! number is kept as digits of 32 bits in 64-bit places. The sum needs no rounding, and does not depend on the order
//! of additions.
//!
//! The idea is Neal's small superaccumulator (R. Neal, Fast exact summation using small and large superaccumulators,
//! arXiv:1505.05571). [`ExactSum`] keeps only the digits that its values touch, usually three to five. Each value has
//! one canonical byte form.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

use super::Merge;

const DIGIT_BITS: usize = 32;
const DIGIT_MASK: i64 = 0xffff_ffff;
/// One addition adds less than 2^32 to a digit. Carries must move up after this many additions, so a digit stays
/// below 2^62.
const MAX_ADDITIONS: u32 = 1 << 29;
const MANTISSA_BITS: usize = 53;
const IMPLICIT_BIT: u64 = 1 << 52;
/// The exponent field of infinities and NaN. The field of a normal number is 1 more than the place of its least bit.
const INFINITE_EXPONENT: usize = 0x7ff;
/// Enough digits for every possible sum: 2^63 values below 2^1024, in units of 2^-1074.
const MAX_DIGITS: usize = (1074 + 1024 + 64) / DIGIT_BITS + 1;

/// An exact sum of f64 values.
#[derive(Debug, Clone, Default)]
pub struct ExactSum {
    /// Place of the first digit: `digits[i]` counts 2^(32 (first + i)) units of 2^-1074.
    first: usize,
    /// Least digit first. A digit may have any sign and size until carries move up.
    digits: Vec<i64>,
    /// Additions since carries last moved up. The digits left by the carries count as one addition.
    additions: u32,
}

impl ExactSum {
    /// Adds a finite value. Ignores NaN and infinities, which validation rejects.
    pub fn add(&mut self, value: f64) {
        self.accumulate(value, 1);
    }

    /// Subtracts a value. This restores the sum from before the value was added.
    pub fn subtract(&mut self, value: f64) {
        self.accumulate(value, -1);
    }

    fn accumulate(&mut self, value: f64, sign: i64) {
        let bits = value.to_bits();
        let exponent = (bits >> (MANTISSA_BITS - 1)) as usize & INFINITE_EXPONENT;
        let fraction = bits & (IMPLICIT_BIT - 1);
        if exponent == INFINITE_EXPONENT || (exponent == 0 && fraction == 0) {
            return;
        }
        let sign = if value.is_sign_negative() { -sign } else { sign };
        // A subnormal number has no implicit bit. Its exponent is that of the least normal number.
        let mantissa = if exponent == 0 { fraction } else { fraction | IMPLICIT_BIT };
        let place = exponent.max(1) - 1;
        let shifted = u128::from(mantissa) << (place % DIGIT_BITS);
        let first = place / DIGIT_BITS;
        self.cover(first, first + 3);
        for (at, digit) in self.digits[first - self.first..][..3].iter_mut().enumerate() {
            *digit += sign * ((shifted >> (DIGIT_BITS * at)) as i64 & DIGIT_MASK);
        }
        self.additions += 1;
        if self.additions >= MAX_ADDITIONS {
            self.carry();
        }
    }

    /// Makes room for the digits at the places `first..end`.
    fn cover(&mut self, first: usize, end: usize) {
        if self.digits.is_empty() {
            self.first = first;
        }
        if first < self.first {
            self.digits.splice(0..0, std::iter::repeat_n(0, self.first - first));
            self.first = first;
        }
        if end > self.first + self.digits.len() {
            self.digits.resize(end - self.first, 0);
        }
    }

    /// Moves carries up. After that, every digit except the last is in 0..2^32; the last digit holds the sign.
    fn carry(&mut self) {
        let mut carry = 0;
        for digit in &mut self.digits {
            let sum = *digit + carry;
            *digit = sum & DIGIT_MASK;
            carry = sum >> DIGIT_BITS;
        }
        match self.digits.last_mut() {
            // Restores a last digit of -1. A pushed carry would add a digit at every call.
            Some(last) if carry == -1 && *last == DIGIT_MASK => *last = -1,
            _ if carry != 0 => self.digits.push(carry),
            _ => {}
        }
        self.additions = 1;
    }

    /// Returns whether the sum is negative, the place of the first digit, and the digits of the magnitude. The first
    /// and the last digit are not 0.
    fn magnitude(&self) -> (bool, usize, Vec<u32>) {
        let mut sum = self.clone();
        sum.carry();
        let is_negative = sum.digits.last().is_some_and(|last| *last < 0);
        if is_negative {
            sum.digits.iter_mut().for_each(|digit| *digit = -*digit);
            sum.carry();
        }
        let mut digits: Vec<u32> = sum.digits.iter().map(|digit| *digit as u32).collect();
        while digits.last() == Some(&0) {
            digits.pop();
        }
        let zeros = digits.iter().take_while(|digit| **digit == 0).count();
        digits.drain(..zeros);
        (is_negative, sum.first + zeros, digits)
    }

    /// Returns the sum, rounded once to the nearest f64, ties to even. A sum beyond the greatest finite f64 becomes
    /// that f64, with its sign. The result equals Python's `math.fsum` unless `math.fsum` overflows.
    pub fn to_f64(&self) -> f64 {
        let (is_negative, first, digits) = self.magnitude();
        let Some(last) = digits.last() else { return 0.0 };
        let bit_count = digits.len() * DIGIT_BITS - last.leading_zeros() as usize;
        // `bit_count` is the length of the digits alone. `place + bit_count` is the length of the sum.
        let place = first * DIGIT_BITS;
        let dropped = (place + bit_count).saturating_sub(MANTISSA_BITS).saturating_sub(place);
        let kept = bits_from(&digits, dropped);
        let half = dropped > 0 && bits_from(&digits, dropped - 1) & 1 == 1;
        let has_more = half && (0..dropped - 1).any(|bit| digits[bit / DIGIT_BITS] >> (bit % DIGIT_BITS) & 1 == 1);
        let mut mantissa = kept + u64::from(half && (has_more || kept & 1 == 1));
        let mut place = place + dropped;
        // Shifts a short mantissa up until it is full or at the least place.
        if mantissa != 0 && mantissa < IMPLICIT_BIT {
            let shift = place.min(mantissa.leading_zeros() as usize - (64 - MANTISSA_BITS));
            mantissa <<= shift;
            place -= shift;
        }
        if mantissa == IMPLICIT_BIT << 1 {
            mantissa >>= 1;
            place += 1;
        }
        // A mantissa without the implicit bit is subnormal. Its `place` is 0, so the exponent below becomes 0.
        let exponent = place as u64 + u64::from(mantissa >= IMPLICIT_BIT);
        let magnitude = if exponent >= INFINITE_EXPONENT as u64 {
            f64::MAX
        } else {
            f64::from_bits((exponent << (MANTISSA_BITS - 1)) | (mantissa & (IMPLICIT_BIT - 1)))
        };
        if is_negative { -magnitude } else { magnitude }
    }

    /// Returns the sum divided by `count`, even if the sum is beyond the greatest finite f64 and the mean is not.
    pub fn mean(&self, count: u64) -> f64 {
        let sum = self.to_f64();
        if sum.abs() < f64::MAX {
            return sum / count as f64;
        }
        // Divides the sum by 2^64: digits move down two places, and the digits of the two lowest places are dropped.
        let mut scaled = self.clone();
        scaled.carry();
        let dropped = 2_usize.saturating_sub(scaled.first).min(scaled.digits.len());
        scaled.digits.drain(..dropped);
        scaled.first = scaled.first.saturating_sub(2);
        (scaled.to_f64() / count as f64 * 2.0_f64.powi(64)).clamp(-f64::MAX, f64::MAX)
    }

    /// Returns the canonical bytes: equal sums have equal bytes. Zero has no bytes. Any other sum is M * 2^(E - 1074)
    /// with M odd. Two bytes hold 2 E, plus 1 if the sum is negative. Then come the bytes of the magnitude of M. Both
    /// numbers are little-endian.
    pub fn to_bytes(&self) -> Vec<u8> {
        let (is_negative, first, digits) = self.magnitude();
        let Some(lowest) = digits.first() else { return Vec::new() };
        let zero_bits = lowest.trailing_zeros() as usize;
        let exponent = first * DIGIT_BITS + zero_bits;
        let head = (exponent << 1 | usize::from(is_negative)) as u16;
        let mut bytes = head.to_le_bytes().to_vec();
        let bit_count = digits.len() * DIGIT_BITS;
        let magnitude = (zero_bits..bit_count).step_by(8).map(|bit| (bits_from(&digits, bit) & 0xff) as u8);
        bytes.extend(magnitude);
        while bytes.last() == Some(&0) {
            bytes.pop();
        }
        bytes
    }

    /// Reads canonical bytes. Returns `None` if the bytes are not canonical.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.is_empty() {
            return Some(Self::default());
        }
        let (head, magnitude) = bytes.split_first_chunk::<2>()?;
        let head = usize::from(u16::from_le_bytes(*head));
        let (exponent, sign) = (head >> 1, if head & 1 == 1 { -1 } else { 1 });
        let is_canonical = magnitude.first().is_some_and(|first| first & 1 == 1) && magnitude.last() != Some(&0);
        let (first, shift) = (exponent / DIGIT_BITS, exponent % DIGIT_BITS);
        let digit_count = (shift + magnitude.len() * 8).div_ceil(DIGIT_BITS);
        if !is_canonical || first + digit_count > MAX_DIGITS {
            return None;
        }
        let mut digits = vec![0; digit_count];
        for (at, byte) in magnitude.iter().enumerate() {
            let bit = shift + at * 8;
            // A byte may straddle two digits.
            let spread = u64::from(*byte) << (bit % DIGIT_BITS);
            digits[bit / DIGIT_BITS] += sign * (spread as i64 & DIGIT_MASK);
            if spread >> DIGIT_BITS != 0 {
                digits[bit / DIGIT_BITS + 1] += sign * (spread >> DIGIT_BITS) as i64;
            }
        }
        Some(Self { first, digits, additions: 1 })
    }
}

impl Merge for ExactSum {
    fn merge(&mut self, other: Self) {
        if other.digits.is_empty() {
            return;
        }
        self.cover(other.first, other.first + other.digits.len());
        for (digit, theirs) in self.digits[other.first - self.first..].iter_mut().zip(&other.digits) {
            *digit += theirs;
        }
        self.additions += other.additions;
        if self.additions >= MAX_ADDITIONS {
            self.carry();
        }
    }
}

impl PartialEq for ExactSum {
    fn eq(&self, other: &Self) -> bool {
        self.magnitude() == other.magnitude()
    }
}

/// Returns 64 bits of the digits, from bit `bit` upwards. The digits are least first.
fn bits_from(digits: &[u32], bit: usize) -> u64 {
    let digit = |at: usize| u128::from(digits.get(at).copied().unwrap_or_default());
    let at = bit / DIGIT_BITS;
    let window = digit(at) | digit(at + 1) << DIGIT_BITS | digit(at + 2) << (2 * DIGIT_BITS);
    (window >> (bit % DIGIT_BITS)) as u64
}

/// The reference sums, for the tests here and for the tests of the tables.
#[cfg(test)]
#[path = "../../tests/support/plain_sum.rs"]
mod plain_sum;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::plain_sum::plain_sum;
    use super::*;

    fn sum(values: &[f64]) -> ExactSum {
        let mut sum = ExactSum::default();
        values.iter().for_each(|value| sum.add(*value));
        sum
    }

    #[test]
    fn sums_are_rounded_once() {
        for (values, expected) in [
            (&[][..], 0.0),
            (&[0.1; 10], 1.0),
            (&[1e300, 1e-300, -1e300], 1e-300),
            (&[1e16, 1.0, -1e16], 1.0),
            // Halfway between two floats, the even one wins, unless lower bits decide for the other.
            (&[9_007_199_254_740_992.0, 1.0], 9_007_199_254_740_992.0),
            (&[9_007_199_254_740_994.0, 1.0], 9_007_199_254_740_996.0),
            (&[9_007_199_254_740_992.0, 1.0, 1e-300], 9_007_199_254_740_994.0),
            (&[-9_007_199_254_740_992.0, -1.0, -1e-300], -9_007_199_254_740_994.0),
            (&[18_014_398_509_481_983.0, 0.5], 18_014_398_509_481_984.0),
            (&[f64::MIN_POSITIVE, -5e-324], 2.225_073_858_507_201e-308),
            (&[f64::MAX, f64::MAX], f64::MAX),
            (&[-f64::MAX, -1e300], -f64::MAX),
            (&[f64::MAX, f64::MAX, -f64::MAX], f64::MAX),
        ] {
            assert_eq!(sum(values).to_f64().to_bits(), expected.to_bits(), "{values:?}");
        }
    }

    #[test]
    fn a_mean_is_there_where_the_sum_is_too_great() {
        let mixed = vec![f64::MAX, f64::MAX, 5e-324, 0.0];
        for (values, expected) in
            [(vec![1.7e308; 3], 1.7e308), (vec![-f64::MAX; 999], -f64::MAX), (mixed, f64::MAX / 2.0)]
        {
            let mean = sum(&values).mean(values.len() as u64);
            assert!((mean / expected - 1.0).abs() < 1e-15, "{mean} {expected}");
        }
        assert_eq!(sum(&[0.1, 0.2, 0.3]).mean(3), 0.6 / 3.0);
    }

    #[test]
    fn what_is_no_sum_is_refused() {
        for bytes in [&[1][..], &[0, 0], &[0, 0, 2], &[0, 0, 1, 0], &[255, 255, 1], &[0; 400]] {
            assert_eq!(ExactSum::from_bytes(bytes), None, "{bytes:?}");
        }
    }

    /// Values of every size, some of them equal or opposite.
    fn values() -> impl Strategy<Value = Vec<f64>> {
        let any_finite = any::<u64>().prop_map(f64::from_bits).prop_filter("finite", |value| value.is_finite());
        let near = (-1_000_000..1_000_000_i64).prop_map(|value| value as f64 / 100.0);
        let edge = prop::sample::select(vec![1e300, -1e300, 1e-300, 5e-324, f64::MAX, -f64::MAX, 1.0, -1.0, 0.0, -0.0]);
        prop::collection::vec(prop_oneof![any_finite, near, edge], 0..80)
    }

    proptest! {

        #![proptest_config(crate::property_config())]

        #[test]
        fn equals_the_plain_sum(values in values()) {
            prop_assert_eq!(sum(&values).to_f64().to_bits(), plain_sum(&values).to_bits());
        }

        /// Order, partition and the stored form do not change a sum. A subtracted value leaves no trace.
        #[test]
        fn order_partition_and_history_cannot_be_seen(values in values(), others in values(), cut in any::<prop::sample::Index>()) {
            let whole = sum(&values);
            let (one, rest) = values.split_at(cut.index(values.len() + 1));
            let mut merged = ExactSum::from_bytes(&sum(rest).to_bytes()).unwrap();
            merged.merge(ExactSum::from_bytes(&sum(one).to_bytes()).unwrap());
            others.iter().for_each(|value| merged.add(*value));
            merged.carry();
            others.iter().rev().for_each(|value| merged.subtract(*value));
            prop_assert_eq!(merged.to_bytes(), whole.to_bytes());
            prop_assert_eq!(merged.to_f64().to_bits(), whole.to_f64().to_bits());
            let reversed: Vec<f64> = values.iter().rev().copied().collect();
            prop_assert_eq!(sum(&reversed).to_bytes(), whole.to_bytes());
        }
    }
}
