//! PCI: configuration space, base address registers, and the bus that finds devices.
//!
//! PCI Local Bus Specification 3.0, chapter 6; message-signalled interrupts ([`msix`]) from section 6.8.2.

pub mod config;
pub mod host_bridge;
pub mod isa_bridge;
pub mod msix;
pub mod piix3_ide;
pub mod power_management;

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use accel::AddressSpace;
use parking_lot::Mutex;

use crate::bus::{Bus, Effect, MmioDevice, PioDevice, Width};
use crate::device::{Device, StateError};
use config::PciConfig;

/// Device and function number: device in bits 7..3, function in bits 2..0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u8);

impl Slot {
    /// Function `function` (0 to 7) of device `device` (0 to 31).
    pub const fn new(device: u8, function: u8) -> Slot {
        Slot((device << 3) | (function & 7))
    }
}

/// A function on a PCI bus.
pub trait PciDevice: Device {
    /// Its configuration space.
    fn config(&self) -> &PciConfig;

    /// Reads its configuration space.
    fn read_config(&self, offset: u8, width: Width) -> u64 {
        self.config().read(offset, width)
    }

    /// Writes its configuration space. The bus moves the device's regions afterwards.
    fn write_config(&self, offset: u8, width: Width, value: u64) -> Effect {
        self.config().write(offset, width, value);
        Effect::None
    }

    /// Reads the region of base address register `bar`.
    fn read_bar(&self, _bar: usize, _offset: u64, _width: Width) -> u64 {
        0
    }

    /// Writes the region of base address register `bar`.
    fn write_bar(&self, _bar: usize, _offset: u64, _width: Width, _value: u64) -> Effect {
        Effect::None
    }
}

/// The region of one base address register, as the bus sees it.
struct BarWindow {
    device: Arc<dyn PciDevice>,
    bar: usize,
}

impl Device for BarWindow {
    fn debug_label(&self) -> &str {
        self.device.debug_label()
    }
    // The device itself is among the machine's devices.
    fn reset(&self) {}
    fn save(&self) -> serde_json::Value {
        serde_json::Value::Null
    }
    fn restore(&self, _state: &serde_json::Value) -> Result<(), StateError> {
        Ok(())
    }
}

impl MmioDevice for BarWindow {
    fn read(&self, offset: u64, width: Width) -> u64 {
        self.device.read_bar(self.bar, offset, width)
    }
    fn write(&self, offset: u64, width: Width, value: u64) -> Effect {
        self.device.write_bar(self.bar, offset, width, value)
    }
}

impl PioDevice for BarWindow {
    fn read_port(&self, offset: u64, width: Width) -> u64 {
        self.device.read_bar(self.bar, offset, width)
    }
    fn write_port(&self, offset: u64, width: Width, value: u64) -> Effect {
        self.device.write_bar(self.bar, offset, width, value)
    }
}

/// Where a region is mapped.
type Mapping = (AddressSpace, u64);

/// Bus 0 of a machine.
pub struct PciBus {
    bus: Weak<Bus>,
    // Lock order: before devices' and their configuration spaces'.
    state: Mutex<PciBusState>,
}

#[derive(Default)]
struct PciBusState {
    /// Not kept alive: the host bridge, which has this bus, is one of them.
    devices: BTreeMap<Slot, Weak<dyn PciDevice>>,
    mapped: BTreeMap<(Slot, usize), Mapping>,
}

impl PciBus {
    /// A bus without devices whose regions appear on `bus`.
    pub fn new(bus: &Arc<Bus>) -> Arc<PciBus> {
        Arc::new(PciBus { bus: Arc::downgrade(bus), state: Mutex::default() })
    }

    /// Puts a device, which the caller keeps alive, into a slot; false if the slot is taken.
    pub fn insert(&self, slot: Slot, device: &Arc<dyn PciDevice>) -> bool {
        let mut state = self.state.lock();
        let free = !state.devices.contains_key(&slot);
        if free {
            state.devices.insert(slot, Arc::downgrade(device));
        }
        free
    }

    /// The devices by slot, for `query-pci`.
    pub fn devices(&self) -> Vec<(Slot, Arc<dyn PciDevice>)> {
        let state = self.state.lock();
        state.devices.iter().filter_map(|(slot, device)| Some((*slot, device.upgrade()?))).collect()
    }

    fn device(&self, slot: Slot) -> Option<Arc<dyn PciDevice>> {
        self.state.lock().devices.get(&slot)?.upgrade()
    }

    /// Reads a configuration register; all ones where there is no device.
    pub fn read_config(&self, slot: Slot, offset: u8, width: Width) -> u64 {
        let device = self.device(slot);
        device.map_or(width.mask(), |device| device.read_config(offset, width) & width.mask())
    }

    /// Writes a configuration register.
    pub fn write_config(&self, slot: Slot, offset: u8, width: Width, value: u64) -> Effect {
        let device = self.device(slot);
        let Some(device) = device else { return Effect::None };
        let effect = device.write_config(offset, width, value & width.mask());
        self.place(slot, &device);
        effect
    }

    /// Maps all regions to where the configuration spaces say; after a reset or a restore.
    pub fn place_all(&self) {
        for (slot, device) in self.devices() {
            self.place(slot, &device);
        }
    }

    fn place(&self, slot: Slot, device: &Arc<dyn PciDevice>) {
        let Some(bus) = self.bus.upgrade() else { return };
        let mut state = self.state.lock();
        for (bar, region) in device.config().regions() {
            let wanted = region.mapping;
            let current = state.mapped.get(&(slot, bar)).copied();
            if wanted == current {
                continue;
            }
            if let Some((space, address)) = current {
                bus.unmap(space, address);
                state.mapped.remove(&(slot, bar));
            }
            let Some((space, address)) = wanted else { continue };
            let window = Arc::new(BarWindow { device: device.clone(), bar });
            let mapped = match space {
                AddressSpace::Memory => bus.map_memory(address, region.size, window),
                AddressSpace::Port => bus.map_ports(address, region.size, 0, window),
            };
            match mapped {
                Ok(()) => {
                    state.mapped.insert((slot, bar), (space, address));
                }
                // A guest may put two regions on one place; the second is not there until it is moved.
                Err(error) => tracing::debug!("{error}"),
            }
        }
    }
}
