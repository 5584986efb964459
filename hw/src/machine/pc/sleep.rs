//! What a PC does when it goes to sleep (ACPI S3) and when it wakes up.

use std::sync::Weak;
use std::sync::{Arc, OnceLock};

use accel::memory::GuestMemory;
use accel::state::x86_64::{CpuState, Segment};
use vm_memory::{Bytes, GuestAddress};

use crate::bus::{Bus, Effect};
use crate::cmos::Cmos;
use crate::interrupt::{InterruptController, InterruptLine};
use crate::pci::host_bridge::HostBridge;
use crate::pci::power_management::PowerManagement;

/// Byte of the CMOS RAM by which firmware learns why the processor was reset.
const SHUTDOWN_STATUS: u8 = 0x0f;
/// The machine slept.
const SLEPT: u8 = 0xfe;

/// Offset of the waking vector in the firmware ACPI control structure.
const WAKING_VECTOR: u64 = 12;

/// The parts of a PC that have to do with sleep.
pub struct Sleep {
    pub(super) cmos: Arc<Cmos>,
    pub(super) power: Arc<PowerManagement>,
    pub(super) bridge: Arc<HostBridge>,
    pub(super) memory: Arc<GuestMemory>,
    /// Address of the firmware ACPI control structure, where there is no firmware to know it.
    pub(super) control_structure: Option<u64>,
}

/// What outlasts a sleep that a reset would end.
pub(crate) struct Lasting {
    acpi_mode: bool,
    /// Firmware finds its variables in RAM.
    attributes: [u8; 7],
}

impl Sleep {
    /// The machine goes to sleep.
    pub(crate) fn begin(&self) {
        self.cmos.set_ram(SHUTDOWN_STATUS, SLEPT);
    }

    /// Taken before devices are reset.
    pub(crate) fn lasting(&self) -> Lasting {
        Lasting { acpi_mode: self.power.is_in_acpi_mode(), attributes: self.bridge.attributes() }
    }

    /// The machine is awake; devices were reset. The memory map is to be applied anew.
    pub(crate) fn end(&self, lasting: Lasting, by_clock: bool) {
        self.bridge.set_attributes(lasting.attributes);
        self.power.wake(lasting.acpi_mode, by_clock);
    }

    /// Where a processor goes on: with firmware as after any reset, and else at the vector that the sleeping system left.
    pub(crate) fn set_start(&self, state: &mut CpuState) {
        let Some(structure) = self.control_structure else { return };
        let Ok(vector) = self.memory.read_obj::<u32>(GuestAddress(structure + WAKING_VECTOR)) else { return };
        state.cs = Segment { base: u64::from(vector & 0xf_fff0), ..Segment::real_mode((vector >> 4) as u16) };
        state.rip = u64::from(vector & 0xf);
    }
}

/// The real-time clock's interrupt, which wakes a sleeping machine.
pub(super) struct WakingLine {
    line: InterruptLine,
    bus: Weak<Bus>,
    power: Arc<OnceLock<Arc<PowerManagement>>>,
}

impl WakingLine {
    /// The line to `line` that wakes the machine on `bus` while `power`, once it is there, says that it sleeps.
    pub(super) fn between(
        line: InterruptLine,
        bus: &Arc<Bus>,
        power: Arc<OnceLock<Arc<PowerManagement>>>,
    ) -> InterruptLine {
        InterruptLine::new(Arc::new(WakingLine { line, bus: Arc::downgrade(bus), power }), 0)
    }
}

impl InterruptController for WakingLine {
    fn set_input(&self, _number: u32, level: bool) {
        self.line.set(level);
        let sleeps = level && self.power.get().is_some_and(|power| power.sleeps());
        if let Some(bus) = self.bus.upgrade().filter(|_| sleeps) {
            bus.raise(Effect::Wake);
        }
    }
}
