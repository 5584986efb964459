//! `pc-testdev`: the device by which kvm-unit-tests reach what a program cannot do by itself.
//!
//! As QEMU has it: a latch of four bytes at port 0xe0 that is accessed at any width, the same at 0xe8 a byte at a time, a
//! port 0xe4 that would take a page out of the host's tables, ports from 0x2000 on that set interrupt lines 0 to 23, and
//! 64 KiB of memory behind a device at 0xff000000.

use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::bus::{AccessRules, Effect, MmioDevice, PioDevice, Width};
use crate::device::{Device, StateError, impossible, parse_state, state_value};
use crate::interrupt::{InterruptController, InterruptLine};

/// First of the ports with the latches, and their number.
pub const PORTS: (u64, u64) = (0xe0, 12);
/// First of the ports that set interrupt lines, and their number.
pub const INTERRUPT_PORTS: (u64, u64) = (0x2000, 24);
/// Offset at which the device sees [`INTERRUPT_PORTS`].
pub const INTERRUPTS: u64 = 0x2000;
/// Guest-physical address of the memory.
pub const ADDRESS: u64 = 0xff00_0000;
/// Its size, bytes.
pub const SIZE: u64 = 0x1_0000;

/// The registers of a [`PcTestdev`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PcTestdevState {
    /// The latch.
    pub latch: u32,
    /// The memory.
    pub memory: Vec<u8>,
}

/// The device.
pub struct PcTestdev {
    interrupts: Arc<dyn InterruptController>,
    // Lock order: before interrupt controllers'.
    state: Mutex<PcTestdevState>,
}

fn reset_state() -> PcTestdevState {
    PcTestdevState { latch: 0, memory: vec![0; SIZE as usize] }
}

impl PcTestdev {
    /// A device that sets the inputs of `interrupts`.
    pub fn new(interrupts: Arc<dyn InterruptController>) -> Arc<PcTestdev> {
        Arc::new(PcTestdev { interrupts, state: Mutex::new(reset_state()) })
    }
}

impl Device for PcTestdev {
    fn debug_label(&self) -> &str {
        "pc-testdev"
    }
    fn reset(&self) {
        *self.state.lock() = reset_state();
    }
    fn save(&self) -> serde_json::Value {
        state_value(&*self.state.lock())
    }
    fn restore(&self, state: &serde_json::Value) -> Result<(), StateError> {
        let new: PcTestdevState = parse_state(self.debug_label(), state)?;
        if new.memory.len() as u64 != SIZE {
            return Err(impossible(self.debug_label(), format!("it has {SIZE} bytes of memory")));
        }
        *self.state.lock() = new;
        Ok(())
    }
}

impl PioDevice for PcTestdev {
    fn port_rules(&self) -> AccessRules {
        AccessRules { narrowest: Width::Byte, widest: Width::Word, split_to: Width::Word, unaligned: true }
    }

    fn read_port(&self, offset: u64, width: Width) -> u64 {
        match offset {
            0..4 | 8..12 => u64::from(self.state.lock().latch) >> (8 * (offset & 3)) & width.mask(),
            _ => 0,
        }
    }

    fn write_port(&self, offset: u64, width: Width, value: u64) -> Effect {
        match offset {
            0..4 | 8..12 => {
                let shift = 8 * (offset & 3);
                let mask = width.mask() << shift;
                let mut state = self.state.lock();
                state.latch = (u64::from(state.latch) & !mask | (value << shift) & mask) as u32;
            }
            INTERRUPTS.. => {
                let line = InterruptLine::new(self.interrupts.clone(), (offset - INTERRUPTS) as u32);
                line.set(value != 0);
            }
            // The page of the host's tables: guest memory is always there.
            _ => {}
        }
        Effect::None
    }
}

impl MmioDevice for PcTestdev {
    fn access_rules(&self) -> AccessRules {
        AccessRules { unaligned: true, ..AccessRules::ANY }
    }

    fn read(&self, offset: u64, width: Width) -> u64 {
        let state = self.state.lock();
        let bytes = state.memory.iter().skip(offset as usize).take(width.bytes() as usize);
        bytes.rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
    }

    fn write(&self, offset: u64, width: Width, value: u64) -> Effect {
        let mut state = self.state.lock();
        let bytes = value.to_le_bytes();
        for (to, from) in state.memory.iter_mut().skip(offset as usize).zip(&bytes[..width.bytes() as usize]) {
            *to = *from;
        }
        Effect::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::Lines;

    #[test]
    fn the_latch_is_read_and_written_in_parts() {
        let device = PcTestdev::new(Lines::new());
        let _ = device.write_port(0, Width::Word, 0x1234_5678);
        let _ = device.write_port(1, Width::Byte, 0xaa);
        assert_eq!((device.read_port(0, Width::Word), device.read_port(2, Width::Half)), (0x1234_aa78, 0x1234));
        assert_eq!(device.read_port(8, Width::Byte), 0x78);
        let _ = device.write_port(10, Width::Half, 0xbeef);
        assert_eq!(device.read_port(0, Width::Word), 0xbeef_aa78);
        let _ = device.write_port(4, Width::Word, 0xffff_f000);
    }

    #[test]
    fn lines_follow_what_is_written() {
        let lines = Lines::new();
        let device = PcTestdev::new(lines.clone());
        let _ = device.write_port(INTERRUPTS + 14, Width::Byte, 1);
        assert!(lines.level(14));
        let _ = device.write_port(INTERRUPTS + 14, Width::Byte, 0);
        assert!(!lines.level(14));
    }

    #[test]
    fn memory_keeps_what_is_written_at_any_place() {
        let device = PcTestdev::new(Lines::new());
        let _ = device.write(3, Width::Double, 0x1122_3344_5566_7788);
        assert_eq!((device.read(5, Width::Half), device.read(3, Width::Double)), (0x5566, 0x1122_3344_5566_7788));
        let _ = device.write(SIZE - 2, Width::Word, u64::MAX);
        assert_eq!(device.read(SIZE - 2, Width::Word), 0xffff);
        device.restore(&device.save()).unwrap();
    }
}
