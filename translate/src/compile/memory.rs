//! Memory for compiled code: one anonymous file mapped twice, writable here and executable there.

use std::os::fd::{FromRawFd, OwnedFd};
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
        // SAFETY: the name is a NUL-terminated constant; the result is checked.
        let file = unsafe { libc::memfd_create(c"compiled guest code".as_ptr(), libc::MFD_CLOEXEC) };
        if file < 0 {
            return Err(std::io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just created and has no other owner.
        let file = unsafe { OwnedFd::from_raw_fd(file) };
        let file = std::fs::File::from(file);
        file.set_len(size as u64)?;
        let writable = map(&file, size, libc::PROT_READ | libc::PROT_WRITE)?;
        let executable = match map(&file, size, libc::PROT_READ | libc::PROT_EXEC) {
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

fn map(file: &std::fs::File, size: usize, protection: i32) -> std::io::Result<NonNull<u8>> {
    let descriptor = std::os::fd::AsRawFd::as_raw_fd(file);
    // SAFETY: a new shared mapping at an address of the kernel's choice touches no existing memory.
    let address = unsafe { libc::mmap(std::ptr::null_mut(), size, protection, libc::MAP_SHARED, descriptor, 0) };
    if address == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error());
    }
    NonNull::new(address.cast()).ok_or_else(|| std::io::Error::other("the kernel mapped address zero"))
}
