//! What lies outside a processor.

use std::ptr::NonNull;

/// Size of the pages in which RAM is handed out, bytes.
pub const PAGE_SIZE: u64 = 4096;

/// A page of guest RAM or ROM in host memory.
#[derive(Clone, Copy, Debug)]
pub struct HostPage {
    /// First byte; [`PAGE_SIZE`] bytes are valid for as long as the processor is inside one run.
    pub host: NonNull<u8>,
    /// Guest writes may go to `host`; otherwise they go to [`Platform::write`].
    pub writable: bool,
}

/// An access that nothing answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BusError;

/// The world outside a processor: memory, devices and time. Shared by all processors of a machine.
pub trait Platform: Sync {
    /// The page of RAM or ROM that holds guest-physical `address`; `None` where [`read`](Platform::read) and
    /// [`write`](Platform::write) must be asked.
    fn page(&self, address: u64) -> Option<HostPage>;

    /// A processor is about to write to the RAM page that holds guest-physical `address`, maybe many times until the
    /// next TLB flush.
    fn mark_dirty(&self, address: u64);

    /// Reads 1, 2, 4 or 8 bytes, little-endian, where no RAM answers.
    fn read(&self, address: u64, width: u64) -> Result<u64, BusError>;

    /// Writes 1, 2, 4 or 8 bytes, little-endian, where no RAM answers.
    fn write(&self, address: u64, width: u64, value: u64) -> Result<(), BusError>;

    /// The guest's wall clock: nanoseconds of virtual time.
    fn now(&self) -> u64;

    /// Asks that processor `index` be woken when virtual time reaches `deadline` nanoseconds; `None` takes the request
    /// back. One request a processor.
    fn set_deadline(&self, index: u64, deadline: Option<u64>);
}
