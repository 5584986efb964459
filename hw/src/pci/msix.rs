//! Message-signalled interrupts of a function (MSI-X).
//!
//! PCI Local Bus Specification 3.0, section 6.8.2.

use std::sync::Arc;

use accel::Msi;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::config::PciConfig;
use crate::bus::Width;

/// Capability id of MSI-X.
const CAPABILITY: u8 = 0x11;
/// Offset of the pending bits in the region that holds the table.
const PENDING: u64 = 0x800;
/// Size of the region, bytes.
pub const REGION_SIZE: u64 = 0x1000;

/// Entry is masked.
const MASKED: u32 = 1;

const CONTROL_ENABLE: u8 = 0x80;
const CONTROL_MASK_ALL: u8 = 0x40;

/// Where messages go.
pub type MsiSink = Arc<dyn Fn(Msi) + Send + Sync>;

/// The table of a function.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MsixState {
    /// Address low, address high, data and control of each vector.
    pub table: Vec<[u32; 4]>,
    /// Vectors that were signalled while they were masked.
    pub pending: Vec<bool>,
}

impl MsixState {
    fn new(vectors: usize) -> MsixState {
        MsixState { table: vec![[0, 0, 0, MASKED]; vectors], pending: vec![false; vectors] }
    }
}

/// MSI-X of one function.
pub struct Msix {
    vectors: usize,
    /// Offset of the high byte of the message control register.
    control: usize,
    sink: MsiSink,
    // Lock order: after a configuration space's; before the sink's.
    state: Mutex<MsixState>,
}

impl Msix {
    /// Adds the capability to `config`: `vectors` vectors (up to 128) whose table is in region `bar`.
    pub fn new(config: &mut PciConfig, bar: u8, vectors: u16, sink: MsiSink) -> Msix {
        let size = vectors.saturating_sub(1).to_le_bytes();
        let table = u32::from(bar).to_le_bytes();
        let pending = (PENDING as u32 | u32::from(bar)).to_le_bytes();
        let body = [&size[..], &table, &pending].concat();
        let control = config.add_capability(CAPABILITY, &body) + 3;
        config.allow(control, &[CONTROL_ENABLE | CONTROL_MASK_ALL]);
        let vectors = usize::from(vectors);
        Msix { vectors, control, sink, state: Mutex::new(MsixState::new(vectors)) }
    }

    /// True if the driver uses MSI-X, so that the interrupt line stays silent.
    pub fn is_enabled(&self, config: &PciConfig) -> bool {
        config.byte(self.control) & CONTROL_ENABLE != 0
    }

    /// Signals `vector`; nothing happens if there is no such vector.
    pub fn signal(&self, config: &PciConfig, vector: u16) {
        let control = config.byte(self.control);
        if control & CONTROL_ENABLE == 0 {
            return;
        }
        let mut state = self.state.lock();
        let vector = usize::from(vector);
        let Some(entry) = state.table.get(vector).copied() else { return };
        if control & CONTROL_MASK_ALL != 0 || entry[3] & MASKED != 0 {
            state.pending[vector] = true;
        } else {
            (self.sink)(message(entry));
        }
    }

    /// Sends what waits and is not masked any more; after a change of masks.
    pub fn send_pending(&self, config: &PciConfig) {
        if config.byte(self.control) & (CONTROL_ENABLE | CONTROL_MASK_ALL) != CONTROL_ENABLE {
            return;
        }
        let mut state = self.state.lock();
        for vector in 0..self.vectors {
            let entry = state.table[vector];
            if state.pending[vector] && entry[3] & MASKED == 0 {
                state.pending[vector] = false;
                (self.sink)(message(entry));
            }
        }
    }

    /// Reads the region.
    pub fn read(&self, offset: u64, width: Width) -> u64 {
        let word = |offset: u64| -> u64 {
            let state = self.state.lock();
            if let Some(bits) = offset.checked_sub(PENDING) {
                let first = bits as usize * 8;
                let bit = |index: usize| u64::from(state.pending.get(first + index).copied().unwrap_or(false)) << index;
                return (0..32).map(bit).sum();
            }
            let entry = state.table.get((offset / 16) as usize);
            entry.map_or(0, |entry| u64::from(entry[(offset % 16 / 4) as usize]))
        };
        match width {
            Width::Double => word(offset & !7) | (word((offset & !7) + 4) << 32),
            _ => (word(offset & !3) >> (8 * (offset & 3))) & width.mask(),
        }
    }

    /// Writes the region. Only whole words are taken, as the specification asks of drivers.
    pub fn write(&self, config: &PciConfig, offset: u64, width: Width, value: u64) {
        {
            let mut state = self.state.lock();
            let mut put = |offset: u64, value: u64| {
                if offset < PENDING
                    && let Some(entry) = state.table.get_mut((offset / 16) as usize)
                {
                    let field = (offset % 16 / 4) as usize;
                    entry[field] = if field == 3 { value as u32 & MASKED } else { value as u32 };
                }
            };
            match width {
                Width::Word if offset.is_multiple_of(4) => put(offset, value),
                Width::Double if offset.is_multiple_of(8) => {
                    put(offset, value);
                    put(offset + 4, value >> 32);
                }
                _ => {}
            }
        }
        self.send_pending(config);
    }

    /// Back to power-on.
    pub fn reset(&self) {
        *self.state.lock() = MsixState::new(self.vectors);
    }

    /// The table, for a saved state.
    pub fn save(&self) -> MsixState {
        self.state.lock().clone()
    }

    /// Takes over a saved table; false if it has another length.
    pub fn restore(&self, state: MsixState) -> bool {
        let fits = state.table.len() == self.vectors && state.pending.len() == self.vectors;
        if fits {
            *self.state.lock() = state;
        }
        fits
    }
}

fn message(entry: [u32; 4]) -> Msi {
    Msi { address: u64::from(entry[0] & !3) | (u64::from(entry[1]) << 32), data: entry[2] }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pci::config::Identity;

    fn msix() -> (PciConfig, Msix, Arc<Mutex<Vec<Msi>>>) {
        let identity = Identity { vendor: 1, device: 1, revision: 0, class: 0, subsystem_vendor: 0, subsystem: 0 };
        let mut config = PciConfig::new(&identity);
        let sent: Arc<Mutex<Vec<Msi>>> = Arc::default();
        let log = sent.clone();
        let msix = Msix::new(&mut config, 1, 3, Arc::new(move |msi| log.lock().push(msi)));
        (config, msix, sent)
    }

    #[test]
    fn a_vector_sends_its_message_once_it_is_enabled_and_unmasked() {
        let (config, msix, sent) = msix();
        for (offset, value) in [(16, 0xfee0_1000), (20, 1), (24, 0x41)] {
            msix.write(&config, offset, Width::Word, value);
        }
        msix.signal(&config, 1);
        assert_eq!(msix.read(0x800, Width::Word), 0);
        config.write(0x43, Width::Byte, 0x80);
        msix.signal(&config, 1);
        assert_eq!(msix.read(0x800, Width::Word), 2);
        assert!(sent.lock().is_empty());
        msix.write(&config, 28, Width::Word, 0);
        let message = Msi { address: 0x1_fee0_1000, data: 0x41 };
        assert_eq!((msix.read(0x800, Width::Word), sent.lock().clone()), (0, vec![message]));
        msix.signal(&config, 1);
        assert_eq!(sent.lock().len(), 2);
        config.write(0x43, Width::Byte, 0xc0);
        msix.signal(&config, 1);
        assert_eq!(sent.lock().len(), 2);
        config.write(0x43, Width::Byte, 0x80);
        msix.send_pending(&config);
        assert_eq!(sent.lock().len(), 3);
    }

    #[test]
    fn the_capability_tells_the_size_and_place_of_the_table() {
        let (config, msix, _) = msix();
        assert_eq!(config.read(0x40, Width::Word), 0x0002_0011);
        assert_eq!((config.read(0x44, Width::Word), config.read(0x48, Width::Word)), (1, 0x801));
        msix.write(&config, 16 * 3, Width::Word, 5);
        assert_eq!((msix.read(16 * 3, Width::Word), msix.read(0xffc, Width::Double)), (0, 0));
        assert_eq!(msix.read(8, Width::Double), 1 << 32);
        msix.signal(&config, 3);
    }
}
