//! Integer arithmetic, with the IR's results where the host would trap.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{self as clif, InstBuilder};

use super::{Lowering, clif_type};
use crate::guest::Guest;
use crate::ir::{BinaryOp, Type};

impl<G: Guest> Lowering<'_, G> {
    pub(super) fn binary(&mut self, op: BinaryOp, ty: Type, a: clif::Value, b: clif::Value) -> clif::Value {
        let ins = self.builder.ins();
        match op {
            BinaryOp::Add => ins.iadd(a, b),
            BinaryOp::Sub => ins.isub(a, b),
            BinaryOp::Mul => ins.imul(a, b),
            BinaryOp::MulHighSigned => ins.smulhi(a, b),
            BinaryOp::MulHighUnsigned => ins.umulhi(a, b),
            BinaryOp::DivSigned | BinaryOp::RemSigned => self.divide_signed(op, ty, a, b),
            BinaryOp::DivUnsigned | BinaryOp::RemUnsigned => {
                let (zero, divisor) = self.divisor_not_zero(ty, b);
                if op == BinaryOp::DivUnsigned {
                    let quotient = self.builder.ins().udiv(a, divisor);
                    let nothing = self.builder.ins().iconst(clif_type(ty), 0);
                    self.builder.ins().select(zero, nothing, quotient)
                } else {
                    let remainder = self.builder.ins().urem(a, divisor);
                    self.builder.ins().select(zero, a, remainder)
                }
            }
            BinaryOp::And => ins.band(a, b),
            BinaryOp::Or => ins.bor(a, b),
            BinaryOp::Xor => ins.bxor(a, b),
            BinaryOp::ShiftLeft => ins.ishl(a, b),
            BinaryOp::ShiftRightUnsigned => ins.ushr(a, b),
            BinaryOp::ShiftRightSigned => ins.sshr(a, b),
            BinaryOp::RotateLeft => ins.rotl(a, b),
            BinaryOp::RotateRight => ins.rotr(a, b),
            BinaryOp::MinSigned => self.choose(IntCC::SignedLessThan, a, b),
            BinaryOp::MinUnsigned => self.choose(IntCC::UnsignedLessThan, a, b),
            BinaryOp::MaxSigned => self.choose(IntCC::SignedGreaterThan, a, b),
            BinaryOp::MaxUnsigned => self.choose(IntCC::UnsignedGreaterThan, a, b),
        }
    }

    pub(super) fn choose(&mut self, condition: IntCC, a: clif::Value, b: clif::Value) -> clif::Value {
        let first = self.builder.ins().icmp(condition, a, b);
        self.builder.ins().select(first, a, b)
    }

    /// Whether the divisor is zero, and the divisor or else 1: the host's division traps on zero.
    pub(super) fn divisor_not_zero(&mut self, ty: Type, b: clif::Value) -> (clif::Value, clif::Value) {
        let zero = self.builder.ins().icmp_imm_s(IntCC::Equal, b, 0);
        let one = self.builder.ins().iconst(clif_type(ty), 1);
        (zero, self.builder.ins().select(zero, one, b))
    }

    pub(super) fn divide_signed(&mut self, op: BinaryOp, ty: Type, a: clif::Value, b: clif::Value) -> clif::Value {
        let (zero, divisor) = self.divisor_not_zero(ty, b);
        // MIN / -1 overflows, and traps on the host: it is divided by 1 instead, which gives the defined results.
        let least = crate::interpret::sign_extend(ty, 1 << (ty.bits() - 1)) as i64;
        let is_least = self.builder.ins().icmp_imm_s(IntCC::Equal, a, least);
        let is_minus_one = self.builder.ins().icmp_imm_s(IntCC::Equal, b, -1);
        let overflows = self.builder.ins().band(is_least, is_minus_one);
        let one = self.builder.ins().iconst(clif_type(ty), 1);
        let divisor = self.builder.ins().select(overflows, one, divisor);
        if op == BinaryOp::DivSigned {
            let quotient = self.builder.ins().sdiv(a, divisor);
            let nothing = self.builder.ins().iconst(clif_type(ty), 0);
            self.builder.ins().select(zero, nothing, quotient)
        } else {
            let remainder = self.builder.ins().srem(a, divisor);
            self.builder.ins().select(zero, a, remainder)
        }
    }
}
