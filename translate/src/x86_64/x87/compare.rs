//! Comparisons.

use super::X87;
use super::status::*;
use crate::x86_64::softfloat::{Class, ComparisonFlags, Format, Number, Ordering, unpack};

impl X87 {
    /// FCOM, FCOMP, FCOMPP (or, if `quiet`, FUCOM, FUCOMP, FUCOMPP) with ST(`index`), popping `pops` times. As the others, it does
    /// not pop after an unmasked exception.
    pub fn fcom(&mut self, index: u8, quiet: bool, pops: u8) {
        let compared = self.compare_registers(index, quiet);
        self.set_comparison(compared, pops);
    }

    /// FCOM and FCOMP with a binary32 operand.
    pub fn fcom_f32(&mut self, bits: u32, pop: bool) {
        self.compare_memory(unpack(Format::SINGLE, bits.into()), pop);
    }

    /// FCOM and FCOMP with a binary64 operand.
    pub fn fcom_f64(&mut self, bits: u64, pop: bool) {
        self.compare_memory(unpack(Format::DOUBLE, bits), pop);
    }

    /// FICOM and FICOMP.
    pub fn ficom(&mut self, value: i32, pop: bool) {
        self.compare_memory(Number::finite(value < 0, 63, value.unsigned_abs().into()), pop);
    }

    /// FTST.
    pub fn ftst(&mut self) {
        self.compare_memory(Number::zero(false), false);
    }

    /// FCOMI and FCOMIP (or, if `quiet`, FUCOMI and FUCOMIP) with ST(`index`): the flags to set.
    pub fn fcomi(&mut self, index: u8, quiet: bool, pop: bool) -> ComparisonFlags {
        let (before, empty) = (self.status & C1, self.is_empty(0) || self.is_empty(index));
        let (ordering, done) = self.compare_registers(index, quiet);
        if !empty {
            // On AMD's processors they leave it alone.
            self.set_conditions(C1, before != 0);
        }
        self.pop_times(u8::from(done && pop));
        ordering.into()
    }

    /// How two registers compare, and whether no unmasked exception stops the instruction.
    fn compare_registers(&mut self, index: u8, quiet: bool) -> (Ordering, bool) {
        match self.underflow(&[0, index]) {
            Some(masked) => (Ordering::Unordered, masked),
            None => self.compare_with(self.st(index).unpack(), quiet),
        }
    }

    fn compare_with(&mut self, other: Number, quiet: bool) -> (Ordering, bool) {
        let mut environment = self.extended();
        let ordering = environment.compare(self.st(0).unpack(), other, !quiet);
        (ordering, self.conclude(&mut environment))
    }

    fn compare_memory(&mut self, other: Number, pop: bool) {
        let compared = match self.underflow(&[0]) {
            Some(masked) => (Ordering::Unordered, masked),
            None => self.compare_with(other, false),
        };
        self.set_comparison(compared, pop.into());
    }

    fn set_comparison(&mut self, (ordering, done): (Ordering, bool), pops: u8) {
        self.set_conditions(C0 | C2 | C3, false);
        let conditions = match ordering {
            Ordering::Greater => 0,
            Ordering::Less => C0,
            Ordering::Equal => C3,
            Ordering::Unordered => C0 | C2 | C3,
        };
        self.set_conditions(conditions, true);
        if done {
            self.pop_times(pops);
        }
    }

    /// FXAM.
    pub fn fxam(&mut self) {
        let number = self.st(0).unpack();
        let conditions = if self.is_empty(0) {
            C3 | C0
        } else {
            match number.class {
                Class::Unsupported => 0,
                Class::Quiet | Class::Signalling => C0,
                Class::Finite if number.denormal => C3 | C2,
                Class::Finite => C2,
                Class::Infinity => C2 | C0,
                Class::Zero => C3,
            }
        };
        self.set_conditions(C0 | C1 | C2 | C3, false);
        self.set_conditions(conditions, true);
        self.set_conditions(C1, number.negative);
    }
}
