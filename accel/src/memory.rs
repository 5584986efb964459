//! Guest memory: mappings of anonymous memory files, shareable with other processes, with an atomic dirty bitmap.
//!
//! Device DMA marks pages dirty through `vm-memory`'s bitmap; what vCPUs write is in their backend's log
//! ([`crate::Accelerator::dirty_log`]). Who wants all writes merges the two.

use std::sync::Arc;

use vm_memory::bitmap::AtomicBitmap;
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap, GuestRegionMmap, MmapRegion};

use crate::Error;

/// Size of a page of the dirty logs, bytes.
pub const PAGE_SIZE: u64 = 4096;

/// One mapped region of guest memory at its guest-physical address.
pub type Region = GuestRegionMmap<AtomicBitmap>;

/// All RAM and ROM of a machine, as devices see it for DMA.
pub type GuestMemory = GuestMemoryMmap<AtomicBitmap>;

/// A region as a backend maps it for its vCPUs.
#[derive(Clone)]
pub struct MemorySlot {
    /// The memory, which knows its guest-physical address and length.
    pub region: Arc<Region>,
    /// Guest writes do not change it; they go to the [`crate::IoBus`] instead.
    pub read_only: bool,
}

/// Allocates zeroed memory of `length` bytes (a multiple of [`PAGE_SIZE`], not zero) that will answer at guest-physical
/// `address`, backed by an anonymous file called `name`.
pub fn allocate(name: &str, address: u64, length: u64) -> Result<Arc<Region>, Error> {
    let problem = |problem| Error::Memory { address, length, problem };
    if length == 0 || length % PAGE_SIZE != 0 || address % PAGE_SIZE != 0 {
        return Err(problem("is not whole pages"));
    }
    if address.checked_add(length).is_none() {
        return Err(problem("ends beyond the address space"));
    }
    let size = usize::try_from(length).map_err(|_| problem("is too large for this host"))?;
    let host = |call| move |source: std::io::Error| Error::Host { call, source };
    let name = std::ffi::CString::new(name).unwrap_or_default();
    // SAFETY: `name` is a NUL-terminated string that outlives the call; the result is checked before use.
    let fd = unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(host("memfd_create")(std::io::Error::last_os_error()));
    }
    // SAFETY: `fd` was just created, is valid and is owned by nobody else.
    let file = unsafe { <std::fs::File as std::os::fd::FromRawFd>::from_raw_fd(fd) };
    file.set_len(length).map_err(host("ftruncate of guest memory"))?;
    let mapping = MmapRegion::from_file(FileOffset::new(file, 0), size)
        .map_err(|error| host("mmap of guest memory")(std::io::Error::other(error)))?;
    let region =
        GuestRegionMmap::new(mapping, GuestAddress(address)).ok_or_else(|| problem("ends beyond the address space"))?;
    Ok(Arc::new(region))
}
