//! MMX, and what SSE to SSSE3 add to it.

use iced_x86::{Mnemonic, OpKind};

use crate::ir::{Type, Value};

use super::super::helpers::{MmxConversion, MmxOperation, MmxSource, id, mmx_function};
use super::super::registers::{RDI, vector_part};
use super::super::simd::table::Operation;
use super::operand::{segment_name, type_of_bytes};
use super::{Flags, Lifted, Lifter, Raises, Result};

/// Conversions between MMX and XMM registers.
fn converts(mnemonic: Mnemonic) -> bool {
    use Mnemonic as M;
    matches!(mnemonic, M::Cvtpi2ps | M::Cvtpi2pd | M::Cvtps2pi | M::Cvttps2pi | M::Cvtpd2pi | M::Cvttpd2pi)
}

impl Lifter {
    /// The number of the MMX register that is operand `index`.
    fn mmx_number(&self, index: u32) -> Option<u8> {
        let is_register = index < self.i.op_count() && self.i.op_kind(index) == OpKind::Register;
        let named = is_register.then(|| self.i.op_register(index))?;
        named.is_mm().then(|| named.number() as u8)
    }

    pub(super) fn is_mmx(&self) -> bool {
        let mnemonic = self.i.mnemonic();
        mnemonic == Mnemonic::Emms || converts(mnemonic) || (0..2).any(|index| self.mmx_number(index).is_some())
    }

    pub(super) fn mmx(&mut self) -> Result {
        use Mnemonic as M;
        let mnemonic = self.i.mnemonic();
        if self.flags.has(Flags::EMULATE_FLOAT) {
            return Err(Raises::INVALID_OPCODE);
        }
        if self.flags.has(Flags::TASK_SWITCHED) {
            return Err(Raises::DEVICE_NOT_AVAILABLE);
        }
        match mnemonic {
            M::Emms => {
                self.helper(id::MMX_EMPTY, &[]);
                Ok(Lifted::Next)
            }
            M::Maskmovq => self.mmx_store_masked(),
            _ if converts(mnemonic) => self.mmx_convert(),
            _ => match self.mmx_number(0) {
                Some(destination) => self.mmx_operate(destination),
                None => self.mmx_read(),
            },
        }
    }

    /// An instruction whose destination is an MMX register.
    fn mmx_operate(&mut self, destination: u8) -> Result {
        let mnemonic = self.i.mnemonic();
        if mnemonic == Mnemonic::Movdq2q {
            self.need_sse()?;
        }
        let function = mmx_function(mnemonic).ok_or(Raises::INVALID_OPCODE)?;
        let source = self.mmx_number(1).map_or(MmxSource::Given, MmxSource::Register);
        if self.is_memory(1) {
            // A pending exception of the x87 comes before what the load may raise.
            self.helper(id::X87_WAIT, &[]);
        }
        let value = self.mmx_source()?;
        let has_immediate = self.i.op_count() == 3;
        let immediate = self.constant(if has_immediate { u64::from(self.i.immediate8()) } else { 0 });
        let operation = self.constant(MmxOperation { function, destination, source }.encode());
        self.helper(id::MMX_OPERATE, &[operation, value, immediate]);
        Ok(Lifted::Next)
    }

    /// The second operand, zero-extended, if it is not an MMX register.
    fn mmx_source(&mut self) -> Result<Value> {
        match self.i.op_kind(1) {
            OpKind::Register if self.i.op_register(1).is_xmm() => {
                Ok(self.b.get(vector_part(self.i.op_register(1).number() as u8, 0)))
            }
            OpKind::Register if self.i.op_register(1).is_mm() => Ok(self.constant(0)),
            OpKind::Register => {
                let ty = self.ty(1);
                let value = self.read(1)?.value;
                Ok(self.widen(ty, value))
            }
            OpKind::Memory => {
                let ty = type_of_bytes(self.i.memory_size().size());
                let place = self.place(ty, false)?;
                Ok(self.load_raw(place, ty))
            }
            _ => Ok(self.constant(u64::from(self.i.immediate8()))),
        }
    }

    /// An instruction that reads an MMX register, and writes something else.
    fn mmx_read(&mut self) -> Result {
        use Mnemonic as M;
        let mnemonic = self.i.mnemonic();
        let Some(source) = self.mmx_number(1) else { return Err(Raises::INVALID_OPCODE) };
        if mnemonic == M::Movq2dq {
            self.need_sse()?;
        }
        let (helper, lane) = match mnemonic {
            M::Movd | M::Movq | M::Movntq | M::Movq2dq => (id::MMX_READ, 0),
            M::Pextrw => (id::MMX_EXTRACT, u64::from(self.i.immediate8())),
            M::Pmovmskb => (id::MMX_SIGNS, 0),
            _ => return Err(Raises::INVALID_OPCODE),
        };
        let (number, lane) = (self.constant(source.into()), self.constant(lane));
        let arguments = [number, lane];
        let value = self.helper(helper, if helper == id::MMX_EXTRACT { &arguments } else { &arguments[..1] });
        if mnemonic == M::Movq2dq {
            let destination = self.i.op_register(0).number() as u8;
            let zero = self.constant(0);
            self.b.put(vector_part(destination, 0), value);
            self.b.put(vector_part(destination, 1), zero);
        } else {
            let ty = self.ty(0);
            let value = self.typed(ty, value);
            self.write(0, value)?;
        }
        // Only now, as the store may fault.
        self.helper(id::MMX_ENTER, &[]);
        Ok(Lifted::Next)
    }

    fn mmx_store_masked(&mut self) -> Result {
        let (Some(value), Some(mask)) = (self.mmx_number(1), self.mmx_number(2)) else {
            return Err(Raises::INVALID_OPCODE);
        };
        let ty = self.implied_address_type();
        let offset = self.read_address_register(RDI, ty);
        let place = self.linear(segment_name(self.i.memory_segment()), offset, 0, 8, true);
        self.check_alignment(place, 8);
        let address = self.address_of(place);
        let registers = self.constant(u64::from(value) | u64::from(mask) << 8);
        let mode = self.constant(self.mode.0.into());
        self.helper(id::MMX_STORE_MASKED, &[registers, address, mode]);
        Ok(Lifted::Next)
    }

    fn mmx_convert(&mut self) -> Result {
        self.need_sse()?;
        let Some(Operation::Float(function)) = Operation::of(self.i.mnemonic()) else {
            return Err(Raises::INVALID_OPCODE);
        };
        let destination = self.i.op_register(0).number() as u8;
        let to_mmx = self.mmx_number(0).is_some();
        let source = self.mmx_number(1).map_or(MmxSource::Given, MmxSource::Register);
        // CVTPI2PD, and AMD's CVTPI2PS, leave the x87 alone where the operand is in memory.
        let enters = to_mmx || source != MmxSource::Given;
        let halves = match self.i.op_kind(1) {
            OpKind::Memory if self.i.memory_size().size() == 16 => {
                let place = self.place_of_bytes(16, false)?;
                self.require_aligned(place, 16, Raises::GENERAL_PROTECTION);
                let upper = super::operand::Place { offset: place.offset.wrapping_add(8), ..place };
                [self.load_raw(place, Type::I64), self.load_raw(upper, Type::I64)]
            }
            OpKind::Register if self.i.op_register(1).is_xmm() => {
                let number = self.i.op_register(1).number() as u8;
                [0, 1].map(|part| self.b.get(vector_part(number, part)))
            }
            _ => [self.mmx_source()?, self.constant(0)],
        };
        let conversion = MmxConversion { function, destination, to_mmx, source, enters };
        let conversion = self.constant(conversion.encode());
        self.helper(id::MMX_CONVERT, &[conversion, halves[0], halves[1]]);
        Ok(Lifted::Next)
    }
}
