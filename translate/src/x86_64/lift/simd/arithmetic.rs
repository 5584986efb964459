//! Floating-point arithmetic, comparisons and conversions.

use crate::ir::{BinaryOp, FloatBinaryOp, FloatComparison, Op, Type, Value, VectorOp};

use super::super::super::flags;
use super::super::super::helpers::id;
use super::super::{Flags, Lifted, Lifter, Result};
use super::float_type;

impl Lifter {
    /// COMISS and its kin.
    pub(super) fn compare_floats(&mut self, ty: Type, quiet: bool) -> Result {
        if !self.flags.has(Flags::UNUSUAL_FLOAT) {
            let float = float_type(ty);
            let b = self.read_float(1, float)?;
            let a = self.read_float(0, float)?;
            let compare =
                |lifter: &mut Lifter, op: FloatComparison| lifter.b.push(Op::FloatCompare { op, ty: float, a, b });
            let unordered = compare(self, FloatComparison::Unordered);
            let equal = compare(self, FloatComparison::Equal);
            let less = compare(self, if quiet { FloatComparison::LessQuiet } else { FloatComparison::Less });
            let unordered = self.flag_if(unordered, flags::ZF | flags::PF | flags::CF);
            let (equal, less) = (self.flag_if(equal, flags::ZF), self.flag_if(less, flags::CF));
            let ordered = self.b.binary(BinaryOp::Or, Type::I64, equal, less);
            let all = self.b.binary(BinaryOp::Or, Type::I64, unordered, ordered);
            self.set_explicit_flags(all);
            return Ok(Lifted::Next);
        }
        let b = self.read_scalar(1, ty)?;
        let a = self.vector_half(0, 0);
        let how = self.constant(u64::from(ty == Type::I64) | u64::from(quiet) << 1);
        let all = self.helper(id::COMPARE_FLOATS, &[a, b, how]);
        self.set_explicit_flags(all);
        Ok(Lifted::Next)
    }

    /// CVTSS2SD and CVTSD2SS.
    pub(super) fn convert_float(&mut self, from: Type, to: Type) -> Result {
        let (_, second) = self.sources();
        let a = self.read_float(second, from)?;
        let result = self.b.push(Op::FloatConvert { from, to, a });
        self.write_low(to, result);
        Ok(Lifted::Next)
    }

    /// CVTSI2SS and CVTSI2SD, to the low `ty` of the destination.
    pub(super) fn convert_integer(&mut self, ty: Type) -> Result {
        let (_, second) = self.sources();
        let from = self.ty(second);
        let source = self.read(second)?;
        if self.flags.has(Flags::UNUSUAL_FLOAT) {
            let how = self.constant(u64::from(ty == Type::I64) | u64::from(from == Type::I64) << 1);
            let result = self.helper(id::INTEGER_TO_FLOAT, &[source.raw, how]);
            let result = self.typed(ty, result);
            self.write_low(ty, result);
        } else {
            let to = float_type(ty);
            let converted = self.b.push(Op::IntegerToFloat { from, to, a: source.value });
            self.write_low(to, converted);
        }
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

    /// The low lane of operand `index`, a register or memory, as a floating-point value.
    fn read_float(&mut self, index: u32, ty: Type) -> Result<Value> {
        if !self.is_memory(index) {
            let register = self.read_xmm(self.number(index));
            return Ok(self.extract(ty, 0, register));
        }
        let bits = if ty == Type::F32 { Type::I32 } else { Type::I64 };
        let place = self.place(bits, false)?;
        let loaded = self.load(place, bits);
        Ok(self.b.bitcast(bits, ty, loaded.value))
    }

    /// ADDSS and the like.
    pub(super) fn float_arithmetic(&mut self, op: Option<FloatBinaryOp>, ty: Type, packed: bool) -> Result {
        let (first, second) = self.sources();
        if !packed {
            let b = self.read_float(second, ty)?;
            let a = self.read_float(first, ty)?;
            let result = self.b.push(match op {
                Some(op) => Op::FloatBinary { op, ty, a, b },
                None => Op::FloatSquareRoot { ty, a: b },
            });
            self.write_low(ty, result);
            return Ok(Lifted::Next);
        }
        let b = self.read_vector(second)?;
        let result = match op {
            Some(op) => {
                let a = self.read_register(self.number(first), self.half_count());
                self.on_halves(|lifter, half| {
                    lifter.vector_op(VectorOp::Float { op, lane: ty, a: a[half], b: b[half] })
                })
            }
            // A square root has but one source, which may be in memory.
            None => self.on_halves(|lifter, half| lifter.vector_op(VectorOp::SquareRoot { lane: ty, a: b[half] })),
        };
        self.write_vector(result);
        Ok(Lifted::Next)
    }
}
