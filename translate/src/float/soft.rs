//! Floating point in software, for what the host cannot do.

use rustc_apfloat::ieee::{Double, Quad, Single};
use rustc_apfloat::{Float, FloatConvert, Round, Status, StatusAnd};

use super::{Flags, Remainder, Rounding, canonical_nan, infinity, is_nan, is_signalling_nan, shift_right, sign};
use crate::ir::{FloatBinaryOp, Type};

fn round(rounding: Rounding) -> Round {
    match rounding {
        Rounding::NearestEven => Round::NearestTiesToEven,
        Rounding::TowardZero => Round::TowardZero,
        Rounding::Down => Round::TowardNegative,
        Rounding::Up => Round::TowardPositive,
        Rounding::NearestAway => Round::NearestTiesToAway,
    }
}

fn done<F: Float>(result: StatusAnd<F>) -> (u64, Flags) {
    let table = [
        (Status::INEXACT, Flags::INEXACT),
        (Status::UNDERFLOW, Flags::UNDERFLOW),
        (Status::OVERFLOW, Flags::OVERFLOW),
        (Status::DIV_BY_ZERO, Flags::DIVISION_BY_ZERO),
        (Status::INVALID_OP, Flags::INVALID),
    ];
    let flags = table
        .iter()
        .filter(|(status, _)| result.status.contains(*status))
        .fold(Flags::NONE, |all, (_, one)| all | *one);
    (result.value.to_bits() as u64, flags)
}

/// The answer of an arithmetic operation with a NaN among its operands; `None` if there is none.
fn nan_operand(ty: Type, operands: &[u64]) -> Option<(u64, Flags)> {
    if !operands.iter().any(|&bits| is_nan(ty, bits)) {
        return None;
    }
    let signalling = operands.iter().any(|&bits| is_signalling_nan(ty, bits));
    Some((canonical_nan(ty), if signalling { Flags::INVALID } else { Flags::NONE }))
}

/// A number with more precision and a larger range of exponents than either type has.
fn widen(ty: Type, bits: u64) -> Quad {
    let mut loses = false;
    if ty == Type::F32 {
        Single::from_bits(bits.into()).convert(&mut loses).value
    } else {
        Double::from_bits(bits.into()).convert(&mut loses).value
    }
}

/// Two raised to a power.
fn power_of_two(exponent: i32) -> Quad {
    Quad::from_u128(1).value.scalbn(exponent)
}

/// Corrects the flags of a result. The library takes a result for tiny if it is subnormal, and for overflowed if it is infinite; what
/// counts is what it would be with an unbounded exponent. `exact` computes it, rounded towards zero.
fn with_flags_of(
    ty: Type,
    (bits, mut flags): (u64, Flags),
    rounding: Rounding,
    exact: impl FnOnce() -> StatusAnd<Quad>,
) -> (u64, Flags) {
    let (precision, least_exponent, smallest_normal) =
        if ty == Type::F32 { (24, -126, 1 << 23) } else { (53, -1022, 1 << 52) };
    let magnitude = bits & !sign(ty);
    let at_bottom = magnitude == smallest_normal;
    let at_top = magnitude == infinity(ty) - 1;
    if flags.0 & Flags::INEXACT.0 == 0 || !at_bottom && !at_top {
        return (bits, flags);
    }
    let StatusAnd { value, status } = exact();
    let value = value.abs();
    if at_top && value >= power_of_two(1 - least_exponent + 1) {
        flags = flags | Flags::OVERFLOW;
    }
    if at_bottom {
        // The largest number that rounds to less than the smallest normal one, or the smallest that does not.
        let to_nearest = matches!(rounding, Rounding::NearestEven | Rounding::NearestAway);
        let below = power_of_two(least_exponent - precision - i32::from(to_nearest));
        let threshold = power_of_two(least_exponent).sub_r(below, Round::TowardZero).value;
        let is_tiny = if to_nearest {
            value < threshold
        } else {
            value < threshold || value == threshold && !status.contains(Status::INEXACT)
        };
        if is_tiny {
            flags = flags | Flags::UNDERFLOW;
        }
    }
    (bits, flags)
}

fn apply<F: Float>(op: FloatBinaryOp, a: F, b: F, round: Round) -> StatusAnd<F> {
    match op {
        FloatBinaryOp::Add => a.add_r(b, round),
        FloatBinaryOp::Sub => a.sub_r(b, round),
        FloatBinaryOp::Mul => a.mul_r(b, round),
        FloatBinaryOp::Div => a.div_r(b, round),
    }
}

pub(super) fn binary(op: FloatBinaryOp, ty: Type, a: u64, b: u64, rounding: Rounding) -> (u64, Flags) {
    let (a, b) = (a & ty.mask(), b & ty.mask());
    if let Some(nan) = nan_operand(ty, &[a, b]) {
        return nan;
    }
    let round = round(rounding);
    let result = if ty == Type::F32 {
        done(apply(op, Single::from_bits(a.into()), Single::from_bits(b.into()), round))
    } else {
        done(apply(op, Double::from_bits(a.into()), Double::from_bits(b.into()), round))
    };
    with_flags_of(ty, result, rounding, || apply(op, widen(ty, a), widen(ty, b), Round::TowardZero))
}

pub(super) fn multiply_add(ty: Type, a: u64, b: u64, c: u64, rounding: Rounding) -> (u64, Flags) {
    fn apply<F: Float>(a: u64, b: u64, c: u64, round: Round) -> (u64, Flags) {
        done(F::from_bits(a.into()).mul_add_r(F::from_bits(b.into()), F::from_bits(c.into()), round))
    }
    let (a, b, c) = (a & ty.mask(), b & ty.mask(), c & ty.mask());
    if let Some(nan) = nan_operand(ty, &[a, b, c]) {
        return nan;
    }
    let result = if ty == Type::F32 {
        apply::<Single>(a, b, c, round(rounding))
    } else {
        apply::<Double>(a, b, c, round(rounding))
    };
    with_flags_of(ty, result, rounding, || widen(ty, a).mul_add_r(widen(ty, b), widen(ty, c), Round::TowardZero))
}

pub(super) fn convert(from: Type, a: u64, rounding: Rounding) -> (u64, Flags) {
    let a = a & from.mask();
    let to = if from == Type::F32 { Type::F64 } else { Type::F32 };
    if let Some((_, flags)) = nan_operand(from, &[a]) {
        return (canonical_nan(to), flags);
    }
    let mut loses = false;
    if from == Type::F32 {
        let result: StatusAnd<Double> = Single::from_bits(a.into()).convert_r(round(rounding), &mut loses);
        return done(result);
    }
    let result: StatusAnd<Single> = Double::from_bits(a.into()).convert_r(round(rounding), &mut loses);
    with_flags_of(to, done(result), rounding, || Status::OK.and(widen(from, a)))
}

pub(super) fn integer_to_float(to: Type, a: i128, rounding: Rounding) -> (u64, Flags) {
    if to == Type::F32 {
        done(Single::from_i128_r(a, round(rounding)))
    } else {
        done(Double::from_i128_r(a, round(rounding)))
    }
}

pub(super) fn square_root(ty: Type, a: u64, rounding: Rounding) -> (u64, Flags) {
    let a = a & ty.mask();
    if let Some(nan) = nan_operand(ty, &[a]) {
        return nan;
    }
    if a & !sign(ty) == 0 {
        return (a, Flags::NONE);
    }
    if a & sign(ty) != 0 {
        return (canonical_nan(ty), Flags::INVALID);
    }
    if a == infinity(ty) {
        return (a, Flags::NONE);
    }
    let (fraction_bits, bias) = if ty == Type::F32 { (23_u32, 127) } else { (52, 1023) };
    let field = a >> fraction_bits;
    let fraction = a & ((1 << fraction_bits) - 1);
    let significand = if field == 0 { fraction } else { fraction | 1 << fraction_bits };
    let mut exponent = field.max(1) as i32 - bias - fraction_bits as i32;
    // The value is radicand * 2^exponent. Make the exponent even and the radicand so large that its root has more bits
    // than the result keeps.
    let mut radicand = u128::from(significand);
    let shift = (radicand.leading_zeros() - 2) & !1;
    radicand <<= shift;
    exponent -= shift as i32;
    if exponent % 2 != 0 {
        radicand <<= 1;
        exponent -= 1;
    }
    let root = radicand.isqrt();
    // A last bit that says whether the root is exact takes part in rounding only.
    let sticky = u128::from(root * root != radicand);
    let extended = root << 1 | sticky;
    let exponent = exponent / 2 - 1;
    let drop = (128 - extended.leading_zeros()) - (fraction_bits + 1);
    let (mut result, remainder) = shift_right(extended, drop);
    result += u128::from(remainder.rounds_up(rounding, false, result & 1 != 0));
    // A root is never subnormal and never overflows; a carry out of rounding lands in the exponent.
    let field = (exponent + drop as i32 + fraction_bits as i32 + bias) as u64;
    let bits = ((field - 1) << fraction_bits) + result as u64;
    (bits, if remainder == Remainder::None { Flags::NONE } else { Flags::INEXACT })
}
