//! Sum, product, quotient, square root.

use super::{Class, Environment, Number, exception};
use crate::float::Rounding;

/// Shifts right; bits that fall out are or-ed into bit 0.
fn shift_right_sticky(value: u128, count: u32) -> u128 {
    match count {
        0 => value,
        1..128 => value >> count | u128::from(value << (128 - count) != 0),
        _ => u128::from(value != 0),
    }
}

impl Environment {
    /// The sum.
    pub fn add(&mut self, a: Number, b: Number) -> Number {
        self.rounded_up = false;
        if let Some(nan) = self.nan(a, b) {
            return nan;
        }
        match (a.class, b.class) {
            (Class::Infinity, Class::Infinity) if a.negative != b.negative => return self.invalid(),
            (Class::Infinity, _) | (_, Class::Infinity) => {
                self.note_denormals(&[a, b]);
                return Number::infinity(if a.class == Class::Infinity { a } else { b }.negative);
            }
            _ => self.note_denormals(&[a, b]),
        }
        match (a.class, b.class) {
            (Class::Zero, Class::Zero) if a.negative == b.negative => return a,
            (Class::Zero, Class::Zero) => return Number::zero(self.rounding == Rounding::Down),
            (Class::Zero, _) => return self.round_number(b),
            (_, Class::Zero) => return self.round_number(a),
            _ => {}
        }
        let (large, small) = if (a.exponent, a.significand) >= (b.exponent, b.significand) { (a, b) } else { (b, a) };
        // One bit is left for the carry.
        let large_significand = u128::from(large.significand) << 63;
        let distance = large.exponent.abs_diff(small.exponent);
        let small_significand = shift_right_sticky(u128::from(small.significand) << 63, distance);
        let sum = if a.negative == b.negative {
            large_significand + small_significand
        } else {
            large_significand - small_significand
        };
        if sum == 0 {
            return Number::zero(self.rounding == Rounding::Down);
        }
        let shift = sum.leading_zeros();
        self.round(large.negative, large.exponent + 1 - shift as i32, sum << shift)
    }

    /// The difference.
    pub fn sub(&mut self, a: Number, b: Number) -> Number {
        self.add(a, if b.is_nan() { b } else { b.negated() })
    }

    /// The product.
    pub fn mul(&mut self, a: Number, b: Number) -> Number {
        self.rounded_up = false;
        if let Some(nan) = self.nan(a, b) {
            return nan;
        }
        let negative = a.negative != b.negative;
        match (a.class, b.class) {
            (Class::Infinity, Class::Zero) | (Class::Zero, Class::Infinity) => return self.invalid(),
            _ => self.note_denormals(&[a, b]),
        }
        match (a.class, b.class) {
            (Class::Infinity, _) | (_, Class::Infinity) => return Number::infinity(negative),
            (Class::Zero, _) | (_, Class::Zero) => return Number::zero(negative),
            _ => {}
        }
        let product = u128::from(a.significand) * u128::from(b.significand);
        let shift = product.leading_zeros();
        self.round(negative, a.exponent + b.exponent + 1 - shift as i32, product << shift)
    }

    /// The product of `a` and `b`, and the sum of that and `c`, rounded once. Of NaNs the result is the first.
    pub fn multiply_add(&mut self, a: Number, b: Number, c: Number) -> Number {
        self.rounded_up = false;
        let infinite = |number: Number| number.class == Class::Infinity;
        let zero = |number: Number| number.class == Class::Zero;
        if a.is_nan() || b.is_nan() || c.is_nan() {
            if [a, b, c].iter().any(|number| number.class == Class::Signalling) {
                self.raise(exception::INVALID);
            }
            let first = [a, b, c].into_iter().find(Number::is_nan);
            return first.unwrap_or(c).quieted();
        }
        let negative = a.negative != b.negative;
        let infinite_product = infinite(a) || infinite(b);
        if infinite_product && (zero(a) || zero(b)) || infinite_product && infinite(c) && negative != c.negative {
            return self.invalid();
        }
        self.note_denormals(&[a, b, c]);
        if infinite_product {
            return Number::infinity(negative);
        }
        if infinite(c) {
            return c;
        }
        match (zero(a) || zero(b), zero(c)) {
            (true, true) if negative == c.negative => return c,
            (true, true) => return Number::zero(self.rounding == Rounding::Down),
            (true, false) => return self.round_number(c),
            _ => {}
        }
        // With one bit left for the carry. Of significands of up to 53 bits nothing is lost.
        let product = u128::from(a.significand) * u128::from(b.significand);
        let shift = product.leading_zeros();
        let product = (product << shift) >> 1;
        let exponent = a.exponent + b.exponent + 1 - shift as i32;
        if zero(c) {
            return self.round(negative, exponent, product << 1);
        }
        let addend = u128::from(c.significand) << 63;
        let ((large, large_exponent, large_negative), (small, small_exponent)) =
            if (exponent, product) >= (c.exponent, addend) {
                ((product, exponent, negative), (addend, c.exponent))
            } else {
                ((addend, c.exponent, c.negative), (product, exponent))
            };
        let small = shift_right_sticky(small, large_exponent.abs_diff(small_exponent));
        let sum = if negative == c.negative { large + small } else { large - small };
        if sum == 0 {
            return Number::zero(self.rounding == Rounding::Down);
        }
        let shift = sum.leading_zeros();
        self.round(large_negative, large_exponent + 1 - shift as i32, sum << shift)
    }

    /// The quotient.
    pub fn div(&mut self, a: Number, b: Number) -> Number {
        self.rounded_up = false;
        if let Some(nan) = self.nan(a, b) {
            return nan;
        }
        let negative = a.negative != b.negative;
        match (a.class, b.class) {
            (Class::Infinity, Class::Infinity) | (Class::Zero, Class::Zero) => return self.invalid(),
            (Class::Finite, Class::Zero) => {
                self.raise(exception::ZERO_DIVIDE);
                return Number::infinity(negative);
            }
            _ => self.note_denormals(&[a, b]),
        }
        match (a.class, b.class) {
            (Class::Infinity, _) => return Number::infinity(negative),
            (_, Class::Infinity) | (Class::Zero, _) => return Number::zero(negative),
            _ => {}
        }
        let (dividend, exponent) = if a.significand >= b.significand {
            (u128::from(a.significand) << 63, a.exponent - b.exponent)
        } else {
            (u128::from(a.significand) << 64, a.exponent - b.exponent - 1)
        };
        let divisor = u128::from(b.significand);
        let (high, remainder) = (dividend / divisor, dividend % divisor);
        let (low, remainder) = ((remainder << 64) / divisor, (remainder << 64) % divisor);
        self.round(negative, exponent, high << 64 | low | u128::from(remainder != 0))
    }

    /// The square root.
    pub fn square_root(&mut self, a: Number) -> Number {
        self.rounded_up = false;
        if let Some(nan) = self.nan(a, a) {
            return nan;
        }
        match a.class {
            Class::Zero => return a,
            _ if a.negative => return self.invalid(),
            Class::Infinity => return a,
            _ => self.note_denormals(&[a]),
        }
        let odd = a.exponent & 1;
        let radicand = u128::from(a.significand) << (63 + odd);
        let root = radicand.isqrt();
        let remainder = radicand - root * root;
        // (root + 1/2)^2 is root + 1/4 more than root^2.
        let next_bit = u128::from(remainder > root) << 63;
        self.round(false, (a.exponent - odd) / 2, root << 64 | next_bit | u128::from(remainder != 0))
    }

    /// Rounds a number that is neither NaN nor unsupported to the environment's format. Does not look whether it is denormal.
    pub(in crate::x86_64) fn round_number(&mut self, a: Number) -> Number {
        self.rounded_up = false;
        match a.class {
            Class::Finite => self.round(a.negative, a.exponent, u128::from(a.significand) << 64),
            _ => a,
        }
    }
}
