//! The riscv64 guest: RV64IMAFDC, Zicsr, Zifencei, Zicntr, Zba, Zbb, Zbs, Sstc, Svadu, with M, S and U modes, Sv39 and Sv48.
//!
//! Section numbers refer to the RISC-V instruction set manual, volumes I and II, of 2024-04-11.

mod compressed;
pub mod csr;
mod decode;
mod helpers;
mod lift;
mod mmu;
mod pmp;
mod trap;

use crate::cpu::Cpu;
use crate::guest::{Access, Exception, Guest, Helper, NeedsMoreCode, Translation};
use crate::ir::{Block, MemoryMode};

pub use helpers::id as helper_id;

/// User mode.
pub const USER: u8 = 0;
/// Supervisor mode.
pub const SUPERVISOR: u8 = 1;
/// Machine mode.
pub const MACHINE: u8 = 3;

/// Exception codes of `mcause` (volume II, 3.1.15).
pub mod exception {
    /// Fetch that physical memory protection or the bus denied.
    pub const INSTRUCTION_ACCESS_FAULT: u32 = 1;
    /// An instruction that does not exist or is not permitted.
    pub const ILLEGAL_INSTRUCTION: u32 = 2;
    /// EBREAK.
    pub const BREAKPOINT: u32 = 3;
    /// LR at an address that is not a multiple of its width.
    pub const LOAD_ADDRESS_MISALIGNED: u32 = 4;
    /// Load that physical memory protection or the bus denied.
    pub const LOAD_ACCESS_FAULT: u32 = 5;
    /// SC or AMO at an address that is not a multiple of its width.
    pub const STORE_ADDRESS_MISALIGNED: u32 = 6;
    /// Store, SC or AMO that physical memory protection or the bus denied.
    pub const STORE_ACCESS_FAULT: u32 = 7;
    /// ECALL in user mode; one and three more in supervisor and machine mode.
    pub const USER_ENVIRONMENT_CALL: u32 = 8;
    /// Fetch that address translation denied.
    pub const INSTRUCTION_PAGE_FAULT: u32 = 12;
    /// Load that address translation denied.
    pub const LOAD_PAGE_FAULT: u32 = 13;
    /// Store, SC or AMO that address translation denied.
    pub const STORE_PAGE_FAULT: u32 = 15;
}

/// A hart's state beyond [`crate::cpu::Context`]. Control and status registers have the names of the manual; fields that it calls WARL
/// hold legal values only.
///
/// What [`crate::cpu::Context`] has: the integer registers x0 to x31 (x0 unused) as registers 0 to 31, the floating-point
/// registers f0 to f31 as 32 to 63, `pc`, `fflags` as `float_flags`, and the count of instructions retired.
#[derive(Clone, Debug)]
pub struct Riscv64 {
    /// Privilege mode: [`USER`], [`SUPERVISOR`] or [`MACHINE`].
    pub privilege: u8,
    /// Floating-point rounding mode as software wrote it, 0 to 7. Set by [`csr::set_frm`], which also tells
    /// [`crate::cpu::Context::float_rounding`].
    pub frm: u8,
    /// Machine status. `FS` is either off or dirty; `SD` is derived and 0 here.
    pub mstatus: u64,
    /// Machine exception delegation.
    pub medeleg: u64,
    /// Machine interrupt delegation.
    pub mideleg: u64,
    /// Machine interrupt enable.
    pub mie: u64,
    /// The bits of `mip` that software wrote. The hart's inputs and its timer come on top, see [`csr::pending_interrupts`].
    pub mip: u64,
    /// Machine trap vector.
    pub mtvec: u64,
    /// Machine scratch.
    pub mscratch: u64,
    /// Machine exception program counter.
    pub mepc: u64,
    /// Machine cause.
    pub mcause: u64,
    /// Machine trap value.
    pub mtval: u64,
    /// Machine counter enable.
    pub mcounteren: u64,
    /// Machine counter inhibit.
    pub mcountinhibit: u64,
    /// Machine environment configuration.
    pub menvcfg: u64,
    /// Physical memory protection configuration: `pmpcfg0` and `pmpcfg2`.
    pub pmpcfg: [u64; 2],
    /// Physical memory protection addresses.
    pub pmpaddr: [u64; 16],
    /// Supervisor trap vector.
    pub stvec: u64,
    /// Supervisor scratch.
    pub sscratch: u64,
    /// Supervisor exception program counter.
    pub sepc: u64,
    /// Supervisor cause.
    pub scause: u64,
    /// Supervisor trap value.
    pub stval: u64,
    /// Supervisor counter enable.
    pub scounteren: u64,
    /// Supervisor environment configuration.
    pub senvcfg: u64,
    /// Supervisor address translation and protection.
    pub satp: u64,
    /// Supervisor timer compare.
    pub stimecmp: u64,
    /// The timer had gone off when interrupts were last looked for, or was set since then, or the guest has seen that it went off. Where it goes
    /// off later, the processor is called.
    pub(crate) timer_may_be_due: bool,
    /// What `mcycle` counts from; read with [`csr::mcycle`].
    pub mcycle: csr::Counter,
    /// What `minstret` counts from; read with [`csr::minstret`].
    pub minstret: csr::Counter,
    /// Which superpages the soft TLB may hold pieces of.
    large_pages: crate::large_pages::LargePages,
    pmp_uniform: pmp::Uniform,
}

impl Riscv64 {
    /// A hart after reset (volume II, 3.4).
    pub fn new() -> Riscv64 {
        Riscv64 {
            privilege: MACHINE,
            frm: 0,
            mstatus: 0,
            medeleg: 0,
            mideleg: 0,
            mie: 0,
            mip: 0,
            mtvec: 0,
            mscratch: 0,
            mepc: 0,
            mcause: 0,
            mtval: 0,
            mcounteren: 0,
            mcountinhibit: 0,
            // Software that does not know the extension expects hardware to set accessed and dirty bits, or copes with
            // either.
            menvcfg: csr::MENVCFG_ADUE,
            pmpcfg: [0; 2],
            pmpaddr: [0; 16],
            stvec: 0,
            sscratch: 0,
            sepc: 0,
            scause: 0,
            stval: 0,
            scounteren: 0,
            senvcfg: 0,
            satp: 0,
            stimecmp: u64::MAX,
            timer_may_be_due: true,
            mcycle: csr::Counter::default(),
            minstret: csr::Counter::default(),
            large_pages: crate::large_pages::LargePages::default(),
            pmp_uniform: pmp::Uniform::default(),
        }
    }
}

/// Regime of data accesses of the present privilege.
pub fn data_mode(guest: &Riscv64) -> MemoryMode {
    lift::Flags::of(guest).data_mode()
}

impl Default for Riscv64 {
    fn default() -> Riscv64 {
        Riscv64::new()
    }
}

impl Guest for Riscv64 {
    #[rustfmt::skip]
    const REGISTERS: &'static [&'static str] = &[
        "x0", "x1", "x2", "x3", "x4", "x5", "x6", "x7", "x8", "x9", "x10", "x11", "x12", "x13", "x14", "x15",
        "x16", "x17", "x18", "x19", "x20", "x21", "x22", "x23", "x24", "x25", "x26", "x27", "x28", "x29", "x30", "x31",
        "f0", "f1", "f2", "f3", "f4", "f5", "f6", "f7", "f8", "f9", "f10", "f11", "f12", "f13", "f14", "f15",
        "f16", "f17", "f18", "f19", "f20", "f21", "f22", "f23", "f24", "f25", "f26", "f27", "f28", "f29", "f30", "f31",
    ];

    const HELPERS: &'static [Helper<Riscv64>] = helpers::HELPERS;

    fn flags(cpu: &Cpu<Riscv64>) -> u32 {
        lift::Flags::of(&cpu.guest).0
    }

    fn is_position_independent(_: u32) -> bool {
        true
    }

    type Features = ();

    fn features(_: &Cpu<Riscv64>) {}

    fn lift(start: u64, code: &[u8], flags: u32, (): (), most_instructions: usize) -> Result<Block, NeedsMoreCode> {
        lift::lift(start, code, lift::Flags(flags), most_instructions)
    }

    fn fetch_mode(cpu: &Cpu<Riscv64>) -> MemoryMode {
        MemoryMode(cpu.guest.privilege)
    }

    fn translate(
        cpu: &mut Cpu<Riscv64>,
        address: u64,
        width: u64,
        access: Access,
        mode: MemoryMode,
    ) -> Result<Translation, Exception> {
        mmu::translate(cpu, address, width, access, mode)
    }

    fn bus_error(address: u64, access: Access) -> Option<Exception> {
        Some(mmu::access_fault(address, access))
    }

    fn raise(cpu: &mut Cpu<Riscv64>, exception: Exception) {
        trap::raise(cpu, exception);
    }

    fn take_interrupt(cpu: &mut Cpu<Riscv64>) -> bool {
        trap::take_interrupt(cpu)
    }

    fn may_take_interrupt(cpu: &Cpu<Riscv64>) -> bool {
        trap::may_take_interrupt(cpu)
    }

    fn wakes(cpu: &Cpu<Riscv64>) -> bool {
        csr::pending_interrupts(cpu) & cpu.guest.mie != 0
    }
}
