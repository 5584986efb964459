//! Shifts and rotations.

use iced_x86::{Mnemonic, OpKind};

use crate::ir::{BinaryOp, Comparison, Type, Value};

use super::super::flags::{self, Family, Kind};
use super::super::helpers::id;
use super::operand::Operand;
use super::{Lifted, Lifter, Result};

impl Lifter {
    /// The count of a shift: its low 5 bits, 6 for 64-bit operands. A constant if the instruction says it.
    fn shift_count(&mut self, index: u32, ty: Type) -> Result<std::result::Result<u64, Value>> {
        let mask = if ty == Type::I64 { 63 } else { 31 };
        if self.i.op_kind(index) != OpKind::Register {
            return Ok(Ok(u64::from(self.i.immediate8()) & mask));
        }
        let count = self.read(index)?;
        let mask = self.constant(mask);
        Ok(Err(self.b.binary(BinaryOp::And, Type::I64, count.raw, mask)))
    }

    /// SHL, SHR, SAR.
    pub(super) fn shift(&mut self) -> Result {
        let ty = self.ty(0);
        let (op, family) = match self.i.mnemonic() {
            Mnemonic::Shr => (BinaryOp::ShiftRightUnsigned, Family::ShiftRight),
            Mnemonic::Sar => (BinaryOp::ShiftRightSigned, Family::ShiftRightSigned),
            _ => (BinaryOp::ShiftLeft, Family::ShiftLeft),
        };
        match self.shift_count(1, ty)? {
            Ok(0) => {
                // Nothing changes, but memory is accessed, and a 32-bit register loses its upper half.
                let old = self.read_to_modify(0)?;
                self.write(0, old.value)?;
            }
            Ok(count) => {
                let old = self.read_to_modify(0)?;
                let before_last = self.shift_step(op, ty, old, count - 1);
                let result = self.shift_step(op, ty, old, count);
                self.write(0, result)?;
                let (before_raw, result_raw) = (self.widen(ty, before_last), self.widen(ty, result));
                self.set_flags(
                    family,
                    ty,
                    Operand { value: result, raw: result_raw },
                    Operand { value: before_last, raw: before_raw },
                );
            }
            Err(count) => self.shift_by_value(op, family, ty, count)?,
        }
        Ok(Lifted::Next)
    }

    /// A shift by a known count, which may be the operand's width or more.
    fn shift_step(&mut self, op: BinaryOp, ty: Type, operand: Operand, count: u64) -> Value {
        if count == 0 {
            return operand.value;
        }
        if count < u64::from(ty.bits()) {
            let count = self.b.constant_of(ty, count);
            return self.b.binary(op, ty, operand.value, count);
        }
        if op == BinaryOp::ShiftRightSigned {
            let count = self.b.constant_of(ty, u64::from(ty.bits()) - 1);
            return self.b.binary(op, ty, operand.value, count);
        }
        self.zero(ty)
    }

    /// A shift by a count from 0 to 63 that is an I64.
    fn shift_wide(&mut self, op: BinaryOp, ty: Type, operand: Operand, count: Value) -> Value {
        // Narrow operands are shifted as 64-bit numbers, so that counts beyond their width need no care.
        if ty == Type::I64 {
            return self.b.binary(op, ty, operand.value, count);
        }
        let wide = if op == BinaryOp::ShiftRightSigned {
            self.b.sign_extend(ty, Type::I64, operand.value)
        } else {
            self.widen(ty, operand.value)
        };
        let shifted = self.b.binary(op, Type::I64, wide, count);
        self.typed(ty, shifted)
    }

    fn shift_by_value(&mut self, op: BinaryOp, family: Family, ty: Type, count: Value) -> Result<()> {
        let old = self.read_to_modify(0)?;
        let one = self.constant(1);
        let less = self.b.binary(BinaryOp::Sub, Type::I64, count, one);
        let before_last = self.shift_wide(op, ty, old, less);
        let result = self.shift_wide(op, ty, old, count);
        self.write(0, result)?;
        let (result_raw, before_raw) = (self.widen(ty, result), self.widen(ty, before_last));
        let kind = Kind { family, ty };
        self.put_flags_unless_zero(count, kind, result_raw, before_raw);
        Ok(())
    }

    /// Sets the flags if the count is not zero.
    fn put_flags_unless_zero(&mut self, count: Value, kind: Kind, a: Value, b: Value) {
        let [old_kind, old_a, old_b] = self.flag_registers();
        let zero = self.constant(0);
        let changes = self.b.compare(Comparison::NotEqual, Type::I64, count, zero);
        let kind = self.constant(kind.encode());
        let kind = self.b.select(Type::I64, changes, kind, old_kind);
        let a = self.b.select(Type::I64, changes, a, old_a);
        let b = self.b.select(Type::I64, changes, b, old_b);
        self.put_flag_registers(kind, a, b);
    }

    /// ROL, ROR, RCL, RCR.
    pub(super) fn rotate(&mut self) -> Result {
        use Mnemonic as M;
        let mnemonic = self.i.mnemonic();
        let ty = self.ty(0);
        let count = self.shift_count(1, ty)?;
        let always = matches!(count, Ok(1..));
        let count = count.map_or_else(|count| count, |count| self.constant(count));
        let old = self.read_to_modify(0)?;
        if matches!(mnemonic, M::Rcl | M::Rcr) {
            let flags = self.all_flags();
            return self.rotate_through_carry(ty, old, count, flags);
        }
        let op = if mnemonic == M::Rol { BinaryOp::RotateLeft } else { BinaryOp::RotateRight };
        let typed_count = self.typed(ty, count);
        let result = self.b.binary(op, ty, old.value, typed_count);
        self.write(0, result)?;
        let wide = self.widen(ty, result);
        let top = u64::from(ty.bits()) - 1;
        let bit = |lifter: &mut Lifter, number: u64| {
            let number = lifter.constant(number);
            let low = lifter.b.binary(BinaryOp::ShiftRightUnsigned, Type::I64, wide, number);
            let one = lifter.constant(1);
            lifter.b.binary(BinaryOp::And, Type::I64, low, one)
        };
        // CF is the bit that went around; OF tells whether the sign changed in the last step.
        let (carry, other) =
            if mnemonic == M::Rol { (bit(self, 0), bit(self, top)) } else { (bit(self, top), bit(self, top - 1)) };
        let overflow = self.b.binary(BinaryOp::Xor, Type::I64, carry, other);
        let place = self.constant(u64::from(flags::OF.trailing_zeros()));
        let overflow = self.b.binary(BinaryOp::ShiftLeft, Type::I64, overflow, place);
        let both = self.b.binary(BinaryOp::Or, Type::I64, carry, overflow);
        let mask = flags::CF | flags::OF;
        if always {
            self.change_flags(mask, both);
            return Ok(Lifted::Next);
        }
        let [flags, new] = self.changed_flags(mask, both);
        let zero = self.constant(0);
        let changes = self.b.compare(Comparison::NotEqual, Type::I64, count, zero);
        let all = self.b.select(Type::I64, changes, new, flags);
        self.set_explicit_flags(all);
        Ok(Lifted::Next)
    }

    fn rotate_through_carry(&mut self, ty: Type, old: Operand, count: Value, flags: Value) -> Result {
        let left = self.i.mnemonic() == Mnemonic::Rcl;
        let value = self.widen(ty, old.value);
        // Count, width and direction in one word.
        let how = self.constant(u64::from(ty.bits()) << 8 | u64::from(left) << 16);
        let how = self.b.binary(BinaryOp::Or, Type::I64, how, count);
        let result = self.helper(id::ROTATE_THROUGH_CARRY, &[value, how, flags]);
        let flags = self.helper(id::ROTATE_THROUGH_CARRY_FLAGS, &[value, how, flags]);
        let result = self.typed(ty, result);
        self.write(0, result)?;
        self.set_explicit_flags(flags);
        Ok(Lifted::Next)
    }

    /// SHLD and SHRD.
    pub(super) fn shift_double(&mut self) -> Result {
        let ty = self.ty(0);
        let left = self.i.mnemonic() == Mnemonic::Shld;
        let count = match self.shift_count(2, ty)? {
            Ok(count) => self.constant(count),
            Err(count) => count,
        };
        let source = self.read(1)?;
        let old = self.read_to_modify(0)?;
        let one = self.constant(1);
        let less = self.b.binary(BinaryOp::Sub, Type::I64, count, one);
        let result = self.joined_shift(ty, left, old, source, count);
        let before_last = self.joined_shift(ty, left, old, source, less);
        let zero = self.constant(0);
        let changes = self.b.compare(Comparison::NotEqual, Type::I64, count, zero);
        let result = self.b.select(ty, changes, result, old.value);
        self.write(0, result)?;
        let (result, before_last) = (self.widen(ty, result), self.widen(ty, before_last));
        let family = if left { Family::ShiftLeft } else { Family::ShiftRight };
        self.put_flags_unless_zero(count, Kind { family, ty }, result, before_last);
        Ok(Lifted::Next)
    }

    /// `old` shifted by `count`, with bits of `source` coming in. Anything if `count` is beyond 63.
    fn joined_shift(&mut self, ty: Type, left: bool, old: Operand, source: Operand, count: Value) -> Value {
        let bits = u64::from(ty.bits());
        let (out, back) = if left {
            (BinaryOp::ShiftLeft, BinaryOp::ShiftRightUnsigned)
        } else {
            (BinaryOp::ShiftRightUnsigned, BinaryOp::ShiftLeft)
        };
        if ty == Type::I64 {
            let width = self.constant(bits);
            let rest = self.b.binary(BinaryOp::Sub, Type::I64, width, count);
            let kept = self.b.binary(out, Type::I64, old.raw, count);
            let came = self.b.binary(back, Type::I64, source.raw, rest);
            let joined = self.b.binary(BinaryOp::Or, Type::I64, kept, came);
            let zero = self.constant(0);
            let none = self.b.compare(Comparison::Equal, Type::I64, count, zero);
            return self.b.select(Type::I64, none, old.raw, joined);
        }
        // Both operands side by side in 64 bits; for 16-bit operands, with the destination behind, as counts go to 31.
        let (old, source) = (self.widen(ty, old.value), self.widen(ty, source.value));
        let at = |lifter: &mut Lifter, value, by: u64| {
            let by = lifter.constant(by);
            lifter.b.binary(BinaryOp::ShiftLeft, Type::I64, value, by)
        };
        let or = |lifter: &mut Lifter, a, b| lifter.b.binary(BinaryOp::Or, Type::I64, a, b);
        if left {
            let (high, middle) = (at(self, old, bits), source);
            let mut joined = or(self, high, middle);
            let mut shift = bits;
            if ty == Type::I16 {
                joined = at(self, joined, 16);
                joined = or(self, joined, old);
                shift += 16;
            }
            let shifted = self.b.binary(BinaryOp::ShiftLeft, Type::I64, joined, count);
            let shift = self.constant(shift);
            let result = self.b.binary(BinaryOp::ShiftRightUnsigned, Type::I64, shifted, shift);
            return self.typed(ty, result);
        }
        let high = at(self, source, bits);
        let mut joined = or(self, high, old);
        if ty == Type::I16 {
            let top = at(self, old, 32);
            joined = or(self, joined, top);
        }
        let result = self.b.binary(BinaryOp::ShiftRightUnsigned, Type::I64, joined, count);
        self.typed(ty, result)
    }

    /// SHLX, SHRX, SARX, RORX.
    pub(super) fn shift_without_flags(&mut self) -> Result {
        let ty = self.ty(0);
        let operand = self.read(1)?;
        let op = match self.i.mnemonic() {
            Mnemonic::Shlx => BinaryOp::ShiftLeft,
            Mnemonic::Shrx => BinaryOp::ShiftRightUnsigned,
            Mnemonic::Sarx => BinaryOp::ShiftRightSigned,
            _ => BinaryOp::RotateRight,
        };
        // The operation takes counts modulo the width, as the instruction does.
        let count = if op == BinaryOp::RotateRight {
            self.b.constant_of(ty, u64::from(self.i.immediate8()))
        } else {
            self.read(2)?.value
        };
        let result = self.b.binary(op, ty, operand.value, count);
        self.write(0, result)?;
        Ok(Lifted::Next)
    }
}
