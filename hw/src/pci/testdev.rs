//! `pci-testdev`: counts the writes to its regions, for programs that measure what an access costs.
//!
//! QEMU documentation, "PCI test device": region 0 is memory, region 1 ports. Writing a number to byte 0 of a region chooses a
//! test; its header tells where to write what, and how often that was done.

use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::PciDevice;
use super::config::{BarKind, Identity, PciConfig, PciConfigState};
use crate::bus::{Effect, Width};
use crate::device::{Device, StateError, impossible, parse_state, state_value};

const MEMORY_SIZE: u64 = 0x1000;
const PORT_COUNT: u64 = 0x100;

/// Tests of each region, by name after the region's: how the count is kept makes no difference to a guest.
const TESTS: [&str; 3] = ["no-eventfd", "wildcard-eventfd", "datamatch-eventfd"];
const REGIONS: [&str; 2] = ["mmio", "portio"];
/// Test that counts only writes of the right value.
const DATA_MATCH: usize = 2;
const DATA: u8 = 0xfa;

// Offsets in a test's header.
const WIDTH: usize = 1;
const OFFSET: usize = 4;
const VALUE: usize = 8;
const COUNT: usize = 12;
const NAME: usize = 16;

/// The registers of a [`PciTestdev`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PciTestdevState {
    /// Configuration space.
    pub config: PciConfigState,
    /// The test that each region shows, if any.
    pub test: [Option<u8>; 2],
    /// How often it was done.
    pub count: [u32; 2],
}

#[derive(Default)]
struct Registers {
    test: [Option<u8>; 2],
    count: [u32; 2],
}

/// The device.
pub struct PciTestdev {
    label: String,
    config: PciConfig,
    // Lock order: alone.
    registers: Mutex<Registers>,
}

impl PciTestdev {
    /// A device called `label`.
    pub fn new(label: String) -> Arc<PciTestdev> {
        let mut config = PciConfig::new(&Identity {
            vendor: 0x1b36,
            device: 0x0005,
            revision: 0,
            class: 0xff_0000,
            subsystem_vendor: 0x1af4,
            subsystem: 0x1100,
        });
        config.add_bar(0, BarKind::Memory32, MEMORY_SIZE);
        config.add_bar(1, BarKind::Ports, PORT_COUNT);
        Arc::new(PciTestdev { label, config, registers: Mutex::default() })
    }

    /// The header of the test that region `bar` shows; empty if there is none.
    fn header(registers: &Registers, bar: usize) -> Vec<u8> {
        let Some(test) = registers.test[bar] else { return Vec::new() };
        let mut header = vec![0; NAME];
        header[0] = test;
        header[WIDTH] = 1;
        header[OFFSET] = offset(test) as u8;
        header[VALUE] = DATA;
        header[COUNT..NAME].copy_from_slice(&registers.count[bar].to_le_bytes());
        header.extend(format!("{}-{}\0", REGIONS[bar], TESTS[usize::from(test)]).bytes());
        header
    }
}

/// Where a test wants its writes: after its header, each test at a place of its own.
fn offset(test: u8) -> u64 {
    0x80 + u64::from(test)
}

impl Device for PciTestdev {
    fn debug_label(&self) -> &str {
        &self.label
    }
    fn reset(&self) {
        self.config.reset();
        *self.registers.lock() = Registers::default();
    }
    fn save(&self) -> serde_json::Value {
        let registers = self.registers.lock();
        let (test, count) = (registers.test, registers.count);
        state_value(&PciTestdevState { config: self.config.save(), test, count })
    }
    fn restore(&self, state: &serde_json::Value) -> Result<(), StateError> {
        let new: PciTestdevState = parse_state(self.debug_label(), state)?;
        if new.test.iter().flatten().any(|test| usize::from(*test) >= TESTS.len()) {
            return Err(impossible(self.debug_label(), format!("there are {} tests", TESTS.len())));
        }
        if !self.config.restore(&new.config) {
            return Err(impossible(self.debug_label(), "the configuration space is another function's"));
        }
        *self.registers.lock() = Registers { test: new.test, count: new.count };
        Ok(())
    }
}

impl PciDevice for PciTestdev {
    fn config(&self) -> &PciConfig {
        &self.config
    }
    fn read_bar(&self, bar: usize, offset: u64, width: Width) -> u64 {
        let header = PciTestdev::header(&self.registers.lock(), bar.min(1));
        let bytes = header.iter().skip(offset as usize).take(width.bytes() as usize);
        bytes.rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
    }
    fn write_bar(&self, bar: usize, at: u64, width: Width, value: u64) -> Effect {
        let bar = bar.min(1);
        let mut registers = self.registers.lock();
        if at == 0 {
            registers.test[bar] = Some(value as u8).filter(|test| usize::from(*test) < TESTS.len());
            registers.count[bar] = 0;
        } else if let Some(test) = registers.test[bar]
            && at == offset(test)
            && width == Width::Byte
            && (usize::from(test) != DATA_MATCH || value as u8 == DATA)
        {
            registers.count[bar] = registers.count[bar].wrapping_add(1);
        }
        Effect::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_tells_where_to_write_and_counts() {
        let device = PciTestdev::new("pci-testdev".into());
        assert_eq!(device.read_bar(0, 0, Width::Word), 0);
        let _ = device.write_bar(0, 0, Width::Byte, 2);
        let name: Vec<u8> = (0..22).map(|index| device.read_bar(0, 16 + index, Width::Byte) as u8).collect();
        assert_eq!(&name, b"mmio-datamatch-eventfd");
        assert_eq!((device.read_bar(0, 1, Width::Byte), device.read_bar(0, 8, Width::Word)), (1, 0xfa));
        let at = device.read_bar(0, 4, Width::Word);
        for (at, value) in [(at, 0xfa), (at, 0xfb), (at + 1, 0xfa)] {
            let _ = device.write_bar(0, at, Width::Byte, value);
        }
        assert_eq!(device.read_bar(0, 12, Width::Word), 1);
        let _ = device.write_bar(1, 0, Width::Byte, 0);
        let at = device.read_bar(1, 4, Width::Byte);
        let _ = device.write_bar(1, at, Width::Byte, 1);
        assert_eq!(device.read_bar(1, 12, Width::Byte), 1);
        let _ = device.write_bar(0, 0, Width::Byte, 3);
        assert_eq!(device.read_bar(0, 0, Width::Double), 0);
        device.restore(&device.save()).unwrap();
    }
}
