//! The x87.

use iced_x86::Mnemonic;

use crate::ir::{Type, Value};

use super::super::event::{number_with_error, vector};
use super::super::helpers::{X87Operand, id};
use super::super::registers::RAX;
use super::super::x87::{EnvironmentFormat, Form, form};
use super::operand::segment_name;
use super::{Flags, Lifted, Lifter, Raises, Result};

/// The 11 bits of an x87 instruction's opcode, from its bytes; `None` if it is none.
pub(super) fn opcode(code: &[u8], is_64_bit: bool) -> Option<u16> {
    let is_prefix = |byte: u8| {
        let legacy = matches!(byte, 0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3);
        legacy || is_64_bit && matches!(byte, 0x40..=0x4f)
    };
    let start = code.iter().position(|byte| !is_prefix(*byte))?;
    let (escape, modrm) = (*code.get(start)?, *code.get(start + 1)?);
    (escape & 0xf8 == 0xd8).then_some(u16::from(escape & 7) << 8 | u16::from(modrm))
}

impl Lifter {
    pub(super) fn is_x87(&self) -> bool {
        self.x87_opcode.is_some() || self.i.mnemonic() == Mnemonic::Wait
    }

    /// An instruction of the x87, or FWAIT.
    pub(super) fn x87(&mut self) -> Result {
        let Some(opcode) = self.x87_opcode else { return self.wait() };
        if self.flags.has(Flags::EMULATE_FLOAT | Flags::TASK_SWITCHED) {
            return Err(Raises::DEVICE_NOT_AVAILABLE);
        }
        match form(opcode) {
            Form::Undefined => Err(Raises::INVALID_OPCODE),
            Form::Register => self.x87_on_registers(opcode),
            Form::Load(bytes) => self.x87_on_memory(opcode, bytes.into(), false),
            Form::Store(bytes) => self.x87_on_memory(opcode, bytes.into(), true),
            Form::LoadEnvironment | Form::LoadState => self.x87_image(opcode, false),
            Form::StoreEnvironment | Form::StoreState => self.x87_image(opcode, true),
        }
    }

    /// EMMS.
    pub(super) fn empty_mmx(&mut self) -> Result {
        if self.flags.has(Flags::EMULATE_FLOAT) {
            return Err(Raises::INVALID_OPCODE);
        }
        if self.flags.has(Flags::TASK_SWITCHED) {
            return Err(Raises::DEVICE_NOT_AVAILABLE);
        }
        self.helper(id::EMPTY_MMX, &[]);
        Ok(Lifted::Next)
    }

    fn wait(&mut self) -> Result {
        if self.flags.has(Flags::MONITOR_FLOAT) && self.flags.has(Flags::TASK_SWITCHED) {
            return Err(Raises::DEVICE_NOT_AVAILABLE);
        }
        self.helper(id::X87_WAIT, &[]);
        Ok(Lifted::Next)
    }

    /// The linear address of the instruction.
    fn own_address(&mut self) -> Value {
        self.code_constant(self.b.address())
    }

    fn x87_on_registers(&mut self, opcode: u16) -> Result {
        use Mnemonic as M;
        let mnemonic = self.i.mnemonic();
        let moves_conditionally = matches!(
            mnemonic,
            M::Fcmovb | M::Fcmove | M::Fcmovbe | M::Fcmovu | M::Fcmovnb | M::Fcmovne | M::Fcmovnbe | M::Fcmovnu
        );
        let flags = if moves_conditionally { self.all_flags() } else { self.constant(0) };
        let (code, own) = (self.constant(opcode.into()), self.own_address());
        let result = self.helper(id::X87_ON_REGISTERS, &[code, own, flags]);
        match mnemonic {
            M::Fcomi | M::Fcomip | M::Fucomi | M::Fucomip => self.set_explicit_flags(result),
            M::Fnstsw | M::Fstsw => {
                let status = self.typed(Type::I16, result);
                self.write_sized(RAX, Type::I16, status);
            }
            _ => {}
        }
        Ok(Lifted::Next)
    }

    /// The linear address of a memory operand, and the operand as helpers take it.
    fn x87_operand(
        &mut self,
        opcode: u16,
        bytes: u64,
        alignment: u64,
        write: bool,
        format: EnvironmentFormat,
    ) -> Result<[Value; 2]> {
        let place = self.place_of_bytes(bytes, write)?;
        if self.flags.has(Flags::ALIGNMENT_CHECK) {
            use Mnemonic as M;
            // A pending exception comes first.
            if !matches!(self.i.mnemonic(), M::Fnstcw | M::Fnstsw | M::Fnstenv | M::Fnsave) {
                self.helper(id::X87_WAIT, &[]);
            }
            self.require_aligned(place, alignment, Raises(number_with_error(vector::ALIGNMENT_CHECK, 0)));
        }
        let segment = segment_name(self.i.memory_segment());
        let operand = X87Operand { opcode, segment, mode: self.mode, format }.encode();
        Ok([self.constant(operand), self.address_of(place)])
    }

    fn x87_on_memory(&mut self, opcode: u16, bytes: u64, write: bool) -> Result {
        // Ten bytes are aligned as eight (SDM volume 3, table 6-7).
        let alignment = bytes.min(8);
        let [operand, address] = self.x87_operand(opcode, bytes, alignment, write, EnvironmentFormat::Protected32)?;
        let own = self.own_address();
        let helper = if write { id::X87_STORE } else { id::X87_LOAD };
        self.helper(helper, &[operand, address, own]);
        Ok(Lifted::Next)
    }

    /// FNSTENV, FLDENV, FNSAVE and FRSTOR.
    fn x87_image(&mut self, opcode: u16, write: bool) -> Result {
        let bytes = self.i.memory_size().size() as u64;
        let short = matches!(bytes, 14 | 94);
        let format = match (short, self.flags.is_real_or_virtual()) {
            (true, true) => EnvironmentFormat::Real16,
            (true, false) => EnvironmentFormat::Protected16,
            (false, true) => EnvironmentFormat::Real32,
            (false, false) => EnvironmentFormat::Protected32,
        };
        let alignment = if short { 2 } else { 4 };
        let arguments = self.x87_operand(opcode, bytes, alignment, write, format)?;
        self.helper(if write { id::X87_STORE_IMAGE } else { id::X87_LOAD_IMAGE }, &arguments);
        Ok(Lifted::Next)
    }
}
