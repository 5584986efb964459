//! FRNDINT, FSCALE, FXTRACT, FPREM, FPREM1.

use super::status::*;
use super::{INDEFINITE, X87};
use crate::x86_64::softfloat::exception::{INEXACT, INVALID, UNDERFLOW, ZERO_DIVIDE};
use crate::x86_64::softfloat::{Class, Environment, Float80, Number};

impl X87 {
    /// FRNDINT.
    pub fn frndint(&mut self) {
        self.unary(|environment, a| {
            if let Some(nan) = environment.nan(a, a) {
                return nan;
            }
            environment.note_denormals(&[a]);
            environment.round_to_integral(a)
        });
    }

    /// FSCALE: ST(0) * 2^ST(1), with ST(1) truncated.
    pub fn fscale(&mut self) {
        match self.underflow(&[0, 1]) {
            Some(true) => self.set(0, INDEFINITE),
            Some(false) => {}
            None => {
                let mut environment = self.extended();
                let result = scale(&mut environment, self.st(0).unpack(), self.st(1).unpack());
                self.finish(environment, 0, result);
            }
        }
    }

    /// FXTRACT: replaces ST(0) by its exponent, and pushes its significand.
    pub fn fxtract(&mut self) {
        let room = self.is_empty(7);
        let fault = match self.underflow(&[0]) {
            None if !room => Some(self.stack_fault(true)),
            fault => fault,
        };
        match fault {
            Some(true) => {
                self.set(0, INDEFINITE);
                self.push_after_fault(INDEFINITE);
                return;
            }
            Some(false) => return,
            None => {}
        }
        let mut environment = self.extended();
        let (exponent, significand) = extract(&mut environment, self.st(0).unpack());
        if self.finish(environment, 0, exponent) {
            self.push_after_fault(Float80::pack(significand));
        }
    }

    /// FPREM: the remainder of ST(0) / ST(1), with the quotient truncated.
    pub fn fprem(&mut self) {
        self.remainder(false);
    }

    /// FPREM1: the remainder of ST(0) / ST(1), with the quotient rounded to the nearest (IEEE 754).
    pub fn fprem1(&mut self) {
        self.remainder(true);
    }

    fn remainder(&mut self, nearest: bool) {
        self.set_conditions(C2, false);
        match self.underflow(&[0, 1]) {
            Some(true) => self.set(0, INDEFINITE),
            Some(false) => {}
            None => {
                let mut environment = self.extended();
                let (a, b) = (self.st(0).unpack(), self.st(1).unpack());
                let Remainder { value, quotient, partial } = remainder(&mut environment, a, b, nearest);
                if self.finish(environment, 0, value) {
                    self.set_conditions(C2, partial);
                    // The SDM leaves open what the other conditions become after a partial remainder: AMD's clear them.
                    if let Some(quotient) = quotient.or(partial.then_some(0)) {
                        self.set_conditions(C0, quotient & 4 != 0);
                        self.set_conditions(C3, quotient & 2 != 0);
                        self.set_conditions(C1, quotient & 1 != 0);
                    }
                }
            }
        }
    }
}

fn scale(environment: &mut Environment, a: Number, b: Number) -> Number {
    if let Some(nan) = environment.nan(a, b) {
        return nan;
    }
    match (a.class, b.class, b.negative) {
        (Class::Zero, Class::Infinity, false) | (Class::Infinity, Class::Infinity, true) => {
            environment.raise(INVALID);
            return Number::DEFAULT_NAN;
        }
        _ => environment.note_denormals(&[a, b]),
    }
    match (a.class, b.class) {
        (Class::Zero | Class::Infinity, _) => return a,
        (_, Class::Infinity) if b.negative => return Number::zero(a.negative),
        (_, Class::Infinity) => return Number::infinity(a.negative),
        _ => {}
    }
    // Larger factors overflow, or underflow, even with the exponent wrapped.
    let factor = match b.class {
        Class::Finite if b.exponent >= 17 => 1 << 17,
        Class::Finite if b.exponent >= 0 => (b.significand >> (63 - b.exponent)) as i32,
        _ => 0,
    };
    let exponent = a.exponent + if b.negative { -factor } else { factor };
    let scaled = environment.round_number(Number { exponent, ..a });
    // Unmasked, a result beyond even the wrapped range is infinite or zero.
    match scaled.class {
        Class::Finite if scaled.exponent > 16383 => {
            environment.raise(INEXACT);
            environment.rounded_up = true;
            Number::infinity(a.negative)
        }
        Class::Finite if scaled.exponent < -16382 && environment.masked & UNDERFLOW == 0 => {
            environment.raise(INEXACT);
            environment.rounded_up = false;
            Number::zero(a.negative)
        }
        _ => scaled,
    }
}

/// Exponent and significand.
fn extract(environment: &mut Environment, a: Number) -> (Number, Number) {
    if let Some(nan) = environment.nan(a, a) {
        return (nan, nan);
    }
    match a.class {
        Class::Zero => {
            environment.raise(ZERO_DIVIDE);
            (Number::infinity(true), a)
        }
        Class::Infinity => (Number::infinity(false), a),
        _ => {
            environment.note_denormals(&[a]);
            let exponent = Number::finite(a.exponent < 0, 63, a.exponent.unsigned_abs().into());
            (exponent, Number { exponent: 0, ..a })
        }
    }
}

struct Remainder {
    value: Number,
    /// The quotient, of which the low three bits count; `None` if there is none or it is not yet known.
    quotient: Option<u64>,
    /// The exponents were so far apart that this is only a step towards the remainder.
    partial: bool,
}

fn remainder(environment: &mut Environment, a: Number, b: Number, nearest: bool) -> Remainder {
    let whole = |value| Remainder { value, quotient: Some(0), partial: false };
    let strange = |value| Remainder { value, quotient: None, partial: false };
    if let Some(nan) = environment.nan(a, b) {
        return strange(nan);
    }
    if a.class == Class::Infinity || b.class == Class::Zero {
        environment.raise(INVALID);
        return strange(Number::DEFAULT_NAN);
    }
    environment.note_denormals(&[a, b]);
    if a.class == Class::Zero {
        return whole(a);
    }
    let distance = a.exponent - b.exponent;
    if b.class == Class::Infinity || distance < -1 {
        return whole(environment.round_number(a));
    }
    let divisor = u128::from(b.significand);
    if distance > 63 {
        // One step takes off at least 32 bits.
        let step = 32 + distance % 32;
        let rest = ((u128::from(a.significand) << step) % divisor) as u64;
        let value = Number::finite(a.negative, b.exponent + distance - step, rest);
        return Remainder { value: environment.round_number(value), quotient: None, partial: true };
    }
    // Both in units of half of the divisor's last place.
    let dividend = u128::from(a.significand) << (distance + 1);
    let divisor = divisor << 1;
    let (mut quotient, mut rest) = ((dividend / divisor) as u64, dividend % divisor);
    let mut negative = a.negative;
    if nearest && (2 * rest > divisor || 2 * rest == divisor && quotient & 1 != 0) {
        quotient = quotient.wrapping_add(1);
        rest = divisor - rest;
        negative = !negative;
    }
    let value = if rest == 0 {
        Number::zero(a.negative)
    } else {
        // At most 65 bits, of which the lowest is zero if there are 65.
        let shift = u32::from(rest >> 64 != 0);
        Number::finite(negative, b.exponent - 1 + shift as i32, (rest >> shift) as u64)
    };
    Remainder { value: environment.round_number(value), quotient: Some(quotient), partial: false }
}
