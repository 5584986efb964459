//! Moves, extensions, addresses.

use iced_x86::{Mnemonic, OpKind, Register as Named};

use crate::ir::{BinaryOp, Type, Value};

use super::super::flags;
use super::super::helpers::id;
use super::super::registers::{RAX, RBX, RDX};
use super::operand::{segment_name, type_of_bytes};
use super::{Lifted, Lifter, Raises, Result};

impl Lifter {
    /// MOV and MOVNTI. (Those of segment, control and debug registers are in `system`.)
    pub(super) fn mov(&mut self) -> Result {
        let (to, from) = (self.i.op0_kind(), self.i.op1_kind());
        let is_special = |named: Named| named.is_segment_register() || named.is_cr() || named.is_dr() || named.is_tr();
        if to == OpKind::Register && is_special(self.i.op0_register())
            || from == OpKind::Register && is_special(self.i.op1_register())
        {
            return self.move_special();
        }
        let source = self.read(1)?;
        if to == OpKind::Memory {
            let ty = self.ty(0);
            let place = self.place(ty, true)?;
            self.store_raw(place, ty, source.raw);
        } else {
            self.write(0, source.value)?;
        }
        Ok(Lifted::Next)
    }

    /// Reads the selector of a segment register.
    pub(super) fn read_selector(&mut self, named: Named) -> Value {
        let number = self.constant(segment_name(named) as u64);
        self.helper(id::READ_SELECTOR, &[number])
    }

    /// MOVZX, MOVSX, MOVSXD.
    pub(super) fn extend(&mut self) -> Result {
        let (to, from) = (self.ty(0), self.ty(1));
        let source = self.read(1)?;
        let value = if to == from {
            source.value
        } else if self.i.mnemonic() == Mnemonic::Movzx {
            self.b.zero_extend(from, to, source.value)
        } else {
            self.b.sign_extend(from, to, source.value)
        };
        self.write(0, value)?;
        Ok(Lifted::Next)
    }

    pub(super) fn lea(&mut self) -> Result {
        if self.i.op1_kind() != OpKind::Memory {
            return Err(Raises::INVALID_OPCODE);
        }
        let ty = self.ty(0);
        let (address, displacement) = self.effective_address();
        let mut address = address;
        if displacement != 0 {
            let displacement = self.constant(displacement as i64 as u64);
            address = self.b.add(address, displacement);
        }
        let value = self.typed(ty, address);
        self.write(0, value)?;
        Ok(Lifted::Next)
    }

    /// CBW, CWDE, CDQE, CWD, CDQ, CQO.
    pub(super) fn sign_extend_accumulator(&mut self) -> Result {
        use Mnemonic as M;
        let raw = self.b.get(RAX);
        let (ty, into_high) = match self.i.mnemonic() {
            M::Cbw => (Type::I16, false),
            M::Cwde => (Type::I32, false),
            M::Cdqe => (Type::I64, false),
            M::Cwd => (Type::I16, true),
            M::Cdq => (Type::I32, true),
            _ => (Type::I64, true),
        };
        if into_high {
            let value = self.typed(ty, raw);
            let count = self.b.constant_of(ty, u64::from(ty.bits()) - 1);
            let sign = self.b.binary(BinaryOp::ShiftRightSigned, ty, value, count);
            self.write_sized(RDX, ty, sign);
        } else {
            let half = type_of_bytes(ty.bits() as usize / 16);
            let value = self.typed(half, raw);
            let wide = self.b.sign_extend(half, ty, value);
            self.write_sized(RAX, ty, wide);
        }
        Ok(Lifted::Next)
    }

    /// XLATB.
    pub(super) fn translate_byte(&mut self) -> Result {
        let ty = type_of_bytes(self.i.memory_base().size());
        let base = self.b.get(RBX);
        let accumulator = self.b.get(RAX);
        let byte = self.constant(0xff);
        let index = self.b.binary(BinaryOp::And, Type::I64, accumulator, byte);
        let sum = self.b.add(base, index);
        let mask = self.constant(ty.mask());
        let offset = self.b.binary(BinaryOp::And, Type::I64, sum, mask);
        let place = self.linear(segment_name(self.i.memory_segment()), offset, 0, 1, false);
        let value = self.load(place, Type::I8);
        self.write_named(Named::AL, value.value);
        Ok(Lifted::Next)
    }

    /// LAHF and SAHF.
    pub(super) fn flags_through_ah(&mut self) -> Result {
        let low = flags::ARITHMETIC & 0xff;
        let all = self.all_flags();
        if self.i.mnemonic() == Mnemonic::Lahf {
            let mask = self.constant(low);
            let value = self.b.binary(BinaryOp::And, Type::I64, all, mask);
            let fixed = self.constant(2);
            let value = self.b.binary(BinaryOp::Or, Type::I64, value, fixed);
            let value = self.typed(Type::I8, value);
            self.write_named(Named::AH, value);
            return Ok(Lifted::Next);
        }
        let ah = self.read_named(Named::AH);
        let mask = self.constant(low);
        let new = self.b.binary(BinaryOp::And, Type::I64, ah.raw, mask);
        let kept = self.constant(flags::OF);
        let kept = self.b.binary(BinaryOp::And, Type::I64, all, kept);
        let value = self.b.binary(BinaryOp::Or, Type::I64, new, kept);
        self.set_explicit_flags(value);
        Ok(Lifted::Next)
    }
}
