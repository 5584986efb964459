//! SSE to SSE4.2, AES-NI, PCLMULQDQ and SHA.
//!
//! Moves and logic are operations on the halves of registers, and so is what [`LANEWISE`] says to work on halves;
//! arithmetic that the IR has is the IR's. The rest are helpers on whole registers.

use iced_x86::{Mnemonic, OpKind};

use crate::ir::{BinaryOp, Comparison, FloatBinaryOp, Op, Register, Type, UnaryOp, Value};

use super::super::flags;
use super::super::helpers::{VectorOperands, id};
use super::super::registers::{self, RDI, vector_part};
use super::super::segment::SegmentName;
use super::super::simd::table::{self, LANEWISE, Shape};
use super::operand::{Place, segment_name};
use super::{Flags, Lifted, Lifter, Raises, Result};

/// The halves of a 128-bit value, low half first.
type Halves = [Value; 2];

/// Logic on halves: the operation, and whether the destination is inverted first.
fn logic(mnemonic: Mnemonic) -> Option<(BinaryOp, bool)> {
    use Mnemonic as M;
    Some(match mnemonic {
        M::Pand | M::Andps | M::Andpd => (BinaryOp::And, false),
        M::Por | M::Orps | M::Orpd => (BinaryOp::Or, false),
        M::Pxor | M::Xorps | M::Xorpd => (BinaryOp::Xor, false),
        M::Pandn | M::Andnps | M::Andnpd => (BinaryOp::And, true),
        _ => return None,
    })
}

/// Plain arithmetic: the operation (none: square root), the type of lanes, and whether all lanes take part.
fn arithmetic(mnemonic: Mnemonic) -> Option<(Option<FloatBinaryOp>, Type, bool)> {
    use FloatBinaryOp as F;
    use Mnemonic as M;
    Some(match mnemonic {
        M::Addss => (Some(F::Add), Type::F32, false),
        M::Addsd => (Some(F::Add), Type::F64, false),
        M::Addps => (Some(F::Add), Type::F32, true),
        M::Addpd => (Some(F::Add), Type::F64, true),
        M::Subss => (Some(F::Sub), Type::F32, false),
        M::Subsd => (Some(F::Sub), Type::F64, false),
        M::Subps => (Some(F::Sub), Type::F32, true),
        M::Subpd => (Some(F::Sub), Type::F64, true),
        M::Mulss => (Some(F::Mul), Type::F32, false),
        M::Mulsd => (Some(F::Mul), Type::F64, false),
        M::Mulps => (Some(F::Mul), Type::F32, true),
        M::Mulpd => (Some(F::Mul), Type::F64, true),
        M::Divss => (Some(F::Div), Type::F32, false),
        M::Divsd => (Some(F::Div), Type::F64, false),
        M::Divps => (Some(F::Div), Type::F32, true),
        M::Divpd => (Some(F::Div), Type::F64, true),
        M::Sqrtss => (None, Type::F32, false),
        M::Sqrtsd => (None, Type::F64, false),
        M::Sqrtps => (None, Type::F32, true),
        M::Sqrtpd => (None, Type::F64, true),
        _ => return None,
    })
}

/// The same bits as a floating-point type.
fn float_type(ty: Type) -> Type {
    if ty == Type::I32 { Type::F32 } else { Type::F64 }
}

impl Lifter {
    /// An instruction on XMM registers.
    pub(super) fn sse(&mut self) -> Result {
        use Mnemonic as M;
        let mnemonic = self.i.mnemonic();
        if self.uses_other_registers() {
            return Err(Raises::INVALID_OPCODE);
        }
        if mnemonic == M::Crc32 {
            return self.checksum();
        }
        self.need_sse()?;
        if let Some((op, inverts)) = logic(mnemonic) {
            return self.vector_logic(op, inverts);
        }
        if let Some((op, ty, packed)) = arithmetic(mnemonic)
            && !self.flags.has(Flags::UNUSUAL_FLOAT)
        {
            return self.float_arithmetic(op, ty, packed);
        }
        match mnemonic {
            M::Movaps | M::Movapd | M::Movdqa | M::Movntps | M::Movntpd | M::Movntdq | M::Movntdqa => {
                self.move_whole(true)
            }
            M::Movups | M::Movupd | M::Movdqu | M::Lddqu => self.move_whole(false),
            M::Movss => self.move_scalar(Type::I32),
            M::Movsd => self.move_scalar(Type::I64),
            M::Movd | M::Movq => self.move_between(),
            M::Movlps | M::Movlpd => self.move_half(0),
            M::Movhps | M::Movhpd => self.move_half(1),
            M::Movhlps => self.move_from_half(1, 0),
            M::Movlhps => self.move_from_half(0, 1),
            M::Pmovmskb => self.move_mask(0, 8),
            M::Movmskps => self.move_mask(1, 2),
            M::Movmskpd => self.move_mask(2, 1),
            M::Ptest => self.vector_test(),
            M::Pinsrb | M::Pinsrw | M::Pinsrd | M::Pinsrq => self.insert_lane(),
            M::Pextrb | M::Pextrw | M::Pextrd | M::Pextrq | M::Extractps => self.extract_lane(),
            M::Insertps => self.insert_single(),
            M::Comiss => self.compare_floats(Type::I32, false),
            M::Ucomiss => self.compare_floats(Type::I32, true),
            M::Comisd => self.compare_floats(Type::I64, false),
            M::Ucomisd => self.compare_floats(Type::I64, true),
            M::Cvtsi2ss => self.convert_integer(Type::I32),
            M::Cvtsi2sd => self.convert_integer(Type::I64),
            M::Cvtss2si => self.convert_to_integer(Type::I32, false),
            M::Cvttss2si => self.convert_to_integer(Type::I32, true),
            M::Cvtsd2si => self.convert_to_integer(Type::I64, false),
            M::Cvttsd2si => self.convert_to_integer(Type::I64, true),
            M::Pcmpistri | M::Pcmpistrm | M::Pcmpestri | M::Pcmpestrm | M::Pcmpestri64 | M::Pcmpestrm64 => {
                self.compare_strings()
            }
            M::Maskmovdqu => self.store_masked(),
            _ => self.vector_by_table(),
        }
    }

    /// An operand is an MMX, YMM or other register that this file does not know.
    fn uses_other_registers(&self) -> bool {
        (0..self.i.op_count()).any(|index| {
            self.i.op_kind(index) == OpKind::Register && {
                let named = self.i.op_register(index);
                !(named.is_xmm() || named.is_gpr())
            }
        }) || self.i.code().encoding() != iced_x86::EncodingKind::Legacy
    }

    /// Position in a table of an instruction.
    fn table_name(&self) -> String {
        format!("{:?}", self.i.mnemonic()).to_lowercase()
    }

    pub(super) fn need_sse(&self) -> Result<()> {
        if self.flags.has(Flags::EMULATE_FLOAT) || !self.flags.has(Flags::SSE) {
            return Err(Raises::INVALID_OPCODE);
        }
        if self.flags.has(Flags::TASK_SWITCHED) {
            return Err(Raises::DEVICE_NOT_AVAILABLE);
        }
        Ok(())
    }

    fn xmm(&self, index: u32) -> u8 {
        self.i.op_register(index).number() as u8
    }

    fn read_xmm(&mut self, number: u8) -> Halves {
        [0, 1].map(|part| self.b.get(vector_part(number, part)))
    }

    fn write_xmm(&mut self, number: u8, halves: Halves) {
        for (part, value) in (0..).zip(halves) {
            self.b.put(vector_part(number, part), value);
        }
    }

    fn second(place: Place) -> Place {
        Place { offset: place.offset.wrapping_add(8), ..place }
    }

    /// Where a 128-bit memory operand is; `aligned`: #GP if not at a multiple of 16.
    fn place_of_vector(&mut self, aligned: bool, write: bool) -> Result<Place> {
        let place = self.place_of_bytes(16, write)?;
        if aligned {
            self.require_aligned(place, 16, Raises::GENERAL_PROTECTION);
        }
        Ok(place)
    }

    fn load_vector(&mut self, place: Place) -> Halves {
        let low = self.load_raw(place, Type::I64);
        [low, self.load_raw(Self::second(place), Type::I64)]
    }

    /// Reads operand `index`: a register, or 16 aligned bytes of memory.
    fn read_vector(&mut self, index: u32) -> Result<Halves> {
        if self.is_memory(index) {
            let place = self.place_of_vector(true, false)?;
            return Ok(self.load_vector(place));
        }
        Ok(self.read_xmm(self.xmm(index)))
    }

    /// Reads operand `index`, of which memory has as much as the instruction says; the rest is zero.
    fn read_narrow_vector(&mut self, index: u32) -> Result<Halves> {
        if !self.is_memory(index) {
            return Ok(self.read_xmm(self.xmm(index)));
        }
        match self.i.memory_size().size() {
            16 => self.read_vector(index),
            bytes => {
                let ty = super::operand::type_of_bytes(bytes);
                let place = self.place(ty, false)?;
                let low = self.load_raw(place, ty);
                Ok([low, self.constant(0)])
            }
        }
    }

    fn vector_logic(&mut self, op: BinaryOp, inverts: bool) -> Result {
        let number = self.xmm(0);
        if op == BinaryOp::Xor && self.i.op1_kind() == OpKind::Register && self.xmm(1) == number {
            let zero = self.constant(0);
            self.write_xmm(number, [zero, zero]);
            return Ok(Lifted::Next);
        }
        let b = self.read_vector(1)?;
        let a = self.read_xmm(number);
        let result = [0, 1].map(|half| {
            let a = if inverts { self.b.unary(UnaryOp::Not, Type::I64, a[half]) } else { a[half] };
            self.b.binary(op, Type::I64, a, b[half])
        });
        self.write_xmm(number, result);
        Ok(Lifted::Next)
    }

    fn move_whole(&mut self, aligned: bool) -> Result {
        if self.is_memory(0) {
            let place = self.place_of_vector(aligned, true)?;
            let [low, high] = self.read_xmm(self.xmm(1));
            self.store_raw(place, Type::I64, low);
            self.store_raw(Self::second(place), Type::I64, high);
            return Ok(Lifted::Next);
        }
        let value = if self.is_memory(1) {
            let place = self.place_of_vector(aligned, false)?;
            self.load_vector(place)
        } else {
            self.read_xmm(self.xmm(1))
        };
        self.write_xmm(self.xmm(0), value);
        Ok(Lifted::Next)
    }

    /// The low `ty` of `value` in place of that of `old`.
    fn merge_low(&mut self, ty: Type, old: Value, value: Value) -> Value {
        if ty == Type::I64 {
            return value;
        }
        let (low, high) = (self.constant(0xffff_ffff), self.constant(!0xffff_ffff));
        let kept = self.b.binary(BinaryOp::And, Type::I64, old, high);
        let new = self.b.binary(BinaryOp::And, Type::I64, value, low);
        self.b.binary(BinaryOp::Or, Type::I64, kept, new)
    }

    /// MOVSS and MOVSD.
    fn move_scalar(&mut self, ty: Type) -> Result {
        if self.is_memory(0) {
            let place = self.place(ty, true)?;
            let value = self.vector_half(1, 0);
            self.store_raw(place, ty, value);
        } else if self.is_memory(1) {
            let place = self.place(ty, false)?;
            let value = self.load_raw(place, ty);
            let zero = self.constant(0);
            self.write_xmm(self.xmm(0), [value, zero]);
        } else {
            let value = self.vector_half(1, 0);
            let old = self.vector_half(0, 0);
            let merged = self.merge_low(ty, old, value);
            self.b.put(vector_part(self.xmm(0), 0), merged);
        }
        Ok(Lifted::Next)
    }

    /// Half `part` of the register that is operand `index`.
    fn vector_half(&mut self, index: u32, part: u8) -> Value {
        let number = self.xmm(index);
        self.b.get(vector_part(number, part))
    }

    /// MOVD and MOVQ.
    fn move_between(&mut self) -> Result {
        let is_xmm = |lifter: &Lifter, index| {
            lifter.i.op_kind(index) == OpKind::Register && lifter.i.op_register(index).is_xmm()
        };
        if is_xmm(self, 0) {
            let value = if is_xmm(self, 1) {
                self.vector_half(1, 0)
            } else {
                let ty = self.ty(1);
                let source = self.read(1)?;
                self.widen(ty, source.value)
            };
            let zero = self.constant(0);
            self.write_xmm(self.xmm(0), [value, zero]);
            return Ok(Lifted::Next);
        }
        let ty = self.ty(0);
        let low = self.vector_half(1, 0);
        let value = self.typed(ty, low);
        self.write(0, value)?;
        Ok(Lifted::Next)
    }

    /// MOVLPS, MOVHPS: between a half and memory.
    fn move_half(&mut self, part: u8) -> Result {
        let write = self.is_memory(0);
        let place = self.place(Type::I64, write)?;
        if write {
            let value = self.vector_half(1, part);
            self.store_raw(place, Type::I64, value);
        } else {
            let value = self.load_raw(place, Type::I64);
            self.b.put(vector_part(self.xmm(0), part), value);
        }
        Ok(Lifted::Next)
    }

    /// MOVHLPS, MOVLHPS.
    fn move_from_half(&mut self, from: u8, to: u8) -> Result {
        let value = self.vector_half(1, from);
        self.b.put(vector_part(self.xmm(0), to), value);
        Ok(Lifted::Next)
    }

    /// PMOVMSKB and its kin: `bits` from each half.
    fn move_mask(&mut self, which: u64, bits: u64) -> Result {
        let [low, high] = self.read_xmm(self.xmm(1));
        let which = self.constant(which);
        let low = self.helper(id::SIGN_BITS, &[low, which]);
        let high = self.helper(id::SIGN_BITS, &[high, which]);
        let by = self.constant(bits);
        let high = self.b.binary(BinaryOp::ShiftLeft, Type::I64, high, by);
        let all = self.b.binary(BinaryOp::Or, Type::I64, low, high);
        let ty = self.ty(0);
        let value = self.typed(ty, all);
        self.write(0, value)?;
        Ok(Lifted::Next)
    }

    /// PTEST.
    fn vector_test(&mut self) -> Result {
        let b = self.read_vector(1)?;
        let a = self.read_xmm(self.xmm(0));
        let zero = self.constant(0);
        let none_of = |lifter: &mut Lifter, a: Halves| {
            let both = [0, 1].map(|half| lifter.b.binary(BinaryOp::And, Type::I64, a[half], b[half]));
            let any = lifter.b.binary(BinaryOp::Or, Type::I64, both[0], both[1]);
            lifter.b.compare(Comparison::Equal, Type::I64, any, zero)
        };
        let no_common = none_of(self, a);
        let inverted = a.map(|half| self.b.unary(UnaryOp::Not, Type::I64, half));
        let none_outside = none_of(self, inverted);
        let zero_flag = self.flag_if(no_common, flags::ZF);
        let carry_flag = self.flag_if(none_outside, flags::CF);
        let all = self.b.binary(BinaryOp::Or, Type::I64, zero_flag, carry_flag);
        self.set_explicit_flags(all);
        Ok(Lifted::Next)
    }

    /// Type of the lanes of PINSR and PEXTR, and half, shift and mask of the lane that the immediate names.
    fn lane(&self) -> (Type, u8, u64) {
        use Mnemonic as M;
        let ty = match self.i.mnemonic() {
            M::Pinsrb | M::Pextrb => Type::I8,
            M::Pinsrw | M::Pextrw => Type::I16,
            M::Pinsrd | M::Pextrd | M::Extractps => Type::I32,
            _ => Type::I64,
        };
        let lanes = 128 / u64::from(ty.bits());
        let bit = (u64::from(self.i.immediate8()) % lanes) * u64::from(ty.bits());
        (ty, (bit / 64) as u8, bit % 64)
    }

    fn insert_lane(&mut self) -> Result {
        let (ty, part, shift) = self.lane();
        let raw = if self.is_memory(1) {
            let place = self.place(ty, false)?;
            self.load_raw(place, ty)
        } else {
            let source = self.read(1)?;
            let mask = self.constant(ty.mask());
            self.b.binary(BinaryOp::And, Type::I64, source.raw, mask)
        };
        let old = self.vector_half(0, part);
        let keep = self.constant(!(ty.mask() << shift));
        let kept = self.b.binary(BinaryOp::And, Type::I64, old, keep);
        let by = self.constant(shift);
        let placed = self.b.binary(BinaryOp::ShiftLeft, Type::I64, raw, by);
        let value = self.b.binary(BinaryOp::Or, Type::I64, kept, placed);
        self.b.put(vector_part(self.xmm(0), part), value);
        Ok(Lifted::Next)
    }

    fn extract_lane(&mut self) -> Result {
        let (ty, part, shift) = self.lane();
        let half = self.vector_half(1, part);
        let by = self.constant(shift);
        let shifted = self.b.binary(BinaryOp::ShiftRightUnsigned, Type::I64, half, by);
        if self.is_memory(0) {
            let place = self.place(ty, true)?;
            self.store_raw(place, ty, shifted);
            return Ok(Lifted::Next);
        }
        let mask = self.constant(ty.mask());
        let lane = self.b.binary(BinaryOp::And, Type::I64, shifted, mask);
        // The whole register is written, zero-extended.
        let register = Register(self.i.op0_register().full_register().number() as u8);
        self.b.put(register, lane);
        Ok(Lifted::Next)
    }

    fn insert_single(&mut self) -> Result {
        let mut immediate = self.i.immediate8();
        let value = if self.is_memory(1) {
            immediate &= 0x3f;
            let place = self.place(Type::I32, false)?;
            self.load_raw(place, Type::I32)
        } else {
            let lane = immediate >> 6;
            let half = self.vector_half(1, lane / 2);
            let by = self.constant(u64::from(lane % 2) * 32);
            self.b.binary(BinaryOp::ShiftRightUnsigned, Type::I64, half, by)
        };
        let number = self.constant(u64::from(self.xmm(0)));
        let immediate = self.constant(u64::from(immediate));
        self.helper(id::INSERT_SINGLE, &[number, value, immediate]);
        Ok(Lifted::Next)
    }

    /// The low `ty` of operand `index`, a register or memory.
    fn read_scalar(&mut self, index: u32, ty: Type) -> Result<Value> {
        if self.is_memory(index) {
            let place = self.place(ty, false)?;
            return Ok(self.load_raw(place, ty));
        }
        Ok(self.vector_half(index, 0))
    }

    fn compare_floats(&mut self, ty: Type, quiet: bool) -> Result {
        let b = self.read_scalar(1, ty)?;
        let a = self.vector_half(0, 0);
        let how = self.constant(u64::from(ty == Type::I64) | u64::from(quiet) << 1);
        let all = self.helper(id::COMPARE_FLOATS, &[a, b, how]);
        self.set_explicit_flags(all);
        Ok(Lifted::Next)
    }

    /// CVTSI2SS and CVTSI2SD, to the low `ty` of the destination.
    fn convert_integer(&mut self, ty: Type) -> Result {
        let from = self.ty(1);
        let source = self.read(1)?;
        let result = if self.flags.has(Flags::UNUSUAL_FLOAT) {
            let how = self.constant(u64::from(ty == Type::I64) | u64::from(from == Type::I64) << 1);
            self.helper(id::INTEGER_TO_FLOAT, &[source.raw, how])
        } else {
            let to = float_type(ty);
            let converted = self.b.push(Op::IntegerToFloat { from, to, a: source.value });
            let bits = self.b.bitcast(to, ty, converted);
            self.widen(ty, bits)
        };
        let old = self.vector_half(0, 0);
        let merged = self.merge_low(ty, old, result);
        self.b.put(vector_part(self.xmm(0), 0), merged);
        Ok(Lifted::Next)
    }

    fn convert_to_integer(&mut self, from: Type, truncates: bool) -> Result {
        let to = self.ty(0);
        let value = self.read_scalar(1, from)?;
        let how = u64::from(from == Type::I64) | u64::from(to == Type::I64) << 1 | u64::from(truncates) << 2;
        let how = self.constant(how);
        let result = self.helper(id::FLOAT_TO_INTEGER, &[value, how]);
        let result = self.typed(to, result);
        self.write(0, result)?;
        Ok(Lifted::Next)
    }

    /// A lane as a floating-point value: `position` 0 is the low one of a half.
    fn float_lane(&mut self, ty: Type, half: Value, position: u64) -> Value {
        if ty == Type::F64 {
            return self.b.bitcast(Type::I64, ty, half);
        }
        let by = self.constant(position * 32);
        let shifted = self.b.binary(BinaryOp::ShiftRightUnsigned, Type::I64, half, by);
        let bits = self.b.truncate(Type::I64, Type::I32, shifted);
        self.b.bitcast(Type::I32, ty, bits)
    }

    fn float_operation(&mut self, op: Option<FloatBinaryOp>, ty: Type, a: Value, b: Value) -> Value {
        match op {
            Some(op) => self.b.push(Op::FloatBinary { op, ty, a, b }),
            None => self.b.push(Op::FloatSquareRoot { ty, a: b }),
        }
    }

    /// ADDSS and the like.
    fn float_arithmetic(&mut self, op: Option<FloatBinaryOp>, ty: Type, packed: bool) -> Result {
        let number = self.xmm(0);
        let lane = if ty == Type::F32 { Type::I32 } else { Type::I64 };
        if !packed {
            let b = self.read_scalar(1, lane)?;
            let old = self.vector_half(0, 0);
            let (x, y) = (self.float_lane(ty, old, 0), self.float_lane(ty, b, 0));
            let result = self.float_operation(op, ty, x, y);
            let bits = self.b.bitcast(ty, lane, result);
            let bits = self.widen(lane, bits);
            let merged = self.merge_low(lane, old, bits);
            self.b.put(vector_part(number, 0), merged);
            return Ok(Lifted::Next);
        }
        let b = self.read_vector(1)?;
        let a = self.read_xmm(number);
        let result = [0, 1].map(|half| {
            let lanes = if ty == Type::F32 { 2 } else { 1 };
            let mut whole = None;
            for position in 0..lanes {
                let (x, y) = (self.float_lane(ty, a[half], position), self.float_lane(ty, b[half], position));
                let result = self.float_operation(op, ty, x, y);
                let bits = self.b.bitcast(ty, lane, result);
                let bits = self.widen(lane, bits);
                whole = Some(match whole {
                    None => bits,
                    Some(low) => {
                        let by = self.constant(32);
                        let high = self.b.binary(BinaryOp::ShiftLeft, Type::I64, bits, by);
                        self.b.binary(BinaryOp::Or, Type::I64, low, high)
                    }
                });
            }
            whole.unwrap_or(a[half])
        });
        self.write_xmm(number, result);
        Ok(Lifted::Next)
    }

    /// The operands of an instruction that a helper executes; memory is loaded to the operand registers.
    fn vector_operands(&mut self, entry: usize) -> Result<VectorOperands> {
        let register = |lifter: &Lifter, index| lifter.i.op_kind(index) == OpKind::Register;
        let destination = self.xmm(0);
        let source = if self.i.op_count() > 1 && register(self, 1) {
            self.xmm(1)
        } else if self.i.op_count() > 1 && self.is_memory(1) {
            let value = self.read_narrow_vector(1)?;
            for (register, value) in (registers::OPERAND..).map(Register).zip(value) {
                self.b.put(register, value);
            }
            VectorOperands::IN_MEMORY
        } else {
            destination
        };
        // The decoder does not count an implicit XMM0 among the operands.
        use Mnemonic as M;
        let third_is_xmm0 = matches!(self.i.mnemonic(), M::Pblendvb | M::Blendvps | M::Blendvpd | M::Sha256rnds2);
        Ok(VectorOperands { entry, destination, source, third_is_xmm0 })
    }

    /// The immediate operand, or 0.
    fn vector_immediate(&mut self) -> Value {
        let has = (0..self.i.op_count()).any(|index| self.i.op_kind(index) == OpKind::Immediate8);
        self.constant(if has { u64::from(self.i.immediate8()) } else { 0 })
    }

    fn compare_strings(&mut self) -> Result {
        use Mnemonic as M;
        let mnemonic = self.i.mnemonic();
        // The only instruction of this kind whose memory operand need not be aligned.
        let operands = if self.is_memory(1) {
            let place = self.place_of_vector(false, false)?;
            let value = self.load_vector(place);
            for (register, value) in (registers::OPERAND..).map(Register).zip(value) {
                self.b.put(register, value);
            }
            let destination = self.xmm(0);
            VectorOperands { entry: 0, destination, source: VectorOperands::IN_MEMORY, third_is_xmm0: false }
        } else {
            VectorOperands { entry: 0, destination: self.xmm(0), source: self.xmm(1), third_is_xmm0: false }
        };
        let explicit = matches!(mnemonic, M::Pcmpestri | M::Pcmpestrm | M::Pcmpestri64 | M::Pcmpestrm64);
        let mask = matches!(mnemonic, M::Pcmpistrm | M::Pcmpestrm | M::Pcmpestrm64);
        let wide = format!("{:?}", self.i.code()).contains("64");
        let control =
            u64::from(self.i.immediate8()) | u64::from(explicit) << 8 | u64::from(wide) << 9 | u64::from(mask) << 10;
        let (operands, control) = (self.constant(operands.encode()), self.constant(control));
        let all = self.helper(id::COMPARE_STRINGS, &[operands, control]);
        self.set_explicit_flags(all);
        Ok(Lifted::Next)
    }

    /// MASKMOVDQU: the bytes whose mask byte has its sign set.
    fn store_masked(&mut self) -> Result {
        let value = self.read_xmm(self.xmm(1));
        let mask = self.read_xmm(self.xmm(2));
        let ty = self.implied_address_type();
        let offset = self.read_address_register(RDI, ty);
        let segment: SegmentName = segment_name(self.i.memory_segment());
        let place = self.linear(segment, offset, 0, 16, true);
        for half in 0..2 {
            let which = self.constant(0);
            let bits = self.helper(id::SIGN_BITS, &[mask[half], which]);
            let place = if half == 0 { place } else { Self::second(place) };
            let old = self.load_raw(place, Type::I64);
            let merged = self.helper(id::MERGE_BYTES, &[old, value[half], bits]);
            self.store_raw(place, Type::I64, merged);
        }
        Ok(Lifted::Next)
    }

    fn checksum(&mut self) -> Result {
        let (to, from) = (self.ty(0), self.ty(1));
        let source = self.read(1)?;
        let value = self.widen(from, source.value);
        let crc = self.read(0)?;
        let bytes = self.constant(u64::from(from.bits() / 8));
        let result = self.helper(id::CHECKSUM, &[crc.raw, value, bytes]);
        let result = self.typed(to, result);
        self.write(0, result)?;
        Ok(Lifted::Next)
    }

    /// What the tables of functions have.
    fn vector_by_table(&mut self) -> Result {
        let name = self.table_name();
        if let Some(entry) = table::lanewise_named(&name) {
            return self.lanewise(entry);
        }
        let (helper, entry) = match (table::integer_named(&name), table::float_named(&name)) {
            (Some(entry), _) => (id::VECTOR_INTEGER, entry),
            (_, Some(entry)) => (id::VECTOR_FLOAT, entry),
            _ => return Err(Raises::INVALID_OPCODE),
        };
        let operands = self.vector_operands(entry)?;
        let operands = self.constant(operands.encode());
        let immediate = self.vector_immediate();
        self.helper(helper, &[operands, immediate]);
        Ok(Lifted::Next)
    }

    fn lanewise(&mut self, entry: usize) -> Result {
        let number = self.xmm(0);
        let shape = LANEWISE[entry].shape;
        let b = if self.i.op1_kind() == OpKind::Immediate8 {
            let count = self.constant(u64::from(self.i.immediate8()));
            [count, count]
        } else {
            self.read_vector(1)?
        };
        let a = self.read_xmm(number);
        let which = self.constant(entry as u64);
        let call = |lifter: &mut Lifter, a, b| lifter.helper(id::LANEWISE, &[which, a, b]);
        let result = match shape {
            Shape::Halves => [call(self, a[0], b[0]), call(self, a[1], b[1])],
            Shape::Shift => [call(self, a[0], b[0]), call(self, a[1], b[0])],
            Shape::Operands => [call(self, a[0], a[1]), call(self, b[0], b[1])],
            Shape::UnpackLow | Shape::UnpackHigh => {
                // The halves' upper or lower parts, moved to where the function looks.
                let by = self.constant(32);
                let (op, part) = if shape == Shape::UnpackLow {
                    (BinaryOp::ShiftRightUnsigned, 0)
                } else {
                    (BinaryOp::ShiftLeft, 1)
                };
                let moved = [a[part], b[part]].map(|half| self.b.binary(op, Type::I64, half, by));
                let (plain, other) = (call(self, a[part], b[part]), call(self, moved[0], moved[1]));
                if part == 0 { [plain, other] } else { [other, plain] }
            }
        };
        self.write_xmm(number, result);
        Ok(Lifted::Next)
    }
}
