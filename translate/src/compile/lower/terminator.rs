//! The ends of blocks: jumps inside the region, through cells, through the jump cache, and back to the dispatcher.

use std::mem::offset_of;

use cranelift_codegen::ir::{self as clif, InstBuilder, types};

use super::super::{Function, jump};
use super::{Lowering, trusted};
use crate::cpu::Context;
use crate::engine::Key;
use crate::guest::Guest;
use crate::ir::Terminator;

impl<G: Guest> Lowering<'_, G> {
    pub(super) fn lower_terminator(&mut self, position: usize) {
        let count = self.block.instructions.len();
        let key = self.region.blocks[position].key;
        match self.block.terminator {
            Terminator::Jump { target } => self.go_to(key, count, target),
            Terminator::Branch { condition, taken, not_taken } => {
                let condition = self.value(condition);
                let (yes, no) = (self.builder.create_block(), self.builder.create_block());
                self.builder.ins().brif(condition, yes, &[], no, &[]);
                self.builder.switch_to_block(yes);
                self.go_to(key, count, taken);
                self.builder.switch_to_block(no);
                self.go_to(key, count, not_taken);
            }
            Terminator::JumpIndirect { target, .. } => {
                let target = self.value(target);
                self.write_back(count);
                let source = self.code_address(self.block.instruction_distance(self.block.ops.len()) as i64);
                self.go_through_jump_cache(key.flags, target, Some(source));
            }
            Terminator::Leave { target } => {
                let target = self.code_address(self.block.distance(target));
                self.leave(count, target);
            }
            Terminator::LeaveIndirect { target } => {
                let target = self.value(target);
                let source = self.code_address(self.block.instruction_distance(self.block.ops.len()) as i64);
                self.store_context(source, offset_of!(Context, jump_source));
                self.store_context(target, offset_of!(Context, jump_target));
                self.leave(count, target);
            }
            Terminator::Raise { exception, information } => {
                let information = self.value(information);
                self.set_exception(exception, information);
                self.exit_before(self.block.ops.len());
            }
        }
    }

    pub(super) fn leave(&mut self, count: usize, target: clif::Value) {
        self.write_back(count);
        self.store_context(target, offset_of!(Context, pc));
        let function = self.function(Function::GoAnew);
        self.builder.ins().return_call_indirect(self.signatures.region, function, &[self.context]);
    }

    /// Goes on at a known address: inside the region, through the cell of code in the same page, or through the jump cache.
    pub(super) fn go_to(&mut self, key: Key, count: usize, target: u64) {
        let distance = self.block.distance(target);
        let near = key.in_same_page(distance);
        if let Some(next) = near.and_then(|key| self.region.position(&key)) {
            let retired = self.builder.use_var(self.retired);
            let retired = self.builder.ins().iadd_imm_s(retired, count as i64);
            self.builder.def_var(self.retired, retired);
            self.builder.ins().jump(self.blocks[next], &[]);
            return;
        }
        self.write_back(count);
        match near {
            Some(key) => {
                self.store_pc(distance);
                let cell = self.cell(&key);
                self.enter_cell(cell);
            }
            None => {
                let pc = self.code_address(distance);
                self.go_through_jump_cache(key.flags, pc, None);
            }
        }
    }

    /// Tail-calls the code of a cell; the pc is stored already.
    pub(super) fn enter_cell(&mut self, cell: clif::Value) {
        let code = self.builder.ins().load(types::I64, trusted(), cell, 0);
        self.builder.ins().return_call_indirect(self.signatures.region, code, &[self.context]);
    }

    /// Goes on at an address that the jump cache may know, to which the instruction at `source` jumps if the address is a computed one.
    pub(super) fn go_through_jump_cache(&mut self, flags: u32, pc: clif::Value, source: Option<clif::Value>) {
        self.store_context(pc, offset_of!(Context, pc));
        let flags = self.constant(flags.into());
        let place = jump::Place::of(&mut self.builder, self.context, pc);
        let entry = place.first(&mut self.builder);
        let other = jump::differs(&mut self.builder, entry, pc, flags);
        let (found, missed) = (self.builder.create_block(), self.cold_block());
        self.builder.ins().brif(other, missed, &[], found, &[]);
        self.builder.switch_to_block(missed);
        let function = self.function(if source.is_some() { Function::GoIndirect } else { Function::GoDirect });
        let arguments = [self.context, pc, flags, source.unwrap_or(pc)];
        self.builder.ins().return_call_indirect(self.signatures.jump, function, &arguments);
        self.builder.switch_to_block(found);
        let by_cell = self.runtime.baseline.is_none();
        jump::enter(&mut self.builder, self.signatures.region, self.context, entry, by_cell);
    }
}
