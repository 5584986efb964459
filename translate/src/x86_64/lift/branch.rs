//! Jumps, calls and returns within a segment. (Those between segments are in `system`.)

use iced_x86::{ConditionCode, Mnemonic, OpKind};

use crate::ir::{BinaryOp, Comparison, IndirectJump, Register, Terminator, Type, Value};

use super::super::helpers::id;
use super::super::registers::{RCX, segment_base};
use super::super::segment::SegmentName;
use super::operand::type_of_bytes;
use super::{Flags, Lifted, Lifter, Result};

/// Where a near jump goes.
#[derive(Clone, Copy)]
pub(super) enum Target {
    /// A linear address that is known.
    Known(u64),
    /// An I64.
    Computed(Value),
}

impl Lifter {
    /// Mask of an instruction pointer under the operand size of the jump in progress.
    fn pointer_mask(&self) -> u64 {
        if self.flags.is_64_bit() {
            return u64::MAX;
        }
        match self.i.op0_kind() {
            OpKind::NearBranch16 => 0xffff,
            OpKind::NearBranch32 => 0xffff_ffff,
            _ => self.ty(0).mask(),
        }
    }

    /// The offset in the code segment of the next instruction, as an I64.
    pub(super) fn next_offset(&mut self) -> Value {
        let next = self.next_value();
        if self.flags.has(Flags::FLAT_CODE) {
            return next;
        }
        let base = self.b.get(segment_base(SegmentName::Cs));
        let offset = self.b.binary(BinaryOp::Sub, Type::I64, next, base);
        let mask = self.constant(0xffff_ffff);
        self.b.binary(BinaryOp::And, Type::I64, offset, mask)
    }

    /// Where the direct jump in progress goes.
    fn near_target(&mut self) -> Target {
        let mask = self.pointer_mask();
        if self.flags.has(Flags::FLAT_CODE) {
            return Target::Known(self.i.near_branch_target() & mask);
        }
        // The decoder takes linear addresses for offsets; only the distance is meant.
        let distance = self.i.near_branch_target().wrapping_sub(self.b.next_address());
        let next = self.next_offset();
        let distance = self.constant(distance);
        let target = self.b.add(next, distance);
        let mask = self.constant(mask);
        let target = self.b.binary(BinaryOp::And, Type::I64, target, mask);
        Target::Computed(self.code_address(target))
    }

    /// The linear address of an offset in the code segment, which must be within its limit.
    pub(super) fn code_address(&mut self, offset: Value) -> Value {
        if self.flags.has(Flags::FLAT_CODE) { offset } else { self.helper(id::CODE_ADDRESS, &[offset]) }
    }

    fn go(&mut self, target: Target) -> Lifted {
        Lifted::End(match target {
            Target::Known(target) => Terminator::Jump { target },
            Target::Computed(target) => Terminator::JumpIndirect { target, kind: IndirectJump::Plain },
        })
    }

    /// Goes to the direct target if the I8 condition holds, else on.
    fn go_if(&mut self, condition: Value) -> Lifted {
        let next = self.flags.wrap(self.b.next_address());
        if self.flags.has(Flags::FLAT_CODE) {
            let taken = self.i.near_branch_target() & self.pointer_mask();
            return Lifted::End(Terminator::Branch { condition, taken, not_taken: next });
        }
        let distance = self.i.near_branch_target().wrapping_sub(self.b.next_address());
        let offset = self.next_offset();
        let mask = self.constant(self.pointer_mask());
        let distance = self.constant(distance);
        let taken = self.b.add(offset, distance);
        let taken = self.b.binary(BinaryOp::And, Type::I64, taken, mask);
        // Not taken, nothing is checked: the next instruction is where it is.
        let chosen = self.b.select(Type::I64, condition, taken, offset);
        let target = self.code_address(chosen);
        Lifted::End(Terminator::JumpIndirect { target, kind: IndirectJump::Plain })
    }

    pub(super) fn jump_conditional(&mut self) -> Result {
        let condition = self.condition(self.i.condition_code());
        Ok(self.go_if(condition))
    }

    pub(super) fn jump(&mut self) -> Result {
        match self.i.op0_kind() {
            OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 => {
                let target = self.near_target();
                Ok(self.go(target))
            }
            OpKind::FarBranch16 | OpKind::FarBranch32 => self.far_jump(),
            OpKind::Memory if self.i.is_jmp_far_indirect() => self.far_jump(),
            _ => {
                let target = self.indirect_target()?;
                Ok(Lifted::End(Terminator::JumpIndirect { target, kind: IndirectJump::Plain }))
            }
        }
    }

    /// The linear address that the operand in a register or memory gives.
    fn indirect_target(&mut self) -> Result<Value> {
        let ty = self.ty(0);
        let operand = self.read(0)?;
        let offset = self.widen(ty, operand.value);
        Ok(self.code_address(offset))
    }

    pub(super) fn call(&mut self) -> Result {
        match self.i.op0_kind() {
            OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 => {
                let target = self.near_target();
                let back = self.next_offset();
                self.push_raw(self.near_type(), back);
                Ok(self.go(target))
            }
            OpKind::FarBranch16 | OpKind::FarBranch32 => self.far_call(),
            OpKind::Memory if self.i.is_call_far_indirect() => self.far_call(),
            _ => {
                let target = self.indirect_target()?;
                let back = self.next_offset();
                self.push_raw(self.near_type(), back);
                Ok(Lifted::End(Terminator::JumpIndirect { target, kind: IndirectJump::Call }))
            }
        }
    }

    pub(super) fn ret(&mut self) -> Result {
        let extra = if self.i.op_count() == 1 { i64::from(self.i.immediate16()) } else { 0 };
        let bytes = i64::from(self.i.stack_pointer_increment()) - extra;
        let ty = type_of_bytes(bytes as usize);
        let raw = self.peek(ty, 0);
        let target = self.code_address(raw);
        let offset = self.stack_offset(bytes + extra);
        self.set_stack_pointer(offset);
        Ok(Lifted::End(Terminator::JumpIndirect { target, kind: IndirectJump::Return }))
    }

    /// The counter of LOOP, JCXZ and REP: its type.
    fn counter_type(&self) -> Type {
        use iced_x86::Code as C;
        match self.i.mnemonic() {
            Mnemonic::Jcxz => return Type::I16,
            Mnemonic::Jecxz => return Type::I32,
            Mnemonic::Jrcxz => return Type::I64,
            _ => {}
        }
        match self.i.code() {
            C::Loop_rel8_16_CX
            | C::Loop_rel8_32_CX
            | C::Loope_rel8_16_CX
            | C::Loope_rel8_32_CX
            | C::Loopne_rel8_16_CX
            | C::Loopne_rel8_32_CX => Type::I16,
            C::Loop_rel8_16_RCX
            | C::Loop_rel8_64_RCX
            | C::Loope_rel8_16_RCX
            | C::Loope_rel8_64_RCX
            | C::Loopne_rel8_16_RCX
            | C::Loopne_rel8_64_RCX => Type::I64,
            _ => Type::I32,
        }
    }

    /// LOOP, LOOPE, LOOPNE.
    pub(super) fn loops(&mut self) -> Result {
        let ty = self.counter_type();
        let counter: Register = RCX;
        let raw = self.b.get(counter);
        let old = self.typed(ty, raw);
        let one = self.b.constant_of(ty, 1);
        let new = self.b.binary(BinaryOp::Sub, ty, old, one);
        let zero = self.zero(ty);
        let mut condition = self.b.compare(Comparison::NotEqual, ty, new, zero);
        let code = match self.i.mnemonic() {
            Mnemonic::Loope => Some(ConditionCode::e),
            Mnemonic::Loopne => Some(ConditionCode::ne),
            _ => None,
        };
        if let Some(code) = code {
            let also = self.condition(code);
            condition = self.b.binary(BinaryOp::And, Type::I8, condition, also);
        }
        let end = self.go_if(condition);
        self.write_sized(counter, ty, new);
        Ok(end)
    }

    /// JCXZ, JECXZ, JRCXZ.
    pub(super) fn jump_if_counter_zero(&mut self) -> Result {
        let ty = self.counter_type();
        let raw = self.b.get(RCX);
        let counter = self.typed(ty, raw);
        let zero = self.zero(ty);
        let condition = self.b.compare(Comparison::Equal, ty, counter, zero);
        Ok(self.go_if(condition))
    }
}
