//! Floating point: F and D (volume I, chapters 21 and 22).
//!
//! Arithmetic that rounds by the mode in force becomes an operation of the IR; arithmetic with another mode calls a helper. Every
//! NaN result is made the canonical one.

use super::{DynamicRounding, FIRST_FLOAT, Illegal, Lifted, Lifter};
use crate::float::{Rounding, canonical_nan};
use crate::ir::{BinaryOp, Comparison, FloatBinaryOp, FloatComparison, HelperId, Op, Type, UnaryOp, Value};
use crate::riscv64::csr;
use crate::riscv64::decode::Instruction;
use crate::riscv64::helper_id;
use crate::riscv64::helpers::{DYNAMIC_ROUNDING, FloatCode, RoundedOp};

/// The bits that make a single-precision number a valid 64-bit register value.
const NAN_BOX: u64 = 0xffff_ffff_0000_0000;

/// How an instruction rounds.
#[derive(Clone, Copy, PartialEq, Eq)]
enum InstructionRounding {
    /// By the mode that operations of the IR use.
    Native,
    /// By this one.
    Explicit(Rounding),
}

/// The integer type that holds the bits of a floating-point type.
fn bits_of(ty: Type) -> Type {
    if ty == Type::F32 { Type::I32 } else { Type::I64 }
}

fn sign_of(ty: Type) -> u64 {
    1 << (ty.bits() - 1)
}

/// The format that the field `fmt` names.
fn format(instruction: Instruction) -> Result<Type, Illegal> {
    match instruction.funct7() & 3 {
        0 => Ok(Type::F32),
        1 => Ok(Type::F64),
        _ => Err(Illegal),
    }
}

impl Lifter {
    /// Bits of a register as a number of type `ty`: I64, or I32 for single precision. What is no valid single-precision number
    /// is the canonical NaN (volume I, 22.2).
    fn float_bits(&mut self, register: u8, ty: Type) -> Value {
        let value = self.f(register);
        if ty == Type::F64 {
            return value;
        }
        if let Some(single) = self.singles[usize::from(register) % 32] {
            return single;
        }
        let low = self.low(value);
        let nan_box = self.builder.constant(NAN_BOX);
        let unboxed = self.builder.compare(Comparison::LessUnsigned, Type::I64, value, nan_box);
        let nan = self.builder.constant_of(Type::I32, canonical_nan(Type::F32));
        let single = self.builder.select(Type::I32, unboxed, nan, low);
        self.singles[usize::from(register) % 32] = Some(single);
        single
    }

    /// A register as a number of type `ty`.
    fn float(&mut self, register: u8, ty: Type) -> Value {
        let bits = self.float_bits(register, ty);
        self.builder.bitcast(bits_of(ty), ty, bits)
    }

    /// A register's bits as a helper takes them.
    fn float_argument(&mut self, register: u8, ty: Type) -> Value {
        let bits = self.float_bits(register, ty);
        if ty == Type::F32 { self.builder.zero_extend(Type::I32, Type::I64, bits) } else { bits }
    }

    /// Sets a register to the bits of a number of type `ty`.
    fn set_float_bits(&mut self, register: u8, ty: Type, bits: Value) {
        if ty == Type::F64 {
            self.set_f(register, bits);
            return;
        }
        let wide = self.builder.zero_extend(Type::I32, Type::I64, bits);
        self.set_single(register, bits, wide);
    }

    /// Sets a register to a single-precision number, given by its bits and by these in an I64.
    pub(super) fn set_single(&mut self, register: u8, bits: Value, wide: Value) {
        let nan_box = self.builder.constant(NAN_BOX);
        let boxed = self.builder.binary(BinaryOp::Or, Type::I64, wide, nan_box);
        self.set_f(register, boxed);
        self.singles[usize::from(register) % 32] = Some(bits);
    }

    /// Sets a register to what a helper returned.
    fn set_float_result(&mut self, register: u8, ty: Type, result: Value) {
        let bits = if ty == Type::F32 { self.low(result) } else { result };
        self.set_float_bits(register, ty, bits);
    }

    /// Sets a register to the result of arithmetic.
    fn set_float(&mut self, register: u8, ty: Type, value: Value) {
        let canonical = self.builder.push(Op::FloatCanonical { ty, a: value });
        self.set_canonical(register, ty, canonical);
    }

    /// Sets a register to a number that is the canonical NaN if it is a NaN.
    fn set_canonical(&mut self, register: u8, ty: Type, value: Value) {
        let bits = self.builder.bitcast(ty, bits_of(ty), value);
        self.set_float_bits(register, ty, bits);
    }

    /// The rounding that the field `rm` asks for (volume I, 21.2).
    fn instruction_rounding(&self, instruction: Instruction) -> Result<InstructionRounding, Illegal> {
        let mode = instruction.funct3() as u8;
        if mode != DYNAMIC_ROUNDING {
            let rounding = csr::rounding(mode).ok_or(Illegal)?;
            let is_dynamic =
                rounding == Rounding::NearestEven && self.flags.dynamic_rounding() == DynamicRounding::NearestEven;
            return Ok(if is_dynamic { InstructionRounding::Native } else { InstructionRounding::Explicit(rounding) });
        }
        match self.flags.dynamic_rounding() {
            DynamicRounding::NearestEven | DynamicRounding::Directed => Ok(InstructionRounding::Native),
            DynamicRounding::NearestAway => Ok(InstructionRounding::Explicit(Rounding::NearestAway)),
            DynamicRounding::Invalid => Err(Illegal),
        }
    }

    /// Calls the helper for arithmetic with explicit rounding, and sets `rd` to its result.
    fn rounded(&mut self, rd: u8, ty: Type, op: RoundedOp, rounding: Rounding, a: Value, b: Value) {
        let code = self.builder.constant(FloatCode::rounded(op, ty, rounding));
        let result = self.builder.helper(helper_id::FLOAT_ROUNDED, &[code, a, b]);
        self.set_float_result(rd, ty, result);
    }

    pub(super) fn float_arithmetic(&mut self, instruction: Instruction) -> Lifted {
        if !self.flags.float_on() {
            return Err(Illegal);
        }
        let ty = format(instruction)?;
        let (rs2, funct3) = (instruction.rs2(), instruction.funct3());
        match instruction.funct7() >> 2 {
            0x00 => self.float_binary(instruction, ty, FloatBinaryOp::Add, RoundedOp::Add),
            0x01 => self.float_binary(instruction, ty, FloatBinaryOp::Sub, RoundedOp::Sub),
            0x02 => self.float_binary(instruction, ty, FloatBinaryOp::Mul, RoundedOp::Mul),
            0x03 => self.float_binary(instruction, ty, FloatBinaryOp::Div, RoundedOp::Div),
            0x0b if rs2 == 0 => self.float_square_root(instruction, ty),
            0x04 if funct3 <= 2 => {
                self.float_sign(instruction, ty);
                Ok(None)
            }
            0x05 if funct3 <= 1 => {
                let code = self.builder.constant(FloatCode::min_max(ty, funct3 == 1));
                let (a, b) = (self.float_argument(instruction.rs1(), ty), self.float_argument(rs2, ty));
                let result = self.builder.helper(helper_id::FLOAT_MIN_MAX, &[code, a, b]);
                self.set_float_result(instruction.rd(), ty, result);
                Ok(None)
            }
            0x08 => self.float_convert(instruction, ty),
            0x14 => self.float_compare(instruction, ty),
            0x18 if rs2 <= 3 => self.float_to_integer(instruction, ty),
            0x1a if rs2 <= 3 => self.integer_to_float(instruction, ty),
            0x1c if rs2 == 0 && funct3 == 0 => {
                let mut value = self.f(instruction.rs1());
                if ty == Type::F32 {
                    value = self.sign_extend_low(value);
                }
                self.set_x(instruction.rd(), value);
                Ok(None)
            }
            0x1c if rs2 == 0 && funct3 == 1 => {
                let code = self.builder.constant(FloatCode::class(ty));
                let a = self.float_argument(instruction.rs1(), ty);
                let class = self.builder.helper(helper_id::FLOAT_CLASS, &[code, a]);
                self.set_x(instruction.rd(), class);
                Ok(None)
            }
            0x1e if rs2 == 0 && funct3 == 0 => {
                let value = self.x(instruction.rs1());
                self.set_float_result(instruction.rd(), ty, value);
                Ok(None)
            }
            _ => Err(Illegal),
        }
    }

    /// FADD, FSUB, FMUL and FDIV.
    fn float_binary(&mut self, instruction: Instruction, ty: Type, op: FloatBinaryOp, rounded: RoundedOp) -> Lifted {
        let (rd, rs1, rs2) = (instruction.rd(), instruction.rs1(), instruction.rs2());
        match self.instruction_rounding(instruction)? {
            InstructionRounding::Native => {
                let (a, b) = (self.float(rs1, ty), self.float(rs2, ty));
                let result = self.builder.push(Op::FloatBinary { op, ty, a, b });
                self.set_float(rd, ty, result);
            }
            InstructionRounding::Explicit(rounding) => {
                let (a, b) = (self.float_argument(rs1, ty), self.float_argument(rs2, ty));
                self.rounded(rd, ty, rounded, rounding, a, b);
            }
        }
        Ok(None)
    }

    fn float_square_root(&mut self, instruction: Instruction, ty: Type) -> Lifted {
        match self.instruction_rounding(instruction)? {
            InstructionRounding::Native => {
                let a = self.float(instruction.rs1(), ty);
                let result = self.builder.push(Op::FloatSquareRoot { ty, a });
                self.set_float(instruction.rd(), ty, result);
            }
            InstructionRounding::Explicit(rounding) => {
                let a = self.float_argument(instruction.rs1(), ty);
                self.rounded(instruction.rd(), ty, RoundedOp::SquareRoot, rounding, a, a);
            }
        }
        Ok(None)
    }

    /// FMADD, FMSUB, FNMSUB and FNMADD.
    pub(super) fn float_multiply_add(&mut self, instruction: Instruction) -> Lifted {
        if !self.flags.float_on() {
            return Err(Illegal);
        }
        let ty = format(instruction)?;
        let integer = bits_of(ty);
        let rounding = self.instruction_rounding(instruction)?;
        let sign = self.builder.constant_of(integer, sign_of(ty));
        let mut a = self.float_bits(instruction.rs1(), ty);
        let b = self.float_bits(instruction.rs2(), ty);
        let mut c = self.float_bits(instruction.rs3(), ty);
        let (negates_product, negates_addend) = match instruction.opcode() {
            0x43 => (false, false),
            0x47 => (false, true),
            0x4b => (true, false),
            _ => (true, true),
        };
        if negates_product {
            a = self.builder.binary(BinaryOp::Xor, integer, a, sign);
        }
        if negates_addend {
            c = self.builder.binary(BinaryOp::Xor, integer, c, sign);
        }
        let rounding = match rounding {
            InstructionRounding::Native => {
                let [a, b, c] = [a, b, c].map(|bits| self.builder.bitcast(integer, ty, bits));
                let sum = self.builder.push(Op::FloatMultiplyAdd { ty, a, b, c });
                self.set_canonical(instruction.rd(), ty, sum);
                return Ok(None);
            }
            InstructionRounding::Explicit(rounding) => rounding,
        };
        let first =
            if ty == Type::F32 { helper_id::FLOAT_MULTIPLY_ADD_S_RNE } else { helper_id::FLOAT_MULTIPLY_ADD_D_RNE };
        let helper = HelperId(first.0 + rounding as u16);
        let arguments = [a, b, c]
            .map(|bits| if ty == Type::F32 { self.builder.zero_extend(Type::I32, Type::I64, bits) } else { bits });
        let result = self.builder.helper(helper, &arguments);
        self.set_float_result(instruction.rd(), ty, result);
        Ok(None)
    }

    /// FSGNJ, FSGNJN and FSGNJX.
    fn float_sign(&mut self, instruction: Instruction, ty: Type) {
        let (rd, rs1, rs2) = (instruction.rd(), instruction.rs1(), instruction.rs2());
        let integer = bits_of(ty);
        let a = self.float_bits(rs1, ty);
        let mut result = a;
        if rs1 != rs2 || instruction.funct3() != 0 {
            let sign = self.builder.constant_of(integer, sign_of(ty));
            let magnitude = self.builder.constant_of(integer, sign_of(ty) - 1);
            let b = self.float_bits(rs2, ty);
            result = match instruction.funct3() {
                // FNEG
                1 if rs1 == rs2 => self.builder.binary(BinaryOp::Xor, integer, a, sign),
                // FABS
                2 if rs1 == rs2 => self.builder.binary(BinaryOp::And, integer, a, magnitude),
                2 => {
                    let b_sign = self.builder.binary(BinaryOp::And, integer, b, sign);
                    self.builder.binary(BinaryOp::Xor, integer, a, b_sign)
                }
                funct3 => {
                    let b = if funct3 == 1 { self.builder.unary(UnaryOp::Not, integer, b) } else { b };
                    let b_sign = self.builder.binary(BinaryOp::And, integer, b, sign);
                    let a_magnitude = self.builder.binary(BinaryOp::And, integer, a, magnitude);
                    self.builder.binary(BinaryOp::Or, integer, a_magnitude, b_sign)
                }
            };
        }
        self.set_float_bits(rd, ty, result);
    }

    /// FEQ, FLT and FLE.
    fn float_compare(&mut self, instruction: Instruction, ty: Type) -> Lifted {
        let op = match instruction.funct3() {
            0 => FloatComparison::LessEqual,
            1 => FloatComparison::Less,
            2 => FloatComparison::Equal,
            _ => return Err(Illegal),
        };
        let (a, b) = (self.float(instruction.rs1(), ty), self.float(instruction.rs2(), ty));
        let result = self.builder.push(Op::FloatCompare { op, ty, a, b });
        let result = self.truth(result);
        self.set_x(instruction.rd(), result);
        Ok(None)
    }

    /// FCVT.S.D and FCVT.D.S. The latter is exact.
    fn float_convert(&mut self, instruction: Instruction, to: Type) -> Lifted {
        let from = match (to, instruction.rs2()) {
            (Type::F32, 1) => Type::F64,
            (Type::F64, 0) => Type::F32,
            _ => return Err(Illegal),
        };
        match self.instruction_rounding(instruction)? {
            InstructionRounding::Explicit(rounding) if to == Type::F32 => {
                let a = self.float_argument(instruction.rs1(), from);
                self.rounded(instruction.rd(), to, RoundedOp::Narrow, rounding, a, a);
            }
            _ => {
                let a = self.float(instruction.rs1(), from);
                let result = self.builder.push(Op::FloatConvert { from, to, a });
                self.set_float(instruction.rd(), to, result);
            }
        }
        Ok(None)
    }

    /// FCVT.W, FCVT.WU, FCVT.L and FCVT.LU from a floating-point format.
    fn float_to_integer(&mut self, instruction: Instruction, from: Type) -> Lifted {
        let rounding = match self.instruction_rounding(instruction)? {
            InstructionRounding::Native => DYNAMIC_ROUNDING,
            InstructionRounding::Explicit(rounding) => rounding as u8,
        };
        let code = self.builder.constant(FloatCode::to_integer(from, instruction.rs2(), rounding));
        let a = self.float_argument(instruction.rs1(), from);
        let result = self.builder.helper(helper_id::FLOAT_TO_INTEGER, &[code, a]);
        self.set_x(instruction.rd(), result);
        Ok(None)
    }

    /// FCVT to a floating-point format from W, WU, L and LU.
    fn integer_to_float(&mut self, instruction: Instruction, to: Type) -> Lifted {
        let (rd, kind) = (instruction.rd(), instruction.rs2());
        let rounding = self.instruction_rounding(instruction)?;
        let a = self.x(instruction.rs1());
        // Words, signed or not, as signed 64-bit integers.
        let a = match kind {
            0 => self.sign_extend_low(a),
            1 => {
                let low = self.low(a);
                self.builder.zero_extend(Type::I32, Type::I64, low)
            }
            _ => a,
        };
        let exact = to == Type::F64 && kind <= 1;
        let value = match rounding {
            InstructionRounding::Explicit(rounding) if !exact => {
                let op = if kind == 3 { RoundedOp::FromUnsigned } else { RoundedOp::FromSigned };
                self.rounded(rd, to, op, rounding, a, a);
                return Ok(None);
            }
            _ if kind == 3 => self.unsigned_to_float(to, a),
            _ => self.builder.push(Op::IntegerToFloat { from: Type::I64, to, a }),
        };
        self.set_canonical(rd, to, value);
        Ok(None)
    }

    /// Converts an unsigned I64. One too large for a signed integer is halved first, the bit that drops out kept for rounding,
    /// and doubled after.
    fn unsigned_to_float(&mut self, to: Type, a: Value) -> Value {
        let integer = bits_of(to);
        let (zero, one) = (self.builder.constant(0), self.builder.constant(1));
        let large = self.builder.compare(Comparison::LessSigned, Type::I64, a, zero);
        let half = self.builder.binary(BinaryOp::ShiftRightUnsigned, Type::I64, a, one);
        let last = self.builder.binary(BinaryOp::And, Type::I64, a, one);
        let half = self.builder.binary(BinaryOp::Or, Type::I64, half, last);
        let operand = self.builder.select(Type::I64, large, half, a);
        let single = self.builder.push(Op::IntegerToFloat { from: Type::I64, to, a: operand });
        let double = self.builder.push(Op::FloatBinary { op: FloatBinaryOp::Add, ty: to, a: single, b: single });
        let single = self.builder.bitcast(to, integer, single);
        let double = self.builder.bitcast(to, integer, double);
        let bits = self.builder.select(integer, large, double, single);
        self.builder.bitcast(integer, to, bits)
    }

    /// Forgets what is known of a floating-point register as a single-precision number.
    pub(super) fn forget_single(&mut self, register: u8) {
        debug_assert!(register < FIRST_FLOAT);
        self.singles[usize::from(register) % 32] = None;
    }
}
