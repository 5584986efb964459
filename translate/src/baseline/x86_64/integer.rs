//! Integer operations. Values of narrow types are zero-extended in their registers.

use dynasmrt::{DynamicLabel, DynasmApi, DynasmLabelApi, dynasm};

use super::encoding::compare_with_constant;
use super::registers::Source;
use super::{Emitted, Emitter, Unsupported};
use crate::ir::{BinaryOp, Comparison, Type, UnaryOp, Value};

/// The scratch registers, by their numbers.
const RAX: u8 = 0;
const RCX: u8 = 1;

/// A condition on the host's flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    Below,
    BelowEqual,
    Above,
    AboveEqual,
    Parity,
}

impl Condition {
    /// That of `cmp a, b`.
    pub(super) fn of(comparison: Comparison) -> Condition {
        match comparison {
            Comparison::Equal => Condition::Equal,
            Comparison::NotEqual => Condition::NotEqual,
            Comparison::LessSigned => Condition::Less,
            Comparison::LessUnsigned => Condition::Below,
            Comparison::LessEqualSigned => Condition::LessEqual,
            Comparison::LessEqualUnsigned => Condition::BelowEqual,
        }
    }
}

/// `value` as a sign-extended immediate of 32 bits for an operation of a type, if it is one.
fn immediate(source: Source, ty: Type) -> Option<i32> {
    let Source::Constant(bits) = source else { return None };
    match ty {
        Type::I64 | Type::F64 | Type::V128 => i32::try_from(bits as i64).ok(),
        _ => Some(bits as i32),
    }
}

/// Emits an instruction of two operands on registers of 64 or 32 bits, or a register and an immediate.
macro_rules! two_operands {
    ($emitter:expr, $name:ident, $ty:expr, $to:expr, $source:expr) => {{
        let (to, ty) = ($to, $ty);
        let wide = matches!(ty, Type::I64 | Type::F64);
        match ($source, immediate($source, ty)) {
            (_, Some(immediate)) if wide => with_immediate!($emitter.code, [$name Rq(to),] immediate),
            (_, Some(immediate)) => with_immediate!($emitter.code, [$name Rd(to),] immediate),
            (Source::Register(from), _) if wide => dynasm!($emitter.code ; .arch x64 ; $name Rq(to), Rq(from)),
            (Source::Register(from), _) => dynasm!($emitter.code ; .arch x64 ; $name Rd(to), Rd(from)),
            (source, _) => {
                $emitter.load_source(RCX, source);
                if wide {
                    dynasm!($emitter.code ; .arch x64 ; $name Rq(to), rcx);
                } else {
                    dynasm!($emitter.code ; .arch x64 ; $name Rd(to), ecx);
                }
            }
        }
    }};
}

/// Emits a shift or rotation by a constant or by `cl`.
macro_rules! shift {
    ($emitter:expr, $name:ident, $ty:expr, $to:expr, $count:expr) => {{
        let to = $to;
        match ($ty, $count) {
            (Type::I64 | Type::F64 | Type::V128, Some(count)) => dynasm!($emitter.code ; .arch x64 ; $name Rq(to), count),
            (Type::I64 | Type::F64 | Type::V128, None) => dynasm!($emitter.code ; .arch x64 ; $name Rq(to), cl),
            (Type::I32 | Type::F32, Some(count)) => dynasm!($emitter.code ; .arch x64 ; $name Rd(to), count),
            (Type::I32 | Type::F32, None) => dynasm!($emitter.code ; .arch x64 ; $name Rd(to), cl),
            (Type::I16, Some(count)) => dynasm!($emitter.code ; .arch x64 ; $name Rw(to), count),
            (Type::I16, None) => dynasm!($emitter.code ; .arch x64 ; $name Rw(to), cl),
            (Type::I8, Some(count)) => dynasm!($emitter.code ; .arch x64 ; $name Rb(to), count),
            (Type::I8, None) => dynasm!($emitter.code ; .arch x64 ; $name Rb(to), cl),
        }
    }};
}

impl Emitter<'_> {
    /// Clears the bits above a narrow type.
    fn narrow(&mut self, ty: Type, register: u8) {
        match ty {
            Type::I8 => dynasm!(self.code ; .arch x64 ; movzx Rd(register), Rb(register)),
            Type::I16 => dynasm!(self.code ; .arch x64 ; movzx Rd(register), Rw(register)),
            _ => {}
        }
    }

    pub(super) fn binary(&mut self, place: usize, op: BinaryOp, ty: Type, a: Value, b: Value) {
        use BinaryOp as B;
        // The operand that is not copied must outlive the copying of the other.
        let (a, b) = match op {
            B::Add | B::Mul | B::And | B::Or | B::Xor if a != b && matches!(self.source(a), Source::Constant(_)) => {
                (b, a)
            }
            _ => (a, b),
        };
        match op {
            B::MulHighSigned | B::MulHighUnsigned => return self.multiply_high(place, op, a, b),
            B::DivSigned | B::DivUnsigned | B::RemSigned | B::RemUnsigned => return self.divide(place, op, ty, a, b),
            _ => {}
        }
        let to = if a == b {
            let to = self.define(place);
            self.load_value(to, a);
            to
        } else {
            self.copy(place, a)
        };
        // Spilled, should the definition have needed its register.
        let source = self.source(b);
        match op {
            B::Add => two_operands!(self, add, ty, to, source),
            B::Sub => two_operands!(self, sub, ty, to, source),
            B::And => two_operands!(self, and, ty, to, source),
            B::Or => two_operands!(self, or, ty, to, source),
            B::Xor => two_operands!(self, xor, ty, to, source),
            B::Mul => {
                let from = self.read(b, RCX);
                if ty == Type::I64 {
                    dynasm!(self.code ; .arch x64 ; imul Rq(to), Rq(from));
                } else {
                    dynasm!(self.code ; .arch x64 ; imul Rd(to), Rd(from));
                }
            }
            B::ShiftLeft | B::ShiftRightUnsigned | B::ShiftRightSigned | B::RotateLeft | B::RotateRight => {
                let count = match source {
                    Source::Constant(bits) => Some((bits & u64::from(ty.bits() - 1)) as i8),
                    _ => {
                        self.load_source(RCX, source);
                        if ty.bits() < 32 {
                            dynasm!(self.code ; .arch x64 ; and ecx, ty.bits() as i32 - 1);
                        }
                        None
                    }
                };
                match op {
                    B::ShiftLeft => shift!(self, shl, ty, to, count),
                    B::ShiftRightUnsigned => shift!(self, shr, ty, to, count),
                    B::ShiftRightSigned => shift!(self, sar, ty, to, count),
                    B::RotateLeft => shift!(self, rol, ty, to, count),
                    _ => shift!(self, ror, ty, to, count),
                }
            }
            B::MinSigned | B::MinUnsigned | B::MaxSigned | B::MaxUnsigned => {
                let from = self.read(b, RCX);
                self.compare_registers(ty, to, from);
                let replace = match op {
                    B::MinSigned => Condition::Greater,
                    B::MinUnsigned => Condition::Above,
                    B::MaxSigned => Condition::Less,
                    _ => Condition::Below,
                };
                self.move_if(replace, to, from);
            }
            B::MulHighSigned | B::MulHighUnsigned | B::DivSigned | B::DivUnsigned | B::RemSigned | B::RemUnsigned => {}
        }
        self.narrow(ty, to);
    }

    fn multiply_high(&mut self, place: usize, op: BinaryOp, a: Value, b: Value) {
        let to = self.define(place);
        self.load_value(RAX, a);
        let from = self.read(b, RCX);
        if op == BinaryOp::MulHighSigned {
            dynasm!(self.code ; .arch x64 ; imul Rq(from));
        } else {
            dynasm!(self.code ; .arch x64 ; mul Rq(from));
        }
        dynasm!(self.code ; .arch x64 ; mov Rq(to), rdx);
    }

    /// All divisions are of 64 bits: then only those of I64 can overflow.
    fn divide(&mut self, place: usize, op: BinaryOp, ty: Type, a: Value, b: Value) {
        let signed = matches!(op, BinaryOp::DivSigned | BinaryOp::RemSigned);
        let remainder = matches!(op, BinaryOp::RemSigned | BinaryOp::RemUnsigned);
        let to = self.define(place);
        self.load_value(RAX, a);
        self.load_value(RCX, b);
        if signed {
            self.sign_extend(ty, RAX);
            self.sign_extend(ty, RCX);
        }
        let (zero, done) = (self.code.new_dynamic_label(), self.code.new_dynamic_label());
        // Where the division cannot be done, the remainder is the dividend and the quotient zero.
        dynasm!(self.code ; .arch x64 ; mov rdx, rax ; test rcx, rcx ; jz =>zero);
        if signed {
            let divides = self.code.new_dynamic_label();
            // x / -1 = -x, and MIN remains MIN; there is no remainder.
            dynasm!(self.code
                ; .arch x64
                ; cmp rcx, -1
                ; jne =>divides
                ; neg rax
                ; xor edx, edx
                ; jmp =>done
                ; =>divides
                ; cqo
                ; idiv rcx
                ; jmp =>done
            );
        } else {
            dynasm!(self.code ; .arch x64 ; xor edx, edx ; div rcx ; jmp =>done);
        }
        dynasm!(self.code ; .arch x64 ; =>zero ; xor eax, eax ; =>done);
        let from = if remainder { 2 } else { RAX };
        if ty == Type::I64 {
            dynasm!(self.code ; .arch x64 ; mov Rq(to), Rq(from));
        } else {
            dynasm!(self.code ; .arch x64 ; mov Rd(to), Rd(from));
        }
        self.narrow(ty, to);
    }

    /// Sign-extends a register in place, to 64 bits.
    pub(super) fn sign_extend(&mut self, from: Type, register: u8) {
        match from {
            Type::I8 => dynasm!(self.code ; .arch x64 ; movsx Rq(register), Rb(register)),
            Type::I16 => dynasm!(self.code ; .arch x64 ; movsx Rq(register), Rw(register)),
            Type::I32 => dynasm!(self.code ; .arch x64 ; movsxd Rq(register), Rd(register)),
            _ => {}
        }
    }

    pub(super) fn unary(&mut self, place: usize, op: UnaryOp, ty: Type, a: Value) -> Emitted {
        let features = self.baseline.features;
        let supported = match op {
            UnaryOp::CountLeadingZeros | UnaryOp::CountTrailingZeros => features.count_zeros,
            UnaryOp::PopulationCount => features.population_count,
            _ => true,
        };
        if !supported {
            return Err(Unsupported);
        }
        let to = self.copy(place, a);
        let wide = ty == Type::I64;
        let unused = 32_i32.saturating_sub(ty.bits() as i32);
        match op {
            UnaryOp::Not if wide => dynasm!(self.code ; .arch x64 ; not Rq(to)),
            UnaryOp::Not => dynasm!(self.code ; .arch x64 ; not Rd(to)),
            UnaryOp::Negate if wide => dynasm!(self.code ; .arch x64 ; neg Rq(to)),
            UnaryOp::Negate => dynasm!(self.code ; .arch x64 ; neg Rd(to)),
            UnaryOp::CountLeadingZeros if wide => dynasm!(self.code ; .arch x64 ; lzcnt Rq(to), Rq(to)),
            UnaryOp::CountLeadingZeros => {
                dynasm!(self.code ; .arch x64 ; lzcnt Rd(to), Rd(to) ; sub Rd(to), unused);
            }
            UnaryOp::CountTrailingZeros if wide => dynasm!(self.code ; .arch x64 ; tzcnt Rq(to), Rq(to)),
            UnaryOp::CountTrailingZeros => {
                if ty != Type::I32 {
                    // A bit above the type ends the search.
                    dynasm!(self.code ; .arch x64 ; or Rd(to), 1 << ty.bits());
                }
                dynasm!(self.code ; .arch x64 ; tzcnt Rd(to), Rd(to));
            }
            UnaryOp::PopulationCount => dynasm!(self.code ; .arch x64 ; popcnt Rq(to), Rq(to)),
            UnaryOp::ByteSwap if wide => dynasm!(self.code ; .arch x64 ; bswap Rq(to)),
            UnaryOp::ByteSwap if ty == Type::I16 => dynasm!(self.code ; .arch x64 ; rol Rw(to), 8),
            UnaryOp::ByteSwap => dynasm!(self.code ; .arch x64 ; bswap Rd(to)),
        }
        self.narrow(ty, to);
        Ok(())
    }

    fn compare_registers(&mut self, ty: Type, a: u8, b: u8) {
        match ty {
            Type::I8 => dynasm!(self.code ; .arch x64 ; cmp Rb(a), Rb(b)),
            Type::I16 => dynasm!(self.code ; .arch x64 ; cmp Rw(a), Rw(b)),
            Type::I32 | Type::F32 => dynasm!(self.code ; .arch x64 ; cmp Rd(a), Rd(b)),
            Type::I64 | Type::F64 | Type::V128 => dynasm!(self.code ; .arch x64 ; cmp Rq(a), Rq(b)),
        }
    }

    /// Compares two values, leaving the answer in the host's flags.
    pub(super) fn compare_values(&mut self, ty: Type, a: Value, b: Value) {
        let a = self.read(a, RAX);
        let b = self.source(b);
        if b == Source::Constant(0) {
            match ty {
                Type::I8 => dynasm!(self.code ; .arch x64 ; test Rb(a), Rb(a)),
                Type::I16 => dynasm!(self.code ; .arch x64 ; test Rw(a), Rw(a)),
                Type::I32 | Type::F32 => dynasm!(self.code ; .arch x64 ; test Rd(a), Rd(a)),
                Type::I64 | Type::F64 | Type::V128 => dynasm!(self.code ; .arch x64 ; test Rq(a), Rq(a)),
            }
            return;
        }
        match (ty, immediate(b, ty)) {
            (Type::I32, Some(bits)) => compare_with_constant(&mut self.code, false, a, bits),
            (Type::I64, Some(bits)) => compare_with_constant(&mut self.code, true, a, bits),
            _ => {
                let b = match b {
                    Source::Register(register) => register,
                    source => {
                        self.load_source(RCX, source);
                        RCX
                    }
                };
                self.compare_registers(ty, a, b);
            }
        }
    }

    pub(super) fn compare(&mut self, place: usize, op: Comparison, ty: Type, a: Value, b: Value) {
        let to = self.define(place);
        self.compare_values(ty, a, b);
        self.set_if(Condition::of(op), to);
    }

    /// The comparison before, or else the truth of a value, in the host's flags.
    pub(super) fn condition(&mut self, condition: Value) -> Condition {
        if let Some((condition, ty, a, b)) = self.flags.take() {
            self.compare_values(ty, a, b);
            return condition;
        }
        let condition = self.read(condition, RAX);
        dynasm!(self.code ; .arch x64 ; test Rb(condition), Rb(condition));
        Condition::NotEqual
    }

    pub(super) fn select(&mut self, place: usize, condition: Value, a: Value, b: Value) {
        let to = self.define(place);
        // Loading a constant may change the flags, so both come first.
        self.load_value(to, b);
        self.load_value(2, a);
        let condition = self.condition(condition);
        self.move_if(condition, to, 2);
    }

    pub(super) fn extend(&mut self, place: usize, signed: bool, from: Type, to: Type, a: Value) {
        let register = self.copy(place, a);
        if signed {
            self.sign_extend(from, register);
            match to {
                Type::I32 => dynasm!(self.code ; .arch x64 ; mov Rd(register), Rd(register)),
                _ => self.narrow(to, register),
            }
        }
    }

    pub(super) fn truncate(&mut self, place: usize, to: Type, a: Value) {
        let register = self.copy(place, a);
        match to {
            Type::I32 => dynasm!(self.code ; .arch x64 ; mov Rd(register), Rd(register)),
            _ => self.narrow(to, register),
        }
    }

    pub(super) fn jump_if(&mut self, condition: Condition, label: DynamicLabel) {
        match condition {
            Condition::Equal => dynasm!(self.code ; .arch x64 ; je =>label),
            Condition::NotEqual => dynasm!(self.code ; .arch x64 ; jne =>label),
            Condition::Less => dynasm!(self.code ; .arch x64 ; jl =>label),
            Condition::LessEqual => dynasm!(self.code ; .arch x64 ; jle =>label),
            Condition::Greater => dynasm!(self.code ; .arch x64 ; jg =>label),
            Condition::Below => dynasm!(self.code ; .arch x64 ; jb =>label),
            Condition::BelowEqual => dynasm!(self.code ; .arch x64 ; jbe =>label),
            Condition::Above => dynasm!(self.code ; .arch x64 ; ja =>label),
            Condition::AboveEqual => dynasm!(self.code ; .arch x64 ; jae =>label),
            Condition::Parity => dynasm!(self.code ; .arch x64 ; jp =>label),
        }
    }

    /// Sets a register to 1 or 0.
    pub(super) fn set_if(&mut self, condition: Condition, to: u8) {
        match condition {
            Condition::Equal => dynasm!(self.code ; .arch x64 ; sete Rb(to)),
            Condition::NotEqual => dynasm!(self.code ; .arch x64 ; setne Rb(to)),
            Condition::Less => dynasm!(self.code ; .arch x64 ; setl Rb(to)),
            Condition::LessEqual => dynasm!(self.code ; .arch x64 ; setle Rb(to)),
            Condition::Greater => dynasm!(self.code ; .arch x64 ; setg Rb(to)),
            Condition::Below => dynasm!(self.code ; .arch x64 ; setb Rb(to)),
            Condition::BelowEqual => dynasm!(self.code ; .arch x64 ; setbe Rb(to)),
            Condition::Above => dynasm!(self.code ; .arch x64 ; seta Rb(to)),
            Condition::AboveEqual => dynasm!(self.code ; .arch x64 ; setae Rb(to)),
            Condition::Parity => dynasm!(self.code ; .arch x64 ; setp Rb(to)),
        }
        dynasm!(self.code ; .arch x64 ; movzx Rd(to), Rb(to));
    }

    fn move_if(&mut self, condition: Condition, to: u8, from: u8) {
        match condition {
            Condition::Equal => dynasm!(self.code ; .arch x64 ; cmove Rq(to), Rq(from)),
            Condition::NotEqual => dynasm!(self.code ; .arch x64 ; cmovne Rq(to), Rq(from)),
            Condition::Less => dynasm!(self.code ; .arch x64 ; cmovl Rq(to), Rq(from)),
            Condition::LessEqual => dynasm!(self.code ; .arch x64 ; cmovle Rq(to), Rq(from)),
            Condition::Greater => dynasm!(self.code ; .arch x64 ; cmovg Rq(to), Rq(from)),
            Condition::Below => dynasm!(self.code ; .arch x64 ; cmovb Rq(to), Rq(from)),
            Condition::BelowEqual => dynasm!(self.code ; .arch x64 ; cmovbe Rq(to), Rq(from)),
            Condition::Above => dynasm!(self.code ; .arch x64 ; cmova Rq(to), Rq(from)),
            Condition::AboveEqual => dynasm!(self.code ; .arch x64 ; cmovae Rq(to), Rq(from)),
            Condition::Parity => dynasm!(self.code ; .arch x64 ; cmovp Rq(to), Rq(from)),
        }
    }
}
