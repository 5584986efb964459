//! Two ports for programs that want little: `isa-debug-exit` and the debug console.
//!
//! A write of `v` to the exit port ends the emulator with status `2v + 1`; bytes written to the console port (0xe9, as
//! Bochs introduced it) go to a character device of the host.

use std::sync::Arc;

use host::chardev::CharBackend;

use crate::bus::{AccessRules, Effect, PioDevice, Width};
use crate::device::{Device, StateError};

/// The usual port of the console; wherever it is, it reads as this.
pub const CONSOLE_PORT: u16 = 0xe9;

/// `isa-debug-exit`. It has no state.
pub struct DebugExit;

impl Device for DebugExit {
    fn debug_label(&self) -> &str {
        "isa-debug-exit"
    }
    fn reset(&self) {}
    fn save(&self) -> serde_json::Value {
        serde_json::Value::Null
    }
    fn restore(&self, _state: &serde_json::Value) -> Result<(), StateError> {
        Ok(())
    }
}

impl PioDevice for DebugExit {
    fn port_rules(&self) -> AccessRules {
        AccessRules::ANY
    }
    fn read_port(&self, _offset: u64, _width: Width) -> u64 {
        0
    }
    fn write_port(&self, _offset: u64, _width: Width, value: u64) -> Effect {
        Effect::PowerOff { exit_status: ((value << 1) | 1) as u8 }
    }
}

/// The debug console. It has no state.
pub struct DebugConsole {
    backend: Arc<dyn CharBackend>,
}

impl DebugConsole {
    /// A console on `backend`.
    pub fn new(backend: Arc<dyn CharBackend>) -> Arc<DebugConsole> {
        Arc::new(DebugConsole { backend })
    }
}

impl Device for DebugConsole {
    fn debug_label(&self) -> &str {
        "debugcon"
    }
    fn reset(&self) {}
    fn save(&self) -> serde_json::Value {
        serde_json::Value::Null
    }
    fn restore(&self, _state: &serde_json::Value) -> Result<(), StateError> {
        Ok(())
    }
}

impl PioDevice for DebugConsole {
    fn read_port(&self, _offset: u64, _width: Width) -> u64 {
        u64::from(CONSOLE_PORT)
    }
    fn write_port(&self, _offset: u64, _width: Width, value: u64) -> Effect {
        // The port has no way to say that there is no room.
        self.backend.write(&[value as u8]);
        Effect::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::TestBackend;

    #[test]
    fn the_exit_status_is_odd() {
        for (value, exit_status) in [(0, 1), (0x10, 0x21), (0x1ff, 0xff)] {
            assert_eq!(DebugExit.write_port(0, Width::Byte, value), Effect::PowerOff { exit_status });
        }
    }

    #[test]
    fn the_console_tells_that_it_is_there_and_prints() {
        let backend = TestBackend::new(10);
        let console = DebugConsole::new(backend.clone());
        assert_eq!(console.read_port(0, Width::Byte), 0xe9);
        let _ = console.write_port(0, Width::Byte, 0x41);
        assert_eq!(backend.written(), b"A");
    }
}
