//! Processor state: one complete, serialisable struct per guest architecture, the same under every backend.
//!
//! Saving and loading, migration, gdb, `info registers`, dumps and switching the accelerator all read these structs.

pub mod pc;
pub mod riscv64;
pub mod x86_64;

use serde::{Deserialize, Serialize};

/// The state of one processor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "architecture", rename_all = "lowercase")]
pub enum CpuState {
    /// An x86-64 processor.
    #[serde(rename = "x86_64")]
    X86_64(Box<x86_64::CpuState>),
    /// A riscv64 hart.
    Riscv64(Box<riscv64::CpuState>),
}

/// The state of the interrupt controllers that a backend runs for a machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "machine", rename_all = "lowercase")]
pub enum ControllerState {
    /// Those of a PC; the local APICs are in the processors' states.
    Pc(Box<pc::Controllers>),
}

impl CpuState {
    /// Address of the next instruction, linear (x86-64: code segment base plus RIP).
    pub fn program_counter(&self) -> u64 {
        match self {
            CpuState::X86_64(state) => state.program_counter(),
            CpuState::Riscv64(state) => state.pc,
        }
    }
}
