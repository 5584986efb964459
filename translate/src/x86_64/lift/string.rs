//! String instructions. One without a repeat prefix is lifted; a repeated one is a helper's work, which stops now and
//! then so that interrupts are taken.

use iced_x86::{Mnemonic, OpKind, Register as Named};

use crate::ir::{BinaryOp, IndirectJump, Register, Terminator, Type, Value};

use super::super::flags::Family;
use super::super::helpers::{self, StringOperation, id};
use super::super::registers::{DIRECTION, RAX, RDI, RDX, RSI};
use super::super::segment::SegmentName;
use super::operand::{Operand, segment_name, width_of};
use super::{Flags, Lifted, Lifter, Raises, Result};

impl Lifter {
    /// Which operation, on which type.
    fn string_operation(&self) -> (StringOperation, Type) {
        use Mnemonic as M;
        let operation = match self.i.mnemonic() {
            M::Movsb | M::Movsw | M::Movsd | M::Movsq => StringOperation::Move,
            M::Cmpsb | M::Cmpsw | M::Cmpsd | M::Cmpsq => StringOperation::Compare,
            M::Stosb | M::Stosw | M::Stosd | M::Stosq => StringOperation::Store,
            M::Lodsb | M::Lodsw | M::Lodsd | M::Lodsq => StringOperation::Load,
            M::Scasb | M::Scasw | M::Scasd | M::Scasq => StringOperation::Scan,
            M::Insb | M::Insw | M::Insd => StringOperation::Input,
            _ => StringOperation::Output,
        };
        (operation, super::operand::type_of_bytes(self.i.memory_size().size()))
    }

    fn source_segment(&self) -> SegmentName {
        let has_source = (0..self.i.op_count()).any(|index| {
            matches!(self.i.op_kind(index), OpKind::MemorySegSI | OpKind::MemorySegESI | OpKind::MemorySegRSI)
        });
        if has_source { segment_name(self.i.memory_segment()) } else { SegmentName::Ds }
    }

    pub(super) fn string(&mut self) -> Result {
        let (operation, ty) = self.string_operation();
        let address_type = self.implied_address_type();
        let repeats = self.i.has_rep_prefix() || self.i.has_repne_prefix();
        let is_io = matches!(operation, StringOperation::Input | StringOperation::Output);
        if repeats || is_io {
            let how = helpers::RepeatedString {
                operation,
                width: width_of(ty),
                address_bits: address_type.bits(),
                segment: self.source_segment(),
                repeats,
                until_equal: self.i.has_repne_prefix(),
            };
            let how = self.constant(how.encode());
            let next = self.next_value();
            let again = self.code_constant(self.b.address());
            let target = self.helper(id::REPEATED_STRING, &[how, next, again]);
            return Ok(Lifted::End(if is_io {
                Terminator::LeaveIndirect { target }
            } else {
                Terminator::JumpIndirect { target, kind: IndirectJump::Plain }
            }));
        }
        match operation {
            StringOperation::Move => {
                let value = self.load_source(ty, address_type);
                self.store_destination(ty, address_type, value.raw);
                self.advance(RSI, ty, address_type);
                self.advance(RDI, ty, address_type);
            }
            StringOperation::Store => {
                let value = self.b.get(RAX);
                self.store_destination(ty, address_type, value);
                self.advance(RDI, ty, address_type);
            }
            StringOperation::Load => {
                let value = self.load_source(ty, address_type);
                self.write_sized(RAX, ty, value.value);
                self.advance(RSI, ty, address_type);
            }
            StringOperation::Compare => {
                let a = self.load_source(ty, address_type);
                let b = self.load_destination(ty, address_type);
                self.advance(RSI, ty, address_type);
                self.advance(RDI, ty, address_type);
                self.set_flags(Family::Sub, ty, a, b);
            }
            _ => {
                let raw = self.b.get(RAX);
                let a = Operand { value: self.typed(ty, raw), raw };
                let b = self.load_destination(ty, address_type);
                self.advance(RDI, ty, address_type);
                self.set_flags(Family::Sub, ty, a, b);
            }
        }
        Ok(Lifted::Next)
    }

    fn load_source(&mut self, ty: Type, address_type: Type) -> Operand {
        let offset = self.read_address_register(RSI, address_type);
        let place = self.linear(self.source_segment(), offset, 0, u64::from(ty.bits() / 8), false);
        self.load(place, ty)
    }

    fn load_destination(&mut self, ty: Type, address_type: Type) -> Operand {
        let offset = self.read_address_register(RDI, address_type);
        let place = self.linear(SegmentName::Es, offset, 0, u64::from(ty.bits() / 8), false);
        self.load(place, ty)
    }

    fn store_destination(&mut self, ty: Type, address_type: Type, raw: Value) {
        let offset = self.read_address_register(RDI, address_type);
        let place = self.linear(SegmentName::Es, offset, 0, u64::from(ty.bits() / 8), true);
        self.store_raw(place, ty, raw);
    }

    fn advance(&mut self, register: Register, ty: Type, address_type: Type) {
        let direction = self.b.get(DIRECTION);
        let bytes = self.constant(u64::from(ty.bits() / 8));
        let by = self.b.binary(BinaryOp::Mul, Type::I64, direction, bytes);
        let old = self.b.get(register);
        let new = self.b.add(old, by);
        let new = self.typed(address_type, new);
        self.write_sized(register, address_type, new);
    }

    /// IN and OUT.
    pub(super) fn port(&mut self) -> Result {
        let input = self.i.mnemonic() == Mnemonic::In;
        let (data, port) = if input { (0, 1) } else { (1, 0) };
        let ty = self.ty(data);
        let port = if self.i.op_kind(port) == OpKind::Register {
            let raw = self.b.get(RDX);
            let mask = self.constant(0xffff);
            self.b.binary(BinaryOp::And, Type::I64, raw, mask)
        } else {
            self.constant(u64::from(self.i.immediate8()))
        };
        let bytes = self.constant(u64::from(ty.bits() / 8));
        if !self.flags.has(Flags::IO_PRIVILEGED) || self.flags.has(Flags::VIRTUAL_8086) {
            self.helper(id::CHECK_PORT, &[port, bytes]);
        }
        if input {
            let raw = self.helper(id::READ_PORT, &[port, bytes]);
            let value = self.typed(ty, raw);
            self.write_sized(RAX, ty, value);
        } else {
            let value = self.read_named(match ty {
                Type::I8 => Named::AL,
                Type::I16 => Named::AX,
                _ => Named::EAX,
            });
            self.helper(id::WRITE_PORT, &[port, bytes, value.raw]);
        }
        let target = self.flags.wrap(self.b.next_address());
        Ok(Lifted::End(Terminator::Leave { target }))
    }

    /// CLI and STI.
    pub(super) fn interrupt_flag(&mut self) -> Result {
        if self.flags.is_real_or_virtual() && !self.flags.has(Flags::IO_PRIVILEGED)
            || !self.flags.has(Flags::IO_PRIVILEGED)
        {
            return Err(Raises::GENERAL_PROTECTION);
        }
        let sets = self.i.mnemonic() == Mnemonic::Sti;
        let set = self.constant(sets.into());
        self.helper(id::SET_INTERRUPT_FLAG, &[set]);
        self.shadow = sets;
        Ok(Lifted::Next)
    }
}
