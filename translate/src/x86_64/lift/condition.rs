//! Arithmetic flags: what sets them, and conditions on them.

use iced_x86::{ConditionCode, Mnemonic};

use crate::ir::{BinaryOp, Comparison, Type, Value};

use super::super::flags::{self, Family, Kind};
use super::super::helpers::id;
use super::super::registers::{FLAGS_A, FLAGS_B, FLAGS_KIND};
use super::{Lifted, Lifter, Result};

/// What is known, while a block is lifted, of what the flags are made of.
#[derive(Clone, Copy, Debug)]
pub(super) enum FlagState {
    /// Nothing.
    Unknown,
    /// They were set in this block.
    Known {
        kind: Kind,
        /// The first operand, of the kind's type (I64 if explicit).
        a: Value,
        /// The second: of the kind's type for sums and differences and shifts, else an I64.
        b: Value,
    },
}

/// One of the eight conditions, and whether it must not hold.
fn split(code: ConditionCode) -> (ConditionCode, bool) {
    use ConditionCode as C;
    match code {
        C::no => (C::o, true),
        C::ae => (C::b, true),
        C::ne => (C::e, true),
        C::a => (C::be, true),
        C::ns => (C::s, true),
        C::np => (C::p, true),
        C::ge => (C::l, true),
        C::g => (C::le, true),
        other => (other, false),
    }
}

impl Lifter {
    /// Sets the flags to those of a sum or difference of two operands, or of a shift.
    pub(super) fn set_flags(
        &mut self,
        family: Family,
        ty: Type,
        a: super::operand::Operand,
        b: super::operand::Operand,
    ) {
        let kind = Kind { family, ty };
        self.put_flags(kind, a.raw, b.raw);
        self.arithmetic = FlagState::Known { kind, a: a.value, b: b.value };
    }

    /// Sets the flags from a result and one more value, an I64.
    pub(super) fn set_flags_of_result(&mut self, family: Family, ty: Type, result: Value, b: Value) {
        let kind = Kind { family, ty };
        let raw = self.widen(ty, result);
        self.put_flags(kind, raw, b);
        self.arithmetic = FlagState::Known { kind, a: result, b };
    }

    /// Sets the flags to an I64 that has them in their places.
    pub(super) fn set_explicit_flags(&mut self, value: Value) {
        let zero = self.constant(0);
        self.put_flags(Kind::EXPLICIT, value, zero);
        self.arithmetic = FlagState::Known { kind: Kind::EXPLICIT, a: value, b: zero };
    }

    /// Changes some of the flags: those of `mask` become the bits of an I64 that has no others. What they change from is not computed where
    /// the result is known that ZF, SF and PF tell of, and these stay.
    pub(super) fn change_flags(&mut self, mask: u64, bits: Value) {
        if mask & !flags::NOT_OF_RESULT == 0
            && let FlagState::Known { kind, a, b } = self.arithmetic
            && let Some(result) = self.known_result(kind, a, b)
            && let Some(others) = self.known_flags(flags::NOT_OF_RESULT & !mask, kind, a, b, result)
        {
            let all = self.b.binary(BinaryOp::Or, Type::I64, others, bits);
            return self.set_flags_of_result(Family::Result, kind.ty, result, all);
        }
        let [_, all] = self.changed_flags(mask, bits);
        self.set_explicit_flags(all);
    }

    /// All flags in their places, and what they are when those of `mask` become the bits of an I64 that has no others.
    pub(super) fn changed_flags(&mut self, mask: u64, bits: Value) -> [Value; 2] {
        let before = self.all_flags();
        let others = self.constant(!mask);
        let others = self.b.binary(BinaryOp::And, Type::I64, before, others);
        [before, self.b.binary(BinaryOp::Or, Type::I64, others, bits)]
    }

    /// The result that ZF, SF and PF tell of.
    fn known_result(&mut self, Kind { family, ty }: Kind, a: Value, b: Value) -> Option<Value> {
        let op = match family {
            Family::Explicit | Family::AddCarry | Family::SubBorrow => return None,
            Family::Add => BinaryOp::Add,
            Family::Sub => BinaryOp::Sub,
            _ => return Some(a),
        };
        Some(self.b.binary(op, ty, a, b))
    }

    /// The flags of `mask`, in their places, where they are simple to tell.
    fn known_flags(&mut self, mask: u64, kind: Kind, a: Value, b: Value, result: Value) -> Option<Value> {
        use Family as F;
        let Kind { family, ty } = kind;
        if family == F::Result {
            let mask = self.constant(mask);
            return Some(self.b.binary(BinaryOp::And, Type::I64, b, mask));
        }
        let mut flags = self.constant(0);
        if mask & flags::OF != 0 && !matches!(family, F::Logic | F::LogicCarry | F::ShiftRightSigned) {
            return None;
        }
        if mask & flags::CF != 0 {
            let carry = self.known_condition(ConditionCode::b, false, kind, a, b)?;
            flags = self.b.zero_extend(Type::I8, Type::I64, carry);
        }
        if mask & flags::AF != 0 {
            let half = match family {
                F::Add | F::Sub => {
                    let differ = self.b.binary(BinaryOp::Xor, ty, a, b);
                    self.b.binary(BinaryOp::Xor, ty, differ, result)
                }
                F::Increment | F::Decrement => return None,
                _ => return Some(flags),
            };
            let (half, place) = (self.widen(ty, half), self.constant(flags::AF));
            let half = self.b.binary(BinaryOp::And, Type::I64, half, place);
            flags = self.b.binary(BinaryOp::Or, Type::I64, flags, half);
        }
        Some(flags)
    }

    fn put_flags(&mut self, kind: Kind, a: Value, b: Value) {
        let kind = self.constant(kind.encode());
        self.put_flag_registers(kind, a, b);
    }

    /// Sets what flags are made of, from I64s.
    pub(super) fn put_flag_registers(&mut self, kind: Value, a: Value, b: Value) {
        self.b.put(FLAGS_KIND, kind);
        self.b.put(FLAGS_A, a);
        self.b.put(FLAGS_B, b);
        self.arithmetic = FlagState::Unknown;
    }

    /// What flags are made of.
    pub(super) fn flag_registers(&mut self) -> [Value; 3] {
        [FLAGS_KIND, FLAGS_A, FLAGS_B].map(|register| self.b.get(register))
    }

    /// The arithmetic flags in their places, an I64.
    pub(super) fn all_flags(&mut self) -> Value {
        if let FlagState::Known { kind: Kind::EXPLICIT, a, .. } = self.arithmetic {
            return a;
        }
        let registers = self.flag_registers();
        self.helper(id::COMPUTE_FLAGS, &registers)
    }

    /// CF as an I64, 0 or 1.
    pub(super) fn carry(&mut self) -> Value {
        let carry = self.condition(ConditionCode::b);
        self.b.zero_extend(Type::I8, Type::I64, carry)
    }

    /// A truth value, an I8.
    pub(super) fn condition(&mut self, code: ConditionCode) -> Value {
        let (code, negated) = split(code);
        if let FlagState::Known { kind, a, b } = self.arithmetic
            && let Some(value) = self.known_condition(code, negated, kind, a, b)
        {
            return value;
        }
        let flags = self.all_flags();
        let mask = match code {
            ConditionCode::o => flags::OF,
            ConditionCode::b => flags::CF,
            ConditionCode::e => flags::ZF,
            ConditionCode::be => flags::CF | flags::ZF,
            ConditionCode::s => flags::SF,
            ConditionCode::p => flags::PF,
            _ => return self.signed_condition(flags, code, negated),
        };
        self.any_bit(flags, mask, negated)
    }

    fn any_bit(&mut self, flags: Value, mask: u64, negated: bool) -> Value {
        let mask = self.constant(mask);
        let bits = self.b.binary(BinaryOp::And, Type::I64, flags, mask);
        let zero = self.constant(0);
        let comparison = if negated { Comparison::Equal } else { Comparison::NotEqual };
        self.b.compare(comparison, Type::I64, bits, zero)
    }

    /// SF != OF, or that or ZF.
    fn signed_condition(&mut self, flags: Value, code: ConditionCode, negated: bool) -> Value {
        let four = self.constant(4);
        let overflow = self.b.binary(BinaryOp::ShiftRightUnsigned, Type::I64, flags, four);
        let differ = self.b.binary(BinaryOp::Xor, Type::I64, flags, overflow);
        let sign = self.constant(flags::SF);
        let differ = self.b.binary(BinaryOp::And, Type::I64, differ, sign);
        if code == ConditionCode::l {
            return self.any_bit(differ, flags::SF, negated);
        }
        let zero = self.constant(flags::ZF);
        let zero = self.b.binary(BinaryOp::And, Type::I64, flags, zero);
        let either = self.b.binary(BinaryOp::Or, Type::I64, differ, zero);
        self.any_bit(either, flags::SF | flags::ZF, negated)
    }

    fn known_condition(
        &mut self,
        code: ConditionCode,
        negated: bool,
        Kind { family, ty }: Kind,
        a: Value,
        b: Value,
    ) -> Option<Value> {
        use ConditionCode as C;
        match (family, code) {
            (Family::Result, C::b) => return Some(self.any_bit(b, flags::CF, negated)),
            (Family::Result, C::o) => return Some(self.any_bit(b, flags::OF, negated)),
            _ => {}
        }
        // The comparison, its operands, and their type.
        let (comparison, left, right, ty) = match (family, code) {
            (Family::Sub, C::b) => (Comparison::LessUnsigned, a, b, ty),
            (Family::Sub, C::e) => (Comparison::Equal, a, b, ty),
            (Family::Sub, C::be) => (Comparison::LessEqualUnsigned, a, b, ty),
            (Family::Sub, C::l) => (Comparison::LessSigned, a, b, ty),
            (Family::Sub, C::le) => (Comparison::LessEqualSigned, a, b, ty),
            (Family::Sub, C::s) => {
                let result = self.b.binary(BinaryOp::Sub, ty, a, b);
                (Comparison::LessSigned, result, self.zero(ty), ty)
            }
            (Family::Add, C::b) => {
                let result = self.b.binary(BinaryOp::Add, ty, a, b);
                (Comparison::LessUnsigned, result, a, ty)
            }
            (Family::Add, C::e | C::s) => {
                let result = self.b.binary(BinaryOp::Add, ty, a, b);
                let comparison = if code == C::e { Comparison::Equal } else { Comparison::LessSigned };
                (comparison, result, self.zero(ty), ty)
            }
            (Family::Logic, C::b | C::o) => {
                let zero = self.zero(Type::I64);
                (Comparison::NotEqual, zero, zero, Type::I64)
            }
            (Family::Logic, C::e | C::be) => (Comparison::Equal, a, self.zero(ty), ty),
            (Family::Logic, C::l) => (Comparison::LessSigned, a, self.zero(ty), ty),
            (Family::Logic, C::le) => (Comparison::LessEqualSigned, a, self.zero(ty), ty),
            (Family::LogicCarry | Family::Increment | Family::Decrement | Family::Multiply, C::b) => {
                (Comparison::NotEqual, b, self.zero(Type::I64), Type::I64)
            }
            (Family::Add | Family::AddCarry | Family::Sub | Family::SubBorrow | Family::Explicit, _) => return None,
            (_, C::e) => (Comparison::Equal, a, self.zero(ty), ty),
            (_, C::s) => (Comparison::LessSigned, a, self.zero(ty), ty),
            _ => return None,
        };
        let (comparison, left, right) = if negated {
            match comparison {
                Comparison::Equal => (Comparison::NotEqual, left, right),
                Comparison::NotEqual => (Comparison::Equal, left, right),
                Comparison::LessSigned => (Comparison::LessEqualSigned, right, left),
                Comparison::LessUnsigned => (Comparison::LessEqualUnsigned, right, left),
                Comparison::LessEqualSigned => (Comparison::LessSigned, right, left),
                Comparison::LessEqualUnsigned => (Comparison::LessUnsigned, right, left),
            }
        } else {
            (comparison, left, right)
        };
        Some(self.b.compare(comparison, ty, left, right))
    }

    pub(super) fn zero(&mut self, ty: Type) -> Value {
        self.b.constant_of(ty, 0)
    }

    pub(super) fn is_setcc(&self) -> bool {
        use Mnemonic as M;
        matches!(
            self.i.mnemonic(),
            M::Seto
                | M::Setno
                | M::Setb
                | M::Setae
                | M::Sete
                | M::Setne
                | M::Setbe
                | M::Seta
                | M::Sets
                | M::Setns
                | M::Setp
                | M::Setnp
                | M::Setl
                | M::Setge
                | M::Setle
                | M::Setg
        )
    }

    pub(super) fn is_cmovcc(&self) -> bool {
        use Mnemonic as M;
        matches!(
            self.i.mnemonic(),
            M::Cmovo
                | M::Cmovno
                | M::Cmovb
                | M::Cmovae
                | M::Cmove
                | M::Cmovne
                | M::Cmovbe
                | M::Cmova
                | M::Cmovs
                | M::Cmovns
                | M::Cmovp
                | M::Cmovnp
                | M::Cmovl
                | M::Cmovge
                | M::Cmovle
                | M::Cmovg
        )
    }

    pub(super) fn set_conditional(&mut self) -> Result {
        let value = self.condition(self.i.condition_code());
        self.write(0, value)?;
        Ok(Lifted::Next)
    }

    pub(super) fn move_conditional(&mut self) -> Result {
        let ty = self.ty(0);
        let source = self.read(1)?;
        let old = self.read(0)?;
        let condition = self.condition(self.i.condition_code());
        let value = self.b.select(ty, condition, source.value, old.value);
        self.write(0, value)?;
        Ok(Lifted::Next)
    }

    /// CLC, STC, CMC, CLD, STD.
    pub(super) fn change_flag(&mut self) -> Result {
        use Mnemonic as M;
        let mnemonic = self.i.mnemonic();
        if matches!(mnemonic, M::Cld | M::Std) {
            let direction = self.constant(if mnemonic == M::Cld { 1 } else { u64::MAX });
            self.b.put(super::super::registers::DIRECTION, direction);
            return Ok(Lifted::Next);
        }
        let carry = match mnemonic {
            M::Clc => self.constant(0),
            M::Stc => self.constant(flags::CF),
            _ => {
                let not_carry = self.condition(ConditionCode::ae);
                self.b.zero_extend(Type::I8, Type::I64, not_carry)
            }
        };
        self.change_flags(flags::CF, carry);
        Ok(Lifted::Next)
    }
}
