//! Floating-point operations, on the host's unit under the guest's rounding mode. The host's flags collect the guest's.

use dynasmrt::{DynamicLabel, DynasmApi, DynasmLabelApi, dynasm};

use super::integer::Condition;
use super::registers::Source;
use super::{Emitted, Emitter, Loaded, RSI, Unsupported};
use crate::compile::SlowPath;
use crate::float::canonical_nan;
use crate::ir::{FloatBinaryOp, FloatComparison, Type, Value};

/// Emits a scalar instruction on `xmm0` and `xmm1`, of double or of single precision.
macro_rules! scalar {
    ($emitter:expr, $ty:expr, $double:ident, $single:ident, $a:ident, $b:ident) => {
        if $ty == Type::F64 {
            dynasm!($emitter.code ; .arch x64 ; $double $a, $b)
        } else {
            dynasm!($emitter.code ; .arch x64 ; $single $a, $b)
        }
    };
}

impl Emitter<'_> {
    /// Brings a value into `xmm0` to `xmm2`.
    fn load_float(&mut self, to: u8, value: Value) {
        let from = self.read(value, 0);
        dynasm!(self.code ; .arch x64 ; movq Rx(to), Rq(from));
    }

    /// Makes what is in `xmm0` the result of the operation at `place`.
    fn define_float(&mut self, place: usize, ty: Type) -> u8 {
        let to = self.define(place);
        if ty == Type::F64 {
            dynasm!(self.code ; .arch x64 ; movq Rq(to), xmm0);
        } else {
            dynasm!(self.code ; .arch x64 ; movd Rd(to), xmm0);
        }
        to
    }

    pub(super) fn float_binary(&mut self, place: usize, op: FloatBinaryOp, ty: Type, a: Value, b: Value) {
        self.load_float(0, a);
        self.load_float(1, b);
        match op {
            FloatBinaryOp::Add => scalar!(self, ty, addsd, addss, xmm0, xmm1),
            FloatBinaryOp::Sub => scalar!(self, ty, subsd, subss, xmm0, xmm1),
            FloatBinaryOp::Mul => scalar!(self, ty, mulsd, mulss, xmm0, xmm1),
            FloatBinaryOp::Div => scalar!(self, ty, divsd, divss, xmm0, xmm1),
        }
        self.define_float(place, ty);
    }

    pub(super) fn square_root(&mut self, place: usize, ty: Type, a: Value) {
        self.load_float(0, a);
        scalar!(self, ty, sqrtsd, sqrtss, xmm0, xmm0);
        self.define_float(place, ty);
    }

    pub(super) fn multiply_add(&mut self, place: usize, ty: Type, a: Value, b: Value, c: Value) -> Emitted {
        if !self.baseline.features.multiply_add {
            return Err(Unsupported);
        }
        self.load_float(0, a);
        self.load_float(1, b);
        self.load_float(2, c);
        if ty == Type::F64 {
            dynasm!(self.code ; .arch x64 ; vfmadd213sd xmm0, xmm1, xmm2);
        } else {
            dynasm!(self.code ; .arch x64 ; vfmadd213ss xmm0, xmm1, xmm2);
        }
        let to = self.define_float(place, ty);
        self.load_value(RSI, a);
        let nan = self.jump_if_nan(ty);
        let (path, factor) = (SlowPath::NanOfMultiplyAdd, self.source(b));
        self.cold_slow_path(nan, path, i64::from(ty.bits() / 8), Some(factor), Some(Loaded::Word(to)), place);
        Ok(())
    }

    pub(super) fn float_canonical(&mut self, place: usize, ty: Type, a: Value) {
        let to = self.copy(place, a);
        dynasm!(self.code ; .arch x64 ; movq xmm0, Rq(to));
        let number = self.code.new_dynamic_label();
        scalar!(self, ty, ucomisd, ucomiss, xmm0, xmm0);
        dynasm!(self.code ; .arch x64 ; jnp =>number);
        self.load_source(to, Source::Constant(canonical_nan(ty)));
        dynasm!(self.code ; .arch x64 ; =>number);
    }

    /// Jumps if the number in `xmm0` is a NaN, which must be a quiet one.
    fn jump_if_nan(&mut self, ty: Type) -> DynamicLabel {
        let nan = self.code.new_dynamic_label();
        scalar!(self, ty, ucomisd, ucomiss, xmm0, xmm0);
        dynasm!(self.code ; .arch x64 ; jp =>nan);
        nan
    }

    pub(super) fn float_compare(&mut self, place: usize, op: FloatComparison, ty: Type, a: Value, b: Value) {
        self.load_float(0, a);
        self.load_float(1, b);
        let to = self.define(place);
        match op {
            FloatComparison::Equal => {
                // Equal and not unordered, which sets the flag of equality, too.
                scalar!(self, ty, ucomisd, ucomiss, xmm0, xmm1);
                dynasm!(self.code ; .arch x64 ; setnp cl);
                self.set_if(Condition::Equal, to);
                dynasm!(self.code ; .arch x64 ; and Rb(to), cl);
            }
            // With the operands exchanged, unordered is false.
            FloatComparison::Less => {
                scalar!(self, ty, comisd, comiss, xmm1, xmm0);
                self.set_if(Condition::Above, to);
            }
            FloatComparison::LessQuiet => {
                scalar!(self, ty, ucomisd, ucomiss, xmm1, xmm0);
                self.set_if(Condition::Above, to);
            }
            FloatComparison::LessEqual => {
                scalar!(self, ty, comisd, comiss, xmm1, xmm0);
                self.set_if(Condition::AboveEqual, to);
            }
            FloatComparison::Unordered => {
                scalar!(self, ty, ucomisd, ucomiss, xmm0, xmm1);
                self.set_if(Condition::Parity, to);
            }
        }
    }

    pub(super) fn float_convert(&mut self, place: usize, to: Type, a: Value) {
        self.load_float(0, a);
        if to == Type::F64 {
            dynasm!(self.code ; .arch x64 ; cvtss2sd xmm0, xmm0);
        } else {
            dynasm!(self.code ; .arch x64 ; cvtsd2ss xmm0, xmm0);
        }
        self.define_float(place, to);
    }

    pub(super) fn integer_to_float(&mut self, place: usize, from: Type, to: Type, a: Value) {
        let a = self.read(a, 0);
        dynasm!(self.code ; .arch x64 ; xorps xmm0, xmm0);
        match (from, to) {
            (Type::I32, Type::F64) => dynasm!(self.code ; .arch x64 ; cvtsi2sd xmm0, Rd(a)),
            (Type::I32, _) => dynasm!(self.code ; .arch x64 ; cvtsi2ss xmm0, Rd(a)),
            (_, Type::F64) => dynasm!(self.code ; .arch x64 ; cvtsi2sd xmm0, Rq(a)),
            (_, _) => dynasm!(self.code ; .arch x64 ; cvtsi2ss xmm0, Rq(a)),
        }
        self.define_float(place, to);
    }
}
