//! Where a region is left within a block: operations that do not complete, and the look for attention.
//!
//! What was written since the region was entered is stored then, and most of a region's code is such stores. Therefore the exits of a few operations
//! in succession ([`OPS_OF_AN_EXIT`]) have an end in common: each stores by itself what these operations write, and the end stores the rest,
//! which is the same for all of them.

use std::mem::offset_of;

use cranelift_codegen::ir::{self as clif, BlockArg, InstBuilder, types};

use super::Lowering;
use super::registers::Registers;
use crate::cpu::Context;
use crate::guest::Guest;

/// How many operations share the end of their exits.
const OPS_OF_AN_EXIT: usize = 32;

/// The end of the exits of some operations.
pub(super) struct SharedExit {
    /// It has two parameters: how many instructions of the block were completed, and how far from the head the one is that was not, in bytes.
    block: clif::Block,
    /// What it stores.
    registers: Registers,
}

/// The exits of a block.
#[derive(Default)]
pub(super) struct Exits {
    /// By groups of operations, what they write.
    written: Vec<Registers>,
    shared: Vec<Option<SharedExit>>,
}

impl<G: Guest> Lowering<'_, G> {
    /// Begins the exits of the block in progress.
    pub(super) fn begin_exits(&mut self) {
        let groups = self.block.ops.chunks(OPS_OF_AN_EXIT);
        let mut written: Vec<Registers> = groups.map(|ops| self.homes.written_by::<G>(ops)).collect();
        // The terminator may be behind the last whole group.
        written.push(Registers::default());
        let shared = written.iter().map(|_| None).collect();
        self.exits = Exits { written, shared };
    }

    /// Returns to the dispatcher before the block.
    pub(super) fn exit_before_block(&mut self) {
        self.exit(0, 0, 0);
    }

    /// Returns to the dispatcher before the instruction of the operation at `place`.
    pub(super) fn exit_before(&mut self, place: usize) {
        let (completed, distance) = (self.block.instruction_index(place), self.block.instruction_distance(place));
        self.exit(place / OPS_OF_AN_EXIT, completed, distance);
    }

    /// Returns before the instruction with a number and a distance from the block's start, among a group of operations.
    fn exit(&mut self, group: usize, completed: usize, distance: u64) {
        let (own, common) = self.dirty.split(&self.exits.written[group]);
        self.store_registers(own);
        let completed = self.constant(completed as u64);
        let distance = self.constant(self.from_head.wrapping_add(distance as i64) as u64);
        let end = match &self.exits.shared[group] {
            Some(shared) => shared.block,
            None => {
                let block = self.cold_block();
                self.builder.append_block_param(block, types::I64);
                self.builder.append_block_param(block, types::I64);
                self.exits.shared[group] = Some(SharedExit { block, registers: common });
                block
            }
        };
        self.builder.ins().jump(end, &[BlockArg::Value(completed), BlockArg::Value(distance)]);
    }

    /// Fills the ends of the block's exits.
    pub(super) fn end_exits(&mut self) {
        for SharedExit { block, registers } in std::mem::take(&mut self.exits.shared).into_iter().flatten() {
            self.builder.switch_to_block(block);
            let [completed, distance] = *self.builder.block_params(block) else { continue };
            self.store_registers(registers);
            self.count_retired(completed);
            let pc = self.head_address();
            let pc = self.builder.ins().iadd(pc, distance);
            self.store_context(pc, offset_of!(Context, pc));
            self.builder.ins().return_(&[]);
        }
    }
}
