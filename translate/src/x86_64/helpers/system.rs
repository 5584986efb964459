//! System instructions.

use std::sync::atomic::Ordering;

use crate::cpu::Cpu;
use crate::guest::Exception;
use crate::ir::Width;

use super::super::cpuid::{Moment, Placement};
use super::super::event::{self, Fault, Source, general_protection, vector};
use super::super::registers::{RAX, RBX, RCX, RDX, segment_base};
use super::super::segment::{self, SegmentName, attribute::*};
use super::super::state::*;
use super::super::{debug, far, management, mmu, msr};

/// Records the exception of a result, if it is one.
fn settle<T: Default>(cpu: &mut Cpu<X86_64>, result: Result<T, Fault>) -> T {
    result.unwrap_or_else(|Fault(exception)| {
        cpu.stop_with(exception);
        T::default()
    })
}

/// Where to go on after a transfer that set the pc.
fn settle_transfer(cpu: &mut Cpu<X86_64>, result: Result<(), Fault>) -> u64 {
    settle(cpu, result);
    cpu.context.pc
}

/// As [`settle_transfer`], for SYSCALL and SYSRET: a single step is taken if TF is set after them.
fn settle_system_call(cpu: &mut Cpu<X86_64>, result: Result<(), Fault>) -> u64 {
    if result.is_ok() && cpu.guest.eflags & FLAG_TF != 0 {
        return debug::end(cpu, cpu.context.pc, true, false);
    }
    settle_transfer(cpu, result)
}

/// The linear address of an offset in a segment; `access` is made by [`super::encode_access`].
pub(super) extern "C" fn segment_address(cpu: &mut Cpu<X86_64>, offset: u64, access: u64, _: u64) -> u64 {
    let name = SegmentName::from_number(access & 0xff);
    let (bytes, write) = (access >> 8 & 0xffff, access >> 32 & 1 != 0);
    let result = segment::linear_address(cpu, name, offset, bytes, write);
    settle(cpu, result)
}

/// The linear address of an offset in the code segment, outside 64-bit mode.
pub(super) extern "C" fn code_address(cpu: &mut Cpu<X86_64>, offset: u64, _: u64, _: u64) -> u64 {
    if offset > u64::from(cpu.guest.segments[SegmentName::Cs as usize].limit) {
        cpu.stop_with(general_protection(0).0);
    }
    segment::base(cpu, SegmentName::Cs).wrapping_add(offset) & 0xffff_ffff
}

/// The selector in a segment register by number; 6 is LDTR, 7 TR.
pub(super) extern "C" fn read_selector(cpu: &mut Cpu<X86_64>, number: u64, _: u64, _: u64) -> u64 {
    u64::from(match number {
        6 => cpu.guest.ldt.segment.selector,
        7 => cpu.guest.tr.segment.selector,
        number => cpu.guest.segments[SegmentName::from_number(number) as usize].selector,
    })
}

/// The instruction that interrupts had to wait for begins.
pub(super) extern "C" fn end_shadow(cpu: &mut Cpu<X86_64>, _: u64, _: u64, _: u64) -> u64 {
    cpu.guest.interrupt_shadow = false;
    cpu.guest.stack_shadow = false;
    0
}

/// An instruction begins while breakpoints are armed.
pub(super) extern "C" fn begin_instruction(cpu: &mut Cpu<X86_64>, _: u64, _: u64, _: u64) -> u64 {
    let result = debug::begin(cpu);
    settle(cpu, result);
    0
}

/// The end of an instruction that `how` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub(in super::super) enum InstructionEnd {
    /// TF was clear when it began, or its single step is its own affair.
    NoStep = 0,
    /// TF was set when it began.
    Step = 1,
    /// So it was, but there is no step if the instruction, INT n or its kin, entered a handler, which cleared TF.
    InterruptStep = 2,
}

/// An instruction ends that began with TF set or while breakpoints were armed; `next` is where the program goes on; `again`:
/// that is the instruction itself, which has done a part of its work.
pub(super) extern "C" fn end_instruction(cpu: &mut Cpu<X86_64>, next: u64, how: u64, again: u64) -> u64 {
    let steps = how == InstructionEnd::Step as u64
        || how == InstructionEnd::InterruptStep as u64 && cpu.guest.eflags & FLAG_TF != 0;
    debug::end(cpu, next, steps, again != 0)
}

/// STI (1) and CLI (0).
pub(super) extern "C" fn set_interrupt_flag(cpu: &mut Cpu<X86_64>, set: u64, _: u64, _: u64) -> u64 {
    if set == 0 {
        cpu.guest.eflags &= !FLAG_IF;
    } else {
        cpu.guest.interrupt_shadow = cpu.guest.eflags & FLAG_IF == 0;
        cpu.guest.eflags |= FLAG_IF;
    }
    0
}

/// STAC (1) and CLAC (0).
pub(super) extern "C" fn set_access_flag(cpu: &mut Cpu<X86_64>, set: u64, _: u64, _: u64) -> u64 {
    if set == 0 {
        cpu.guest.eflags &= !FLAG_AC;
    } else {
        cpu.guest.eflags |= FLAG_AC;
    }
    0
}

/// Loads a segment register; `shadow`: interrupts and debug traps wait for the instruction after a load of SS.
pub(super) extern "C" fn load_segment(cpu: &mut Cpu<X86_64>, number: u64, selector: u64, shadow: u64) -> u64 {
    let name = SegmentName::from_number(number);
    let result = segment::load(cpu, name, selector as u16);
    if result.is_ok() && name == SegmentName::Ss && shadow != 0 {
        cpu.guest.interrupt_shadow = true;
        cpu.guest.stack_shadow = true;
    }
    settle(cpu, result);
    0
}

/// WRFSBASE and WRGSBASE.
pub(super) extern "C" fn write_segment_base(cpu: &mut Cpu<X86_64>, number: u64, base: u64, _: u64) -> u64 {
    if mmu::is_storable(cpu, base) {
        cpu.set_register(segment_base(SegmentName::from_number(number)), base);
    } else {
        cpu.stop_with(general_protection(0).0);
    }
    0
}

/// RFLAGS without the arithmetic flags and DF.
pub(super) extern "C" fn read_system_flags(cpu: &mut Cpu<X86_64>, _: u64, _: u64, _: u64) -> u64 {
    cpu.guest.eflags & !(FLAG_VM | FLAG_RF) | FLAG_FIXED
}

/// POPF with an operand of so many bits.
pub(super) extern "C" fn write_flags(cpu: &mut Cpu<X86_64>, value: u64, bits: u64, _: u64) -> u64 {
    let width = if bits == 16 { Width::Half } else { Width::Word };
    let mut mask = far::changeable_flags(cpu, width);
    if cpu.guest.is_virtual_8086() {
        mask &= !FLAG_IOPL;
    }
    let before = rflags(cpu);
    load_rflags(cpu, (before & !mask | value & mask) & !FLAG_RF);
    0
}

fn enter_handler(cpu: &mut Cpu<X86_64>, vector: u8, next: u64, source: Source) -> u64 {
    let before = cpu.context.pc;
    cpu.context.pc = next;
    let rip = instruction_pointer(cpu);
    cpu.context.pc = before;
    let result = event::deliver(cpu, vector, None, rip, source);
    settle_transfer(cpu, result)
}

/// INT n and INT3.
pub(super) extern "C" fn software_interrupt(cpu: &mut Cpu<X86_64>, vector: u64, next: u64, _: u64) -> u64 {
    enter_handler(cpu, vector as u8, next, Source::Software)
}

/// INT1, which ignores the gate's privilege.
pub(super) extern "C" fn privileged_software_interrupt(cpu: &mut Cpu<X86_64>, vector: u64, next: u64, _: u64) -> u64 {
    // It is a #DB like any other, with which what a load of SS held back comes.
    let pending = std::mem::take(&mut cpu.guest.debug_pending);
    if pending != 0 {
        debug::report(cpu, pending);
    }
    cpu.guest.dr7 &= !debug::DR7_GENERAL_DETECT;
    enter_handler(cpu, vector as u8, next, Source::Trap)
}

/// INTO.
pub(super) extern "C" fn interrupt_on_overflow(cpu: &mut Cpu<X86_64>, overflow: u64, next: u64, _: u64) -> u64 {
    if overflow == 0 { next } else { enter_handler(cpu, vector::OVERFLOW, next, Source::Software) }
}

pub(super) extern "C" fn interrupt_return(cpu: &mut Cpu<X86_64>, bits: u64, next: u64, _: u64) -> u64 {
    let result = far::interrupt_return(cpu, bits, next);
    settle_transfer(cpu, result)
}

/// RSM.
pub(super) extern "C" fn resume(cpu: &mut Cpu<X86_64>, _: u64, _: u64, _: u64) -> u64 {
    let result = management::resume(cpu);
    settle_transfer(cpu, result)
}

/// `target`: selector, with the operand size in bits above.
pub(super) extern "C" fn far_jump(cpu: &mut Cpu<X86_64>, target: u64, offset: u64, next: u64) -> u64 {
    let result = far::jump(cpu, target as u16, offset, next);
    settle_transfer(cpu, result)
}

pub(super) extern "C" fn far_call(cpu: &mut Cpu<X86_64>, target: u64, offset: u64, next: u64) -> u64 {
    let base = segment::base(cpu, SegmentName::Cs);
    let next = if cpu.guest.is_64_bit() { next } else { next.wrapping_sub(base) & 0xffff_ffff };
    let result = far::call(cpu, target as u16, offset, target >> 16, next);
    settle_transfer(cpu, result)
}

pub(super) extern "C" fn far_return(cpu: &mut Cpu<X86_64>, bits: u64, extra: u64, _: u64) -> u64 {
    let result = far::far_return(cpu, bits, extra);
    settle_transfer(cpu, result)
}

pub(super) extern "C" fn syscall(cpu: &mut Cpu<X86_64>, next: u64, _: u64, _: u64) -> u64 {
    let result = far::syscall(cpu, next);
    settle_system_call(cpu, result)
}

pub(super) extern "C" fn sysret(cpu: &mut Cpu<X86_64>, wide: u64, _: u64, _: u64) -> u64 {
    let result = far::sysret(cpu, wide != 0);
    settle_system_call(cpu, result)
}

pub(super) extern "C" fn sysenter(cpu: &mut Cpu<X86_64>, _: u64, _: u64, _: u64) -> u64 {
    let result = far::sysenter(cpu);
    settle_transfer(cpu, result)
}

pub(super) extern "C" fn sysexit(cpu: &mut Cpu<X86_64>, _: u64, _: u64, _: u64) -> u64 {
    let result = far::sysexit(cpu);
    settle_transfer(cpu, result)
}

pub(super) extern "C" fn halt(cpu: &mut Cpu<X86_64>, _: u64, _: u64, _: u64) -> u64 {
    cpu.halted = true;
    0
}

/// MWAIT: may end at any time, so it gives the host's processor to others for a moment.
pub(super) extern "C" fn pause_processor(_: &mut Cpu<X86_64>, _: u64, _: u64, _: u64) -> u64 {
    std::thread::yield_now();
    0
}

/// How many PAUSEs of a loop that waits for another processor are executed before its thread gets a turn.
const PAUSES_A_TURN: u32 = 64;

/// PAUSE.
pub(super) extern "C" fn pause(cpu: &mut Cpu<X86_64>, _: u64, _: u64, _: u64) -> u64 {
    cpu.guest.pauses = cpu.guest.pauses.wrapping_add(1);
    if cpu.guest.pauses.is_multiple_of(PAUSES_A_TURN) {
        std::thread::yield_now();
    }
    0
}

pub(super) extern "C" fn read_msr(cpu: &mut Cpu<X86_64>, number: u64, _: u64, _: u64) -> u64 {
    let result = msr::read(cpu, number as u32);
    if result.is_err() {
        tracing::debug!(target: "guest_errors", "RDMSR of {:#x}, which there is not", number as u32);
    }
    settle(cpu, result)
}

pub(super) extern "C" fn write_msr(cpu: &mut Cpu<X86_64>, number: u64, low: u64, high: u64) -> u64 {
    let value = low & 0xffff_ffff | high << 32;
    let result = msr::write(cpu, number as u32, value);
    if result.is_err() {
        tracing::debug!(target: "guest_errors", "WRMSR of {:#x} with {value:#x}, which is not possible", number as u32);
    }
    settle(cpu, result);
    0
}

pub(super) extern "C" fn read_time_stamp(cpu: &mut Cpu<X86_64>, _: u64, _: u64, _: u64) -> u64 {
    if cpu.guest.cr4 & CR4_TSD != 0 && cpu.guest.privilege() != 0 {
        cpu.stop_with(general_protection(0).0);
        return 0;
    }
    msr::time_stamp(cpu)
}

/// RDPMC: four counters, which count nothing.
pub(super) extern "C" fn read_counter(cpu: &mut Cpu<X86_64>, which: u64, _: u64, _: u64) -> u64 {
    let permitted = cpu.guest.privilege() == 0 || cpu.guest.cr4 & CR4_PCE != 0;
    if !permitted || which as u32 > 3 {
        cpu.stop_with(general_protection(0).0);
    }
    0
}

/// How far from the limit of the code segment blocks may be whole: longer than any.
const FAR_FROM_LIMIT: u64 = 0x400;

/// The code from the linear address `first` to `last`, of one or more instructions, must lie within the limit of CS. If it does not,
/// it begins again with one instruction a block.
pub(super) extern "C" fn check_code_limit(cpu: &mut Cpu<X86_64>, first: u64, last: u64, _: u64) -> u64 {
    let base = segment::base(cpu, SegmentName::Cs);
    let offset = first.wrapping_sub(base) & 0xffff_ffff;
    let end = offset + last.wrapping_sub(first);
    let limit = u64::from(cpu.guest.segments[SegmentName::Cs as usize].limit);
    let near = if cpu.guest.near_code_limit { offset + FAR_FROM_LIMIT > limit } else { end > limit };
    if near != cpu.guest.near_code_limit {
        cpu.guest.near_code_limit = near;
        cpu.stop_with(Exception { number: event::BEGIN_AGAIN, information: 0 });
    } else if end > limit {
        cpu.stop_with(general_protection(0).0);
    }
    0
}

pub(super) extern "C" fn read_processor_number(cpu: &mut Cpu<X86_64>, _: u64, _: u64, _: u64) -> u64 {
    cpu.guest.tsc_aux
}

pub(super) extern "C" fn cpuid(cpu: &mut Cpu<X86_64>, _: u64, _: u64, _: u64) -> u64 {
    let (leaf, subleaf) = (cpu.register(RAX) as u32, cpu.register(RCX) as u32);
    let place = Placement { id: cpu.index as u32, count: cpu.guest.processors.load(Ordering::Relaxed) };
    let now = Moment { os_xsave: cpu.guest.cr4 & CR4_OSXSAVE != 0, xcr0: cpu.guest.xcr0 };
    let mut answer = cpu.guest.model.answer(leaf, subleaf, place, now);
    if matches!(leaf, 1 | 0x8000_0001) && !msr::has_enabled_apic(cpu) {
        answer[3] &= !(1 << 9);
    }
    for (register, value) in [RAX, RBX, RCX, RDX].into_iter().zip(answer) {
        cpu.set_register(register, u64::from(value));
    }
    0
}

pub(super) extern "C" fn read_control(cpu: &mut Cpu<X86_64>, number: u64, _: u64, _: u64) -> u64 {
    msr::read_control(cpu, number)
}

pub(super) extern "C" fn write_control(cpu: &mut Cpu<X86_64>, number: u64, value: u64, _: u64) -> u64 {
    let result = msr::write_control(cpu, number, value);
    settle(cpu, result);
    0
}

pub(super) extern "C" fn load_machine_status(cpu: &mut Cpu<X86_64>, value: u64, _: u64, _: u64) -> u64 {
    let result = msr::load_machine_status(cpu, value);
    settle(cpu, result);
    0
}

pub(super) extern "C" fn clear_task_switched(cpu: &mut Cpu<X86_64>, _: u64, _: u64, _: u64) -> u64 {
    cpu.guest.cr0 &= !CR0_TS;
    0
}

pub(super) extern "C" fn read_debug(cpu: &mut Cpu<X86_64>, number: u64, _: u64, _: u64) -> u64 {
    let result = msr::read_debug(cpu, number);
    settle(cpu, result)
}

pub(super) extern "C" fn write_debug(cpu: &mut Cpu<X86_64>, number: u64, value: u64, _: u64) -> u64 {
    let result = msr::write_debug(cpu, number, value);
    settle(cpu, result);
    0
}

pub(super) extern "C" fn read_extended_control(cpu: &mut Cpu<X86_64>, number: u64, _: u64, _: u64) -> u64 {
    let result = msr::read_extended_control(cpu, number as u32);
    settle(cpu, result)
}

pub(super) extern "C" fn write_extended_control(cpu: &mut Cpu<X86_64>, number: u64, low: u64, high: u64) -> u64 {
    let value = low & 0xffff_ffff | high << 32;
    let result = msr::write_extended_control(cpu, number as u32, value);
    settle(cpu, result);
    0
}

/// GDTR (0) or IDTR (1).
pub(super) extern "C" fn read_table_base(cpu: &mut Cpu<X86_64>, which: u64, _: u64, _: u64) -> u64 {
    if which == 0 { cpu.guest.gdt.base } else { cpu.guest.idt.base }
}

pub(super) extern "C" fn read_table_limit(cpu: &mut Cpu<X86_64>, which: u64, _: u64, _: u64) -> u64 {
    u64::from(if which == 0 { cpu.guest.gdt.limit } else { cpu.guest.idt.limit })
}

pub(super) extern "C" fn load_table(cpu: &mut Cpu<X86_64>, which: u64, base: u64, limit: u64) -> u64 {
    if cpu.guest.is_64_bit() && !mmu::is_storable(cpu, base) {
        cpu.stop_with(general_protection(0).0);
        return 0;
    }
    let table = segment::Table { base, limit: limit as u16 };
    if which == 0 {
        cpu.guest.gdt = table;
    } else {
        cpu.guest.idt = table;
    }
    0
}

pub(super) extern "C" fn load_ldt(cpu: &mut Cpu<X86_64>, selector: u64, _: u64, _: u64) -> u64 {
    let result = far::load_ldt(cpu, selector as u16);
    settle(cpu, result);
    0
}

pub(super) extern "C" fn load_task(cpu: &mut Cpu<X86_64>, selector: u64, _: u64, _: u64) -> u64 {
    let result = far::load_task(cpu, selector as u16);
    settle(cpu, result);
    0
}

/// VERR (0), VERW, LAR, LSL (3): bit 63 if the segment is visible, and the rights or limit below.
pub(super) extern "C" fn look_at_segment(cpu: &mut Cpu<X86_64>, selector: u64, which: u64, _: u64) -> u64 {
    const VISIBLE: u64 = 1 << 63;
    let selector = selector as u16;
    let found = far::visible_descriptor(cpu, selector);
    let Some(descriptor) = settle(cpu, found) else { return 0 };
    let segment = descriptor.segment(selector);
    let conforming = segment.has(CODE_OR_DATA | CODE | EXPAND_DOWN_OR_CONFORMING);
    let privilege = cpu.guest.privilege().max((selector & 3) as u8);
    if !conforming && segment.privilege() < privilege {
        return 0;
    }
    let kind = segment.attributes & 0xf;
    let long = cpu.guest.is_long();
    let is_memory = segment.has(CODE_OR_DATA);
    let has_rights =
        is_memory || if long { matches!(kind, 2 | 9 | 11 | 12) } else { matches!(kind, 1..=5 | 9 | 11 | 12) };
    let has_limit = is_memory || if long { matches!(kind, 2 | 9 | 11) } else { matches!(kind, 1..=3 | 9 | 11) };
    match which {
        0 if is_memory && (!segment.has(CODE) || segment.has(WRITABLE_OR_READABLE)) => VISIBLE,
        1 if is_memory && !segment.has(CODE) && segment.has(WRITABLE_OR_READABLE) => VISIBLE,
        2 if has_rights => VISIBLE | descriptor.word >> 32 & 0xf0_ff00,
        3 if has_limit => VISIBLE | u64::from(segment.limit),
        _ => 0,
    }
}

/// ARPL of a selector in memory: whether its privilege level was below `wanted`. Only then is it written to.
pub(super) extern "C" fn adjust_privilege(cpu: &mut Cpu<X86_64>, name: u64, offset: u64, wanted: u64) -> u64 {
    let name = SegmentName::from_number(name);
    let result = segment::linear_address(cpu, name, offset, 2, false);
    let address = settle(cpu, result);
    let mode = super::super::data_mode(cpu);
    if cpu.context.status == 0 && cpu.guest.checks_alignment() && address & 1 != 0 {
        cpu.stop_with(event::with_error(vector::ALIGNMENT_CHECK, 0).0);
    }
    if cpu.context.status != 0 {
        return 0;
    }
    let Ok(selector) = cpu.load(address, Width::Half, mode) else { return 0 };
    if selector & 3 >= wanted {
        return 0;
    }
    let result = segment::linear_address(cpu, name, offset, 2, true);
    settle(cpu, result);
    if cpu.context.status == 0 {
        // A failure is in the status.
        let _ = cpu.store(address, Width::Half, mode, selector & !3 | wanted);
    }
    1
}

/// SGDT, SIDT, SLDT, STR and SMSW outside privilege level 0 under CR4.UMIP.
pub(super) extern "C" fn check_user_mode_prevention(cpu: &mut Cpu<X86_64>, _: u64, _: u64, _: u64) -> u64 {
    if cpu.guest.cr4 & CR4_UMIP != 0 && cpu.guest.privilege() != 0 {
        cpu.stop_with(general_protection(0).0);
    }
    0
}

pub(super) extern "C" fn invalidate_page(cpu: &mut Cpu<X86_64>, address: u64, _: u64, _: u64) -> u64 {
    mmu::flush_address(cpu, address);
    0
}

/// INVPCID.
pub(super) extern "C" fn invalidate_context(cpu: &mut Cpu<X86_64>, kind: u64, context: u64, address: u64) -> u64 {
    let result = mmu::invalidate_context(cpu, kind, context, address);
    settle(cpu, result);
    0
}

/// VMMCALL: no hypercall exists (-1000), and none is for users (-1).
pub(super) extern "C" fn hypercall(cpu: &mut Cpu<X86_64>, _: u64, _: u64, _: u64) -> u64 {
    let answer: i64 = if cpu.guest.privilege() == 0 { -1000 } else { -1 };
    answer as u64
}

pub(super) extern "C" fn swap_gs(cpu: &mut Cpu<X86_64>, _: u64, _: u64, _: u64) -> u64 {
    let register = segment_base(SegmentName::Gs);
    let base = cpu.register(register);
    let new = std::mem::replace(&mut cpu.guest.kernel_gs_base, base);
    cpu.set_register(register, new);
    0
}
