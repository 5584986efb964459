//! The firmware configuration device: what the machine tells its firmware.
//!
//! QEMU documentation, "QEMU Firmware Configuration (fw_cfg) Device", with its DMA interface. On a PC: selector at port
//! 0x510, data at 0x511, address of a DMA access at 0x514 (high half) and 0x518 (low half), both big-endian.

use std::collections::BTreeMap;
use std::sync::Arc;

use accel::memory::GuestMemory;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use vm_memory::{Bytes, GuestAddress};

use crate::bus::{AccessRules, Effect, PioDevice, Width};
use crate::device::{Device, StateError, parse_state, state_value};
use crate::load::Image;

/// First port.
pub const PORTS: u64 = 0x510;
/// Number of ports.
pub const PORT_COUNT: u64 = 12;

/// Keys of items that have a fixed one.
pub mod key {
    /// `QEMU`.
    pub const SIGNATURE: u16 = 0x00;
    /// What the device can do; 4 bytes.
    pub const ID: u16 = 0x01;
    /// The machine's UUID; 16 bytes.
    pub const UUID: u16 = 0x02;
    /// Size of RAM; 8 bytes.
    pub const RAM_SIZE: u16 = 0x03;
    /// There is no graphics card; 2 bytes.
    pub const NO_GRAPHICS: u16 = 0x04;
    /// Number of processors; 2 bytes.
    pub const CPU_COUNT: u16 = 0x05;
    /// Where the kernel goes; 4 bytes.
    pub const KERNEL_ADDRESS: u16 = 0x07;
    /// Length of the kernel; 4 bytes.
    pub const KERNEL_SIZE: u16 = 0x08;
    /// Where the initial RAM disk goes; 4 bytes.
    pub const INITRD_ADDRESS: u16 = 0x0a;
    /// Length of the initial RAM disk; 4 bytes.
    pub const INITRD_SIZE: u16 = 0x0b;
    /// NUMA nodes; 8 bytes: none.
    pub const NUMA: u16 = 0x0d;
    /// Whether the firmware shows a boot menu; 2 bytes.
    pub const BOOT_MENU: u16 = 0x0e;
    /// Highest APIC id plus one; 2 bytes.
    pub const MOST_CPUS: u16 = 0x0f;
    /// The kernel's protected-mode part.
    pub const KERNEL_DATA: u16 = 0x11;
    /// The initial RAM disk.
    pub const INITRD_DATA: u16 = 0x12;
    /// Where the kernel's command line goes; 4 bytes.
    pub const COMMAND_LINE_ADDRESS: u16 = 0x13;
    /// Length of the command line with its final zero; 4 bytes.
    pub const COMMAND_LINE_SIZE: u16 = 0x14;
    /// The command line.
    pub const COMMAND_LINE_DATA: u16 = 0x15;
    /// Where the kernel's real-mode part goes; 4 bytes.
    pub const SETUP_ADDRESS: u16 = 0x16;
    /// Length of the real-mode part; 4 bytes.
    pub const SETUP_SIZE: u16 = 0x17;
    /// The real-mode part.
    pub const SETUP_DATA: u16 = 0x18;
    /// The directory of named items.
    pub const DIRECTORY: u16 = 0x19;
    /// Key of the first named item.
    pub const FIRST_FILE: u16 = 0x20;
    /// x86: whether ISA interrupt 0 is input 2 of the I/O APIC; 1 byte.
    pub const TIMER_OVERRIDE: u16 = 0x8002;
}

/// The interfaces that [`key::ID`] tells of: the ports, and DMA.
const FEATURES: u32 = 3;

const SELECTOR: u64 = 0;
const DATA: u64 = 1;
const DMA_HIGH: u64 = 4;
const DMA_LOW: u64 = 8;

/// What the DMA ports read as.
const DMA_SIGNATURE: u64 = u64::from_be_bytes(*b"QEMU CFG");

// Bits of a DMA access's control word; its high half is the key to select.
const CONTROL_ERROR: u32 = 1 << 0;
const CONTROL_READ: u32 = 1 << 1;
const CONTROL_SKIP: u32 = 1 << 2;
const CONTROL_SELECT: u32 = 1 << 3;
const CONTROL_WRITE: u32 = 1 << 4;

/// Length of a name in the directory, with a final zero.
const NAME_LENGTH: usize = 56;

/// How much is copied at a time, bytes.
const PART: usize = 1 << 16;

/// What there is to be read, while it is collected.
#[derive(Default)]
pub struct Items {
    numbered: BTreeMap<u16, Image>,
    named: BTreeMap<String, Image>,
}

impl Items {
    /// Adds an item with a fixed key.
    pub fn add(&mut self, key: u16, content: Image) {
        self.numbered.insert(key, content);
    }

    /// Adds an item with a fixed key that consists of `bytes`.
    pub fn add_bytes(&mut self, key: u16, bytes: &[u8]) {
        self.add(key, Image::bytes("an item for firmware", 0, bytes));
    }

    /// Adds an item that is found by its name, of at most 55 bytes.
    pub fn add_file(&mut self, name: &str, content: Image) {
        debug_assert!(name.len() < NAME_LENGTH, "{name}");
        self.named.insert(name.into(), content);
    }

    /// Adds an item of `bytes` that is found by its name.
    pub fn add_file_bytes(&mut self, name: &str, bytes: impl Into<Arc<[u8]>>) {
        self.add_file(name, Image::bytes(name, 0, bytes));
    }

    /// All items by key, with the directory of the named ones.
    fn finish(mut self) -> BTreeMap<u16, Image> {
        self.add_bytes(key::SIGNATURE, b"QEMU");
        self.add_bytes(key::ID, &FEATURES.to_le_bytes());
        let mut directory = (self.named.len() as u32).to_be_bytes().to_vec();
        for (key, (name, content)) in (key::FIRST_FILE..).zip(std::mem::take(&mut self.named)) {
            directory.extend((content.size() as u32).to_be_bytes());
            directory.extend(key.to_be_bytes());
            directory.extend([0; 2]);
            let mut field = [0; NAME_LENGTH];
            for (to, from) in field[..NAME_LENGTH - 1].iter_mut().zip(name.bytes()) {
                *to = from;
            }
            directory.extend(field);
            self.numbered.insert(key, content);
        }
        self.add_bytes(key::DIRECTORY, &directory);
        self.numbered
    }
}

/// The registers of an [`FwCfg`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FwCfgState {
    /// Key of the selected item.
    pub selected: u16,
    /// How much of it was read, bytes.
    pub offset: u64,
    /// Guest-physical address of a DMA access, as far as it was written.
    pub dma_address: u64,
}

/// The firmware configuration device.
pub struct FwCfg {
    items: BTreeMap<u16, Image>,
    memory: Arc<GuestMemory>,
    // Lock order: alone.
    state: Mutex<FwCfgState>,
}

impl FwCfg {
    /// A device that shows `items`, and writes them to `memory` where the guest asks for that.
    pub fn new(items: Items, memory: Arc<GuestMemory>) -> Arc<FwCfg> {
        Arc::new(FwCfg { items: items.finish(), memory, state: Mutex::default() })
    }

    /// Reads on in the selected item; beyond its end there are zeroes.
    fn read_on(&self, state: &mut FwCfgState, buffer: &mut [u8]) {
        let read = match self.items.get(&state.selected) {
            Some(item) => item.read_at(state.offset, buffer),
            None => {
                buffer.fill(0);
                Ok(())
            }
        };
        if let Err(error) = read {
            // A file that changed under us.
            tracing::error!("item {:#x} for the firmware cannot be read: {error}", state.selected);
            buffer.fill(0);
        }
        state.offset = state.offset.saturating_add(buffer.len() as u64);
    }

    /// Carries out the access that the guest described at `address`.
    fn dma(&self, state: &mut FwCfgState, address: u64) {
        let mut request = [0; 16];
        if self.memory.read_slice(&mut request, GuestAddress(address)).is_err() {
            tracing::debug!("fw_cfg: there is no request at {address:#x}");
            return;
        }
        let word = |at: usize| u32::from_be_bytes([request[at], request[at + 1], request[at + 2], request[at + 3]]);
        let (control, length) = (word(0), word(4));
        let target = (u64::from(word(8)) << 32) | u64::from(word(12));
        if control & CONTROL_SELECT != 0 {
            *state = FwCfgState { selected: (control >> 16) as u16, ..FwCfgState::default() };
        }
        let done = if control & CONTROL_READ != 0 {
            self.dma_read(state, target, length)
        } else if control & CONTROL_WRITE != 0 {
            // No item can be written.
            false
        } else {
            if control & CONTROL_SKIP != 0 {
                state.offset = state.offset.saturating_add(u64::from(length));
            }
            true
        };
        let result = if done { 0 } else { CONTROL_ERROR };
        if self.memory.write_slice(&result.to_be_bytes(), GuestAddress(address)).is_err() {
            tracing::debug!("fw_cfg: the result of a request at {address:#x} cannot be written");
        }
    }

    fn dma_read(&self, state: &mut FwCfgState, target: u64, length: u32) -> bool {
        let mut buffer = vec![0; PART.min(length as usize)];
        let mut done = 0;
        while done < u64::from(length) {
            let part = &mut buffer[..(u64::from(length) - done).min(PART as u64) as usize];
            self.read_on(state, part);
            let written = target.checked_add(done).map(|address| self.memory.write_slice(part, GuestAddress(address)));
            if !matches!(written, Some(Ok(()))) {
                return false;
            }
            done += part.len() as u64;
        }
        true
    }
}

impl Device for FwCfg {
    fn debug_label(&self) -> &str {
        "fw_cfg"
    }
    fn reset(&self) {
        *self.state.lock() = FwCfgState::default();
    }
    fn save(&self) -> serde_json::Value {
        state_value(&*self.state.lock())
    }
    fn restore(&self, state: &serde_json::Value) -> Result<(), StateError> {
        *self.state.lock() = parse_state(self.debug_label(), state)?;
        Ok(())
    }
}

impl PioDevice for FwCfg {
    fn port_rules(&self) -> AccessRules {
        AccessRules { narrowest: Width::Byte, widest: Width::Word, split_to: Width::Word, unaligned: true }
    }

    fn read_port(&self, offset: u64, width: Width) -> u64 {
        match (offset, width) {
            (DATA, _) => {
                let mut state = self.state.lock();
                let mut bytes = [0; 8];
                self.read_on(&mut state, &mut bytes[..width.bytes() as usize]);
                u64::from_le_bytes(bytes)
            }
            (DMA_HIGH, Width::Word) => u64::from(((DMA_SIGNATURE >> 32) as u32).swap_bytes()),
            (DMA_LOW, Width::Word) => u64::from((DMA_SIGNATURE as u32).swap_bytes()),
            _ => 0,
        }
    }

    fn write_port(&self, offset: u64, width: Width, value: u64) -> Effect {
        let mut state = self.state.lock();
        let half = u64::from((value as u32).swap_bytes());
        match (offset, width) {
            (SELECTOR, Width::Half) => (state.selected, state.offset) = (value as u16, 0),
            (DMA_HIGH, Width::Word) => state.dma_address = half << 32,
            (DMA_LOW, Width::Word) => {
                let address = std::mem::take(&mut state.dma_address) | half;
                self.dma(&mut state, address);
            }
            // Data cannot be written.
            _ => {}
        }
        Effect::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::memory;

    fn device() -> (Arc<FwCfg>, Arc<GuestMemory>) {
        let memory = memory(0x10_0000);
        let mut items = Items::default();
        items.add_bytes(key::CPU_COUNT, &[4, 0]);
        items.add_file_bytes("etc/second", vec![7; 100_000]);
        items.add_file_bytes("a/first", *b"hello");
        (FwCfg::new(items, memory.clone()), memory)
    }
    fn select(device: &FwCfg, key: u16) {
        assert_eq!(device.write_port(SELECTOR, Width::Half, u64::from(key)), Effect::None);
    }
    fn read(device: &FwCfg, count: usize) -> Vec<u8> {
        (0..count).map(|_| device.read_port(DATA, Width::Byte) as u8).collect()
    }
    /// Writes a request to 0x100 and starts it; what its control word becomes.
    fn dma(device: &FwCfg, memory: &GuestMemory, control: u32, length: u32, address: u64) -> u32 {
        let request = [&control.to_be_bytes()[..], &length.to_be_bytes(), &address.to_be_bytes()].concat();
        memory.write_slice(&request, GuestAddress(0x100)).unwrap();
        let _ = device.write_port(DMA_HIGH, Width::Word, 0);
        let _ = device.write_port(DMA_LOW, Width::Word, u64::from(0x100u32.swap_bytes()));
        u32::from_be(memory.read_obj(GuestAddress(0x100)).unwrap())
    }

    #[test]
    fn the_signature_and_the_features() {
        let (device, _) = device();
        assert_eq!(read(&device, 6), b"QEMU\0\0");
        select(&device, 1);
        assert_eq!(read(&device, 4), [3, 0, 0, 0]);
        let [high, low] = [DMA_HIGH, DMA_LOW].map(|offset| device.read_port(offset, Width::Word) as u32);
        assert_eq!([high.to_le_bytes(), low.to_le_bytes()].concat(), b"QEMU CFG");
        select(&device, 5);
        assert_eq!(device.read_port(DATA, Width::Half), 4);
        select(&device, 0x4242);
        assert_eq!(read(&device, 2), [0, 0]);
    }

    #[test]
    fn the_directory_lists_named_items_in_order() {
        let (device, _) = device();
        select(&device, key::DIRECTORY);
        let bytes = read(&device, 4 + 2 * 64);
        assert_eq!(bytes[..4], [0, 0, 0, 2]);
        assert_eq!((&bytes[4..12], &bytes[12..20]), (&[0, 0, 0, 5, 0, 0x20, 0, 0][..], &b"a/first\0"[..]));
        assert_eq!((&bytes[68..76], &bytes[76..86]), (&[0, 1, 0x86, 0xa0, 0, 0x21, 0, 0][..], &b"etc/second"[..]));
        select(&device, 0x20);
        assert_eq!(read(&device, 6), b"hello\0");
    }

    #[test]
    fn dma_selects_skips_and_reads() {
        let (device, memory) = device();
        let selected = CONTROL_SELECT | 0x20 << 16;
        assert_eq!(dma(&device, &memory, selected | CONTROL_READ, 3, 0x2000), 0);
        let mut bytes = [0xff; 6];
        memory.read_slice(&mut bytes, GuestAddress(0x2000)).unwrap();
        assert_eq!(&bytes, b"hel\0\0\0");
        assert_eq!(dma(&device, &memory, selected | CONTROL_SKIP, 2, 0), 0);
        assert_eq!(dma(&device, &memory, CONTROL_READ, 6, 0x2000), 0);
        memory.read_slice(&mut bytes, GuestAddress(0x2000)).unwrap();
        assert_eq!(&bytes, b"llo\0\0\0");
        let large = CONTROL_SELECT | 0x21 << 16 | CONTROL_READ;
        assert_eq!(dma(&device, &memory, large, 100_001, 0x4000), 0);
        let last: u16 = memory.read_obj(GuestAddress(0x4000 + 99_999)).unwrap();
        assert_eq!(last, 7);
    }

    #[test]
    fn bad_dma_requests_are_errors() {
        let (device, memory) = device();
        assert_eq!(dma(&device, &memory, CONTROL_WRITE, 4, 0x2000), 1);
        assert_eq!(dma(&device, &memory, CONTROL_READ, u32::MAX, 0xf_fff0), 1);
        assert_eq!(dma(&device, &memory, CONTROL_READ, 16, u64::MAX), 1);
        assert_eq!(dma(&device, &memory, 0, 16, 0), 0);
        let _ = device.write_port(DMA_HIGH, Width::Word, 0xffff_ffff);
        let _ = device.write_port(DMA_LOW, Width::Word, 0xffff_ffff);
    }
}
