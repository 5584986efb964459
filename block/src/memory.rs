//! A disk in memory.

use async_trait::async_trait;
use parking_lot::Mutex;

use crate::driver::{Driver, Preallocation};
use crate::{Error, IoVector};

/// Most bytes of such a disk: requests for more fail, as those for a larger file than the host has do.
const MOST: usize = 1 << 30;

/// A disk whose bytes are in this process, and are gone with it: for tests of what uses disks.
#[derive(Default)]
pub struct MemoryDisk {
    // Lock order: alone.
    bytes: Mutex<Vec<u8>>,
    read_only: bool,
}

impl MemoryDisk {
    /// A disk with these bytes.
    pub fn new(bytes: Vec<u8>, read_only: bool) -> MemoryDisk {
        MemoryDisk { bytes: Mutex::new(bytes), read_only }
    }

    /// A copy of its bytes.
    pub fn bytes(&self) -> Vec<u8> {
        self.bytes.lock().clone()
    }
}

#[async_trait]
impl Driver for MemoryDisk {
    fn name(&self) -> &'static str {
        "memory"
    }
    fn length(&self) -> u64 {
        self.bytes.lock().len() as u64
    }
    fn is_read_only(&self) -> bool {
        self.read_only
    }
    async fn read(&self, offset: u64, to: IoVector) -> Result<(), Error> {
        let bytes = self.bytes.lock();
        let from = bytes.get(usize::try_from(offset).unwrap_or(usize::MAX)..).unwrap_or_default();
        let there = from.len().min(to.len());
        to.slice(0, there).copy_from(&from[..there]);
        to.slice(there, to.len() - there).fill(0);
        Ok(())
    }
    async fn write(&self, offset: u64, from: IoVector) -> Result<(), Error> {
        let end = usize::try_from(offset).ok().and_then(|offset| offset.checked_add(from.len()));
        let end = end.filter(|end| *end <= MOST).ok_or_else(full)?;
        let mut bytes = self.bytes.lock();
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        from.copy_to(&mut bytes[end - from.len()..end]);
        Ok(())
    }
    async fn flush(&self) -> Result<(), Error> {
        Ok(())
    }
    async fn truncate(&self, length: u64, _preallocation: Preallocation) -> Result<(), Error> {
        let length = usize::try_from(length).ok().filter(|length| *length <= MOST).ok_or_else(full)?;
        self.bytes.lock().resize(length, 0);
        Ok(())
    }
    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

fn full() -> Error {
    Error::host("write", std::io::Error::from_raw_os_error(libc::EFBIG))
}
