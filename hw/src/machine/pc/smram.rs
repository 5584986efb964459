//! SMRAM: RAM from 0xa0000 to 0xbffff, which processors in system-management mode see in place of display memory.
//!
//! Intel 82440FX data sheet (290549), "System management RAM control register"; [`crate::pci::host_bridge`] has the register.

use std::sync::Arc;

use accel::Accelerator;
use accel::memory::{MemorySlot, Region, allocate};
use parking_lot::Mutex;
use vm_memory::{Bytes, MemoryRegionAddress};

use crate::bus::{AccessRules, Bus, Effect, MapError, MmioDevice, Width};
use crate::device::{Device, StateError};
use crate::pci::host_bridge::smram_control::{ENABLED, OPEN};
use crate::vga;

/// First address.
const ADDRESS: u64 = vga::WINDOW.0;
/// Length, bytes.
const LENGTH: u64 = vga::WINDOW.1;

/// Who sees the RAM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum SeenBy {
    #[default]
    Nobody,
    /// By processors in system-management mode.
    Management,
    All,
}

/// What answers from 0xa0000 to 0xbffff.
pub struct Smram {
    ram: Arc<Region>,
    /// What answers where the RAM is not seen.
    display: Option<Arc<dyn MmioDevice>>,
    /// Processors have system-management mode.
    management: bool,
    // Lock order: alone.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    wanted: SeenBy,
    /// What the accelerator was told.
    mapped: SeenBy,
}

impl Smram {
    /// SMRAM in front of `display`, at its place on `bus`. With `management`, processors have system-management mode.
    pub(super) fn new(display: Option<Arc<dyn MmioDevice>>, management: bool) -> Result<Arc<Smram>, accel::Error> {
        let ram = allocate(ADDRESS, LENGTH)?;
        Ok(Arc::new(Smram { ram, display, management, state: Mutex::default() }))
    }

    /// Answers on `bus` where an accelerator's memory does not.
    pub(super) fn map(self: &Arc<Smram>, bus: &Bus) -> Result<(), MapError> {
        bus.map_memory(ADDRESS, LENGTH, self.clone())
    }

    /// Takes over what the control register says; it counts once [`Smram::apply`] was called.
    pub(super) fn set(&self, control: u8) {
        self.state.lock().wanted = match (control & ENABLED != 0, control & OPEN != 0) {
            (false, _) => SeenBy::Nobody,
            (true, true) => SeenBy::All,
            (true, false) if self.management => SeenBy::Management,
            (true, false) => SeenBy::Nobody,
        };
    }

    fn slot(&self) -> MemorySlot {
        MemorySlot { region: self.ram.clone(), read_only: false }
    }

    /// Makes `accelerator` map what the register says. No vCPU runs.
    pub(crate) fn apply(&self, accelerator: &dyn Accelerator) -> Result<(), accel::Error> {
        let mut state = self.state.lock();
        if state.mapped == state.wanted {
            return Ok(());
        }
        match std::mem::take(&mut state.mapped) {
            SeenBy::Nobody => {}
            SeenBy::Management => accelerator.set_management_memory(None)?,
            SeenBy::All => accelerator.unmap_memory(ADDRESS)?,
        }
        match state.wanted {
            SeenBy::Nobody => {}
            SeenBy::Management => accelerator.set_management_memory(Some(self.slot()))?,
            SeenBy::All => accelerator.map_memory(self.slot())?,
        }
        state.mapped = state.wanted;
        Ok(())
    }

    /// True if accesses from the bus reach the RAM.
    fn is_open(&self) -> bool {
        self.state.lock().wanted == SeenBy::All
    }
}

/// Who sees it is the host bridge's state, which sets it again.
impl Device for Smram {
    fn debug_label(&self) -> &str {
        "smram"
    }
    fn reset(&self) {}
    fn save(&self) -> serde_json::Value {
        serde_json::Value::Null
    }
    fn restore(&self, _state: &serde_json::Value) -> Result<(), StateError> {
        Ok(())
    }
}

/// Accesses that no mapped memory answers: display memory, and all of them where there is no processor.
impl MmioDevice for Smram {
    fn access_rules(&self) -> AccessRules {
        AccessRules { split_to: Width::Double, ..AccessRules::BYTES }
    }
    fn read(&self, offset: u64, width: Width) -> u64 {
        if !self.is_open() {
            // What nobody answers reads as ones.
            return self.display.as_ref().map_or(width.mask(), |display| display.read(offset, width));
        }
        let mut bytes = [0; 8];
        // The place is in the region.
        let _ = self.ram.read_slice(&mut bytes[..width.bytes() as usize], MemoryRegionAddress(offset));
        u64::from_le_bytes(bytes)
    }
    fn write(&self, offset: u64, width: Width, value: u64) -> Effect {
        if !self.is_open() {
            return self.display.as_ref().map_or(Effect::None, |display| display.write(offset, width, value));
        }
        let bytes = value.to_le_bytes();
        // The place is in the region.
        let _ = self.ram.write_slice(&bytes[..width.bytes() as usize], MemoryRegionAddress(offset));
        Effect::None
    }
    fn peek(&self, offset: u64, data: &mut [u8]) -> bool {
        if !self.is_open() {
            return self.display.as_ref().is_some_and(|display| display.peek(offset, data));
        }
        self.ram.read_slice(data, MemoryRegionAddress(offset)).is_ok()
    }
}
