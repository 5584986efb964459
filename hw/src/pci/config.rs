//! The configuration space of a PCI function.

use accel::AddressSpace;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::bus::Width;

/// Length of a configuration space, bytes.
pub const LENGTH: usize = 256;

const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const FIRST_BAR: usize = 0x10;
/// Where the address of the ROM is.
const ROM: usize = 0x30;
const ROM_ENABLE: u64 = 1 << 0;

/// Number of the region of the expansion ROM, after the six base address registers.
pub const ROM_BAR: usize = 6;

const CAPABILITIES: usize = 0x34;
const INTERRUPT_LINE: usize = 0x3c;
const INTERRUPT_PIN: usize = 0x3d;

/// Command: port regions answer.
pub const COMMAND_PORTS: u16 = 1 << 0;
/// Command: memory regions answer.
pub const COMMAND_MEMORY: u16 = 1 << 1;
/// Command: the device may read and write memory.
pub const COMMAND_MASTER: u16 = 1 << 2;
/// Command: the device's interrupt line stays low.
pub const COMMAND_NO_INTERRUPT: u16 = 1 << 10;

const STATUS_CAPABILITIES: u16 = 1 << 4;

/// What a base address register asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarKind {
    /// I/O ports.
    Ports,
    /// Memory below 4 GiB.
    Memory32,
    /// Prefetchable memory below 4 GiB.
    Prefetchable32,
    /// The expansion ROM; region [`ROM_BAR`] only.
    Rom,
    /// Prefetchable memory anywhere; takes two registers.
    Memory64,
}

/// A region of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// What it is.
    pub kind: BarKind,
    /// Its length, a power of two.
    pub size: u64,
    /// Where it answers now, if it does.
    pub mapping: Option<(AddressSpace, u64)>,
}

/// What identifies a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Vendor id.
    pub vendor: u16,
    /// Device id.
    pub device: u16,
    /// Revision.
    pub revision: u8,
    /// Class, subclass and programming interface, in bits 23..16, 15..8 and 7..0.
    pub class: u32,
    /// Vendor id of the board; 0: none.
    pub subsystem_vendor: u16,
    /// Device id of the board.
    pub subsystem: u16,
}

/// The bytes of a configuration space.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PciConfigState {
    /// All bytes.
    pub bytes: Vec<u8>,
}

/// A configuration space: which bits a guest may write, and what its base address registers mean.
pub struct PciConfig {
    initial: Vec<u8>,
    writable: Vec<u8>,
    bars: [Option<(BarKind, u64)>; ROM_BAR + 1],
    last_capability: usize,
    next_free: usize,
    // Lock order: alone.
    bytes: Mutex<Vec<u8>>,
}

fn bar_offset(bar: usize) -> usize {
    if bar == ROM_BAR { ROM } else { FIRST_BAR + 4 * bar }
}

impl PciConfig {
    /// A configuration space (header type 0) of a function.
    pub fn new(identity: &Identity) -> PciConfig {
        let mut config = PciConfig {
            initial: vec![0; LENGTH],
            writable: vec![0; LENGTH],
            bars: [None; ROM_BAR + 1],
            last_capability: 0,
            next_free: 0x40,
            bytes: Mutex::default(),
        };
        config.set(0x00, &identity.vendor.to_le_bytes());
        config.set(0x02, &identity.device.to_le_bytes());
        config.set(0x08, &[identity.revision]);
        config.set(0x09, &identity.class.to_le_bytes()[..3]);
        config.set(0x2c, &identity.subsystem_vendor.to_le_bytes());
        config.set(0x2e, &identity.subsystem.to_le_bytes());
        config.allow(COMMAND, &(COMMAND_PORTS | COMMAND_MEMORY | COMMAND_MASTER | COMMAND_NO_INTERRUPT).to_le_bytes());
        config.allow(INTERRUPT_LINE, &[0xff]);
        config
    }

    /// Sets bytes for power-on.
    pub fn set(&mut self, offset: usize, bytes: &[u8]) {
        for (position, byte) in bytes.iter().enumerate() {
            if let Some(place) = self.initial.get_mut(offset + position) {
                *place = *byte;
            }
        }
        self.bytes.get_mut().clone_from(&self.initial);
    }

    /// Lets the guest write the bits that are set in `mask`.
    pub fn allow(&mut self, offset: usize, mask: &[u8]) {
        for (position, byte) in mask.iter().enumerate() {
            if let Some(place) = self.writable.get_mut(offset + position) {
                *place |= *byte;
            }
        }
    }

    /// Gives the function interrupt pin INTA#, wired to `line` as firmware would note it.
    pub fn interrupt_pin(&mut self, line: u8) {
        self.set(INTERRUPT_PIN, &[1]);
        self.set(INTERRUPT_LINE, &[line]);
    }

    /// Adds base address register `bar` for a region of `size` bytes, a power of two from 16 on.
    pub fn add_bar(&mut self, bar: usize, kind: BarKind, size: u64) {
        let offset = bar_offset(bar);
        let (flags, mask) = match kind {
            BarKind::Ports => (1, !(size - 1) & 0xffff_fffc),
            BarKind::Memory32 => (0, !(size - 1) & 0xffff_fff0),
            BarKind::Prefetchable32 => (8, !(size - 1) & 0xffff_fff0),
            BarKind::Rom => (0, !(size - 1) & 0xffff_f800 | ROM_ENABLE),
            BarKind::Memory64 => (0x0c, !(size - 1)),
        };
        self.set(offset, &[flags]);
        let length = if kind == BarKind::Memory64 { 8 } else { 4 };
        self.allow(offset, &mask.to_le_bytes()[..length]);
        if let Some(place) = self.bars.get_mut(bar) {
            *place = Some((kind, size));
        }
    }

    /// Appends a capability: its id, and what follows the link byte. Returns its offset.
    pub fn add_capability(&mut self, id: u8, body: &[u8]) -> usize {
        let offset = self.next_free;
        self.set(offset, &[id, 0]);
        self.set(offset + 2, body);
        let link = if self.last_capability == 0 { CAPABILITIES } else { self.last_capability + 1 };
        self.set(link, &[offset as u8]);
        self.last_capability = offset;
        self.next_free = (offset + 2 + body.len()).next_multiple_of(4);
        let status = u16::from_le_bytes([self.initial[STATUS], self.initial[STATUS + 1]]) | STATUS_CAPABILITIES;
        self.set(STATUS, &status.to_le_bytes());
        offset
    }

    /// Back to power-on.
    pub fn reset(&self) {
        self.bytes.lock().clone_from(&self.initial);
    }

    /// Reads `width` at `offset`; what lies beyond the end reads as 0.
    pub fn read(&self, offset: u8, width: Width) -> u64 {
        let bytes = self.bytes.lock();
        let start = usize::from(offset);
        let part = bytes.get(start..(start + width.bytes() as usize).min(LENGTH)).unwrap_or_default();
        part.iter().rev().fold(0, |value, byte| (value << 8) | u64::from(*byte))
    }

    /// Writes the bits of `width` at `offset` that may be written.
    pub fn write(&self, offset: u8, width: Width, value: u64) {
        let mut bytes = self.bytes.lock();
        let value = value.to_le_bytes();
        for (position, new) in (usize::from(offset)..LENGTH).zip(&value[..width.bytes() as usize]) {
            let mask = self.writable[position];
            bytes[position] = (bytes[position] & !mask) | (new & mask);
        }
    }

    /// One byte.
    pub fn byte(&self, offset: usize) -> u8 {
        self.bytes.lock().get(offset).copied().unwrap_or(0)
    }

    /// The command register.
    pub fn command(&self) -> u16 {
        self.read(COMMAND as u8, Width::Half) as u16
    }

    /// The regions, and where they answer.
    pub fn regions(&self) -> Vec<(usize, Region)> {
        let command = self.command();
        let mut regions = Vec::new();
        for (bar, description) in self.bars.iter().enumerate() {
            let Some((kind, size)) = *description else { continue };
            let offset = bar_offset(bar) as u8;
            let (space, enabled, address) = match kind {
                BarKind::Ports => (AddressSpace::Port, COMMAND_PORTS, self.read(offset, Width::Word) & 0xffff_fffc),
                BarKind::Memory32 | BarKind::Prefetchable32 => {
                    (AddressSpace::Memory, COMMAND_MEMORY, self.read(offset, Width::Word) & 0xffff_fff0)
                }
                BarKind::Rom => {
                    let register = self.read(offset, Width::Word);
                    let enabled = if register & ROM_ENABLE != 0 { COMMAND_MEMORY } else { 0 };
                    (AddressSpace::Memory, enabled, register & 0xffff_f800)
                }
                BarKind::Memory64 => (AddressSpace::Memory, COMMAND_MEMORY, self.read(offset, Width::Double) & !0xf),
            };
            // While a driver measures the register it holds all ones, and at power-on 0: no address.
            let end = address.checked_add(size);
            let measured = match kind {
                BarKind::Ports => end.is_none_or(|end| end > 0x1_0000),
                BarKind::Memory32 | BarKind::Prefetchable32 | BarKind::Rom => end.is_none_or(|end| end > 0xffff_0000),
                BarKind::Memory64 => end.is_none_or(|end| end > 1 << 52),
            };
            let answers = command & enabled != 0 && address != 0 && !measured;
            regions.push((bar, Region { kind, size, mapping: answers.then_some((space, address)) }));
        }
        regions
    }

    /// The bytes, for a saved state.
    pub fn save(&self) -> PciConfigState {
        PciConfigState { bytes: self.bytes.lock().clone() }
    }

    /// Takes over saved bytes; false if they are another function's.
    pub fn restore(&self, state: &PciConfigState) -> bool {
        let fixed = |bytes: &[u8]| -> Vec<u8> {
            bytes.iter().zip(&self.writable).map(|(byte, writable)| byte & !writable).collect()
        };
        // What a guest cannot write must be what this function has, interrupt status aside.
        let same = state.bytes.len() == LENGTH && fixed(&state.bytes) == fixed(&self.initial);
        if same {
            self.bytes.lock().clone_from(&state.bytes);
        }
        same
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> PciConfig {
        let identity = Identity {
            vendor: 0x1af4,
            device: 0x1042,
            revision: 1,
            class: 0x01_8002,
            subsystem_vendor: 1,
            subsystem: 2,
        };
        let mut config = PciConfig::new(&identity);
        config.add_bar(0, BarKind::Ports, 0x20);
        config.add_bar(1, BarKind::Memory32, 0x1000);
        config.add_bar(4, BarKind::Memory64, 0x4000);
        config
    }

    #[test]
    fn identity_is_read_only() {
        let config = config();
        config.write(0, Width::Word, u64::MAX);
        assert_eq!(config.read(0, Width::Word), 0x1042_1af4);
        assert_eq!(config.read(8, Width::Word), 0x0180_0201);
        assert_eq!(config.read(0x2c, Width::Word), 0x0002_0001);
        assert_eq!(config.read(0xfe, Width::Word), 0);
        config.write(0xff, Width::Double, u64::MAX);
    }

    #[test]
    fn measuring_a_base_address_register_tells_size_and_kind() {
        let config = config();
        for offset in [0x10, 0x14, 0x18, 0x20, 0x24] {
            config.write(offset, Width::Word, 0xffff_ffff);
        }
        let read = |offset| config.read(offset, Width::Word);
        assert_eq!(
            [read(0x10), read(0x14), read(0x18), read(0x20), read(0x24)],
            [0xffff_ffe1, 0xffff_f000, 0, 0xffff_c00c, 0xffff_ffff]
        );
        config.write(4, Width::Half, 7);
        assert!(config.regions().iter().all(|(_, region)| region.mapping.is_none()));
    }

    #[test]
    fn regions_answer_where_they_were_put_while_the_command_register_lets_them() {
        let config = config();
        config.write(0x10, Width::Word, 0xc000);
        config.write(0x20, Width::Word, 0x8000_0000);
        config.write(0x24, Width::Word, 0x12);
        let mappings = || config.regions().into_iter().map(|(_, region)| region.mapping).collect::<Vec<_>>();
        assert_eq!(mappings(), [None, None, None]);
        config.write(4, Width::Half, 3);
        assert_eq!(
            mappings(),
            [Some((AddressSpace::Port, 0xc000)), None, Some((AddressSpace::Memory, 0x12_8000_0000))]
        );
    }

    #[test]
    fn capabilities_are_linked_in_order() {
        let mut config = config();
        let (first, second) = (config.add_capability(9, &[1, 2, 3]), config.add_capability(0x11, &[4]));
        assert_eq!((first, second), (0x40, 0x48));
        assert_eq!(config.read(0x34, Width::Byte), 0x40);
        assert_eq!(config.read(0x40, Width::Half), 0x4809);
        assert_eq!(config.read(0x48, Width::Word), 0x04_0011);
        assert_eq!(config.read(6, Width::Half) & 0x10, 0x10);
    }
}
