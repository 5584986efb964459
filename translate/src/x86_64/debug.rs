//! The guest's own debugging: debug registers, single steps and the resume flag (SDM volume 3, chapter 19).
//!
//! While a breakpoint is armed, [`super::lift`] makes blocks of one instruction that begin with [`begin`] and end with
//! [`end`]. Nothing else pays for it: accesses to memory with a breakpoint on it miss the soft TLB.

use crate::cpu::{Cpu, WatchedRange};
use crate::guest::Exception;

use super::event::{self, Fault, Source, number, vector};
use super::state::*;

/// DR6: breakpoints 0 to 3.
pub(super) const BREAKPOINTS: u64 = 0xf;
/// DR6: an access to a debug register under DR7.GD.
pub(super) const GENERAL_DETECT: u64 = 1 << 13;
/// DR6: single step.
pub(super) const SINGLE_STEP: u64 = 1 << 14;
/// DR6: the T bit of the task-state segment that was switched to.
pub(super) const TASK_SWITCH: u64 = 1 << 15;

/// DR7: any access to a debug register is a #DB.
pub(super) const DR7_GENERAL_DETECT: u64 = 1 << 13;
/// DR7: the breakpoints that are enabled for one task only.
pub(super) const DR7_LOCAL: u64 = 0x155;

/// What a breakpoint is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Execute,
    Write,
    Port,
    Access,
}

/// A breakpoint that is enabled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Breakpoint {
    /// Its bit of DR6.
    bit: u64,
    kind: Kind,
    start: u64,
    length: u64,
}

/// A breakpoint is enabled.
pub(super) fn is_armed(guest: &X86_64) -> bool {
    guest.dr7 & 0xff != 0
}

fn breakpoints(guest: &X86_64) -> impl Iterator<Item = Breakpoint> {
    let (dr, dr7, ports) = (guest.dr, guest.dr7, guest.cr4 & CR4_DE != 0);
    (0..4).filter(move |number| dr7 >> (2 * number) & 3 != 0).filter_map(move |number| {
        let how = dr7 >> (16 + 4 * number) & 0xf;
        let kind = match how & 3 {
            0 => Kind::Execute,
            1 => Kind::Write,
            2 if ports => Kind::Port,
            2 => return None,
            _ => Kind::Access,
        };
        let length = match how >> 2 {
            0 => 1,
            1 => 2,
            2 => 8,
            _ => 4,
        };
        let length = if kind == Kind::Execute { 1 } else { length };
        Some(Breakpoint { bit: 1 << number, kind, start: dr[number as usize] & !(length - 1), length })
    })
}

/// To be called when debug registers or CR4.DE changed.
pub fn update(cpu: &mut Cpu<X86_64>) {
    let ranges = breakpoints(&cpu.guest).filter(|breakpoint| matches!(breakpoint.kind, Kind::Write | Kind::Access));
    let ranges = ranges.map(|breakpoint| {
        let reads = breakpoint.kind == Kind::Access;
        (WatchedRange { address: breakpoint.start, length: breakpoint.length, reads }, breakpoint.bit)
    });
    let ranges = ranges.collect();
    cpu.trace(ranges);
}

/// Before an instruction: the #DB of a breakpoint on it, unless RF suppresses that. (A load of SS before it suppresses it on Intel's
/// processors only.)
pub(super) fn begin(cpu: &Cpu<X86_64>) -> Result<(), Fault> {
    if resume_flag(cpu) {
        return Ok(());
    }
    let pc = cpu.context.pc;
    let on_it = |breakpoint: &Breakpoint| breakpoint.kind == Kind::Execute && breakpoint.start == pc;
    let hit = breakpoints(&cpu.guest).filter(on_it).fold(0, |bits, breakpoint| bits | breakpoint.bit);
    if hit == 0 { Ok(()) } else { Err(Fault(Exception { number: number(vector::DEBUG), information: hit })) }
}

/// Notes an access to ports.
pub(super) fn note_port(cpu: &mut Cpu<X86_64>, port: u64, bytes: u64) {
    if !is_armed(&cpu.guest) {
        return;
    }
    let accessed = WatchedRange { address: port, length: bytes, reads: true };
    let on_it = |breakpoint: &Breakpoint| {
        breakpoint.kind == Kind::Port && accessed.overlaps(breakpoint.start, breakpoint.length)
    };
    let hit = breakpoints(&cpu.guest).filter(on_it).fold(0, |bits, breakpoint| bits | breakpoint.bit);
    cpu.traced_hits |= hit;
}

/// RF: valid for the instruction that comes next after what set it.
pub(super) fn resume_flag(cpu: &Cpu<X86_64>) -> bool {
    cpu.guest.eflags & FLAG_RF != 0 && cpu.guest.resume_at == cpu.context.instructions
}

/// After an instruction that goes on at `next`; `steps`: it began with TF set and ends as a step. Takes the #DB that it may have
/// caused, and gives where to go on.
pub(super) fn end(cpu: &mut Cpu<X86_64>, next: u64, steps: bool, again: bool) -> u64 {
    let hits = std::mem::take(&mut cpu.traced_hits) & BREAKPOINTS;
    let bits = std::mem::take(&mut cpu.guest.debug_pending) | hits;
    if again {
        cpu.guest.eflags |= FLAG_RF;
        cpu.guest.resume_at = cpu.context.instructions.wrapping_add(1);
    }
    if cpu.guest.stack_shadow {
        // A load of SS holds its own traps back; a single step is lost.
        cpu.guest.debug_pending = bits;
        return next;
    }
    let bits = bits | if steps { SINGLE_STEP } else { 0 };
    if bits == 0 {
        return next;
    }
    if cpu.guest.resume_at == cpu.context.instructions.wrapping_add(1) {
        // The instruction, which is not counted yet, has loaded RF: it is part of what is pushed.
        cpu.guest.resume_at = cpu.context.instructions;
    } else {
        cpu.guest.eflags &= !FLAG_RF;
    }
    cpu.context.pc = next;
    trap(cpu, bits);
    cpu.context.pc
}

/// Takes a #DB between two instructions.
pub(super) fn trap(cpu: &mut Cpu<X86_64>, bits: u64) {
    cpu.halted = false;
    report(cpu, bits);
    let rip = instruction_pointer(cpu);
    event::deliver_all(cpu, vector::DEBUG, None, rip, Source::Trap);
}

/// What a #DB leaves in the debug registers.
pub(super) fn report(cpu: &mut Cpu<X86_64>, bits: u64) {
    cpu.guest.dr6 = cpu.guest.dr6 & !BREAKPOINTS | bits;
    cpu.guest.dr7 &= !DR7_GENERAL_DETECT;
}
