//! Integer arithmetic.

use iced_x86::{ConditionCode, Mnemonic, OpKind, Register as Named};

use crate::ir::{AtomicOp, BinaryOp, Comparison, Op, Type, UnaryOp, Value};

use super::super::event::{number, vector};
use super::super::flags::{self, Family, Kind};
use super::super::helpers::id;
use super::super::registers::{RAX, RBX, RCX, RDX};
use super::operand::{Operand, width_of};
use super::{Lifted, Lifter, Raises, Result};

impl Lifter {
    /// ADD, OR, ADC, SBB, AND, SUB, XOR, CMP, TEST.
    pub(super) fn arithmetic(&mut self) -> Result {
        use Mnemonic as M;
        let mnemonic = self.i.mnemonic();
        let ty = self.ty(0);
        if mnemonic == M::Xor && self.is_zeroing() {
            return self.zero_register(ty);
        }
        let b = self.read(1)?;
        if matches!(mnemonic, M::Cmp | M::Test) {
            let a = self.read(0)?;
            if mnemonic == M::Cmp {
                self.set_flags(Family::Sub, ty, a, b);
            } else {
                let result =
                    if self.same_registers() { a.value } else { self.b.binary(BinaryOp::And, ty, a.value, b.value) };
                let zero = self.constant(0);
                self.set_flags_of_result(Family::Logic, ty, result, zero);
            }
            return Ok(Lifted::Next);
        }
        if self.i.has_lock_prefix() {
            return self.locked_arithmetic(ty, b);
        }
        let a = self.read_to_modify(0)?;
        let carry = if matches!(mnemonic, M::Adc | M::Sbb) { Some(self.carry()) } else { None };
        let result = self.combine(mnemonic, ty, a.value, b.value, carry);
        self.write(0, result)?;
        self.flags_of_sum(mnemonic, ty, a, b, carry, result);
        Ok(Lifted::Next)
    }

    fn same_registers(&self) -> bool {
        self.i.op0_kind() == OpKind::Register
            && self.i.op1_kind() == OpKind::Register
            && self.i.op0_register() == self.i.op1_register()
    }

    fn is_zeroing(&self) -> bool {
        self.same_registers() && matches!(self.ty(0), Type::I32 | Type::I64)
    }

    fn zero_register(&mut self, ty: Type) -> Result {
        let zero = self.zero(ty);
        self.write(0, zero)?;
        let nothing = self.constant(0);
        self.set_flags_of_result(Family::Logic, ty, zero, nothing);
        Ok(Lifted::Next)
    }

    fn combine(&mut self, mnemonic: Mnemonic, ty: Type, a: Value, b: Value, carry: Option<Value>) -> Value {
        use Mnemonic as M;
        let op = match mnemonic {
            M::Add | M::Adc | M::Xadd => BinaryOp::Add,
            M::Sub | M::Sbb | M::Cmp => BinaryOp::Sub,
            M::And | M::Test => BinaryOp::And,
            M::Or => BinaryOp::Or,
            _ => BinaryOp::Xor,
        };
        let result = self.b.binary(op, ty, a, b);
        match carry {
            Some(carry) => {
                let carry = self.typed(ty, carry);
                self.b.binary(op, ty, result, carry)
            }
            None => result,
        }
    }

    fn flags_of_sum(
        &mut self,
        mnemonic: Mnemonic,
        ty: Type,
        a: Operand,
        b: Operand,
        carry: Option<Value>,
        result: Value,
    ) {
        use Mnemonic as M;
        let family = match mnemonic {
            M::Add | M::Adc | M::Xadd => Family::Add,
            M::Sub | M::Sbb | M::Cmp => Family::Sub,
            _ => {
                let zero = self.constant(0);
                return self.set_flags_of_result(Family::Logic, ty, result, zero);
            }
        };
        let Some(carry) = carry else { return self.set_flags(family, ty, a, b) };
        // The carry is part of the kind.
        let without = self.constant(Kind { family, ty }.encode());
        let step = self.constant(Kind::FAMILY_STEP);
        let with = self.b.binary(BinaryOp::Mul, Type::I64, carry, step);
        let kind = self.b.add(without, with);
        self.put_flag_registers(kind, a.raw, b.raw);
    }

    fn locked_arithmetic(&mut self, ty: Type, b: Operand) -> Result {
        use Mnemonic as M;
        let mnemonic = self.i.mnemonic();
        let op = match mnemonic {
            M::Add | M::Xadd | M::Sub => AtomicOp::Add,
            M::And => AtomicOp::And,
            M::Or => AtomicOp::Or,
            M::Xor => AtomicOp::Xor,
            _ => return self.locked_with_carry(ty, b),
        };
        let operand = if mnemonic == M::Sub { self.b.unary(UnaryOp::Negate, Type::I64, b.raw) } else { b.raw };
        let old = self.atomic(op, ty, operand)?;
        let result = self.combine(mnemonic, ty, old.value, b.value, None);
        self.flags_of_sum(mnemonic, ty, old, b, None, result);
        Ok(Lifted::Next)
    }

    /// An atomic read-modify-write of the memory operand; gives what was there.
    pub(super) fn atomic(&mut self, op: AtomicOp, ty: Type, operand: Value) -> Result<Operand> {
        let place = self.place(ty, true)?;
        self.check_alignment(place, u64::from(ty.bits() / 8));
        let address = self.address_of(place);
        let (width, mode) = (width_of(ty), self.mode);
        let raw = self.b.push(Op::AtomicReadModifyWrite { op, width, mode, address, value: operand });
        Ok(Operand { value: self.typed(ty, raw), raw })
    }

    /// Compare-and-exchange of the memory operand; gives what was there.
    fn atomic_exchange_if(&mut self, ty: Type, expected: Value, new: Value) -> Result<Operand> {
        let place = self.place(ty, true)?;
        self.check_alignment(place, u64::from(ty.bits() / 8));
        let address = self.address_of(place);
        let (width, mode) = (width_of(ty), self.mode);
        let raw = self.b.push(Op::AtomicCompareExchange { width, mode, address, expected, new });
        Ok(Operand { value: self.typed(ty, raw), raw })
    }

    /// LOCK ADC and LOCK SBB add the carry to their operand first.
    fn locked_with_carry(&mut self, ty: Type, b: Operand) -> Result {
        let mnemonic = self.i.mnemonic();
        let carry = self.carry();
        let mut operand = self.b.add(b.raw, carry);
        if mnemonic == Mnemonic::Sbb {
            operand = self.b.unary(UnaryOp::Negate, Type::I64, operand);
        }
        let old = self.atomic(AtomicOp::Add, ty, operand)?;
        let result = self.combine(mnemonic, ty, old.value, b.value, Some(carry));
        self.flags_of_sum(mnemonic, ty, old, b, Some(carry), result);
        Ok(Lifted::Next)
    }

    /// INC, DEC, NEG, NOT.
    pub(super) fn unary(&mut self) -> Result {
        use Mnemonic as M;
        let mnemonic = self.i.mnemonic();
        let ty = self.ty(0);
        let one = self.constant_operand(ty, ty.mask() & 1);
        let locked = self.i.has_lock_prefix();
        match mnemonic {
            M::Inc | M::Dec => {
                let op = if mnemonic == M::Inc { BinaryOp::Add } else { BinaryOp::Sub };
                let carry = self.carry();
                let old = if locked {
                    let by = self.constant(if mnemonic == M::Inc { 1 } else { u64::MAX });
                    self.atomic(AtomicOp::Add, ty, by)?
                } else {
                    self.read_to_modify(0)?
                };
                let result = self.b.binary(op, ty, old.value, one.value);
                if !locked {
                    self.write(0, result)?;
                }
                let family = if mnemonic == M::Inc { Family::Increment } else { Family::Decrement };
                self.set_flags_of_result(family, ty, result, carry);
            }
            M::Not => {
                if locked {
                    let ones = self.constant(u64::MAX);
                    self.atomic(AtomicOp::Xor, ty, ones)?;
                } else {
                    let old = self.read_to_modify(0)?;
                    let result = self.b.unary(UnaryOp::Not, ty, old.value);
                    self.write(0, result)?;
                }
            }
            _ => {
                let zero = self.constant_operand(ty, 0);
                let old = if locked { self.locked_negate(ty)? } else { self.read_to_modify(0)? };
                if !locked {
                    let result = self.b.unary(UnaryOp::Negate, ty, old.value);
                    self.write(0, result)?;
                }
                self.set_flags(Family::Sub, ty, zero, old);
            }
        }
        Ok(Lifted::Next)
    }

    /// LOCK NEG: an exchange that begins again until nobody interfered.
    fn locked_negate(&mut self, ty: Type) -> Result<Operand> {
        let place = self.place(ty, true)?;
        let old = self.load(place, ty);
        let negated = self.b.unary(UnaryOp::Negate, ty, old.value);
        let new = self.widen(ty, negated);
        let found = self.atomic_exchange_if(ty, old.raw, new)?;
        let changed = self.b.compare(Comparison::NotEqual, ty, found.value, old.value);
        // Nothing was changed yet: the instruction begins again.
        self.raise_if(changed, super::Raises(super::super::event::BEGIN_AGAIN));
        Ok(old)
    }

    /// XADD, CMPXCHG, XCHG.
    pub(super) fn exchange(&mut self) -> Result {
        use Mnemonic as M;
        let ty = self.ty(0);
        let memory = self.is_memory(0);
        match self.i.mnemonic() {
            M::Xchg => {
                // The memory operand may be the second.
                let (memory_index, other) = if self.is_memory(1) { (1, 0) } else { (0, 1) };
                let new = self.read(other)?;
                let old = if self.is_memory(memory_index) {
                    self.atomic(AtomicOp::Exchange, ty, new.raw)?
                } else {
                    self.read(0)?
                };
                self.write(other, old.value)?;
                if !self.is_memory(memory_index) {
                    self.write(memory_index, new.value)?;
                }
            }
            M::Xadd => {
                let b = self.read(1)?;
                let locked = self.i.has_lock_prefix();
                let old = if locked { self.atomic(AtomicOp::Add, ty, b.raw)? } else { self.read_to_modify(0)? };
                let sum = self.b.binary(BinaryOp::Add, ty, old.value, b.value);
                if memory && !locked {
                    self.write(0, sum)?;
                }
                self.write(1, old.value)?;
                if !memory {
                    self.write(0, sum)?;
                }
                self.set_flags(Family::Add, ty, old, b);
            }
            _ => self.compare_exchange(ty, memory)?,
        }
        Ok(Lifted::Next)
    }

    fn compare_exchange(&mut self, ty: Type, memory: bool) -> Result<()> {
        let new = self.read(1)?;
        let raw = self.b.get(RAX);
        let accumulator = Operand { value: self.typed(ty, raw), raw };
        let old = if self.i.has_lock_prefix() {
            self.atomic_exchange_if(ty, accumulator.raw, new.raw)?
        } else {
            self.read_to_modify(0)?
        };
        let equal = self.b.compare(Comparison::Equal, ty, accumulator.value, old.value);
        if !self.i.has_lock_prefix() {
            let stored = self.b.select(ty, equal, new.value, old.value);
            if memory {
                self.write(0, stored)?;
                self.accumulate_if_different(ty, equal, accumulator, old);
            } else {
                self.accumulate_if_different(ty, equal, accumulator, old);
                self.exchange_register(ty, equal, new, old, stored)?;
            }
        } else {
            self.accumulate_if_different(ty, equal, accumulator, old);
        }
        self.set_flags(Family::Sub, ty, accumulator, old);
        Ok(())
    }

    /// The destination of CMPXCHG if it is a register: where it is not exchanged, AMD's processors keep even its upper half.
    fn exchange_register(&mut self, ty: Type, equal: Value, new: Operand, old: Operand, stored: Value) -> Result<()> {
        if ty != Type::I32 {
            return self.write(0, stored);
        }
        let register = crate::ir::Register(self.i.op0_register().full_register().number() as u8);
        let exchanged = self.widen(ty, new.value);
        let value = self.b.select(Type::I64, equal, exchanged, old.raw);
        self.b.put(register, value);
        Ok(())
    }

    /// The accumulator gets what was found, unless it was equal, when even its upper half stays.
    fn accumulate_if_different(&mut self, ty: Type, equal: Value, accumulator: Operand, old: Operand) {
        let changed = match ty {
            Type::I64 => old.raw,
            Type::I32 => self.widen(ty, old.value),
            _ => {
                let keep = self.constant(!ty.mask());
                let kept = self.b.binary(BinaryOp::And, Type::I64, accumulator.raw, keep);
                let low = self.widen(ty, old.value);
                self.b.binary(BinaryOp::Or, Type::I64, kept, low)
            }
        };
        let value = self.b.select(Type::I64, equal, accumulator.raw, changed);
        self.b.put(RAX, value);
    }

    /// CMPXCHG8B and CMPXCHG16B.
    pub(super) fn exchange_wide(&mut self) -> Result {
        if !self.is_memory(0) {
            return Err(Raises::INVALID_OPCODE);
        }
        let flags = self.all_flags();
        let zero_flag = self.constant(flags::ZF);
        let wide = self.i.mnemonic() == Mnemonic::Cmpxchg16b;
        let place = self.place_of_bytes(if wide { 16 } else { 8 }, true)?;
        if wide {
            self.require_aligned(place, 16, Raises::GENERAL_PROTECTION);
            let address = self.address_of(place);
            let mode = self.constant(u64::from(self.mode.0));
            let equal = self.helper(id::COMPARE_EXCHANGE_16, &[address, mode]);
            self.arithmetic = super::FlagState::Unknown;
            self.set_zero_flag(flags, equal, zero_flag);
            return Ok(Lifted::Next);
        }
        let half = |lifter: &mut Lifter, high, low| {
            let (high, low) = (lifter.b.get(high), lifter.b.get(low));
            let mask = lifter.constant(0xffff_ffff);
            let low = lifter.b.binary(BinaryOp::And, Type::I64, low, mask);
            let shift = lifter.constant(32);
            let high = lifter.b.binary(BinaryOp::ShiftLeft, Type::I64, high, shift);
            lifter.b.binary(BinaryOp::Or, Type::I64, high, low)
        };
        let expected = half(self, RDX, RAX);
        let new = half(self, RCX, RBX);
        let old = if self.i.has_lock_prefix() {
            self.atomic_exchange_if(Type::I64, expected, new)?.raw
        } else {
            let old = self.load(place, Type::I64).raw;
            let equal = self.b.compare(Comparison::Equal, Type::I64, expected, old);
            let stored = self.b.select(Type::I64, equal, new, old);
            self.store_raw(place, Type::I64, stored);
            old
        };
        let equal = self.b.compare(Comparison::Equal, Type::I64, expected, old);
        let mask = self.constant(0xffff_ffff);
        let low = self.b.binary(BinaryOp::And, Type::I64, old, mask);
        let shift = self.constant(32);
        let high = self.b.binary(BinaryOp::ShiftRightUnsigned, Type::I64, old, shift);
        for (register, value) in [(RAX, low), (RDX, high)] {
            let before = self.b.get(register);
            let value = self.b.select(Type::I64, equal, before, value);
            self.b.put(register, value);
        }
        let equal = self.b.zero_extend(Type::I8, Type::I64, equal);
        self.set_zero_flag(flags, equal, zero_flag);
        Ok(Lifted::Next)
    }

    fn set_zero_flag(&mut self, flags: Value, equal: Value, zero_flag: Value) {
        let others = self.constant(!flags::ZF);
        let others = self.b.binary(BinaryOp::And, Type::I64, flags, others);
        let zero = self.b.binary(BinaryOp::Mul, Type::I64, equal, zero_flag);
        let all = self.b.binary(BinaryOp::Or, Type::I64, others, zero);
        self.set_explicit_flags(all);
    }

    /// MUL, IMUL, MULX.
    pub(super) fn multiply(&mut self) -> Result {
        use Mnemonic as M;
        let mnemonic = self.i.mnemonic();
        if mnemonic == M::Mulx {
            return self.multiply_without_flags();
        }
        let signed = mnemonic == M::Imul;
        if self.i.op_count() > 1 {
            let ty = self.ty(0);
            let (a, b) = if self.i.op_count() == 3 { (1, 2) } else { (0, 1) };
            let (a, b) = (self.read(a)?, self.read(b)?);
            let (low, overflow) = self.product(ty, true, a, b);
            self.write(0, low.0)?;
            self.set_flags_of_result(Family::Multiply, ty, low.0, overflow);
            return Ok(Lifted::Next);
        }
        let ty = self.ty(0);
        let b = self.read(0)?;
        let raw = self.b.get(RAX);
        let a = Operand { value: self.typed(ty, raw), raw };
        let (low, overflow) = self.product(ty, signed, a, b);
        if ty == Type::I8 {
            self.write_named_value(Named::AX, low.1);
        } else {
            self.write_sized(RAX, ty, low.0);
            self.write_sized(RDX, ty, low.1);
        }
        self.set_flags_of_result(Family::Multiply, ty, low.0, overflow);
        Ok(Lifted::Next)
    }

    /// Writes the low bits of an I64.
    fn write_named_value(&mut self, named: Named, raw: Value) {
        let ty = super::operand::type_of_bytes(named.size());
        let value = self.typed(ty, raw);
        self.write_named(named, value);
    }

    /// Low and high half of a product (for bytes: the low half, and all 16 bits as an I64), and an I64 that is not zero if the high
    /// half counts.
    fn product(&mut self, ty: Type, signed: bool, a: Operand, b: Operand) -> ((Value, Value), Value) {
        if ty == Type::I64 {
            let low = self.b.binary(BinaryOp::Mul, ty, a.raw, b.raw);
            let op = if signed { BinaryOp::MulHighSigned } else { BinaryOp::MulHighUnsigned };
            let high = self.b.binary(op, ty, a.raw, b.raw);
            let expected = if signed {
                let count = self.constant(63);
                self.b.binary(BinaryOp::ShiftRightSigned, ty, low, count)
            } else {
                self.constant(0)
            };
            let overflow = self.b.binary(BinaryOp::Xor, ty, high, expected);
            return ((low, high), overflow);
        }
        let extend = |lifter: &mut Lifter, value| {
            if signed { lifter.b.sign_extend(ty, Type::I64, value) } else { lifter.b.zero_extend(ty, Type::I64, value) }
        };
        let (a, b) = (extend(self, a.value), extend(self, b.value));
        let whole = self.b.binary(BinaryOp::Mul, Type::I64, a, b);
        let low = self.typed(ty, whole);
        let expected = extend(self, low);
        let overflow = self.b.binary(BinaryOp::Xor, Type::I64, whole, expected);
        if ty == Type::I8 {
            return ((low, whole), overflow);
        }
        let count = self.constant(u64::from(ty.bits()));
        let high = self.b.binary(BinaryOp::ShiftRightUnsigned, Type::I64, whole, count);
        ((low, self.typed(ty, high)), overflow)
    }

    fn multiply_without_flags(&mut self) -> Result {
        let ty = self.ty(0);
        let b = self.read(2)?;
        let raw = self.b.get(RDX);
        let a = Operand { value: self.typed(ty, raw), raw };
        let ((low, high), _) = self.product(ty, false, a, b);
        self.write(1, low)?;
        self.write(0, high)?;
        Ok(Lifted::Next)
    }

    /// DIV and IDIV.
    pub(super) fn divide(&mut self) -> Result {
        let ty = self.ty(0);
        let signed = self.i.mnemonic() == Mnemonic::Idiv;
        let divisor = self.read(0)?;
        if ty == Type::I64 {
            return self.divide_64(signed, divisor.raw);
        }
        // The dividend fits 64 bits.
        let dividend = if ty == Type::I8 {
            let raw = self.b.get(RAX);
            let half = self.typed(Type::I16, raw);
            if signed { self.b.sign_extend(Type::I16, Type::I64, half) } else { self.widen(Type::I16, half) }
        } else {
            let (low, high) = (self.b.get(RAX), self.b.get(RDX));
            let low = self.typed(ty, low);
            let low = self.widen(ty, low);
            let high = self.typed(ty, high);
            let high = if signed { self.b.sign_extend(ty, Type::I64, high) } else { self.widen(ty, high) };
            let count = self.constant(u64::from(ty.bits()));
            let high = self.b.binary(BinaryOp::ShiftLeft, Type::I64, high, count);
            self.b.binary(BinaryOp::Or, Type::I64, high, low)
        };
        let divisor =
            if signed { self.b.sign_extend(ty, Type::I64, divisor.value) } else { self.widen(ty, divisor.value) };
        let zero = self.constant(0);
        let error = Raises(number(vector::DIVIDE_ERROR));
        let by_zero = self.b.compare(Comparison::Equal, Type::I64, divisor, zero);
        self.raise_if(by_zero, Raises(error.0));
        let (divide, remain) = if signed {
            (BinaryOp::DivSigned, BinaryOp::RemSigned)
        } else {
            (BinaryOp::DivUnsigned, BinaryOp::RemUnsigned)
        };
        let quotient = self.b.binary(divide, Type::I64, dividend, divisor);
        let low = self.typed(ty, quotient);
        let back = if signed { self.b.sign_extend(ty, Type::I64, low) } else { self.widen(ty, low) };
        let too_large = self.b.compare(Comparison::NotEqual, Type::I64, back, quotient);
        self.raise_if(too_large, error);
        let remainder = self.b.binary(remain, Type::I64, dividend, divisor);
        let remainder = self.typed(ty, remainder);
        if ty == Type::I8 {
            self.write_named(Named::AL, low);
            self.write_named(Named::AH, remainder);
        } else {
            self.write_sized(RAX, ty, low);
            self.write_sized(RDX, ty, remainder);
        }
        Ok(Lifted::Next)
    }

    fn divide_64(&mut self, signed: bool, divisor: Value) -> Result {
        let (low, high) = (self.b.get(RAX), self.b.get(RDX));
        let helper = if signed { id::DIVIDE_SIGNED } else { id::DIVIDE_UNSIGNED };
        let quotient = self.helper(helper, &[high, low, divisor]);
        let product = self.b.binary(BinaryOp::Mul, Type::I64, quotient, divisor);
        let remainder = self.b.binary(BinaryOp::Sub, Type::I64, low, product);
        self.b.put(RAX, quotient);
        self.b.put(RDX, remainder);
        Ok(Lifted::Next)
    }

    /// ADCX and ADOX: sums with and into CF or OF only.
    pub(super) fn add_with_one_flag(&mut self) -> Result {
        let ty = self.ty(0);
        let (code, flag) = if self.i.mnemonic() == Mnemonic::Adcx {
            (ConditionCode::b, flags::CF)
        } else {
            (ConditionCode::o, flags::OF)
        };
        let before = self.all_flags();
        let carry = self.condition(code);
        let (a, b) = (self.read(0)?, self.read(1)?);
        let carry = if ty == Type::I8 { carry } else { self.b.zero_extend(Type::I8, ty, carry) };
        let part = self.b.binary(BinaryOp::Add, ty, a.value, b.value);
        let sum = self.b.binary(BinaryOp::Add, ty, part, carry);
        let first = self.b.compare(Comparison::LessUnsigned, ty, part, a.value);
        let second = self.b.compare(Comparison::LessUnsigned, ty, sum, part);
        let out = self.b.binary(BinaryOp::Or, Type::I8, first, second);
        let out = self.b.zero_extend(Type::I8, Type::I64, out);
        let bit = self.constant(flag);
        let out = self.b.binary(BinaryOp::Mul, Type::I64, out, bit);
        let others = self.constant(!flag);
        let others = self.b.binary(BinaryOp::And, Type::I64, before, others);
        let all = self.b.binary(BinaryOp::Or, Type::I64, others, out);
        self.write(0, sum)?;
        self.set_explicit_flags(all);
        Ok(Lifted::Next)
    }

    /// DAA, DAS, AAA, AAS, AAM, AAD.
    pub(super) fn decimal(&mut self) -> Result {
        use Mnemonic as M;
        let which = match self.i.mnemonic() {
            M::Daa => 0,
            M::Das => 1,
            M::Aaa => 2,
            M::Aas => 3,
            M::Aam => 4,
            _ => 5,
        };
        let operand = if which >= 4 { self.i.immediate8() } else { 0 };
        if which == 4 && operand == 0 {
            return Err(Raises(number(vector::DIVIDE_ERROR)));
        }
        let flags = self.all_flags();
        let accumulator = self.b.get(RAX);
        let selector = self.constant(which | u64::from(operand) << 8);
        // AX in the low half of the result, flags in the high half.
        let result = self.helper(id::DECIMAL, &[selector, accumulator, flags]);
        self.write_named_value(Named::AX, result);
        let shift = self.constant(32);
        let flags = self.b.binary(BinaryOp::ShiftRightUnsigned, Type::I64, result, shift);
        self.set_explicit_flags(flags);
        Ok(Lifted::Next)
    }

    /// SALC.
    pub(super) fn set_al_to_carry(&mut self) -> Result {
        let carry = self.carry();
        let value = self.b.unary(UnaryOp::Negate, Type::I64, carry);
        self.write_named_value(Named::AL, value);
        Ok(Lifted::Next)
    }
}
