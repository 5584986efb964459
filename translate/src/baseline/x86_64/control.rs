//! The beginning and the end of a block, helpers and exceptions.

use std::mem::offset_of;

use dynasmrt::{DynamicLabel, DynasmApi, DynasmLabelApi, dynasm};

use super::{Cold, Emitted, Emitter, Terminator};
use crate::compile::{Function, Relocation, Target};
use crate::cpu::{Context, Status};
use crate::engine::Translation;
use crate::guest::{Exception, Guest};
use crate::ir::{HelperId, Value};

impl Emitter<'_> {
    /// Leaves before the block if another thread wants the processor, or if it was executed often enough to be compiled better.
    pub(super) fn count_execution(&mut self) {
        let (leave, go_on) = (self.code.new_dynamic_label(), self.code.new_dynamic_label());
        dynasm!(self.code ; .arch x64 ; mov rax, [rbp + offset_of!(Context, attention) as i32]);
        self.load_relocated(1, Target::Translation);
        dynasm!(self.code
            ; .arch x64
            ; cmp DWORD [rax], 0
            ; jne =>leave
            ; sub DWORD [rcx + offset_of!(Translation, countdown) as i32], 1
            ; jns =>go_on
            ; mov [rbp + offset_of!(Context, hot) as i32], rcx
            ; =>leave
            ; ret
            ; =>go_on
        );
    }

    /// Loads an address that is known when the code gets its place.
    fn load_relocated(&mut self, to: u8, target: Target) {
        dynasm!(self.code ; .arch x64 ; mov Rq(to), QWORD 0);
        // At the end of the instruction.
        let offset = self.code.offset().0 as u32 - 8;
        self.relocations.push(Relocation { offset, target });
    }

    pub(super) fn helper<G: Guest>(&mut self, place: usize, helper: HelperId, arguments: [Value; 3]) {
        let function = Function::Helper(helper);
        let helper = &G::HELPERS[usize::from(helper.0)];
        if helper.effects.float_flags {
            // The arguments, too, must outlive this call.
            self.save_for_call(place.saturating_sub(1));
            dynasm!(self.code ; .arch x64 ; mov rdi, rbp);
            self.call(Function::CollectFloatFlags);
        }
        self.save_for_call(place);
        for (value, to) in arguments.into_iter().zip([6, 2, 1]).take(helper.arguments) {
            self.load_value(to, value);
        }
        dynasm!(self.code ; .arch x64 ; mov rdi, rbp);
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
        dynasm!(self.code
            ; .arch x64
            ; mov [rbp + (offset + offset_of!(Exception, information)) as i32], rax
            ; mov DWORD [rbp + (offset + offset_of!(Exception, number)) as i32], number as i32
            ; mov DWORD [rbp + offset_of!(Context, status) as i32], Status::Raised as i32
        );
    }

    /// The end of the block, whose code begins again at `again`.
    pub(super) fn terminator(&mut self, again: DynamicLabel) -> Emitted {
        let count = self.block.instructions.len() as i32;
        if !matches!(self.block.terminator, Terminator::Raise { .. }) {
            let offset = offset_of!(Context, instructions) as i32;
            dynasm!(self.code ; .arch x64 ; add QWORD [rbp + offset], count);
        }
        match self.block.terminator {
            Terminator::Jump { target } => self.go_to(target, again),
            Terminator::Branch { condition, taken, not_taken } => {
                let label = self.code.new_dynamic_label();
                let condition = self.condition(condition);
                self.jump_if(condition, label);
                self.go_to(not_taken, again);
                dynasm!(self.code ; .arch x64 ; =>label);
                self.go_to(taken, again);
            }
            Terminator::JumpIndirect { target, .. } => {
                self.load_value(0, target);
                self.load_own_address(2);
                self.store_pc();
                self.go_through_jump_cache(Function::GoIndirect);
            }
            Terminator::Leave { target } => {
                self.load_code_address(0, self.block.distance(target));
                self.leave();
            }
            Terminator::LeaveIndirect { target } => {
                self.load_value(0, target);
                self.load_own_address(2);
                dynasm!(self.code
                    ; .arch x64
                    ; mov [rbp + offset_of!(Context, jump_source) as i32], rdx
                    ; mov [rbp + offset_of!(Context, jump_target) as i32], rax
                );
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
        let pc = offset_of!(Context, pc) as i32;
        match i32::try_from(distance) {
            Ok(distance) => dynasm!(self.code ; .arch x64 ; mov Rq(to), [rbp + pc] ; add Rq(to), distance),
            Err(_) => dynasm!(self.code ; .arch x64 ; mov Rq(to), QWORD distance ; add Rq(to), [rbp + pc]),
        }
    }

    /// Loads the guest-virtual address of the block's last instruction.
    fn load_own_address(&mut self, to: u8) {
        self.load_code_address(to, self.block.instruction_distance(self.block.ops.len()) as i64);
    }

    /// Stores the program counter from `rax`.
    fn store_pc(&mut self) {
        dynasm!(self.code ; .arch x64 ; mov [rbp + offset_of!(Context, pc) as i32], rax);
    }

    fn leave(&mut self) {
        self.store_pc();
        dynasm!(self.code ; .arch x64 ; mov QWORD [rbp + offset_of!(Context, leave) as i32], 1 ; ret);
    }

    /// Goes on at a known address.
    fn go_to(&mut self, target: u64, again: DynamicLabel) {
        if target == self.block.start {
            dynasm!(self.code ; .arch x64 ; jmp =>again);
            return;
        }
        let distance = self.block.distance(target);
        match self.translation.key.in_same_page(distance) {
            Some(_) => {
                dynasm!(self.code
                    ; .arch x64
                    ; add QWORD [rbp + offset_of!(Context, pc) as i32], distance as i32
                    ; mov rdi, rbp
                );
                self.load_relocated(0, Target::Cell(distance as i16));
                dynasm!(self.code ; .arch x64 ; jmp QWORD [rax]);
            }
            None => {
                self.load_code_address(0, distance);
                self.store_pc();
                self.go_through_jump_cache(Function::GoDirect);
            }
        }
    }

    /// Goes on at the address in `rax`.
    fn go_through_jump_cache(&mut self, stub: Function) {
        dynasm!(self.code
            ; .arch x64
            ; mov ecx, self.translation.key.flags as i32
            ; mov rsi, [rbp + offset_of!(Context, functions) as i32]
            ; jmp QWORD [rsi + stub.offset()]
        );
    }
}
