//! The state of a riscv64 hart (RV64IMAFDC with M, S and U modes).

use serde::{Deserialize, Serialize};

/// A riscv64 hart: everything that must be kept to continue it elsewhere.
///
/// Control and status registers carry the names of the privileged specification (version 20240411); fields that it
/// calls WARL hold legal values only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CpuState {
    /// `mhartid`.
    pub hart_id: u64,
    /// Address of the next instruction.
    pub pc: u64,
    /// Integer registers; `x[0]` is 0.
    pub x: [u64; 32],
    /// Floating-point registers, single-precision values NaN-boxed.
    pub f: [u64; 32],
    /// Floating-point control and status: `frm` in bits 7..5, `fflags` in bits 4..0.
    pub fcsr: u32,
    /// Privilege mode: 0 U, 1 S, 3 M.
    pub privilege: u8,
    /// Machine status.
    pub mstatus: u64,
    /// Machine ISA.
    pub misa: u64,
    /// Machine exception delegation.
    pub medeleg: u64,
    /// Machine interrupt delegation.
    pub mideleg: u64,
    /// Machine interrupt enable.
    pub mie: u64,
    /// Machine interrupt pending: the bits that software wrote (SSIP, STIP, SEIP).
    pub mip: u64,
    /// Levels of the hart's interrupt inputs, at their positions in `mip`.
    pub interrupt_inputs: u64,
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
    /// Physical memory protection configuration, `pmpcfg0` and `pmpcfg2`.
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
    /// Supervisor timer compare (Sstc).
    pub stimecmp: u64,
    /// Cycles counted (`mcycle`).
    pub mcycle: u64,
    /// Instructions retired (`minstret`).
    pub minstret: u64,
    /// Guest-virtual address of a load reservation, if one is held.
    pub reservation: Option<u64>,
    /// The value that was loaded with the reservation.
    pub reservation_value: u64,
    /// The hart waits in WFI.
    pub waiting: bool,
}

impl CpuState {
    /// The state of a hart after reset, in M-mode at address 0; the board sets where it starts.
    pub fn reset(hart: u32) -> CpuState {
        CpuState {
            hart_id: u64::from(hart),
            pc: 0,
            x: [0; 32],
            f: [0; 32],
            fcsr: 0,
            privilege: 3,
            mstatus: MSTATUS_XL,
            misa: translate::riscv64::csr::MISA,
            medeleg: 0,
            mideleg: 0,
            mie: 0,
            mip: 0,
            interrupt_inputs: 0,
            mtvec: 0,
            mscratch: 0,
            mepc: 0,
            mcause: 0,
            mtval: 0,
            mcounteren: 0,
            mcountinhibit: 0,
            menvcfg: 0,
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
            mcycle: 0,
            minstret: 0,
            reservation: None,
            reservation_value: 0,
            waiting: false,
        }
    }
}

/// `SXL` and `UXL`: 64 bits.
const MSTATUS_XL: u64 = 2 << 34 | 2 << 32;
