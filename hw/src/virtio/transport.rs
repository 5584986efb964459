//! What all virtio transports have in common: status, feature negotiation and the set-up of queues.
//!
//! VIRTIO 1.2, sections 2.1 to 2.4 and 3.1.

use std::sync::Arc;

use accel::memory::GuestMemory;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use virtio_queue::{Queue, QueueT};
use vm_memory::GuestAddress;

use super::queues::{Queues, VirtioInterrupt};
use super::{F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1, VirtioDevice};
use crate::device::{StateError, impossible, parse_state, state_value};

const STATUS_DRIVER_OK: u8 = 4;
const STATUS_FEATURES_OK: u8 = 8;
const STATUS_NEEDS_RESET: u8 = 64;

/// What the driver chose for one queue, and how far the device came with it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QueueSetup {
    /// Number of descriptors.
    pub size: u16,
    /// The queue is in use.
    pub ready: bool,
    /// Guest-physical address of the descriptor table.
    pub descriptors: u64,
    /// Guest-physical address of the available ring (driver area).
    pub available: u64,
    /// Guest-physical address of the used ring (device area).
    pub used: u64,
    /// Next position in the available ring; right only in a saved state.
    pub next_available: u16,
    /// Next position in the used ring; right only in a saved state.
    pub next_used: u16,
}

/// Registers that every transport has, in one form or another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TransportState {
    /// Device status field, without DEVICE_NEEDS_RESET.
    pub status: u8,
    /// The driver broke the rules; DEVICE_NEEDS_RESET.
    pub broken: bool,
    /// Which 32 device feature bits are read.
    pub device_features_select: u32,
    /// Which 32 driver feature bits are written.
    pub driver_features_select: u32,
    /// Features that the driver accepted.
    pub driver_features: u64,
    /// Which queue the queue registers mean.
    pub queue_select: u16,
    /// The queues.
    pub queues: Vec<QueueSetup>,
    /// State of the device itself.
    pub device: serde_json::Value,
}

/// Status, features and queue registers of one virtio device.
pub struct Transport {
    label: String,
    device: Arc<dyn VirtioDevice>,
    queues: Arc<Queues>,
    // Lock order: before the queues' and the device's.
    state: Mutex<TransportState>,
}

/// One of the three addresses of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Area {
    /// Descriptor table.
    Descriptors,
    /// Available ring.
    Available,
    /// Used ring.
    Used,
}

impl Transport {
    /// Attaches `device`, whose DMA goes to `memory`, to a transport that interrupts through `interrupt`.
    pub fn new(
        label: String,
        device: Arc<dyn VirtioDevice>,
        memory: Arc<GuestMemory>,
        interrupt: Arc<dyn VirtioInterrupt>,
    ) -> Transport {
        let queues = Arc::new(Queues::new(memory, device.queue_sizes(), interrupt));
        device.attach(queues.clone());
        let state = Mutex::new(initial_state(&queues));
        Transport { label, device, queues, state }
    }

    /// The device's name in logs.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// The device behind the transport.
    pub fn device(&self) -> &Arc<dyn VirtioDevice> {
        &self.device
    }

    fn offered_features(&self) -> u64 {
        self.device.features() | F_VERSION_1 | F_EVENT_IDX | F_INDIRECT_DESC
    }

    /// Reads the 32 device feature bits that the driver selected.
    pub fn device_features(&self) -> u32 {
        match self.state.lock().device_features_select {
            0 => self.offered_features() as u32,
            1 => (self.offered_features() >> 32) as u32,
            _ => 0,
        }
    }

    /// Reads or changes which 32 device feature bits are read.
    pub fn device_features_select(&self, value: Option<u32>) -> u32 {
        let mut state = self.state.lock();
        state.device_features_select = value.unwrap_or(state.device_features_select);
        state.device_features_select
    }

    /// Reads or changes which 32 driver feature bits are written.
    pub fn driver_features_select(&self, value: Option<u32>) -> u32 {
        let mut state = self.state.lock();
        state.driver_features_select = value.unwrap_or(state.driver_features_select);
        state.driver_features_select
    }

    /// Reads or changes the 32 driver feature bits that the driver selected. They are fixed once accepted.
    pub fn driver_features(&self, value: Option<u32>) -> u32 {
        let mut state = self.state.lock();
        let shift = match state.driver_features_select {
            0 => 0,
            1 => 32,
            _ => return 0,
        };
        if let Some(value) = value
            && state.status & STATUS_FEATURES_OK == 0
        {
            state.driver_features &= !(0xffff_ffff << shift);
            state.driver_features |= u64::from(value) << shift;
        }
        (state.driver_features >> shift) as u32
    }

    /// Reads or changes which queue the queue registers mean.
    pub fn queue_select(&self, value: Option<u16>) -> u16 {
        let mut state = self.state.lock();
        state.queue_select = value.unwrap_or(state.queue_select);
        state.queue_select
    }

    /// How many queues the device has.
    pub fn queue_count(&self) -> u16 {
        self.queues.all().len() as u16
    }

    /// Largest size of the selected queue; 0 if there is no such queue.
    pub fn queue_max_size(&self) -> u16 {
        let index = self.state.lock().queue_select;
        self.queues.queue(index).map_or(0, |queue| queue.lock().max_size())
    }

    /// Reads or changes the size of the selected queue.
    pub fn queue_size(&self, value: Option<u16>) -> u16 {
        let maximum = self.queue_max_size();
        self.with_selected(0, |setup| {
            if let Some(value) = value
                && !setup.ready
                && value.is_power_of_two()
                && value <= maximum
            {
                setup.size = value;
            }
            setup.size
        })
    }

    /// Reads or changes one half of an address of the selected queue. Addresses are fixed while the queue is ready.
    pub fn queue_address(&self, area: Area, high: bool, value: Option<u32>) -> u32 {
        let shift = if high { 32 } else { 0 };
        self.with_selected(0, |setup| {
            let ready = setup.ready;
            let address = match area {
                Area::Descriptors => &mut setup.descriptors,
                Area::Available => &mut setup.available,
                Area::Used => &mut setup.used,
            };
            if let Some(value) = value
                && !ready
            {
                *address &= !(0xffff_ffff << shift);
                *address |= u64::from(value) << shift;
            }
            (*address >> shift) as u32
        })
    }

    fn with_selected<T>(&self, absent: T, access: impl FnOnce(&mut QueueSetup) -> T) -> T {
        let mut state = self.state.lock();
        let index = usize::from(state.queue_select);
        state.queues.get_mut(index).map_or(absent, access)
    }

    /// Reads or changes whether the selected queue is in use. A queue whose addresses are wrong stays out of use.
    pub fn queue_ready(&self, value: Option<bool>) -> bool {
        let mut state = self.state.lock();
        let index = state.queue_select;
        let features = state.driver_features;
        let Some(setup) = state.queues.get_mut(usize::from(index)) else { return false };
        let Some(queue) = self.queues.queue(index) else { return false };
        match value {
            Some(true) if !setup.ready => {
                let mut queue = queue.lock();
                setup.ready = configure(&mut queue, setup, features) && queue.is_valid(self.queues.memory());
                if !setup.ready {
                    queue.set_ready(false);
                    tracing::warn!("{}: the addresses of queue {index} are not in RAM or not aligned", self.label);
                }
            }
            Some(false) if setup.ready => {
                queue.lock().set_ready(false);
                self.queues.wait_for_taken();
                queue.lock().reset();
                setup.ready = false;
            }
            _ => {}
        }
        setup.ready
    }

    /// The device status field.
    pub fn status(&self) -> u8 {
        self.state.lock().status | if self.queues.is_broken() { STATUS_NEEDS_RESET } else { 0 }
    }

    /// The driver writes the device status field; 0 resets the device.
    ///
    /// Returns true for a reset, after which the transport clears its own registers.
    pub fn set_status(&self, value: u8) -> bool {
        if value == 0 {
            self.reset();
            return true;
        }
        let mut state = self.state.lock();
        let mut status = value & !STATUS_NEEDS_RESET;
        let unknown = state.driver_features & !self.offered_features();
        if status & !state.status & STATUS_FEATURES_OK != 0
            && (unknown != 0 || state.driver_features & F_VERSION_1 == 0)
        {
            // Section 3.1.1, step 6: the driver sees that its choice was not accepted.
            status &= !STATUS_FEATURES_OK;
        }
        let starts = status & !state.status & STATUS_DRIVER_OK != 0 && status & STATUS_FEATURES_OK != 0;
        state.status = status;
        if starts && !self.queues.is_broken() {
            self.queues.set_active(state.driver_features, true);
            drop(state);
            self.device.ready();
        }
        false
    }

    /// The driver put buffers into `queue`.
    pub fn notify(&self, queue: u16) {
        if queue < self.queue_count() && self.queues.is_active() {
            self.device.notify(queue);
        }
    }

    /// Reads the configuration space; bytes beyond its end are 0.
    pub fn read_config(&self, offset: u64, width: u64) -> u64 {
        let config = self.device.config();
        let byte = |index: u64| {
            let index = offset.checked_add(index).and_then(|index| usize::try_from(index).ok());
            u64::from(index.and_then(|index| config.get(index)).copied().unwrap_or(0))
        };
        (0..width).fold(0, |value, index| value | (byte(index) << (8 * index)))
    }

    /// Writes the configuration space; what goes beyond its end is dropped.
    pub fn write_config(&self, offset: u64, width: u64, value: u64) {
        let fits = offset.checked_add(width).is_some_and(|end| end <= self.device.config_length() as u64);
        if fits {
            self.device.write_config(offset as usize, &value.to_le_bytes()[..width as usize]);
        }
    }

    /// Forgets everything the driver did. Waits until no buffer is in use.
    pub fn reset(&self) {
        let mut state = self.state.lock();
        self.queues.set_active(0, false);
        self.queues.wait_for_taken();
        for queue in self.queues.all() {
            queue.lock().reset();
        }
        self.queues.set_broken(false);
        *state = initial_state(&self.queues);
        self.device.reset();
    }

    /// As [`crate::device::Device::pause`].
    pub fn pause(&self) {
        self.queues.pause();
        self.device.pause();
    }

    /// As [`crate::device::Device::resume`].
    pub fn resume(&self) {
        self.queues.resume();
        self.device.resume();
    }

    /// As [`crate::device::Device::save`], for the transport to put into its own state.
    pub fn save(&self) -> TransportState {
        let mut state = self.state.lock().clone();
        for (setup, queue) in state.queues.iter_mut().zip(self.queues.all()) {
            let queue = queue.lock();
            setup.next_available = queue.next_avail();
            setup.next_used = queue.next_used();
        }
        state.broken = self.queues.is_broken();
        state.device = self.device.save();
        state
    }

    /// As [`crate::device::Device::restore`].
    pub fn restore(&self, new: TransportState) -> Result<(), StateError> {
        let fits = new.queues.len() == self.queues.all().len()
            && new
                .queues
                .iter()
                .zip(self.queues.all())
                .all(|(setup, queue)| setup.size.is_power_of_two() && setup.size <= queue.lock().max_size());
        if !fits {
            return Err(impossible(&self.label, "number or size of the queues is not this device's"));
        }
        if new.driver_features & !self.offered_features() != 0 && new.status & STATUS_FEATURES_OK != 0 {
            return Err(impossible(&self.label, "it uses features that this device does not offer"));
        }
        let mut prepared = Vec::new();
        for (setup, current) in new.queues.iter().zip(self.queues.all()) {
            let Ok(mut queue) = Queue::new(current.lock().max_size()) else { continue };
            if setup.ready {
                if !configure(&mut queue, setup, new.driver_features) || !queue.is_valid(self.queues.memory()) {
                    return Err(impossible(&self.label, "the addresses of a queue are not in RAM or not aligned"));
                }
                queue.set_next_avail(setup.next_available);
                queue.set_next_used(setup.next_used);
            }
            prepared.push(queue);
        }
        self.device.restore(&new.device)?;
        let mut state = self.state.lock();
        self.queues.set_active(0, false);
        for (current, queue) in self.queues.all().iter().zip(prepared) {
            *current.lock() = queue;
        }
        *state = new;
        self.queues.set_broken(state.broken);
        let active = state.status & STATUS_DRIVER_OK != 0 && state.status & STATUS_FEATURES_OK != 0 && !state.broken;
        self.queues.set_active(if active { state.driver_features } else { 0 }, active);
        Ok(())
    }

    /// Reads a transport's state out of a device state.
    pub fn parse<T: serde::de::DeserializeOwned>(&self, state: &serde_json::Value) -> Result<T, StateError> {
        parse_state(&self.label, state)
    }

    /// Writes a transport's state.
    pub fn value<T: Serialize>(&self, state: &T) -> serde_json::Value {
        state_value(state)
    }
}

fn initial_state(queues: &Queues) -> TransportState {
    let setup = |queue: &Mutex<Queue>| QueueSetup {
        size: queue.lock().max_size(),
        ready: false,
        descriptors: 0,
        available: 0,
        used: 0,
        next_available: 0,
        next_used: 0,
    };
    TransportState {
        status: 0,
        broken: false,
        device_features_select: 0,
        driver_features_select: 0,
        driver_features: 0,
        queue_select: 0,
        queues: queues.all().iter().map(setup).collect(),
        device: serde_json::Value::Null,
    }
}

/// Gives the driver's choices to the queue; false if one breaks the rules.
fn configure(queue: &mut Queue, setup: &QueueSetup, features: u64) -> bool {
    queue.reset();
    queue.set_event_idx(features & F_EVENT_IDX != 0);
    let set = queue
        .try_set_size(setup.size)
        .and_then(|()| queue.try_set_desc_table_address(GuestAddress(setup.descriptors)))
        .and_then(|()| queue.try_set_avail_ring_address(GuestAddress(setup.available)))
        .and_then(|()| queue.try_set_used_ring_address(GuestAddress(setup.used)));
    queue.set_ready(set.is_ok());
    set.is_ok()
}
