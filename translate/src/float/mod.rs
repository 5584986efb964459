//! Floating-point arithmetic with explicit rounding and flags.
//!
//! One function an operation of the IR, on the bits of its operands. Where the host can do the operation, it does
//! ([`host`]); otherwise software does ([`soft`]). Operands and results of 32-bit types are in the low half of a `u64`, whose
//! high half is ignored and zero, respectively.
//!
//! A NaN that arithmetic returns has an unspecified payload. Tininess is detected after rounding. `0 * infinity + quiet NaN`
//! does not raise invalid; a guest whose architecture demands it arranges for that.

mod host;
mod soft;
#[cfg(test)]
mod tests;

pub use host::{HostControl, enter_guest, leave_guest, take_guest_flags};

use crate::ir::{FloatBinaryOp, FloatComparison, Type};

/// Rounding mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Rounding {
    /// To the nearest, ties to even.
    NearestEven,
    /// Towards zero.
    TowardZero,
    /// Towards minus infinity.
    Down,
    /// Towards plus infinity.
    Up,
    /// To the nearest, ties away from zero.
    NearestAway,
}

/// Exception flags, in the layout of [`crate::cpu::Context::float_flags`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(pub u32);

impl Flags {
    /// No exception.
    pub const NONE: Flags = Flags(0);
    /// The result was rounded.
    pub const INEXACT: Flags = Flags(1);
    /// The result is tiny, and was rounded.
    pub const UNDERFLOW: Flags = Flags(2);
    /// The result is too large.
    pub const OVERFLOW: Flags = Flags(4);
    /// A finite number was divided by zero.
    pub const DIVISION_BY_ZERO: Flags = Flags(8);
    /// The operation has no useful result.
    pub const INVALID: Flags = Flags(16);
    /// An operand is subnormal. x86 has this flag; of arithmetic only the functions of x86-64 hosts report it, and no other guest
    /// looks at it.
    pub const DENORMAL: Flags = Flags(32);

    /// Without [`Flags::DENORMAL`].
    pub fn ieee(self) -> Flags {
        Flags(self.0 & !Flags::DENORMAL.0)
    }
}

impl std::ops::BitOr for Flags {
    type Output = Flags;

    fn bitor(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }
}

/// The quiet NaN with no payload and no sign.
pub fn canonical_nan(ty: Type) -> u64 {
    match ty {
        Type::F32 => 0x7fc0_0000,
        _ => 0x7ff8_0000_0000_0000,
    }
}

/// Plus infinity.
pub fn infinity(ty: Type) -> u64 {
    match ty {
        Type::F32 => 0x7f80_0000,
        _ => 0x7ff0_0000_0000_0000,
    }
}

fn sign(ty: Type) -> u64 {
    1 << (ty.bits() - 1)
}

/// True for NaNs. `bits` above the type's width are ignored.
pub fn is_nan(ty: Type, bits: u64) -> bool {
    bits & ty.mask() & !sign(ty) > infinity(ty)
}

/// True for signalling NaNs.
pub fn is_signalling_nan(ty: Type, bits: u64) -> bool {
    is_nan(ty, bits) && bits & canonical_nan(ty) != canonical_nan(ty)
}

/// True for numbers that are smaller than any normal one, but not zero.
fn is_subnormal(ty: Type, bits: u64) -> bool {
    let fraction = if ty == Type::F32 { 0x7f_ffff } else { 0xf_ffff_ffff_ffff };
    bits & infinity(ty) == 0 && bits & fraction != 0
}

/// [`crate::ir::Op::FloatBinary`].
pub fn binary(op: FloatBinaryOp, ty: Type, a: u64, b: u64, rounding: Rounding) -> (u64, Flags) {
    host::binary(op, ty, a, b, rounding).unwrap_or_else(|| soft::binary(op, ty, a, b, rounding))
}

/// [`crate::ir::Op::FloatSquareRoot`].
pub fn square_root(ty: Type, a: u64, rounding: Rounding) -> (u64, Flags) {
    host::square_root(ty, a, rounding).unwrap_or_else(|| soft::square_root(ty, a, rounding))
}

/// [`crate::ir::Op::FloatCanonical`].
pub fn canonical(ty: Type, a: u64) -> u64 {
    if is_nan(ty, a) { canonical_nan(ty) } else { a }
}

/// [`crate::ir::Op::FloatMultiplyAdd`].
pub fn multiply_add_canonical(ty: Type, a: u64, b: u64, c: u64, rounding: Rounding) -> (u64, Flags) {
    let (result, flags) = multiply_add(ty, a, b, c, rounding);
    let invalid = if is_infinity_times_zero(ty, a, b) { Flags::INVALID } else { Flags::NONE };
    (canonical(ty, result), Flags(flags.0 | invalid.0))
}

/// True if one factor is infinite and the other zero.
pub(crate) fn is_infinity_times_zero(ty: Type, a: u64, b: u64) -> bool {
    let infinity = if ty == Type::F32 { 0x7f80_0000 } else { 0x7ff0 << 48 };
    let magnitudes = [a, b].map(|number| number & (ty.mask() >> 1));
    magnitudes == [infinity, 0] || magnitudes == [0, infinity]
}

/// `a * b + c`, rounded once.
pub fn multiply_add(ty: Type, a: u64, b: u64, c: u64, rounding: Rounding) -> (u64, Flags) {
    host::multiply_add(ty, a, b, c, rounding).unwrap_or_else(|| soft::multiply_add(ty, a, b, c, rounding))
}

/// `a * b + c` by the host alone, with "denormal operand" as bit 5 of the flags; `None` if it cannot. For operands that are not NaNs.
pub fn multiply_add_on_host(ty: Type, a: u64, b: u64, c: u64, rounding: Rounding) -> Option<(u64, Flags)> {
    host::multiply_add(ty, a, b, c, rounding)
}

/// [`crate::ir::Op::FloatConvert`].
pub fn convert(from: Type, to: Type, a: u64, rounding: Rounding) -> (u64, Flags) {
    if from == to {
        return (a & from.mask(), Flags::NONE);
    }
    host::convert(from, a, rounding).unwrap_or_else(|| soft::convert(from, a, rounding))
}

/// [`crate::ir::Op::IntegerToFloat`]: the signed integer in the low bits of `a`.
pub fn integer_to_float(from: Type, to: Type, a: u64, rounding: Rounding) -> (u64, Flags) {
    let shift = 64 - from.bits();
    let a = (a << shift) as i64 >> shift;
    host::integer_to_float(to, a, rounding).unwrap_or_else(|| soft::integer_to_float(to, i128::from(a), rounding))
}

/// Converts an unsigned integer.
pub fn unsigned_to_float(to: Type, a: u64, rounding: Rounding) -> (u64, Flags) {
    soft::integer_to_float(to, i128::from(a), rounding)
}

/// [`crate::ir::Op::FloatCompare`].
pub fn compare(op: FloatComparison, ty: Type, a: u64, b: u64) -> (bool, Flags) {
    let unordered = is_nan(ty, a) || is_nan(ty, b);
    let signalling = is_signalling_nan(ty, a) || is_signalling_nan(ty, b);
    let invalid = match op {
        FloatComparison::Equal | FloatComparison::LessQuiet | FloatComparison::Unordered => signalling,
        FloatComparison::Less | FloatComparison::LessEqual => unordered,
    };
    let flags = if invalid {
        Flags::INVALID
    } else if !unordered && (is_subnormal(ty, a) || is_subnormal(ty, b)) {
        Flags::DENORMAL
    } else {
        Flags::NONE
    };
    if unordered {
        return (op == FloatComparison::Unordered, flags);
    }
    let (a, b) = (ordered(ty, a), ordered(ty, b));
    let result = match op {
        FloatComparison::Equal => a == b,
        FloatComparison::Less | FloatComparison::LessQuiet => a < b,
        FloatComparison::LessEqual => a <= b,
        FloatComparison::Unordered => false,
    };
    (result, flags)
}

/// An integer that compares as the number does.
fn ordered(ty: Type, bits: u64) -> i64 {
    let magnitude = (bits & ty.mask() & !sign(ty)) as i64;
    if bits & sign(ty) != 0 { -magnitude } else { magnitude }
}

/// Converts to an integer of `width` bits, 1 to 64, sign- or zero-extended to 64 bits. What does not fit raises invalid alone and
/// gives the nearest integer of the type; a NaN gives the largest.
pub fn float_to_integer(from: Type, width: u32, signed: bool, a: u64, rounding: Rounding) -> (u64, Flags) {
    let a = a & from.mask();
    let width = width.clamp(1, 64);
    let negative = a & sign(from) != 0;
    let (largest, smallest) =
        if signed { ((1_i128 << (width - 1)) - 1, -(1_i128 << (width - 1))) } else { ((1_i128 << width) - 1, 0) };
    if is_nan(from, a) {
        return (largest as u64, Flags::INVALID);
    }
    let out_of_range = (if negative { smallest } else { largest } as u64, Flags::INVALID);
    let fraction_bits = if from == Type::F32 { 23 } else { 52 };
    let bias = if from == Type::F32 { 127 } else { 1023 };
    let exponent_field = (a & infinity(from)) >> fraction_bits;
    let fraction = a & ((1 << fraction_bits) - 1);
    let significand = if exponent_field == 0 { fraction } else { fraction | 1 << fraction_bits };
    // The value is significand * 2^exponent.
    let exponent = exponent_field.max(1) as i32 - bias - fraction_bits;
    if exponent > 64 {
        return out_of_range;
    }
    let (magnitude, remainder) = if exponent >= 0 {
        (u128::from(significand) << exponent, Remainder::None)
    } else {
        shift_right(u128::from(significand), exponent.unsigned_abs())
    };
    let magnitude = magnitude + u128::from(remainder.rounds_up(rounding, negative, magnitude & 1 != 0));
    let value = if negative { -(magnitude as i128) } else { magnitude as i128 };
    if value > largest || value < smallest {
        return out_of_range;
    }
    (value as u64, if remainder == Remainder::None { Flags::NONE } else { Flags::INEXACT })
}

/// What a shift dropped, against half a unit in the last place.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Remainder {
    None,
    BelowHalf,
    Half,
    AboveHalf,
}

impl Remainder {
    /// True if rounding adds one to the magnitude.
    fn rounds_up(self, rounding: Rounding, negative: bool, odd: bool) -> bool {
        match rounding {
            _ if self == Remainder::None => false,
            Rounding::NearestEven => self == Remainder::AboveHalf || self == Remainder::Half && odd,
            Rounding::NearestAway => self == Remainder::AboveHalf || self == Remainder::Half,
            Rounding::TowardZero => false,
            Rounding::Down => negative,
            Rounding::Up => !negative,
        }
    }
}

/// Shifts right, and says what was dropped.
fn shift_right(value: u128, count: u32) -> (u128, Remainder) {
    if count == 0 || value == 0 {
        return (value, Remainder::None);
    }
    if count >= 128 {
        return (0, Remainder::BelowHalf);
    }
    let dropped = value & ((1 << count) - 1);
    let half = 1 << (count - 1);
    let remainder = match dropped.cmp(&half) {
        _ if dropped == 0 => Remainder::None,
        std::cmp::Ordering::Less => Remainder::BelowHalf,
        std::cmp::Ordering::Equal => Remainder::Half,
        std::cmp::Ordering::Greater => Remainder::AboveHalf,
    };
    (value >> count, remainder)
}
