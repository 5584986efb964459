//! Floating-point operations, whose exception flags count even where their results do not.

use std::mem::offset_of;

use cranelift_codegen::ir::condcodes::FloatCC;
use cranelift_codegen::ir::{self as clif, InstBuilder, MemFlagsData, types};

use super::super::Function;
use super::{Lowering, clif_type, trusted};
use crate::cpu::Context;
use crate::float::Flags;
use crate::guest::Guest;
use crate::ir::{FloatBinaryOp, FloatComparison, Type};

impl<G: Guest> Lowering<'_, G> {
    /// Makes the operation's exception flags count even if its result does not.
    pub(super) fn keep_flags(&mut self, result: clif::Value) -> clif::Value {
        self.store_context(result, offset_of!(Context, float_scratch));
        result
    }

    /// Arithmetic on numbers, or on all lanes of vectors.
    pub(super) fn float_binary(&mut self, op: FloatBinaryOp, a: clif::Value, b: clif::Value) -> clif::Value {
        let ins = self.builder.ins();
        let result = match op {
            FloatBinaryOp::Add => ins.fadd(a, b),
            FloatBinaryOp::Sub => ins.fsub(a, b),
            FloatBinaryOp::Mul => ins.fmul(a, b),
            FloatBinaryOp::Div => ins.fdiv(a, b),
        };
        self.keep_flags(result)
    }

    pub(super) fn square_root(&mut self, a: clif::Value) -> clif::Value {
        let result = self.builder.ins().sqrt(a);
        self.keep_flags(result)
    }

    pub(super) fn multiply_add(&mut self, ty: Type, a: clif::Value, b: clif::Value, c: clif::Value) -> clif::Value {
        if self.runtime.has_multiply_add {
            let result = self.builder.ins().fma(a, b, c);
            return self.keep_flags(result);
        }
        let function = match ty {
            Type::F32 => Function::MultiplyAdd32,
            _ => Function::MultiplyAdd64,
        };
        let integer = if ty == Type::F32 { types::I32 } else { types::I64 };
        let arguments = [a, b, c].map(|operand| {
            let bits = self.builder.ins().bitcast(integer, MemFlagsData::new(), operand);
            if ty == Type::F32 { self.builder.ins().uextend(types::I64, bits) } else { bits }
        });
        let bits = self.call_helper(function, arguments);
        let bits = if ty == Type::F32 { self.builder.ins().ireduce(types::I32, bits) } else { bits };
        self.builder.ins().bitcast(clif_type(ty), MemFlagsData::new(), bits)
    }

    pub(super) fn float_compare(&mut self, op: FloatComparison, a: clif::Value, b: clif::Value) -> clif::Value {
        let condition = match op {
            FloatComparison::Equal => FloatCC::Equal,
            FloatComparison::Less | FloatComparison::LessQuiet => FloatCC::LessThan,
            FloatComparison::LessEqual => FloatCC::LessThanOrEqual,
            FloatComparison::Unordered => FloatCC::Unordered,
        };
        let result = self.builder.ins().fcmp(condition, a, b);
        self.keep_flags(result);
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
