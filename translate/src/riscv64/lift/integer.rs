//! Integer arithmetic: RV64I (volume I, chapters 2 and 4) and M (chapter 13).

use super::{Illegal, Known, Lifted, Lifter};
use crate::ir::{BinaryOp, Comparison, Type, Value};
use crate::riscv64::decode::Instruction;

impl Lifter {
    pub(super) fn immediate_arithmetic(&mut self, instruction: Instruction) -> Lifted {
        let (rd, rs1, immediate) = (instruction.rd(), instruction.rs1(), instruction.immediate_i());
        if instruction.funct3() == 0 {
            self.add_immediate(rd, rs1, immediate);
            return Ok(None);
        }
        let op = match (instruction.funct3(), instruction.funct6()) {
            (1, 0) => BinaryOp::ShiftLeft,
            (5, 0) => BinaryOp::ShiftRightUnsigned,
            (5, 0x10) => BinaryOp::ShiftRightSigned,
            (1 | 5, _) => return self.bitmanip_immediate(instruction),
            (2 | 3, _) => {
                let a = self.x(rs1);
                let b = self.immediate(immediate);
                self.set_if_less(instruction, a, b);
                return Ok(None);
            }
            (4, _) => BinaryOp::Xor,
            (6, _) => BinaryOp::Or,
            _ => BinaryOp::And,
        };
        let a = self.x(rs1);
        let shifts = matches!(instruction.funct3(), 1 | 5);
        let b = if shifts { self.builder.constant(instruction.shift().into()) } else { self.immediate(immediate) };
        let result = self.builder.binary(op, Type::I64, a, b);
        self.set_x(rd, result);
        Ok(None)
    }

    /// ADDI, which is also how constants and copies are made.
    fn add_immediate(&mut self, rd: u8, rs1: u8, immediate: i32) {
        if let Some(known) = self.known(rs1) {
            self.set_x_known(rd, known.plus(immediate));
            return;
        }
        let a = self.x(rs1);
        let result = if immediate == 0 {
            a
        } else {
            let b = self.immediate(immediate);
            self.builder.add(a, b)
        };
        self.set_x(rd, result);
    }

    /// SLT, SLTU, SLTI and SLTIU.
    fn set_if_less(&mut self, instruction: Instruction, a: Value, b: Value) {
        let comparison = if instruction.funct3() == 2 { Comparison::LessSigned } else { Comparison::LessUnsigned };
        let less = self.builder.compare(comparison, Type::I64, a, b);
        let result = self.truth(less);
        self.set_x(instruction.rd(), result);
    }

    pub(super) fn arithmetic(&mut self, instruction: Instruction) -> Lifted {
        let op = match (instruction.funct7(), instruction.funct3()) {
            (0, 0) => BinaryOp::Add,
            (0, 1) => BinaryOp::ShiftLeft,
            (0, 2 | 3) => {
                let (a, b) = (self.x(instruction.rs1()), self.x(instruction.rs2()));
                self.set_if_less(instruction, a, b);
                return Ok(None);
            }
            (0, 4) => BinaryOp::Xor,
            (0, 5) => BinaryOp::ShiftRightUnsigned,
            (0, 6) => BinaryOp::Or,
            (0, _) => BinaryOp::And,
            (0x20, 0) => BinaryOp::Sub,
            (0x20, 5) => BinaryOp::ShiftRightSigned,
            (1, _) => return self.multiply_divide(instruction),
            _ => return self.bitmanip(instruction),
        };
        // C.MV and the like.
        if op == BinaryOp::Add && instruction.rs1() == 0 {
            self.add_immediate(instruction.rd(), instruction.rs2(), 0);
            return Ok(None);
        }
        let (a, b) = (self.x(instruction.rs1()), self.x(instruction.rs2()));
        let result = self.builder.binary(op, Type::I64, a, b);
        self.set_x(instruction.rd(), result);
        Ok(None)
    }

    fn multiply_divide(&mut self, instruction: Instruction) -> Lifted {
        let (a, b) = (self.x(instruction.rs1()), self.x(instruction.rs2()));
        let result = match instruction.funct3() {
            0 => self.builder.binary(BinaryOp::Mul, Type::I64, a, b),
            1 => self.builder.binary(BinaryOp::MulHighSigned, Type::I64, a, b),
            2 => {
                // Signed times unsigned: the unsigned product counts a negative `a` as 2^64 too much.
                let product = self.builder.binary(BinaryOp::MulHighUnsigned, Type::I64, a, b);
                let count = self.builder.constant(63);
                let sign = self.builder.binary(BinaryOp::ShiftRightSigned, Type::I64, a, count);
                let excess = self.builder.binary(BinaryOp::And, Type::I64, sign, b);
                self.builder.binary(BinaryOp::Sub, Type::I64, product, excess)
            }
            3 => self.builder.binary(BinaryOp::MulHighUnsigned, Type::I64, a, b),
            4 => self.divide(BinaryOp::DivSigned, Type::I64, a, b),
            5 => self.divide(BinaryOp::DivUnsigned, Type::I64, a, b),
            6 => self.builder.binary(BinaryOp::RemSigned, Type::I64, a, b),
            _ => self.builder.binary(BinaryOp::RemUnsigned, Type::I64, a, b),
        };
        self.set_x(instruction.rd(), result);
        Ok(None)
    }

    /// A quotient; that of a division by zero is all ones.
    fn divide(&mut self, op: BinaryOp, ty: Type, a: Value, b: Value) -> Value {
        let quotient = self.builder.binary(op, ty, a, b);
        let zero = self.builder.constant_of(ty, 0);
        let ones = self.builder.constant_of(ty, u64::MAX);
        let by_zero = self.builder.compare(Comparison::Equal, ty, b, zero);
        self.builder.select(ty, by_zero, ones, quotient)
    }

    pub(super) fn immediate_arithmetic_32(&mut self, instruction: Instruction) -> Lifted {
        let (rd, rs1) = (instruction.rd(), instruction.rs1());
        let op = match (instruction.funct3(), instruction.funct7()) {
            (0, _) => {
                if let Some(Known::Number(number)) = self.known(rs1) {
                    let sum = (number as i32).wrapping_add(instruction.immediate_i());
                    self.set_x_known(rd, Known::Number(i64::from(sum) as u64));
                    return Ok(None);
                }
                let a = self.x(rs1);
                let sum = if instruction.immediate_i() == 0 {
                    a
                } else {
                    let b = self.immediate(instruction.immediate_i());
                    self.builder.add(a, b)
                };
                let result = self.sign_extend_low(sum);
                self.set_x(rd, result);
                return Ok(None);
            }
            (1, 0) => BinaryOp::ShiftLeft,
            (5, 0) => BinaryOp::ShiftRightUnsigned,
            (5, 0x20) => BinaryOp::ShiftRightSigned,
            _ => return self.bitmanip_immediate_32(instruction),
        };
        let a = self.x(rs1);
        let a = self.low(a);
        let b = self.builder.constant_of(Type::I32, instruction.rs2().into());
        let result = self.builder.binary(op, Type::I32, a, b);
        let result = self.sign_extend_word(result);
        self.set_x(rd, result);
        Ok(None)
    }

    pub(super) fn arithmetic_32(&mut self, instruction: Instruction) -> Lifted {
        let op = match (instruction.funct7(), instruction.funct3()) {
            (0, 0) => BinaryOp::Add,
            (0x20, 0) => BinaryOp::Sub,
            (1, 0) => BinaryOp::Mul,
            (0, 1) => BinaryOp::ShiftLeft,
            (0, 5) => BinaryOp::ShiftRightUnsigned,
            (0x20, 5) => BinaryOp::ShiftRightSigned,
            (1, 4) => BinaryOp::DivSigned,
            (1, 5) => BinaryOp::DivUnsigned,
            (1, 6) => BinaryOp::RemSigned,
            (1, 7) => BinaryOp::RemUnsigned,
            (0 | 1 | 0x20, _) => return Err(Illegal),
            _ => return self.bitmanip_32(instruction),
        };
        let (a, b) = (self.x(instruction.rs1()), self.x(instruction.rs2()));
        let result = match op {
            // Low halves of 64-bit results, at less cost.
            BinaryOp::Add | BinaryOp::Sub | BinaryOp::Mul => {
                let result = self.builder.binary(op, Type::I64, a, b);
                self.sign_extend_low(result)
            }
            _ => {
                let (a, b) = (self.low(a), self.low(b));
                let result = match op {
                    BinaryOp::DivSigned | BinaryOp::DivUnsigned => self.divide(op, Type::I32, a, b),
                    _ => self.builder.binary(op, Type::I32, a, b),
                };
                self.sign_extend_word(result)
            }
        };
        self.set_x(instruction.rd(), result);
        Ok(None)
    }
}
