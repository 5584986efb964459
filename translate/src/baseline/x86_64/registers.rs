//! Where values are: host registers, taken in order of need, and slots of the context for what finds none.

use std::mem::offset_of;

use dynasmrt::{DynasmApi, dynasm};

use super::super::Uses;
use super::Emitter;
use crate::cpu::{Context, SPILL_SLOTS, VECTOR_SPILL_SLOTS};
use crate::ir::Value;

/// `rbx` and `r12` to `r15`, which calls of helpers preserve, and `r8` to `r11`, which they do not.
const ALLOCATED: [u8; 9] = [3, 12, 13, 14, 15, 8, 9, 10, 11];
/// The registers among them that calls change.
pub(super) const CHANGED_BY_CALLS: [u8; 4] = [8, 9, 10, 11];
/// `xmm3` to `xmm15`, all of which calls change.
const ALLOCATED_VECTORS: std::ops::Range<u8> = 3..16;

/// Where a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Location {
    Nowhere,
    Constant(u64),
    Register(u8),
    Slot(u8),
    Vector(u8),
    VectorSlot(u8),
}

/// Where an operand can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Constant(u64),
    Register(u8),
    /// Distance from the context.
    Memory(i32),
    /// A vector register.
    Vector(u8),
}

pub(super) struct Registers {
    locations: Vec<Location>,
    /// For each host register the value in it.
    owners: [Option<Value>; 16],
    /// For each vector register.
    vector_owners: [Option<Value>; 16],
    free_slots: u64,
    free_vector_slots: u64,
    full: bool,
}

impl Default for Registers {
    fn default() -> Registers {
        Registers {
            locations: Vec::new(),
            owners: [None; 16],
            vector_owners: [None; 16],
            free_slots: u64::MAX >> (64 - SPILL_SLOTS),
            free_vector_slots: u64::MAX >> (64 - VECTOR_SPILL_SLOTS),
            full: false,
        }
    }
}

impl Registers {
    /// Forgets all, for a block of so many values.
    pub(super) fn begin(&mut self, values: usize) {
        let mut locations = std::mem::take(&mut self.locations);
        locations.clear();
        locations.resize(values, Location::Nowhere);
        *self = Registers { locations, ..Registers::default() };
    }

    /// More values live at once than there is room for.
    pub(super) fn is_full(&self) -> bool {
        self.full
    }

    pub(super) fn define_constant(&mut self, place: usize, bits: u64) {
        self.locations[place] = Location::Constant(bits);
    }

    /// Frees what a value occupies if the operation at `place` is the last to use it.
    pub(super) fn end(&mut self, value: Value, place: usize, uses: &Uses) {
        let index = usize::from(value.0);
        if usize::from(uses.last[index]) > place {
            return;
        }
        match self.locations[index] {
            Location::Register(register) => self.owners[usize::from(register)] = None,
            Location::Slot(slot) => self.free_slots |= 1 << slot,
            Location::Vector(register) => self.vector_owners[usize::from(register)] = None,
            Location::VectorSlot(slot) => self.free_vector_slots |= 1 << slot,
            Location::Constant(_) | Location::Nowhere => return,
        }
        self.locations[index] = Location::Nowhere;
    }

    fn take_slot(&mut self) -> u8 {
        take(&mut self.free_slots, &mut self.full)
    }
}

/// Takes the first free slot, if there is one.
fn take(free: &mut u64, full: &mut bool) -> u8 {
    if *free == 0 {
        *full = true;
        return 0;
    }
    let slot = free.trailing_zeros() as u8;
    *free &= *free - 1;
    slot
}

fn vector_slot_offset(slot: u8) -> i32 {
    (offset_of!(Context, spilled_vectors) + 16 * usize::from(slot)) as i32
}

fn slot_offset(slot: u8) -> i32 {
    (offset_of!(Context, spilled) + 8 * usize::from(slot)) as i32
}

impl Emitter<'_> {
    /// A register for the result of the operation at `place`. Operands may move to memory by this.
    pub(super) fn define(&mut self, place: usize) -> u8 {
        let free = ALLOCATED.into_iter().find(|register| self.registers.owners[usize::from(*register)].is_none());
        let register = free.unwrap_or_else(|| {
            // What is used last makes room.
            let last = |register: &u8| {
                let owner = self.registers.owners[usize::from(*register)];
                owner.map_or(0, |value| self.uses.last[usize::from(value.0)])
            };
            let register = ALLOCATED.into_iter().max_by_key(last).unwrap_or(ALLOCATED[0]);
            self.spill(register);
            register
        });
        let value = Value(place as u16);
        self.registers.owners[usize::from(register)] = Some(value);
        self.registers.locations[place] = Location::Register(register);
        register
    }

    /// Moves what a register holds to memory.
    pub(super) fn spill(&mut self, register: u8) {
        let Some(value) = self.registers.owners[usize::from(register)].take() else { return };
        let slot = self.registers.take_slot();
        with_context!(self.code, [mov] slot_offset(slot), [, Rq(register)]);
        self.registers.locations[usize::from(value.0)] = Location::Slot(slot);
    }

    /// Before a call: moves to memory what it would change and something behind `place` uses.
    pub(super) fn save_for_call(&mut self, place: usize) {
        for register in CHANGED_BY_CALLS {
            let owner = self.registers.owners[usize::from(register)];
            if owner.is_some_and(|value| usize::from(self.uses.last[usize::from(value.0)]) > place) {
                self.spill(register);
            }
        }
        for register in ALLOCATED_VECTORS {
            let owner = self.registers.vector_owners[usize::from(register)];
            if owner.is_some_and(|value| usize::from(self.uses.last[usize::from(value.0)]) > place) {
                self.spill_vector(register);
            }
        }
    }

    /// As [`Emitter::define`], for a vector.
    pub(super) fn define_vector(&mut self, place: usize) -> u8 {
        let owners = self.registers.vector_owners;
        let free = ALLOCATED_VECTORS.into_iter().find(|register| owners[usize::from(*register)].is_none());
        let register = free.unwrap_or_else(|| {
            let last =
                |register: &u8| owners[usize::from(*register)].map_or(0, |value| self.uses.last[usize::from(value.0)]);
            let register = ALLOCATED_VECTORS.max_by_key(last).unwrap_or(ALLOCATED_VECTORS.start);
            self.spill_vector(register);
            register
        });
        self.registers.vector_owners[usize::from(register)] = Some(Value(place as u16));
        self.registers.locations[place] = Location::Vector(register);
        register
    }

    fn spill_vector(&mut self, register: u8) {
        let Some(value) = self.registers.vector_owners[usize::from(register)].take() else { return };
        let slot = take(&mut self.registers.free_vector_slots, &mut self.registers.full);
        with_context!(self.code, [movups] vector_slot_offset(slot), [, Rx(register)]);
        self.registers.locations[usize::from(value.0)] = Location::VectorSlot(slot);
    }

    /// The register that holds a vector: its own, or else `scratch`, into which it is loaded.
    pub(super) fn read_vector(&mut self, value: Value, scratch: u8) -> u8 {
        match self.source(value) {
            Source::Vector(register) => register,
            Source::Memory(offset) => {
                with_context!(self.code, [movups Rx(scratch),] offset, []);
                scratch
            }
            // Not reached in a well-formed block.
            Source::Constant(_) | Source::Register(_) => scratch,
        }
    }

    /// As [`Emitter::copy`], of a vector.
    pub(super) fn copy_vector(&mut self, place: usize, value: Value) -> u8 {
        let index = usize::from(value.0);
        if let Location::Vector(register) = self.registers.locations[index]
            && usize::from(self.uses.last[index]) <= place
        {
            self.registers.locations[index] = Location::Nowhere;
            self.registers.vector_owners[usize::from(register)] = Some(Value(place as u16));
            self.registers.locations[place] = Location::Vector(register);
            return register;
        }
        let to = self.define_vector(place);
        let from = self.read_vector(value, to);
        if from != to {
            dynasm!(self.code ; .arch x64 ; movaps Rx(to), Rx(from));
        }
        to
    }

    /// Where a value can be read.
    pub(super) fn source(&self, value: Value) -> Source {
        match self.registers.locations[usize::from(value.0)] {
            Location::Constant(bits) => Source::Constant(bits),
            Location::Register(register) => Source::Register(register),
            Location::Slot(slot) => Source::Memory(slot_offset(slot)),
            Location::Vector(register) => Source::Vector(register),
            Location::VectorSlot(slot) => Source::Memory(vector_slot_offset(slot)),
            // Not reached in a well-formed block.
            Location::Nowhere => Source::Constant(0),
        }
    }

    /// Brings something into a register.
    pub(super) fn load_source(&mut self, to: u8, source: Source) {
        match source {
            Source::Constant(0) => dynasm!(self.code ; .arch x64 ; xor Rd(to), Rd(to)),
            Source::Constant(bits) => {
                if let Ok(bits) = u32::try_from(bits) {
                    dynasm!(self.code ; .arch x64 ; mov Rd(to), bits as i32);
                } else if let Ok(bits) = i32::try_from(bits as i64) {
                    dynasm!(self.code ; .arch x64 ; mov Rq(to), DWORD bits);
                } else {
                    dynasm!(self.code ; .arch x64 ; mov Rq(to), QWORD bits as i64);
                }
            }
            Source::Register(from) if from == to => {}
            Source::Register(from) => dynasm!(self.code ; .arch x64 ; mov Rq(to), Rq(from)),
            Source::Memory(offset) => with_context!(self.code, [mov Rq(to),] offset, []),
            Source::Vector(from) => dynasm!(self.code ; .arch x64 ; movq Rq(to), Rx(from)),
        }
    }

    /// Brings a value into a register.
    pub(super) fn load_value(&mut self, to: u8, value: Value) {
        let source = self.source(value);
        self.load_source(to, source);
    }

    /// The register that holds a value: its own, or else `scratch`, into which it is loaded.
    pub(super) fn read(&mut self, value: Value, scratch: u8) -> u8 {
        match self.source(value) {
            Source::Register(register) => register,
            source => {
                self.load_source(scratch, source);
                scratch
            }
        }
    }

    /// A register for the result of the operation at `place` that holds `value` already.
    pub(super) fn copy(&mut self, place: usize, value: Value) -> u8 {
        let index = usize::from(value.0);
        if let Location::Register(register) = self.registers.locations[index]
            && usize::from(self.uses.last[index]) <= place
        {
            self.registers.locations[index] = Location::Nowhere;
            self.registers.owners[usize::from(register)] = Some(Value(place as u16));
            self.registers.locations[place] = Location::Register(register);
            return register;
        }
        let to = self.define(place);
        self.load_value(to, value);
        to
    }

    /// Stores a value to the context.
    pub(super) fn store_context(&mut self, offset: i32, value: Value) {
        match self.source(value) {
            Source::Register(from) => with_context!(self.code, [mov] offset, [, Rq(from)]),
            Source::Constant(bits) if i32::try_from(bits as i64).is_ok() => {
                with_context!(self.code, [mov QWORD] offset, [, bits as i32]);
            }
            source => {
                self.load_source(0, source);
                with_context!(self.code, [mov] offset, [, rax]);
            }
        }
    }
}
