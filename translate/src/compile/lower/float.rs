//! Floating-point operations, whose exception flags count even where their results do not.

use std::mem::offset_of;

use cranelift_codegen::ir::condcodes::FloatCC;
use cranelift_codegen::ir::{self as clif, BlockArg, InstBuilder, MemFlagsData, types};

use super::super::{Function, SlowPath};
use super::{Lowering, clif_type, trusted};
use crate::cpu::Context;
use crate::float::{Flags, canonical_nan};
use crate::guest::Guest;
use crate::ir::{BinaryOp, FloatBinaryOp, FloatComparison, Op, Type, Value};

impl<G: Guest> Lowering<'_, G> {
    /// Makes the exception flags of the operation at a place count even if its result does not.
    pub(super) fn keep_flags(&mut self, place: usize, result: clif::Value) -> clif::Value {
        // The branch that looks for NaNs uses it, there and then.
        let is_looked_at =
            matches!(self.block.ops.get(place + 1), Some(Op::FloatCanonical { a, .. }) if usize::from(a.0) == place);
        if !is_looked_at {
            self.store_context(result, offset_of!(Context, float_scratch));
        }
        result
    }

    /// Arithmetic on numbers, or on all lanes of vectors.
    pub(super) fn float_binary(&mut self, op: FloatBinaryOp, a: clif::Value, b: clif::Value) -> clif::Value {
        let ins = self.builder.ins();
        match op {
            FloatBinaryOp::Add => ins.fadd(a, b),
            FloatBinaryOp::Sub => ins.fsub(a, b),
            FloatBinaryOp::Mul => ins.fmul(a, b),
            FloatBinaryOp::Div => ins.fdiv(a, b),
        }
    }

    /// Ends the block in progress: a block that is gone on to with a number, which is its parameter. NaNs are what the next block in progress is for.
    fn split_off_nans(&mut self, ty: Type, number: clif::Value) -> (clif::Block, clif::Value) {
        let (done, nan) = (self.builder.create_block(), self.cold_block());
        let result = self.builder.append_block_param(done, clif_type(ty));
        // Of what arithmetic gives, which is no signalling NaN, this raises no flags.
        let is_nan = self.builder.ins().fcmp(FloatCC::Unordered, number, number);
        self.builder.ins().brif(is_nan, nan, &[], done, &[BlockArg::Value(number)]);
        self.builder.switch_to_block(nan);
        (done, result)
    }

    pub(super) fn canonical(&mut self, ty: Type, a: clif::Value) -> clif::Value {
        let (done, result) = self.split_off_nans(ty, a);
        let nan = self.float_constant(ty, canonical_nan(ty));
        self.builder.ins().jump(done, &[BlockArg::Value(nan)]);
        self.builder.switch_to_block(done);
        result
    }

    pub(super) fn multiply_add(&mut self, ty: Type, a: clif::Value, b: clif::Value, c: clif::Value) -> clif::Value {
        if self.runtime.has_multiply_add {
            let sum = self.builder.ins().fma(a, b, c);
            let (done, result) = self.split_off_nans(ty, sum);
            let [a, b] = [a, b].map(|factor| self.wide_bits(ty, factor));
            let path = self.function(Function::Slow(SlowPath::NanOfMultiplyAdd));
            let width = self.constant(u64::from(ty.bits() / 8));
            self.builder.ins().call_indirect(self.signatures.slow_path[1], path, &[self.context, a, width, b]);
            let nan = self.float_constant(ty, canonical_nan(ty));
            self.builder.ins().jump(done, &[BlockArg::Value(nan)]);
            self.builder.switch_to_block(done);
            return result;
        }
        let function = match ty {
            Type::F32 => Function::MultiplyAdd32,
            _ => Function::MultiplyAdd64,
        };
        let arguments = [a, b, c].map(|operand| self.wide_bits(ty, operand));
        let bits = self.call_helper(function, arguments);
        let bits = if ty == Type::F32 { self.builder.ins().ireduce(types::I32, bits) } else { bits };
        self.builder.ins().bitcast(clif_type(ty), MemFlagsData::new(), bits)
    }

    /// The number with the bits that an operation on those of an F64 gives, where it only changes the sign.
    pub(super) fn change_of_sign(&mut self, op: BinaryOp, bits: Value, mask: Value) -> Option<clif::Value> {
        const SIGN: u64 = 1 << 63;
        let number = self.floats[usize::from(bits.0)]?;
        let Op::Const { ty: Type::I64, bits: mask } = self.block.ops[usize::from(mask.0)] else { return None };
        match op {
            BinaryOp::Xor if mask == SIGN => Some(self.builder.ins().fneg(number)),
            BinaryOp::And if mask == !SIGN => Some(self.builder.ins().fabs(number)),
            _ => None,
        }
    }

    /// The bits of a number, as an I64.
    fn wide_bits(&mut self, ty: Type, number: clif::Value) -> clif::Value {
        let integer = if ty == Type::F32 { types::I32 } else { types::I64 };
        let bits = self.builder.ins().bitcast(integer, MemFlagsData::new(), number);
        if ty == Type::F32 { self.builder.ins().uextend(types::I64, bits) } else { bits }
    }

    pub(super) fn float_constant(&mut self, ty: Type, bits: u64) -> clif::Value {
        match ty {
            Type::F32 => self.builder.ins().f32const(clif::immediates::Ieee32::with_bits(bits as u32)),
            _ => self.builder.ins().f64const(clif::immediates::Ieee64::with_bits(bits)),
        }
    }

    pub(super) fn float_compare(
        &mut self,
        place: usize,
        op: FloatComparison,
        a: clif::Value,
        b: clif::Value,
    ) -> clif::Value {
        let condition = match op {
            FloatComparison::Equal => FloatCC::Equal,
            FloatComparison::Less | FloatComparison::LessQuiet => FloatCC::LessThan,
            FloatComparison::LessEqual => FloatCC::LessThanOrEqual,
            FloatComparison::Unordered => FloatCC::Unordered,
        };
        let result = self.builder.ins().fcmp(condition, a, b);
        self.keep_flags(place, result);
        if matches!(op, FloatComparison::Less | FloatComparison::LessEqual) {
            // The host's comparison is the quiet one.
            let unordered = self.builder.ins().fcmp(FloatCC::Unordered, a, b);
            let (invalid, goes_on) = (self.cold_block(), self.builder.create_block());
            self.builder.ins().brif(unordered, invalid, &[], goes_on, &[]);
            self.builder.switch_to_block(invalid);
            let offset = offset_of!(Context, float_flags);
            let flags = self.builder.ins().load(types::I32, trusted(), self.context, offset as i32);
            let invalid = self.builder.ins().iconst(types::I32, i64::from(Flags::INVALID.0));
            let flags = self.builder.ins().bor(flags, invalid);
            self.store_context(flags, offset);
            self.builder.ins().jump(goes_on, &[]);
            self.builder.switch_to_block(goes_on);
        }
        result
    }
}
