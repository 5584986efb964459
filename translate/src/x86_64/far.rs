//! Transfers between segments and privilege levels: far jumps, calls and returns, IRET, SYSCALL and SYSENTER.
//!
//! Each changes the state and leaves where to go on in [`crate::cpu::Context::pc`], or changes nothing and gives the exception.

use crate::cpu::Cpu;
use crate::ir::Width;

use super::event::{
    self, Fault, Stack, general_protection, invalid_opcode, invalid_tss, not_present, stack_fault, stack_segment,
    task_stack, task_stack_64,
};
use super::registers::{R11, RCX, RDX, RSP};
use super::segment::{self, Descriptor, Segment, SegmentName, attribute::*};
use super::state::*;
use super::{mmu, task};

fn width_of_bits(bits: u64) -> Width {
    match bits {
        16 => Width::Half,
        32 => Width::Word,
        _ => Width::Double,
    }
}

fn mask_of(width: Width) -> u64 {
    u64::MAX >> (64 - 8 * width.bytes())
}

fn code_selector(cpu: &Cpu<X86_64>) -> u64 {
    u64::from(cpu.guest.segments[SegmentName::Cs as usize].selector)
}

/// Loads CS in real or virtual-8086 mode and goes to an offset in it.
fn go_real(cpu: &mut Cpu<X86_64>, selector: u16, offset: u64) -> Result<(), Fault> {
    let before = cpu.guest.segments[SegmentName::Cs as usize];
    if offset > u64::from(before.limit) {
        return Err(general_protection(0));
    }
    segment::set(cpu, SegmentName::Cs, Segment { selector, ..before }, u64::from(selector) << 4);
    set_instruction_pointer(cpu, offset);
    Ok(())
}

/// The offset may be executed in a code segment that is about to be loaded.
fn check_offset(cpu: &Cpu<X86_64>, segment: &Segment, offset: u64) -> Result<(), Fault> {
    let allowed = if cpu.guest.is_long() && segment.has(LONG) {
        mmu::is_canonical(cpu, offset)
    } else {
        offset <= u64::from(segment.limit)
    };
    if allowed { Ok(()) } else { Err(general_protection(0)) }
}

/// Loads CS with a checked code segment, to run at `privilege`.
fn load_code(cpu: &mut Cpu<X86_64>, descriptor: &Descriptor, selector: u16, privilege: u8, offset: u64) {
    let segment = Segment { selector: selector & !3 | u16::from(privilege), ..descriptor.segment(selector) };
    let long = cpu.guest.is_long() && segment.has(LONG);
    segment::set(cpu, SegmentName::Cs, segment, if long { 0 } else { descriptor.base() });
    set_instruction_pointer(cpu, offset);
}

/// A code segment's L and D bits fit the mode.
fn check_mode(cpu: &Cpu<X86_64>, segment: &Segment) -> Result<(), Fault> {
    if cpu.guest.is_long() && segment.has(LONG | BIG) { Err(general_protection(segment.selector)) } else { Ok(()) }
}

/// A code segment that a jump or a call without a gate may go to.
fn direct_code(cpu: &mut Cpu<X86_64>, descriptor: &mut Descriptor, selector: u16) -> Result<(), Fault> {
    let segment = descriptor.segment(selector);
    let privilege = cpu.guest.privilege();
    let requested = (selector & 3) as u8;
    let permitted = if segment.has(EXPAND_DOWN_OR_CONFORMING) {
        segment.privilege() <= privilege
    } else {
        requested <= privilege && segment.privilege() == privilege
    };
    if !permitted {
        return Err(general_protection(selector));
    }
    check_mode(cpu, &segment)?;
    if !segment.has(PRESENT) {
        return Err(not_present(selector));
    }
    segment::mark_accessed(cpu, descriptor)
}

/// What a selector of a far transfer leads to.
enum Destination {
    Code(Descriptor),
    CallGate(Descriptor),
    Task { selector: u16 },
}

fn destination(cpu: &mut Cpu<X86_64>, selector: u16) -> Result<Destination, Fault> {
    if selector & !3 == 0 {
        return Err(general_protection(0));
    }
    let descriptor = segment::descriptor(cpu, selector, general_protection)?;
    let segment = descriptor.segment(selector);
    if segment.has(CODE_OR_DATA) {
        return if segment.has(CODE) { Ok(Destination::Code(descriptor)) } else { Err(general_protection(selector)) };
    }
    let (privilege, requested) = (cpu.guest.privilege(), (selector & 3) as u8);
    let visible = segment.privilege() >= privilege.max(requested);
    let long = cpu.guest.is_long();
    let kind = segment.attributes & 0xf;
    let known = if long { kind == 12 } else { matches!(kind, 1 | 4 | 5 | 9 | 12) };
    if !known || !visible {
        return Err(general_protection(selector));
    }
    if !segment.has(PRESENT) {
        return Err(not_present(selector));
    }
    Ok(match kind {
        1 | 9 => Destination::Task { selector },
        5 => Destination::Task { selector: (descriptor.word >> 16) as u16 },
        _ => Destination::CallGate(descriptor),
    })
}

pub(super) fn jump(cpu: &mut Cpu<X86_64>, selector: u16, offset: u64, next: u64) -> Result<(), Fault> {
    if cpu.guest.is_real_or_virtual() {
        return go_real(cpu, selector, offset);
    }
    match destination(cpu, selector)? {
        Destination::Code(mut descriptor) => {
            direct_code(cpu, &mut descriptor, selector)?;
            check_offset(cpu, &descriptor.segment(selector), offset)?;
            let privilege = cpu.guest.privilege();
            load_code(cpu, &descriptor, selector, privilege, offset);
            Ok(())
        }
        Destination::CallGate(gate) => {
            let (selector, offset) = gate_target(cpu, &gate, selector)?;
            let mut descriptor = code_behind_gate(cpu, selector)?;
            let segment = descriptor.segment(selector);
            let privilege = cpu.guest.privilege();
            // A jump cannot raise the privilege.
            if !segment.has(EXPAND_DOWN_OR_CONFORMING) && segment.privilege() != privilege {
                return Err(general_protection(selector));
            }
            segment::mark_accessed(cpu, &mut descriptor)?;
            check_offset(cpu, &segment, offset)?;
            load_code(cpu, &descriptor, selector, privilege, offset);
            Ok(())
        }
        Destination::Task { selector } => task::switch(cpu, selector, task::Reason::Jump, next),
    }
}

/// Selector and offset in a call gate.
fn gate_target(cpu: &mut Cpu<X86_64>, gate: &Descriptor, selector: u16) -> Result<(u16, u64), Fault> {
    let low = gate.word & 0xffff | gate.word >> 32 & 0xffff_0000;
    let target = (gate.word >> 16) as u16;
    if cpu.guest.is_long() {
        return Ok((target, low | segment::upper_base(cpu, gate, selector)?));
    }
    let wide = gate.attributes() & 8 != 0;
    Ok((target, if wide { low } else { low & 0xffff }))
}

fn code_behind_gate(cpu: &mut Cpu<X86_64>, selector: u16) -> Result<Descriptor, Fault> {
    if selector & !3 == 0 {
        return Err(general_protection(0));
    }
    let descriptor = segment::descriptor(cpu, selector, general_protection)?;
    let segment = descriptor.segment(selector);
    if !segment.has(CODE_OR_DATA | CODE) || segment.privilege() > cpu.guest.privilege() {
        return Err(general_protection(selector));
    }
    if cpu.guest.is_long() && (!segment.has(LONG) || segment.has(BIG)) {
        return Err(general_protection(selector));
    }
    if !segment.has(PRESENT) {
        return Err(not_present(selector));
    }
    Ok(descriptor)
}

pub(super) fn call(cpu: &mut Cpu<X86_64>, selector: u16, offset: u64, bits: u64, next: u64) -> Result<(), Fault> {
    let width = width_of_bits(bits);
    let code = code_selector(cpu);
    if cpu.guest.is_real_or_virtual() {
        let mut stack = Stack::present(cpu);
        stack.push(cpu, width, code)?;
        stack.push(cpu, width, next)?;
        go_real(cpu, selector, offset)?;
        stack.commit(cpu);
        return Ok(());
    }
    match destination(cpu, selector)? {
        Destination::Code(mut descriptor) => {
            direct_code(cpu, &mut descriptor, selector)?;
            let mut stack = Stack::present(cpu);
            stack.push(cpu, width, code)?;
            stack.push(cpu, width, next)?;
            check_offset(cpu, &descriptor.segment(selector), offset)?;
            let privilege = cpu.guest.privilege();
            stack.commit(cpu);
            load_code(cpu, &descriptor, selector, privilege, offset);
            Ok(())
        }
        Destination::CallGate(gate) => call_gate(cpu, &gate, selector, next),
        Destination::Task { selector } => task::switch(cpu, selector, task::Reason::Call, next),
    }
}

fn call_gate(cpu: &mut Cpu<X86_64>, gate: &Descriptor, gate_selector: u16, next: u64) -> Result<(), Fault> {
    let (selector, offset) = gate_target(cpu, gate, gate_selector)?;
    let mut descriptor = code_behind_gate(cpu, selector)?;
    let segment = descriptor.segment(selector);
    let long = cpu.guest.is_long();
    let width = match (long, gate.attributes() & 8 != 0) {
        (true, _) => Width::Double,
        (false, true) => Width::Word,
        (false, false) => Width::Half,
    };
    let privilege = cpu.guest.privilege();
    let inner = !segment.has(EXPAND_DOWN_OR_CONFORMING) && segment.privilege() < privilege;
    let code = code_selector(cpu);
    segment::mark_accessed(cpu, &mut descriptor)?;
    if !inner {
        let mut stack = Stack::present(cpu);
        stack.push(cpu, width, code)?;
        stack.push(cpu, width, next)?;
        check_offset(cpu, &segment, offset)?;
        stack.commit(cpu);
        load_code(cpu, &descriptor, selector, privilege, offset);
        return Ok(());
    }
    let new = segment.privilege();
    let old_selector = u64::from(cpu.guest.segments[SegmentName::Ss as usize].selector);
    let old_pointer = cpu.register(RSP);
    let (mut stack, stack_register) = if long {
        let pointer = task_stack_64(cpu, 4 + 8 * u32::from(new))?;
        let null = Segment { selector: u16::from(new), limit: 0, attributes: u16::from(new) << PRIVILEGE_SHIFT };
        let mode = mmu::MODE_SUPERVISOR_IMPLICIT;
        (Stack { base: 0, mask: u64::MAX, pointer, limits: None, mode }, (null, 0))
    } else {
        let (selector, pointer) = task_stack(cpu, new)?;
        let descriptor = stack_segment(cpu, selector, new, invalid_tss)?;
        let segment = descriptor.segment(selector);
        (Stack::of_segment(&segment, descriptor.base(), pointer), (segment, descriptor.base()))
    };
    stack.push(cpu, width, old_selector)?;
    stack.push(cpu, width, old_pointer)?;
    if !long {
        let count = gate.word >> 32 & 0x1f;
        let mut old = Stack::present(cpu);
        old.drop_bytes(count * width.bytes());
        for _ in 0..count {
            old.drop_bytes(width.bytes().wrapping_neg());
            let before = old.pointer;
            let parameter = old.pop(cpu, width)?;
            old.pointer = before;
            stack.push(cpu, width, parameter)?;
        }
    }
    stack.push(cpu, width, code)?;
    stack.push(cpu, width, next)?;
    check_offset(cpu, &segment, offset)?;
    segment::set(cpu, SegmentName::Ss, stack_register.0, stack_register.1);
    stack.commit(cpu);
    load_code(cpu, &descriptor, selector, new, offset);
    Ok(())
}

/// A code segment to return to.
fn return_code(cpu: &mut Cpu<X86_64>, selector: u16) -> Result<Descriptor, Fault> {
    if selector & !3 == 0 {
        return Err(general_protection(0));
    }
    let mut descriptor = segment::descriptor(cpu, selector, general_protection)?;
    let segment = descriptor.segment(selector);
    let requested = (selector & 3) as u8;
    if !segment.has(CODE_OR_DATA | CODE) || requested < cpu.guest.privilege() {
        return Err(general_protection(selector));
    }
    let fits = if segment.has(EXPAND_DOWN_OR_CONFORMING) {
        segment.privilege() <= requested
    } else {
        segment.privilege() == requested
    };
    if !fits {
        return Err(general_protection(selector));
    }
    check_mode(cpu, &segment)?;
    if !segment.has(PRESENT) {
        return Err(not_present(selector));
    }
    segment::mark_accessed(cpu, &mut descriptor)?;
    Ok(descriptor)
}

/// Loads SS and RSP of an outer level, after everything else has been checked.
fn outer_stack(
    cpu: &mut Cpu<X86_64>,
    code: &Segment,
    selector: u16,
    privilege: u8,
) -> Result<Option<Descriptor>, Fault> {
    if selector & !3 == 0 {
        let allowed = cpu.guest.is_long() && code.has(LONG) && privilege != 3 && (selector & 3) as u8 == privilege;
        return if allowed { Ok(None) } else { Err(general_protection(0)) };
    }
    stack_segment(cpu, selector, privilege, general_protection).map(Some)
}

fn load_outer_stack(
    cpu: &mut Cpu<X86_64>,
    descriptor: Option<Descriptor>,
    selector: u16,
    privilege: u8,
    pointer: u64,
    width: Width,
) {
    match descriptor {
        Some(descriptor) => {
            segment::set(cpu, SegmentName::Ss, descriptor.segment(selector), descriptor.base());
        }
        None => {
            let attributes = u16::from(privilege) << PRIVILEGE_SHIFT;
            segment::set(cpu, SegmentName::Ss, Segment { selector, limit: 0, attributes }, 0);
        }
    }
    // Bits beyond the width that was popped stay where the new stack does not use them.
    let wide = cpu.guest.is_64_bit() || cpu.guest.segments[SegmentName::Ss as usize].has(BIG);
    let value = if !wide { cpu.register(RSP) & !0xffff | pointer & 0xffff } else { pointer & mask_of(width) };
    cpu.set_register(RSP, value);
}

/// Data segments that the new privilege level may not use become null.
fn drop_privileged_segments(cpu: &mut Cpu<X86_64>, privilege: u8) {
    for name in [SegmentName::Es, SegmentName::Ds, SegmentName::Fs, SegmentName::Gs] {
        let segment = cpu.guest.segments[name as usize];
        let conforming = segment.has(CODE | EXPAND_DOWN_OR_CONFORMING);
        if segment.has(PRESENT) && segment.has(CODE_OR_DATA) && !conforming && segment.privilege() < privilege {
            // The base stays, which 64-bit code sees in FS and GS.
            let base = segment::base(cpu, name);
            segment::set(
                cpu,
                name,
                Segment { selector: 0, attributes: segment.attributes & !PRESENT, ..segment },
                base,
            );
        }
    }
}

pub(super) fn far_return(cpu: &mut Cpu<X86_64>, bits: u64, extra: u64) -> Result<(), Fault> {
    let width = width_of_bits(bits);
    let mut stack = Stack::present(cpu);
    let offset = stack.pop(cpu, width)?;
    let selector = stack.pop(cpu, width)? as u16;
    if cpu.guest.is_real_or_virtual() {
        go_real(cpu, selector, offset)?;
        stack.drop_bytes(extra);
        stack.commit(cpu);
        return Ok(());
    }
    let descriptor = return_code(cpu, selector)?;
    let segment = descriptor.segment(selector);
    let privilege = (selector & 3) as u8;
    check_offset(cpu, &segment, offset)?;
    stack.drop_bytes(extra);
    if privilege == cpu.guest.privilege() {
        stack.commit(cpu);
        load_code(cpu, &descriptor, selector, privilege, offset);
        return Ok(());
    }
    let pointer = stack.pop(cpu, width)?;
    let stack_selector = stack.pop(cpu, width)? as u16;
    let outer = outer_stack(cpu, &segment, stack_selector, privilege)?;
    load_code(cpu, &descriptor, selector, privilege, offset);
    load_outer_stack(cpu, outer, stack_selector, privilege, pointer, width);
    let mut outer_stack = Stack::present(cpu);
    outer_stack.drop_bytes(extra);
    outer_stack.commit(cpu);
    drop_privileged_segments(cpu, privilege);
    Ok(())
}

/// Which flags an IRET or POPF at the present privilege may change.
pub(super) fn changeable_flags(cpu: &Cpu<X86_64>, width: Width) -> u64 {
    let privilege = cpu.guest.privilege();
    let mut mask = super::flags::ARITHMETIC | FLAG_TF | FLAG_DF | FLAG_NT | FLAG_AC | FLAG_ID;
    if privilege == 0 {
        mask |= FLAG_IOPL;
    }
    if privilege <= cpu.guest.io_privilege() {
        mask |= FLAG_IF;
    }
    mask & mask_of(width)
}

pub(super) fn interrupt_return(cpu: &mut Cpu<X86_64>, bits: u64, next: u64) -> Result<(), Fault> {
    let width = width_of_bits(bits);
    let real = cpu.guest.is_real_or_virtual();
    if cpu.guest.is_virtual_8086() && cpu.guest.io_privilege() < 3 {
        return Err(general_protection(0));
    }
    if !real && cpu.guest.eflags & FLAG_NT != 0 {
        if cpu.guest.is_long() {
            return Err(general_protection(0));
        }
        event::end_nmi(cpu);
        return task::return_to_previous(cpu, next);
    }
    let mut stack = Stack::present(cpu);
    let offset = stack.pop(cpu, width)?;
    let selector = stack.pop(cpu, width)? as u16;
    let flags = stack.pop(cpu, width)?;
    if real {
        let mut mask = changeable_flags(cpu, width) | FLAG_RF & mask_of(width);
        if cpu.guest.is_virtual_8086() {
            mask &= !FLAG_IOPL;
        }
        go_real(cpu, selector, offset)?;
        stack.commit(cpu);
        let before = rflags(cpu) & !FLAG_RF;
        load_rflags(cpu, before & !mask | flags & mask);
        event::end_nmi(cpu);
        return Ok(());
    }
    let privilege = cpu.guest.privilege();
    if flags & FLAG_VM != 0 && privilege == 0 && !cpu.guest.is_long() && width == Width::Word {
        return return_to_virtual_8086(cpu, stack, offset, selector, flags);
    }
    let descriptor = return_code(cpu, selector)?;
    let segment = descriptor.segment(selector);
    let new_privilege = (selector & 3) as u8;
    check_offset(cpu, &segment, offset)?;
    let mask = changeable_flags(cpu, width) | FLAG_RF & mask_of(width);
    let outer = new_privilege > privilege;
    if outer || cpu.guest.is_64_bit() {
        let pointer = stack.pop(cpu, width)?;
        let stack_selector = stack.pop(cpu, width)? as u16;
        let outer_descriptor = outer_stack(cpu, &segment, stack_selector, new_privilege)?;
        load_code(cpu, &descriptor, selector, new_privilege, offset);
        load_outer_stack(cpu, outer_descriptor, stack_selector, new_privilege, pointer, width);
    } else {
        stack.commit(cpu);
        load_code(cpu, &descriptor, selector, new_privilege, offset);
    }
    let before = rflags(cpu) & !FLAG_RF;
    load_rflags(cpu, before & !mask | flags & mask);
    if outer {
        drop_privileged_segments(cpu, new_privilege);
    }
    event::end_nmi(cpu);
    Ok(())
}

fn return_to_virtual_8086(
    cpu: &mut Cpu<X86_64>,
    mut stack: Stack,
    offset: u64,
    selector: u16,
    flags: u64,
) -> Result<(), Fault> {
    let pointer = stack.pop(cpu, Width::Word)?;
    let mut selectors = [0; 5];
    for value in &mut selectors {
        *value = stack.pop(cpu, Width::Word)? as u16;
    }
    load_rflags(cpu, flags);
    let names = [SegmentName::Ss, SegmentName::Es, SegmentName::Ds, SegmentName::Fs, SegmentName::Gs];
    enter_virtual_8086(cpu, SegmentName::Cs, selector);
    for (name, selector) in names.into_iter().zip(selectors) {
        enter_virtual_8086(cpu, name, selector);
    }
    cpu.set_register(RSP, pointer);
    set_instruction_pointer(cpu, offset & 0xffff);
    event::end_nmi(cpu);
    Ok(())
}

/// Loads a segment register as virtual-8086 mode has them: 64 KiB, privilege 3.
pub(super) fn enter_virtual_8086(cpu: &mut Cpu<X86_64>, name: SegmentName, selector: u16) {
    let attributes = PRESENT | CODE_OR_DATA | WRITABLE_OR_READABLE | ACCESSED | 3 << PRIVILEGE_SHIFT;
    segment::set(cpu, name, Segment { selector, limit: 0xffff, attributes }, u64::from(selector) << 4);
}

/// A segment without base and limit.
fn set_flat(cpu: &mut Cpu<X86_64>, name: SegmentName, selector: u16, privilege: u8, kind: u16) {
    let common = PRESENT | CODE_OR_DATA | WRITABLE_OR_READABLE | ACCESSED | GRANULARITY;
    let attributes = common | kind | u16::from(privilege) << PRIVILEGE_SHIFT;
    segment::set(cpu, name, Segment { selector, limit: u32::MAX, attributes }, 0);
}

pub(super) fn syscall(cpu: &mut Cpu<X86_64>, next: u64) -> Result<(), Fault> {
    if cpu.guest.efer & EFER_SCE == 0 || cpu.guest.cr0 & CR0_PE == 0 {
        return Err(invalid_opcode());
    }
    let flags = rflags(cpu) & !FLAG_RF;
    let selector = (cpu.guest.star >> 32) as u16;
    let base = segment::base(cpu, SegmentName::Cs);
    cpu.set_register(RCX, next.wrapping_sub(base));
    let target = if cpu.guest.is_long() {
        cpu.set_register(R11, flags);
        let target = if cpu.guest.is_64_bit() { cpu.guest.lstar } else { cpu.guest.cstar };
        load_rflags(cpu, flags & !cpu.guest.sfmask);
        set_flat(cpu, SegmentName::Cs, selector & !3, 0, CODE | LONG);
        target
    } else {
        cpu.guest.eflags &= !(FLAG_IF | FLAG_VM);
        set_flat(cpu, SegmentName::Cs, selector & !3, 0, CODE | BIG);
        cpu.guest.star & 0xffff_ffff
    };
    set_flat(cpu, SegmentName::Ss, (selector & !3).wrapping_add(8), 0, BIG);
    set_instruction_pointer(cpu, target);
    Ok(())
}

pub(super) fn sysret(cpu: &mut Cpu<X86_64>, wide: bool) -> Result<(), Fault> {
    if cpu.guest.efer & EFER_SCE == 0 || cpu.guest.cr0 & CR0_PE == 0 {
        return Err(invalid_opcode());
    }
    let selector = (cpu.guest.star >> 48) as u16;
    let target = cpu.register(RCX);
    if cpu.guest.is_64_bit() {
        let flags = cpu.register(R11);
        load_rflags(cpu, flags & !(FLAG_VM | FLAG_RF));
    } else {
        cpu.guest.eflags |= FLAG_IF;
    }
    if wide {
        set_flat(cpu, SegmentName::Cs, selector.wrapping_add(16) | 3, 3, CODE | LONG);
    } else {
        set_flat(cpu, SegmentName::Cs, selector | 3, 3, CODE | BIG);
    }
    set_flat(cpu, SegmentName::Ss, selector.wrapping_add(8) | 3, 3, BIG);
    set_instruction_pointer(cpu, if wide { target } else { target & 0xffff_ffff });
    Ok(())
}

pub(super) fn sysenter(cpu: &mut Cpu<X86_64>) -> Result<(), Fault> {
    // As AMD's processors: not in long mode.
    if cpu.guest.is_long() {
        return Err(invalid_opcode());
    }
    let selector = cpu.guest.sysenter_cs as u16 & !3;
    if cpu.guest.cr0 & CR0_PE == 0 || selector == 0 {
        return Err(general_protection(0));
    }
    cpu.guest.eflags &= !(FLAG_IF | FLAG_VM);
    set_flat(cpu, SegmentName::Cs, selector, 0, CODE | BIG);
    set_flat(cpu, SegmentName::Ss, selector.wrapping_add(8), 0, BIG);
    cpu.set_register(RSP, cpu.guest.sysenter_esp & 0xffff_ffff);
    set_instruction_pointer(cpu, cpu.guest.sysenter_eip & 0xffff_ffff);
    Ok(())
}

pub(super) fn sysexit(cpu: &mut Cpu<X86_64>) -> Result<(), Fault> {
    if cpu.guest.is_long() {
        return Err(invalid_opcode());
    }
    let selector = cpu.guest.sysenter_cs as u16 & !3;
    if cpu.guest.cr0 & CR0_PE == 0 || selector == 0 {
        return Err(general_protection(0));
    }
    let (target, stack) = (cpu.register(RDX), cpu.register(RCX));
    set_flat(cpu, SegmentName::Cs, selector.wrapping_add(16) | 3, 3, CODE | BIG);
    set_flat(cpu, SegmentName::Ss, selector.wrapping_add(24) | 3, 3, BIG);
    cpu.set_register(RSP, stack & 0xffff_ffff);
    set_instruction_pointer(cpu, target & 0xffff_ffff);
    Ok(())
}

/// LLDT.
pub(super) fn load_ldt(cpu: &mut Cpu<X86_64>, selector: u16) -> Result<(), Fault> {
    if selector & !3 == 0 {
        cpu.guest.ldt.segment = Segment { selector, limit: 0, attributes: 0 };
        return Ok(());
    }
    let (segment, base, _) = system_segment(cpu, selector, &[2])?;
    cpu.guest.ldt.segment = segment;
    cpu.guest.ldt.base = base;
    Ok(())
}

/// LTR.
pub(super) fn load_task(cpu: &mut Cpu<X86_64>, selector: u16) -> Result<(), Fault> {
    if selector & !3 == 0 {
        return Err(general_protection(0));
    }
    let kinds: &[u16] = if cpu.guest.is_long() { &[9] } else { &[1, 9] };
    let (segment, base, descriptor) = system_segment(cpu, selector, kinds)?;
    // Busy.
    cpu.system_store(descriptor.address + 5, Width::Byte, descriptor.word >> 40 & 0xff | 2)?;
    cpu.guest.tr.segment = Segment { attributes: segment.attributes | 2, ..segment };
    cpu.guest.tr.base = base;
    Ok(())
}

fn system_segment(cpu: &mut Cpu<X86_64>, selector: u16, kinds: &[u16]) -> Result<(Segment, u64, Descriptor), Fault> {
    if selector & 4 != 0 {
        return Err(general_protection(selector));
    }
    let descriptor = segment::descriptor(cpu, selector, general_protection)?;
    let segment = descriptor.segment(selector);
    if segment.has(CODE_OR_DATA) || !kinds.contains(&(segment.attributes & 0xf)) {
        return Err(general_protection(selector));
    }
    if !segment.has(PRESENT) {
        return Err(not_present(selector));
    }
    let upper = if cpu.guest.is_long() { segment::upper_base(cpu, &descriptor, selector)? } else { 0 };
    let base = descriptor.base() | upper;
    if cpu.guest.is_long() && !mmu::is_storable(cpu, base) {
        return Err(general_protection(selector));
    }
    Ok((segment, base, descriptor))
}

/// LAR, LSL, VERR, VERW: the descriptor if the selector may be looked at.
pub(super) fn visible_descriptor(cpu: &mut Cpu<X86_64>, selector: u16) -> Result<Option<Descriptor>, Fault> {
    if selector & !3 == 0 {
        return Ok(None);
    }
    // A selector beyond its table is not visible; a page fault is one.
    let outside = stack_fault(0xfff8);
    match segment::descriptor(cpu, selector, |_| outside) {
        Ok(descriptor) => Ok(Some(descriptor)),
        Err(fault) if fault == outside => Ok(None),
        Err(fault) => Err(fault),
    }
}
