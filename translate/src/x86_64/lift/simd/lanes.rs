//! Single lanes: PINSRB and its kin, masks of signs.

use iced_x86::Mnemonic;

use crate::ir::{BinaryOp, Register, Type, VectorOp};

use super::super::super::helpers::{Third, VectorOperands, id};
use super::super::{Lifted, Lifter, Result};

impl Lifter {
    /// PMOVMSKB and its kin.
    pub(super) fn move_mask(&mut self, lane: Type) -> Result {
        let count = self.half_count();
        let halves = self.read_register(self.number(1), count);
        let mut all = self.vector_op(VectorOp::Mask { lane, a: halves[0] });
        if count == 2 {
            let upper = self.vector_op(VectorOp::Mask { lane, a: halves[1] });
            let by = self.constant(u64::from(128 / lane.bits()));
            let placed = self.b.binary(BinaryOp::ShiftLeft, Type::I64, upper, by);
            all = self.b.binary(BinaryOp::Or, Type::I64, all, placed);
        }
        let ty = self.ty(0);
        let value = self.typed(ty, all);
        self.write(0, value)?;
        Ok(Lifted::Next)
    }

    /// Type of the lanes of PINSR and PEXTR, and which lane the immediate names.
    fn lane(&self) -> (Type, u8) {
        use Mnemonic as M;
        let ty = match self.i.mnemonic() {
            M::Pinsrb | M::Pextrb | M::Vpinsrb | M::Vpextrb => Type::I8,
            M::Pinsrw | M::Pextrw | M::Vpinsrw | M::Vpextrw => Type::I16,
            M::Pinsrd | M::Pextrd | M::Extractps | M::Vpinsrd | M::Vpextrd | M::Vextractps => Type::I32,
            _ => Type::I64,
        };
        (ty, self.i.immediate8() % (128 / ty.bits()) as u8)
    }

    pub(super) fn insert_lane(&mut self) -> Result {
        let (ty, index) = self.lane();
        let (first, second) = self.sources();
        let raw = if self.is_memory(second) {
            let place = self.place(ty, false)?;
            self.load_raw(place, ty)
        } else {
            self.read(second)?.raw
        };
        let value = self.typed(ty, raw);
        let old = self.read_xmm(self.number(first));
        let new = self.insert(ty, index, old, value);
        self.write_xmm(new);
        Ok(Lifted::Next)
    }

    pub(super) fn extract_lane(&mut self) -> Result {
        let (ty, index) = self.lane();
        let register = self.read_xmm(self.number(1));
        let lane = self.extract(ty, index, register);
        if self.is_memory(0) {
            let place = self.place(ty, true)?;
            self.store(place, ty, lane);
            return Ok(Lifted::Next);
        }
        // The whole register is written, zero-extended.
        let lane = self.widen(ty, lane);
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
            let register = self.read_xmm(self.number(second));
            let lane = self.extract(Type::I32, immediate >> 6, register);
            self.widen(Type::I32, lane)
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
