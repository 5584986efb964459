//! Floating-point arithmetic of every x86 format, with all of its flags, on integers.
//!
//! A [`Number`] is an operand taken apart: sign, exponent and a 64-bit significand, which holds binary32, binary64 and the
//! x87's 80-bit format alike. Operations take and give numbers; [`Environment`] says how to round and to what, which
//! exceptions are masked, and gathers what was raised. The two units differ in which NaN a result is ([`Unit`]).

mod arithmetic;
mod convert;
#[cfg(test)]
mod tests;

pub use convert::{ComparisonFlags, Float80, Ordering};
pub(in crate::x86_64) use convert::{pack, unpack};

use crate::float::{Flags, Rounding};

/// Exceptions, in the layout of the low six bits of MXCSR and of the x87's status and control words.
pub mod exception {
    /// Invalid operation.
    pub const INVALID: u16 = 1;
    /// An operand is denormal.
    pub const DENORMAL: u16 = 2;
    /// Division by zero, or another exact infinity.
    pub const ZERO_DIVIDE: u16 = 4;
    /// The result is too large.
    pub const OVERFLOW: u16 = 8;
    /// The result is tiny.
    pub const UNDERFLOW: u16 = 16;
    /// The result was rounded ("precision").
    pub const INEXACT: u16 = 32;
    /// All of them.
    pub const ALL: u16 = 63;
    /// Those found before computing. If one is unmasked, nothing is computed and none of the others is raised.
    pub const BEFORE: u16 = INVALID | DENORMAL | ZERO_DIVIDE;
}

/// What a [`Number`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Zero.
    Zero,
    /// A finite number but zero.
    Finite,
    /// Infinity.
    Infinity,
    /// Quiet NaN.
    Quiet,
    /// Signalling NaN.
    Signalling,
    /// An encoding of the 80-bit format that is no number: unnormal, pseudo-infinity, pseudo-NaN.
    Unsupported,
}

/// A floating-point number taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Number {
    /// What it is.
    pub class: Class,
    /// Its sign.
    pub negative: bool,
    /// The value of a finite number is significand * 2^(exponent - 63).
    pub exponent: i32,
    /// Bit 63 is set in finite numbers. In a NaN, bit 62 says that it is quiet, and those below are the payload.
    pub significand: u64,
    /// It was encoded as a denormal.
    pub denormal: bool,
}

/// Bit 63.
pub(super) const TOP: u64 = 1 << 63;
/// What distinguishes quiet NaNs.
pub(super) const QUIET: u64 = 1 << 62;

impl Number {
    /// The NaN of invalid operations: negative, quiet, without payload.
    pub const DEFAULT_NAN: Number =
        Number { class: Class::Quiet, negative: true, exponent: 0, significand: TOP | QUIET, denormal: false };

    /// A zero.
    pub const fn zero(negative: bool) -> Number {
        Number { class: Class::Zero, negative, exponent: 0, significand: 0, denormal: false }
    }

    /// An infinity.
    pub const fn infinity(negative: bool) -> Number {
        Number { class: Class::Infinity, negative, exponent: 0, significand: TOP, denormal: false }
    }

    /// A finite number, from a significand of any form: significand * 2^(exponent - 63).
    pub const fn finite(negative: bool, exponent: i32, significand: u64) -> Number {
        if significand == 0 {
            return Number::zero(negative);
        }
        let shift = significand.leading_zeros();
        Number {
            class: Class::Finite,
            negative,
            exponent: exponent - shift as i32,
            significand: significand << shift,
            denormal: false,
        }
    }

    /// True for NaNs of either kind.
    pub fn is_nan(&self) -> bool {
        matches!(self.class, Class::Quiet | Class::Signalling)
    }

    /// The same NaN, quiet.
    pub(super) fn quieted(self) -> Number {
        Number { class: Class::Quiet, significand: self.significand | QUIET, ..self }
    }

    /// With the other sign.
    pub fn negated(self) -> Number {
        Number { negative: !self.negative, ..self }
    }
}

/// What results are rounded to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// Bits of the significand, with the leading one.
    pub precision: u32,
    /// Largest exponent of a finite number; the smallest of a normal one is 1 less this.
    pub largest_exponent: i32,
}

impl Format {
    /// binary16.
    pub const HALF: Format = Format { precision: 11, largest_exponent: 15 };
    /// binary32.
    pub const SINGLE: Format = Format { precision: 24, largest_exponent: 127 };
    /// binary64.
    pub const DOUBLE: Format = Format { precision: 53, largest_exponent: 1023 };
    /// The x87's 80-bit format.
    pub const EXTENDED: Format = Format { precision: 64, largest_exponent: 16383 };
}

/// The rules by which the two floating-point units differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Of two NaNs the result is the one with the larger significand, a quiet one before a signalling one. Unmasked overflow and
    /// underflow give a result with the exponent wrapped.
    X87,
    /// Of two NaNs the result is the first.
    Sse,
}

/// How operations are done, and what they raised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Environment {
    /// Whose rules.
    pub unit: Unit,
    /// Rounding mode; x86 does not have [`Rounding::NearestAway`].
    pub rounding: Rounding,
    /// What results are rounded to.
    pub format: Format,
    /// Masked exceptions, see [`exception`].
    pub masked: u16,
    /// Tiny results become zero, if underflow is masked (MXCSR.FZ).
    pub flush_to_zero: bool,
    /// Denormal operands count as zeroes (MXCSR.DAZ).
    pub denormals_are_zero: bool,
    /// Exceptions raised so far, see [`exception`].
    pub raised: u16,
    /// The last result was rounded away from zero.
    pub rounded_up: bool,
}

/// By how much the x87 changes the exponent of a result that overflows or underflows unmasked.
const EXPONENT_WRAP: i32 = 24576;

/// MXCSR after reset: all exceptions masked, rounding to nearest.
pub const MXCSR_RESET: u32 = 0x1f80;

/// The bits of MXCSR that may be set (MXCSR_MASK of an FXSAVE image); LDMXCSR and FXRSTOR raise #GP for others.
pub const MXCSR_MASK: u32 = 0xffff;

/// The rounding mode that two bits of MXCSR, the x87 control word and immediates encode.
pub fn rounding(bits: u32) -> Rounding {
    match bits & 3 {
        0 => Rounding::NearestEven,
        1 => Rounding::Down,
        2 => Rounding::Up,
        _ => Rounding::TowardZero,
    }
}

impl Environment {
    /// The environment that MXCSR sets, for results of a format. No exception has been raised in it.
    pub fn sse(mxcsr: u32, format: Format) -> Environment {
        Environment {
            unit: Unit::Sse,
            rounding: rounding(mxcsr >> 13),
            format,
            masked: (mxcsr >> 7) as u16 & exception::ALL,
            flush_to_zero: mxcsr & 0x8000 != 0,
            denormals_are_zero: mxcsr & 0x40 != 0,
            raised: 0,
            rounded_up: false,
        }
    }

    /// The environment of the x87's control word.
    pub fn x87(control: u16) -> Environment {
        let precision = match control >> 8 & 3 {
            0 => 24,
            2 => 53,
            _ => 64,
        };
        Environment {
            unit: Unit::X87,
            rounding: rounding(u32::from(control >> 10)),
            format: Format { precision, ..Format::EXTENDED },
            masked: control & exception::ALL,
            flush_to_zero: false,
            denormals_are_zero: false,
            raised: 0,
            rounded_up: false,
        }
    }

    /// Records exceptions.
    pub fn raise(&mut self, exceptions: u16) {
        self.raised |= exceptions;
    }

    /// Raised exceptions that are not masked.
    pub fn unmasked(&self) -> u16 {
        self.raised & !self.masked
    }

    /// Forgets exceptions that would only have been found by computing what an unmasked exception prevented.
    pub fn settle(&mut self) {
        if self.unmasked() & exception::BEFORE != 0 {
            self.raised &= exception::BEFORE;
        }
    }

    /// Raises invalid; gives the NaN for it.
    pub(super) fn invalid(&mut self) -> Number {
        self.raise(exception::INVALID);
        Number::DEFAULT_NAN
    }

    /// Raises denormal if an operand is; for operands that are neither NaNs nor unsupported.
    pub(in crate::x86_64) fn note_denormals(&mut self, operands: &[Number]) {
        if operands.iter().any(|operand| operand.denormal) {
            self.raise(exception::DENORMAL);
        }
    }

    /// The result, if an operand is a NaN or unsupported.
    pub(in crate::x86_64) fn nan(&mut self, a: Number, b: Number) -> Option<Number> {
        if a.class == Class::Unsupported || b.class == Class::Unsupported {
            return Some(self.invalid());
        }
        if !a.is_nan() && !b.is_nan() {
            return None;
        }
        let signalling = |number: Number| number.class == Class::Signalling;
        if signalling(a) || signalling(b) {
            self.raise(exception::INVALID);
        }
        let first = match self.unit {
            _ if !a.is_nan() || !b.is_nan() => a.is_nan(),
            Unit::Sse => true,
            Unit::X87 if signalling(a) != signalling(b) => signalling(b),
            Unit::X87 if a.significand != b.significand => a.significand > b.significand,
            Unit::X87 => !a.negative,
        };
        Some(if first { a } else { b }.quieted())
    }

    /// Rounds significand * 2^(exponent - 127), whose significand has bit 127 set; bits that do not fit are or-ed into bit 0.
    pub(in crate::x86_64) fn round(&mut self, negative: bool, exponent: i32, significand: u128) -> Number {
        let Format { precision, largest_exponent } = self.format;
        let least_exponent = 1 - largest_exponent;
        let mut exponent = exponent;
        let mut wrapped = false;
        let mut rounded = self.round_significand(negative, significand, 128 - precision);
        if exponent < least_exponent && !(rounded.carries && exponent == least_exponent - 1) {
            if self.masked & exception::UNDERFLOW == 0 {
                self.raise(exception::UNDERFLOW);
                wrapped = true;
                exponent += if self.unit == Unit::X87 { EXPONENT_WRAP } else { 0 };
            } else if self.flush_to_zero {
                self.raise(exception::UNDERFLOW | exception::INEXACT);
                self.rounded_up = false;
                return Number::zero(negative);
            } else {
                let shift = least_exponent.saturating_sub(exponent).unsigned_abs();
                rounded = self.round_significand(negative, significand, (128 - precision).saturating_add(shift));
                if rounded.inexact {
                    self.raise(exception::UNDERFLOW);
                }
            }
        }
        self.rounded_up = rounded.up;
        if rounded.inexact {
            self.raise(exception::INEXACT);
        }
        let mut result = rounded.number(negative, exponent);
        if !wrapped && result.class == Class::Finite && result.exponent > largest_exponent {
            self.raise(exception::OVERFLOW);
            if self.masked & exception::OVERFLOW == 0 {
                result.exponent -= if self.unit == Unit::X87 { EXPONENT_WRAP } else { 0 };
                return result;
            }
            self.raise(exception::INEXACT);
            let to_infinity = match self.rounding {
                Rounding::NearestEven | Rounding::NearestAway => true,
                Rounding::TowardZero => false,
                Rounding::Down => negative,
                Rounding::Up => !negative,
            };
            self.rounded_up = to_infinity;
            result = if to_infinity {
                Number::infinity(negative)
            } else {
                Number::finite(negative, largest_exponent, u64::MAX << (64 - precision))
            };
        }
        result
    }

    /// Rounds a significand to a multiple of 2^`drop`.
    fn round_significand(&self, negative: bool, significand: u128, drop: u32) -> Rounded {
        let (kept, dropped) = match drop {
            0 => (significand, 0),
            1..128 => (significand >> drop, significand << (128 - drop)),
            128 => (0, significand),
            // Less than half of the last place.
            _ => (0, 1),
        };
        let half = 1_u128 << 127;
        let up = match self.rounding {
            _ if dropped == 0 => false,
            Rounding::NearestEven => dropped > half || dropped == half && kept & 1 != 0,
            Rounding::NearestAway => dropped >= half,
            Rounding::TowardZero => false,
            Rounding::Down => negative,
            Rounding::Up => !negative,
        };
        let sum = kept + u128::from(up);
        Rounded { value: sum, drop, up, inexact: dropped != 0, carries: drop < 128 && sum >> (128 - drop) != 0 }
    }
}

/// A rounded significand: value * 2^drop.
struct Rounded {
    value: u128,
    drop: u32,
    /// It was rounded away from zero.
    up: bool,
    inexact: bool,
    /// It needs one bit more than before.
    carries: bool,
}

impl Rounded {
    /// The number value * 2^(drop + exponent - 127).
    fn number(&self, negative: bool, exponent: i32) -> Number {
        if self.value == 0 {
            return Number::zero(negative);
        }
        // At most 65 bits, of which only the highest is set if there are 65.
        let length = 128 - self.value.leading_zeros();
        let significand = if length > 64 { TOP } else { (self.value as u64) << (64 - length) };
        let exponent = exponent.saturating_add_unsigned(self.drop) - 128 + length as i32;
        Number { class: Class::Finite, negative, exponent, significand, denormal: false }
    }
}

/// Exceptions in the layout of [`crate::cpu::Context::float_flags`], with "denormal operand" as bit 5.
pub fn to_flags(exceptions: u16) -> Flags {
    let bit = |exception: u16, place: u32| if exceptions & exception != 0 { 1 << place } else { 0 };
    Flags(
        bit(exception::INEXACT, 0)
            | bit(exception::UNDERFLOW, 1)
            | bit(exception::OVERFLOW, 2)
            | bit(exception::ZERO_DIVIDE, 3)
            | bit(exception::INVALID, 4)
            | bit(exception::DENORMAL, 5),
    )
}

/// Exceptions from the layout of [`crate::cpu::Context::float_flags`].
pub fn from_flags(flags: Flags) -> u16 {
    let bit = |place: u32, exception: u16| if flags.0 >> place & 1 != 0 { exception } else { 0 };
    bit(0, exception::INEXACT)
        | bit(1, exception::UNDERFLOW)
        | bit(2, exception::OVERFLOW)
        | bit(3, exception::ZERO_DIVIDE)
        | bit(4, exception::INVALID)
        | bit(5, exception::DENORMAL)
}
