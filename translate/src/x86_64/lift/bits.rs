//! Single bits, bit counts and bit fields.

use iced_x86::{CpuidFeature, Mnemonic, OpKind};

use crate::ir::{AtomicOp, BinaryOp, Comparison, Type, UnaryOp, Value};

use super::super::flags::{self, Family};
use super::super::helpers::id;
use super::operand::Place;
use super::{Lifted, Lifter, Result};

impl Lifter {
    /// BT, BTS, BTR, BTC.
    pub(super) fn bit_test(&mut self) -> Result {
        let ty = self.ty(0);
        let bits = u64::from(ty.bits());
        let index = self.read(1)?;
        let low_bits = self.constant(bits - 1);
        let number = self.b.binary(BinaryOp::And, Type::I64, index.raw, low_bits);
        let writes = self.i.mnemonic() != Mnemonic::Bt;
        if self.is_memory(0) && self.i.op1_kind() == OpKind::Register {
            self.place_of_bit(ty, index.value, writes)?;
        }
        let one = self.constant(1);
        let bit = self.b.binary(BinaryOp::ShiftLeft, Type::I64, one, number);
        let old = if writes && self.i.has_lock_prefix() {
            let (op, operand) = match self.i.mnemonic() {
                Mnemonic::Bts => (AtomicOp::Or, bit),
                Mnemonic::Btr => (AtomicOp::And, self.b.unary(UnaryOp::Not, Type::I64, bit)),
                _ => (AtomicOp::Xor, bit),
            };
            self.atomic(op, ty, operand)?
        } else if writes {
            let old = self.read_to_modify(0)?;
            let new = match self.i.mnemonic() {
                Mnemonic::Bts => self.b.binary(BinaryOp::Or, Type::I64, old.raw, bit),
                Mnemonic::Btr => {
                    let others = self.b.unary(UnaryOp::Not, Type::I64, bit);
                    self.b.binary(BinaryOp::And, Type::I64, old.raw, others)
                }
                _ => self.b.binary(BinaryOp::Xor, Type::I64, old.raw, bit),
            };
            let new = self.typed(ty, new);
            self.write(0, new)?;
            old
        } else {
            self.read(0)?
        };
        let carry = self.b.binary(BinaryOp::ShiftRightUnsigned, Type::I64, old.raw, number);
        let one = self.constant(1);
        let carry = self.b.binary(BinaryOp::And, Type::I64, carry, one);
        // ZF stays; the other flags are undefined, and stay as well.
        self.change_flags(flags::CF, carry);
        Ok(Lifted::Next)
    }

    /// A bit string in memory: the operand is the one among its words that holds the bit.
    fn place_of_bit(&mut self, ty: Type, index: Value, writes: bool) -> Result<()> {
        let index = if ty == Type::I64 { index } else { self.b.sign_extend(ty, Type::I64, index) };
        let bytes = u64::from(ty.bits() / 8);
        let shift = self.constant(u64::from(ty.bits().trailing_zeros()));
        let word = self.b.binary(BinaryOp::ShiftRightSigned, Type::I64, index, shift);
        let size = self.constant(bytes);
        let distance = self.b.binary(BinaryOp::Mul, Type::I64, word, size);
        let (offset, displacement) = self.effective_address();
        let mut offset = self.b.add(offset, distance);
        if !self.flags.is_64_bit() {
            let mask = self.constant(if self.address_is_16() { 0xffff } else { 0xffff_ffff });
            offset = self.b.binary(BinaryOp::And, Type::I64, offset, mask);
        }
        let segment = super::operand::segment_name(self.i.memory_segment());
        let place: Place = self.linear(segment, offset, displacement, bytes, writes);
        self.place = Some(place);
        Ok(())
    }

    fn address_is_16(&self) -> bool {
        self.i.memory_base().size() == 2 || self.i.memory_index().size() == 2 || self.i.memory_displ_size() == 2
    }

    /// BSF, BSR, LZCNT, TZCNT, POPCNT.
    pub(super) fn bit_count(&mut self) -> Result {
        use Mnemonic as M;
        // Prefixes of features that are not there are ignored.
        let mnemonic = match self.i.mnemonic() {
            M::Lzcnt if !self.features.has(CpuidFeature::LZCNT) => M::Bsr,
            M::Tzcnt if !self.features.has(CpuidFeature::BMI1) => M::Bsf,
            mnemonic => mnemonic,
        };
        let ty = self.ty(0);
        let source = self.read(1)?;
        let zero = self.zero(ty);
        let is_zero = self.b.compare(Comparison::Equal, ty, source.value, zero);
        match mnemonic {
            M::Bsf | M::Bsr => {
                let old = self.read(0)?;
                let position = if mnemonic == M::Bsf {
                    self.b.unary(UnaryOp::CountTrailingZeros, ty, source.value)
                } else {
                    let zeros = self.b.unary(UnaryOp::CountLeadingZeros, ty, source.value);
                    let top = self.b.constant_of(ty, u64::from(ty.bits()) - 1);
                    self.b.binary(BinaryOp::Sub, ty, top, zeros)
                };
                // The destination stays if there is no bit, as AMD documents and all makers do: even its upper half.
                let found = self.widen(ty, position);
                if ty == Type::I32 {
                    let register = crate::ir::Register(self.i.op0_register().full_register().number() as u8);
                    let whole = self.b.select(Type::I64, is_zero, old.raw, found);
                    self.b.put(register, whole);
                } else {
                    let value = self.b.select(ty, is_zero, old.value, position);
                    self.write(0, value)?;
                }
                let nothing = self.constant(0);
                self.set_flags_of_result(Family::Logic, ty, source.value, nothing);
            }
            M::Popcnt => {
                let count = self.b.unary(UnaryOp::PopulationCount, ty, source.value);
                self.write(0, count)?;
                let zero_flag = self.flag_if(is_zero, flags::ZF);
                self.set_explicit_flags(zero_flag);
            }
            _ => {
                let op = if mnemonic == M::Lzcnt { UnaryOp::CountLeadingZeros } else { UnaryOp::CountTrailingZeros };
                let count = self.b.unary(op, ty, source.value);
                self.write(0, count)?;
                let none = self.b.compare(Comparison::Equal, ty, count, zero);
                let carry = self.flag_if(is_zero, flags::CF);
                let zero_flag = self.flag_if(none, flags::ZF);
                let all = self.b.binary(BinaryOp::Or, Type::I64, carry, zero_flag);
                self.set_explicit_flags(all);
            }
        }
        Ok(Lifted::Next)
    }

    /// The flag's bit if the I8 condition holds, else 0.
    pub(super) fn flag_if(&mut self, condition: Value, flag: u64) -> Value {
        let set = self.constant(flag);
        let clear = self.constant(0);
        self.b.select(Type::I64, condition, set, clear)
    }

    /// ANDN, BLSI, BLSR, BLSMSK, BZHI, BEXTR, PDEP, PEXT.
    pub(super) fn bit_field(&mut self) -> Result {
        use Mnemonic as M;
        let mnemonic = self.i.mnemonic();
        let ty = self.ty(0);
        let source = self.read(1)?;
        let zero = self.zero(ty);
        match mnemonic {
            M::Andn => {
                let other = self.read(2)?;
                let inverted = self.b.unary(UnaryOp::Not, ty, source.value);
                let result = self.b.binary(BinaryOp::And, ty, inverted, other.value);
                self.write(0, result)?;
                let nothing = self.constant(0);
                self.set_flags_of_result(Family::Logic, ty, result, nothing);
            }
            M::Blsi | M::Blsr | M::Blsmsk => {
                let is_zero = self.b.compare(Comparison::Equal, ty, source.value, zero);
                let one = self.b.constant_of(ty, 1);
                let less = self.b.binary(BinaryOp::Sub, ty, source.value, one);
                let negative = self.b.unary(UnaryOp::Negate, ty, source.value);
                let (op, other) = match mnemonic {
                    M::Blsi => (BinaryOp::And, negative),
                    M::Blsr => (BinaryOp::And, less),
                    _ => (BinaryOp::Xor, less),
                };
                let result = self.b.binary(op, ty, source.value, other);
                self.write(0, result)?;
                let mut carry = self.flag_if(is_zero, 1);
                if mnemonic == M::Blsi {
                    let one = self.constant(1);
                    carry = self.b.binary(BinaryOp::Xor, Type::I64, carry, one);
                }
                self.set_flags_of_result(Family::LogicCarry, ty, result, carry);
            }
            M::Bzhi => {
                let index = self.read(2)?;
                let byte = self.constant(0xff);
                let index = self.b.binary(BinaryOp::And, Type::I64, index.raw, byte);
                let bits = self.constant(u64::from(ty.bits()));
                let beyond = self.b.compare(Comparison::LessEqualUnsigned, Type::I64, bits, index);
                let ones = self.constant(u64::MAX);
                let above = self.b.binary(BinaryOp::ShiftLeft, Type::I64, ones, index);
                let mask = self.b.unary(UnaryOp::Not, Type::I64, above);
                let cut = self.b.binary(BinaryOp::And, Type::I64, source.raw, mask);
                let value = self.b.select(Type::I64, beyond, source.raw, cut);
                let result = self.typed(ty, value);
                self.write(0, result)?;
                let carry = self.flag_if(beyond, 1);
                self.set_flags_of_result(Family::LogicCarry, ty, result, carry);
            }
            M::Bextr => {
                let control = self.read(2)?;
                let value = self.widen(ty, source.value);
                let result = self.helper(id::BIT_FIELD, &[value, control.raw]);
                let result = self.typed(ty, result);
                self.write(0, result)?;
                let nothing = self.constant(0);
                self.set_flags_of_result(Family::Logic, ty, result, nothing);
            }
            _ => {
                let mask = self.read(2)?;
                let mask = self.widen(ty, mask.value);
                let helper = if mnemonic == M::Pdep { id::DEPOSIT_BITS } else { id::EXTRACT_BITS };
                let result = self.helper(helper, &[source.raw, mask]);
                let result = self.typed(ty, result);
                self.write(0, result)?;
            }
        }
        Ok(Lifted::Next)
    }

    /// BSWAP and MOVBE.
    pub(super) fn byte_swap(&mut self) -> Result {
        let ty = self.ty(0);
        let source = if self.i.mnemonic() == Mnemonic::Bswap { 0 } else { 1 };
        let value = if source == 0 && ty == Type::I16 {
            // Undefined; makers give zero.
            self.zero(ty)
        } else {
            let operand = self.read(source)?;
            self.b.unary(UnaryOp::ByteSwap, ty, operand.value)
        };
        self.place = if source == 1 && self.is_memory(1) { None } else { self.place };
        self.write(0, value)?;
        Ok(Lifted::Next)
    }
}
