//! The beginning and the end of a block, helpers and exceptions.

use std::mem::offset_of;

use dynasmrt::{DynasmApi, DynasmLabelApi, dynasm};

use super::encoding::{CONTEXT_BIAS, CONTEXT_START, add_to_context};
use super::{Cold, Emitted, Emitter, RCX, RSI, Terminator};
use crate::compile::{Function, Relocation, Target};
use crate::cpu::{Context, Status};
use crate::engine::links::ENTRY;
use crate::guest::{Exception, Guest};
use crate::ir::{HelperId, Value};

impl Emitter<'_> {
    /// The way in from outside, and [`ENTRY`] bytes behind it that from other blocks, where the block leaves if it was executed often enough
    /// to be compiled better. The first instruction there is what [`links`](crate::engine::links) replaces by a jump.
    pub(super) fn entry(&mut self) {
        dynasm!(self.code ; .arch x64 ; lea rbp, [rdi + CONTEXT_BIAS] ; nop);
        debug_assert_eq!(self.code.offset().0, ENTRY);
        let hot = self.code.new_dynamic_label();
        // The short form of a subtraction from memory at a distance from the instruction.
        dynasm!(self.code ; .arch x64 ; .u8 0x83 ; .u8 0x2d ; .i32 0 ; .i8 1 ; js =>hot);
        self.relocations.push(Relocation { offset: ENTRY as u32 + 2, target: Target::Counter });
        self.cold.push(Cold::Hot { from: hot });
        // What another thread wants may be due to the access before, and shall come before the processor changes its state.
        if self.translation.alone {
            self.check_attention();
        }
    }

    /// Says that the block is hot, and leaves before it.
    pub(super) fn ask_for_region(&mut self) {
        dynasm!(self.code ; .arch x64 ; mov rax, QWORD 0);
        // At the end of the instruction.
        let offset = self.code.offset().0 as u32 - 8;
        self.relocations.push(Relocation { offset, target: Target::Translation });
        with_context!(self.code, [mov] offset_of!(Context, hot), [, rax]);
        let leave = self.leave;
        dynasm!(self.code ; .arch x64 ; =>leave ; ret);
    }

    pub(super) fn helper<G: Guest>(&mut self, place: usize, helper: HelperId, arguments: [Value; 3]) {
        let function = Function::Helper(helper);
        let helper = &G::HELPERS[usize::from(helper.0)];
        if helper.effects.float_flags {
            // The arguments, too, must outlive this call.
            self.save_for_call(place.saturating_sub(1));
            self.call(Function::CollectFloatFlags);
        }
        self.save_for_call(place);
        for (value, to) in arguments.into_iter().zip([6, 2, 1]).take(helper.arguments) {
            self.load_value(to, value);
        }
        self.call(function);
        if helper.effects.can_raise {
            self.check_status(place);
        }
        let to = self.define(place);
        dynasm!(self.code ; .arch x64 ; mov Rq(to), rax);
    }

    pub(super) fn raise_if(&mut self, place: usize, condition: Value, exception: u32, information: Value) {
        let from = self.code.new_dynamic_label();
        let condition = self.condition(condition);
        self.jump_if(condition, from);
        let information = self.source(information);
        self.cold.push(Cold::Raise { from, place, exception, information });
    }

    /// Sets the status for an exception; what it reports is in `rax`.
    pub(super) fn set_exception(&mut self, number: u32) {
        let offset = offset_of!(Context, exception);
        with_context!(self.code, [mov] offset + offset_of!(Exception, information), [, rax]);
        with_context!(self.code, [mov DWORD] offset + offset_of!(Exception, number), [, number as i32]);
        with_context!(self.code, [mov DWORD] offset_of!(Context, status), [, Status::Raised as i32]);
    }

    /// The end of the block.
    pub(super) fn terminator(&mut self) -> Emitted {
        let count = self.block.instructions.len() as i32;
        if !matches!(self.block.terminator, Terminator::Raise { .. }) {
            add_to_context(&mut self.code, offset_of!(Context, instructions), count);
        }
        match self.block.terminator {
            Terminator::Jump { target } => self.go_to(target),
            Terminator::Branch { condition, taken, not_taken } => {
                let label = self.code.new_dynamic_label();
                let condition = self.condition(condition);
                self.jump_if(condition, label);
                self.go_to(not_taken);
                dynasm!(self.code ; .arch x64 ; =>label);
                self.go_to(taken);
            }
            Terminator::JumpIndirect { target, .. } => {
                self.load_value(RSI, target);
                self.load_own_address(RCX);
                self.go_through_jump_cache(Function::GoIndirect);
            }
            Terminator::Leave { target } => {
                self.load_code_address(0, self.block.distance(target));
                self.leave();
            }
            Terminator::LeaveIndirect { target } => {
                self.load_value(0, target);
                self.load_own_address(2);
                with_context!(self.code, [mov] offset_of!(Context, jump_source), [, rdx]);
                with_context!(self.code, [mov] offset_of!(Context, jump_target), [, rax]);
                self.leave();
            }
            Terminator::Raise { exception, information } => {
                self.load_value(0, information);
                self.set_exception(exception);
                let exit = self.exit(self.block.ops.len());
                dynasm!(self.code ; .arch x64 ; jmp =>exit);
            }
        }
        Ok(())
    }

    /// Loads the guest-virtual address at a distance from the block's start.
    pub(super) fn load_code_address(&mut self, to: u8, distance: i64) {
        match i32::try_from(distance) {
            Ok(distance) => {
                with_context!(self.code, [mov Rq(to),] offset_of!(Context, pc), []);
                if distance != 0 {
                    with_immediate!(self.code, [add Rq(to),] distance);
                }
            }
            Err(_) => {
                dynasm!(self.code ; .arch x64 ; mov Rq(to), QWORD distance);
                with_context!(self.code, [add Rq(to),] offset_of!(Context, pc), []);
            }
        }
    }

    /// Loads the guest-virtual address of the block's last instruction.
    fn load_own_address(&mut self, to: u8) {
        self.load_code_address(to, self.block.instruction_distance(self.block.ops.len()) as i64);
    }

    /// Stores the program counter from `rax`.
    fn store_pc(&mut self) {
        with_context!(self.code, [mov] offset_of!(Context, pc), [, rax]);
    }

    /// Goes on at the address in `rax`, with another look at what lifted code depends on.
    fn leave(&mut self) {
        self.store_pc();
        self.go_through(Function::GoAnew);
    }

    /// Goes on at a known address.
    fn go_to(&mut self, target: u64) {
        let distance = self.block.distance(target);
        match self.translation.key.in_same_page(distance) {
            Some(_) => {
                if distance != 0 {
                    add_to_context(&mut self.code, offset_of!(Context, pc), distance as i32);
                }
                // Every loop has a jump back, or goes through the jump cache.
                if distance <= 0 {
                    self.check_attention();
                }
                while !(self.code.offset().0 + 1).is_multiple_of(4) {
                    dynasm!(self.code ; .arch x64 ; nop);
                }
                // A jump to a distance of 32 bits.
                dynasm!(self.code ; .arch x64 ; .u8 0xe9);
                let offset = self.code.offset().0 as u32;
                self.relocations.push(Relocation { offset, target: Target::Jump(distance as i16) });
                dynasm!(self.code ; .arch x64 ; .i32 0);
            }
            None => {
                self.load_code_address(RSI, distance);
                self.go_through_jump_cache(Function::GoDirect);
            }
        }
    }

    /// Leaves if another thread wants the processor. The program counter is stored already.
    fn check_attention(&mut self) {
        let leave = self.leave;
        with_context!(self.code, [mov rax,] offset_of!(Context, attention), []);
        dynasm!(self.code ; .arch x64 ; .u8 0x83 ; .u8 0x38 ; .i8 0 ; jne =>leave);
    }

    /// Goes on at the address in `rsi`, to which the instruction at the address in `rcx` jumps if it is a computed one.
    fn go_through_jump_cache(&mut self, function: Function) {
        let flags = self.translation.key.flags as i32;
        dynasm!(self.code ; .arch x64 ; mov edx, flags);
        self.go_through(function);
    }

    /// Jumps to a function that finds the code to go on with, whose place in the table one byte reaches. What it takes besides the context is in
    /// registers already.
    fn go_through(&mut self, function: Function) {
        with_context!(self.code, [mov rax,] offset_of!(Context, functions), []);
        dynasm!(self.code
            ; .arch x64
            ; lea rdi, [BYTE rbp + CONTEXT_START]
            ; jmp QWORD [BYTE rax + function.offset() as i8]
        );
    }
}
