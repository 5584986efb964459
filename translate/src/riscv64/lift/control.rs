//! Jumps, branches and fences (volume I, 2.5, 2.7 and chapter 6).

use super::{Illegal, Known, Lifted, Lifter};
use crate::ir::{BinaryOp, Comparison, IndirectJump, Op, Terminator, Type};
use crate::riscv64::decode::Instruction;

/// In what a FENCE orders, writes of memory and output; reads and input.
const FENCE_WRITES: u32 = 0b0101;
const FENCE_READS: u32 = 0b1010;
/// The mode of FENCE.TSO.
const FENCE_TSO: u32 = 0b1000;

/// True for the registers that calls put return addresses in, by convention.
fn is_link(register: u8) -> bool {
    matches!(register, 1 | 5)
}

impl Lifter {
    pub(super) fn branch(&mut self, instruction: Instruction) -> Lifted {
        let (a, b) = (self.x(instruction.rs1()), self.x(instruction.rs2()));
        let (op, a, b) = match instruction.funct3() {
            0 => (Comparison::Equal, a, b),
            1 => (Comparison::NotEqual, a, b),
            4 => (Comparison::LessSigned, a, b),
            5 => (Comparison::LessEqualSigned, b, a),
            6 => (Comparison::LessUnsigned, a, b),
            7 => (Comparison::LessEqualUnsigned, b, a),
            _ => return Err(Illegal),
        };
        let condition = self.builder.compare(op, Type::I64, a, b);
        let taken = self.builder.address().wrapping_add_signed(i64::from(instruction.immediate_b()));
        Ok(Some(Terminator::Branch { condition, taken, not_taken: self.builder.next_address() }))
    }

    /// JAL.
    pub(super) fn jump(&mut self, instruction: Instruction) -> Lifted {
        let target = self.builder.address().wrapping_add_signed(i64::from(instruction.immediate_j()));
        self.link(instruction.rd());
        Ok(Some(Terminator::Jump { target }))
    }

    /// JALR.
    pub(super) fn jump_register(&mut self, instruction: Instruction) -> Lifted {
        if instruction.funct3() != 0 {
            return Err(Illegal);
        }
        let (rd, rs1, offset) = (instruction.rd(), instruction.rs1(), instruction.immediate_i());
        if let Some(Known::CodeAddress(base)) = self.known(rs1) {
            let target = base.wrapping_add_signed(i64::from(offset)) & !1;
            self.link(rd);
            return Ok(Some(Terminator::Jump { target }));
        }
        let mut target = self.x(rs1);
        if offset != 0 {
            let offset = self.immediate(offset);
            target = self.builder.add(target, offset);
        }
        let mask = self.builder.constant(!1);
        let target = self.builder.binary(BinaryOp::And, Type::I64, target, mask);
        self.link(rd);
        let kind = if is_link(rd) {
            IndirectJump::Call
        } else if is_link(rs1) {
            IndirectJump::Return
        } else {
            IndirectJump::Plain
        };
        Ok(Some(Terminator::JumpIndirect { target, kind }))
    }

    /// FENCE and FENCE.I.
    pub(super) fn fence(&mut self, instruction: Instruction) -> Lifted {
        match instruction.funct3() {
            0 => {
                // With nothing before or nothing after it, a fence is a hint, such as PAUSE.
                let (before, after) = (instruction.0 >> 24 & 0xf, instruction.0 >> 20 & 0xf);
                let is_tso = instruction.0 >> 28 == FENCE_TSO;
                if before != 0 && after != 0 {
                    let store_load = before & FENCE_WRITES != 0 && after & FENCE_READS != 0 && !is_tso;
                    self.builder.push(Op::Fence { store_load });
                }
                Ok(None)
            }
            1 => {
                // Translated code that was written to is out of use already; what is left is not to run on in it.
                self.builder.push(Op::Fence { store_load: true });
                Ok(Some(Terminator::Leave { target: self.builder.next_address() }))
            }
            _ => Err(Illegal),
        }
    }
}
