//! What the backend must know of a guest architecture besides how to run it.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use translate::cpu::{Cpu, Signals};
use translate::guest::Guest;
use translate::ir::MemoryMode;
use translate::x86_64::cpuid::CpuModel;

use crate::Error;
use crate::state::CpuState;

/// A guest architecture of the backend.
pub(super) trait Processor: Guest {
    /// The interrupt inputs that [`crate::VcpuHandle::set_interrupt`] reaches, a bit each.
    const INPUTS: u64;

    /// Processor `index`; `count` is how many the machine has so far, and is counted up. `model` is for x86-64.
    fn new(index: u32, count: &Arc<AtomicU32>, model: &Arc<CpuModel>) -> Self;

    /// What [`Guest::features`] says of every processor; `model` is for x86-64.
    fn model_features(model: &CpuModel) -> Self::Features;

    /// Puts a new processor into its state after power-on.
    fn reset(cpu: &mut Cpu<Self>);

    /// The state as every backend has it.
    fn state(cpu: &Cpu<Self>) -> CpuState;

    /// Replaces the state.
    fn set_state(cpu: &mut Cpu<Self>, state: &CpuState) -> Result<(), Error>;

    /// After [`Processor::set_state`]: what the state asks of the world outside, such as timers.
    fn settle(cpu: &mut Cpu<Self>);

    /// Regime of data accesses at present.
    fn data_mode(cpu: &Cpu<Self>) -> MemoryMode;

    /// Delivers a non-maskable interrupt.
    fn inject_nmi(signals: &Signals) -> Result<(), Error>;

    /// Delivers a system-management interrupt, where the architecture has it.
    fn inject_smi(signals: &Signals) {
        let _ = signals;
    }

    /// Delivers an INIT signal, where the architecture has it.
    fn inject_init(signals: &Signals) {
        let _ = signals;
    }

    /// Delivers a start-up signal, where the architecture has it.
    fn inject_start_up(signals: &Signals, vector: u8) {
        let _ = (signals, vector);
    }
}
