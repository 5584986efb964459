//! Encodings, integers, comparison.

use super::{Class, Environment, Format, Number, QUIET, TOP, exception};
use crate::float::Rounding;

/// A number in the x87's 80-bit format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Float80 {
    /// The significand with its explicit integer bit.
    pub significand: u64,
    /// The sign (bit 15) and the exponent, biased by 16383.
    pub sign_exponent: u16,
}

impl Float80 {
    /// Takes the encoding apart.
    pub fn unpack(self) -> Number {
        let negative = self.sign_exponent & 0x8000 != 0;
        let field = i32::from(self.sign_exponent & 0x7fff);
        let integer_bit = self.significand & TOP != 0;
        let special = |class| Number { class, negative, exponent: 0, significand: self.significand, denormal: false };
        match (field, integer_bit) {
            (0, _) => {
                let number = Number::finite(negative, -16382, self.significand);
                Number { denormal: self.significand != 0, ..number }
            }
            (_, false) => special(Class::Unsupported),
            (0x7fff, true) if self.significand == TOP => Number::infinity(negative),
            (0x7fff, true) if self.significand & QUIET != 0 => special(Class::Quiet),
            (0x7fff, true) => special(Class::Signalling),
            _ => Number::finite(negative, field - 16383, self.significand),
        }
    }

    /// The encoding of a number that the format can hold.
    pub fn pack(number: Number) -> Float80 {
        let (field, significand) = match number.class {
            Class::Zero => (0, 0),
            Class::Finite if number.exponent < -16382 => {
                (0, number.significand.checked_shr((-16382 - number.exponent) as u32).unwrap_or(0))
            }
            Class::Finite => ((number.exponent + 16383).clamp(1, 0x7ffe) as u16, number.significand),
            Class::Infinity => (0x7fff, TOP),
            Class::Quiet | Class::Signalling | Class::Unsupported => (0x7fff, number.significand),
        };
        Float80 { significand, sign_exponent: field | u16::from(number.negative) << 15 }
    }

    /// The ten bytes in memory.
    pub fn to_bytes(self) -> [u8; 10] {
        let mut bytes = [0; 10];
        bytes[..8].copy_from_slice(&self.significand.to_le_bytes());
        bytes[8..].copy_from_slice(&self.sign_exponent.to_le_bytes());
        bytes
    }

    /// From the ten bytes in memory.
    pub fn from_bytes(bytes: [u8; 10]) -> Float80 {
        let [a, b, c, d, e, f, g, h, low, high] = bytes;
        Float80 {
            significand: u64::from_le_bytes([a, b, c, d, e, f, g, h]),
            sign_exponent: u16::from_le_bytes([low, high]),
        }
    }
}

/// How two numbers compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ordering {
    /// The first is less.
    Less,
    /// They are equal.
    Equal,
    /// The first is greater.
    Greater,
    /// One is a NaN or unsupported.
    Unordered,
}

/// The flags ZF, PF and CF that FCOMI, COMISS and their kin set; they clear OF, SF and AF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ComparisonFlags {
    /// ZF: equal or unordered.
    pub zero: bool,
    /// PF: unordered.
    pub parity: bool,
    /// CF: less or unordered.
    pub carry: bool,
}

impl From<Ordering> for ComparisonFlags {
    fn from(ordering: Ordering) -> ComparisonFlags {
        ComparisonFlags {
            zero: matches!(ordering, Ordering::Equal | Ordering::Unordered),
            parity: ordering == Ordering::Unordered,
            carry: matches!(ordering, Ordering::Less | Ordering::Unordered),
        }
    }
}

/// Bits of the fraction field, and the bias of the exponent, of binary32 or binary64.
fn layout(format: Format) -> (u32, i32) {
    (format.precision - 1, format.largest_exponent)
}

/// Takes the binary32 or binary64 encoding `bits` apart.
pub(in crate::x86_64) fn unpack(format: Format, bits: u64) -> Number {
    let (fraction_bits, bias) = layout(format);
    let field_mask = 2 * bias as u64 + 1;
    let field = bits >> fraction_bits & field_mask;
    let fraction = bits << (64 - fraction_bits) >> 1;
    let negative = bits >> fraction_bits & (field_mask + 1) != 0;
    let special = |class| Number { class, negative, exponent: 0, significand: fraction | TOP, denormal: false };
    if field == field_mask {
        match fraction {
            0 => Number::infinity(negative),
            _ if fraction & QUIET != 0 => special(Class::Quiet),
            _ => special(Class::Signalling),
        }
    } else if field == 0 {
        Number { denormal: fraction != 0, ..Number::finite(negative, 1 - bias, fraction) }
    } else {
        Number::finite(negative, field as i32 - bias, fraction | TOP)
    }
}

/// The binary32 or binary64 encoding of a number that the format can hold; a NaN's payload is cut off.
pub(in crate::x86_64) fn pack(format: Format, number: Number) -> u64 {
    let (fraction_bits, bias) = layout(format);
    let field_mask = 2 * bias as u64 + 1;
    let (field, significand) = match number.class {
        Class::Zero => (0, 0),
        Class::Finite if number.exponent < 1 - bias => {
            (0, number.significand.checked_shr((1 - bias - number.exponent) as u32).unwrap_or(0))
        }
        Class::Finite => ((number.exponent + bias) as u64 & field_mask, number.significand),
        Class::Infinity => (field_mask, 0),
        Class::Quiet | Class::Signalling | Class::Unsupported => (field_mask, number.significand | QUIET),
    };
    let sign = u64::from(number.negative) * (field_mask + 1);
    (sign | field) << fraction_bits | significand << 1 >> (64 - fraction_bits)
}

impl Environment {
    /// Takes an operand in binary32 or binary64 apart. A denormal is a zero if the environment says so.
    pub fn operand(&self, format: Format, bits: u64) -> Number {
        let number = unpack(format, bits);
        if self.denormals_are_zero && number.denormal { Number::zero(number.negative) } else { number }
    }

    /// Converts a number to the environment's format; a NaN becomes quiet.
    pub fn convert(&mut self, a: Number) -> Number {
        self.rounded_up = false;
        if let Some(nan) = self.nan(a, a) {
            return nan;
        }
        self.note_denormals(&[a]);
        self.round_number(a)
    }

    /// A signed integer, rounded to the environment's format.
    pub fn from_integer(&mut self, a: i64) -> Number {
        self.rounded_up = false;
        self.round_number(Number::finite(a < 0, 63, a.unsigned_abs()))
    }

    /// Rounds the magnitude of a finite number to an integer below 2^64, inexact if not exact; `None` if it is not below.
    fn round_to_magnitude(&mut self, a: Number) -> Option<(u64, bool)> {
        self.rounded_up = false;
        if a.class == Class::Zero {
            return Some((0, false));
        }
        if a.exponent > 63 {
            return None;
        }
        let drop = (64 + 63 - a.exponent) as u32;
        let rounded = self.round_significand(a.negative, u128::from(a.significand) << 64, drop);
        self.rounded_up = rounded.up;
        u64::try_from(rounded.value).ok().map(|value| (value, rounded.inexact))
    }

    /// Converts to a signed integer of `width` bits (at most 64). `None`, and invalid alone is raised, if it does not fit or is
    /// no number. Denormal operands raise nothing but inexact.
    pub fn to_integer(&mut self, a: Number, width: u32) -> Option<i64> {
        let limit = 1_u64 << (width - 1);
        let value = match a.class {
            Class::Zero | Class::Finite => {
                self.round_to_magnitude(a).filter(|&(value, _)| value < limit || a.negative && value == limit)
            }
            _ => None,
        };
        let Some((value, inexact)) = value else {
            self.rounded_up = false;
            self.raise(exception::INVALID);
            return None;
        };
        if inexact {
            self.raise(exception::INEXACT);
        }
        Some(if a.negative { value.wrapping_neg() } else { value } as i64)
    }

    /// Rounds to an integer in the same format. The caller has dealt with NaNs.
    pub fn round_to_integral(&mut self, a: Number) -> Number {
        self.rounded_up = false;
        if a.class != Class::Finite || a.exponent >= 63 {
            return a;
        }
        // Below 2^63 always fits.
        let (value, inexact) = self.round_to_magnitude(a).unwrap_or_default();
        if inexact {
            self.raise(exception::INEXACT);
        }
        Number::finite(a.negative, 63, value)
    }

    /// Compares. Quiet NaNs raise invalid if `signals`; signalling and unsupported ones always do.
    pub fn compare(&mut self, a: Number, b: Number, signals: bool) -> Ordering {
        let strange = |number: Number| number.class == Class::Unsupported || number.class == Class::Signalling;
        if strange(a) || strange(b) || signals && (a.is_nan() || b.is_nan()) {
            self.raise(exception::INVALID);
            return Ordering::Unordered;
        }
        if a.is_nan() || b.is_nan() {
            return Ordering::Unordered;
        }
        self.note_denormals(&[a, b]);
        let key = |number: Number| -> i128 {
            let magnitude = match number.class {
                Class::Zero => 0,
                Class::Infinity => i128::MAX >> 1,
                // Larger exponents come first; none is below -20000.
                _ => i128::from(number.exponent + 0x1_0000) << 64 | i128::from(number.significand),
            };
            if number.negative { -magnitude } else { magnitude }
        };
        match key(a).cmp(&key(b)) {
            std::cmp::Ordering::Less => Ordering::Less,
            std::cmp::Ordering::Equal => Ordering::Equal,
            std::cmp::Ordering::Greater => Ordering::Greater,
        }
    }

    /// The same environment with another rounding mode.
    pub fn with_rounding(self, rounding: Rounding) -> Environment {
        Environment { rounding, ..self }
    }
}
