//! The state of an x86-64 processor.

use serde::{Deserialize, Serialize};

/// An x86-64 processor.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CpuState {
    /// Instruction pointer.
    pub rip: u64,
}

impl CpuState {
    /// Linear address of the next instruction.
    pub fn program_counter(&self) -> u64 {
        self.rip
    }
}
