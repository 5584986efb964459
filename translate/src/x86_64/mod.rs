//! The x86-64 guest: real, virtual-8086, protected, compatibility and 64-bit mode.
//!
//! Section numbers refer to the Intel 64 and IA-32 Architectures Software Developer's Manual (SDM), volumes 1 to 3. Where
//! makers differ, the processor behaves as AMD's do, whose name its CPUID gives.
//!
//! [`crate::cpu::Context::pc`] is a linear address, that is RIP plus the base of CS.

pub mod cpuid;
pub mod debug;
pub mod event;
mod far;
mod fault;
pub mod features;
pub mod flags;
mod helpers;
mod io;
mod lift;
pub mod management;
mod mmu;
pub mod msr;
pub mod registers;
pub mod segment;
pub mod simd;
pub mod softfloat;
pub mod state;
mod task;
#[cfg(test)]
mod test_host;
pub mod x87;
pub mod xsave;

use crate::cpu::Cpu;
use crate::guest::{Access, Exception, Guest, Helper, NeedsMoreCode, Translation};
use crate::ir::{Block, MemoryMode};
use crate::platform::MemoryView;

pub use segment::{Segment, SegmentName};
pub use state::X86_64;

/// Regime of data accesses of the present privilege.
pub fn data_mode(cpu: &Cpu<X86_64>) -> MemoryMode {
    lift::Flags::of(cpu).data_mode()
}

impl Guest for X86_64 {
    const REGISTERS: &'static [&'static str] = registers::NAMES;

    const HELPERS: &'static [Helper<X86_64>] = helpers::HELPERS;

    fn flags(cpu: &Cpu<X86_64>) -> u32 {
        lift::Flags::of(cpu).0
    }

    fn is_position_independent(flags: u32) -> bool {
        lift::Flags(flags).is_64_bit()
    }

    type Features = features::InstructionSet;

    fn features(cpu: &Cpu<X86_64>) -> features::InstructionSet {
        cpu.guest.instructions
    }

    fn lift(
        start: u64,
        code: &[u8],
        flags: u32,
        features: features::InstructionSet,
        most_instructions: usize,
    ) -> Result<Block, NeedsMoreCode> {
        lift::lift(start, code, lift::Flags(flags), features, most_instructions)
    }

    fn fetch_mode(cpu: &Cpu<X86_64>) -> MemoryMode {
        if cpu.guest.privilege() == 3 { mmu::MODE_USER } else { mmu::MODE_SUPERVISOR }
    }

    fn translate(
        cpu: &mut Cpu<X86_64>,
        address: u64,
        _width: u64,
        access: Access,
        mode: MemoryMode,
    ) -> Result<Translation, Exception> {
        mmu::translate(cpu, address, access, mode)
    }

    fn bus_error(_address: u64, _access: Access) -> Option<Exception> {
        None
    }

    fn raise(cpu: &mut Cpu<X86_64>, exception: Exception) {
        event::raise(cpu, exception);
    }

    fn take_interrupt(cpu: &mut Cpu<X86_64>) -> bool {
        event::take_interrupt(cpu)
    }

    fn memory_view(cpu: &Cpu<X86_64>) -> MemoryView {
        if cpu.guest.in_management { MemoryView::Management } else { MemoryView::Ordinary }
    }

    fn may_take_interrupt(cpu: &Cpu<X86_64>) -> bool {
        event::may_take_interrupt(cpu)
    }

    fn wakes(cpu: &Cpu<X86_64>) -> bool {
        event::wakes(cpu)
    }
}
