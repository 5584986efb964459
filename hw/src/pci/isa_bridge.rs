//! PIIX3 PCI-to-ISA bridge: where PCI interrupt lines become ISA interrupts.
//!
//! Intel 82371SB data sheet (290550), function 0.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::PciDevice;
use super::config::{Identity, PciConfig, PciConfigState};
use crate::bus::{Effect, Width};
use crate::device::{Device, StateError, impossible, parse_state, state_value};
use crate::interrupt::{InterruptController, InterruptLine};

/// Offset of the first of the four route control registers.
const ROUTES: usize = 0x60;
/// The line is not routed.
const NOT_ROUTED: u8 = 0x80;

/// Where firmware routes PIRQA# to PIRQD#.
pub const FIRMWARE_ROUTES: [u8; 4] = [10, 10, 11, 11];

/// Number of ISA interrupts.
const ISA_LINES: usize = 16;

/// The registers of an [`IsaBridge`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IsaBridgeState {
    /// Configuration space. The levels of the lines are those of the functions, which set them when they are restored.
    pub config: PciConfigState,
}

/// The ISA bridge.
pub struct IsaBridge {
    config: PciConfig,
    outputs: Vec<InterruptLine>,
    // Lock order: after devices'; before interrupt controllers'.
    levels: Mutex<[u32; 4]>,
}

/// One function's interrupt pin on one PIRQ line, which several functions share.
struct Pin {
    bridge: Weak<IsaBridge>,
    pirq: usize,
    level: Mutex<bool>,
}

impl InterruptController for Pin {
    fn set_input(&self, _number: u32, level: bool) {
        let Some(bridge) = self.bridge.upgrade() else { return };
        let mut current = self.level.lock();
        if *current != level {
            *current = level;
            let mut levels = bridge.levels.lock();
            let count = &mut levels[self.pirq];
            *count = if level { count.saturating_add(1) } else { count.saturating_sub(1) };
            bridge.update(&levels);
        }
    }
}

impl IsaBridge {
    /// A bridge, routed as firmware does, with the lines to ISA interrupts 0 to 15.
    pub fn with_lines(outputs: Vec<InterruptLine>) -> Arc<IsaBridge> {
        let mut config = PciConfig::new(&Identity {
            vendor: 0x8086,
            device: 0x7000,
            revision: 0,
            class: 0x06_0100,
            subsystem_vendor: 0x1af4,
            subsystem: 0x1100,
        });
        // Several functions share the device number.
        config.set(0x0e, &[0x80]);
        config.set(ROUTES, &FIRMWARE_ROUTES);
        config.allow(ROUTES, &[0x8f; 4]);
        Arc::new(IsaBridge { config, outputs, levels: Mutex::default() })
    }

    /// The interrupt line of pin INTA# of the device with number `device`, and the ISA interrupt that firmware routes
    /// it to.
    pub fn pin(self: &Arc<IsaBridge>, device: u8) -> (InterruptLine, u8) {
        let pirq = (usize::from(device) + 3) % 4;
        let pin = Pin { bridge: Arc::downgrade(self), pirq, level: Mutex::new(false) };
        (InterruptLine::new(Arc::new(pin), 0), FIRMWARE_ROUTES[pirq])
    }

    fn update(&self, levels: &[u32; 4]) {
        let mut up = [false; ISA_LINES];
        let mut routed = [false; ISA_LINES];
        for (pirq, count) in levels.iter().enumerate() {
            let route = self.config.byte(ROUTES + pirq);
            if route & NOT_ROUTED == 0 {
                let line = usize::from(route & 0x0f);
                routed[line] = true;
                up[line] |= *count > 0;
            }
        }
        // Lines that no PIRQ leads to belong to ISA devices.
        for (line, output) in self.outputs.iter().enumerate() {
            if routed[line] {
                output.set(up[line]);
            }
        }
    }
}

impl Device for IsaBridge {
    fn debug_label(&self) -> &str {
        "piix3"
    }
    fn reset(&self) {
        self.config.reset();
        self.update(&self.levels.lock());
    }
    fn save(&self) -> serde_json::Value {
        state_value(&IsaBridgeState { config: self.config.save() })
    }
    fn restore(&self, state: &serde_json::Value) -> Result<(), StateError> {
        let new: IsaBridgeState = parse_state(self.debug_label(), state)?;
        if !self.config.restore(&new.config) {
            return Err(impossible(self.debug_label(), "the configuration space is another function's"));
        }
        self.update(&self.levels.lock());
        Ok(())
    }
}

impl PciDevice for IsaBridge {
    fn config(&self) -> &PciConfig {
        &self.config
    }
    fn write_config(&self, offset: u8, width: Width, value: u64) -> Effect {
        let levels = self.levels.lock();
        // A line that is routed elsewhere falls first.
        self.update(&[0; 4]);
        self.config.write(offset, width, value);
        self.update(&levels);
        Effect::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::Lines;

    #[test]
    fn functions_share_a_line_and_routing_moves_it() {
        let lines = Lines::new();
        let bridge = IsaBridge::with_lines((0..16).map(|line| lines.line(line)).collect());
        let ((first, isa), (second, other)) = (bridge.pin(1), bridge.pin(5));
        assert_eq!((isa, other), (10, 10));
        first.set(true);
        second.set(true);
        first.set(false);
        assert!(lines.level(10));
        let _ = bridge.write_config(0x60, Width::Byte, 5);
        assert!(lines.level(5) && !lines.level(10));
        let _ = bridge.write_config(0x60, Width::Byte, 0x80);
        assert!(!lines.level(5));
        let _ = bridge.write_config(0x60, Width::Byte, 5);
        second.set(false);
        second.set(false);
        assert!(!lines.level(5));
    }
}
