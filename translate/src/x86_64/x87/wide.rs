//! Arithmetic with 128-bit significands, from which the transcendental functions are made. Each operation loses at most the
//! last few bits; results keep some 120, of which the x87 shows 64.

use crate::x86_64::softfloat::{Class, Number};

/// significand * 2^(exponent - 127). Bit 127 of the significand is set, unless it is zero.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wide {
    pub(super) negative: bool,
    pub(super) exponent: i32,
    pub(super) significand: u128,
}

impl Wide {
    pub(super) const ZERO: Wide = Wide { negative: false, exponent: 0, significand: 0 };

    /// A positive number by its exponent and significand, of which bit 127 is set.
    pub(super) const fn new(exponent: i32, significand: u128) -> Wide {
        Wide { negative: false, exponent, significand }
    }

    /// integer * 2^exponent.
    pub(super) fn scaled(integer: u128, exponent: i32) -> Wide {
        if integer == 0 {
            return Wide::ZERO;
        }
        let shift = integer.leading_zeros();
        Wide::new(exponent + 127 - shift as i32, integer << shift)
    }

    /// A finite number.
    pub(super) fn from_number(number: Number) -> Wide {
        match number.class {
            Class::Finite => Wide {
                negative: number.negative,
                exponent: number.exponent,
                significand: u128::from(number.significand) << 64,
            },
            _ => Wide::ZERO,
        }
    }

    pub(super) fn negated(self) -> Wide {
        Wide { negative: !self.negative, ..self }
    }

    pub(super) fn magnitude(self) -> Wide {
        Wide { negative: false, ..self }
    }

    /// self * 2^power.
    pub(super) fn times_power(self, power: i32) -> Wide {
        Wide { exponent: self.exponent + power, ..self }
    }

    /// True if adding `self` to `sum` makes no difference.
    fn is_negligible_to(self, sum: Wide) -> bool {
        self.significand == 0 || sum.significand != 0 && sum.exponent - self.exponent > 127
    }

    pub(super) fn add(self, other: Wide) -> Wide {
        if self.significand == 0 {
            return other;
        }
        if other.significand == 0 {
            return self;
        }
        let (large, small) = if (self.exponent, self.significand) >= (other.exponent, other.significand) {
            (self, other)
        } else {
            (other, self)
        };
        let distance = large.exponent.abs_diff(small.exponent);
        // What is too small to be seen still takes away its share, so that directed rounding goes the right way.
        let addend = small.significand.checked_shr(distance).unwrap_or(0);
        let (exponent, significand) = if large.negative != small.negative {
            let difference = large.significand - addend.max(1);
            if difference == 0 {
                return Wide::ZERO;
            }
            let shift = difference.leading_zeros();
            (large.exponent - shift as i32, difference << shift)
        } else {
            match large.significand.overflowing_add(addend) {
                (sum, false) => (large.exponent, sum),
                (sum, true) => (large.exponent + 1, sum >> 1 | 1 << 127),
            }
        };
        Wide { negative: large.negative, exponent, significand }
    }

    pub(super) fn sub(self, other: Wide) -> Wide {
        self.add(other.negated())
    }

    pub(super) fn mul(self, other: Wide) -> Wide {
        if self.significand == 0 || other.significand == 0 {
            return Wide::ZERO;
        }
        let low = u128::from(u64::MAX);
        let (a, b) = (self.significand, other.significand);
        let (a_high, a_low, b_high, b_low) = (a >> 64, a & low, b >> 64, b & low);
        let (middle, carry) = (a_high * b_low).overflowing_add(a_low * b_high);
        let (middle_again, carry_again) = middle.overflowing_add((a_low * b_low) >> 64);
        let carries = u128::from(carry) + u128::from(carry_again);
        let product = a_high * b_high + (middle_again >> 64) + (carries << 64);
        let shift = product.leading_zeros();
        Wide {
            negative: self.negative != other.negative,
            exponent: self.exponent + other.exponent + 1 - shift as i32,
            significand: product << shift,
        }
    }

    /// The quotient; zero if the divisor is zero.
    pub(super) fn div(self, other: Wide) -> Wide {
        if self.significand == 0 || other.significand == 0 {
            return Wide::ZERO;
        }
        let divisor = other.significand;
        let less = self.significand < divisor;
        let mut remainder = if less { self.significand } else { self.significand - divisor };
        let mut quotient = u128::from(!less);
        for _ in 0..127 + u32::from(less) {
            let overflows = remainder >> 127 != 0;
            remainder <<= 1;
            quotient <<= 1;
            if overflows || remainder >= divisor {
                remainder = remainder.wrapping_sub(divisor);
                quotient |= 1;
            }
        }
        Wide {
            negative: self.negative != other.negative,
            exponent: self.exponent - other.exponent - i32::from(less),
            significand: quotient,
        }
    }

    /// The quotient by a small number that is not zero.
    fn div_small(self, divisor: u32) -> Wide {
        let quotient = self.significand / u128::from(divisor.max(1));
        Wide { negative: self.negative, ..Wide::scaled(quotient, self.exponent - 127) }
    }

    /// The sum of `first`, `first` * `ratio` * c(1), `first` * `ratio`^2 * c(1) * c(2) and so on, where c(n) is
    /// 1 / `divisor(n)`; the series must converge.
    pub(super) fn factorial_series(first: Wide, ratio: Wide, divisor: impl Fn(u32) -> u32) -> Wide {
        let (mut sum, mut term) = (first, first);
        for n in 1..200 {
            term = term.mul(ratio).div_small(divisor(n));
            if term.is_negligible_to(sum) {
                return sum.add(term);
            }
            sum = sum.add(term);
        }
        sum
    }

    /// The sum of `first` * `ratio`^n / (2n + 1), for n from 0; `ratio` must be below 1/2.
    pub(super) fn odd_series(first: Wide, ratio: Wide) -> Wide {
        let (mut sum, mut power) = (first, first);
        for n in 1..200 {
            power = power.mul(ratio);
            let term = power.div_small(2 * n + 1);
            if term.is_negligible_to(sum) {
                return sum.add(term);
            }
            sum = sum.add(term);
        }
        sum
    }
}
