//! The XSAVE family.

use crate::cpu::Cpu;
use crate::ir::MemoryMode;

use super::super::state::X86_64;
use super::super::xsave::{Area, Saving, restore, save};

const SAVINGS: [Saving; 3] = [Saving::All, Saving::InUse, Saving::Compact];

/// The second argument of the helpers; `long`: with REX.W. [`xrstor`] does not look at `saving`.
pub(in super::super) fn encode_xsave(mode: MemoryMode, long: bool, saving: Saving) -> u64 {
    u64::from(mode.0) | u64::from(long) << 8 | (saving as u64) << 9
}

fn area(address: u64, how: u64, wanted: u64) -> Area {
    Area { address, mode: MemoryMode(how as u8), long: how >> 8 & 1 != 0, wanted }
}

/// XSAVE, XSAVEOPT, XSAVEC of the components in `wanted`.
pub(super) extern "C" fn xsave(cpu: &mut Cpu<X86_64>, address: u64, how: u64, wanted: u64) -> u64 {
    let saving = SAVINGS.get((how >> 9) as usize).copied().unwrap_or(Saving::All);
    // The helper's end looks at the status.
    let _ = save(cpu, area(address, how, wanted), saving);
    0
}

/// XRSTOR.
pub(super) extern "C" fn xrstor(cpu: &mut Cpu<X86_64>, address: u64, how: u64, wanted: u64) -> u64 {
    let _ = restore(cpu, area(address, how, wanted));
    0
}
