//! Virtio over PCI.
//!
//! VIRTIO 1.2, section 4.1 (no legacy interface). Region 4 holds the four structures, region 1 the MSI-X table.

use std::sync::Arc;

use accel::memory::GuestMemory;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::VirtioDevice;
use super::queues::VirtioInterrupt;
use super::transport::{Area, Transport, TransportState};
use crate::bus::{Effect, Width};
use crate::device::{Device, StateError, impossible, parse_state, state_value};
use crate::interrupt::InterruptLine;
use crate::pci::PciDevice;
use crate::pci::config::{BarKind, COMMAND_NO_INTERRUPT, Identity, PciConfig, PciConfigState};
use crate::pci::msix::{self, MsiSink, Msix, MsixState};

const VENDOR: u16 = 0x1af4;
/// Device ids are this plus the virtio device id.
const FIRST_DEVICE: u16 = 0x1040;

const MSIX_BAR: usize = 1;
const STRUCTURES_BAR: usize = 4;

// The structures in their region, and their lengths.
const COMMON: u64 = 0x0000;
const ISR: u64 = 0x1000;
const DEVICE: u64 = 0x2000;
const NOTIFY: u64 = 0x3000;
const STRUCTURE: u64 = 0x1000;
const STRUCTURES: u64 = 0x4000;
/// Distance of two queues' notification addresses, bytes.
const NOTIFY_STEP: u32 = 4;

/// Capability id of a vendor's own.
const CAPABILITY_VENDOR: u8 = 9;
const TYPE_COMMON: u8 = 1;
const TYPE_NOTIFY: u8 = 2;
const TYPE_ISR: u8 = 3;
const TYPE_DEVICE: u8 = 4;
const TYPE_CONFIG_ACCESS: u8 = 5;

const ISR_QUEUE: u8 = 1;
const ISR_CONFIG: u8 = 2;

/// No MSI-X vector.
const NO_VECTOR: u16 = 0xffff;

/// The registers of a [`VirtioPci`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VirtioPciState {
    /// What all transports have.
    pub common: TransportState,
    /// Configuration space.
    pub config: PciConfigState,
    /// MSI-X table.
    pub msix: MsixState,
    /// Interrupt status.
    pub interrupt_status: u8,
    /// Vector of configuration changes.
    pub config_vector: u16,
    /// Vector of each queue.
    pub queue_vectors: Vec<u16>,
}

/// Everything that an interrupt needs.
struct Interrupt {
    config: PciConfig,
    msix: Msix,
    line: InterruptLine,
    vectors: u16,
    // Lock order: before the configuration space's, the MSI-X table's and interrupt controllers'.
    state: Mutex<InterruptState>,
}

struct InterruptState {
    status: u8,
    config_vector: u16,
    queue_vectors: Vec<u16>,
}

impl Interrupt {
    fn update_line(&self, state: &InterruptState) {
        let silent = self.msix.is_enabled(&self.config) || self.config.command() & COMMAND_NO_INTERRUPT != 0;
        self.line.set(state.status != 0 && !silent);
    }

    fn raise(&self, status: u8, vector: impl FnOnce(&InterruptState) -> u16) {
        let mut state = self.state.lock();
        if self.msix.is_enabled(&self.config) {
            self.msix.signal(&self.config, vector(&state));
        } else {
            state.status |= status;
            self.update_line(&state);
        }
    }

    fn reset(&self) {
        let mut state = self.state.lock();
        state.status = 0;
        state.config_vector = NO_VECTOR;
        state.queue_vectors.fill(NO_VECTOR);
        self.update_line(&state);
    }

    /// A vector that the driver chose, if there is such a one.
    fn checked(&self, vector: u64) -> u16 {
        u16::try_from(vector).ok().filter(|vector| *vector < self.vectors).unwrap_or(NO_VECTOR)
    }
}

impl VirtioInterrupt for Interrupt {
    fn queue(&self, queue: u16) {
        self.raise(ISR_QUEUE, |state| state.queue_vectors.get(usize::from(queue)).copied().unwrap_or(NO_VECTOR));
    }
    fn config(&self) {
        self.raise(ISR_CONFIG, |state| state.config_vector);
    }
}

/// A virtio device in a PCI slot.
pub struct VirtioPci {
    label: String,
    transport: Transport,
    interrupt: Arc<Interrupt>,
    /// Offset of the capability through which configuration accesses reach the structures.
    access: usize,
}

fn structure_capability(kind: u8, offset: u64, length: u64, extra: Option<u32>) -> Vec<u8> {
    let size = if extra.is_some() { 20 } else { 16 };
    let mut body = vec![size, kind, STRUCTURES_BAR as u8, 0, 0, 0];
    body.extend((offset as u32).to_le_bytes());
    body.extend((length as u32).to_le_bytes());
    body.extend(extra.into_iter().flat_map(u32::to_le_bytes));
    body
}

impl VirtioPci {
    /// Puts `device` into a slot called `label`. Its DMA goes to `memory`, its messages to `messages`, and INTA# to
    /// `line`, which firmware routes to ISA interrupt `isa_interrupt`.
    pub fn new(
        label: String,
        device: Arc<dyn VirtioDevice>,
        memory: Arc<GuestMemory>,
        (line, isa_interrupt): (InterruptLine, u8),
        messages: MsiSink,
    ) -> Arc<VirtioPci> {
        let id = device.device_id() as u16;
        let class = match id {
            2 => 0x01_0000,
            3 => 0x07_8000,
            _ => 0x00_ff00,
        };
        let mut config = PciConfig::new(&Identity {
            vendor: VENDOR,
            device: FIRST_DEVICE + id,
            revision: 1,
            class,
            subsystem_vendor: VENDOR,
            subsystem: 0x1100,
        });
        config.interrupt_pin(isa_interrupt);
        config.add_bar(MSIX_BAR, BarKind::Memory32, msix::REGION_SIZE);
        config.add_bar(STRUCTURES_BAR, BarKind::Memory64, STRUCTURES);
        let queues = device.queue_sizes().len();
        let vectors = queues as u16 + 1;
        let msix = Msix::new(&mut config, MSIX_BAR as u8, vectors, messages);
        for (kind, offset, extra) in [
            (TYPE_COMMON, COMMON, None),
            (TYPE_ISR, ISR, None),
            (TYPE_DEVICE, DEVICE, None),
            (TYPE_NOTIFY, NOTIFY, Some(NOTIFY_STEP)),
        ] {
            config.add_capability(CAPABILITY_VENDOR, &structure_capability(kind, offset, STRUCTURE, extra));
        }
        let access = structure_capability(TYPE_CONFIG_ACCESS, 0, 0, Some(0));
        let access = config.add_capability(CAPABILITY_VENDOR, &access);
        // Region, offset, length and data of the access are the driver's.
        config.allow(access + 4, &[0xff]);
        config.allow(access + 8, &[0xff; 12]);

        let state = InterruptState { status: 0, config_vector: NO_VECTOR, queue_vectors: vec![NO_VECTOR; queues] };
        let interrupt = Arc::new(Interrupt { config, msix, line, vectors, state: Mutex::new(state) });
        let transport = Transport::new(label.clone(), device, memory, interrupt.clone());
        Arc::new(VirtioPci { label, transport, interrupt, access })
    }

    fn read_common(&self, offset: u64, width: Width) -> u64 {
        let transport = &self.transport;
        let (half, word) = (width <= Width::Half, width == Width::Word);
        match offset {
            0x00 if word => u64::from(transport.device_features_select(None)),
            0x04 if word => u64::from(transport.device_features()),
            0x08 if word => u64::from(transport.driver_features_select(None)),
            0x0c if word => u64::from(transport.driver_features(None)),
            0x10 if half => u64::from(self.interrupt.state.lock().config_vector),
            0x12 if half => u64::from(transport.queue_count()),
            0x14 => u64::from(transport.status()),
            // Configuration generation: no space of ours changes in more than one access.
            0x15 => 0,
            0x16 if half => u64::from(transport.queue_select(None)),
            0x18 if half => u64::from(transport.queue_size(None)),
            0x1a if half => {
                let queue = usize::from(transport.queue_select(None));
                u64::from(self.interrupt.state.lock().queue_vectors.get(queue).copied().unwrap_or(NO_VECTOR))
            }
            0x1c if half => u64::from(transport.queue_ready(None)),
            0x1e if half => u64::from(transport.queue_select(None)),
            0x20..0x38 if word => u64::from(self.address(offset, None)),
            _ => 0,
        }
    }

    fn address(&self, offset: u64, value: Option<u32>) -> u32 {
        let area = match offset {
            0x20..0x28 => Area::Descriptors,
            0x28..0x30 => Area::Available,
            _ => Area::Used,
        };
        self.transport.queue_address(area, offset & 4 != 0, value)
    }

    fn write_common(&self, offset: u64, width: Width, value: u64) {
        let transport = &self.transport;
        let (half, word) = (width == Width::Half, width == Width::Word);
        match offset {
            0x00 if word => {
                transport.device_features_select(Some(value as u32));
            }
            0x08 if word => {
                transport.driver_features_select(Some(value as u32));
            }
            0x0c if word => {
                transport.driver_features(Some(value as u32));
            }
            0x10 if half => self.interrupt.state.lock().config_vector = self.interrupt.checked(value),
            0x14 if width == Width::Byte && transport.set_status(value as u8) => self.interrupt.reset(),
            0x16 if half => {
                transport.queue_select(Some(value as u16));
            }
            0x18 if half => {
                transport.queue_size(Some(value as u16));
            }
            0x1a if half => {
                let queue = usize::from(transport.queue_select(None));
                let vector = self.interrupt.checked(value);
                if let Some(place) = self.interrupt.state.lock().queue_vectors.get_mut(queue) {
                    *place = vector;
                }
            }
            0x1c if half && value == 1 => {
                transport.queue_ready(Some(true));
            }
            0x20..0x38 if word => {
                self.address(offset, Some(value as u32));
            }
            0x20..0x38 if width == Width::Double => {
                self.address(offset & !4, Some(value as u32));
                self.address(offset | 4, Some((value >> 32) as u32));
            }
            _ => {}
        }
    }

    fn read_structures(&self, offset: u64, width: Width) -> u64 {
        match offset {
            COMMON..ISR => self.read_common(offset, width),
            ISR => {
                // Reading acknowledges.
                let mut state = self.interrupt.state.lock();
                let status = std::mem::take(&mut state.status);
                self.interrupt.update_line(&state);
                u64::from(status)
            }
            DEVICE..NOTIFY => self.transport.read_config(offset - DEVICE, width.bytes()),
            _ => 0,
        }
    }

    fn write_structures(&self, offset: u64, width: Width, value: u64) {
        match offset {
            COMMON..ISR => self.write_common(offset, width, value),
            DEVICE..NOTIFY => self.transport.write_config(offset - DEVICE, width.bytes(), value),
            NOTIFY.. => self.transport.notify(((offset - NOTIFY) / u64::from(NOTIFY_STEP)) as u16),
            _ => {}
        }
    }

    /// Region, offset and width that the access capability selects (section 4.1.4.9).
    fn access_target(&self) -> Option<(usize, u64, Width)> {
        let config = &self.interrupt.config;
        let at = self.access as u8;
        let offset = config.read(at + 8, Width::Word);
        let width =
            Width::from_bytes(config.read(at + 12, Width::Word) as usize).filter(|width| *width <= Width::Word)?;
        let bar = usize::from(config.byte(self.access + 4));
        let size = match bar {
            STRUCTURES_BAR => STRUCTURES,
            MSIX_BAR => msix::REGION_SIZE,
            _ => return None,
        };
        (offset.is_multiple_of(width.bytes()) && offset < size).then_some((bar, offset, width))
    }

    fn is_access_data(&self, offset: u8) -> bool {
        usize::from(offset) == self.access + 16
    }
}

impl Device for VirtioPci {
    fn debug_label(&self) -> &str {
        &self.label
    }
    fn reset(&self) {
        self.transport.reset();
        self.interrupt.config.reset();
        self.interrupt.msix.reset();
        self.interrupt.reset();
    }
    fn pause(&self) {
        self.transport.pause();
    }
    fn resume(&self) {
        self.transport.resume();
    }
    fn save(&self) -> serde_json::Value {
        let common = self.transport.save();
        let state = self.interrupt.state.lock();
        state_value(&VirtioPciState {
            common,
            config: self.interrupt.config.save(),
            msix: self.interrupt.msix.save(),
            interrupt_status: state.status,
            config_vector: state.config_vector,
            queue_vectors: state.queue_vectors.clone(),
        })
    }
    fn restore(&self, state: &serde_json::Value) -> Result<(), StateError> {
        let new: VirtioPciState = parse_state(&self.label, state)?;
        let vector_fits = |vector: &u16| *vector == NO_VECTOR || *vector < self.interrupt.vectors;
        let fits = new.queue_vectors.len() == usize::from(self.transport.queue_count())
            && new.queue_vectors.iter().chain([&new.config_vector]).all(vector_fits)
            && new.msix.table.len() == usize::from(self.interrupt.vectors)
            && new.msix.pending.len() == new.msix.table.len();
        if !fits {
            return Err(impossible(&self.label, "the interrupt vectors are another device's"));
        }
        let before = self.interrupt.config.save();
        if !self.interrupt.config.restore(&new.config) {
            return Err(impossible(&self.label, "the configuration space is another function's"));
        }
        if let Err(error) = self.transport.restore(new.common) {
            self.interrupt.config.restore(&before);
            return Err(error);
        }
        self.interrupt.msix.restore(new.msix);
        let mut state = self.interrupt.state.lock();
        state.status = new.interrupt_status & (ISR_QUEUE | ISR_CONFIG);
        state.config_vector = new.config_vector;
        state.queue_vectors = new.queue_vectors;
        self.interrupt.update_line(&state);
        Ok(())
    }
}

impl PciDevice for VirtioPci {
    fn config(&self) -> &PciConfig {
        &self.interrupt.config
    }
    fn read_config(&self, offset: u8, width: Width) -> u64 {
        if self.is_access_data(offset)
            && let Some((bar, at, width)) = self.access_target()
        {
            let value = self.read_bar(bar, at, width);
            self.interrupt.config.write(offset, width, value);
        }
        self.interrupt.config.read(offset, width)
    }
    fn write_config(&self, offset: u8, width: Width, value: u64) -> Effect {
        self.interrupt.config.write(offset, width, value);
        if self.is_access_data(offset)
            && let Some((bar, at, width)) = self.access_target()
        {
            return self.write_bar(bar, at, width, value & width.mask());
        }
        // MSI-X may have been switched on or unmasked, or the line silenced.
        self.interrupt.msix.send_pending(&self.interrupt.config);
        self.interrupt.update_line(&self.interrupt.state.lock());
        Effect::None
    }
    fn read_bar(&self, bar: usize, offset: u64, width: Width) -> u64 {
        match bar {
            MSIX_BAR => self.interrupt.msix.read(offset, width),
            STRUCTURES_BAR => self.read_structures(offset, width) & width.mask(),
            _ => 0,
        }
    }
    fn write_bar(&self, bar: usize, offset: u64, width: Width, value: u64) -> Effect {
        match bar {
            MSIX_BAR => self.interrupt.msix.write(&self.interrupt.config, offset, width, value),
            STRUCTURES_BAR => self.write_structures(offset, width, value),
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
    use accel::Msi;
    use vm_memory::{Bytes, GuestAddress};

    struct Fixture {
        device: Arc<VirtioPci>,
        lines: Arc<Lines>,
        sent: Arc<Mutex<Vec<Msi>>>,
        memory: Arc<GuestMemory>,
    }

    fn fixture() -> Fixture {
        let (lines, memory, sent) = (Lines::new(), memory(0x1_0000), Arc::new(Mutex::new(Vec::new())));
        let log = sent.clone();
        let sink: MsiSink = Arc::new(move |msi| log.lock().push(msi));
        let line = (lines.line(10), 10);
        let device = VirtioPci::new("rng".into(), VirtioRng::new(), memory.clone(), line, sink);
        Fixture { device, lines, sent, memory }
    }

    impl Fixture {
        fn read(&self, offset: u64, width: Width) -> u64 {
            self.device.read_bar(4, offset, width)
        }
        fn write(&self, offset: u64, width: Width, value: u64) {
            assert_eq!(self.device.write_bar(4, offset, width, value), Effect::None);
        }
        /// Sets up the queue with one 16-byte buffer in it.
        fn start(&self) {
            self.write(0x14, Width::Byte, 0);
            self.write(0x14, Width::Byte, 3);
            self.write(0x08, Width::Word, 1);
            self.write(0x0c, Width::Word, 1);
            self.write(0x14, Width::Byte, 0xb);
            self.write(0x18, Width::Half, 8);
            for (offset, address) in [(0x20, 0x1000), (0x28, 0x2000), (0x30, 0x3000)] {
                self.write(offset, Width::Word, address);
            }
            self.write(0x1c, Width::Half, 1);
            self.write(0x14, Width::Byte, 0xf);
            let descriptor = [0x4000u64.to_le_bytes(), (16u64 | 2 << 32).to_le_bytes()].concat();
            self.memory.write_slice(&descriptor, GuestAddress(0x1000)).unwrap();
            self.memory.write_slice(&[0, 0, 1, 0, 0, 0], GuestAddress(0x2000)).unwrap();
        }
    }

    #[test]
    fn a_buffer_is_filled_and_the_interrupt_line_acknowledged_by_reading_the_status() {
        let fixture = fixture();
        fixture.start();
        assert_eq!((fixture.read(0x1c, Width::Half), fixture.read(0x14, Width::Byte)), (1, 0xf));
        fixture.write(NOTIFY, Width::Half, 0);
        assert_eq!(fixture.memory.read_obj::<u16>(GuestAddress(0x3002)).unwrap(), 1);
        assert!(fixture.lines.level(10));
        assert_eq!(fixture.read(ISR, Width::Byte), 1);
        assert!(!fixture.lines.level(10));
        assert_eq!(fixture.read(ISR, Width::Byte), 0);
    }

    #[test]
    fn with_msi_x_the_queues_vector_is_sent_and_the_line_stays_low() {
        let fixture = fixture();
        fixture.start();
        for (offset, value) in [(16, 0xfee0_0000), (24, 0x33), (28, 0)] {
            let _ = fixture.device.write_bar(1, offset, Width::Word, value);
        }
        let capability = fixture.device.config().byte(0x34);
        let _ = fixture.device.write_config(capability + 3, Width::Byte, 0x80);
        fixture.write(0x1a, Width::Half, 9);
        assert_eq!(fixture.read(0x1a, Width::Half), 0xffff);
        fixture.write(0x1a, Width::Half, 1);
        assert_eq!(fixture.read(0x1a, Width::Half), 1);
        fixture.write(NOTIFY, Width::Half, 0);
        assert_eq!(*fixture.sent.lock(), [Msi { address: 0xfee0_0000, data: 0x33 }]);
        assert!(!fixture.lines.level(10));
    }

    #[test]
    fn the_access_capability_reaches_the_structures_without_the_region() {
        let fixture = fixture();
        let at = fixture.device.access as u8;
        let _ = fixture.device.write_config(at + 4, Width::Byte, 4);
        let _ = fixture.device.write_config(at + 8, Width::Word, 0x12);
        let _ = fixture.device.write_config(at + 12, Width::Word, 2);
        assert_eq!(fixture.device.read_config(at + 16, Width::Half), 1);
        let _ = fixture.device.write_config(at + 8, Width::Word, 0x14);
        let _ = fixture.device.write_config(at + 12, Width::Word, 1);
        let _ = fixture.device.write_config(at + 16, Width::Byte, 3);
        assert_eq!(fixture.read(0x14, Width::Byte), 3);
        let _ = fixture.device.write_config(at + 8, Width::Word, u64::MAX);
        assert_eq!(fixture.device.write_config(at + 16, Width::Word, 1), Effect::None);
    }

    #[test]
    fn a_reset_forgets_the_driver() {
        let fixture = fixture();
        fixture.start();
        fixture.device.reset();
        assert_eq!((fixture.read(0x14, Width::Byte), fixture.read(0x1c, Width::Half)), (0, 0));
        assert_eq!(fixture.read(0x20, Width::Word), 0);
    }
}
