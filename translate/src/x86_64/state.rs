//! A processor's state beyond [`crate::cpu::Context`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use crate::cpu::{Cpu, Status, Stopped};
use crate::float::Flags;
use crate::guest::Exception;
use crate::ir::Width;

use super::cpuid::CpuModel;
use super::debug;
use super::event::{Fault, PendingEvent};
use super::features::InstructionSet;
use super::flags;
use super::mmu;
use super::registers::{DIRECTION, FLAGS_A, FLAGS_B, FLAGS_KIND, RAX, RDX, segment_base};
use super::segment::{self, Segment, SegmentName, SystemSegment, Table, attribute};
use super::softfloat;
use super::x87::X87;

/// CR0: protected mode.
pub const CR0_PE: u64 = 1 << 0;
/// CR0: WAIT heeds `TS`.
pub const CR0_MP: u64 = 1 << 1;
/// CR0: there is no floating-point unit.
pub const CR0_EM: u64 = 1 << 2;
/// CR0: the floating-point unit holds another task's state.
pub const CR0_TS: u64 = 1 << 3;
/// CR0: always one.
pub const CR0_ET: u64 = 1 << 4;
/// CR0: floating-point errors are exceptions.
pub const CR0_NE: u64 = 1 << 5;
/// CR0: supervisors heed read-only pages.
pub const CR0_WP: u64 = 1 << 16;
/// CR0: alignment checks are possible.
pub const CR0_AM: u64 = 1 << 18;
/// CR0: not write-through.
pub const CR0_NW: u64 = 1 << 29;
/// CR0: caches off.
pub const CR0_CD: u64 = 1 << 30;
/// CR0: paging.
pub const CR0_PG: u64 = 1 << 31;

/// CR4: virtual-8086 extensions.
pub const CR4_VME: u64 = 1 << 0;
/// CR4: RDTSC is privileged.
pub const CR4_TSD: u64 = 1 << 2;
/// CR4: debugging extensions.
pub const CR4_DE: u64 = 1 << 3;
/// CR4: 4 MiB pages.
pub const CR4_PSE: u64 = 1 << 4;
/// CR4: physical address extension.
pub const CR4_PAE: u64 = 1 << 5;
/// CR4: global pages.
pub const CR4_PGE: u64 = 1 << 7;
/// CR4: RDPMC is not privileged.
pub const CR4_PCE: u64 = 1 << 8;
/// CR4: FXSAVE and SSE may be used.
pub const CR4_OSFXSR: u64 = 1 << 9;
/// CR4: SSE exceptions may be raised.
pub const CR4_OSXMMEXCPT: u64 = 1 << 10;
/// CR4: SGDT and the like are privileged.
pub const CR4_UMIP: u64 = 1 << 11;
/// CR4: 5-level paging.
pub const CR4_LA57: u64 = 1 << 12;
/// CR4: RDFSBASE and the like.
pub const CR4_FSGSBASE: u64 = 1 << 16;
/// CR4: process-context identifiers.
pub const CR4_PCIDE: u64 = 1 << 17;
/// CR4: XSAVE.
pub const CR4_OSXSAVE: u64 = 1 << 18;
/// CR4: supervisors do not execute user pages.
pub const CR4_SMEP: u64 = 1 << 20;
/// CR4: supervisors do not access user pages.
pub const CR4_SMAP: u64 = 1 << 21;

/// EFER: SYSCALL.
pub const EFER_SCE: u64 = 1 << 0;
/// EFER: long mode is asked for.
pub const EFER_LME: u64 = 1 << 8;
/// EFER: long mode is active.
pub const EFER_LMA: u64 = 1 << 10;
/// EFER: pages may forbid execution.
pub const EFER_NXE: u64 = 1 << 11;
/// EFER: FXSAVE may leave out the XMM registers.
pub const EFER_FFXSR: u64 = 1 << 14;

/// RFLAGS: bit 1 reads as one.
pub const FLAG_FIXED: u64 = 1 << 1;
/// RFLAGS: trap after each instruction.
pub const FLAG_TF: u64 = 1 << 8;
/// RFLAGS: interrupts are taken.
pub const FLAG_IF: u64 = 1 << 9;
/// RFLAGS: string instructions go down.
pub const FLAG_DF: u64 = 1 << 10;
/// RFLAGS: I/O privilege level.
pub const FLAG_IOPL: u64 = 3 << 12;
/// RFLAGS: nested task.
pub const FLAG_NT: u64 = 1 << 14;
/// RFLAGS: resume.
pub const FLAG_RF: u64 = 1 << 16;
/// RFLAGS: virtual-8086 mode.
pub const FLAG_VM: u64 = 1 << 17;
/// RFLAGS: alignment check, access control.
pub const FLAG_AC: u64 = 1 << 18;
/// RFLAGS: virtual interrupt flag.
pub const FLAG_VIF: u64 = 1 << 19;
/// RFLAGS: virtual interrupt pending.
pub const FLAG_VIP: u64 = 1 << 20;
/// RFLAGS: can be changed, which tells that there is CPUID.
pub const FLAG_ID: u64 = 1 << 21;

/// A processor's state beyond [`crate::cpu::Context`].
///
/// What the context has: the general-purpose registers, what the arithmetic flags are computed from, the direction flag, the
/// bases of segments, and the vector registers: see [`super::registers`]. Of the MXCSR it has the rounding mode and the exception flags.
#[derive(Clone, Debug)]
pub struct X86_64 {
    /// Segment registers but for their bases, in encoding order.
    pub segments: [Segment; 6],
    /// Local descriptor table.
    pub ldt: SystemSegment,
    /// Task register.
    pub tr: SystemSegment,
    /// Global descriptor table.
    pub gdt: Table,
    /// Interrupt descriptor table.
    pub idt: Table,
    /// RFLAGS without the arithmetic flags, DF and the fixed bit.
    pub eflags: u64,
    /// Control register 0.
    pub cr0: u64,
    /// Linear address of the last page fault.
    pub cr2: u64,
    /// Page tables.
    pub cr3: u64,
    /// Control register 4.
    pub cr4: u64,
    /// Extended features.
    pub efer: u64,
    /// XSAVE components that are enabled.
    pub xcr0: u64,
    /// Page-directory-pointer entries that PAE paging loaded with CR3.
    pub page_directory_pointers: [u64; 4],
    /// Debug address registers.
    pub dr: [u64; 4],
    /// Debug status.
    pub dr6: u64,
    /// Debug control.
    pub dr7: u64,
    /// MXCSR but for its exception flags, which are [`crate::cpu::Context::float_flags`].
    pub mxcsr: u32,
    /// The x87 and, in its registers, MMX.
    pub x87: X87,
    /// SYSCALL: selectors.
    pub star: u64,
    /// SYSCALL: target in 64-bit mode.
    pub lstar: u64,
    /// SYSCALL: target in compatibility mode.
    pub cstar: u64,
    /// SYSCALL: flags to clear.
    pub sfmask: u64,
    /// What SWAPGS swaps the base of GS with.
    pub kernel_gs_base: u64,
    /// SYSENTER: code segment.
    pub sysenter_cs: u64,
    /// SYSENTER: stack pointer.
    pub sysenter_esp: u64,
    /// SYSENTER: instruction pointer.
    pub sysenter_eip: u64,
    /// What RDTSCP and RDPID give.
    pub tsc_aux: u64,
    /// The time stamp counter minus the ticks that the virtual clock's nanoseconds are.
    pub tsc_offset: u64,
    /// IA32_TSC_ADJUST.
    pub tsc_adjust: u64,
    /// Model-specific registers that only hold what was written.
    pub other_msrs: BTreeMap<u32, u64>,
    /// The last instruction holds interrupts back for one more.
    pub interrupt_shadow: bool,
    /// That instruction was a load of SS, which holds debug traps back as well.
    pub(super) stack_shadow: bool,
    /// Bits of DR6 of debug traps that wait for the next boundary between instructions.
    pub(super) debug_pending: u64,
    /// The number of instructions retired at which RF, if it is set, holds; later it counts as cleared.
    pub(super) resume_at: u64,
    /// Code runs near the limit of its segment: each instruction is looked at.
    pub(super) near_code_limit: bool,
    /// How many PAUSEs were executed.
    pub(super) pauses: u32,
    /// What is delivered before the next instruction.
    pub pending_event: Option<PendingEvent>,
    /// An NMI is being handled.
    pub nmi_masked: bool,
    /// System-management mode.
    pub in_management: bool,
    /// System-management mode was entered while an NMI was being handled.
    pub management_in_nmi: bool,
    /// SMBASE: where the memory of the system-management handler begins.
    pub management_base: u32,
    /// Waits for a start-up signal.
    pub waits_for_start_up: bool,
    /// Task priority where no local APIC answers.
    pub cr8: u64,
    /// What CPUID answers.
    pub model: Arc<CpuModel>,
    /// The instructions of [`X86_64::model`].
    pub(super) instructions: InstructionSet,
    /// Which large pages the soft TLB may hold pieces of.
    pub(super) large_pages: crate::large_pages::LargePages,
    /// How many processors the machine has.
    pub processors: Arc<AtomicU32>,
    /// The bootstrap processor: it does not wait for a start-up signal after INIT.
    pub bootstrap: bool,
}

impl X86_64 {
    /// A processor before [`reset`].
    pub fn new(model: Arc<CpuModel>, processors: Arc<AtomicU32>, bootstrap: bool) -> X86_64 {
        X86_64 {
            segments: [Segment::default(); 6],
            ldt: SystemSegment::default(),
            tr: SystemSegment::default(),
            gdt: Table::default(),
            idt: Table::default(),
            eflags: 0,
            cr0: 0,
            cr2: 0,
            cr3: 0,
            cr4: 0,
            efer: 0,
            xcr0: 1,
            page_directory_pointers: [0; 4],
            dr: [0; 4],
            dr6: 0,
            dr7: 0,
            mxcsr: 0x1f80,
            x87: X87::default(),
            star: 0,
            lstar: 0,
            cstar: 0,
            sfmask: 0,
            kernel_gs_base: 0,
            sysenter_cs: 0,
            sysenter_esp: 0,
            sysenter_eip: 0,
            tsc_aux: 0,
            tsc_offset: model.time_stamp_start,
            tsc_adjust: 0,
            other_msrs: BTreeMap::new(),
            interrupt_shadow: false,
            stack_shadow: false,
            near_code_limit: false,
            pauses: 0,
            debug_pending: 0,
            resume_at: 0,
            pending_event: None,
            nmi_masked: false,
            in_management: false,
            management_in_nmi: false,
            management_base: super::management::BASE_AT_RESET,
            waits_for_start_up: false,
            cr8: 0,
            instructions: model.instructions(),
            model,
            large_pages: crate::large_pages::LargePages::default(),
            processors,
            bootstrap,
        }
    }

    /// Current privilege level.
    pub fn privilege(&self) -> u8 {
        if self.cr0 & CR0_PE == 0 {
            0
        } else if self.is_virtual_8086() {
            3
        } else {
            // The privilege of SS, which is that of CS but for conforming code.
            self.segments[SegmentName::Ss as usize].privilege()
        }
    }

    /// Virtual-8086 mode.
    pub fn is_virtual_8086(&self) -> bool {
        self.eflags & FLAG_VM != 0 && self.efer & EFER_LMA == 0
    }

    /// Segments are sixteen times their selectors.
    pub fn is_real_or_virtual(&self) -> bool {
        self.cr0 & CR0_PE == 0 || self.is_virtual_8086()
    }

    /// Accesses to memory must be aligned: CR0.AM and RFLAGS.AC at privilege level 3.
    pub(super) fn checks_alignment(&self) -> bool {
        self.privilege() == 3 && self.cr0 & CR0_AM != 0 && self.eflags & FLAG_AC != 0
    }

    /// 64-bit code runs.
    pub fn is_64_bit(&self) -> bool {
        segment::is_64_bit(self)
    }

    /// Long mode is active, in 64-bit or compatibility mode.
    pub fn is_long(&self) -> bool {
        self.efer & EFER_LMA != 0
    }

    /// A linear address as wide as the mode has them.
    pub fn linear(&self, address: u64) -> u64 {
        if self.is_long() { address } else { address & 0xffff_ffff }
    }

    /// I/O privilege level.
    pub fn io_privilege(&self) -> u8 {
        (self.eflags >> 12 & 3) as u8
    }
}

/// Puts the processor into its state after RESET, or after INIT, which leaves the floating-point unit, caches and
/// model-specific registers as they are (SDM volume 3, table 10-1).
pub fn reset(cpu: &mut Cpu<X86_64>, init: bool) {
    let before = cpu.guest.clone();
    let fresh = X86_64::new(before.model.clone(), before.processors.clone(), before.bootstrap);
    let guest = &mut cpu.guest;
    *guest = if init {
        X86_64 {
            mxcsr: before.mxcsr,
            x87: before.x87,
            xcr0: before.xcr0,
            star: before.star,
            lstar: before.lstar,
            cstar: before.cstar,
            sfmask: before.sfmask,
            kernel_gs_base: before.kernel_gs_base,
            sysenter_cs: before.sysenter_cs,
            sysenter_esp: before.sysenter_esp,
            sysenter_eip: before.sysenter_eip,
            tsc_aux: before.tsc_aux,
            tsc_offset: before.tsc_offset,
            tsc_adjust: before.tsc_adjust,
            management_base: before.management_base,
            other_msrs: before.other_msrs,
            cr0: before.cr0 & (CR0_CD | CR0_NW),
            ..fresh
        }
    } else {
        let other_msrs = BTreeMap::from(super::msr::AT_RESET);
        X86_64 { cr0: CR0_CD | CR0_NW, other_msrs, ..fresh }
    };
    guest.cr0 |= CR0_ET;
    guest.dr6 = 0xffff_0ff0;
    guest.dr7 = 0x400;
    guest.gdt.limit = 0xffff;
    guest.idt.limit = 0xffff;
    let real = |kind: u16| attribute::PRESENT | kind;
    let data = attribute::CODE_OR_DATA | attribute::WRITABLE_OR_READABLE | attribute::ACCESSED;
    guest.segments = [Segment { selector: 0, limit: 0xffff, attributes: real(data) }; 6];
    guest.segments[SegmentName::Cs as usize] =
        Segment { selector: 0xf000, limit: 0xffff, attributes: real(data | attribute::CODE) };
    guest.ldt.segment = Segment { selector: 0, limit: 0xffff, attributes: real(2) };
    guest.tr.segment = Segment { selector: 0, limit: 0xffff, attributes: real(11) };
    guest.waits_for_start_up = !guest.bootstrap;
    let registers = &mut cpu.context.registers;
    registers[..16].fill(0);
    registers[usize::from(RDX.0)] = u64::from(guest.model.signature());
    registers[usize::from(RAX.0)] = 0;
    for name in SegmentName::ALL {
        registers[usize::from(segment_base(name).0)] = 0;
    }
    registers[usize::from(segment_base(SegmentName::Cs).0)] = 0xffff_0000;
    if !init {
        registers[usize::from(super::registers::XMM)..usize::from(super::registers::YMM_HIGH) + 32].fill(0);
        cpu.context.float_flags = 0;
        cpu.context.float_rounding = crate::float::Rounding::NearestEven;
    }
    set_rflags(cpu, 0);
    cpu.context.pc = 0xffff_fff0;
    cpu.halted = cpu.guest.waits_for_start_up;
    cpu.flush_tlb();
    debug::update(cpu);
}

/// All of RFLAGS.
pub fn rflags(cpu: &Cpu<X86_64>) -> u64 {
    let register = |register: crate::ir::Register| cpu.context.registers[usize::from(register.0)];
    let arithmetic = flags::compute(register(FLAGS_KIND), register(FLAGS_A), register(FLAGS_B));
    let direction = if (register(DIRECTION) as i64) < 0 { FLAG_DF } else { 0 };
    let resume = if debug::resume_flag(cpu) { FLAG_RF } else { 0 };
    cpu.guest.eflags & !FLAG_RF | resume | arithmetic | direction | FLAG_FIXED
}

/// Replaces all of RFLAGS at the end of the instruction in progress: RF holds for the next one.
pub(super) fn load_rflags(cpu: &mut Cpu<X86_64>, value: u64) {
    set_rflags(cpu, value);
    cpu.guest.resume_at = cpu.context.instructions.wrapping_add(1);
}

/// Replaces all of RFLAGS between two instructions.
pub fn set_rflags(cpu: &mut Cpu<X86_64>, value: u64) {
    let arithmetic = flags::ARITHMETIC;
    set_arithmetic_flags(cpu, value & arithmetic);
    cpu.context.registers[usize::from(DIRECTION.0)] = if value & FLAG_DF != 0 { u64::MAX } else { 1 };
    let system = FLAG_TF | FLAG_IF | FLAG_IOPL | FLAG_NT | FLAG_RF | FLAG_VM | FLAG_AC | FLAG_VIF | FLAG_VIP | FLAG_ID;
    cpu.guest.eflags = value & system;
    cpu.guest.resume_at = cpu.context.instructions;
}

/// Replaces the arithmetic flags.
pub(super) fn set_arithmetic_flags(cpu: &mut Cpu<X86_64>, value: u64) {
    let registers = &mut cpu.context.registers;
    registers[usize::from(FLAGS_KIND.0)] = flags::Kind::EXPLICIT.encode();
    registers[usize::from(FLAGS_A.0)] = value;
    registers[usize::from(FLAGS_B.0)] = 0;
}

/// MXCSR.
pub fn mxcsr(cpu: &Cpu<X86_64>) -> u32 {
    cpu.guest.mxcsr & !u32::from(softfloat::exception::ALL)
        | u32::from(softfloat::from_flags(Flags(cpu.context.float_flags)))
}

/// Replaces MXCSR.
pub fn set_mxcsr(cpu: &mut Cpu<X86_64>, value: u32) {
    cpu.guest.mxcsr = value & softfloat::MXCSR_MASK & !u32::from(softfloat::exception::ALL);
    cpu.context.float_flags = softfloat::to_flags(value as u16 & softfloat::exception::ALL).0;
    cpu.context.float_rounding = softfloat::rounding(value >> 13);
}

/// RIP, while no code runs.
pub fn instruction_pointer(cpu: &Cpu<X86_64>) -> u64 {
    let offset = cpu.context.pc.wrapping_sub(segment::base(cpu, SegmentName::Cs));
    if cpu.guest.is_64_bit() { offset } else { offset & 0xffff_ffff }
}

/// Continues at an offset in the present code segment.
pub fn set_instruction_pointer(cpu: &mut Cpu<X86_64>, offset: u64) {
    let linear = segment::base(cpu, SegmentName::Cs).wrapping_add(offset);
    cpu.context.pc = if cpu.guest.is_64_bit() { linear } else { linear & 0xffff_ffff };
}

impl Cpu<X86_64> {
    pub(super) fn register(&self, register: crate::ir::Register) -> u64 {
        self.context.registers[usize::from(register.0)]
    }

    pub(super) fn set_register(&mut self, register: crate::ir::Register, value: u64) {
        self.context.registers[usize::from(register.0)] = value;
    }

    /// Loads as the processor itself does from its tables: as a supervisor, whatever the privilege.
    pub(super) fn system_load(&mut self, address: u64, width: Width) -> Result<u64, Fault> {
        self.complete(|cpu| cpu.load(address, width, mmu::MODE_SUPERVISOR_IMPLICIT))
    }

    /// Stores as the processor itself does.
    pub(super) fn system_store(&mut self, address: u64, width: Width, value: u64) -> Result<(), Fault> {
        self.complete(|cpu| cpu.store(address, width, mmu::MODE_SUPERVISOR_IMPLICIT, value))
    }

    /// An access in the middle of something that cannot begin again: code that it overwrites is forgotten, and a watchpoint does not
    /// stop it.
    pub(super) fn complete<T>(&mut self, mut access: impl FnMut(&mut Self) -> Result<T, Stopped>) -> Result<T, Fault> {
        let suspended = self.watch_suspended;
        let result = loop {
            match access(self) {
                Ok(value) => break Ok(value),
                Err(Stopped) => match crate::interpret::status(self) {
                    Some(Status::CodeWrite) => {}
                    Some(Status::Watchpoint) => self.watch_suspended = true,
                    Some(Status::Raised) | None => {
                        let Exception { number, information } = self.context.exception;
                        break Err(Fault(Exception { number, information }));
                    }
                },
            }
        };
        self.watch_suspended = suspended;
        result
    }
}
