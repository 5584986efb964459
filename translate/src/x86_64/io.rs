//! Access to I/O ports (SDM volume 1, chapter 19).

use crate::cpu::Cpu;
use crate::ir::Width;

use super::event::{Fault, general_protection};
use super::segment::attribute::PRESENT;
use super::state::*;

/// The present privilege permits access to `bytes` ports from `port` on, if need be by the map in the task-state segment.
pub(super) fn check(cpu: &mut Cpu<X86_64>, port: u64, bytes: u64) -> Result<(), Fault> {
    if cpu.guest.cr0 & CR0_PE == 0 || !cpu.guest.is_virtual_8086() && cpu.guest.privilege() <= cpu.guest.io_privilege()
    {
        return Ok(());
    }
    let task = cpu.guest.tr;
    let wide = task.segment.attributes & 0xf >= 9;
    if !wide || !task.segment.has(PRESENT) || task.segment.limit < 0x67 {
        return Err(general_protection(0));
    }
    let map = cpu.system_load(task.base.wrapping_add(0x66), Width::Half)?;
    let first = map + port / 8;
    // Two bytes are read, as an access may touch the bits of both.
    if first + 1 > u64::from(task.segment.limit) {
        return Err(general_protection(0));
    }
    let bits = cpu.system_load(task.base.wrapping_add(first), Width::Half)?;
    if bits >> (port % 8) & ((1 << bytes) - 1) != 0 {
        return Err(general_protection(0));
    }
    Ok(())
}
