use num_bigint::{BigInt, BigUint, Sign};

/// Returns the sum, computed as a whole number of units of 2^-1074 and rounded at the end. It is slow, plain, and
/// independent of the production code.
pub fn plain_sum(values: &[f64]) -> f64 {
    let units = |value: &f64| {
        let bits = value.to_bits();
        let (exponent, fraction) = (bits >> 52 & 0x7ff, bits & ((1 << 52) - 1));
        let mantissa = if exponent == 0 { fraction } else { fraction | 1 << 52 };
        let units = BigInt::from(mantissa) << (exponent.max(1) - 1);
        if value.is_sign_negative() { -units } else { units }
    };
    let sum: BigInt = values.iter().map(units).sum();
    let magnitude = sum.magnitude();
    let dropped = magnitude.bits().saturating_sub(53);
    let kept = u64::try_from(magnitude >> dropped).unwrap();
    let rest = magnitude - (BigUint::from(kept) << dropped);
    let half = BigUint::from(1_u8) << dropped.saturating_sub(1);
    let rounds_up = dropped > 0 && (rest > half || rest == half && kept % 2 == 1);
    // The bits of a float plus one are the bits of the next float. So rounding up adds one to the bits. The top bit
    // of a 53-bit mantissa is implied and left out.
    let bits = if dropped == 0 { kept } else { ((dropped + 1) << 52) + (kept - (1 << 52)) } + u64::from(rounds_up);
    let float = f64::from_bits(bits.min(f64::MAX.to_bits()));
    if sum.sign() == Sign::Minus { -float } else { float }
}
