//! Guest memory: mappings of anonymous memory files, shareable with other processes, with an atomic dirty bitmap.
//!
//! Device DMA marks pages dirty through `vm-memory`'s bitmap; what vCPUs write is in their backend's log
//! ([`crate::Accelerator::dirty_log`]). Who wants all writes merges the two.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use vm_memory::bitmap::{AtomicBitmap, Bitmap, NewBitmap, RefSlice, WithBitmapSlice};
use vm_memory::{GuestAddress, GuestMemoryMmap, GuestRegionMmap, MmapRegion};

use crate::Error;

/// Size of a page of the dirty logs, bytes.
pub const PAGE_SIZE: u64 = 4096;

/// One mapped region of guest memory at its guest-physical address.
pub type Region = GuestRegionMmap<DirtyBitmap>;

/// All RAM and ROM of a machine, as devices see it for DMA.
pub type GuestMemory = GuestMemoryMmap<DirtyBitmap>;

/// Called with the offset and the length of each write that a device made to a region.
pub type WriteObserver = Box<dyn Fn(usize, usize) + Send + Sync>;

/// The pages of a region that devices wrote to, and whom to tell about such writes.
///
/// A backend that keeps something derived from memory's contents, such as translated code, observes writes: it does not see
/// those of devices otherwise.
#[derive(Default)]
pub struct DirtyBitmap {
    pages: AtomicBitmap,
    observer: ArcSwapOption<WriteObserver>,
}

impl DirtyBitmap {
    /// The bitmap itself.
    pub fn pages(&self) -> &AtomicBitmap {
        &self.pages
    }

    /// Replaces the observer of writes.
    pub fn observe(&self, observer: Option<WriteObserver>) {
        self.observer.store(observer.map(Arc::new));
    }
}

impl std::fmt::Debug for DirtyBitmap {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.pages.fmt(formatter)
    }
}

impl<'a> WithBitmapSlice<'a> for DirtyBitmap {
    type S = RefSlice<'a, DirtyBitmap>;
}

impl Bitmap for DirtyBitmap {
    fn mark_dirty(&self, offset: usize, len: usize) {
        self.pages.mark_dirty(offset, len);
        if let Some(observer) = &*self.observer.load() {
            observer(offset, len);
        }
    }

    fn dirty_at(&self, offset: usize) -> bool {
        self.pages.dirty_at(offset)
    }

    fn slice_at(&self, offset: usize) -> RefSlice<'_, DirtyBitmap> {
        RefSlice::new(self, offset)
    }
}

impl NewBitmap for DirtyBitmap {
    fn with_len(len: usize) -> DirtyBitmap {
        DirtyBitmap { pages: AtomicBitmap::with_len(len), observer: ArcSwapOption::empty() }
    }
}

/// A region as a backend maps it for its vCPUs.
#[derive(Clone)]
pub struct MemorySlot {
    /// The memory, which knows its guest-physical address and length.
    pub region: Arc<Region>,
    /// Guest writes do not change it; they go to the [`crate::IoBus`] instead.
    pub read_only: bool,
}

/// Allocates zeroed memory of `length` bytes (a multiple of [`PAGE_SIZE`], not zero) that will answer at guest-physical
/// `address`. It is anonymous memory for which the kernel may use huge pages: it has none for files in memory where its administrator did not ask
/// for that, and then each access may miss the host's own address translation.
pub fn allocate(address: u64, length: u64) -> Result<Arc<Region>, Error> {
    let problem = |problem| Error::Memory { address, length, problem };
    if length == 0 || !length.is_multiple_of(PAGE_SIZE) || !address.is_multiple_of(PAGE_SIZE) {
        return Err(problem("is not whole pages"));
    }
    if address.checked_add(length).is_none() {
        return Err(problem("ends beyond the address space"));
    }
    let size = usize::try_from(length).map_err(|_| problem("is too large for this host"))?;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let mapping = MmapRegion::build(None, size, protection, flags)
        .map_err(|error| Error::Host { call: "mmap of guest memory", source: std::io::Error::other(error) })?;
    // SAFETY: the range was just mapped. Advice may be refused, and then the memory is what it was.
    unsafe { libc::madvise(mapping.as_ptr().cast(), size, libc::MADV_HUGEPAGE) };
    let region =
        GuestRegionMmap::new(mapping, GuestAddress(address)).ok_or_else(|| problem("ends beyond the address space"))?;
    Ok(Arc::new(region))
}
