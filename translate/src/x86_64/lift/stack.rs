//! The stack.

use iced_x86::{Code, Mnemonic, OpKind};

use crate::ir::{BinaryOp, Register, Type, Value};

use super::super::registers::{RBP, RSP};
use super::super::segment::SegmentName;
use super::operand::{Place, type_of_bytes};
use super::{Flags, Lifted, Lifter, Result};

/// The order in which PUSHA pushes.
const ALL: [Register; 8] =
    [Register(0), Register(1), Register(2), Register(3), Register(4), Register(5), Register(6), Register(7)];

impl Lifter {
    /// Width of the stack pointer.
    pub(super) fn stack_type(&self) -> Type {
        if self.flags.is_64_bit() {
            Type::I64
        } else if self.flags.has(Flags::STACK_32) {
            Type::I32
        } else {
            Type::I16
        }
    }

    /// The type that a push or pop without operands to tell by moves: from the operand size of the instruction.
    pub(super) fn stack_operand_type(&self) -> Type {
        match self.i.stack_pointer_increment().unsigned_abs() {
            2 => Type::I16,
            4 => Type::I32,
            _ => Type::I64,
        }
    }

    /// The stack pointer plus `by`, as wide as the stack is.
    pub(super) fn stack_offset(&mut self, by: i64) -> Value {
        let pointer = self.b.get(RSP);
        self.offset_on_stack(pointer, by)
    }

    fn offset_on_stack(&mut self, pointer: Value, by: i64) -> Value {
        let mut offset = pointer;
        if by != 0 {
            let by = self.constant(by as u64);
            offset = self.b.add(offset, by);
        }
        let ty = self.stack_type();
        if ty == Type::I64 {
            return offset;
        }
        let mask = self.constant(ty.mask());
        self.b.binary(BinaryOp::And, Type::I64, offset, mask)
    }

    /// The place of an access on the stack.
    pub(super) fn stack_place(&mut self, offset: Value, ty: Type, write: bool) -> Place {
        self.linear(SegmentName::Ss, offset, 0, u64::from(ty.bits() / 8), write)
    }

    /// Sets the stack pointer to an offset that [`Lifter::stack_offset`] gave.
    pub(super) fn set_stack_pointer(&mut self, offset: Value) {
        let ty = self.stack_type();
        let value = self.typed(ty, offset);
        self.write_sized(RSP, ty, value);
    }

    /// Pushes the low bits of an I64.
    pub(super) fn push_raw(&mut self, ty: Type, raw: Value) {
        let offset = self.stack_offset(-i64::from(ty.bits() / 8));
        let place = self.stack_place(offset, ty, true);
        self.store_raw(place, ty, raw);
        self.set_stack_pointer(offset);
    }

    /// Reads the top of the stack, `by` bytes above the pointer, as an I64.
    pub(super) fn peek(&mut self, ty: Type, by: i64) -> Value {
        let offset = self.stack_offset(by);
        let place = self.stack_place(offset, ty, false);
        self.load_raw(place, ty)
    }

    pub(super) fn push(&mut self) -> Result {
        let ty = self.stack_operand_type();
        let kind = self.i.op0_kind();
        let raw = match kind {
            OpKind::Register if self.i.op0_register().is_segment_register() => {
                self.read_selector(self.i.op0_register())
            }
            OpKind::Register | OpKind::Memory => self.read(0)?.raw,
            _ => self.constant(self.i.immediate(0)),
        };
        self.push_raw(ty, raw);
        Ok(Lifted::Next)
    }

    pub(super) fn pop(&mut self) -> Result {
        let ty = self.stack_operand_type();
        if self.i.op0_kind() == OpKind::Register && self.i.op0_register().is_segment_register() {
            return self.pop_segment(ty);
        }
        let raw = self.peek(ty, 0);
        let value = self.typed(ty, raw);
        let after = self.stack_offset(i64::from(ty.bits() / 8));
        if self.i.op0_kind() == OpKind::Register {
            self.set_stack_pointer(after);
            self.write(0, value)?;
            return Ok(Lifted::Next);
        }
        // The address is computed with the stack pointer already increased; if its segment or the store faults, it must not be.
        let before = self.b.get(RSP);
        self.set_stack_pointer(after);
        let address = self.effective_address();
        self.b.put(RSP, before);
        let place = self.place_at(address, u64::from(ty.bits() / 8), true);
        self.store(place, ty, value);
        self.set_stack_pointer(after);
        Ok(Lifted::Next)
    }

    pub(super) fn push_all(&mut self) -> Result {
        let ty = if self.i.mnemonic() == Mnemonic::Pusha { Type::I16 } else { Type::I32 };
        let bytes = i64::from(ty.bits() / 8);
        for (position, register) in ALL.into_iter().enumerate() {
            let raw = self.b.get(register);
            let offset = self.stack_offset(-bytes * (position as i64 + 1));
            let place = self.stack_place(offset, ty, true);
            self.store_raw(place, ty, raw);
        }
        let offset = self.stack_offset(-bytes * 8);
        self.set_stack_pointer(offset);
        Ok(Lifted::Next)
    }

    pub(super) fn pop_all(&mut self) -> Result {
        let ty = if self.i.mnemonic() == Mnemonic::Popa { Type::I16 } else { Type::I32 };
        let bytes = i64::from(ty.bits() / 8);
        let values: Vec<Value> = (0..8).map(|position| self.peek(ty, bytes * position)).collect();
        let offset = self.stack_offset(bytes * 8);
        for (raw, register) in values.into_iter().zip(ALL.into_iter().rev()) {
            if register != RSP {
                let value = self.typed(ty, raw);
                self.write_sized(register, ty, value);
            }
        }
        self.set_stack_pointer(offset);
        Ok(Lifted::Next)
    }

    pub(super) fn enter(&mut self) -> Result {
        let size = i64::from(self.i.immediate16());
        let level = i64::from(self.i.immediate8_2nd() & 31);
        let ty = match self.i.code() {
            Code::Enterw_imm16_imm8 => Type::I16,
            Code::Enterd_imm16_imm8 => Type::I32,
            _ => Type::I64,
        };
        let bytes = i64::from(ty.bits() / 8);
        let frame = self.stack_offset(-bytes);
        let old = self.b.get(RBP);
        let place = self.stack_place(frame, ty, true);
        self.store_raw(place, ty, old);
        // The frame pointer is all of ESP, of which a 16-bit stack changes the lower half only.
        let pointer = if self.stack_type() == Type::I16 {
            let stack = self.b.get(RSP);
            let upper = self.constant(!0xffff);
            let upper = self.b.binary(BinaryOp::And, Type::I64, stack, upper);
            self.b.binary(BinaryOp::Or, Type::I64, upper, frame)
        } else {
            frame
        };
        // Copies of the pointers to the enclosing frames, then that of the new one.
        for number in 1..level {
            let from = self.offset_on_stack(old, -bytes * number);
            let place = self.stack_place(from, ty, false);
            let copied = self.load_raw(place, ty);
            let to = self.stack_offset(-bytes * (number + 1));
            let place = self.stack_place(to, ty, true);
            self.store_raw(place, ty, copied);
        }
        if level > 0 {
            let to = self.stack_offset(-bytes * (level + 1));
            let place = self.stack_place(to, ty, true);
            self.store_raw(place, ty, pointer);
        }
        let end = self.stack_offset(-bytes * (level + 1) - size);
        // The new top of the stack must be there to be written to, though nothing is.
        let top = self.stack_place(end, ty, true);
        self.probe_write(top, u64::from(ty.bits() / 8));
        let pointer = self.typed(ty, pointer);
        self.write_sized(RBP, ty, pointer);
        self.set_stack_pointer(end);
        Ok(Lifted::Next)
    }

    pub(super) fn leave(&mut self) -> Result {
        let ty = match self.i.code() {
            Code::Leavew => Type::I16,
            Code::Leaved => Type::I32,
            _ => Type::I64,
        };
        let frame = self.b.get(RBP);
        let offset = self.offset_on_stack(frame, 0);
        let place = self.stack_place(offset, ty, false);
        let raw = self.load_raw(place, ty);
        let value = self.typed(ty, raw);
        let after = self.offset_on_stack(frame, i64::from(ty.bits() / 8));
        self.set_stack_pointer(after);
        self.write_sized(RBP, ty, value);
        Ok(Lifted::Next)
    }

    /// The type of so many bytes, from the instruction's operand size.
    pub(super) fn near_type(&self) -> Type {
        type_of_bytes(self.i.stack_pointer_increment().unsigned_abs() as usize)
    }
}
