//! Memory for compiled code, mapped twice: writable here and executable there.

use std::ptr::NonNull;

use parking_lot::Mutex;

/// A fixed amount of executable memory that is filled and then freed as a whole.
pub struct CodeMemory {
    writable: NonNull<u8>,
    executable: NonNull<u8>,
    size: usize,
    used: Mutex<usize>,
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
        let executable = match map_again(writable, size) {
            Ok(executable) => executable,
            Err(error) => {
                // SAFETY: just mapped with this size, and used by nobody.
                unsafe { libc::munmap(writable.as_ptr().cast(), size) };
                return Err(error);
            }
        };
        Ok(CodeMemory { writable, executable, size, used: Mutex::new(0) })
    }

    /// No memory: every addition fails.
    pub fn none() -> CodeMemory {
        CodeMemory { writable: NonNull::dangling(), executable: NonNull::dangling(), size: 0, used: Mutex::new(0) }
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
        let mut used = self.used.lock();
        let start = used.next_multiple_of(64);
        let end = start.checked_add(code.len()).filter(|end| *end <= self.size)?;
        // SAFETY: the range lies within the mapping, nobody else writes to it, and no code there has been handed out.
        unsafe { std::ptr::copy_nonoverlapping(code.as_ptr(), self.writable.as_ptr().add(start), code.len()) };
        *used = end;
        // SAFETY: within the mapping.
        Some(unsafe { self.executable.as_ptr().add(start) })
    }
}

impl Drop for CodeMemory {
    fn drop(&mut self) {
        if self.size != 0 {
            // SAFETY: both were mapped with this size and nobody executes code there any more: entering it needs the owner.
            unsafe {
                libc::munmap(self.writable.as_ptr().cast(), self.size);
                libc::munmap(self.executable.as_ptr().cast(), self.size);
            }
        }
    }
}

/// Shared memory that may be written.
fn map(size: usize) -> std::io::Result<NonNull<u8>> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // Anonymous, since perf takes names for code in a file from that file.
    let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping at an address of the kernel's choice touches no existing memory.
    checked(unsafe { libc::mmap(std::ptr::null_mut(), size, protection, flags, -1, 0) })
}

/// The same memory at another address, where it may be executed.
fn map_again(memory: NonNull<u8>, size: usize) -> std::io::Result<NonNull<u8>> {
    // SAFETY: of a shared mapping, an old size of zero makes a second mapping of the same pages and leaves the first as it is.
    let again = checked(unsafe { libc::mremap(memory.as_ptr().cast(), 0, size, libc::MREMAP_MAYMOVE) })?;
    // SAFETY: the mapping was just made and is used by nobody.
    if unsafe { libc::mprotect(again.as_ptr().cast(), size, libc::PROT_READ | libc::PROT_EXEC) } != 0 {
        let error = std::io::Error::last_os_error();
        // SAFETY: as above.
        unsafe { libc::munmap(again.as_ptr().cast(), size) };
        return Err(error);
    }
    Ok(again)
}

fn checked(address: *mut libc::c_void) -> std::io::Result<NonNull<u8>> {
    if address == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error());
    }
    NonNull::new(address.cast()).ok_or_else(|| std::io::Error::other("the kernel mapped address zero"))
}
