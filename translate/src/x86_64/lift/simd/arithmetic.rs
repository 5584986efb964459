//! Floating-point arithmetic, comparisons and conversions.

use crate::ir::{BinaryOp, FloatBinaryOp, Op, Type, Value};

use super::super::super::helpers::id;
use super::super::{Flags, Lifted, Lifter, Result};
use super::float_type;

impl Lifter {
    /// COMISS and its kin.
    pub(super) fn compare_floats(&mut self, ty: Type, quiet: bool) -> Result {
        let b = self.read_scalar(1, ty)?;
        let a = self.vector_half(0, 0);
        let how = self.constant(u64::from(ty == Type::I64) | u64::from(quiet) << 1);
        let all = self.helper(id::COMPARE_FLOATS, &[a, b, how]);
        self.set_explicit_flags(all);
        Ok(Lifted::Next)
    }

    /// CVTSI2SS and CVTSI2SD, to the low `ty` of the destination.
    pub(super) fn convert_integer(&mut self, ty: Type) -> Result {
        let (_, second) = self.sources();
        let from = self.ty(second);
        let source = self.read(second)?;
        let result = if self.flags.has(Flags::UNUSUAL_FLOAT) {
            let how = self.constant(u64::from(ty == Type::I64) | u64::from(from == Type::I64) << 1);
            self.helper(id::INTEGER_TO_FLOAT, &[source.raw, how])
        } else {
            let to = float_type(ty);
            let converted = self.b.push(Op::IntegerToFloat { from, to, a: source.value });
            let bits = self.b.bitcast(to, ty, converted);
            self.widen(ty, bits)
        };
        self.write_low(ty, result);
        Ok(Lifted::Next)
    }

    /// CVTSS2SI and its kin.
    pub(super) fn convert_to_integer(&mut self, from: Type, truncates: bool) -> Result {
        let to = self.ty(0);
        let value = self.read_scalar(1, from)?;
        let how = u64::from(from == Type::I64) | u64::from(to == Type::I64) << 1 | u64::from(truncates) << 2;
        let how = self.constant(how);
        let result = self.helper(id::FLOAT_TO_INTEGER, &[value, how]);
        let result = self.typed(to, result);
        self.write(0, result)?;
        Ok(Lifted::Next)
    }

    /// A lane as a floating-point value: `position` 0 is the low one of a part.
    fn float_lane(&mut self, ty: Type, part: Value, position: u64) -> Value {
        if ty == Type::F64 {
            return self.b.bitcast(Type::I64, ty, part);
        }
        let by = self.constant(position * 32);
        let shifted = self.b.binary(BinaryOp::ShiftRightUnsigned, Type::I64, part, by);
        let bits = self.b.truncate(Type::I64, Type::I32, shifted);
        self.b.bitcast(Type::I32, ty, bits)
    }

    fn float_operation(&mut self, op: Option<FloatBinaryOp>, ty: Type, a: Value, b: Value) -> Value {
        match op {
            Some(op) => self.b.push(Op::FloatBinary { op, ty, a, b }),
            None => self.b.push(Op::FloatSquareRoot { ty, a: b }),
        }
    }

    /// ADDSS and the like.
    pub(super) fn float_arithmetic(&mut self, op: Option<FloatBinaryOp>, ty: Type, packed: bool) -> Result {
        let lane = if ty == Type::F32 { Type::I32 } else { Type::I64 };
        let (first, second) = self.sources();
        if !packed {
            let b = self.read_scalar(second, lane)?;
            let a = self.vector_half(first, 0);
            let (x, y) = (self.float_lane(ty, a, 0), self.float_lane(ty, b, 0));
            let result = self.float_operation(op, ty, x, y);
            let bits = self.b.bitcast(ty, lane, result);
            let bits = self.widen(lane, bits);
            self.write_low(lane, bits);
            return Ok(Lifted::Next);
        }
        let b = self.read_vector(second)?;
        let count = self.part_count();
        // A square root has but one source, which may be in memory.
        let a = if op.is_none() { b } else { self.read_register(self.number(first), count) };
        let mut result = self.no_parts();
        let lanes = if ty == Type::F32 { 2 } else { 1 };
        for part in 0..count {
            for position in 0..lanes {
                let (x, y) = (self.float_lane(ty, a[part], position), self.float_lane(ty, b[part], position));
                let value = self.float_operation(op, ty, x, y);
                let bits = self.b.bitcast(ty, lane, value);
                let bits = self.widen(lane, bits);
                result[part] = if position == 0 {
                    bits
                } else {
                    let by = self.constant(32);
                    let high = self.b.binary(BinaryOp::ShiftLeft, Type::I64, bits, by);
                    self.b.binary(BinaryOp::Or, Type::I64, result[part], high)
                };
            }
        }
        self.write_vector(result);
        Ok(Lifted::Next)
    }
}
