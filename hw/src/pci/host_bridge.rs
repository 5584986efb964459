//! i440FX host bridge and PCI configuration mechanism 1.
//!
//! Intel 82440FX PCIset data sheet (290549): address at port 0xcf8, data at 0xcfc to 0xcff. A byte written to port
//! 0xcf9 goes to the reset control register of the PIIX3 (data sheet 290550, section 2.5.6.2).
//!
//! What the attribute registers (PAM) and the system-management RAM control register say of the memory below 1 MiB, the machine
//! makes so.

use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::config::{Identity, PciConfig, PciConfigState};
use super::{PciBus, PciDevice, Slot};
use crate::bus::{AccessRules, Effect, PioDevice, Width};
use crate::device::{Device, StateError, impossible, parse_state, state_value};

/// First port.
pub const PORTS: u64 = 0xcf8;
/// Number of ports.
pub const PORT_COUNT: u64 = 8;

const RESET_CONTROL: u64 = 1;
const DATA: u64 = 4;

const ADDRESS_ENABLE: u32 = 1 << 31;
/// Reset control: a rise of this bit resets the processor.
const RESET_CPU: u8 = 0x04;

/// The registers of a [`HostBridge`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HostBridgeState {
    /// Configuration space of function 0:0.0.
    pub config: PciConfigState,
    /// Configuration address register.
    pub address: u32,
    /// Reset control register.
    pub reset_control: u8,
}

/// Bits of the system-management RAM control register.
pub mod smram_control {
    /// D_OPEN: all processors see the RAM.
    pub const OPEN: u8 = 1 << 6;
    /// D_CLS: data accesses of system-management mode do not see it. Kept, and without an effect.
    pub const CLOSED: u8 = 1 << 5;
    /// D_LCK: but for D_CLS the register stays as it is until a reset.
    pub const LOCKED: u8 = 1 << 4;
    /// G_SMRAME: there is such RAM.
    pub const ENABLED: u8 = 1 << 3;
    /// C_BASE_SEG: it is at 0xa0000.
    pub const BASE: u8 = 0x02;
}

use smram_control::{BASE, CLOSED, ENABLED, LOCKED, OPEN};

/// What the bridge says of the memory below 1 MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryControl {
    /// The attribute registers.
    pub attributes: [u8; 7],
    /// The system-management RAM control register.
    pub smram: u8,
}

/// Called with locks of the bridge held: it must not access a device.
pub type MemoryListener = Box<dyn Fn(&MemoryControl) + Send + Sync>;

/// Offset of the system-management RAM control register.
const SMRAM: u8 = 0x72;
/// The first of the seven attribute registers.
const ATTRIBUTES: u8 = 0x59;
/// All segments are RAM.
const ALL_RAM: [u8; 7] = [0x30, 0x33, 0x33, 0x33, 0x33, 0x33, 0x33];

/// The host bridge of a PC.
pub struct HostBridge {
    config: PciConfig,
    bus: Arc<PciBus>,
    // Lock order: after the PCI bus's.
    listener: Mutex<Option<MemoryListener>>,
    // Lock order: alone; released before the bus is accessed.
    registers: Mutex<Registers>,
}

#[derive(Default)]
struct Registers {
    address: u32,
    reset_control: u8,
}

impl HostBridge {
    /// The bridge to `bus`. With `all_ram` a reset makes all memory below 1 MiB RAM, as firmware would have done.
    pub fn new(bus: Arc<PciBus>, all_ram: bool) -> Arc<HostBridge> {
        let mut config = PciConfig::new(&Identity {
            vendor: 0x8086,
            device: 0x1237,
            revision: 2,
            class: 0x06_0000,
            subsystem_vendor: 0x1af4,
            subsystem: 0x1100,
        });
        config.allow(ATTRIBUTES.into(), &[0xff; 7]);
        if all_ram {
            config.set(ATTRIBUTES.into(), &ALL_RAM);
        }
        config.allow(SMRAM.into(), &[OPEN | CLOSED | LOCKED | ENABLED]);
        config.set(SMRAM.into(), &[BASE]);
        Arc::new(HostBridge { config, bus, listener: Mutex::default(), registers: Mutex::default() })
    }

    /// Has `listener` called now, and whenever that may have changed.
    pub fn on_memory_control(&self, listener: MemoryListener) {
        *self.listener.lock() = Some(listener);
        self.tell_memory_control();
    }

    /// Sets all attribute registers.
    pub fn set_attributes(&self, registers: [u8; 7]) {
        for (offset, value) in (ATTRIBUTES..).zip(registers) {
            self.config.write(offset, Width::Byte, u64::from(value));
        }
        self.tell_memory_control();
    }

    /// The attribute registers.
    pub fn attributes(&self) -> [u8; 7] {
        std::array::from_fn(|index| self.config.byte(usize::from(ATTRIBUTES) + index))
    }

    fn memory_control(&self) -> MemoryControl {
        MemoryControl { attributes: self.attributes(), smram: self.config.byte(SMRAM.into()) }
    }

    fn tell_memory_control(&self) {
        if let Some(listener) = &*self.listener.lock() {
            listener(&self.memory_control());
        }
    }

    /// What the lock makes of a write to the system-management RAM control register, which was `before`.
    fn lock_smram(&self, before: u8) {
        let written = self.config.byte(SMRAM.into());
        let kept = if before & LOCKED != 0 {
            before & !CLOSED | written & CLOSED
        } else if written & LOCKED != 0 {
            written & !OPEN
        } else {
            written
        };
        self.config.write(SMRAM, Width::Byte, kept.into());
    }

    /// The function and register that the address register selects for the data port `offset`, if it is on bus 0.
    fn selected(&self, offset: u64) -> Option<(Slot, u8)> {
        let address = self.registers.lock().address;
        let on_this_bus = address & ADDRESS_ENABLE != 0 && (address >> 16) & 0xff == 0;
        on_this_bus.then_some((Slot((address >> 8) as u8), (address & 0xfc) as u8 | (offset & 3) as u8))
    }
}

impl Device for HostBridge {
    fn debug_label(&self) -> &str {
        "i440fx"
    }
    fn reset(&self) {
        self.config.reset();
        *self.registers.lock() = Registers::default();
        self.tell_memory_control();
        // Regions of devices that were reset before move now.
        self.bus.place_all();
    }
    fn save(&self) -> serde_json::Value {
        let registers = self.registers.lock();
        let (address, reset_control) = (registers.address, registers.reset_control);
        state_value(&HostBridgeState { config: self.config.save(), address, reset_control })
    }
    fn restore(&self, state: &serde_json::Value) -> Result<(), StateError> {
        let new: HostBridgeState = parse_state(self.debug_label(), state)?;
        if !self.config.restore(&new.config) {
            return Err(impossible(self.debug_label(), "the configuration space is another function's"));
        }
        *self.registers.lock() = Registers { address: new.address, reset_control: new.reset_control };
        self.tell_memory_control();
        self.bus.place_all();
        Ok(())
    }
}

impl PciDevice for HostBridge {
    fn config(&self) -> &PciConfig {
        &self.config
    }
    fn write_config(&self, offset: u8, width: Width, value: u64) -> Effect {
        let before = self.memory_control();
        self.config.write(offset, width, value);
        self.lock_smram(before.smram);
        if self.memory_control() == before {
            return Effect::None;
        }
        self.tell_memory_control();
        Effect::MemoryMap
    }
}

impl PioDevice for HostBridge {
    fn port_rules(&self) -> AccessRules {
        AccessRules { narrowest: Width::Byte, widest: Width::Word, split_to: Width::Word, unaligned: true }
    }
    fn read_port(&self, offset: u64, width: Width) -> u64 {
        match (offset, width) {
            (0, Width::Word) => u64::from(self.registers.lock().address),
            (RESET_CONTROL, Width::Byte) => u64::from(self.registers.lock().reset_control),
            (DATA.., _) => match self.selected(offset) {
                Some((slot, register)) => self.bus.read_config(slot, register, width),
                None => width.mask(),
            },
            _ => width.mask(),
        }
    }
    fn write_port(&self, offset: u64, width: Width, value: u64) -> Effect {
        match (offset, width) {
            (0, Width::Word) => self.registers.lock().address = value as u32,
            (RESET_CONTROL, Width::Byte) => {
                let mut registers = self.registers.lock();
                registers.reset_control = value as u8 & !RESET_CPU;
                if value as u8 & RESET_CPU != 0 {
                    return Effect::Reset;
                }
            }
            (DATA.., _) => {
                if let Some((slot, register)) = self.selected(offset) {
                    return self.bus.write_config(slot, register, width, value);
                }
            }
            _ => {}
        }
        Effect::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::Bus;
    use crate::pci::isa_bridge::IsaBridge;
    use accel::{AddressSpace, IoBus};

    fn machine() -> (Arc<Bus>, Arc<HostBridge>, Arc<dyn PciDevice>) {
        let bus = Arc::new(Bus::new(Arc::new(|_| {})));
        let pci = PciBus::new(&bus);
        let bridge = HostBridge::new(pci.clone(), false);
        let isa: Arc<dyn PciDevice> = IsaBridge::with_lines(Vec::new());
        assert!(pci.insert(Slot::new(0, 0), &(bridge.clone() as Arc<dyn PciDevice>)));
        assert!(pci.insert(Slot::new(1, 0), &isa));
        assert!(!pci.insert(Slot::new(1, 0), &isa));
        bus.map_ports(PORTS, PORT_COUNT, 0, bridge.clone()).unwrap();
        (bus, bridge, isa)
    }
    fn read(bus: &Bus, port: u64, length: usize) -> u64 {
        let mut data = [0; 8];
        bus.read(AddressSpace::Port, port, &mut data[..length]).unwrap();
        u64::from_le_bytes(data)
    }
    fn write(bus: &Bus, port: u64, length: usize, value: u64) {
        bus.write(AddressSpace::Port, port, &value.to_le_bytes()[..length]).unwrap();
    }

    #[test]
    fn functions_are_found_through_address_and_data_ports() {
        let (bus, _bridge, _isa) = machine();
        let id = |device: u64, function: u64| {
            write(&bus, 0xcf8, 4, 0x8000_0000 | (device << 11) | (function << 8));
            read(&bus, 0xcfc, 4)
        };
        assert_eq!((id(0, 0), id(1, 0), id(1, 1), id(31, 7)), (0x1237_8086, 0x7000_8086, 0xffff_ffff, 0xffff_ffff));
        id(0, 0);
        assert_eq!((read(&bus, 0xcfd, 1), read(&bus, 0xcfe, 2), read(&bus, 0xcf8, 4)), (0x80, 0x1237, 0x8000_0000));
        write(&bus, 0xcf8, 4, 0x8001_0000);
        assert_eq!(read(&bus, 0xcfc, 4), 0xffff_ffff);
        write(&bus, 0xcf8, 4, 0);
        assert_eq!(read(&bus, 0xcfc, 2), 0xffff);
    }

    #[test]
    fn the_reset_control_register_resets_on_its_bit_2_only() {
        let (_, bridge, _) = machine();
        assert_eq!(bridge.write_port(1, Width::Byte, 0x02), Effect::None);
        assert_eq!(bridge.read_port(1, Width::Byte), 2);
        assert_eq!(bridge.write_port(1, Width::Byte, 0x06), Effect::Reset);
        assert_eq!(bridge.write_port(0, Width::Word, 0x8000_0600), Effect::None);
    }
}
