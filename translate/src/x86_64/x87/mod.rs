//! The x87 floating-point unit (SDM volume 1, chapter 8).
//!
//! [`X87`] is its state; each instruction is a method. Methods know neither memory nor the processor: operands from memory
//! come as bits, and what is to be stored is returned. An instruction that pops after storing, whose store may fault, is run
//! on a copy of the state, which replaces the state when the store is done.
//!
//! An exception that is not masked shows in the status word ([`X87::has_pending_exception`]): the processor raises #MF at the
//! next waiting instruction. Until then its instruction has done what the SDM says, which often is nothing: a store then
//! gives `None`.

mod arithmetic;
mod compare;
mod execute;
mod image;
mod load_store;
mod mmx;
mod scale;
#[cfg(test)]
mod tests;
mod transcendental;
mod wide;

pub use arithmetic::Arithmetic;
pub use execute::{Form, Outcome, form, is_control, waits};
pub use image::{EnvironmentFormat, FXSAVE_BYTES};
pub use load_store::Constant;

use super::softfloat::exception::{BEFORE, INVALID};
pub use super::softfloat::{ComparisonFlags, Float80};
use super::softfloat::{Environment, Format, Number, exception};

/// Bits of the status word.
pub mod status {
    /// The stack overflowed (with C1 set) or underflowed.
    pub const STACK_FAULT: u16 = 1 << 6;
    /// An exception is pending that is not masked.
    pub const ERROR_SUMMARY: u16 = 1 << 7;
    /// Condition code 0.
    pub const C0: u16 = 1 << 8;
    /// Condition code 1: the last result was rounded up, or the stack overflowed.
    pub const C1: u16 = 1 << 9;
    /// Condition code 2.
    pub const C2: u16 = 1 << 10;
    /// Condition code 3.
    pub const C3: u16 = 1 << 14;
    /// As [`ERROR_SUMMARY`].
    pub const BUSY: u16 = 1 << 15;
}

use status::*;

/// State of the unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct X87 {
    /// Control word.
    pub control: u16,
    /// Status word; the number of the physical register at the top of the stack is in bits 13:11.
    pub status: u16,
    /// Bit n is set if physical register n is not empty (the short form of the tag word).
    pub tags: u8,
    /// Opcode of the last instruction that was not a control instruction: 11 bits.
    pub opcode: u16,
    /// Address of that instruction.
    pub instruction_pointer: u64,
    /// Its code segment's selector.
    pub instruction_segment: u16,
    /// Address of its memory operand.
    pub data_pointer: u64,
    /// The operand's segment's selector.
    pub data_segment: u16,
    /// The physical registers.
    pub registers: [Float80; 8],
}

impl Default for X87 {
    /// As after FNINIT.
    fn default() -> X87 {
        X87 {
            control: 0x37f,
            status: 0,
            tags: 0,
            opcode: 0,
            instruction_pointer: 0,
            instruction_segment: 0,
            data_pointer: 0,
            data_segment: 0,
            registers: [Float80::default(); 8],
        }
    }
}

/// The NaN of invalid operations.
const INDEFINITE: Float80 = Float80 { significand: 0xc000_0000_0000_0000, sign_exponent: 0xffff };

impl X87 {
    /// FNINIT. The registers keep their values.
    pub fn fninit(&mut self) {
        *self = X87 { registers: self.registers, ..X87::default() };
    }

    /// FNCLEX.
    pub fn fnclex(&mut self) {
        self.status &= !(exception::ALL | STACK_FAULT | ERROR_SUMMARY | BUSY);
    }

    /// FLDCW.
    pub fn fldcw(&mut self, control: u16) {
        // Bit 6 is always set; bits 15:13 and 7 are reserved.
        self.control = control & 0x1f3f | 0x40;
        self.summarise();
    }

    /// FNSTCW.
    pub fn fnstcw(&self) -> u16 {
        self.control
    }

    /// FNSTSW.
    pub fn fnstsw(&self) -> u16 {
        self.status
    }

    /// FFREE ST(`index`).
    pub fn ffree(&mut self, index: u8) {
        self.tags &= !(1 << self.physical(index));
    }

    /// FINCSTP.
    pub fn fincstp(&mut self) {
        self.set_conditions(C1, false);
        self.set_top(self.top() + 1);
    }

    /// FDECSTP.
    pub fn fdecstp(&mut self) {
        self.set_conditions(C1, false);
        self.set_top(self.top() + 7);
    }

    /// True if waiting instructions raise #MF (or, with CR0.NE clear, signal the external interrupt).
    pub fn has_pending_exception(&self) -> bool {
        self.status & ERROR_SUMMARY != 0
    }

    /// Notes where the last instruction and its operand are. The operand is `None` for an instruction that has none in memory.
    pub fn note_instruction(&mut self, opcode: u16, instruction: (u16, u64), operand: Option<(u16, u64)>) {
        self.opcode = opcode & 0x7ff;
        (self.instruction_segment, self.instruction_pointer) = instruction;
        if let Some(operand) = operand {
            (self.data_segment, self.data_pointer) = operand;
        }
    }

    /// Number of the physical register at the top of the stack.
    pub fn top(&self) -> u8 {
        (self.status >> 11 & 7) as u8
    }

    /// Sets [`X87::top`], modulo 8.
    pub fn set_top(&mut self, top: u8) {
        self.status = self.status & !0x3800 | u16::from(top & 7) << 11;
    }

    /// The register ST(`index`), whether empty or not.
    pub fn st(&self, index: u8) -> Float80 {
        self.registers[self.physical(index)]
    }

    /// True if ST(`index`) is empty.
    pub fn is_empty(&self, index: u8) -> bool {
        self.tags >> self.physical(index) & 1 == 0
    }

    fn physical(&self, index: u8) -> usize {
        usize::from((self.top() + (index & 7)) & 7)
    }

    fn set(&mut self, index: u8, value: Float80) {
        let physical = self.physical(index);
        self.registers[physical] = value;
        self.tags |= 1 << physical;
    }

    fn pop(&mut self) {
        self.ffree(0);
        self.set_top(self.top() + 1);
    }

    fn pop_times(&mut self, count: u8) {
        (0..count).for_each(|_| self.pop());
    }

    /// Pushes a value, or raises stack overflow.
    fn push(&mut self, value: Float80) {
        self.set_conditions(C1, false);
        let overflows = !self.is_empty(7);
        if !overflows || self.stack_fault(true) {
            self.set_top(self.top() + 7);
            self.set(0, if overflows { INDEFINITE } else { value });
        }
    }

    /// Sets or clears condition codes.
    fn set_conditions(&mut self, conditions: u16, value: bool) {
        self.status = if value { self.status | conditions } else { self.status & !conditions };
    }

    /// Sets or clears the summary of unmasked exceptions.
    fn summarise(&mut self) {
        let pending = self.status & !self.control & exception::ALL != 0;
        self.set_conditions(ERROR_SUMMARY | BUSY, pending);
    }

    /// Raises a stack fault; true if that is masked.
    fn stack_fault(&mut self, overflow: bool) -> bool {
        self.set_conditions(C1, overflow);
        self.status |= INVALID | STACK_FAULT;
        self.summarise();
        self.control & INVALID != 0
    }

    /// Clears C1. If any of the registers is empty, raises stack underflow; then says whether that is masked.
    fn underflow(&mut self, indices: &[u8]) -> Option<bool> {
        self.set_conditions(C1, false);
        let empty = indices.iter().any(|&index| self.is_empty(index));
        empty.then(|| self.stack_fault(false))
    }

    /// Environment for results in the precision that the control word sets.
    fn environment(&self) -> Environment {
        Environment::x87(self.control)
    }

    /// Environment for results in full precision.
    fn extended(&self) -> Environment {
        Environment { format: Format::EXTENDED, ..self.environment() }
    }

    /// Records what an operation raised. True unless an unmasked exception prevented the operation.
    fn conclude(&mut self, environment: &mut Environment) -> bool {
        environment.settle();
        let inexact = environment.raised & exception::INEXACT != 0;
        self.set_conditions(C1, inexact && environment.rounded_up);
        self.status |= environment.raised;
        self.summarise();
        environment.unmasked() & BEFORE == 0
    }

    /// Writes the result of an operation to ST(`index`), unless an unmasked exception prevented it; says whether.
    fn finish(&mut self, mut environment: Environment, index: u8, result: Number) -> bool {
        let done = self.conclude(&mut environment);
        if done {
            self.set(index, Float80::pack(result));
        }
        done
    }
}
