//! Bit manipulation: Zba, Zbb and Zbs (volume I, chapter 29).

use super::{Illegal, Lifted, Lifter};
use crate::ir::{BinaryOp, Type, UnaryOp, Value};
use crate::riscv64::decode::Instruction;

impl Lifter {
    /// Instructions of opcode OP that the base and M do not have.
    pub(super) fn bitmanip(&mut self, instruction: Instruction) -> Lifted {
        let (a, b) = (self.x(instruction.rs1()), self.x(instruction.rs2()));
        let mut plain = |op| self.builder.binary(op, Type::I64, a, b);
        let result = match (instruction.funct7(), instruction.funct3()) {
            // MIN, MINU, MAX, MAXU
            (0x05, 4) => plain(BinaryOp::MinSigned),
            (0x05, 5) => plain(BinaryOp::MinUnsigned),
            (0x05, 6) => plain(BinaryOp::MaxSigned),
            (0x05, 7) => plain(BinaryOp::MaxUnsigned),
            // ROL, ROR
            (0x30, 1) => plain(BinaryOp::RotateLeft),
            (0x30, 5) => plain(BinaryOp::RotateRight),
            // SH1ADD, SH2ADD, SH3ADD
            (0x10, 2) => self.shift_add(a, 1, b),
            (0x10, 4) => self.shift_add(a, 2, b),
            (0x10, 6) => self.shift_add(a, 3, b),
            // XNOR, ORN, ANDN
            (0x20, 4) => self.with_complement(BinaryOp::Xor, a, b),
            (0x20, 6) => self.with_complement(BinaryOp::Or, a, b),
            (0x20, 7) => self.with_complement(BinaryOp::And, a, b),
            _ => self.single_bit(instruction.funct7(), instruction.funct3(), a, b)?,
        };
        self.set_x(instruction.rd(), result);
        Ok(None)
    }

    /// Instructions of opcode OP-IMM that the base does not have.
    pub(super) fn bitmanip_immediate(&mut self, instruction: Instruction) -> Lifted {
        let a = self.x(instruction.rs1());
        let result = match (instruction.funct12(), instruction.funct3()) {
            // CLZ, CTZ, CPOP
            (0x600, 1) => self.builder.unary(UnaryOp::CountLeadingZeros, Type::I64, a),
            (0x601, 1) => self.builder.unary(UnaryOp::CountTrailingZeros, Type::I64, a),
            (0x602, 1) => self.builder.unary(UnaryOp::PopulationCount, Type::I64, a),
            // SEXT.B, SEXT.H
            (0x604, 1) => {
                let low = self.builder.truncate(Type::I64, Type::I8, a);
                self.builder.sign_extend(Type::I8, Type::I64, low)
            }
            (0x605, 1) => {
                let low = self.builder.truncate(Type::I64, Type::I16, a);
                self.builder.sign_extend(Type::I16, Type::I64, low)
            }
            // ORC.B
            (0x287, 5) => self.combine_bytes(a),
            // REV8
            (0x6b8, 5) => self.builder.unary(UnaryOp::ByteSwap, Type::I64, a),
            _ => {
                let b = self.builder.constant(instruction.shift().into());
                match (instruction.funct6(), instruction.funct3()) {
                    // RORI
                    (0x18, 5) => self.builder.binary(BinaryOp::RotateRight, Type::I64, a, b),
                    (funct6, funct3) => self.single_bit(funct6 << 1, funct3, a, b)?,
                }
            }
        };
        self.set_x(instruction.rd(), result);
        Ok(None)
    }

    /// Instructions of opcode OP-32 that the base and M do not have.
    pub(super) fn bitmanip_32(&mut self, instruction: Instruction) -> Lifted {
        let (a, b) = (self.x(instruction.rs1()), self.x(instruction.rs2()));
        let result = match (instruction.funct7(), instruction.funct3()) {
            // ADD.UW, SH1ADD.UW, SH2ADD.UW, SH3ADD.UW
            (0x04, 0) => {
                let a = self.zero_extend_low(a);
                self.builder.add(a, b)
            }
            (0x10, funct3 @ (2 | 4 | 6)) => {
                let a = self.zero_extend_low(a);
                self.shift_add(a, u64::from(funct3 / 2), b)
            }
            // ZEXT.H
            (0x04, 4) if instruction.rs2() == 0 => {
                let low = self.builder.truncate(Type::I64, Type::I16, a);
                self.builder.zero_extend(Type::I16, Type::I64, low)
            }
            // ROLW, RORW
            (0x30, funct3 @ (1 | 5)) => {
                let op = if funct3 == 1 { BinaryOp::RotateLeft } else { BinaryOp::RotateRight };
                let (a, b) = (self.low(a), self.low(b));
                let result = self.builder.binary(op, Type::I32, a, b);
                self.sign_extend_word(result)
            }
            _ => return Err(Illegal),
        };
        self.set_x(instruction.rd(), result);
        Ok(None)
    }

    /// Instructions of opcode OP-IMM-32 that the base does not have.
    pub(super) fn bitmanip_immediate_32(&mut self, instruction: Instruction) -> Lifted {
        let a = self.x(instruction.rs1());
        let result = match (instruction.funct12(), instruction.funct3()) {
            // CLZW, CTZW, CPOPW
            (0x600..=0x602, 1) => {
                let op = match instruction.funct12() {
                    0x600 => UnaryOp::CountLeadingZeros,
                    0x601 => UnaryOp::CountTrailingZeros,
                    _ => UnaryOp::PopulationCount,
                };
                let low = self.low(a);
                let count = self.builder.unary(op, Type::I32, low);
                self.builder.zero_extend(Type::I32, Type::I64, count)
            }
            // SLLI.UW
            (_, 1) if instruction.funct6() == 2 => {
                let a = self.zero_extend_low(a);
                let count = self.builder.constant(instruction.shift().into());
                self.builder.binary(BinaryOp::ShiftLeft, Type::I64, a, count)
            }
            // RORIW
            (_, 5) if instruction.funct7() == 0x30 => {
                let low = self.low(a);
                let count = self.builder.constant_of(Type::I32, instruction.rs2().into());
                let result = self.builder.binary(BinaryOp::RotateRight, Type::I32, low, count);
                self.sign_extend_word(result)
            }
            _ => return Err(Illegal),
        };
        self.set_x(instruction.rd(), result);
        Ok(None)
    }

    fn zero_extend_low(&mut self, value: Value) -> Value {
        let low = self.low(value);
        self.builder.zero_extend(Type::I32, Type::I64, low)
    }

    fn shift_add(&mut self, a: Value, count: u64, b: Value) -> Value {
        let count = self.builder.constant(count);
        let shifted = self.builder.binary(BinaryOp::ShiftLeft, Type::I64, a, count);
        self.builder.add(shifted, b)
    }

    fn with_complement(&mut self, op: BinaryOp, a: Value, b: Value) -> Value {
        let complement = self.builder.unary(UnaryOp::Not, Type::I64, b);
        self.builder.binary(op, Type::I64, a, complement)
    }

    /// Makes each byte that is not zero all ones.
    fn combine_bytes(&mut self, a: Value) -> Value {
        let low_bits = self.builder.constant(0x7f7f_7f7f_7f7f_7f7f);
        let low = self.builder.binary(BinaryOp::And, Type::I64, a, low_bits);
        let carry = self.builder.add(low, low_bits);
        let any = self.builder.binary(BinaryOp::Or, Type::I64, carry, a);
        // Bit 7 of each byte now says whether any was set.
        let seven = self.builder.constant(7);
        let moved = self.builder.binary(BinaryOp::ShiftRightUnsigned, Type::I64, any, seven);
        let one_bits = self.builder.constant(0x0101_0101_0101_0101);
        let ones = self.builder.binary(BinaryOp::And, Type::I64, moved, one_bits);
        let spread = self.builder.constant(0xff);
        self.builder.binary(BinaryOp::Mul, Type::I64, ones, spread)
    }

    /// BCLR, BEXT, BINV and BSET, on the bit of `a` whose number `b` has.
    fn single_bit(&mut self, funct7: u32, funct3: u32, a: Value, b: Value) -> Result<Value, Illegal> {
        let one = self.builder.constant(1);
        if (funct7, funct3) == (0x24, 5) {
            let moved = self.builder.binary(BinaryOp::ShiftRightUnsigned, Type::I64, a, b);
            return Ok(self.builder.binary(BinaryOp::And, Type::I64, moved, one));
        }
        let bit = self.builder.binary(BinaryOp::ShiftLeft, Type::I64, one, b);
        match (funct7, funct3) {
            (0x24, 1) => Ok(self.with_complement(BinaryOp::And, a, bit)),
            (0x34, 1) => Ok(self.builder.binary(BinaryOp::Xor, Type::I64, a, bit)),
            (0x14, 1) => Ok(self.builder.binary(BinaryOp::Or, Type::I64, a, bit)),
            _ => Err(Illegal),
        }
    }
}
