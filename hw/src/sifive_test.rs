//! SiFive test finisher: how a RISC-V guest switches its machine off or resets it.
//!
//! One register, written with a command in bits 15..0 and, for a failure, an exit code in bits 31..16. Device trees
//! call it `sifive,test1` and `syscon`.

use std::sync::Arc;

use crate::bus::{AccessRules, Effect, MmioDevice, Width};
use crate::device::{Device, StateError};

/// Size of the register area, bytes.
pub const SIZE: u64 = 0x1000;
/// Command: the guest failed.
pub const FAIL: u16 = 0x3333;
/// Command: the guest is done; the machine switches off.
pub const PASS: u16 = 0x5555;
/// Command: reset.
pub const RESET: u16 = 0x7777;

/// The test finisher. It has no state.
pub struct SifiveTest;

impl SifiveTest {
    /// A finisher.
    pub fn new() -> Arc<SifiveTest> {
        Arc::new(SifiveTest)
    }
}

impl Device for SifiveTest {
    fn debug_label(&self) -> &str {
        "sifive-test"
    }
    fn reset(&self) {}
    fn save(&self) -> serde_json::Value {
        serde_json::Value::Null
    }
    fn restore(&self, _state: &serde_json::Value) -> Result<(), StateError> {
        Ok(())
    }
}

impl MmioDevice for SifiveTest {
    fn access_rules(&self) -> AccessRules {
        AccessRules { narrowest: Width::Half, widest: Width::Word, split_to: Width::Word, unaligned: false }
    }
    fn read(&self, _offset: u64, _width: Width) -> u64 {
        0
    }
    fn write(&self, offset: u64, _width: Width, value: u64) -> Effect {
        if offset != 0 {
            return Effect::None;
        }
        match value as u16 {
            // A process has eight bits of exit status.
            FAIL => Effect::Failure { exit_status: (value >> 16) as u8 },
            PASS => Effect::PowerOff { exit_status: 0 },
            RESET => Effect::Reset,
            _ => Effect::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_command_has_its_effect() {
        let device = SifiveTest::new();
        for (offset, value, effect) in [
            (0, 0x5555, Effect::PowerOff { exit_status: 0 }),
            (0, 0x7777, Effect::Reset),
            (0, 0x0007_3333, Effect::Failure { exit_status: 7 }),
            (0, 0, Effect::None),
            (4, 0x5555, Effect::None),
        ] {
            assert_eq!(device.write(offset, Width::Word, value), effect, "{value:#x} at {offset}");
        }
        assert_eq!(device.read(0, Width::Word), 0);
    }
}
