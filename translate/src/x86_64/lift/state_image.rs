//! FXSAVE and FXRSTOR, and MXCSR by itself.

use iced_x86::Mnemonic;

use crate::ir::{BinaryOp, Type};

use super::super::helpers::{encode_state_image, encode_xsave, id};
use super::super::registers::{RAX, RDX};
use super::super::xsave::{self, Saving};
use super::{Flags, Lifter, Raises, Result};

impl Lifter {
    /// FXSAVE and FXRSTOR.
    pub(super) fn state_image(&mut self) -> Result {
        use Mnemonic as M;
        if self.flags.has(Flags::EMULATE_FLOAT | Flags::TASK_SWITCHED) {
            return Err(Raises::DEVICE_NOT_AVAILABLE);
        }
        let mnemonic = self.i.mnemonic();
        let write = matches!(mnemonic, M::Fxsave | M::Fxsave64);
        let long = matches!(mnemonic, M::Fxsave64 | M::Fxrstor64);
        let place = self.place_of_bytes(512, write)?;
        self.require_aligned(place, 16, Raises::GENERAL_PROTECTION);
        let address = self.address_of(place);
        let how = self.constant(encode_state_image(self.mode, long));
        self.change(if write { id::FXSAVE } else { id::FXRSTOR }, &[address, how])
    }

    /// XSAVE and XRSTOR in all their forms.
    pub(super) fn extended_state_image(&mut self) -> Result {
        use Mnemonic as M;
        if !self.flags.has(Flags::XSAVE) {
            return Err(Raises::INVALID_OPCODE);
        }
        if self.flags.has(Flags::TASK_SWITCHED) {
            return Err(Raises::DEVICE_NOT_AVAILABLE);
        }
        let mnemonic = self.i.mnemonic();
        let restores = matches!(mnemonic, M::Xrstor | M::Xrstor64);
        let long = matches!(mnemonic, M::Xsave64 | M::Xsaveopt64 | M::Xsavec64 | M::Xrstor64);
        let saving = match mnemonic {
            M::Xsaveopt | M::Xsaveopt64 => Saving::InUse,
            M::Xsavec | M::Xsavec64 => Saving::Compact,
            _ => Saving::All,
        };
        let place = self.place_of_bytes(xsave::AVX_OFFSET as u64, !restores)?;
        self.require_aligned(place, 64, Raises::GENERAL_PROTECTION);
        let address = self.address_of(place);
        let (low, high) = (self.b.get(RAX), self.b.get(RDX));
        let (mask, by) = (self.constant(0xffff_ffff), self.constant(32));
        let low = self.b.binary(BinaryOp::And, Type::I64, low, mask);
        let high = self.b.binary(BinaryOp::ShiftLeft, Type::I64, high, by);
        let wanted = self.b.binary(BinaryOp::Or, Type::I64, low, high);
        let how = self.constant(encode_xsave(self.mode, long, saving));
        self.change(if restores { id::XRSTOR } else { id::XSAVE }, &[address, how, wanted])
    }

    /// LDMXCSR and STMXCSR.
    pub(super) fn control_and_status(&mut self) -> Result {
        self.need_vectors()?;
        if matches!(self.i.mnemonic(), Mnemonic::Ldmxcsr | Mnemonic::Vldmxcsr) {
            let place = self.place(Type::I32, false)?;
            let value = self.load_raw(place, Type::I32);
            return self.change(id::LOAD_MXCSR, &[value]);
        }
        let place = self.place(Type::I32, true)?;
        let value = self.helper(id::READ_MXCSR, &[]);
        self.store_raw(place, Type::I32, value);
        Ok(self.leave_to_next())
    }
}
