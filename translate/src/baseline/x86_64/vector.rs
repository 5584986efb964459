//! Operations on vectors, with the host's SSE4.2.

use dynasmrt::{DynasmApi, dynasm};

use super::registers::Source;
use super::{Emitted, Emitter, Unsupported, register_offset};
use crate::ir::{FloatBinaryOp, LaneOp, LaneShift, Shuffle, Type, Value, VectorOp};

impl Emitter<'_> {
    pub(super) fn vector(&mut self, place: usize, op: VectorOp) -> Emitted {
        if !self.baseline.features.vectors {
            return Err(Unsupported);
        }
        match op {
            VectorOp::Get { register } => {
                let to = self.define_vector(place);
                with_context!(self.code, [movups Rx(to),] register_offset(register), []);
            }
            VectorOp::Put { register, value } => {
                let from = self.read_vector(value, 0);
                with_context!(self.code, [movups] register_offset(register), [, Rx(from)]);
            }
            VectorOp::Load { mode, address, offset } => self.load_vector(place, mode, address, offset),
            VectorOp::Store { mode, address, offset, value } => self.store_vector(place, mode, address, offset, value),
            VectorOp::FromHalves { low, high } => self.join_halves(place, low, high),
            VectorOp::Extract { lane, index, a } => self.extract(place, lane, index, a),
            VectorOp::Insert { lane, index, a, value } => {
                let to = self.copy_vector(place, a);
                let from = self.read(value, 0);
                self.insert(to, lane, index, from);
            }
            VectorOp::Splat { lane, value } => {
                let to = self.define_vector(place);
                let from = self.read(value, 0);
                self.splat(to, lane, from);
            }
            VectorOp::Lanes { op, lane, a, b } => {
                let (to, from) = self.two_vectors(place, a, b);
                self.lanes(op, lane, to, from)?;
            }
            VectorOp::Shift { op, lane, a, count } => {
                let to = self.copy_vector(place, a);
                self.shift_lanes(op, lane, to, count)?;
            }
            VectorOp::Shuffle { shuffle, a, b } => self.shuffle(place, shuffle, a, b),
            VectorOp::Widen { signed, lane, a } => {
                let to = self.define_vector(place);
                let from = self.read_vector(a, 0);
                self.widen(signed, lane, to, from);
            }
            VectorOp::Mask { lane, a } => {
                let from = self.read_vector(a, 0);
                let to = self.define(place);
                match lane {
                    Type::I8 => dynasm!(self.code ; .arch x64 ; pmovmskb Rd(to), Rx(from)),
                    Type::I32 => dynasm!(self.code ; .arch x64 ; movmskps Rd(to), Rx(from)),
                    _ => dynasm!(self.code ; .arch x64 ; movmskpd Rd(to), Rx(from)),
                }
            }
            VectorOp::Float { op, lane, a, b } => {
                let (to, from) = self.two_vectors(place, a, b);
                match (op, lane) {
                    (FloatBinaryOp::Add, Type::F64) => dynasm!(self.code ; .arch x64 ; addpd Rx(to), Rx(from)),
                    (FloatBinaryOp::Add, _) => dynasm!(self.code ; .arch x64 ; addps Rx(to), Rx(from)),
                    (FloatBinaryOp::Sub, Type::F64) => dynasm!(self.code ; .arch x64 ; subpd Rx(to), Rx(from)),
                    (FloatBinaryOp::Sub, _) => dynasm!(self.code ; .arch x64 ; subps Rx(to), Rx(from)),
                    (FloatBinaryOp::Mul, Type::F64) => dynasm!(self.code ; .arch x64 ; mulpd Rx(to), Rx(from)),
                    (FloatBinaryOp::Mul, _) => dynasm!(self.code ; .arch x64 ; mulps Rx(to), Rx(from)),
                    (FloatBinaryOp::Div, Type::F64) => dynasm!(self.code ; .arch x64 ; divpd Rx(to), Rx(from)),
                    (FloatBinaryOp::Div, _) => dynasm!(self.code ; .arch x64 ; divps Rx(to), Rx(from)),
                }
            }
            VectorOp::SquareRoot { lane, a } => {
                let to = self.define_vector(place);
                let from = self.read_vector(a, 0);
                match lane {
                    Type::F64 => dynasm!(self.code ; .arch x64 ; sqrtpd Rx(to), Rx(from)),
                    _ => dynasm!(self.code ; .arch x64 ; sqrtps Rx(to), Rx(from)),
                }
            }
        }
        if self.registers.is_full() { Err(Unsupported) } else { Ok(()) }
    }

    /// A register for the result of the operation at `place` that holds `a` already, and one that holds `b`.
    fn two_vectors(&mut self, place: usize, a: Value, b: Value) -> (u8, u8) {
        if a == b {
            let to = self.define_vector(place);
            let from = self.read_vector(a, to);
            if from != to {
                dynasm!(self.code ; .arch x64 ; movaps Rx(to), Rx(from));
            }
            return (to, to);
        }
        let to = self.copy_vector(place, a);
        let from = self.read_vector(b, 0);
        (to, from)
    }

    fn join_halves(&mut self, place: usize, low: Value, high: Value) {
        let to = self.define_vector(place);
        match self.source(low) {
            Source::Constant(0) => dynasm!(self.code ; .arch x64 ; pxor Rx(to), Rx(to)),
            _ => {
                let low = self.read(low, 0);
                dynasm!(self.code ; .arch x64 ; movq Rx(to), Rq(low));
            }
        }
        if self.source(high) != Source::Constant(0) {
            let high = self.read(high, 0);
            dynasm!(self.code ; .arch x64 ; pinsrq Rx(to), Rq(high), 1);
        }
    }

    fn extract(&mut self, place: usize, lane: Type, index: u8, a: Value) {
        let from = self.read_vector(a, 0);
        let to = self.define(place);
        let index = index as i8;
        match (lane, index) {
            (Type::I8, _) => dynasm!(self.code ; .arch x64 ; pextrb Rd(to), Rx(from), index),
            (Type::I16, _) => dynasm!(self.code ; .arch x64 ; pextrw Rd(to), Rx(from), index),
            (Type::I32 | Type::F32, 0) => dynasm!(self.code ; .arch x64 ; movd Rd(to), Rx(from)),
            (Type::I32 | Type::F32, _) => dynasm!(self.code ; .arch x64 ; pextrd Rd(to), Rx(from), index),
            (_, 0) => dynasm!(self.code ; .arch x64 ; movq Rq(to), Rx(from)),
            (_, _) => dynasm!(self.code ; .arch x64 ; pextrq Rq(to), Rx(from), index),
        }
    }

    fn insert(&mut self, to: u8, lane: Type, index: u8, from: u8) {
        let index = index as i8;
        match lane {
            Type::I8 => dynasm!(self.code ; .arch x64 ; pinsrb Rx(to), Rd(from), index),
            Type::I16 => dynasm!(self.code ; .arch x64 ; pinsrw Rx(to), Rd(from), index),
            Type::I32 | Type::F32 => dynasm!(self.code ; .arch x64 ; pinsrd Rx(to), Rd(from), index),
            _ => dynasm!(self.code ; .arch x64 ; pinsrq Rx(to), Rq(from), index),
        }
    }

    fn splat(&mut self, to: u8, lane: Type, from: u8) {
        match lane {
            Type::I8 => dynasm!(self.code ; .arch x64 ; movd Rx(to), Rd(from) ; pxor xmm0, xmm0 ; pshufb Rx(to), xmm0),
            Type::I16 => {
                dynasm!(self.code ; .arch x64 ; movd Rx(to), Rd(from) ; pshuflw Rx(to), Rx(to), 0);
                dynasm!(self.code ; .arch x64 ; pshufd Rx(to), Rx(to), 0);
            }
            Type::I32 | Type::F32 => dynasm!(self.code ; .arch x64 ; movd Rx(to), Rd(from) ; pshufd Rx(to), Rx(to), 0),
            _ => dynasm!(self.code ; .arch x64 ; movq Rx(to), Rq(from) ; punpcklqdq Rx(to), Rx(to)),
        }
    }

    fn lanes(&mut self, op: LaneOp, lane: Type, to: u8, from: u8) -> Emitted {
        macro_rules! emit {
            ($name:ident) => {
                dynasm!(self.code ; .arch x64 ; $name Rx(to), Rx(from))
            };
        }
        use LaneOp as L;
        use Type::{I8, I16, I32, I64};
        match (op, lane) {
            (L::Add, I8) => emit!(paddb),
            (L::Add, I16) => emit!(paddw),
            (L::Add, I32) => emit!(paddd),
            (L::Add, I64) => emit!(paddq),
            (L::Sub, I8) => emit!(psubb),
            (L::Sub, I16) => emit!(psubw),
            (L::Sub, I32) => emit!(psubd),
            (L::Sub, I64) => emit!(psubq),
            (L::Mul, I16) => emit!(pmullw),
            (L::Mul, I32) => emit!(pmulld),
            (L::MulHighSigned, I16) => emit!(pmulhw),
            (L::MulHighUnsigned, I16) => emit!(pmulhuw),
            (L::MulLowHalvesSigned, I64) => emit!(pmuldq),
            (L::MulLowHalvesUnsigned, I64) => emit!(pmuludq),
            (L::MulAddHalves, I32) => emit!(pmaddwd),
            (L::And, _) => emit!(pand),
            (L::Or, _) => emit!(por),
            (L::Xor, _) => emit!(pxor),
            (L::NotAnd, _) => emit!(pandn),
            (L::AddSaturatingSigned, I8) => emit!(paddsb),
            (L::AddSaturatingSigned, I16) => emit!(paddsw),
            (L::AddSaturatingUnsigned, I8) => emit!(paddusb),
            (L::AddSaturatingUnsigned, I16) => emit!(paddusw),
            (L::SubSaturatingSigned, I8) => emit!(psubsb),
            (L::SubSaturatingSigned, I16) => emit!(psubsw),
            (L::SubSaturatingUnsigned, I8) => emit!(psubusb),
            (L::SubSaturatingUnsigned, I16) => emit!(psubusw),
            (L::MinSigned, I8) => emit!(pminsb),
            (L::MinSigned, I16) => emit!(pminsw),
            (L::MinSigned, I32) => emit!(pminsd),
            (L::MinUnsigned, I8) => emit!(pminub),
            (L::MinUnsigned, I16) => emit!(pminuw),
            (L::MinUnsigned, I32) => emit!(pminud),
            (L::MaxSigned, I8) => emit!(pmaxsb),
            (L::MaxSigned, I16) => emit!(pmaxsw),
            (L::MaxSigned, I32) => emit!(pmaxsd),
            (L::MaxUnsigned, I8) => emit!(pmaxub),
            (L::MaxUnsigned, I16) => emit!(pmaxuw),
            (L::MaxUnsigned, I32) => emit!(pmaxud),
            (L::Average, I8) => emit!(pavgb),
            (L::Average, I16) => emit!(pavgw),
            (L::Equal, I8) => emit!(pcmpeqb),
            (L::Equal, I16) => emit!(pcmpeqw),
            (L::Equal, I32) => emit!(pcmpeqd),
            (L::Equal, I64) => emit!(pcmpeqq),
            (L::GreaterSigned, I8) => emit!(pcmpgtb),
            (L::GreaterSigned, I16) => emit!(pcmpgtw),
            (L::GreaterSigned, I32) => emit!(pcmpgtd),
            (L::GreaterSigned, I64) => emit!(pcmpgtq),
            (L::NarrowSigned, I16) => emit!(packsswb),
            (L::NarrowSigned, I32) => emit!(packssdw),
            (L::NarrowUnsigned, I16) => emit!(packuswb),
            (L::NarrowUnsigned, I32) => emit!(packusdw),
            (L::Permute, I8) => emit!(pshufb),
            // Not in a well-formed block.
            _ => return Err(Unsupported),
        }
        Ok(())
    }

    fn shift_lanes(&mut self, op: LaneShift, lane: Type, to: u8, count: Value) -> Emitted {
        let count = match self.source(count) {
            Source::Constant(count) => Some(count.min(255) as i8),
            _ => {
                let count = self.read(count, 0);
                dynasm!(self.code ; .arch x64 ; movq xmm0, Rq(count));
                None
            }
        };
        macro_rules! emit {
            ($name:ident) => {
                match count {
                    Some(count) => dynasm!(self.code ; .arch x64 ; $name Rx(to), count),
                    None => dynasm!(self.code ; .arch x64 ; $name Rx(to), xmm0),
                }
            };
        }
        match (op, lane) {
            (LaneShift::Left, Type::I16) => emit!(psllw),
            (LaneShift::Left, Type::I32) => emit!(pslld),
            (LaneShift::Left, Type::I64) => emit!(psllq),
            (LaneShift::RightUnsigned, Type::I16) => emit!(psrlw),
            (LaneShift::RightUnsigned, Type::I32) => emit!(psrld),
            (LaneShift::RightUnsigned, Type::I64) => emit!(psrlq),
            (LaneShift::RightSigned, Type::I16) => emit!(psraw),
            (LaneShift::RightSigned, Type::I32) => emit!(psrad),
            // Not in a well-formed block.
            _ => return Err(Unsupported),
        }
        Ok(())
    }

    fn shuffle(&mut self, place: usize, shuffle: Shuffle, a: Value, b: Value) {
        /// Emits an instruction that replaces its first operand.
        macro_rules! two {
            ($a:expr, $b:expr, $name:ident $(, $control:expr)?) => {{
                let (to, from) = self.two_vectors(place, $a, $b);
                dynasm!(self.code ; .arch x64 ; $name Rx(to), Rx(from) $(, $control as i8)?)
            }};
        }
        /// Emits one that does not.
        macro_rules! one {
            ($name:ident, $control:expr) => {{
                let to = self.define_vector(place);
                let from = self.read_vector(a, 0);
                dynasm!(self.code ; .arch x64 ; $name Rx(to), Rx(from), $control as i8)
            }};
        }
        match shuffle {
            Shuffle::InterleaveLow(Type::I8) => two!(a, b, punpcklbw),
            Shuffle::InterleaveLow(Type::I16) => two!(a, b, punpcklwd),
            Shuffle::InterleaveLow(Type::I32) => two!(a, b, punpckldq),
            Shuffle::InterleaveLow(_) => two!(a, b, punpcklqdq),
            Shuffle::InterleaveHigh(Type::I8) => two!(a, b, punpckhbw),
            Shuffle::InterleaveHigh(Type::I16) => two!(a, b, punpckhwd),
            Shuffle::InterleaveHigh(Type::I32) => two!(a, b, punpckhdq),
            Shuffle::InterleaveHigh(_) => two!(a, b, punpckhqdq),
            Shuffle::Words(control) if a == b => one!(pshufd, control),
            Shuffle::Words(control) => two!(a, b, shufps, control),
            Shuffle::Doubles(control) => two!(a, b, shufpd, control),
            Shuffle::LowHalves(control) => one!(pshuflw, control),
            Shuffle::HighHalves(control) => one!(pshufhw, control),
            // The instruction's destination is the upper operand.
            Shuffle::Align(first) => two!(b, a, palignr, first),
            Shuffle::Blend(control) => two!(a, b, pblendw, control),
        }
    }

    fn widen(&mut self, signed: bool, lane: Type, to: u8, from: u8) {
        match (signed, lane) {
            (true, Type::I8) => dynasm!(self.code ; .arch x64 ; pmovsxbw Rx(to), Rx(from)),
            (true, Type::I16) => dynasm!(self.code ; .arch x64 ; pmovsxwd Rx(to), Rx(from)),
            (true, _) => dynasm!(self.code ; .arch x64 ; pmovsxdq Rx(to), Rx(from)),
            (false, Type::I8) => dynasm!(self.code ; .arch x64 ; pmovzxbw Rx(to), Rx(from)),
            (false, Type::I16) => dynasm!(self.code ; .arch x64 ; pmovzxwd Rx(to), Rx(from)),
            (false, _) => dynasm!(self.code ; .arch x64 ; pmovzxdq Rx(to), Rx(from)),
        }
    }
}
