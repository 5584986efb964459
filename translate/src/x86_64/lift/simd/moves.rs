//! Moves between vector registers, memory and general-purpose registers.

use iced_x86::OpKind;

use crate::ir::{Type, Value};

use super::super::super::helpers::id;
use super::super::super::registers::{RDI, vector_part};
use super::super::operand::segment_name;
use super::super::{Lifted, Lifter, Raises, Result};
use crate::ir::BinaryOp;

impl Lifter {
    /// MOVUPS and its kin; `aligned`: MOVAPS.
    pub(super) fn move_whole(&mut self, aligned: bool) -> Result {
        let count = self.part_count();
        if self.is_memory(0) {
            let place = self.place_of_vector(count, aligned, true)?;
            let parts = self.read_register(self.number(1), count);
            self.store_vector(place, &parts[..count]);
            return Ok(Lifted::Next);
        }
        let value = if self.is_memory(1) {
            let place = self.place_of_vector(count, aligned, false)?;
            self.load_vector(place, count)
        } else {
            self.read_register(self.number(1), count)
        };
        self.write_vector(value);
        Ok(Lifted::Next)
    }

    /// MOVSS and MOVSD.
    pub(super) fn move_scalar(&mut self, ty: Type) -> Result {
        if self.is_memory(0) {
            let place = self.place(ty, true)?;
            let value = self.vector_half(1, 0);
            self.store_raw(place, ty, value);
        } else if self.is_memory(1) {
            let place = self.place(ty, false)?;
            let mut parts = self.no_parts();
            parts[0] = self.load_raw(place, ty);
            self.write_vector(parts);
        } else {
            let (_, second) = self.sources();
            let value = self.vector_half(second, 0);
            self.write_low(ty, value);
        }
        Ok(Lifted::Next)
    }

    /// MOVD and MOVQ.
    pub(super) fn move_between(&mut self) -> Result {
        let is_xmm = |lifter: &Lifter, index| {
            lifter.i.op_kind(index) == OpKind::Register && lifter.i.op_register(index).is_xmm()
        };
        if is_xmm(self, 0) {
            let mut parts = self.no_parts();
            parts[0] = if is_xmm(self, 1) {
                self.vector_half(1, 0)
            } else {
                let ty = self.ty(1);
                let source = self.read(1)?;
                self.widen(ty, source.value)
            };
            self.write_vector(parts);
            return Ok(Lifted::Next);
        }
        let ty = self.ty(0);
        let low = self.vector_half(1, 0);
        let value = self.typed(ty, low);
        self.write(0, value)?;
        Ok(Lifted::Next)
    }

    /// MOVLPS, MOVHPS: between a half and memory.
    pub(super) fn move_half(&mut self, part: u8) -> Result {
        let write = self.is_memory(0);
        let place = self.place(Type::I64, write)?;
        if write {
            let value = self.vector_half(1, part);
            self.store_raw(place, Type::I64, value);
        } else {
            let value = self.load_raw(place, Type::I64);
            self.replace_half(part, value);
        }
        Ok(Lifted::Next)
    }

    /// MOVHLPS, MOVLHPS.
    pub(super) fn move_from_half(&mut self, from: u8, to: u8) -> Result {
        let (_, second) = self.sources();
        let value = self.vector_half(second, from);
        self.replace_half(to, value);
        Ok(Lifted::Next)
    }

    /// Writes half `part` of the destination; the other is the first source's.
    pub(super) fn replace_half(&mut self, part: u8, value: Value) {
        let (first, _) = self.sources();
        let number = self.number(first);
        if !self.is_vex() {
            return self.b.put(vector_part(number, part), value);
        }
        let mut parts = self.read_register(number, 2);
        parts[usize::from(part)] = value;
        self.write_vector(parts);
    }

    /// VZEROALL and VZEROUPPER: parts from `first` on of all registers that the mode has.
    pub(super) fn zero_registers(&mut self, first: u8) -> Result {
        let zero = self.constant(0);
        for number in 0..if self.flags.is_64_bit() { 16 } else { 8 } {
            for part in first..4 {
                self.b.put(vector_part(number, part), zero);
            }
        }
        Ok(Lifted::Next)
    }

    /// VBROADCASTSS and its kin.
    pub(super) fn broadcast(&mut self, ty: Type) -> Result {
        let value = self.read_scalar(1, ty)?;
        let part = if ty == Type::I64 {
            value
        } else {
            let mask = self.constant(ty.mask());
            let lane = self.b.binary(BinaryOp::And, Type::I64, value, mask);
            let ones = self.constant(u64::MAX / ty.mask());
            self.b.binary(BinaryOp::Mul, Type::I64, lane, ones)
        };
        let count = self.part_count();
        let mut parts = self.no_parts();
        parts[..count].fill(part);
        self.write_vector(parts);
        Ok(Lifted::Next)
    }

    /// VBROADCASTF128.
    pub(super) fn broadcast_half(&mut self) -> Result {
        if !self.is_memory(1) {
            return Err(Raises::INVALID_OPCODE);
        }
        let place = self.place_of_vector(2, false, false)?;
        let [low, high, ..] = self.load_vector(place, 2);
        self.write_vector([low, high, low, high]);
        Ok(Lifted::Next)
    }

    /// VINSERTF128.
    pub(super) fn insert_half(&mut self) -> Result {
        let half = if self.is_memory(2) {
            let place = self.place_of_vector(2, false, false)?;
            self.load_vector(place, 2)
        } else {
            self.read_register(self.number(2), 2)
        };
        let mut parts = self.read_register(self.number(1), 4);
        let first = if self.i.immediate8() & 1 != 0 { 2 } else { 0 };
        parts[first..first + 2].copy_from_slice(&half[..2]);
        self.write_vector(parts);
        Ok(Lifted::Next)
    }

    /// VEXTRACTF128.
    pub(super) fn extract_half(&mut self) -> Result {
        let parts = self.read_register(self.number(1), 4);
        let half = if self.i.immediate8() & 1 != 0 { [parts[2], parts[3]] } else { [parts[0], parts[1]] };
        if self.is_memory(0) {
            let place = self.place_of_vector(2, false, true)?;
            self.store_vector(place, &half);
            return Ok(Lifted::Next);
        }
        let zero = self.constant(0);
        self.write_vector([half[0], half[1], zero, zero]);
        Ok(Lifted::Next)
    }

    /// MASKMOVDQU: the bytes whose mask byte has its sign set.
    pub(super) fn store_masked(&mut self) -> Result {
        let value = self.read_register(self.number(1), 2);
        let mask = self.read_register(self.number(2), 2);
        let ty = self.implied_address_type();
        let offset = self.read_address_register(RDI, ty);
        let segment = segment_name(self.i.memory_segment());
        let place = self.linear(segment, offset, 0, 16, true);
        for half in 0..2 {
            let bits = self.sign_bits(Type::I8, mask[half]);
            let place = Self::part_of(place, half);
            let old = self.load_raw(place, Type::I64);
            let merged = self.helper(id::MERGE_BYTES, &[old, value[half], bits]);
            self.store_raw(place, Type::I64, merged);
        }
        Ok(Lifted::Next)
    }
}
