//! FADD, FSUB, FMUL, FDIV and their kin, FSQRT, FABS, FCHS.

use super::{INDEFINITE, X87};
use crate::x86_64::softfloat::{Environment, Format, Number};

/// Arithmetic of two operands: the destination, then the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arithmetic {
    /// FADD, FADDP, FIADD.
    Add,
    /// FMUL, FMULP, FIMUL.
    Mul,
    /// FSUB, FSUBP, FISUB: destination - source.
    Sub,
    /// FSUBR, FSUBRP, FISUBR: source - destination.
    SubReversed,
    /// FDIV, FDIVP, FIDIV: destination / source.
    Div,
    /// FDIVR, FDIVRP, FIDIVR: source / destination.
    DivReversed,
}

impl Arithmetic {
    fn apply(self, environment: &mut Environment, a: Number, b: Number) -> Number {
        match self {
            Arithmetic::Add => environment.add(a, b),
            Arithmetic::Mul => environment.mul(a, b),
            Arithmetic::Sub => environment.sub(a, b),
            Arithmetic::SubReversed => environment.sub(b, a),
            Arithmetic::Div => environment.div(a, b),
            Arithmetic::DivReversed => environment.div(b, a),
        }
    }
}

impl X87 {
    /// ST(`destination`) = ST(`destination`) op ST(`source`); then pops if asked.
    pub fn arithmetic(&mut self, op: Arithmetic, destination: u8, source: u8, pop: bool) {
        if let Some(masked) = self.underflow(&[destination, source]) {
            if masked {
                self.set(destination, INDEFINITE);
                self.pop_times(pop.into());
            }
            return;
        }
        let source = self.st(source).unpack();
        if self.arithmetic_with(op, destination, source) {
            self.pop_times(pop.into());
        }
    }

    /// ST(0) = ST(0) op the binary32 number with these bits.
    pub fn arithmetic_f32(&mut self, op: Arithmetic, source: u32) {
        self.arithmetic_memory(op, crate::x86_64::softfloat::unpack(Format::SINGLE, source.into()));
    }

    /// ST(0) = ST(0) op the binary64 number with these bits.
    pub fn arithmetic_f64(&mut self, op: Arithmetic, source: u64) {
        self.arithmetic_memory(op, crate::x86_64::softfloat::unpack(Format::DOUBLE, source));
    }

    /// ST(0) = ST(0) op an integer.
    pub fn arithmetic_integer(&mut self, op: Arithmetic, source: i32) {
        self.arithmetic_memory(op, Number::finite(source < 0, 63, source.unsigned_abs().into()));
    }

    fn arithmetic_memory(&mut self, op: Arithmetic, source: Number) {
        match self.underflow(&[0]) {
            Some(true) => self.set(0, INDEFINITE),
            Some(false) => {}
            None => {
                self.arithmetic_with(op, 0, source);
            }
        }
    }

    fn arithmetic_with(&mut self, op: Arithmetic, destination: u8, source: Number) -> bool {
        let mut environment = self.environment();
        let result = op.apply(&mut environment, self.st(destination).unpack(), source);
        self.finish(environment, destination, result)
    }

    /// FSQRT.
    pub fn fsqrt(&mut self) {
        self.unary(|environment, a| environment.square_root(a));
    }

    /// Replaces ST(0) by a function of it, in the precision of the control word.
    pub(super) fn unary(&mut self, function: impl FnOnce(&mut Environment, Number) -> Number) {
        match self.underflow(&[0]) {
            Some(true) => self.set(0, INDEFINITE),
            Some(false) => {}
            None => {
                let mut environment = self.environment();
                let result = function(&mut environment, self.st(0).unpack());
                self.finish(environment, 0, result);
            }
        }
    }

    /// FCHS.
    pub fn fchs(&mut self) {
        self.change_sign(|sign_exponent| sign_exponent ^ 0x8000);
    }

    /// FABS.
    pub fn fabs(&mut self) {
        self.change_sign(|sign_exponent| sign_exponent & 0x7fff);
    }

    fn change_sign(&mut self, function: impl FnOnce(u16) -> u16) {
        match self.underflow(&[0]) {
            Some(true) => self.set(0, INDEFINITE),
            Some(false) => {}
            None => {
                let mut value = self.st(0);
                value.sign_exponent = function(value.sign_exponent);
                self.set(0, value);
            }
        }
    }
}
