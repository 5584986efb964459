//! What the operations on vectors of 128 bits mean: one function for each kind, which the interpreter executes.

use crate::float::{self, Flags, Rounding};
use crate::interpret::{binary, sign_extend};
use crate::ir::{BinaryOp, FloatBinaryOp, LaneOp, LaneShift, Shuffle, Type};

/// How many lanes of a type a vector has.
pub fn lanes(ty: Type) -> u32 {
    128 / ty.bits()
}

/// A lane, zero-extended.
pub fn extract(ty: Type, index: u32, a: u128) -> u64 {
    (a >> ((index * ty.bits()) & 127)) as u64 & ty.mask()
}

/// The vector with a lane replaced.
pub fn insert(ty: Type, index: u32, a: u128, value: u64) -> u128 {
    let shift = (index * ty.bits()) & 127;
    a & !(u128::from(ty.mask()) << shift) | u128::from(value & ty.mask()) << shift
}

/// A vector of lanes by their numbers.
fn build(ty: Type, mut lane: impl FnMut(u32) -> u64) -> u128 {
    (0..lanes(ty)).fold(0, |vector, index| vector | u128::from(lane(index) & ty.mask()) << (index * ty.bits()))
}

/// [`crate::ir::VectorOp::Splat`].
pub fn splat(ty: Type, value: u64) -> u128 {
    build(ty, |_| value)
}

/// The integer type of half the width.
fn narrower(ty: Type) -> Type {
    match ty {
        Type::I64 => Type::I32,
        Type::I32 => Type::I16,
        _ => Type::I8,
    }
}

/// [`crate::ir::VectorOp::Lanes`].
pub fn lane_op(op: LaneOp, ty: Type, a: u128, b: u128) -> u128 {
    let each =
        |function: &dyn Fn(u64, u64) -> u64| build(ty, |lane| function(extract(ty, lane, a), extract(ty, lane, b)));
    let plain = |op: BinaryOp| each(&|a, b| binary(op, ty, a, b));
    let signed = |value: u64| sign_extend(ty, value) as i64;
    let (low, high) = (-1_i64 << (ty.bits() - 1), !(-1_i64 << (ty.bits() - 1)));
    let saturate = |value: i64| value.clamp(low, high) as u64;
    let saturate_unsigned = |value: i64| value.clamp(0, ty.mask() as i64) as u64;
    let truth = |holds: bool| if holds { ty.mask() } else { 0 };
    let half = narrower(ty);
    let low_half = |value: u64| sign_extend(half, value & half.mask()) as i64;
    let high_half = |value: u64| sign_extend(half, value >> half.bits()) as i64;
    match op {
        LaneOp::Add => plain(BinaryOp::Add),
        LaneOp::Sub => plain(BinaryOp::Sub),
        LaneOp::Mul => plain(BinaryOp::Mul),
        LaneOp::MulHighSigned => each(&|a, b| ((signed(a) * signed(b)) >> ty.bits()) as u64),
        LaneOp::MulHighUnsigned => each(&|a, b| (a * b) >> ty.bits()),
        LaneOp::MulLowHalvesSigned => each(&|a, b| low_half(a).wrapping_mul(low_half(b)) as u64),
        LaneOp::MulLowHalvesUnsigned => each(&|a, b| (a & half.mask()).wrapping_mul(b & half.mask())),
        LaneOp::MulAddHalves => {
            each(&|a, b| (low_half(a) * low_half(b)).wrapping_add(high_half(a) * high_half(b)) as u64)
        }
        LaneOp::And => a & b,
        LaneOp::Or => a | b,
        LaneOp::Xor => a ^ b,
        LaneOp::NotAnd => !a & b,
        LaneOp::AddSaturatingSigned => each(&|a, b| saturate(signed(a) + signed(b))),
        LaneOp::AddSaturatingUnsigned => each(&|a, b| saturate_unsigned(a as i64 + b as i64)),
        LaneOp::SubSaturatingSigned => each(&|a, b| saturate(signed(a) - signed(b))),
        LaneOp::SubSaturatingUnsigned => each(&|a, b| saturate_unsigned(a as i64 - b as i64)),
        LaneOp::MinSigned => plain(BinaryOp::MinSigned),
        LaneOp::MinUnsigned => plain(BinaryOp::MinUnsigned),
        LaneOp::MaxSigned => plain(BinaryOp::MaxSigned),
        LaneOp::MaxUnsigned => plain(BinaryOp::MaxUnsigned),
        LaneOp::Average => each(&|a, b| (a + b + 1) >> 1),
        LaneOp::Equal => each(&|a, b| truth(a == b)),
        LaneOp::GreaterSigned => each(&|a, b| truth(signed(a) > signed(b))),
        LaneOp::NarrowSigned | LaneOp::NarrowUnsigned => {
            let (low, high) = match op {
                LaneOp::NarrowSigned => (-1_i64 << (half.bits() - 1), !(-1_i64 << (half.bits() - 1))),
                _ => (0, half.mask() as i64),
            };
            build(half, |lane| {
                let from = if lane < lanes(ty) { a } else { b };
                signed(extract(ty, lane % lanes(ty), from)).clamp(low, high) as u64
            })
        }
        LaneOp::Permute => each_byte(a, b),
    }
}

/// [`LaneOp::Permute`].
fn each_byte(a: u128, b: u128) -> u128 {
    build(Type::I8, |lane| {
        let control = extract(Type::I8, lane, b);
        if control & 0x80 != 0 { 0 } else { extract(Type::I8, control as u32 & 15, a) }
    })
}

/// [`crate::ir::VectorOp::Shift`].
pub fn shift(op: LaneShift, ty: Type, a: u128, count: u64) -> u128 {
    let width = u64::from(ty.bits());
    let each = |op: BinaryOp, count: u64| build(ty, |lane| binary(op, ty, extract(ty, lane, a), count));
    match op {
        LaneShift::RightSigned => each(BinaryOp::ShiftRightSigned, count.min(width - 1)),
        _ if count >= width => 0,
        LaneShift::Left => each(BinaryOp::ShiftLeft, count),
        LaneShift::RightUnsigned => each(BinaryOp::ShiftRightUnsigned, count),
    }
}

/// [`crate::ir::VectorOp::Shuffle`].
pub fn shuffle(shuffle: Shuffle, a: u128, b: u128) -> u128 {
    let bytes = shuffle.bytes();
    build(Type::I8, |lane| match bytes[lane as usize] {
        byte @ 0..16 => extract(Type::I8, byte.into(), a),
        byte => extract(Type::I8, u32::from(byte) - 16, b),
    })
}

/// [`crate::ir::VectorOp::Widen`].
pub fn widen(signed: bool, ty: Type, a: u128) -> u128 {
    let wider = match ty {
        Type::I8 => Type::I16,
        Type::I16 => Type::I32,
        _ => Type::I64,
    };
    build(wider, |lane| {
        let value = extract(ty, lane, a);
        if signed { sign_extend(ty, value) } else { value }
    })
}

/// [`crate::ir::VectorOp::Mask`].
pub fn mask(ty: Type, a: u128) -> u64 {
    (0..lanes(ty)).fold(0, |mask, lane| mask | (extract(ty, lane, a) >> (ty.bits() - 1)) << lane)
}

/// [`crate::ir::VectorOp::Float`].
pub fn float(op: FloatBinaryOp, ty: Type, a: u128, b: u128, rounding: Rounding) -> (u128, Flags) {
    let mut flags = Flags::NONE;
    let result = build(ty, |lane| {
        let (result, raised) = float::binary(op, ty, extract(ty, lane, a), extract(ty, lane, b), rounding);
        flags = flags | raised;
        result
    });
    (result, flags)
}

/// [`crate::ir::VectorOp::SquareRoot`].
pub fn square_root(ty: Type, a: u128, rounding: Rounding) -> (u128, Flags) {
    let mut flags = Flags::NONE;
    let result = build(ty, |lane| {
        let (result, raised) = float::square_root(ty, extract(ty, lane, a), rounding);
        flags = flags | raised;
        result
    });
    (result, flags)
}
