//! FXSAVE and FXRSTOR, and MXCSR by itself.

use iced_x86::Mnemonic;

use crate::ir::Type;

use super::super::helpers::{encode_state_image, id};
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

    /// LDMXCSR and STMXCSR.
    pub(super) fn control_and_status(&mut self) -> Result {
        if self.flags.has(Flags::EMULATE_FLOAT) || !self.flags.has(Flags::SSE) {
            return Err(Raises::INVALID_OPCODE);
        }
        if self.flags.has(Flags::TASK_SWITCHED) {
            return Err(Raises::DEVICE_NOT_AVAILABLE);
        }
        if self.i.mnemonic() == Mnemonic::Ldmxcsr {
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
