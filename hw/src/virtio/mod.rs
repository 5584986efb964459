//! Virtio devices and their transports.
//!
//! OASIS Virtual I/O Device (VIRTIO) Version 1.2. A device ([`VirtioDevice`]) knows its queues and its configuration
//! space; a transport ([`mmio`], [`pci`]) knows the registers through which the guest reaches them; [`transport`] is what all
//! transports have in common, and [`queues`] what a device sees of its queues.

pub mod blk;
mod buffers;
pub mod console;
pub mod mmio;
pub mod pci;
pub mod queues;
pub mod rng;
pub mod transport;

use std::sync::Arc;

use crate::device::StateError;
use queues::Queues;

/// Feature bit: the device follows version 1 of the specification.
pub const F_VERSION_1: u64 = 1 << 32;
/// Feature bit: descriptors may point to tables of descriptors.
pub const F_INDIRECT_DESC: u64 = 1 << 28;
/// Feature bit: both sides say which ring position should notify them.
pub const F_EVENT_IDX: u64 = 1 << 29;

/// A virtio device, whatever its transport. All methods may be called from any thread.
pub trait VirtioDevice: Send + Sync {
    /// Device id of section 5: 2 block, 3 console, 4 entropy.
    fn device_id(&self) -> u32;

    /// Largest size of each queue, powers of two up to 32768.
    fn queue_sizes(&self) -> &'static [u16];

    /// Feature bits of the device's own, below 24 and from 50 on.
    fn features(&self) -> u64;

    /// Length of the device configuration space, bytes.
    fn config_length(&self) -> usize;

    /// The device configuration space.
    fn config(&self) -> Vec<u8>;

    /// The driver writes `data` at `offset` of the configuration space. Most spaces are read-only.
    fn write_config(&self, _offset: usize, _data: &[u8]) {}

    /// Called once by the transport, before the guest can reach the device.
    fn attach(&self, queues: Arc<Queues>);

    /// The driver has set the device up (DRIVER_OK).
    fn ready(&self) {}

    /// The driver put buffers into `queue`. Called on a vCPU thread; must not wait for the host.
    fn notify(&self, queue: u16);

    /// Forgets everything a driver did. The queues have been reset before.
    fn reset(&self) {}

    /// As [`crate::device::Device::pause`].
    fn pause(&self) {}

    /// As [`crate::device::Device::resume`].
    fn resume(&self) {}

    /// State of the device's own, beyond queues and transport.
    fn save(&self) -> serde_json::Value {
        serde_json::Value::Null
    }

    /// Takes over what [`VirtioDevice::save`] returned.
    fn restore(&self, _state: &serde_json::Value) -> Result<(), StateError> {
        Ok(())
    }
}
