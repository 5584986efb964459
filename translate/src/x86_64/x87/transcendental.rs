//! F2XM1, FYL2X, FYL2XP1, FSIN, FCOS, FSINCOS, FPTAN, FPATAN.
//!
//! Results are right to about 2^-118 before they are rounded as the control word says. Trigonometric functions reduce their
//! arguments with the processor's own pi, of 66 bits (SDM volume 1, 8.3.8).

use std::sync::LazyLock;

use super::status::*;
use super::wide::Wide;
use super::{INDEFINITE, X87};
use crate::x86_64::softfloat::exception::{INEXACT, INVALID, ZERO_DIVIDE};
use crate::x86_64::softfloat::{Class, Environment, Float80, Number};

const ONE: Wide = Wide::new(0, 1 << 127);
const ONE_NUMBER: Number = Number::finite(false, 0, 1 << 63);
const PI: Wide = Wide::new(1, 0xc90f_daa2_2168_c234_c4c6_628b_80dc_1cd1);
const LOG_OF_2: Wide = Wide::new(-1, 0xb172_17f7_d1cf_79ab_c9e3_b398_03f2_f6af);
const LOG2_OF_E: Wide = Wide::new(0, 0xb8aa_3b29_5c17_f0bb_be87_fed0_691d_3e89);

/// Half of the processor's pi, in units of 2^-65.
const HALF_PI: u128 = 0x3_243f_6a88_85a3_08d3;

/// atan(n / 8) for n from 0 to 8.
static ARCTANGENTS: LazyLock<[Wide; 9]> = LazyLock::new(|| {
    let mut table = [Wide::ZERO; 9];
    for n in 1..9 {
        // atan(n/8) - atan((n-1)/8) = atan(8 / (64 + n (n - 1)))
        let step = Wide::scaled(8, 0).div(Wide::scaled(64 + n * (n - 1), 0));
        table[n as usize] = table[n as usize - 1].add(arctangent_series(step));
    }
    table
});

fn arctangent_series(a: Wide) -> Wide {
    Wide::odd_series(a, a.mul(a).negated())
}

/// atan(a) for a from 0 to 1.
fn arctangent(a: Wide) -> Wide {
    // The nearest eighth.
    let nearest = match a.times_power(4).exponent {
        exponent @ 0..5 => (((a.significand >> (127 - exponent)) + 1) >> 1) as usize,
        _ => 0,
    };
    if nearest == 0 {
        return arctangent_series(a);
    }
    let centre = Wide::scaled(nearest as u128, -3);
    let rest = a.sub(centre).div(ONE.add(a.mul(centre)));
    ARCTANGENTS[nearest.min(8)].add(arctangent_series(rest))
}

/// log2((1 + s) / (1 - s)), for s near zero.
fn logarithm_series(s: Wide) -> Wide {
    Wide::odd_series(s, s.mul(s)).mul(LOG2_OF_E).times_power(1)
}

/// log2(a), for a positive number.
fn logarithm(a: Wide) -> Wide {
    // The significand is brought between the square roots of 1/2 and 2.
    let above = a.significand > 0xb504_f333_f9de_6484_597d_89b3_754a_be9f;
    let mantissa = Wide::new(if above { -1 } else { 0 }, a.significand);
    let power = a.exponent + i32::from(above);
    let whole = Wide { negative: power < 0, ..Wide::scaled(power.unsigned_abs().into(), 0) };
    whole.add(logarithm_series(mantissa.sub(ONE).div(mantissa.add(ONE))))
}

/// 2^a - 1, for a between -1 and 1.
fn exponential(a: Wide) -> Wide {
    const HALVINGS: i32 = 4;
    let y = a.mul(LOG_OF_2).times_power(-HALVINGS);
    let series = Wide::factorial_series(y, y, |n| n + 1);
    // (1 + e)^2 - 1 = e (e + 2)
    (0..HALVINGS).fold(series, |e, _| e.mul(e.add(Wide::scaled(2, 0))))
}

/// Sine and cosine.
fn sine_and_cosine(a: Number) -> (Wide, Wide) {
    let (mut angle, mut quadrant) = (Wide::from_number(a).magnitude(), 0);
    if a.exponent >= -1 {
        let mut rest = u128::from(a.significand);
        for _ in 0..a.exponent + 2 {
            rest <<= 1;
            quadrant <<= 1;
            if rest >= HALF_PI {
                rest -= HALF_PI;
                quadrant |= 1;
            }
        }
        if rest > HALF_PI / 2 {
            quadrant += 1;
            angle = Wide::scaled(HALF_PI - rest, -65).negated();
        } else {
            angle = Wide::scaled(rest, -65);
        }
    }
    let square = angle.mul(angle).negated();
    let sine = Wide::factorial_series(angle, square, |n| 2 * n * (2 * n + 1));
    let cosine = Wide::factorial_series(ONE, square, |n| 2 * n * (2 * n - 1));
    let (sine, cosine) = match quadrant & 3_u64 {
        0 => (sine, cosine),
        1 => (cosine, sine.negated()),
        2 => (sine.negated(), cosine.negated()),
        _ => (cosine.negated(), sine),
    };
    (if a.negative { sine.negated() } else { sine }, cosine)
}

/// Rounds a result that is never exact.
fn round(environment: &mut Environment, value: Wide) -> Number {
    environment.round(value.negative, value.exponent, value.significand | 1 << 127 | 1)
}

impl X87 {
    /// F2XM1: ST(0) = 2^ST(0) - 1. Operands beyond -1 to 1 are left as they are, which counts as inexact
    /// on AMD's processors.
    pub fn f2xm1(&mut self) {
        self.unary_extended(|environment, a| {
            if let Some(nan) = environment.nan(a, a) {
                return nan;
            }
            environment.note_denormals(&[a]);
            match a.class {
                Class::Infinity if a.negative => Number::finite(true, 0, 1 << 63),
                Class::Finite if a.exponent < 0 => round(environment, exponential(Wide::from_number(a))),
                Class::Finite => {
                    let is_one = a.exponent == 0 && a.significand == 1 << 63;
                    environment.raise(INEXACT);
                    environment.rounded_up = is_one && !a.negative;
                    if is_one && a.negative { Number::finite(true, -1, 1 << 63) } else { a }
                }
                _ => a,
            }
        });
    }

    /// FYL2X: ST(1) = ST(1) * log2(ST(0)), and pops.
    pub fn fyl2x(&mut self) {
        self.binary_popping(|environment, x, y| {
            times_logarithm(environment, x, y, |x| match x.class {
                Class::Zero => Some(Logarithm::Infinite(true)),
                _ if x.negative => None,
                Class::Infinity => Some(Logarithm::Infinite(false)),
                _ if x.significand == 1 << 63 && x.exponent == 0 => Some(Logarithm::Zero(false)),
                _ if x.significand == 1 << 63 => Some(Logarithm::Exact(integer(x.exponent))),
                _ => Some(Logarithm::Rounded(logarithm(Wide::from_number(x)))),
            })
        });
    }

    /// FYL2XP1: ST(1) = ST(1) * log2(ST(0) + 1), and pops.
    pub fn fyl2xp1(&mut self) {
        self.binary_popping(|environment, x, y| {
            times_logarithm(environment, x, y, |x| match x.class {
                Class::Zero => Some(Logarithm::Zero(x.negative)),
                Class::Infinity if !x.negative => Some(Logarithm::Infinite(false)),
                Class::Infinity => None,
                // AMD's processors answer with the operand.
                _ if x.negative && x.exponent >= 0 => Some(Logarithm::None),
                _ => {
                    let x = Wide::from_number(x);
                    Some(Logarithm::Rounded(if x.exponent < -1 {
                        logarithm_series(x.div(x.add(Wide::scaled(2, 0))))
                    } else {
                        logarithm(x.add(ONE))
                    }))
                }
            })
        });
    }

    /// FPATAN: ST(1) = the angle of the point (ST(0), ST(1)), and pops.
    pub fn fpatan(&mut self) {
        self.binary_popping(|environment, x, y| {
            if let Some(nan) = environment.nan(x, y) {
                return nan;
            }
            environment.note_denormals(&[x, y]);
            let angle = match (y.class, x.class) {
                (Class::Zero, _) | (Class::Finite, Class::Infinity) if !x.negative => {
                    return Number::zero(y.negative);
                }
                (Class::Zero, _) | (Class::Finite, Class::Infinity) => PI,
                (Class::Infinity, Class::Infinity) if x.negative => PI.times_power(-2).mul(Wide::scaled(3, 0)),
                (Class::Infinity, Class::Infinity) => PI.times_power(-2),
                (Class::Infinity, _) | (_, Class::Zero) => PI.times_power(-1),
                _ => {
                    let (opposite, adjacent) = (Wide::from_number(y).magnitude(), Wide::from_number(x).magnitude());
                    let steep = (opposite.exponent, opposite.significand) > (adjacent.exponent, adjacent.significand);
                    let angle = if steep {
                        PI.times_power(-1).sub(arctangent(adjacent.div(opposite)))
                    } else {
                        arctangent(opposite.div(adjacent))
                    };
                    if x.negative { PI.sub(angle) } else { angle }
                }
            };
            round(environment, Wide { negative: y.negative, ..angle })
        });
    }

    /// FSIN. An operand of 2^63 or more sets C2, and stays.
    pub fn fsin(&mut self) {
        self.trigonometric(false, |environment, a| match a.class {
            Class::Zero => (a, ONE_NUMBER),
            _ => (round(environment, sine_and_cosine(a).0), ONE_NUMBER),
        });
    }

    /// FCOS. An operand of 2^63 or more sets C2, and stays.
    pub fn fcos(&mut self) {
        self.trigonometric(false, |environment, a| match a.class {
            Class::Zero => (ONE_NUMBER, ONE_NUMBER),
            _ => (round(environment, sine_and_cosine(a).1), ONE_NUMBER),
        });
    }

    /// FSINCOS: ST(0) becomes its sine; the cosine is pushed. An operand of 2^63 or more sets C2, and stays.
    pub fn fsincos(&mut self) {
        self.trigonometric(true, |environment, a| match a.class {
            Class::Zero => (a, ONE_NUMBER),
            _ => {
                let (sine, cosine) = sine_and_cosine(a);
                (round(environment, sine), round(environment, cosine))
            }
        });
    }

    /// FPTAN: ST(0) becomes its tangent; 1 is pushed. An operand of 2^63 or more sets C2, and stays.
    pub fn fptan(&mut self) {
        self.trigonometric(true, |environment, a| match a.class {
            Class::Zero => (a, ONE_NUMBER),
            _ => {
                let (sine, cosine) = sine_and_cosine(a);
                (round(environment, sine.div(cosine)), ONE_NUMBER)
            }
        });
    }

    fn unary_extended(&mut self, function: impl FnOnce(&mut Environment, Number) -> Number) {
        match self.underflow(&[0]) {
            Some(true) => self.set(0, INDEFINITE),
            Some(false) => {}
            None => {
                let mut environment = self.extended();
                let result = function(&mut environment, self.st(0).unpack());
                self.finish(environment, 0, result);
            }
        }
    }

    /// Replaces ST(1) by a function of ST(0) and ST(1), and pops.
    fn binary_popping(&mut self, function: impl FnOnce(&mut Environment, Number, Number) -> Number) {
        let done = match self.underflow(&[0, 1]) {
            Some(true) => {
                self.set(1, INDEFINITE);
                true
            }
            Some(false) => false,
            None => {
                let mut environment = self.extended();
                let result = function(&mut environment, self.st(0).unpack(), self.st(1).unpack());
                self.finish(environment, 1, result)
            }
        };
        if done {
            self.pop();
        }
    }

    /// Replaces ST(0), within the range of the trigonometric functions, by the first result of `function`, and pushes the
    /// second if `pushes`.
    fn trigonometric(&mut self, pushes: bool, function: impl FnOnce(&mut Environment, Number) -> (Number, Number)) {
        self.set_conditions(C2, false);
        let fault = match self.underflow(&[0]) {
            None if pushes && !self.is_empty(7) => Some(self.stack_fault(true)),
            fault => fault,
        };
        if let Some(masked) = fault {
            if masked {
                self.set(0, INDEFINITE);
            }
            if masked && pushes {
                self.push_after_fault(INDEFINITE);
            }
            return;
        }
        let mut environment = self.extended();
        let a = self.st(0).unpack();
        if a.class == Class::Finite && a.exponent >= 63 {
            self.set_conditions(C2, true);
            return;
        }
        let (result, pushed) = match environment.nan(a, a) {
            Some(nan) => (nan, nan),
            None if a.class == Class::Infinity => {
                environment.raise(INVALID);
                (Number::DEFAULT_NAN, Number::DEFAULT_NAN)
            }
            None => {
                environment.note_denormals(&[a]);
                function(&mut environment, a)
            }
        };
        if self.finish(environment, 0, result) && pushes {
            self.push_after_fault(Float80::pack(pushed));
        }
    }
}

/// A logarithm; `bool`s are true for negative ones.
enum Logarithm {
    Zero(bool),
    Infinite(bool),
    Exact(Number),
    Rounded(Wide),
    /// There is none, but no exception either.
    None,
}

/// `y` times a logarithm of `x`, which is `None` outside of its domain.
fn times_logarithm(
    environment: &mut Environment,
    x: Number,
    y: Number,
    logarithm: impl FnOnce(Number) -> Option<Logarithm>,
) -> Number {
    if let Some(nan) = environment.nan(x, y) {
        return nan;
    }
    let logarithm = match (logarithm(x), y.class) {
        (None, _) | (Some(Logarithm::Infinite(_)), Class::Zero) | (Some(Logarithm::Zero(_)), Class::Infinity) => {
            environment.raise(INVALID);
            return Number::DEFAULT_NAN;
        }
        (Some(Logarithm::Infinite(true)), Class::Finite) => {
            environment.raise(ZERO_DIVIDE);
            return Number::infinity(!y.negative);
        }
        (Some(logarithm), _) => logarithm,
    };
    environment.note_denormals(&[x, y]);
    match logarithm {
        Logarithm::None if y.class == Class::Finite => {
            environment.raise(INEXACT);
            x
        }
        Logarithm::None => Number { negative: !y.negative, ..y },
        Logarithm::Infinite(negative) => Number::infinity(negative != y.negative),
        Logarithm::Zero(negative) => Number::zero(negative != y.negative),
        Logarithm::Exact(value) => environment.mul(y, value),
        Logarithm::Rounded(value) => match y.class {
            Class::Finite => round(environment, value.mul(Wide::from_number(y))),
            _ => Number { negative: value.negative != y.negative, ..y },
        },
    }
}

/// A small integer.
fn integer(value: i32) -> Number {
    Number::finite(value < 0, 63, value.unsigned_abs().into())
}
