//! Atomic memory operations (volume I, chapter 14). All are sequentially consistent, whatever `aq` and `rl` ask for.

use super::{Illegal, Lifted, Lifter, check_alignment};
use crate::ir::{AtomicOp, Op, Width};
use crate::riscv64::decode::Instruction;
use crate::riscv64::exception::{LOAD_ADDRESS_MISALIGNED, STORE_ADDRESS_MISALIGNED};

impl Lifter {
    pub(super) fn atomic(&mut self, instruction: Instruction) -> Lifted {
        let width = match instruction.funct3() {
            2 => Width::Word,
            3 => Width::Double,
            _ => return Err(Illegal),
        };
        let mode = self.flags.data_mode();
        let op = match instruction.funct7() >> 2 {
            // LR
            0x02 if instruction.rs2() == 0 => {
                let address = self.x(instruction.rs1());
                check_alignment(&mut self.builder, address, width.bytes(), LOAD_ADDRESS_MISALIGNED);
                let value = self.builder.push(Op::LoadReserved { width, mode, address });
                self.set_x(instruction.rd(), value);
                return Ok(None);
            }
            // SC
            0x03 => {
                let (address, value) = (self.x(instruction.rs1()), self.x(instruction.rs2()));
                check_alignment(&mut self.builder, address, width.bytes(), STORE_ADDRESS_MISALIGNED);
                let failed = self.builder.push(Op::StoreConditional { width, mode, address, value });
                self.set_x(instruction.rd(), failed);
                return Ok(None);
            }
            0x00 => AtomicOp::Add,
            0x01 => AtomicOp::Exchange,
            0x04 => AtomicOp::Xor,
            0x08 => AtomicOp::Or,
            0x0c => AtomicOp::And,
            0x10 => AtomicOp::MinSigned,
            0x14 => AtomicOp::MaxSigned,
            0x18 => AtomicOp::MinUnsigned,
            0x1c => AtomicOp::MaxUnsigned,
            _ => return Err(Illegal),
        };
        let (address, value) = (self.x(instruction.rs1()), self.x(instruction.rs2()));
        check_alignment(&mut self.builder, address, width.bytes(), STORE_ADDRESS_MISALIGNED);
        let old = self.builder.push(Op::AtomicReadModifyWrite { op, width, mode, address, value });
        self.set_x(instruction.rd(), old);
        Ok(None)
    }
}
