//! Moves between vector registers, memory and general-purpose registers.

use iced_x86::OpKind;

use crate::ir::{BinaryOp, Shuffle, Type, Value, VectorOp};

use super::super::super::helpers::id;
use super::super::super::registers::{RDI, vector_part};
use super::super::operand::{Place, segment_name};
use super::super::{Lifted, Lifter, Raises, Result};
use super::float_type;

impl Lifter {
    /// MOVUPS and its kin; `aligned`: MOVAPS.
    pub(super) fn move_whole(&mut self, aligned: bool) -> Result {
        let count = self.half_count();
        if self.is_memory(0) {
            let place = self.place_of_vector(count, aligned, true)?;
            let halves = self.read_register(self.number(1), count);
            self.store_vector(place, &halves[..count]);
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
            let register = self.read_xmm(self.number(1));
            let value = self.extract(ty, 0, register);
            self.store(place, ty, value);
        } else if self.is_memory(1) {
            let place = self.place(ty, false)?;
            let loaded = self.load_raw(place, ty);
            let value = self.low_vector(loaded);
            self.write_xmm(value);
        } else {
            let (_, second) = self.sources();
            let lane = float_type(ty);
            let register = self.read_xmm(self.number(second));
            let value = self.extract(lane, 0, register);
            self.write_low(lane, value);
        }
        Ok(Lifted::Next)
    }

    /// MOVD and MOVQ.
    pub(super) fn move_between(&mut self) -> Result {
        let is_xmm = |lifter: &Lifter, index| {
            lifter.i.op_kind(index) == OpKind::Register && lifter.i.op_register(index).is_xmm()
        };
        if is_xmm(self, 0) {
            let value = if is_xmm(self, 1) {
                let register = self.read_xmm(self.number(1));
                let zero = self.zero_vector();
                self.shuffle(Shuffle::InterleaveLow(Type::I64), register, zero)
            } else {
                let ty = self.ty(1);
                let source = self.read(1)?;
                let low = self.widen(ty, source.value);
                self.low_vector(low)
            };
            self.write_xmm(value);
            return Ok(Lifted::Next);
        }
        let ty = self.ty(0);
        let register = self.read_xmm(self.number(1));
        let value = self.extract(ty, 0, register);
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
            self.replace_half(Type::I64, part, value);
        }
        Ok(Lifted::Next)
    }

    /// MOVHLPS, MOVLHPS.
    pub(super) fn move_from_half(&mut self, from: u8, to: u8) -> Result {
        let (_, second) = self.sources();
        let register = self.read_xmm(self.number(second));
        let value = self.extract(Type::F64, from, register);
        self.replace_half(Type::F64, to, value);
        Ok(Lifted::Next)
    }

    /// Writes half `part` of the destination, as a lane of type `ty`; the other is the first source's.
    fn replace_half(&mut self, ty: Type, part: u8, value: Value) {
        let (first, _) = self.sources();
        let old = self.read_xmm(self.number(first));
        let new = self.insert(ty, part, old, value);
        self.write_xmm(new);
    }

    /// VZEROALL, and VZEROUPPER, which leaves the lower halves, of all registers that the mode has.
    pub(super) fn zero_registers(&mut self, upper_only: bool) -> Result {
        let zero = self.zero_vector();
        for number in 0..if self.flags.is_64_bit() { 16 } else { 8 } {
            if !upper_only {
                self.vector_op(VectorOp::Put { register: vector_part(number, 0), value: zero });
            }
            self.vector_op(VectorOp::Put { register: vector_part(number, 2), value: zero });
        }
        Ok(Lifted::Next)
    }

    /// VBROADCASTSS and its kin.
    pub(super) fn broadcast(&mut self, ty: Type) -> Result {
        let value = if self.is_memory(1) {
            let place = self.place(ty, false)?;
            self.load(place, ty).value
        } else {
            let register = self.read_xmm(self.number(1));
            self.extract(ty, 0, register)
        };
        let half = self.vector_op(VectorOp::Splat { lane: ty, value });
        let result = self.on_halves(|_, _| half);
        self.write_vector(result);
        Ok(Lifted::Next)
    }

    /// VBROADCASTF128.
    pub(super) fn broadcast_half(&mut self) -> Result {
        if !self.is_memory(1) {
            return Err(Raises::INVALID_OPCODE);
        }
        let place = self.place_of_vector(1, false, false)?;
        let [half, _] = self.load_vector(place, 1);
        self.write_vector([half; 2]);
        Ok(Lifted::Next)
    }

    /// VINSERTF128.
    pub(super) fn insert_half(&mut self) -> Result {
        let half = if self.is_memory(2) {
            let place = self.place_of_vector(1, false, false)?;
            self.load_vector(place, 1)[0]
        } else {
            self.read_xmm(self.number(2))
        };
        let mut halves = self.read_register(self.number(1), 2);
        halves[usize::from(self.i.immediate8() & 1)] = half;
        self.write_vector(halves);
        Ok(Lifted::Next)
    }

    /// VEXTRACTF128.
    pub(super) fn extract_half(&mut self) -> Result {
        let half = self.read_register(self.number(1), 2)[usize::from(self.i.immediate8() & 1)];
        if self.is_memory(0) {
            let place = self.place_of_vector(1, false, true)?;
            self.store_vector(place, &[half]);
        } else {
            self.write_xmm(half);
        }
        Ok(Lifted::Next)
    }

    /// MASKMOVDQU: the bytes whose mask byte has its sign set.
    pub(super) fn store_masked(&mut self) -> Result {
        let value = self.read_xmm(self.number(1));
        let mask = self.read_xmm(self.number(2));
        let signs = self.vector_op(VectorOp::Mask { lane: Type::I8, a: mask });
        let ty = self.implied_address_type();
        let offset = self.read_address_register(RDI, ty);
        let segment = segment_name(self.i.memory_segment());
        let place = self.linear(segment, offset, 0, 16, true);
        for part in 0..2 {
            let by = self.constant(8 * u64::from(part));
            let bits = self.b.binary(BinaryOp::ShiftRightUnsigned, Type::I64, signs, by);
            let place = Place { offset: place.offset.wrapping_add(8 * i32::from(part)), ..place };
            let old = self.load_raw(place, Type::I64);
            let new = self.extract(Type::I64, part, value);
            let merged = self.helper(id::MERGE_BYTES, &[old, new, bits]);
            self.store_raw(place, Type::I64, merged);
        }
        Ok(Lifted::Next)
    }
}
