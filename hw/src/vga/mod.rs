//! A VGA: text and planar modes of the IBM Video Graphics Array, as the PCI card that QEMU users know as `std`.
//!
//! IBM VGA Technical Reference; registers at ports 0x3b4 to 0x3df, display memory from 0xa0000 on. QEMU documentation, "QEMU
//! Standard VGA", for the card: its ROM starts the display. Its extended modes are left out, and its ROM does without them.

mod memory;

use std::sync::Arc;

use accel::clock::VirtualClock;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

pub use memory::WINDOW;

use crate::bus::{AccessRules, Effect, MmioDevice, PioDevice, Width};
use crate::device::{Device, StateError, impossible, parse_state, state_value};
use crate::pci::PciDevice;
use crate::pci::config::{BarKind, Identity, PciConfig, PciConfigState, ROM_BAR};
use memory::{DisplayMemory, Path};

/// First port and number of ports of each range. The device sees the port's number as offset.
pub const PORTS: [(u64, u64); 5] = [(0x3b4, 2), (0x3ba, 1), (0x3c0, 0x10), (0x3d4, 2), (0x3da, 1)];

const ATTRIBUTE: u64 = 0x3c0;
const ATTRIBUTE_DATA: u64 = 0x3c1;
/// Miscellaneous output when written, input status 0 when read.
const MISCELLANEOUS: u64 = 0x3c2;
const SEQUENCER: u64 = 0x3c4;
const SEQUENCER_DATA: u64 = 0x3c5;
const DAC_MASK: u64 = 0x3c6;
/// Index of reads when written, state when read.
const DAC_READ: u64 = 0x3c7;
const DAC_WRITE: u64 = 0x3c8;
const DAC_DATA: u64 = 0x3c9;
const FEATURE_READ: u64 = 0x3ca;
const MISCELLANEOUS_READ: u64 = 0x3cc;
const GRAPHICS: u64 = 0x3ce;
const GRAPHICS_DATA: u64 = 0x3cf;
/// These are at 0x3bX for a monochrome display.
const CRTC: u64 = 0x3d4;
const CRTC_DATA: u64 = 0x3d5;
/// Input status 1 when read, feature control when written.
const STATUS_1: u64 = 0x3da;

/// Miscellaneous output: a colour display.
const COLOR: u8 = 1 << 0;
/// CRTC register 0x11: registers 0 to 7 are protected.
const CRTC_PROTECT: u8 = 1 << 7;
const CRTC_PROTECT_REGISTER: usize = 0x11;
const CRTC_OVERFLOW: usize = 7;
/// The bit of the overflow register that is never protected.
const OVERFLOW_LINE_COMPARE: u8 = 1 << 4;
/// Attribute index: the palette belongs to the display, not to the processor.
const PALETTE_SOURCE: u8 = 1 << 5;

/// Bits that registers have, by number.
const SEQUENCER_BITS: [u8; 5] = [0x03, 0x3d, 0x0f, 0x3f, 0x0e];
const GRAPHICS_BITS: [u8; 9] = [0x0f, 0x0f, 0x0f, 0x1f, 0x03, 0x7b, 0x0f, 0x0f, 0xff];
const ATTRIBUTE_BITS: [u8; 21] = {
    let mut bits = [0x3f; 21];
    (bits[0x10], bits[0x11], bits[0x12], bits[0x13], bits[0x14]) = (0xef, 0xff, 0x3f, 0x0f, 0x0f);
    bits
};
const CRTC_COUNT: usize = 25;

// Timing of the text modes: 449 lines of 31.469 kHz, of which 400 are shown.
const LINE: u64 = 31_778;
const LINES: u64 = 449;
const SHOWN_LINES: u64 = 400;
/// Part of a line in which something is shown, nanoseconds.
const SHOWN_PART: u64 = 25_422;
const RETRACE: std::ops::Range<u64> = 412..414;

/// Length of the frame buffer that the card has, bytes.
const FRAME_BUFFER: u64 = 16 << 20;
const FRAME_BUFFER_BAR: usize = 0;
const REGISTERS_BAR: usize = 2;
const REGISTERS_SIZE: u64 = 0x1000;
/// Where the ports from 0x3c0 on are in the region of registers.
const PORTS_IN_REGISTERS: std::ops::Range<u64> = 0x400..0x420;
/// Longest ROM, bytes.
pub const LARGEST_ROM: u64 = 0x1_0000;

/// All registers but those of PCI.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
struct Registers {
    miscellaneous: u8,
    feature: u8,
    sequencer_index: u8,
    sequencer: [u8; 5],
    graphics_index: u8,
    graphics: [u8; 9],
    attribute_index: u8,
    attribute: Vec<u8>,
    /// The next write to the attribute port is data.
    attribute_data_next: bool,
    crtc_index: u8,
    crtc: Vec<u8>,
    dac_mask: u8,
    dac_index: u8,
    /// Red, green or blue is next.
    dac_component: u8,
    /// The last index was written for reading.
    dac_reads: bool,
    dac: Vec<u8>,
    memory: DisplayMemory,
}

impl Registers {
    fn new() -> Registers {
        Registers {
            miscellaneous: 0,
            feature: 0,
            sequencer_index: 0,
            sequencer: [0; 5],
            graphics_index: 0,
            graphics: [0; 9],
            attribute_index: 0,
            attribute: vec![0; ATTRIBUTE_BITS.len()],
            attribute_data_next: false,
            crtc_index: 0,
            crtc: vec![0; CRTC_COUNT],
            dac_mask: 0xff,
            dac_index: 0,
            dac_component: 0,
            dac_reads: false,
            dac: vec![0; 3 * 256],
            memory: DisplayMemory::new(),
        }
    }

    fn path(&self) -> Path {
        Path { map_mask: self.sequencer[2], memory_mode: self.sequencer[4], graphics: self.graphics }
    }

    /// The port as a colour display has it; `None` where this display does not answer.
    fn port(&self, port: u64) -> Option<u64> {
        let color = self.miscellaneous & COLOR != 0;
        match port {
            0x3b0..0x3c0 if !color => Some(port + 0x20),
            0x3c0..0x3d0 => Some(port),
            0x3d0..0x3e0 if color => Some(port),
            _ => None,
        }
    }

    fn dac_place(&mut self) -> usize {
        let place = usize::from(self.dac_index) * 3 + usize::from(self.dac_component % 3);
        self.dac_component += 1;
        if self.dac_component >= 3 {
            self.dac_component = 0;
            self.dac_index = self.dac_index.wrapping_add(1);
        }
        place
    }

    fn read(&mut self, port: u64, now: u64) -> u8 {
        let Some(port) = self.port(port) else { return 0xff };
        match port {
            ATTRIBUTE if !self.attribute_data_next => self.attribute_index,
            ATTRIBUTE => 0,
            ATTRIBUTE_DATA => self.attribute.get(usize::from(self.attribute_index & 0x1f)).copied().unwrap_or(0),
            // The display is there.
            MISCELLANEOUS => 0x10,
            SEQUENCER => self.sequencer_index,
            SEQUENCER_DATA => self.sequencer.get(usize::from(self.sequencer_index)).copied().unwrap_or(0),
            DAC_MASK => self.dac_mask,
            DAC_READ => {
                if self.dac_reads {
                    3
                } else {
                    0
                }
            }
            DAC_WRITE => self.dac_index,
            DAC_DATA => {
                let place = self.dac_place();
                self.dac.get(place).copied().unwrap_or(0)
            }
            FEATURE_READ => self.feature,
            MISCELLANEOUS_READ => self.miscellaneous,
            GRAPHICS => self.graphics_index,
            GRAPHICS_DATA => self.graphics.get(usize::from(self.graphics_index)).copied().unwrap_or(0),
            CRTC => self.crtc_index,
            CRTC_DATA => self.crtc.get(usize::from(self.crtc_index)).copied().unwrap_or(0),
            STATUS_1 => {
                self.attribute_data_next = false;
                let line = now / LINE % LINES;
                let shown = line < SHOWN_LINES && now % LINE < SHOWN_PART;
                u8::from(!shown) | u8::from(RETRACE.contains(&line)) << 3
            }
            _ => 0xff,
        }
    }

    fn write(&mut self, port: u64, value: u8) {
        let Some(port) = self.port(port) else { return };
        match port {
            ATTRIBUTE => {
                if !self.attribute_data_next {
                    self.attribute_index = value & 0x3f;
                } else {
                    let index = usize::from(self.attribute_index & 0x1f);
                    let writable = index >= 0x10 || self.attribute_index & PALETTE_SOURCE == 0;
                    if let Some(register) = self.attribute.get_mut(index).filter(|_| writable) {
                        *register = value & ATTRIBUTE_BITS[index];
                    }
                }
                self.attribute_data_next = !self.attribute_data_next;
            }
            MISCELLANEOUS => self.miscellaneous = value & 0xef,
            SEQUENCER => self.sequencer_index = value & 7,
            SEQUENCER_DATA => {
                let index = usize::from(self.sequencer_index);
                if let Some(register) = self.sequencer.get_mut(index) {
                    *register = value & SEQUENCER_BITS[index];
                }
            }
            DAC_MASK => self.dac_mask = value,
            DAC_READ => (self.dac_index, self.dac_component, self.dac_reads) = (value, 0, true),
            DAC_WRITE => (self.dac_index, self.dac_component, self.dac_reads) = (value, 0, false),
            DAC_DATA => {
                let place = self.dac_place();
                if let Some(component) = self.dac.get_mut(place) {
                    *component = value & 0x3f;
                }
            }
            GRAPHICS => self.graphics_index = value & 0x0f,
            GRAPHICS_DATA => {
                let index = usize::from(self.graphics_index);
                if let Some(register) = self.graphics.get_mut(index) {
                    *register = value & GRAPHICS_BITS[index];
                }
            }
            CRTC => self.crtc_index = value & 0x3f,
            CRTC_DATA => {
                let index = usize::from(self.crtc_index);
                let protected = index <= CRTC_OVERFLOW && self.crtc[CRTC_PROTECT_REGISTER] & CRTC_PROTECT != 0;
                if let Some(register) = self.crtc.get_mut(index) {
                    if !protected {
                        *register = value;
                    } else if index == CRTC_OVERFLOW {
                        *register = *register & !OVERFLOW_LINE_COMPARE | value & OVERFLOW_LINE_COMPARE;
                    }
                }
            }
            STATUS_1 => self.feature = value,
            _ => {}
        }
    }
}

/// The state of a [`Vga`].
#[derive(Serialize, Deserialize)]
struct VgaState {
    config: PciConfigState,
    registers: Registers,
}

/// The card.
pub struct Vga {
    clock: Arc<VirtualClock>,
    config: PciConfig,
    rom: Vec<u8>,
    // Lock order: alone, and before the clock's.
    registers: Mutex<Registers>,
}

impl Vga {
    /// A card with the program `rom` for firmware, of at most [`LARGEST_ROM`] bytes; empty: none.
    pub fn new(clock: Arc<VirtualClock>, rom: Vec<u8>) -> Arc<Vga> {
        let mut config = PciConfig::new(&Identity {
            vendor: 0x1234,
            device: 0x1111,
            revision: 2,
            class: 0x03_0000,
            subsystem_vendor: 0x1af4,
            subsystem: 0x1100,
        });
        config.add_bar(FRAME_BUFFER_BAR, BarKind::Prefetchable32, FRAME_BUFFER);
        config.add_bar(REGISTERS_BAR, BarKind::Memory32, REGISTERS_SIZE);
        if !rom.is_empty() {
            config.add_bar(ROM_BAR, BarKind::Rom, (rom.len() as u64).next_power_of_two().max(0x800));
        }
        Arc::new(Vga { clock, config, rom, registers: Mutex::new(Registers::new()) })
    }
}

impl Device for Vga {
    fn debug_label(&self) -> &str {
        "vga"
    }
    fn reset(&self) {
        self.config.reset();
        *self.registers.lock() = Registers::new();
    }
    fn save(&self) -> serde_json::Value {
        state_value(&VgaState { config: self.config.save(), registers: self.registers.lock().clone() })
    }
    fn restore(&self, state: &serde_json::Value) -> Result<(), StateError> {
        let new: VgaState = parse_state(self.debug_label(), state)?;
        let registers = &new.registers;
        let sizes = [registers.attribute.len(), registers.crtc.len(), registers.dac.len()];
        if sizes != [ATTRIBUTE_BITS.len(), CRTC_COUNT, 3 * 256] || !registers.memory.is_possible() {
            return Err(impossible(self.debug_label(), "a VGA has 21 attribute and 25 CRTC registers and 256 KiB"));
        }
        if !self.config.restore(&new.config) {
            return Err(impossible(self.debug_label(), "the configuration space is another function's"));
        }
        *self.registers.lock() = new.registers;
        Ok(())
    }
}

impl PioDevice for Vga {
    fn read_port(&self, offset: u64, _width: Width) -> u64 {
        u64::from(self.registers.lock().read(offset, self.clock.now()))
    }
    fn write_port(&self, offset: u64, _width: Width, value: u64) -> Effect {
        self.registers.lock().write(offset, value as u8);
        Effect::None
    }
}

/// Display memory, at its place below 1 MiB.
impl MmioDevice for Vga {
    fn access_rules(&self) -> AccessRules {
        AccessRules { split_to: Width::Double, ..AccessRules::BYTES }
    }
    fn read(&self, offset: u64, width: Width) -> u64 {
        let mut registers = self.registers.lock();
        let path = registers.path();
        (0..width.bytes()).fold(0, |value, index| {
            value | u64::from(registers.memory.read(&path, offset.wrapping_add(index))) << (8 * index)
        })
    }
    fn write(&self, offset: u64, width: Width, value: u64) -> Effect {
        let mut registers = self.registers.lock();
        let path = registers.path();
        for index in 0..width.bytes() {
            registers.memory.write(&path, offset.wrapping_add(index), (value >> (8 * index)) as u8);
        }
        Effect::None
    }
    fn peek(&self, offset: u64, data: &mut [u8]) -> bool {
        let registers = self.registers.lock();
        let path = registers.path();
        for (index, byte) in data.iter_mut().enumerate() {
            *byte = registers.memory.peek(&path, offset.wrapping_add(index as u64));
        }
        true
    }
}

impl PciDevice for Vga {
    fn config(&self) -> &PciConfig {
        &self.config
    }
    fn read_bar(&self, bar: usize, offset: u64, width: Width) -> u64 {
        let byte = |offset: u64| match bar {
            ROM_BAR => self.rom.get(offset as usize).copied().unwrap_or(0xff),
            REGISTERS_BAR if PORTS_IN_REGISTERS.contains(&offset) => {
                let port = ATTRIBUTE + offset - PORTS_IN_REGISTERS.start;
                self.registers.lock().read(port, self.clock.now())
            }
            REGISTERS_BAR => 0xff,
            _ => 0,
        };
        (0..width.bytes()).fold(0, |value, index| value | u64::from(byte(offset.wrapping_add(index))) << (8 * index))
    }
    fn write_bar(&self, bar: usize, offset: u64, width: Width, value: u64) -> Effect {
        for index in 0..width.bytes() {
            let offset = offset.wrapping_add(index);
            if bar == REGISTERS_BAR && PORTS_IN_REGISTERS.contains(&offset) {
                let port = ATTRIBUTE + offset - PORTS_IN_REGISTERS.start;
                self.registers.lock().write(port, (value >> (8 * index)) as u8);
            }
        }
        Effect::None
    }
}
