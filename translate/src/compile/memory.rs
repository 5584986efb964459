//! Memory for compiled code, mapped twice: writable here and executable there. Behind the executable mapping are counters, which code
//! reaches by their distance.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::platform::PAGE_SIZE;

/// What the start of each addition is a multiple of, bytes.
const CODE_ALIGNMENT: usize = 16;
/// Bytes of a huge page of most hosts. Nothing depends on it but speed.
const HUGE_PAGE: usize = 2 << 20;
/// Bytes of code for which there is one counter.
const CODE_OF_A_COUNTER: usize = 128;

/// A fixed amount of executable memory that is filled and then freed as a whole.
#[derive(Debug)]
pub struct CodeMemory {
    writable: NonNull<u8>,
    executable: NonNull<u8>,
    size: usize,
    used: Mutex<usize>,
    /// How many counters are taken.
    counters: AtomicU32,
}

// SAFETY: the mappings belong to this value; `used`'s lock guards writing, and what was written is never changed.
unsafe impl Send for CodeMemory {}
// SAFETY: as above.
unsafe impl Sync for CodeMemory {}

impl CodeMemory {
    /// Memory for `size` bytes of code, a multiple of the page size.
    pub fn new(size: usize) -> std::io::Result<CodeMemory> {
        if size == 0 {
            return Ok(CodeMemory::none());
        }
        let writable = map(size)?;
        let executable = match map_again(writable, size, counters_size(size)) {
            Ok(executable) => executable,
            Err(error) => {
                // SAFETY: just mapped with this size, and used by nobody.
                unsafe { libc::munmap(writable.as_ptr().cast(), size) };
                return Err(error);
            }
        };
        Ok(CodeMemory { writable, executable, size, used: Mutex::new(0), counters: AtomicU32::new(0) })
    }

    /// No memory: every addition fails.
    pub fn none() -> CodeMemory {
        let (writable, executable) = (NonNull::dangling(), NonNull::dangling());
        CodeMemory { writable, executable, size: 0, used: Mutex::new(0), counters: AtomicU32::new(0) }
    }

    /// How many bytes are used.
    pub fn used(&self) -> usize {
        *self.used.lock()
    }

    /// Code that was added: `bytes` of it from its executable address on; `None` for what was not.
    pub fn read(&self, start: *const u8, bytes: usize) -> Option<&[u8]> {
        let offset = (start as usize).checked_sub(self.executable.as_ptr() as usize)?;
        let end = offset.checked_add(bytes).filter(|end| *end <= *self.used.lock())?;
        // SAFETY: the range lies in what was added, which is never written to again, and the mapping lives as long as `self`.
        Some(unsafe { std::slice::from_raw_parts(self.writable.as_ptr().add(offset), end - offset) })
    }

    /// Copies position-independent code in and gives its executable address; `None` when there is no room.
    pub fn add(&self, code: &[u8]) -> Option<*const u8> {
        self.add_at(code.len(), |_, to| to.copy_from_slice(code))
    }

    /// Adds code of so many bytes, which `write` writes for the address that it gets; `None` when there is no room.
    pub fn add_at(&self, bytes: usize, write: impl FnOnce(*const u8, &mut [u8])) -> Option<*const u8> {
        let mut used = self.used.lock();
        let start = used.next_multiple_of(CODE_ALIGNMENT);
        let end = start.checked_add(bytes).filter(|end| *end <= self.size)?;
        if start.next_multiple_of(HUGE_PAGE) < end {
            self.make_present(end / HUGE_PAGE * HUGE_PAGE);
        }
        // SAFETY: within the mapping.
        let address = unsafe { self.executable.as_ptr().add(start) };
        // SAFETY: the range lies within the mapping, nobody else uses it, and no code there has been handed out.
        write(address, unsafe { std::slice::from_raw_parts_mut(self.writable.as_ptr().add(start), bytes) });
        *used = end;
        Some(address)
    }

    /// Asks for a huge page for the code from an offset on, or else for all its pages at once: without that each is two page faults, and code that is
    /// executed a few times each misses the host's address translation wherever it goes.
    fn make_present(&self, offset: usize) {
        if offset + HUGE_PAGE > self.size {
            return;
        }
        let attempts = [[libc::MADV_COLLAPSE; 2], [libc::MADV_POPULATE_WRITE, libc::MADV_POPULATE_READ]];
        for advice in attempts {
            let mappings = [self.writable, self.executable];
            // SAFETY: within the mappings. It changes how the memory is provided, not what is in it; where the kernel does not know it or cannot do it,
            // nothing happens.
            let done = mappings.into_iter().zip(advice).all(|(mapping, advice)| unsafe {
                libc::madvise(mapping.as_ptr().add(offset).cast(), HUGE_PAGE, advice) == 0
            });
            if done {
                return;
            }
        }
    }

    /// A counter that code can reach; `None` when all are taken.
    pub fn counter(&self) -> Option<&AtomicI32> {
        let most = counters_size(self.size) / size_of::<AtomicI32>();
        let taken = self
            .counters
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| ((taken as usize) < most).then_some(taken + 1));
        let place = self.size + taken.ok()? as usize * size_of::<AtomicI32>();
        // SAFETY: the counters are mapped behind the executable code, aligned and zeroed, for as long as `self` is.
        Some(unsafe { AtomicI32::from_ptr(self.executable.as_ptr().add(place).cast()) })
    }

    /// Replaces four bytes of code that was added, at a multiple of four, in one store: others may execute it meanwhile.
    ///
    /// # Panics
    /// If `address` is not in code that was added, or not such a multiple.
    pub fn patch(&self, address: *const u8, value: u32) {
        let place = self.writable_place(address, size_of_val(&value));
        // SAFETY: in the mapping and aligned, as was checked; all writes to code that was handed out are atomic.
        unsafe { AtomicU32::from_ptr(place.cast()) }.store(value, Ordering::SeqCst);
    }

    /// The same for eight bytes.
    ///
    /// # Panics
    /// As [`CodeMemory::patch`].
    pub fn patch_wide(&self, address: *const u8, value: u64) {
        let place = self.writable_place(address, size_of_val(&value));
        // SAFETY: as above.
        unsafe { AtomicU64::from_ptr(place.cast()) }.store(value, Ordering::SeqCst);
    }

    fn writable_place(&self, address: *const u8, bytes: usize) -> *mut u8 {
        let offset = (address as usize).wrapping_sub(self.executable.as_ptr() as usize);
        assert!(offset.is_multiple_of(bytes) && offset < self.size, "only code that was added is patched");
        // SAFETY: within the mapping.
        unsafe { self.writable.as_ptr().add(offset) }
    }
}

impl Drop for CodeMemory {
    fn drop(&mut self) {
        if self.size != 0 {
            // SAFETY: both were mapped with this size and nobody executes code there any more: entering it needs the owner.
            unsafe {
                libc::munmap(self.writable.as_ptr().cast(), self.size);
                libc::munmap(self.executable.as_ptr().cast(), self.size + counters_size(self.size));
            }
        }
    }
}

/// Address space of so many bytes, from a multiple of [`HUGE_PAGE`] on, that nothing else uses and nobody may access.
fn reserve(size: usize) -> std::io::Result<NonNull<u8>> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let whole = size + HUGE_PAGE;
    // SAFETY: a new mapping at an address of the kernel's choice touches no existing memory.
    let place = checked(unsafe { libc::mmap(std::ptr::null_mut(), whole, libc::PROT_NONE, flags, -1, 0) })?;
    let before = place.as_ptr().align_offset(HUGE_PAGE);
    // SAFETY: within the mapping, like all that is unmapped here, which nobody uses.
    let start = unsafe { place.add(before) };
    if before != 0 {
        // SAFETY: as above.
        unsafe { libc::munmap(place.as_ptr().cast(), before) };
    }
    // SAFETY: as above.
    unsafe { libc::munmap(start.add(size).as_ptr().cast(), HUGE_PAGE - before) };
    Ok(start)
}

/// Shared memory that may be written.
fn map(size: usize) -> std::io::Result<NonNull<u8>> {
    let place = reserve(size)?;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // Anonymous, since perf takes names for code in a file from that file.
    let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
    // SAFETY: it replaces what was just reserved and is used by nobody.
    checked(unsafe { libc::mmap(place.as_ptr().cast(), size, protection, flags, -1, 0) })
}

/// Bytes of the counters of so many bytes of code; whole pages, if it is.
fn counters_size(code: usize) -> usize {
    (code / CODE_OF_A_COUNTER * size_of::<AtomicI32>()).next_multiple_of(PAGE_SIZE as usize)
}

/// The same memory at another address, where it may be executed, with `more` bytes behind it that may be written.
fn map_again(memory: NonNull<u8>, size: usize, more: usize) -> std::io::Result<NonNull<u8>> {
    let place = reserve(size + more)?;
    let start: *mut libc::c_void = place.as_ptr().cast();
    let writable = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    // SAFETY: what is changed was just reserved and is used by nobody. Of a shared mapping, an old size of zero makes a second mapping of the same
    // pages and leaves the first as it is.
    let done = unsafe {
        libc::mprotect(start.add(size), more, writable) == 0
            && libc::mremap(memory.as_ptr().cast(), 0, size, flags, start) != libc::MAP_FAILED
            && libc::mprotect(start, size, libc::PROT_READ | libc::PROT_EXEC) == 0
    };
    if !done {
        let error = std::io::Error::last_os_error();
        // SAFETY: as above.
        unsafe { libc::munmap(start, size + more) };
        return Err(error);
    }
    Ok(place)
}

fn checked(address: *mut libc::c_void) -> std::io::Result<NonNull<u8>> {
    if address == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error());
    }
    NonNull::new(address.cast()).ok_or_else(|| std::io::Error::other("the kernel mapped address zero"))
}
