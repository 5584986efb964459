//! Single lanes: PINSRB and its kin, masks of signs.

use iced_x86::Mnemonic;

use crate::ir::{BinaryOp, Register, Type, Value};

use super::super::super::helpers::{Third, VectorOperands, id};
use super::super::{Lifted, Lifter, Result};

impl Lifter {
    /// The sign bits of the lanes of a part, the lowest lane's first.
    pub(super) fn sign_bits(&mut self, ty: Type, part: Value) -> Value {
        let signs = |lifter: &mut Lifter, mask: u64| {
            let mask = lifter.constant(mask);
            lifter.b.binary(BinaryOp::And, Type::I64, part, mask)
        };
        let (gathered, lanes) = match ty {
            Type::I8 => {
                let signs = signs(self, 0x8080_8080_8080_8080);
                // That of lane n goes to bit 56 + n.
                let multiplier = self.constant(0x0002_0408_1020_4081);
                (self.b.binary(BinaryOp::Mul, Type::I64, signs, multiplier), 8)
            }
            Type::I32 => {
                let signs = signs(self, 0x8000_0000_8000_0000);
                let by = self.constant(31);
                let low = self.b.binary(BinaryOp::ShiftLeft, Type::I64, signs, by);
                (self.b.binary(BinaryOp::Or, Type::I64, signs, low), 2)
            }
            _ => (part, 1),
        };
        let by = self.constant(64 - lanes);
        self.b.binary(BinaryOp::ShiftRightUnsigned, Type::I64, gathered, by)
    }

    /// PMOVMSKB and its kin.
    pub(super) fn move_mask(&mut self, lane: Type) -> Result {
        let count = self.part_count();
        let parts = self.read_register(self.number(1), count);
        let bits = 64 / u64::from(lane.bits());
        let mut all = self.constant(0);
        for (position, part) in (0..).zip(parts).take(count) {
            let signs = self.sign_bits(lane, part);
            let by = self.constant(bits * position);
            let placed = self.b.binary(BinaryOp::ShiftLeft, Type::I64, signs, by);
            all = self.b.binary(BinaryOp::Or, Type::I64, all, placed);
        }
        let ty = self.ty(0);
        let value = self.typed(ty, all);
        self.write(0, value)?;
        Ok(Lifted::Next)
    }

    /// Type of the lanes of PINSR and PEXTR, and half, shift and mask of the lane that the immediate names.
    fn lane(&self) -> (Type, u8, u64) {
        use Mnemonic as M;
        let ty = match self.i.mnemonic() {
            M::Pinsrb | M::Pextrb | M::Vpinsrb | M::Vpextrb => Type::I8,
            M::Pinsrw | M::Pextrw | M::Vpinsrw | M::Vpextrw => Type::I16,
            M::Pinsrd | M::Pextrd | M::Extractps | M::Vpinsrd | M::Vpextrd | M::Vextractps => Type::I32,
            _ => Type::I64,
        };
        let lanes = 128 / u64::from(ty.bits());
        let bit = (u64::from(self.i.immediate8()) % lanes) * u64::from(ty.bits());
        (ty, (bit / 64) as u8, bit % 64)
    }

    pub(super) fn insert_lane(&mut self) -> Result {
        let (ty, part, shift) = self.lane();
        let (first, second) = self.sources();
        let raw = if self.is_memory(second) {
            let place = self.place(ty, false)?;
            self.load_raw(place, ty)
        } else {
            let source = self.read(second)?;
            let mask = self.constant(ty.mask());
            self.b.binary(BinaryOp::And, Type::I64, source.raw, mask)
        };
        let old = self.vector_half(first, part);
        let keep = self.constant(!(ty.mask() << shift));
        let kept = self.b.binary(BinaryOp::And, Type::I64, old, keep);
        let by = self.constant(shift);
        let placed = self.b.binary(BinaryOp::ShiftLeft, Type::I64, raw, by);
        let value = self.b.binary(BinaryOp::Or, Type::I64, kept, placed);
        self.replace_half(part, value);
        Ok(Lifted::Next)
    }

    pub(super) fn extract_lane(&mut self) -> Result {
        let (ty, part, shift) = self.lane();
        let half = self.vector_half(1, part);
        let by = self.constant(shift);
        let shifted = self.b.binary(BinaryOp::ShiftRightUnsigned, Type::I64, half, by);
        if self.is_memory(0) {
            let place = self.place(ty, true)?;
            self.store_raw(place, ty, shifted);
            return Ok(Lifted::Next);
        }
        let mask = self.constant(ty.mask());
        let lane = self.b.binary(BinaryOp::And, Type::I64, shifted, mask);
        // The whole register is written, zero-extended.
        let register = Register(self.i.op0_register().full_register().number() as u8);
        self.b.put(register, lane);
        Ok(Lifted::Next)
    }

    /// INSERTPS.
    pub(super) fn insert_single(&mut self) -> Result {
        let mut immediate = self.i.immediate8();
        let (first, second) = self.sources();
        let value = if self.is_memory(second) {
            immediate &= 0x3f;
            let place = self.place(Type::I32, false)?;
            self.load_raw(place, Type::I32)
        } else {
            let lane = immediate >> 6;
            let half = self.vector_half(second, lane / 2);
            let by = self.constant(u64::from(lane % 2) * 32);
            self.b.binary(BinaryOp::ShiftRightUnsigned, Type::I64, half, by)
        };
        let operands = VectorOperands {
            entry: 0,
            destination: self.number(0),
            first: self.number(first),
            second: 0,
            third: Third::Immediate,
            vex: self.is_vex(),
            wide: false,
        };
        let operands = self.constant(operands.encode());
        let immediate = self.constant(u64::from(immediate));
        self.helper(id::INSERT_SINGLE, &[operands, value, immediate]);
        Ok(Lifted::Next)
    }
}
