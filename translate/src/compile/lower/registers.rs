//! Where guest registers are while a region runs.
//!
//! Each that the region uses has a variable. Two that the region uses as a vector have one together, out of which what the region
//! does with only one of them is extracted.

use std::mem::offset_of;

use cranelift_codegen::ir::{self as clif, InstBuilder, types};
use cranelift_frontend::{FunctionBuilder, Variable};

use super::{Lowering, guest_memory, trusted};
use crate::cpu::{Context, MOST_REGISTERS};
use crate::engine::Region;
use crate::guest::Guest;
use crate::ir::{Op, Register, VectorOp};

/// A set of guest registers.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Registers([u64; MOST_REGISTERS / 64]);

impl Registers {
    fn insert(&mut self, register: Register) {
        self.0[usize::from(register.0) / 64] |= 1 << (register.0 % 64);
    }

    fn contains(&self, register: Register) -> bool {
        self.0[usize::from(register.0) / 64] >> (register.0 % 64) & 1 != 0
    }

    fn union(&mut self, other: &Registers) {
        for (word, more) in self.0.iter_mut().zip(other.0) {
            *word |= more;
        }
    }

    fn iter(self) -> impl Iterator<Item = Register> {
        (0..=u8::MAX).map(Register).filter(move |register| self.contains(*register))
    }
}

/// The variables of a region's registers. A vector counts as its first register.
pub(super) struct Homes {
    variables: Vec<Option<Variable>>,
    /// The first registers of vectors.
    vectors: Registers,
}

/// The first of the two registers that make a vector.
fn first(register: Register) -> Register {
    Register(register.0 & !1)
}

fn offset(register: Register) -> i32 {
    (offset_of!(Context, registers) + 8 * usize::from(register.0)) as i32
}

impl Homes {
    /// Gives variables to what the region uses, and loads them.
    pub(super) fn of(region: &Region, builder: &mut FunctionBuilder, context: clif::Value) -> Homes {
        let mut homes = Homes { variables: vec![None; MOST_REGISTERS], vectors: Registers::default() };
        let ops = || region.blocks.iter().flat_map(|block| &block.block.ops);
        for op in ops() {
            if let Op::Vector(VectorOp::Get { register } | VectorOp::Put { register, .. }) = op {
                homes.vectors.insert(*register);
            }
        }
        let mut used = homes.vectors;
        for op in ops() {
            if let Op::Get { register } | Op::Put { register, .. } = op {
                used.insert(homes.home(*register));
            }
        }
        for register in used.iter() {
            let ty = if homes.vectors.contains(register) { types::I64X2 } else { types::I64 };
            homes.variables[usize::from(register.0)] = Some(builder.declare_var(ty));
        }
        homes.load(builder, context);
        homes
    }

    /// The register that has the variable in which a register is.
    fn home(&self, register: Register) -> Register {
        if self.vectors.contains(first(register)) { first(register) } else { register }
    }

    fn variables(&self) -> impl Iterator<Item = (Register, Variable)> {
        let numbered = (0..=u8::MAX).map(Register).zip(&self.variables);
        numbered.filter_map(|(register, variable)| Some((register, (*variable)?)))
    }

    /// Loads all variables.
    pub(super) fn load(&self, builder: &mut FunctionBuilder, context: clif::Value) {
        for (register, variable) in self.variables() {
            let value = if self.vectors.contains(register) {
                builder.ins().load(types::I64X2, guest_memory(), context, offset(register))
            } else {
                builder.ins().load(types::I64, trusted(), context, offset(register))
            };
            builder.def_var(variable, value);
        }
    }

    /// For each block of a region, the registers that may have been written since the region was entered.
    pub(super) fn dirty_at_start(&self, region: &Region) -> Vec<Registers> {
        let mut dirty = vec![Registers::default(); region.blocks.len()];
        let mut changed = true;
        while changed {
            changed = false;
            for (position, translation) in region.blocks.iter().enumerate() {
                let mut at_end = dirty[position];
                for op in &translation.block.ops {
                    if let Op::Put { register, .. } | Op::Vector(VectorOp::Put { register, .. }) = op {
                        at_end.insert(self.home(*register));
                    }
                }
                for target in crate::engine::successors(&translation.block.terminator) {
                    if let Some(next) = region.position(target) {
                        let before = dirty[next];
                        dirty[next].union(&at_end);
                        changed |= dirty[next] != before;
                    }
                }
            }
        }
        dirty
    }
}

impl<G: Guest> Lowering<'_, G> {
    /// The variable in which a register is, and its half if it is a vector's.
    fn variable(&self, register: Register) -> (Variable, Option<u8>) {
        let home = self.homes.home(register);
        let variable = self.homes.variables[usize::from(home.0)].expect("what a region uses has a variable");
        (variable, self.homes.vectors.contains(home).then_some(register.0 & 1))
    }

    pub(super) fn read_register(&mut self, register: Register) -> clif::Value {
        let (variable, half) = self.variable(register);
        let value = self.builder.use_var(variable);
        match half {
            Some(half) => self.builder.ins().extractlane(value, half),
            None => value,
        }
    }

    pub(super) fn write_register(&mut self, register: Register, value: clif::Value) {
        let (variable, half) = self.variable(register);
        let value = match half {
            Some(half) => {
                let old = self.builder.use_var(variable);
                self.builder.ins().insertlane(old, value, half)
            }
            None => value,
        };
        self.builder.def_var(variable, value);
        self.dirty.insert(self.homes.home(register));
    }

    /// The vector in a register and the one behind it, as I64X2.
    pub(super) fn read_vector_register(&mut self, register: Register) -> clif::Value {
        let (variable, _) = self.variable(register);
        self.builder.use_var(variable)
    }

    /// Writes the same.
    pub(super) fn write_vector_register(&mut self, register: Register, value: clif::Value) {
        let (variable, _) = self.variable(register);
        self.builder.def_var(variable, value);
        self.dirty.insert(register);
    }

    /// Stores what may have been written since the region was entered.
    pub(super) fn store_written_registers(&mut self) {
        for register in self.dirty.iter() {
            let (variable, half) = self.variable(register);
            let value = self.builder.use_var(variable);
            let flags = if half.is_some() { guest_memory() } else { trusted() };
            self.builder.ins().store(flags, value, self.context, offset(register));
        }
    }
}
