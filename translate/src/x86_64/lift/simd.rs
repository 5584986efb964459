//! SSE to SSE4.2, AES-NI, PCLMULQDQ and SHA, and AVX, AVX2, FMA and F16C, which are the same with VEX.
//!
//! What the IR has operations for is these operations, on the 128-bit halves of registers. The rest are helpers: functions of
//! 64 bits where [`LANEWISE`](super::super::simd::LANEWISE) has them, else of whole registers.
//!
//! Of a legacy encoding the destination is the first source, and the upper half of its YMM register stays. With VEX the sources
//! follow the destination, and what is above the result becomes zero.

mod arithmetic;
mod inline;
mod lanes;
mod memory;
mod moves;
mod permute;
mod table;

use iced_x86::{EncodingKind, Mnemonic, OpKind};

use crate::ir::{BinaryOp, Comparison, FloatBinaryOp, LaneOp, Op, Register, Type, Value, VectorOp};

use super::super::flags;
use super::super::helpers::{Third, VectorOperands, id};
use super::super::registers::vector_part;
use super::operand::Place;
use super::{Flags, Lifted, Lifter, Raises, Result};

/// The halves of a 256-bit value, the lower first; of a narrower one the upper is zero.
type Halves = [Value; 2];

/// Bitwise logic.
fn logic(mnemonic: Mnemonic) -> Option<LaneOp> {
    use Mnemonic as M;
    Some(match mnemonic {
        M::Pand | M::Andps | M::Andpd | M::Vpand | M::Vandps | M::Vandpd => LaneOp::And,
        M::Por | M::Orps | M::Orpd | M::Vpor | M::Vorps | M::Vorpd => LaneOp::Or,
        M::Pxor | M::Xorps | M::Xorpd | M::Vpxor | M::Vxorps | M::Vxorpd => LaneOp::Xor,
        M::Pandn | M::Andnps | M::Andnpd | M::Vpandn | M::Vandnps | M::Vandnpd => LaneOp::NotAnd,
        _ => return None,
    })
}

/// Plain arithmetic: the operation (none: square root), the type of lanes, and whether all lanes take part.
fn arithmetic(mnemonic: Mnemonic) -> Option<(Option<FloatBinaryOp>, Type, bool)> {
    use FloatBinaryOp as F;
    use Mnemonic as M;
    Some(match mnemonic {
        M::Addss | M::Vaddss => (Some(F::Add), Type::F32, false),
        M::Addsd | M::Vaddsd => (Some(F::Add), Type::F64, false),
        M::Addps | M::Vaddps => (Some(F::Add), Type::F32, true),
        M::Addpd | M::Vaddpd => (Some(F::Add), Type::F64, true),
        M::Subss | M::Vsubss => (Some(F::Sub), Type::F32, false),
        M::Subsd | M::Vsubsd => (Some(F::Sub), Type::F64, false),
        M::Subps | M::Vsubps => (Some(F::Sub), Type::F32, true),
        M::Subpd | M::Vsubpd => (Some(F::Sub), Type::F64, true),
        M::Mulss | M::Vmulss => (Some(F::Mul), Type::F32, false),
        M::Mulsd | M::Vmulsd => (Some(F::Mul), Type::F64, false),
        M::Mulps | M::Vmulps => (Some(F::Mul), Type::F32, true),
        M::Mulpd | M::Vmulpd => (Some(F::Mul), Type::F64, true),
        M::Divss | M::Vdivss => (Some(F::Div), Type::F32, false),
        M::Divsd | M::Vdivsd => (Some(F::Div), Type::F64, false),
        M::Divps | M::Vdivps => (Some(F::Div), Type::F32, true),
        M::Divpd | M::Vdivpd => (Some(F::Div), Type::F64, true),
        M::Sqrtss | M::Vsqrtss => (None, Type::F32, false),
        M::Sqrtsd | M::Vsqrtsd => (None, Type::F64, false),
        M::Sqrtps | M::Vsqrtps => (None, Type::F32, true),
        M::Sqrtpd | M::Vsqrtpd => (None, Type::F64, true),
        _ => return None,
    })
}

/// Where half of an operand is that is in no vector register.
fn operand_half(half: u8) -> Register {
    Register(super::super::registers::OPERAND + 2 * half)
}

/// The same bits as a floating-point type.
fn float_type(ty: Type) -> Type {
    if ty == Type::I32 { Type::F32 } else { Type::F64 }
}

impl Lifter {
    /// An instruction on XMM or YMM registers.
    pub(super) fn vector(&mut self) -> Result {
        use Mnemonic as M;
        let mnemonic = self.i.mnemonic();
        if self.uses_other_registers() {
            return Err(Raises::INVALID_OPCODE);
        }
        if mnemonic == M::Crc32 {
            return self.checksum();
        }
        self.need_vectors()?;
        if let Some(op) = logic(mnemonic) {
            return self.vector_logic(op);
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
            M::Vmovaps | M::Vmovapd | M::Vmovdqa | M::Vmovntps | M::Vmovntpd | M::Vmovntdq | M::Vmovntdqa => {
                self.move_whole(true)
            }
            M::Movups | M::Movupd | M::Movdqu | M::Lddqu => self.move_whole(false),
            M::Vmovups | M::Vmovupd | M::Vmovdqu | M::Vlddqu => self.move_whole(false),
            M::Movss | M::Vmovss => self.move_scalar(Type::I32),
            M::Movsd | M::Vmovsd => self.move_scalar(Type::I64),
            M::Movd | M::Movq | M::Vmovd | M::Vmovq => self.move_between(),
            M::Movlps | M::Movlpd | M::Vmovlps | M::Vmovlpd => self.move_half(0),
            M::Movhps | M::Movhpd | M::Vmovhps | M::Vmovhpd => self.move_half(1),
            M::Movhlps | M::Vmovhlps => self.move_from_half(1, 0),
            M::Movlhps | M::Vmovlhps => self.move_from_half(0, 1),
            M::Pmovmskb | M::Vpmovmskb => self.move_mask(Type::I8),
            M::Movmskps | M::Vmovmskps => self.move_mask(Type::I32),
            M::Movmskpd | M::Vmovmskpd => self.move_mask(Type::I64),
            M::Ptest | M::Vptest => self.vector_test(u64::MAX),
            M::Vtestps => self.vector_test(0x8000_0000_8000_0000),
            M::Vtestpd => self.vector_test(1 << 63),
            M::Pinsrb | M::Vpinsrb | M::Pinsrw | M::Vpinsrw | M::Pinsrd | M::Vpinsrd | M::Pinsrq | M::Vpinsrq => {
                self.insert_lane()
            }
            M::Pextrb | M::Pextrw | M::Pextrd | M::Pextrq | M::Extractps => self.extract_lane(),
            M::Vpextrb | M::Vpextrw | M::Vpextrd | M::Vpextrq | M::Vextractps => self.extract_lane(),
            M::Insertps | M::Vinsertps => self.insert_single(),
            M::Comiss | M::Vcomiss => self.compare_floats(Type::I32, false),
            M::Ucomiss | M::Vucomiss => self.compare_floats(Type::I32, true),
            M::Comisd | M::Vcomisd => self.compare_floats(Type::I64, false),
            M::Ucomisd | M::Vucomisd => self.compare_floats(Type::I64, true),
            M::Cvtss2sd | M::Vcvtss2sd if !self.flags.has(Flags::UNUSUAL_FLOAT) => {
                self.convert_float(Type::F32, Type::F64)
            }
            M::Cvtsd2ss | M::Vcvtsd2ss if !self.flags.has(Flags::UNUSUAL_FLOAT) => {
                self.convert_float(Type::F64, Type::F32)
            }
            M::Cvtsi2ss | M::Vcvtsi2ss => self.convert_integer(Type::I32),
            M::Cvtsi2sd | M::Vcvtsi2sd => self.convert_integer(Type::I64),
            M::Cvtss2si | M::Vcvtss2si => self.convert_to_integer(Type::I32, false),
            M::Cvttss2si | M::Vcvttss2si => self.convert_to_integer(Type::I32, true),
            M::Cvtsd2si | M::Vcvtsd2si => self.convert_to_integer(Type::I64, false),
            M::Cvttsd2si | M::Vcvttsd2si => self.convert_to_integer(Type::I64, true),
            M::Pcmpistri | M::Vpcmpistri => self.compare_strings(StringComparison::default()),
            M::Pcmpistrm | M::Vpcmpistrm => {
                self.compare_strings(StringComparison { mask: true, ..StringComparison::default() })
            }
            M::Pcmpestri | M::Vpcmpestri | M::Pcmpestri64 | M::Vpcmpestri64 => {
                let wide = matches!(mnemonic, M::Pcmpestri64 | M::Vpcmpestri64);
                self.compare_strings(StringComparison { explicit: true, wide, mask: false })
            }
            M::Pcmpestrm | M::Vpcmpestrm | M::Pcmpestrm64 | M::Vpcmpestrm64 => {
                let wide = matches!(mnemonic, M::Pcmpestrm64 | M::Vpcmpestrm64);
                self.compare_strings(StringComparison { explicit: true, wide, mask: true })
            }
            M::Maskmovdqu | M::Vmaskmovdqu => self.store_masked(),
            M::Vmaskmovps | M::Vpmaskmovd => self.move_masked(false),
            M::Vmaskmovpd | M::Vpmaskmovq => self.move_masked(true),
            M::Vgatherdps | M::Vpgatherdd => self.gather(false, false),
            M::Vgatherdpd | M::Vpgatherdq => self.gather(false, true),
            M::Vgatherqps | M::Vpgatherqd => self.gather(true, false),
            M::Vgatherqpd | M::Vpgatherqq => self.gather(true, true),
            M::Vzeroall => self.zero_registers(false),
            M::Vzeroupper => self.zero_registers(true),
            M::Vbroadcastss | M::Vpbroadcastd => self.broadcast(Type::I32),
            M::Vbroadcastsd | M::Vpbroadcastq => self.broadcast(Type::I64),
            M::Vpbroadcastb => self.broadcast(Type::I8),
            M::Vpbroadcastw => self.broadcast(Type::I16),
            M::Vbroadcastf128 | M::Vbroadcasti128 => self.broadcast_half(),
            M::Vinsertf128 | M::Vinserti128 => self.insert_half(),
            M::Vextractf128 | M::Vextracti128 => self.extract_half(),
            M::Vperm2f128 | M::Vperm2i128 => self.permute_halves(),
            M::Vpermq | M::Vpermpd => self.permute_quadwords(),
            M::Vpermd | M::Vpermps => self.permute_doublewords(),
            // With an immediate these are shuffles of one source.
            M::Vpermilps if self.has_immediate() => self.vector_by_table(M::Vpshufd),
            M::Vpermilpd if self.has_immediate() => self.vector_by_table(M::Vshufpd),
            _ => self.vector_by_table(mnemonic),
        }
    }

    /// An operand is an MMX, ZMM or other register that this file does not know, or the encoding is not one of its.
    fn uses_other_registers(&self) -> bool {
        (0..self.i.op_count()).any(|index| {
            self.i.op_kind(index) == OpKind::Register && {
                let named = self.i.op_register(index);
                !(named.is_xmm() || named.is_ymm() || named.is_gpr())
            }
        }) || !matches!(self.i.code().encoding(), EncodingKind::Legacy | EncodingKind::VEX)
    }

    pub(super) fn is_vex(&self) -> bool {
        self.i.code().encoding() == EncodingKind::VEX
    }

    /// Operands in memory must be aligned: those of legacy encodings, but for SHA's, which AMD's processors do not check.
    fn needs_alignment(&self) -> bool {
        use Mnemonic as M;
        let sha = matches!(
            self.i.mnemonic(),
            M::Sha1rnds4 | M::Sha1nexte | M::Sha1msg1 | M::Sha1msg2 | M::Sha256rnds2 | M::Sha256msg1 | M::Sha256msg2
        );
        !self.is_vex() && !sha
    }

    fn has_immediate(&self) -> bool {
        (0..self.i.op_count()).any(|index| self.i.op_kind(index) == OpKind::Immediate8)
    }

    /// Fails unless the system lets programs use what the encoding needs.
    pub(super) fn need_vectors(&self) -> Result<()> {
        if !self.is_vex() {
            return self.need_sse();
        }
        if !self.flags.has(Flags::AVX) {
            return Err(Raises::INVALID_OPCODE);
        }
        if self.flags.has(Flags::TASK_SWITCHED) {
            return Err(Raises::DEVICE_NOT_AVAILABLE);
        }
        Ok(())
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

    /// How many halves of a YMM register the instruction's widest operand has.
    fn half_count(&self) -> usize {
        let wide = (0..self.i.op_count()).any(|index| match self.i.op_kind(index) {
            OpKind::Register => self.i.op_register(index).is_ymm(),
            OpKind::Memory => self.i.memory_size().size() == 32 || self.i.memory_index().is_ymm(),
            _ => false,
        });
        if wide { 2 } else { 1 }
    }

    /// The operands that are the first and the second source; the same one if there is but one.
    fn sources(&self) -> (u32, u32) {
        if !self.is_vex() {
            return (0, 1);
        }
        let immediate = |index| self.i.op_kind(index) == OpKind::Immediate8;
        if self.i.op_count() > 2 && !immediate(2) { (1, 2) } else { (1, 1) }
    }

    /// The number of the vector register that is operand `index`.
    fn number(&self, index: u32) -> u8 {
        self.i.op_register(index).number() as u8
    }

    fn vector_op(&mut self, op: VectorOp) -> Value {
        self.b.push(Op::Vector(op))
    }

    fn zero_vector(&mut self) -> Value {
        let zero = self.constant(0);
        self.vector_op(VectorOp::FromHalves { low: zero, high: zero })
    }

    /// A vector whose lower half is an I64, and the upper zero.
    fn low_vector(&mut self, low: Value) -> Value {
        let high = self.constant(0);
        self.vector_op(VectorOp::FromHalves { low, high })
    }

    fn lanes(&mut self, op: LaneOp, lane: Type, a: Value, b: Value) -> Value {
        self.vector_op(VectorOp::Lanes { op, lane, a, b })
    }

    fn extract(&mut self, lane: Type, index: u8, a: Value) -> Value {
        self.vector_op(VectorOp::Extract { lane, index, a })
    }

    fn insert(&mut self, lane: Type, index: u8, a: Value, value: Value) -> Value {
        self.vector_op(VectorOp::Insert { lane, index, a, value })
    }

    /// The XMM register of a number.
    fn read_xmm(&mut self, number: u8) -> Value {
        self.vector_op(VectorOp::Get { register: vector_part(number, 0) })
    }

    fn read_register(&mut self, number: u8, count: usize) -> Halves {
        let low = self.read_xmm(number);
        let high = match count {
            1 => self.zero_vector(),
            _ => self.vector_op(VectorOp::Get { register: vector_part(number, 2) }),
        };
        [low, high]
    }

    /// Writes the register that is operand 0.
    fn write_vector(&mut self, halves: Halves) {
        self.write_register(self.number(0), halves);
    }

    /// Writes the register that is operand 0 with a value of 128 bits.
    fn write_xmm(&mut self, value: Value) {
        let high = self.zero_vector();
        self.write_vector([value, high]);
    }

    fn write_register(&mut self, number: u8, [low, high]: Halves) {
        self.vector_op(VectorOp::Put { register: vector_part(number, 0), value: low });
        if self.is_vex() {
            self.vector_op(VectorOp::Put { register: vector_part(number, 2), value: high });
        }
    }

    /// Writes the low lane of the destination; the rest of its XMM register is the first source's.
    fn write_low(&mut self, lane: Type, value: Value) {
        let rest = if self.is_vex() { 1 } else { 0 };
        let rest = self.read_xmm(self.number(rest));
        let merged = self.insert(lane, 0, rest, value);
        self.write_xmm(merged);
    }

    /// Where a memory operand of so many halves is; `aligned`: #GP if not at a multiple of its size.
    fn place_of_vector(&mut self, count: usize, aligned: bool, write: bool) -> Result<Place> {
        let bytes = 16 * count as u64;
        let place = self.place_of_bytes(bytes, write)?;
        if aligned {
            self.require_aligned(place, bytes, Raises::GENERAL_PROTECTION);
        }
        Ok(place)
    }

    fn half_of(place: Place, half: usize) -> Place {
        Place { offset: place.offset.wrapping_add(16 * half as i32), ..place }
    }

    fn load_vector(&mut self, place: Place, count: usize) -> Halves {
        // Even of 32 bytes.
        self.check_alignment(place, 16);
        let low = self.load_half(place);
        let high = if count == 2 { self.load_half(Self::half_of(place, 1)) } else { self.zero_vector() };
        [low, high]
    }

    fn load_half(&mut self, Place { address, offset }: Place) -> Value {
        let mode = self.mode;
        self.vector_op(VectorOp::Load { mode, address, offset })
    }

    fn store_vector(&mut self, place: Place, halves: &[Value]) {
        self.check_alignment(place, 16);
        let mode = self.mode;
        if halves.len() > 1 {
            let Place { address, offset } = place;
            self.b.push(Op::ProbeWrite { bytes: 16 * halves.len() as u8, mode, address, offset });
        }
        for (half, value) in halves.iter().enumerate() {
            let Place { address, offset } = Self::half_of(place, half);
            self.vector_op(VectorOp::Store { mode, address, offset, value: *value });
        }
    }

    /// Reads operand `index`: a register, or as much memory as the instruction says; the rest is zero.
    fn read_vector(&mut self, index: u32) -> Result<Halves> {
        let count = self.half_count();
        if !self.is_memory(index) {
            return Ok(self.read_register(self.number(index), count));
        }
        match self.i.memory_size().size() {
            bytes @ (16 | 32) => {
                let place = self.place_of_vector(bytes / 16, self.needs_alignment(), false)?;
                Ok(self.load_vector(place, bytes / 16))
            }
            bytes => {
                let ty = super::operand::type_of_bytes(bytes);
                let place = self.place(ty, false)?;
                let loaded = self.load_raw(place, ty);
                Ok([self.low_vector(loaded), self.zero_vector()])
            }
        }
    }

    /// Half `part` of the XMM register that is operand `index`, as I64.
    fn vector_half(&mut self, index: u32, part: u8) -> Value {
        let register = self.read_xmm(self.number(index));
        self.extract(Type::I64, part, register)
    }

    /// The low `ty` of operand `index`, a register or memory, as I64; of a register with what is above.
    fn read_scalar(&mut self, index: u32, ty: Type) -> Result<Value> {
        if self.is_memory(index) {
            let place = self.place(ty, false)?;
            return Ok(self.load_raw(place, ty));
        }
        Ok(self.vector_half(index, 0))
    }

    fn vector_logic(&mut self, op: LaneOp) -> Result {
        let (first, second) = self.sources();
        let same = !self.is_memory(second) && self.number(first) == self.number(second);
        if op == LaneOp::Xor && same {
            let zero = self.zero_vector();
            self.write_vector([zero; 2]);
            return Ok(Lifted::Next);
        }
        let b = self.read_vector(second)?;
        let a = self.read_register(self.number(first), self.half_count());
        let result = self.on_halves(|lifter, half| lifter.lanes(op, Type::I64, a[half], b[half]));
        self.write_vector(result);
        Ok(Lifted::Next)
    }

    /// The result of the same on each half that the instruction works on.
    fn on_halves(&mut self, mut function: impl FnMut(&mut Lifter, usize) -> Value) -> Halves {
        let low = function(self, 0);
        let high = if self.half_count() == 2 { function(self, 1) } else { self.zero_vector() };
        [low, high]
    }

    /// PTEST, and VTESTPS and VTESTPD, which look at the bits of `mask` only.
    fn vector_test(&mut self, mask: u64) -> Result {
        let b = self.read_vector(1)?;
        let count = self.half_count();
        let a = self.read_register(self.number(0), count);
        let zero = self.constant(0);
        let none_of = |lifter: &mut Lifter, op: LaneOp| {
            let mut any = zero;
            for (a, b) in a.into_iter().zip(b).take(count) {
                let both = lifter.lanes(op, Type::I64, a, b);
                for part in 0..2 {
                    let part = lifter.extract(Type::I64, part, both);
                    any = lifter.b.binary(BinaryOp::Or, Type::I64, any, part);
                }
            }
            if mask != u64::MAX {
                let mask = lifter.constant(mask);
                any = lifter.b.binary(BinaryOp::And, Type::I64, any, mask);
            }
            lifter.b.compare(Comparison::Equal, Type::I64, any, zero)
        };
        let no_common = none_of(self, LaneOp::And);
        let none_outside = none_of(self, LaneOp::NotAnd);
        let zero_flag = self.flag_if(no_common, flags::ZF);
        let carry_flag = self.flag_if(none_outside, flags::CF);
        let all = self.b.binary(BinaryOp::Or, Type::I64, zero_flag, carry_flag);
        self.set_explicit_flags(all);
        Ok(Lifted::Next)
    }

    /// The operands of an instruction that a helper executes. Memory is loaded to the operand registers; a destination in
    /// memory is to be stored from there.
    fn vector_operands(&mut self, entry: usize) -> Result<VectorOperands> {
        use Mnemonic as M;
        let (first, second) = self.sources();
        let register = |lifter: &Lifter, index: u32| {
            let is_register = index < lifter.i.op_count() && lifter.i.op_kind(index) == OpKind::Register;
            is_register.then(|| lifter.number(index))
        };
        let destination = register(self, 0).unwrap_or(VectorOperands::IN_MEMORY);
        let second_number = match register(self, second) {
            Some(number) => number,
            None if second < self.i.op_count() && self.is_memory(second) => {
                let halves = self.read_vector(second)?;
                self.set_operand(halves);
                VectorOperands::IN_MEMORY
            }
            None => destination,
        };
        let first_number = register(self, first).unwrap_or(second_number);
        // The decoder does not count an implicit XMM0 among the operands.
        let third = match self.i.mnemonic() {
            M::Pblendvb | M::Blendvps | M::Blendvpd | M::Sha256rnds2 => Third::Register(0),
            _ => register(self, 3).map_or(Third::Immediate, Third::Register),
        };
        Ok(VectorOperands {
            entry,
            destination,
            first: first_number,
            second: second_number,
            third,
            vex: self.is_vex(),
            wide: self.half_count() == 2,
        })
    }

    /// Fills the registers of an operand that is in no vector register.
    fn set_operand(&mut self, halves: Halves) {
        for (half, value) in (0..).zip(halves).take(self.half_count()) {
            self.vector_op(VectorOp::Put { register: operand_half(half), value });
        }
    }

    /// The immediate operand, or 0.
    fn vector_immediate(&mut self) -> Value {
        let value = if self.has_immediate() { u64::from(self.i.immediate8()) } else { 0 };
        self.constant(value)
    }

    fn compare_strings(&mut self, StringComparison { explicit, wide, mask }: StringComparison) -> Result {
        // The only instruction of this kind whose memory operand need not be aligned.
        let second = if self.is_memory(1) {
            let place = self.place_of_vector(1, false, false)?;
            let value = self.load_vector(place, 1);
            self.set_operand(value);
            VectorOperands::IN_MEMORY
        } else {
            self.number(1)
        };
        let first = self.number(0);
        let vex = self.is_vex();
        let operands =
            VectorOperands { entry: 0, destination: 0, first, second, third: Third::Immediate, vex, wide: false };
        let control =
            u64::from(self.i.immediate8()) | u64::from(explicit) << 8 | u64::from(wide) << 9 | u64::from(mask) << 10;
        let (operands, control) = (self.constant(operands.encode()), self.constant(control));
        let all = self.helper(id::COMPARE_STRINGS, &[operands, control]);
        self.set_explicit_flags(all);
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
}

/// Which of PCMPISTRI, PCMPISTRM, PCMPESTRI and PCMPESTRM.
#[derive(Clone, Copy, Debug, Default)]
struct StringComparison {
    /// The lengths are given.
    explicit: bool,
    /// They are in registers of 64 bits.
    wide: bool,
    /// The result is a mask in XMM0, not an index.
    mask: bool,
}
