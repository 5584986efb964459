//! System-management mode (AMD64 Architecture Programmer's Manual, volume 2, chapter 10).
//!
//! Entry stores the processor's state in the 64-bit layout of table 10-1, at [`STATE_AREA`] above SMBASE; RSM loads it again.

use crate::cpu::Cpu;
use crate::ir::Width;

use super::event::{Fault, invalid_opcode};
use super::registers::{RAX, segment_base};
use super::segment::{self, Segment, SegmentName, SystemSegment, Table, attribute::*};
use super::state::*;
use super::{debug, mmu};

/// SMBASE after a reset.
pub const BASE_AT_RESET: u32 = 0x3_0000;
/// Where the handler begins, from SMBASE on.
const ENTRY_POINT: u64 = 0x8000;
/// Where the saved state begins, from SMBASE on.
pub const STATE_AREA: u64 = 0xfe00;
/// The 64-bit layout, and bit 17: SMBASE can be moved. Bit 16 is clear: I/O instructions are not begun again.
const REVISION: u64 = 0x2_0064;

/// What the save-state area holds, by offset from [`STATE_AREA`] (table 10-1).
mod offset {
    /// ES; CS, SS, DS, FS and GS follow, 16 bytes each: selector, attributes, limit, base.
    pub(super) const SEGMENTS: u64 = 0x00;
    pub(super) const GDT: u64 = 0x60;
    pub(super) const LDT: u64 = 0x70;
    pub(super) const IDT: u64 = 0x80;
    pub(super) const TASK: u64 = 0x90;
    pub(super) const HALT_RESTART: u64 = 0xc9;
    pub(super) const EFER: u64 = 0xd0;
    pub(super) const REVISION: u64 = 0xfc;
    pub(super) const BASE: u64 = 0x100;
    pub(super) const CR4: u64 = 0x148;
    pub(super) const CR3: u64 = 0x150;
    pub(super) const CR0: u64 = 0x158;
    pub(super) const DR7: u64 = 0x160;
    pub(super) const DR6: u64 = 0x168;
    pub(super) const RFLAGS: u64 = 0x170;
    pub(super) const RIP: u64 = 0x178;
    /// RAX; the registers after it in encoding order are below it, 8 bytes each.
    pub(super) const RAX: u64 = 0x1f8;
}

/// A value to be stored: where, how wide, what.
type Saved = (u64, Width, u64);

fn save_segment(saved: &mut Vec<Saved>, at: u64, segment: &Segment, base: u64) {
    saved.extend([
        (at, Width::Half, u64::from(segment.selector)),
        (at + 2, Width::Half, u64::from(segment.attributes)),
        (at + 4, Width::Word, u64::from(segment.limit)),
        (at + 8, Width::Double, base),
    ]);
}

/// What entry stores.
fn image(cpu: &Cpu<X86_64>, halted: bool) -> Vec<Saved> {
    let guest = &cpu.guest;
    let mut saved = Vec::new();
    for (name, at) in SegmentName::ALL.into_iter().zip((offset::SEGMENTS..).step_by(16)) {
        save_segment(&mut saved, at, &guest.segments[name as usize], segment::base(cpu, name));
    }
    for (at, system) in [(offset::LDT, &guest.ldt), (offset::TASK, &guest.tr)] {
        save_segment(&mut saved, at, &system.segment, system.base);
    }
    for (at, table) in [(offset::GDT, &guest.gdt), (offset::IDT, &guest.idt)] {
        saved.extend([(at + 4, Width::Word, u64::from(table.limit)), (at + 8, Width::Double, table.base)]);
    }
    saved.extend([
        (offset::HALT_RESTART, Width::Byte, u64::from(halted)),
        (offset::EFER, Width::Double, guest.efer),
        (offset::REVISION, Width::Word, REVISION),
        (offset::BASE, Width::Word, u64::from(guest.management_base)),
        (offset::CR4, Width::Double, guest.cr4),
        (offset::CR3, Width::Double, guest.cr3),
        (offset::CR0, Width::Double, guest.cr0),
        (offset::DR7, Width::Double, guest.dr7),
        (offset::DR6, Width::Double, guest.dr6),
        (offset::RFLAGS, Width::Double, rflags(cpu)),
        (offset::RIP, Width::Double, instruction_pointer(cpu)),
    ]);
    let registers = &cpu.context.registers[usize::from(RAX.0)..][..16];
    saved.extend(registers.iter().zip(0..).map(|(value, number)| (offset::RAX - 8 * number, Width::Double, *value)));
    saved
}

/// Addresses are physical from here on, and no breakpoint is armed: the saved state is reached by its physical address whatever the
/// handler did.
fn leave_paging(cpu: &mut Cpu<X86_64>) {
    cpu.guest.cr0 &= !(CR0_PE | CR0_EM | CR0_TS | CR0_PG);
    cpu.guest.cr4 = 0;
    cpu.guest.efer = 0;
    cpu.guest.eflags = 0;
    cpu.guest.dr7 = 0x400;
    mmu::flush(cpu);
    debug::update(cpu);
}

fn state_address(cpu: &Cpu<X86_64>, offset: u64) -> u64 {
    (u64::from(cpu.guest.management_base) + STATE_AREA + offset) & 0xffff_ffff
}

/// Takes a system-management interrupt between two instructions; `halted`: the processor was executing HLT (10.3.3).
pub(super) fn enter(cpu: &mut Cpu<X86_64>, halted: bool) {
    let saved = image(cpu, halted);
    tracing::trace!(
        target: "int",
        "processor {}: system-management interrupt, SMBASE {:#x}",
        cpu.index,
        cpu.guest.management_base
    );
    let guest = &mut cpu.guest;
    guest.in_management = true;
    guest.management_in_nmi = guest.nmi_masked;
    guest.nmi_masked = true;
    leave_paging(cpu);
    for (offset, width, value) in saved {
        let address = state_address(cpu, offset);
        // Without paging nothing faults; where there is no memory the state is lost.
        let _ = cpu.system_store(address, width, value);
    }
    set_rflags(cpu, 0);
    let base = cpu.guest.management_base;
    let kind = PRESENT | CODE_OR_DATA | WRITABLE_OR_READABLE | ACCESSED | GRANULARITY;
    let flat = Segment { selector: 0, limit: u32::MAX, attributes: kind };
    for name in SegmentName::ALL {
        segment::set(cpu, name, flat, 0);
    }
    // The selector has no room for the upper bits of a base above 1 MiB.
    let code = Segment { selector: (base >> 4) as u16, ..flat };
    segment::set(cpu, SegmentName::Cs, code, u64::from(base));
    cpu.guest.near_code_limit = false;
    set_instruction_pointer(cpu, ENTRY_POINT);
}

fn load(cpu: &mut Cpu<X86_64>, offset: u64, width: Width) -> u64 {
    let address = state_address(cpu, offset);
    // Without paging nothing faults.
    cpu.system_load(address, width).unwrap_or(u64::MAX)
}

fn load_segment(cpu: &mut Cpu<X86_64>, at: u64) -> (Segment, u64) {
    let selector = load(cpu, at, Width::Half) as u16;
    let attributes = load(cpu, at + 2, Width::Half) as u16 & 0xf0ff;
    let limit = load(cpu, at + 4, Width::Word) as u32;
    (Segment { selector, limit, attributes }, load(cpu, at + 8, Width::Double))
}

/// Control registers that RSM may load (10.3.6).
fn is_legal(cpu: &Cpu<X86_64>, cr0: u64, cr3: u64, cr4: u64, efer: u64) -> bool {
    let paging = cr0 & CR0_PG != 0;
    let long = efer & EFER_LMA != 0;
    let cr0_legal = cr0 >> 32 == 0 && (!paging || cr0 & CR0_PE != 0) && (cr0 & CR0_NW == 0 || cr0 & CR0_CD != 0);
    let efer_legal = efer & !(EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE) == 0;
    let long_legal = long == (paging && efer & EFER_LME != 0)
        && (!long || cr4 & CR4_PAE != 0 && mmu::is_physical(cr3))
        && (long || cr4 & CR4_PCIDE == 0);
    cr0_legal && efer_legal && long_legal && cr4 & !cpu.guest.model.control_4() == 0
}

/// RSM: back to what was interrupted. A state that cannot be shuts the processor down.
pub(super) fn resume(cpu: &mut Cpu<X86_64>) -> Result<(), Fault> {
    if !cpu.guest.in_management {
        return Err(invalid_opcode());
    }
    leave_paging(cpu);
    let mut double = |offset| load(cpu, offset, Width::Double);
    let (cr0, cr3, cr4) = (double(offset::CR0), double(offset::CR3), double(offset::CR4));
    let (efer, dr6, dr7) = (double(offset::EFER), double(offset::DR6), double(offset::DR7));
    let (flags, rip) = (double(offset::RFLAGS), double(offset::RIP));
    if !is_legal(cpu, cr0, cr3, cr4, efer) {
        tracing::debug!(target: "int", "processor {} shuts down: RSM to an impossible state", cpu.index);
        cpu.shut_down = true;
        return Ok(());
    }
    for number in 0..16 {
        let value = load(cpu, offset::RAX - 8 * number, Width::Double);
        cpu.context.registers[usize::from(RAX.0) + number as usize] = value;
    }
    for (name, at) in SegmentName::ALL.into_iter().zip((offset::SEGMENTS..).step_by(16)) {
        let (segment, base) = load_segment(cpu, at);
        cpu.guest.segments[name as usize] = segment;
        cpu.set_register(segment_base(name), base);
    }
    let (segment, base) = load_segment(cpu, offset::LDT);
    cpu.guest.ldt = SystemSegment { segment, base };
    let (segment, base) = load_segment(cpu, offset::TASK);
    cpu.guest.tr = SystemSegment { segment, base };
    let mut table = |at| Table { limit: load(cpu, at + 4, Width::Word) as u16, base: load(cpu, at + 8, Width::Double) };
    let (gdt, idt) = (table(offset::GDT), table(offset::IDT));
    let halted = load(cpu, offset::HALT_RESTART, Width::Byte) & 1 != 0;
    let base = load(cpu, offset::BASE, Width::Word) as u32;
    let guest = &mut cpu.guest;
    guest.gdt = gdt;
    guest.idt = idt;
    guest.cr0 = cr0 | CR0_ET;
    guest.cr3 = cr3;
    guest.cr4 = cr4;
    guest.efer = efer;
    guest.dr6 = dr6 & 0xffff_ffff;
    guest.dr7 = dr7 & 0xffff_ffff | 0x400;
    guest.management_base = base;
    guest.in_management = false;
    guest.nmi_masked = std::mem::take(&mut guest.management_in_nmi);
    // What the handler saw may not be there any more.
    mmu::flush(cpu);
    let needs_pointers = cr0 & CR0_PG != 0 && cr4 & CR4_PAE != 0 && efer & EFER_LMA == 0;
    if needs_pointers && mmu::load_page_directory_pointers(cpu).is_err() {
        cpu.shut_down = true;
        return Ok(());
    }
    load_rflags(cpu, flags);
    debug::update(cpu);
    set_instruction_pointer(cpu, rip);
    cpu.halted = halted;
    Ok(())
}
