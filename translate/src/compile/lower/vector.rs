//! Operations on vectors. A value of [`Type::V128`] is one of any of Cranelift's types of 128 bits.

use std::mem::offset_of;

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{self as clif, ConstantData, Endianness, InstBuilder, MemFlagsData, types};

use super::super::SlowPath;
use super::memory::{Address, Host};
use super::{Lowering, guest_memory};
use crate::cpu::Context;
use crate::guest::Guest;
use crate::ir::{LaneOp, LaneShift, MemoryMode, Op, Type, Value, VectorOp};

/// The vector of lanes of a type.
fn vector_of(lane: Type) -> clif::Type {
    match lane {
        Type::I8 => types::I8X16,
        Type::I16 => types::I16X8,
        Type::I32 => types::I32X4,
        Type::F32 => types::F32X4,
        Type::F64 => types::F64X2,
        Type::I64 | Type::V128 => types::I64X2,
    }
}

impl<G: Guest> Lowering<'_, G> {
    pub(super) fn vector(&mut self, place: usize, op: VectorOp) -> Option<clif::Value> {
        Some(match op {
            VectorOp::Get { register } => self.read_vector_register(register),
            VectorOp::Put { register, value } => {
                let value = self.lanes_of(value, Type::I64);
                self.write_vector_register(register, value);
                return None;
            }
            VectorOp::Load { mode, address, offset } => {
                let address = self.address(address, offset);
                self.load_vector(place, address, mode)
            }
            VectorOp::Store { mode, address, offset, value } => {
                let address = self.address(address, offset);
                let value = self.lanes_of(value, Type::I64);
                self.store_vector(place, address, mode, value);
                return None;
            }
            VectorOp::FromHalves { low, high } => self.join_halves(low, high),
            VectorOp::Extract { lane, index, a } => {
                let a = self.lanes_of(a, lane);
                self.builder.ins().extractlane(a, index)
            }
            VectorOp::Insert { lane, index, a, value } => {
                let (a, value) = (self.lanes_of(a, lane), self.value(value));
                self.builder.ins().insertlane(a, value, index)
            }
            VectorOp::Splat { lane, value } => {
                let value = self.value(value);
                self.builder.ins().splat(vector_of(lane), value)
            }
            VectorOp::Lanes { op, lane, a, b } => self.lane_op(op, lane, a, b),
            VectorOp::Shift { op, lane, a, count } => self.shift_lanes(op, lane, a, count),
            VectorOp::Shuffle { shuffle, a, b } => {
                let (a, b) = (self.lanes_of(a, Type::I8), self.lanes_of(b, Type::I8));
                self.choose_bytes(a, b, shuffle.bytes())
            }
            VectorOp::Widen { signed, lane, a } => {
                let a = self.lanes_of(a, lane);
                let ins = self.builder.ins();
                if signed { ins.swiden_low(a) } else { ins.uwiden_low(a) }
            }
            VectorOp::Mask { lane, a } => {
                let a = self.lanes_of(a, lane);
                let mask = self.builder.ins().vhigh_bits(types::I32, a);
                self.builder.ins().uextend(types::I64, mask)
            }
            VectorOp::Float { op, lane, a, b } => {
                let (a, b) = (self.lanes_of(a, lane), self.lanes_of(b, lane));
                let result = self.float_binary(op, a, b);
                self.keep_flags(place, result)
            }
            VectorOp::SquareRoot { lane, a } => {
                let a = self.lanes_of(a, lane);
                let result = self.builder.ins().sqrt(a);
                self.keep_flags(place, result)
            }
        })
    }

    /// A vector as one of lanes of a type.
    fn lanes_of(&mut self, value: Value, lane: Type) -> clif::Value {
        self.cast(self.value(value), vector_of(lane))
    }

    fn cast(&mut self, value: clif::Value, ty: clif::Type) -> clif::Value {
        if self.builder.func.dfg.value_type(value) == ty {
            return value;
        }
        let flags = MemFlagsData::new().with_endianness(Endianness::Little);
        self.builder.ins().bitcast(ty, flags, value)
    }

    /// The constant that a value is.
    fn known(&self, value: Value) -> Option<u64> {
        match self.block.ops[usize::from(value.0)] {
            Op::Const { bits, .. } => Some(bits),
            _ => None,
        }
    }

    fn vector_constant(&mut self, bits: u128) -> clif::Value {
        let bytes = self.builder.func.dfg.constants.insert(ConstantData::from(&bits.to_le_bytes()[..]));
        self.builder.ins().vconst(types::I64X2, bytes)
    }

    fn join_halves(&mut self, low: Value, high: Value) -> clif::Value {
        if let (Some(low), Some(high)) = (self.known(low), self.known(high)) {
            return self.vector_constant(u128::from(low) | u128::from(high) << 64);
        }
        let lower = self.value(low);
        let vector = self.builder.ins().scalar_to_vector(types::I64X2, lower);
        if self.known(high) == Some(0) {
            return vector;
        }
        let upper = self.value(high);
        self.builder.ins().insertlane(vector, upper, 1)
    }

    /// Bytes of two vectors, by their numbers.
    fn choose_bytes(&mut self, a: clif::Value, b: clif::Value, bytes: [u8; 16]) -> clif::Value {
        let chosen = self.builder.func.dfg.immediates.push(ConstantData::from(&bytes[..]));
        self.builder.ins().shuffle(a, b, chosen)
    }

    fn lane_op(&mut self, op: LaneOp, lane: Type, a: Value, b: Value) -> clif::Value {
        let (x, y) = (self.lanes_of(a, lane), self.lanes_of(b, lane));
        let ins = self.builder.ins();
        match op {
            LaneOp::Add => ins.iadd(x, y),
            LaneOp::Sub => ins.isub(x, y),
            LaneOp::Mul => ins.imul(x, y),
            LaneOp::MulHighSigned | LaneOp::MulHighUnsigned => self.multiply_high(op, x, y),
            LaneOp::MulLowHalvesSigned | LaneOp::MulLowHalvesUnsigned => self.multiply_low_halves(op, x, y),
            LaneOp::MulAddHalves => self.multiply_add_halves(x, y),
            LaneOp::And => ins.band(x, y),
            LaneOp::Or => ins.bor(x, y),
            LaneOp::Xor => ins.bxor(x, y),
            LaneOp::NotAnd => ins.band_not(y, x),
            LaneOp::AddSaturatingSigned => ins.sadd_sat(x, y),
            LaneOp::AddSaturatingUnsigned => ins.uadd_sat(x, y),
            LaneOp::SubSaturatingSigned => ins.ssub_sat(x, y),
            LaneOp::SubSaturatingUnsigned => ins.usub_sat(x, y),
            LaneOp::MinSigned => ins.smin(x, y),
            LaneOp::MinUnsigned => ins.umin(x, y),
            LaneOp::MaxSigned => ins.smax(x, y),
            LaneOp::MaxUnsigned => ins.umax(x, y),
            LaneOp::Average => ins.avg_round(x, y),
            LaneOp::Equal => ins.icmp(IntCC::Equal, x, y),
            LaneOp::GreaterSigned => ins.icmp(IntCC::SignedGreaterThan, x, y),
            LaneOp::NarrowSigned => ins.snarrow(x, y),
            LaneOp::NarrowUnsigned => ins.unarrow(x, y),
            LaneOp::Permute if cfg!(target_arch = "x86_64") => ins.x86_pshufb(x, y),
            // Only the lowest four bits and the highest of a control count.
            LaneOp::Permute => {
                let mask = self.builder.ins().iconst(types::I8, 0x8f);
                let mask = self.builder.ins().splat(types::I8X16, mask);
                let y = self.builder.ins().band(y, mask);
                self.builder.ins().swizzle(x, y)
            }
        }
    }

    /// The high halves of products of 16 bits: of wider ones, narrowed again.
    fn multiply_high(&mut self, op: LaneOp, a: clif::Value, b: clif::Value) -> clif::Value {
        let signed = op == LaneOp::MulHighSigned;
        let halves = [false, true].map(|high| {
            let [a, b] = [a, b].map(|value| {
                let ins = self.builder.ins();
                match (signed, high) {
                    (true, false) => ins.swiden_low(value),
                    (true, true) => ins.swiden_high(value),
                    (false, false) => ins.uwiden_low(value),
                    (false, true) => ins.uwiden_high(value),
                }
            });
            let product = self.builder.ins().imul(a, b);
            let count = self.builder.ins().iconst(types::I32, 16);
            if signed { self.builder.ins().sshr(product, count) } else { self.builder.ins().ushr(product, count) }
        });
        let ins = self.builder.ins();
        if signed { ins.snarrow(halves[0], halves[1]) } else { ins.unarrow(halves[0], halves[1]) }
    }

    /// Products of the even lanes of 32 bits.
    fn multiply_low_halves(&mut self, op: LaneOp, a: clif::Value, b: clif::Value) -> clif::Value {
        let [a, b] = [a, b].map(|value| {
            let bytes = self.cast(value, types::I8X16);
            // The even lanes become the lower half, which is widened.
            let even = self.choose_bytes(bytes, bytes, crate::ir::Shuffle::Words(0b10_00_10_00).bytes());
            let even = self.cast(even, types::I32X4);
            let ins = self.builder.ins();
            if op == LaneOp::MulLowHalvesSigned { ins.swiden_low(even) } else { ins.uwiden_low(even) }
        });
        self.builder.ins().imul(a, b)
    }

    fn multiply_add_halves(&mut self, a: clif::Value, b: clif::Value) -> clif::Value {
        let (a, b) = (self.cast(a, types::I16X8), self.cast(b, types::I16X8));
        let [a_low, b_low] = [a, b].map(|value| self.builder.ins().swiden_low(value));
        let [a_high, b_high] = [a, b].map(|value| self.builder.ins().swiden_high(value));
        let low = self.builder.ins().imul(a_low, b_low);
        let high = self.builder.ins().imul(a_high, b_high);
        self.builder.ins().iadd_pairwise(low, high)
    }

    fn shift_lanes(&mut self, op: LaneShift, lane: Type, a: Value, count: Value) -> clif::Value {
        let width = u64::from(lane.bits());
        let vector = self.lanes_of(a, lane);
        if let Some(count) = self.known(count) {
            if count >= width && op != LaneShift::RightSigned {
                return self.vector_constant(0);
            }
            let count = self.builder.ins().iconst(types::I32, count.min(width - 1) as i64);
            return self.shift_within(op, vector, count);
        }
        let count = self.value(count);
        let last = self.constant(width - 1);
        let most = self.builder.ins().umin(count, last);
        let most = self.builder.ins().ireduce(types::I32, most);
        let shifted = self.shift_within(op, vector, most);
        if op == LaneShift::RightSigned {
            return shifted;
        }
        let out = self.builder.ins().icmp(IntCC::UnsignedGreaterThan, count, last);
        let zero = self.vector_constant(0);
        let zero = self.cast(zero, vector_of(lane));
        self.builder.ins().select(out, zero, shifted)
    }

    /// A shift by less than the width.
    fn shift_within(&mut self, op: LaneShift, vector: clif::Value, count: clif::Value) -> clif::Value {
        let ins = self.builder.ins();
        match op {
            LaneShift::Left => ins.ishl(vector, count),
            LaneShift::RightUnsigned => ins.ushr(vector, count),
            LaneShift::RightSigned => ins.sshr(vector, count),
        }
    }

    fn load_vector(&mut self, place: usize, address: Address, mode: MemoryMode) -> clif::Value {
        let Host { address: host, distance, missed } = self.look_up(place, address, 16, mode, false);
        let loaded = self.builder.ins().load(types::I64X2, guest_memory(), host, distance);
        self.or_slowly(place, missed, SlowPath::LoadVector, address, mode.0.into(), None, loaded)
    }

    fn store_vector(&mut self, place: usize, address: Address, mode: MemoryMode, value: clif::Value) {
        let Host { address: host, distance, missed } = self.look_up(place, address, 16, mode, true);
        self.builder.ins().store(guest_memory(), value, host, distance);
        let done = self.builder.create_block();
        self.builder.ins().jump(done, &[]);
        self.builder.switch_to_block(missed);
        self.builder.ins().store(guest_memory(), value, self.context, offset_of!(Context, result) as i32);
        self.slow_path(place, SlowPath::StoreVector, address, mode.0.into(), None);
        self.builder.ins().jump(done, &[]);
        self.builder.switch_to_block(done);
    }
}
