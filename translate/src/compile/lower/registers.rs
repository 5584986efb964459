//! Where guest registers are while a region runs.
//!
//! Each that the region uses has a variable. Two that the region uses as a vector have one together, out of which what the region
//! does with only one of them is extracted. One that is mostly used as a floating-point number is such a number.

use std::mem::offset_of;

use cranelift_codegen::ir::{self as clif, InstBuilder, MemFlagsData, types};
use cranelift_frontend::{FunctionBuilder, Variable};

use super::{Lowering, guest_memory, trusted};
use crate::cpu::{Context, MOST_REGISTERS};
use crate::engine::Region;
use crate::guest::{Guest, arguments_of, helper_of};
use crate::ir::{Block, Op, Register, Type, Value, VectorOp};

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

    /// Those that are in `part`, and the others.
    pub(super) fn split(&self, part: &Registers) -> (Registers, Registers) {
        let (mut within, mut without) = (*self, *self);
        for ((within, without), part) in within.0.iter_mut().zip(&mut without.0).zip(part.0) {
            *within &= part;
            *without &= !part;
        }
        (within, without)
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
    /// Registers that are F64.
    floats: Registers,
}

/// The first of the two registers that make a vector.
fn first(register: Register) -> Register {
    Register(register.0 & !1)
}

/// Counts for each register how often a block uses it as a floating-point number, less how often as an integer.
fn count_float_uses(block: &Block, balance: &mut [i32; MOST_REGISTERS]) {
    for op in &block.ops {
        match *op {
            Op::Bitcast { from: Type::I64, to: Type::F64, a } => {
                if let Op::Get { register } = block.ops[usize::from(a.0)] {
                    // The reading itself was counted as that of an integer.
                    balance[usize::from(register.0)] += 2;
                }
            }
            Op::Get { register } => balance[usize::from(register.0)] -= 1,
            Op::Put { register, value } => {
                let is_float = matches!(block.ops[usize::from(value.0)], Op::Bitcast { from: Type::F64, .. });
                balance[usize::from(register.0)] += if is_float { 1 } else { -1 };
            }
            _ => {}
        }
    }
}

fn offset(register: Register) -> i32 {
    (offset_of!(Context, registers) + 8 * usize::from(register.0)) as i32
}

impl Homes {
    /// Gives variables to what the region uses, and loads them.
    pub(super) fn of(region: &Region, builder: &mut FunctionBuilder, context: clif::Value) -> Homes {
        let (vectors, floats) = (Registers::default(), Registers::default());
        let mut homes = Homes { variables: vec![None; MOST_REGISTERS], vectors, floats };
        let ops = || region.code.iter().flat_map(|block| &block.ops);
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
        let mut balance = [0; MOST_REGISTERS];
        for block in &region.code {
            count_float_uses(block, &mut balance);
        }
        for register in used.iter() {
            if balance[usize::from(register.0)] > 0 && !homes.vectors.contains(register) {
                homes.floats.insert(register);
            }
            homes.variables[usize::from(register.0)] = Some(builder.declare_var(homes.ty(register)));
        }
        homes.load(builder, context);
        homes
    }

    /// The register that has the variable in which a register is.
    fn home(&self, register: Register) -> Register {
        if self.vectors.contains(first(register)) { first(register) } else { register }
    }

    /// The type of the variable of a register that has one.
    fn ty(&self, register: Register) -> clif::Type {
        if self.vectors.contains(register) {
            types::I64X2
        } else if self.floats.contains(register) {
            types::F64
        } else {
            types::I64
        }
    }

    /// For each value of a block, whether it is used, and only as a floating-point number.
    pub(super) fn float_uses<G: Guest>(&self, block: &Block) -> Vec<bool> {
        let (mut floats, mut others) = (vec![false; block.ops.len()], vec![false; block.ops.len()]);
        for op in &block.ops {
            let as_float = match *op {
                Op::Bitcast { from: Type::I64, to: Type::F64, .. } => true,
                Op::Put { register, .. } => self.floats.contains(register),
                _ => false,
            };
            let uses = if as_float { &mut floats } else { &mut others };
            op.for_each_operand(arguments_of::<G>(op), |value| uses[usize::from(value.0)] = true);
        }
        block.terminator.for_each_operand(|value| others[usize::from(value.0)] = true);
        floats.iter().zip(others).map(|(float, other)| *float && !other).collect()
    }

    /// How the register is accessed in the context: vectors are not aligned to their size.
    fn flags(&self, register: Register) -> MemFlagsData {
        if self.vectors.contains(register) { guest_memory() } else { trusted() }
    }

    fn variables(&self) -> impl Iterator<Item = (Register, Variable)> {
        let numbered = (0..=u8::MAX).map(Register).zip(&self.variables);
        numbered.filter_map(|(register, variable)| Some((register, (*variable)?)))
    }

    /// Loads all variables.
    pub(super) fn load(&self, builder: &mut FunctionBuilder, context: clif::Value) {
        for (register, variable) in self.variables() {
            let value = builder.ins().load(self.ty(register), self.flags(register), context, offset(register));
            builder.def_var(variable, value);
        }
    }

    /// What operations may write.
    pub(super) fn written_by<G: Guest>(&self, ops: &[Op]) -> Registers {
        let mut written = Registers::default();
        for op in ops {
            match *op {
                Op::Put { register, .. } | Op::Vector(VectorOp::Put { register, .. }) => {
                    written.insert(self.home(register));
                }
                _ if helper_of::<G>(op).is_some_and(|helper| helper.effects.writes_registers) => {
                    self.variables().for_each(|(register, _)| written.insert(register));
                }
                _ => {}
            }
        }
        written
    }

    /// For each block of a region, the registers that may have been written since the region was entered.
    pub(super) fn dirty_at_start(&self, region: &Region) -> Vec<Registers> {
        let mut dirty = vec![Registers::default(); region.blocks.len()];
        let mut changed = true;
        while changed {
            changed = false;
            for (position, translation) in region.blocks.iter().enumerate() {
                let mut at_end = dirty[position];
                for op in &region.code[position].ops {
                    if let Op::Put { register, .. } | Op::Vector(VectorOp::Put { register, .. }) = op {
                        at_end.insert(self.home(*register));
                    }
                }
                for next in translation.successors() {
                    if let Some(next) = region.position(&next) {
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

    /// Reads a register by the operation at `place`.
    pub(super) fn read_register(&mut self, place: usize, register: Register) -> clif::Value {
        let (variable, half) = self.variable(register);
        let value = self.builder.use_var(variable);
        match half {
            Some(half) => self.builder.ins().extractlane(value, half),
            None if self.homes.floats.contains(register) => {
                self.floats[place] = Some(value);
                self.builder.ins().bitcast(types::I64, MemFlagsData::new(), value)
            }
            None => value,
        }
    }

    pub(super) fn write_register(&mut self, register: Register, value: Value) {
        let (variable, half) = self.variable(register);
        let new = self.value(value);
        let value = match half {
            Some(half) => {
                let old = self.builder.use_var(variable);
                self.builder.ins().insertlane(old, new, half)
            }
            None if self.homes.floats.contains(register) => self.as_float(value),
            None => new,
        };
        self.builder.def_var(variable, value);
        self.dirty.insert(self.homes.home(register));
    }

    /// The floating-point number with the bits of an I64.
    pub(super) fn as_float(&mut self, bits: Value) -> clif::Value {
        match self.floats[usize::from(bits.0)] {
            Some(float) => float,
            None => {
                let bits = self.value(bits);
                self.builder.ins().bitcast(types::F64, MemFlagsData::new(), bits)
            }
        }
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
        self.store_registers(self.dirty);
    }

    pub(super) fn store_registers(&mut self, registers: Registers) {
        for register in registers.iter() {
            let (variable, _) = self.variable(register);
            let value = self.builder.use_var(variable);
            let flags = self.homes.flags(register);
            self.builder.ins().store(flags, value, self.context, offset(register));
        }
    }
}
