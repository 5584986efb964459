//! Floating-point arithmetic that is no operation of the IR: with a rounding mode of the instruction's own, or with rules of
//! the architecture's own.

use crate::cpu::Cpu;
use crate::float::{self, Flags, Rounding};
use crate::ir::{FloatBinaryOp, Type};
use crate::riscv64::{Riscv64, csr};

/// The number in the field `rm` that stands for the mode in `frm`.
pub(in crate::riscv64) const DYNAMIC_ROUNDING: u8 = 7;

/// What [`rounded`] does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(in crate::riscv64) enum RoundedOp {
    /// Sum.
    Add,
    /// Difference.
    Sub,
    /// Product.
    Mul,
    /// Quotient.
    Div,
    /// Square root of `a`.
    SquareRoot,
    /// `a`, double precision, in single precision.
    Narrow,
    /// The signed integer `a`.
    FromSigned,
    /// The unsigned integer `a`.
    FromUnsigned,
}

/// The first argument of floating-point helpers, which says what to do: bit 0 double precision, bits 3..1 rounding mode, the rest
/// the helper's own.
pub(in crate::riscv64) struct FloatCode;

impl FloatCode {
    fn of(ty: Type, rounding: u8, rest: u8) -> u64 {
        u64::from(ty == Type::F64) | u64::from(rounding) << 1 | u64::from(rest) << 4
    }

    /// For [`rounded`]: the operation, the type of its result, and how to round.
    pub(in crate::riscv64) fn rounded(op: RoundedOp, ty: Type, rounding: Rounding) -> u64 {
        FloatCode::of(ty, rounding as u8, op as u8)
    }

    /// For [`min_max`].
    pub(in crate::riscv64) fn min_max(ty: Type, max: bool) -> u64 {
        FloatCode::of(ty, 0, max.into())
    }

    /// For [`class`].
    pub(in crate::riscv64) fn class(ty: Type) -> u64 {
        FloatCode::of(ty, 0, 0)
    }

    /// For [`to_integer`]: `kind` is 0 to 3 for W, WU, L and LU, `rounding` a mode or [`DYNAMIC_ROUNDING`].
    pub(in crate::riscv64) fn to_integer(from: Type, kind: u8, rounding: u8) -> u64 {
        FloatCode::of(from, rounding, kind)
    }
}

fn type_of(code: u64) -> Type {
    if code & 1 != 0 { Type::F64 } else { Type::F32 }
}

fn rounding_of(cpu: &Cpu<Riscv64>, code: u64) -> Rounding {
    csr::rounding((code >> 1 & 7) as u8).unwrap_or(cpu.context.float_rounding)
}

/// Adds flags, and gives the result with NaNs made canonical.
fn finish(cpu: &mut Cpu<Riscv64>, ty: Type, (result, flags): (u64, Flags)) -> u64 {
    cpu.context.float_flags |= flags.0;
    if float::is_nan(ty, result) { float::canonical_nan(ty) } else { result }
}

/// Arithmetic with a rounding mode of its own: see [`RoundedOp`].
pub(super) extern "C" fn rounded(cpu: &mut Cpu<Riscv64>, code: u64, a: u64, b: u64) -> u64 {
    let ty = type_of(code);
    let rounding = rounding_of(cpu, code);
    const OPS: [RoundedOp; 8] = [
        RoundedOp::Add,
        RoundedOp::Sub,
        RoundedOp::Mul,
        RoundedOp::Div,
        RoundedOp::SquareRoot,
        RoundedOp::Narrow,
        RoundedOp::FromSigned,
        RoundedOp::FromUnsigned,
    ];
    let result = match OPS[(code >> 4 & 7) as usize] {
        RoundedOp::Add => float::binary(FloatBinaryOp::Add, ty, a, b, rounding),
        RoundedOp::Sub => float::binary(FloatBinaryOp::Sub, ty, a, b, rounding),
        RoundedOp::Mul => float::binary(FloatBinaryOp::Mul, ty, a, b, rounding),
        RoundedOp::Div => float::binary(FloatBinaryOp::Div, ty, a, b, rounding),
        RoundedOp::SquareRoot => float::square_root(ty, a, rounding),
        RoundedOp::Narrow => float::convert(Type::F64, Type::F32, a, rounding),
        RoundedOp::FromSigned => float::integer_to_float(Type::I64, ty, a, rounding),
        RoundedOp::FromUnsigned => float::unsigned_to_float(ty, a, rounding),
    };
    finish(cpu, ty, result)
}

/// `a * b + c` with a rounding mode of its own. Infinity times zero raises invalid whatever the addend is.
pub(super) extern "C" fn multiply_add<const BITS: u32, const ROUNDING: u8>(
    cpu: &mut Cpu<Riscv64>,
    a: u64,
    b: u64,
    c: u64,
) -> u64 {
    let ty = if BITS == 32 { Type::F32 } else { Type::F64 };
    let rounding = csr::rounding(ROUNDING).unwrap_or(Rounding::NearestEven);
    let magnitude = |bits: u64| bits & ty.mask() >> 1;
    let infinity = float::infinity(ty);
    let is_zero_times_infinity = |a: u64, b: u64| magnitude(a) == 0 && magnitude(b) == infinity;
    if is_zero_times_infinity(a, b) || is_zero_times_infinity(b, a) {
        cpu.context.float_flags |= Flags::INVALID.0;
    }
    let result = float::multiply_add(ty, a, b, c, rounding);
    finish(cpu, ty, result)
}

/// FMIN and FMAX: a NaN loses against a number, and minus zero is less than zero (volume I, 21.6).
pub(super) extern "C" fn min_max(cpu: &mut Cpu<Riscv64>, code: u64, a: u64, b: u64) -> u64 {
    let ty = type_of(code);
    if float::is_signalling_nan(ty, a) || float::is_signalling_nan(ty, b) {
        cpu.context.float_flags |= Flags::INVALID.0;
    }
    match (float::is_nan(ty, a), float::is_nan(ty, b)) {
        (true, true) => return float::canonical_nan(ty),
        (true, false) => return b,
        (false, true) => return a,
        (false, false) => (),
    }
    // An integer that orders as the numbers do, zeroes by sign.
    let key = |bits: u64| {
        let shifted = (bits << (64 - ty.bits())) as i64;
        if shifted < 0 { shifted ^ i64::MAX } else { shifted }
    };
    let max = code >> 4 & 1 != 0;
    if (key(a) < key(b)) != max { a } else { b }
}

/// FCLASS: one bit of ten (volume I, 21.9).
pub(super) extern "C" fn class(_: &mut Cpu<Riscv64>, code: u64, a: u64, _: u64) -> u64 {
    let ty = type_of(code);
    let negative = a >> (ty.bits() - 1) & 1 != 0;
    let magnitude = a & ty.mask() >> 1;
    let smallest_normal = if ty == Type::F32 { 1 << 23 } else { 1 << 52 };
    let class = if float::is_signalling_nan(ty, a) {
        8
    } else if float::is_nan(ty, a) {
        9
    } else {
        let kind = if magnitude == float::infinity(ty) {
            0
        } else if magnitude >= smallest_normal {
            1
        } else if magnitude != 0 {
            2
        } else {
            3
        };
        if negative { kind } else { 7 - kind }
    };
    1 << class
}

/// FCVT to an integer.
pub(super) extern "C" fn to_integer(cpu: &mut Cpu<Riscv64>, code: u64, a: u64, _: u64) -> u64 {
    let rounding = rounding_of(cpu, code);
    let (wide, signed) = (code >> 5 & 1 != 0, code >> 4 & 1 == 0);
    let width = if wide { 64 } else { 32 };
    let (result, flags) = float::float_to_integer(type_of(code), width, signed, a, rounding);
    cpu.context.float_flags |= flags.0;
    // Unsigned words are sign-extended, too.
    if wide { result } else { i64::from(result as i32) as u64 }
}
