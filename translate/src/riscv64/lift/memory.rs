//! Loads and stores (volume I, 2.6, 4.3, 21.5, 22.3).

use super::{Illegal, Lifted, Lifter};
use crate::ir::{Op, Width};
use crate::riscv64::decode::Instruction;

impl Lifter {
    pub(super) fn load(&mut self, instruction: Instruction) -> Lifted {
        let (width, signed) = match instruction.funct3() {
            0 => (Width::Byte, true),
            1 => (Width::Half, true),
            2 => (Width::Word, true),
            3 => (Width::Double, false),
            4 => (Width::Byte, false),
            5 => (Width::Half, false),
            6 => (Width::Word, false),
            _ => return Err(Illegal),
        };
        let mode = self.flags.data_mode();
        let address = self.x(instruction.rs1());
        let value = self.builder.push(Op::Load { width, signed, mode, address, offset: instruction.immediate_i() });
        self.set_x(instruction.rd(), value);
        Ok(None)
    }

    pub(super) fn store(&mut self, instruction: Instruction) -> Lifted {
        let width = match instruction.funct3() {
            0 => Width::Byte,
            1 => Width::Half,
            2 => Width::Word,
            3 => Width::Double,
            _ => return Err(Illegal),
        };
        let mode = self.flags.data_mode();
        let (address, value) = (self.x(instruction.rs1()), self.x(instruction.rs2()));
        self.builder.push(Op::Store { width, mode, address, offset: instruction.immediate_s(), value });
        Ok(None)
    }

    /// FLW and FLD.
    pub(super) fn float_load(&mut self, instruction: Instruction) -> Lifted {
        let width = self.float_width(instruction)?;
        let mode = self.flags.data_mode();
        let address = self.x(instruction.rs1());
        let offset = instruction.immediate_i();
        let value = self.builder.push(Op::Load { width, signed: false, mode, address, offset });
        if width == Width::Word {
            let bits = self.low(value);
            self.set_single(instruction.rd(), bits, value);
        } else {
            self.set_f(instruction.rd(), value);
        }
        Ok(None)
    }

    /// FSW and FSD.
    pub(super) fn float_store(&mut self, instruction: Instruction) -> Lifted {
        let width = self.float_width(instruction)?;
        let mode = self.flags.data_mode();
        let (address, value) = (self.x(instruction.rs1()), self.f(instruction.rs2()));
        self.builder.push(Op::Store { width, mode, address, offset: instruction.immediate_s(), value });
        Ok(None)
    }

    fn float_width(&self, instruction: Instruction) -> Result<Width, Illegal> {
        match instruction.funct3() {
            2 if self.flags.float_on() => Ok(Width::Word),
            3 if self.flags.float_on() => Ok(Width::Double),
            _ => Err(Illegal),
        }
    }
}
