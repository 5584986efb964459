//! Hardware task switches (SDM volume 3, chapter 7).

use crate::cpu::Cpu;
use crate::ir::{Register, Width};

use super::event::{Fault, Stack, general_protection, invalid_tss, not_present, stack_fault};
use super::mmu;
use super::registers::RAX;
use super::segment::{self, Descriptor, Segment, SegmentName, attribute::*};
use super::state::*;
use super::{debug, far};

/// Why the task is switched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// JMP.
    Jump,
    /// CALL, or a gate of an interrupt or exception: the new task returns to the old one.
    Call,
    /// IRET with NT set.
    Return,
}

const BUSY: u64 = 2 << 40;

/// Where a task-state segment has what; 16- and 32-bit ones differ.
struct Layout {
    width: Width,
    instruction_pointer: u64,
    flags: u64,
    general: u64,
    segments: u64,
    segment_step: u64,
    segment_count: usize,
    ldt: u64,
    least_limit: u32,
}

const LAYOUT_16: Layout = Layout {
    width: Width::Half,
    instruction_pointer: 0x0e,
    flags: 0x10,
    general: 0x12,
    segments: 0x22,
    segment_step: 2,
    segment_count: 4,
    ldt: 0x2a,
    least_limit: 0x2b,
};

const LAYOUT_32: Layout = Layout {
    width: Width::Word,
    instruction_pointer: 0x20,
    flags: 0x24,
    general: 0x28,
    segments: 0x48,
    segment_step: 4,
    segment_count: 6,
    ldt: 0x60,
    least_limit: 0x67,
};

fn layout(attributes: u16) -> &'static Layout {
    if attributes & 8 != 0 { &LAYOUT_32 } else { &LAYOUT_16 }
}

/// Enters the task behind a task gate of the interrupt descriptor table.
pub(super) fn switch_by_gate(
    cpu: &mut Cpu<X86_64>,
    selector: u16,
    error_code: Option<u32>,
    rip: u64,
    flags: u64,
) -> Result<(), Fault> {
    switch_to(cpu, selector, Reason::Call, rip, flags)?;
    if let Some(error_code) = error_code {
        let width = layout(cpu.guest.tr.segment.attributes).width;
        let mut stack = Stack::present(cpu);
        stack.push(cpu, width, u64::from(error_code))?;
        stack.commit(cpu);
    }
    Ok(())
}

/// IRET with NT set: back to the task that the present one's link names.
pub(super) fn return_to_previous(cpu: &mut Cpu<X86_64>, next: u64) -> Result<(), Fault> {
    let link = cpu.system_load(cpu.guest.tr.base, Width::Half)? as u16;
    if link & 4 != 0 || link & !3 == 0 {
        return Err(invalid_tss(link));
    }
    let flags = rflags(cpu) & !FLAG_RF;
    switch_to(cpu, link, Reason::Return, offset_of(cpu, next), flags)
}

/// A jump or call to a task; `next` is the linear address behind the instruction.
pub(super) fn switch(cpu: &mut Cpu<X86_64>, selector: u16, reason: Reason, next: u64) -> Result<(), Fault> {
    let next = offset_of(cpu, next);
    let flags = rflags(cpu) & !FLAG_RF;
    switch_to(cpu, selector, reason, next, flags)
}

fn offset_of(cpu: &Cpu<X86_64>, linear: u64) -> u64 {
    linear.wrapping_sub(segment::base(cpu, SegmentName::Cs)) & 0xffff_ffff
}

/// Saves the present task, which goes on at `next` with `flags`, and loads another.
fn switch_to(cpu: &mut Cpu<X86_64>, selector: u16, reason: Reason, next: u64, flags: u64) -> Result<(), Fault> {
    let wrong = if reason == Reason::Return { invalid_tss } else { general_protection };
    if selector & 4 != 0 || selector & !3 == 0 {
        return Err(wrong(selector));
    }
    let new = segment::descriptor(cpu, selector, wrong)?;
    let kind = new.attributes() & 0x1f;
    let expected: [u16; 2] = if reason == Reason::Return { [3, 11] } else { [1, 9] };
    if !expected.contains(&kind) {
        return Err(wrong(selector));
    }
    if new.attributes() & PRESENT == 0 {
        return Err(not_present(selector));
    }
    let new_layout = layout(new.attributes());
    if new.limit() < new_layout.least_limit {
        return Err(invalid_tss(selector));
    }
    let old = cpu.guest.tr;
    let image = read_image(cpu, &new, new_layout)?;
    if reason != Reason::Call {
        mark_busy(cpu, old.segment.selector, false)?;
    }
    let flags = if reason == Reason::Return { flags & !FLAG_NT } else { flags };
    save(cpu, next, flags)?;
    if reason == Reason::Call {
        cpu.system_store(new.base(), Width::Half, u64::from(old.segment.selector))?;
    }
    if reason != Reason::Return {
        mark_busy(cpu, selector, true)?;
    }
    let segment = new.segment(selector);
    cpu.guest.tr.segment = Segment { attributes: segment.attributes | 2, ..segment };
    cpu.guest.tr.base = new.base();
    cpu.guest.cr0 |= CR0_TS;
    if cpu.guest.dr7 & debug::DR7_LOCAL != 0 {
        cpu.guest.dr7 &= !debug::DR7_LOCAL;
        debug::update(cpu);
    }
    if image.traps {
        cpu.guest.debug_pending |= debug::TASK_SWITCH;
    }
    load(cpu, &image, reason == Reason::Call)
}

fn mark_busy(cpu: &mut Cpu<X86_64>, selector: u16, busy: bool) -> Result<(), Fault> {
    let descriptor = segment::descriptor(cpu, selector, invalid_tss)?;
    let word = if busy { descriptor.word | BUSY } else { descriptor.word & !BUSY };
    cpu.system_store(descriptor.address + 5, Width::Byte, word >> 40 & 0xff)
}

/// The dynamic part of a task-state segment.
struct Image {
    page_tables: Option<u64>,
    instruction_pointer: u64,
    flags: u64,
    general: [u64; 8],
    segments: [u16; 6],
    ldt: u16,
    width: Width,
    /// A #DB comes before its first instruction.
    traps: bool,
}

fn read_image(cpu: &mut Cpu<X86_64>, new: &Descriptor, layout: &Layout) -> Result<Image, Fault> {
    let base = new.base();
    let mut image = Image {
        page_tables: None,
        instruction_pointer: cpu.system_load(base + layout.instruction_pointer, layout.width)?,
        flags: cpu.system_load(base + layout.flags, layout.width)?,
        general: [0; 8],
        segments: [0; 6],
        ldt: cpu.system_load(base + layout.ldt, Width::Half)? as u16,
        width: layout.width,
        traps: false,
    };
    for (number, value) in image.general.iter_mut().enumerate() {
        *value = cpu.system_load(base + layout.general + number as u64 * layout.width.bytes(), layout.width)?;
    }
    for (number, value) in image.segments.iter_mut().enumerate().take(layout.segment_count) {
        *value = cpu.system_load(base + layout.segments + number as u64 * layout.segment_step, Width::Half)? as u16;
    }
    if layout.width == Width::Word {
        image.page_tables = Some(cpu.system_load(base + 0x1c, Width::Word)?);
        image.traps = cpu.system_load(base + 0x64, Width::Half)? & 1 != 0;
    }
    Ok(image)
}

fn save(cpu: &mut Cpu<X86_64>, next: u64, flags: u64) -> Result<(), Fault> {
    let task = cpu.guest.tr;
    let layout = layout(task.segment.attributes);
    let width = layout.width;
    cpu.system_store(task.base + layout.instruction_pointer, width, next)?;
    cpu.system_store(task.base + layout.flags, width, flags)?;
    for number in 0..8 {
        let value = cpu.register(Register(RAX.0 + number));
        cpu.system_store(task.base + layout.general + u64::from(number) * width.bytes(), width, value)?;
    }
    for number in 0..layout.segment_count {
        let selector = u64::from(cpu.guest.segments[number].selector);
        let address = task.base + layout.segments + number as u64 * layout.segment_step;
        cpu.system_store(address, Width::Half, selector)?;
    }
    Ok(())
}

/// Loads a task; exceptions from here on are the new task's.
fn load(cpu: &mut Cpu<X86_64>, image: &Image, nested: bool) -> Result<(), Fault> {
    if let Some(tables) = image.page_tables
        && cpu.guest.cr0 & CR0_PG != 0
    {
        cpu.guest.cr3 = tables;
        mmu::flush(cpu);
        if cpu.guest.cr4 & CR4_PAE != 0 {
            mmu::load_page_directory_pointers(cpu)?;
        }
    }
    load_rflags(cpu, image.flags | if nested { FLAG_NT } else { 0 });
    for (number, value) in image.general.iter().enumerate() {
        let register = Register(RAX.0 + number as u8);
        let upper = if image.width == Width::Half { 0xffff_0000 } else { 0 };
        cpu.set_register(register, value | upper);
    }
    // The selectors are there from the start; descriptors follow one by one, each with its own checks.
    let virtual_8086 = image.flags & FLAG_VM != 0 && image.width == Width::Word;
    for (name, selector) in SegmentName::ALL.into_iter().zip(image.segments) {
        if virtual_8086 {
            far::enter_virtual_8086(cpu, name, selector);
        } else {
            segment::set(cpu, name, Segment { selector, limit: 0, attributes: 0 }, 0);
        }
    }
    load_ldt(cpu, image.ldt)?;
    if virtual_8086 {
        set_instruction_pointer(cpu, image.instruction_pointer & 0xffff);
        return Ok(());
    }
    cpu.context.pc = image.instruction_pointer;
    let code_selector = image.segments[SegmentName::Cs as usize];
    let privilege = (code_selector & 3) as u8;
    load_code(cpu, code_selector, privilege)?;
    let stack_selector = image.segments[SegmentName::Ss as usize];
    load_stack(cpu, stack_selector, privilege)?;
    for name in [SegmentName::Es, SegmentName::Ds, SegmentName::Fs, SegmentName::Gs] {
        let selector = image.segments[name as usize];
        segment::load(cpu, name, selector).map_err(|fault| as_invalid_tss(fault, selector))?;
    }
    if image.instruction_pointer > u64::from(cpu.guest.segments[SegmentName::Cs as usize].limit) {
        return Err(general_protection(0));
    }
    set_instruction_pointer(cpu, image.instruction_pointer);
    Ok(())
}

/// What would be #GP of a segment load is #TS in a task switch.
fn as_invalid_tss(fault: Fault, selector: u16) -> Fault {
    if fault == general_protection(selector) { invalid_tss(selector) } else { fault }
}

fn load_ldt(cpu: &mut Cpu<X86_64>, selector: u16) -> Result<(), Fault> {
    far::load_ldt(cpu, selector).map_err(|fault| {
        let known = fault == general_protection(selector) || fault == not_present(selector);
        if known { invalid_tss(selector) } else { fault }
    })
}

fn load_code(cpu: &mut Cpu<X86_64>, selector: u16, privilege: u8) -> Result<(), Fault> {
    if selector & !3 == 0 {
        return Err(invalid_tss(selector));
    }
    let mut descriptor = segment::descriptor(cpu, selector, invalid_tss)?;
    let segment = descriptor.segment(selector);
    let fits = if segment.has(EXPAND_DOWN_OR_CONFORMING) {
        segment.privilege() <= privilege
    } else {
        segment.privilege() == privilege
    };
    if !segment.has(CODE_OR_DATA | CODE) || !fits {
        return Err(invalid_tss(selector));
    }
    if !segment.has(PRESENT) {
        return Err(not_present(selector));
    }
    segment::mark_accessed(cpu, &mut descriptor)?;
    segment::set(cpu, SegmentName::Cs, descriptor.segment(selector), descriptor.base());
    Ok(())
}

fn load_stack(cpu: &mut Cpu<X86_64>, selector: u16, privilege: u8) -> Result<(), Fault> {
    let descriptor = super::event::stack_segment(cpu, selector, privilege, invalid_tss)
        .map_err(|fault| if fault == not_present(selector) { stack_fault(selector) } else { fault })?;
    segment::set(cpu, SegmentName::Ss, descriptor.segment(selector), descriptor.base());
    Ok(())
}
