//! The state of an x86-64 processor.
//!
//! Names and layouts follow the Intel 64 Architectures Software Developer's Manual (SDM); AMD64 is the same but for
//! the registers that only one maker has, which are found among the [model-specific registers](CpuState::msrs).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Positions in [`CpuState::gpr`], which are the register numbers of instruction encodings.
pub mod gpr {
    /// RAX.
    pub const RAX: usize = 0;
    /// RCX.
    pub const RCX: usize = 1;
    /// RDX.
    pub const RDX: usize = 2;
    /// RBX.
    pub const RBX: usize = 3;
    /// RSP.
    pub const RSP: usize = 4;
    /// RBP.
    pub const RBP: usize = 5;
    /// RSI.
    pub const RSI: usize = 6;
    /// RDI.
    pub const RDI: usize = 7;
}

/// Bits of RFLAGS (SDM volume 1, 3.4.3).
pub mod rflags {
    /// Bit 1, which always reads as one.
    pub const FIXED: u64 = 1 << 1;
    /// Trap: an exception after each instruction.
    pub const TF: u64 = 1 << 8;
    /// Maskable interrupts are taken.
    pub const IF: u64 = 1 << 9;
    /// Instruction breakpoints do not stop the next instruction.
    pub const RF: u64 = 1 << 16;
}

/// Bits of CR0 (SDM volume 3, 2.5).
pub mod cr0 {
    /// Protected mode.
    pub const PE: u64 = 1 << 0;
    /// Extension type; always one on today's processors.
    pub const ET: u64 = 1 << 4;
    /// Supervisor writes honour read-only pages.
    pub const WP: u64 = 1 << 16;
    /// Not write-through.
    pub const NW: u64 = 1 << 29;
    /// Caches off.
    pub const CD: u64 = 1 << 30;
    /// Paging.
    pub const PG: u64 = 1 << 31;
}

/// Bits of CR4 (SDM volume 3, 2.5).
pub mod cr4 {
    /// 4 MiB pages in 32-bit paging.
    pub const PSE: u64 = 1 << 4;
    /// Physical address extension.
    pub const PAE: u64 = 1 << 5;
    /// FXSAVE, FXRSTOR and SSE may be used.
    pub const OSFXSR: u64 = 1 << 9;
    /// 57-bit linear addresses.
    pub const LA57: u64 = 1 << 12;
    /// XSAVE and XCR0 may be used.
    pub const OSXSAVE: u64 = 1 << 18;
    /// Supervisor data accesses to user pages fault.
    pub const SMAP: u64 = 1 << 21;
}

/// Bits of the extended feature enable register (SDM volume 3, 2.2.1).
pub mod efer {
    /// SYSCALL and SYSRET.
    pub const SCE: u64 = 1 << 0;
    /// Long mode is asked for.
    pub const LME: u64 = 1 << 8;
    /// Long mode is active.
    pub const LMA: u64 = 1 << 10;
    /// Pages may forbid execution.
    pub const NXE: u64 = 1 << 11;
}

/// Numbers of the model-specific registers that have a value other than zero at reset, or that Brolga names.
pub mod msr {
    /// Time stamp counter.
    pub const TSC: u32 = 0x10;
    /// Type of memory that no MTRR covers.
    pub const MTRR_DEF_TYPE: u32 = 0x2ff;
    /// Page attribute table.
    pub const PAT: u32 = 0x277;
    /// Miscellaneous enables.
    pub const MISC_ENABLE: u32 = 0x1a0;
    /// Time stamp at which the local APIC's timer fires.
    pub const TSC_DEADLINE: u32 = 0x6e0;
    /// Selectors that SYSCALL and SYSRET load.
    pub const STAR: u32 = 0xc000_0081;
    /// SYSCALL's target in 64-bit mode.
    pub const LSTAR: u32 = 0xc000_0082;
    /// SYSCALL's target in compatibility mode.
    pub const CSTAR: u32 = 0xc000_0083;
    /// RFLAGS bits that SYSCALL clears.
    pub const SFMASK: u32 = 0xc000_0084;
    /// What SWAPGS exchanges the GS base with.
    pub const KERNEL_GS_BASE: u32 = 0xc000_0102;
}

/// Bit of [`CpuState::apic_base`] that marks the bootstrap processor.
pub const APIC_BASE_BOOTSTRAP: u64 = 1 << 8;
/// Bit of [`CpuState::apic_base`] that enables the local APIC.
pub const APIC_BASE_ENABLED: u64 = 1 << 11;

/// An x86-64 processor: everything that must be kept to continue it elsewhere.
///
/// Not among it: what never changes while a machine lives, that is the answers of CPUID.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CpuState {
    /// General-purpose registers in encoding order; see [`gpr`].
    pub gpr: [u64; 16],
    /// Instruction pointer.
    pub rip: u64,
    /// Flags; see [`rflags`].
    pub rflags: u64,
    /// Code segment.
    pub cs: Segment,
    /// Data segment.
    pub ds: Segment,
    /// Extra data segment.
    pub es: Segment,
    /// Data segment with a base of its own in 64-bit mode.
    pub fs: Segment,
    /// Data segment with a base of its own in 64-bit mode.
    pub gs: Segment,
    /// Stack segment.
    pub ss: Segment,
    /// Task register.
    pub tr: Segment,
    /// Local descriptor table.
    pub ldt: Segment,
    /// Global descriptor table.
    pub gdt: DescriptorTable,
    /// Interrupt descriptor table.
    pub idt: DescriptorTable,
    /// Control register 0; see [`cr0`].
    pub cr0: u64,
    /// Linear address of the last page fault.
    pub cr2: u64,
    /// Physical address of the page tables, with their PCID.
    pub cr3: u64,
    /// Control register 4; see [`cr4`].
    pub cr4: u64,
    /// Task priority, 0 to 15.
    pub cr8: u64,
    /// Extended feature enables; see [`efer`].
    pub efer: u64,
    /// `IA32_APIC_BASE`.
    pub apic_base: u64,
    /// Debug address registers DR0 to DR3.
    pub dr: [u64; 4],
    /// Debug status.
    pub dr6: u64,
    /// Debug control.
    pub dr7: u64,
    /// Floating-point and vector registers.
    pub fpu: Fpu,
    /// Model-specific registers by number, except those that have a field of their own here. One that is missing
    /// holds its reset value.
    #[serde(with = "pairs")]
    pub msrs: BTreeMap<u32, u64>,
    /// Registers of the local APIC, 32 bits each, that at offset `16 * n` of its page at position `n` (SDM volume 3,
    /// table 11-1): 64 of them. `None` where the processor has no local APIC of its own.
    pub local_apic: Option<Vec<u32>>,
    /// Events on their way to the processor.
    pub events: Events,
    /// Whether it executes instructions.
    pub activity: Activity,
}

/// Number of registers in [`CpuState::local_apic`].
pub const LOCAL_APIC_REGISTERS: usize = 64;

/// A segment register with its hidden part (SDM volume 3, 3.4.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// Visible part.
    pub selector: u16,
    /// First linear address.
    pub base: u64,
    /// Highest offset in bytes, granularity applied.
    pub limit: u32,
    /// Type field, 4 bits: with [`code_or_data`](Segment::code_or_data) 1 accessed, 2 writable or readable, 4 expand
    /// down or conforming, 8 code; without it a system descriptor's type.
    pub kind: u8,
    /// A code or data segment (S bit), not a system descriptor.
    pub code_or_data: bool,
    /// Descriptor privilege level, 0 to 3.
    pub privilege: u8,
    /// Present.
    pub present: bool,
    /// Available to software.
    pub available: bool,
    /// 64-bit code.
    pub long: bool,
    /// Default size is 32 bits (D/B bit).
    pub default_big: bool,
    /// The descriptor's limit was in 4 KiB units.
    pub granularity: bool,
    /// Loaded with a null selector: any use of it faults.
    pub unusable: bool,
}

impl Segment {
    /// What real mode loads for `selector`: 64 KiB at sixteen times the selector.
    pub fn real_mode(selector: u16) -> Segment {
        Segment {
            selector,
            base: u64::from(selector) << 4,
            limit: 0xffff,
            kind: 3,
            code_or_data: true,
            present: true,
            ..Segment::default()
        }
    }

    /// 64-bit kernel code at base 0 without a limit.
    pub fn flat_code_64(selector: u16) -> Segment {
        Segment { kind: 11, long: true, default_big: false, ..Segment::flat_data(selector) }
    }

    /// Kernel data at base 0 without a limit.
    pub fn flat_data(selector: u16) -> Segment {
        Segment {
            selector,
            limit: 0xffff_ffff,
            kind: 3,
            code_or_data: true,
            present: true,
            default_big: true,
            granularity: true,
            ..Segment::default()
        }
    }

    /// A busy 64-bit task-state segment, which the task register must hold in long mode, for software that never looks
    /// into it.
    pub fn empty_task_state_64() -> Segment {
        Segment { kind: 11, present: true, limit: 0x67, ..Segment::default() }
    }
}

/// GDTR or IDTR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DescriptorTable {
    /// Linear address of the first descriptor.
    pub base: u64,
    /// Offset of the table's last byte.
    pub limit: u16,
}

/// Floating-point and vector registers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fpu {
    /// x87 control word.
    pub fcw: u16,
    /// x87 status word; the top of the stack is in bits 13..11.
    pub fsw: u16,
    /// x87 tags in FXSAVE's short form: bit `n` is set when physical register `n` is not empty.
    pub ftw: u8,
    /// x87 last opcode, 11 bits.
    pub fop: u16,
    /// x87 last instruction pointer.
    pub fip: u64,
    /// x87 last data pointer.
    pub fdp: u64,
    /// ST(0) to ST(7), that is in stack order. MMX registers are their significands.
    pub st: [Float80; 8],
    /// SSE control and status.
    pub mxcsr: u32,
    /// XMM0 to XMM15, low half first.
    pub xmm: [[u64; 2]; 16],
    /// Upper halves of YMM0 to YMM15, low half first.
    pub ymm_high: [[u64; 2]; 16],
    /// XCR0: the components that the guest enabled for XSAVE.
    pub xcr0: u64,
    /// All other XSAVE components that are not in their initial state, by number (SDM volume 1, 13.1), each as XSAVE's
    /// standard form holds it: 5 to 7 AVX-512, 9 PKRU, 17 and 18 AMX.
    #[serde(with = "pairs")]
    pub components: BTreeMap<u32, Vec<u8>>,
}

/// An 80-bit extended-precision number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Float80 {
    /// Significand with its explicit integer bit.
    pub significand: u64,
    /// Sign in bit 15, biased exponent below.
    pub sign_exponent: u16,
}

/// Events on their way to the processor.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Events {
    /// An exception that an instruction raised and that its handler does not see yet.
    pub exception: Option<Exception>,
    /// An interrupt that was acknowledged and that its handler does not see yet.
    pub interrupt: Option<Interrupt>,
    /// The instruction just executed holds interrupts back for one more.
    pub shadow: InterruptShadow,
    /// A non-maskable interrupt waits.
    pub nmi_pending: bool,
    /// A non-maskable interrupt was accepted and its handler does not see it yet.
    pub nmi_injected: bool,
    /// Non-maskable interrupts are held back until IRET.
    pub nmi_masked: bool,
    /// Vector of the last start-up IPI: the processor starts at `vector << 12`.
    pub sipi_vector: u8,
    /// The processor is in system-management mode.
    pub in_smm: bool,
    /// A system-management interrupt waits.
    pub smi_pending: bool,
    /// System-management mode was entered while non-maskable interrupts were held back.
    pub smm_in_nmi: bool,
    /// An INIT signal waits for the end of system-management mode.
    pub init_latched: bool,
}

/// An exception on its way to its handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exception {
    /// Vector, 0 to 31.
    pub vector: u8,
    /// Error code, where the vector has one.
    pub error_code: Option<u32>,
    /// Delivery began: side effects (CR2, DR6) are visible already, and a further exception makes a double fault.
    pub injected: bool,
    /// What delivery will put into CR2 (page fault) or DR6 (debug), while it is not there yet.
    pub payload: Option<u64>,
}

/// An acknowledged interrupt on its way to its handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interrupt {
    /// Vector.
    pub vector: u8,
    /// Raised by an INT instruction.
    pub software: bool,
}

/// What holds interrupts back for one instruction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InterruptShadow {
    /// Nothing.
    #[default]
    None,
    /// STI.
    Sti,
    /// MOV to SS or POP SS; holds debug exceptions and NMIs back, too.
    MovSs,
}

/// Whether a processor executes instructions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Activity {
    /// It does.
    #[default]
    Running,
    /// It waits in HLT for an interrupt.
    Halted,
    /// It waits for INIT and then a start-up IPI, as all but the bootstrap processor do after reset.
    WaitForSipi,
    /// A start-up IPI came and execution begins at its vector.
    SipiReceived,
    /// It shut down after a triple fault and waits for reset.
    Shutdown,
}

impl Default for Fpu {
    /// As after reset.
    fn default() -> Fpu {
        Fpu {
            fcw: 0x37f,
            fsw: 0,
            ftw: 0,
            fop: 0,
            fip: 0,
            fdp: 0,
            st: [Float80::default(); 8],
            mxcsr: 0x1f80,
            xmm: [[0; 2]; 16],
            ymm_high: [[0; 2]; 16],
            xcr0: 1,
            components: BTreeMap::new(),
        }
    }
}

impl CpuState {
    /// The state after power-on or RESET (SDM volume 3, table 10-1) of the processor whose APIC id is `index`;
    /// number 0 is the bootstrap processor, the others wait for a start-up IPI.
    ///
    /// The x87 control word is that of FNINIT, 37FH, as under KVM, rather than 40H: no firmware relies on the latter.
    pub fn reset(index: u32) -> CpuState {
        let data = Segment::real_mode(0);
        let bootstrap = index == 0;
        let mut gpr = [0; 16];
        // Family, model, stepping of a Pentium Pro or later; software learns the true ones from CPUID.
        gpr[gpr::RDX] = 0x600;
        CpuState {
            gpr,
            rip: 0xfff0,
            rflags: rflags::FIXED,
            cs: Segment { base: 0xffff_0000, kind: 11, ..Segment::real_mode(0xf000) },
            ds: data,
            es: data,
            fs: data,
            gs: data,
            ss: data,
            tr: Segment { kind: 11, code_or_data: false, ..data },
            ldt: Segment { kind: 2, code_or_data: false, ..data },
            gdt: DescriptorTable { base: 0, limit: 0xffff },
            idt: DescriptorTable { base: 0, limit: 0xffff },
            cr0: cr0::CD | cr0::NW | cr0::ET,
            cr2: 0,
            cr3: 0,
            cr4: 0,
            cr8: 0,
            efer: 0,
            apic_base: 0xfee0_0000 | APIC_BASE_ENABLED | if bootstrap { APIC_BASE_BOOTSTRAP } else { 0 },
            dr: [0; 4],
            dr6: 0xffff_0ff0,
            dr7: 0x400,
            fpu: Fpu::default(),
            msrs: BTreeMap::from([(msr::PAT, 0x0007_0406_0007_0406), (msr::MISC_ENABLE, 1)]),
            local_apic: Some(local_apic_at_reset(index)),
            events: Events::default(),
            activity: if bootstrap { Activity::Running } else { Activity::WaitForSipi },
        }
    }

    /// Linear address of the next instruction.
    pub fn program_counter(&self) -> u64 {
        if self.in_64_bit_code() { self.rip } else { self.cs.base.wrapping_add(self.rip) & 0xffff_ffff }
    }

    /// The processor executes 64-bit code.
    pub fn in_64_bit_code(&self) -> bool {
        self.efer & efer::LMA != 0 && self.cs.long
    }

    /// Current privilege level, 0 to 3.
    pub fn privilege(&self) -> u8 {
        if self.cr0 & cr0::PE == 0 { 0 } else { self.ss.privilege & 3 }
    }
}

/// The local APIC's registers after reset (SDM volume 3, 11.4.7.1).
fn local_apic_at_reset(index: u32) -> Vec<u32> {
    let mut registers = vec![0; LOCAL_APIC_REGISTERS];
    // The id register of xAPIC mode has eight bits for the id.
    registers[0x02] = (index & 0xff) << 24;
    // Version 14H with six local vector table entries.
    registers[0x03] = 0x0005_0014;
    registers[0x0e] = 0xffff_ffff;
    registers[0x0f] = 0xff;
    // CMCI, timer, thermal, performance counters, LINT0, LINT1 and error: masked.
    for entry in [0x2f, 0x32, 0x33, 0x34, 0x35, 0x36, 0x37] {
        registers[entry] = 0x1_0000;
    }
    registers
}

/// Maps as lists of pairs: text formats have no numbers as keys, and lose them inside a tagged enum.
mod pairs {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer, V: Serialize>(map: &BTreeMap<u32, V>, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(map)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>, V: Deserialize<'de>>(
        from: D,
    ) -> Result<BTreeMap<u32, V>, D::Error> {
        Ok(Vec::<(u32, V)>::deserialize(from)?.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state;

    #[test]
    fn text_and_back_loses_nothing() {
        let mut state = CpuState::reset(3);
        state.gpr[15] = u64::MAX;
        state.msrs.insert(msr::LSTAR, u64::MAX - 1);
        state.fpu.components.insert(9, vec![1, 2, 3, 4, 0, 0, 0, 0]);
        state.fpu.st[7] = Float80 { significand: 1 << 63, sign_exponent: 0xbfff };
        state.events.exception =
            Some(Exception { vector: 14, error_code: Some(2), injected: false, payload: Some(0x1000) });
        state.events.shadow = InterruptShadow::MovSs;
        let state = state::CpuState::X86_64(Box::new(state));
        let text = serde_json::to_string(&state).unwrap();
        assert_eq!(serde_json::from_str::<state::CpuState>(&text).unwrap(), state);
    }

    #[test]
    fn the_first_instruction_is_sixteen_bytes_below_four_gigabytes() {
        assert_eq!(CpuState::reset(0).program_counter(), 0xffff_fff0);
        assert_eq!(CpuState::reset(0).activity, Activity::Running);
        assert_eq!(CpuState::reset(1).activity, Activity::WaitForSipi);
    }
}
