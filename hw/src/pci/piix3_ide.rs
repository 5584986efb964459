//! PIIX3 IDE function: two channels at their legacy ports, with a bus master each.
//!
//! Intel 82371SB data sheet (290550), function 1.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::PciDevice;
use super::config::{BarKind, Identity, PciConfig, PciConfigState};
use crate::bus::{Effect, Width};
use crate::device::{Device, StateError, impossible, parse_state, state_value};
use crate::ide::{BUS_MASTER_PORTS, Channel};

/// First command port, control port and interrupt of each channel.
pub const CHANNELS: [(u64, u64, u8); 2] = [(0x1f0, 0x3f6, 14), (0x170, 0x376, 15)];

/// Base address register of the bus masters.
const BUS_MASTER: usize = 4;
/// Offsets of the registers that say whether a channel answers.
const TIMING: [usize; 2] = [0x40, 0x42];

/// The registers of a [`Piix3Ide`]; its channels are devices of their own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Piix3IdeState {
    /// Configuration space.
    pub config: PciConfigState,
}

/// The function.
pub struct Piix3Ide {
    config: PciConfig,
    channels: [Arc<Channel>; 2],
}

impl Piix3Ide {
    /// The function with these channels, which firmware would have switched on.
    pub fn new(channels: [Arc<Channel>; 2]) -> Arc<Piix3Ide> {
        let mut config = PciConfig::new(&Identity {
            vendor: 0x8086,
            device: 0x7010,
            revision: 0,
            class: 0x01_0180,
            subsystem_vendor: 0x1af4,
            subsystem: 0x1100,
        });
        config.add_bar(BUS_MASTER, BarKind::Ports, 2 * BUS_MASTER_PORTS);
        for timing in TIMING {
            config.set(timing, &[0, 0x80]);
            config.allow(timing, &[0xff, 0xff]);
        }
        Arc::new(Piix3Ide { config, channels })
    }
}

impl Device for Piix3Ide {
    fn debug_label(&self) -> &str {
        "piix3-ide"
    }
    fn reset(&self) {
        self.config.reset();
    }
    fn save(&self) -> serde_json::Value {
        state_value(&Piix3IdeState { config: self.config.save() })
    }
    fn restore(&self, state: &serde_json::Value) -> Result<(), StateError> {
        let new: Piix3IdeState = parse_state(self.debug_label(), state)?;
        if !self.config.restore(&new.config) {
            return Err(impossible(self.debug_label(), "the configuration space is another function's"));
        }
        Ok(())
    }
}

impl PciDevice for Piix3Ide {
    fn config(&self) -> &PciConfig {
        &self.config
    }
    fn read_bar(&self, _bar: usize, offset: u64, _width: Width) -> u64 {
        let channel = self.channels.get((offset / BUS_MASTER_PORTS) as usize);
        channel.map_or(0, |channel| u64::from(channel.read_bus_master(offset % BUS_MASTER_PORTS)))
    }
    fn write_bar(&self, _bar: usize, offset: u64, _width: Width, value: u64) -> Effect {
        if let Some(channel) = self.channels.get((offset / BUS_MASTER_PORTS) as usize) {
            channel.write_bus_master(offset % BUS_MASTER_PORTS, value as u8);
        }
        Effect::None
    }
}
