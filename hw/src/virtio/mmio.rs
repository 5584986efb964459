//! Virtio over memory-mapped registers.
//!
//! VIRTIO 1.2, section 4.2 (version 2 of the register layout).

use std::sync::Arc;

use accel::memory::GuestMemory;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::VirtioDevice;
use super::queues::VirtioInterrupt;
use super::transport::{Area, Transport, TransportState};
use crate::bus::{AccessRules, Effect, MmioDevice, Width};
use crate::device::{Device, StateError};
use crate::interrupt::InterruptLine;

/// Size of the register area, bytes.
pub const SIZE: u64 = 0x200;

const MAGIC: u32 = u32::from_le_bytes(*b"virt");
const VERSION: u32 = 2;
const VENDOR: u32 = u32::from_le_bytes(*b"QEMU");

const CONFIG: u64 = 0x100;

/// Interrupt status: buffers were used.
const USED: u32 = 1;
/// Interrupt status: the configuration changed.
const CONFIG_CHANGED: u32 = 2;

/// The registers of a [`VirtioMmio`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VirtioMmioState {
    /// What all transports have.
    pub common: Option<TransportState>,
    /// Interrupt status register.
    pub interrupt_status: u32,
}

/// The interrupt status register and the line that it drives.
struct Interrupt {
    line: InterruptLine,
    // Lock order: before interrupt controllers'.
    status: Mutex<u32>,
}

impl Interrupt {
    fn change(&self, change: impl FnOnce(u32) -> u32) {
        let mut status = self.status.lock();
        *status = change(*status);
        self.line.set(*status != 0);
    }
}

impl VirtioInterrupt for Interrupt {
    fn queue(&self, _queue: u16) {
        self.change(|status| status | USED);
    }
    fn config(&self) {
        self.change(|status| status | CONFIG_CHANGED);
    }
}

/// One virtio-mmio slot, with or without a device in it.
pub struct VirtioMmio {
    label: String,
    transport: Option<Transport>,
    interrupt: Arc<Interrupt>,
}

impl VirtioMmio {
    /// A slot called `label` that interrupts through `line`, with `device`, whose DMA goes to `memory`, in it.
    pub fn new(
        label: String,
        device: Option<Arc<dyn VirtioDevice>>,
        memory: Arc<GuestMemory>,
        line: InterruptLine,
    ) -> Arc<VirtioMmio> {
        let interrupt = Arc::new(Interrupt { line, status: Mutex::new(0) });
        let transport = device.map(|device| Transport::new(label.clone(), device, memory, interrupt.clone()));
        Arc::new(VirtioMmio { label, transport, interrupt })
    }

    fn read_register(&self, offset: u64) -> u32 {
        let Some(transport) = &self.transport else {
            // Section 4.2.2: an empty slot has device id 0.
            return match offset {
                0x00 => MAGIC,
                0x04 => VERSION,
                0x0c => VENDOR,
                _ => 0,
            };
        };
        match offset {
            0x00 => MAGIC,
            0x04 => VERSION,
            0x08 => transport.device().device_id(),
            0x0c => VENDOR,
            0x10 => transport.device_features(),
            0x34 => u32::from(transport.queue_max_size()),
            0x44 => u32::from(transport.queue_ready(None)),
            0x60 => *self.interrupt.status.lock(),
            0x70 => u32::from(transport.status()),
            // Length and base of a shared memory region that does not exist.
            0xb0..=0xbc => u32::MAX,
            // Configuration generation: no space of ours changes in more than one access.
            _ => 0,
        }
    }

    fn write_register(&self, offset: u64, value: u32) {
        let Some(transport) = &self.transport else { return };
        match offset {
            0x14 => {
                transport.device_features_select(Some(value));
            }
            0x20 => {
                transport.driver_features(Some(value));
            }
            0x24 => {
                transport.driver_features_select(Some(value));
            }
            0x30 => {
                transport.queue_select(Some(u16::try_from(value).unwrap_or(u16::MAX)));
            }
            0x38 => {
                transport.queue_size(Some(u16::try_from(value).unwrap_or(0)));
            }
            0x44 => {
                transport.queue_ready(Some(value & 1 != 0));
            }
            0x50 => transport.notify(u16::try_from(value).unwrap_or(u16::MAX)),
            0x64 => self.interrupt.change(|status| status & !value),
            0x70 if transport.set_status(value as u8) => self.interrupt.change(|_| 0),
            0x80 | 0x84 => {
                transport.queue_address(Area::Descriptors, offset == 0x84, Some(value));
            }
            0x90 | 0x94 => {
                transport.queue_address(Area::Available, offset == 0x94, Some(value));
            }
            0xa0 | 0xa4 => {
                transport.queue_address(Area::Used, offset == 0xa4, Some(value));
            }
            _ => {}
        }
    }
}

impl Device for VirtioMmio {
    fn debug_label(&self) -> &str {
        &self.label
    }
    fn reset(&self) {
        if let Some(transport) = &self.transport {
            transport.reset();
        }
        self.interrupt.change(|_| 0);
    }
    fn pause(&self) {
        if let Some(transport) = &self.transport {
            transport.pause();
        }
    }
    fn resume(&self) {
        if let Some(transport) = &self.transport {
            transport.resume();
        }
    }
    fn save(&self) -> serde_json::Value {
        let state = VirtioMmioState {
            common: self.transport.as_ref().map(Transport::save),
            interrupt_status: *self.interrupt.status.lock(),
        };
        crate::device::state_value(&state)
    }
    fn restore(&self, state: &serde_json::Value) -> Result<(), StateError> {
        let new: VirtioMmioState = crate::device::parse_state(&self.label, state)?;
        match (&self.transport, new.common) {
            (Some(transport), Some(common)) => transport.restore(common)?,
            (None, None) => {}
            (here, _) => {
                let problem = if here.is_some() { "it has no device" } else { "it has a device that is not here" };
                return Err(crate::device::impossible(&self.label, problem));
            }
        }
        self.interrupt.change(|_| new.interrupt_status & (USED | CONFIG_CHANGED));
        Ok(())
    }
}

impl MmioDevice for VirtioMmio {
    fn access_rules(&self) -> AccessRules {
        AccessRules { narrowest: Width::Byte, widest: Width::Double, split_to: Width::Word, unaligned: false }
    }
    fn read(&self, offset: u64, width: Width) -> u64 {
        match (offset.checked_sub(CONFIG), &self.transport) {
            (Some(offset), Some(transport)) => transport.read_config(offset, width.bytes()),
            (Some(_), None) => 0,
            // Section 4.2.2.2: registers are accessed by aligned words.
            (None, _) if width == Width::Word => u64::from(self.read_register(offset)),
            (None, _) => 0,
        }
    }
    fn write(&self, offset: u64, width: Width, value: u64) -> Effect {
        match (offset.checked_sub(CONFIG), &self.transport) {
            (Some(offset), Some(transport)) => transport.write_config(offset, width.bytes(), value),
            (None, _) if width == Width::Word => self.write_register(offset, value as u32),
            _ => {}
        }
        Effect::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::{Lines, memory};
    use crate::virtio::rng::VirtioRng;

    fn slot() -> (Arc<VirtioMmio>, Arc<Lines>) {
        let lines = Lines::new();
        let device = VirtioMmio::new("virtio".into(), Some(VirtioRng::new()), memory(0x1_0000), lines.line(1));
        (device, lines)
    }
    fn read(device: &VirtioMmio, offset: u64) -> u64 {
        device.read(offset, Width::Word)
    }
    fn write(device: &VirtioMmio, offset: u64, value: u64) {
        assert_eq!(device.write(offset, Width::Word, value), Effect::None);
    }

    #[test]
    fn an_empty_slot_has_device_id_0_and_takes_no_writes() {
        let empty = VirtioMmio::new("empty".into(), None, memory(0x1000), InterruptLine::disconnected());
        assert_eq!((read(&empty, 0), read(&empty, 4), read(&empty, 8)), (0x7472_6976, 2, 0));
        write(&empty, 0x70, 1);
        assert_eq!((read(&empty, 0x70), read(&empty, 0x100)), (0, 0));
    }

    #[test]
    fn features_are_negotiated_by_halves_and_version_1_is_a_must() {
        let (device, _) = slot();
        assert_eq!(read(&device, 8), 4);
        write(&device, 0x14, 1);
        assert_eq!(read(&device, 0x10), 1);
        write(&device, 0x14, 2);
        assert_eq!(read(&device, 0x10), 0);
        write(&device, 0x70, 3);
        write(&device, 0x70, 0xb);
        assert_eq!(read(&device, 0x70), 3);
        write(&device, 0x24, 1);
        write(&device, 0x20, 3);
        write(&device, 0x70, 0xb);
        assert_eq!(read(&device, 0x70), 3);
        write(&device, 0x20, 1);
        write(&device, 0x70, 0xb);
        assert_eq!(read(&device, 0x70), 0xb);
        write(&device, 0x70, 0);
        assert_eq!(read(&device, 0x70), 0);
    }

    #[test]
    fn a_queue_becomes_ready_only_inside_ram() {
        let (device, _) = slot();
        assert_eq!(read(&device, 0x34), 256);
        write(&device, 0x38, 8);
        for (offset, address) in [(0x80, 0x1000), (0x90, 0x2000), (0xa0, 0xffff_f000)] {
            write(&device, offset, address);
        }
        write(&device, 0x44, 1);
        assert_eq!(read(&device, 0x44), 0);
        write(&device, 0xa0, 0x3000);
        write(&device, 0x44, 1);
        assert_eq!(read(&device, 0x44), 1);
        write(&device, 0x44, 0);
        assert_eq!(read(&device, 0x44), 0);
        write(&device, 0x30, 1);
        assert_eq!((read(&device, 0x34), read(&device, 0x44)), (0, 0));
        write(&device, 0x44, 1);
        assert_eq!(read(&device, 0x44), 0);
    }

    #[test]
    fn a_byte_access_reaches_only_the_configuration_space() {
        let (device, _) = slot();
        assert_eq!(device.read(0, Width::Byte), 0);
        let _ = device.write(0x70, Width::Byte, 1);
        assert_eq!(read(&device, 0x70), 0);
        assert_eq!(device.read(0x1fc, Width::Word), 0);
    }
}
