//! The memory that a vCPU shares with KVM (`struct kvm_run` of the KVM API).

use std::os::fd::RawFd;
use std::ptr::{NonNull, addr_of, addr_of_mut};
use std::sync::atomic::{AtomicU8, Ordering};

use kvm_bindings::kvm_run;

use crate::Error;

/// A mapping of a vCPU's `kvm_run`.
///
/// It is mapped here a second time, beside `kvm-ioctls`' own mapping, because other threads write one byte of it while
/// the vCPU runs: no reference to the whole structure may exist then. All access goes through raw pointers to single
/// fields.
pub(super) struct RunPage {
    run: NonNull<kvm_run>,
    size: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread. `request_exit` and `set_immediate_exit` are atomic; all
// other accessors are unsafe and demand the vCPU's thread.
unsafe impl Send for RunPage {}
// SAFETY: as above.
unsafe impl Sync for RunPage {}

/// What KVM reports when it cannot emulate an instruction.
pub(super) struct InternalErrorData {
    pub(super) suberror: u32,
    /// Bytes of the instruction, where KVM gives them.
    pub(super) instruction: Vec<u8>,
}

/// A port access as KVM describes it: `data` holds `data.len() / width` accesses of `width` bytes.
pub(super) struct PortAccess<'a> {
    pub(super) port: u16,
    pub(super) width: usize,
    pub(super) input: bool,
    pub(super) data: &'a mut [u8],
}

/// A memory access as KVM describes it.
pub(super) struct MemoryAccess<'a> {
    pub(super) address: u64,
    pub(super) write: bool,
    pub(super) data: &'a mut [u8],
}

impl RunPage {
    /// Maps `size` bytes (as `KVM_GET_VCPU_MMAP_SIZE` says) of the vCPU behind `fd`.
    pub(super) fn map(fd: RawFd, size: usize) -> Result<RunPage, Error> {
        let failed = |source| Error::Host { call: "mmap of a vCPU", source };
        if size < size_of::<kvm_run>() {
            return Err(failed(std::io::Error::other("KVM offers less than its own structure")));
        }
        // SAFETY: a new shared mapping at an address of the kernel's choice; the result is checked.
        let address = unsafe {
            libc::mmap(std::ptr::null_mut(), size, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, fd, 0)
        };
        if address == libc::MAP_FAILED {
            return Err(failed(std::io::Error::last_os_error()));
        }
        let run = NonNull::new(address.cast()).ok_or_else(|| failed(std::io::Error::other("mapped at zero")))?;
        Ok(RunPage { run, size })
    }

    fn immediate_exit(&self) -> &AtomicU8 {
        // SAFETY: the byte lies within the live mapping, and this process accesses it only through this atomic.
        unsafe { AtomicU8::from_ptr(addr_of_mut!((*self.run.as_ptr()).immediate_exit)) }
    }

    /// Makes `KVM_RUN` return at once, or stops doing so.
    pub(super) fn set_immediate_exit(&self, exit: bool) {
        self.immediate_exit().store(u8::from(exit), Ordering::SeqCst);
    }

    /// Why `KVM_RUN` returned.
    ///
    /// # Safety
    /// This and the following methods: only on the thread that runs the vCPU, outside `KVM_RUN`.
    pub(super) unsafe fn exit_reason(&self) -> u32 {
        // SAFETY: the field lies within the live mapping, and KVM writes it during KVM_RUN only.
        unsafe { addr_of!((*self.run.as_ptr()).exit_reason).read() }
    }

    /// The guest could take an interrupt at the next entry.
    ///
    /// # Safety
    /// See [`exit_reason`](RunPage::exit_reason).
    pub(super) unsafe fn ready_for_interrupt(&self) -> bool {
        // SAFETY: as in `exit_reason`.
        unsafe { addr_of!((*self.run.as_ptr()).ready_for_interrupt_injection).read() != 0 }
    }

    /// The guest's RFLAGS.IF at the last exit.
    ///
    /// # Safety
    /// See [`exit_reason`](RunPage::exit_reason).
    pub(super) unsafe fn interrupt_flag(&self) -> bool {
        // SAFETY: as in `exit_reason`.
        unsafe { addr_of!((*self.run.as_ptr()).if_flag).read() != 0 }
    }

    /// Makes the inputs of the next entry those of a newly loaded state.
    ///
    /// # Safety
    /// See [`exit_reason`](RunPage::exit_reason).
    pub(super) unsafe fn state_loaded(&self, cr8: u64, interrupt_flag: bool, ready_for_interrupt: bool) {
        // SAFETY: as in `exit_reason`.
        unsafe {
            addr_of_mut!((*self.run.as_ptr()).cr8).write(cr8);
            addr_of_mut!((*self.run.as_ptr()).if_flag).write(u8::from(interrupt_flag));
            let ready = u8::from(ready_for_interrupt);
            addr_of_mut!((*self.run.as_ptr()).ready_for_interrupt_injection).write(ready);
        }
    }

    /// Asks KVM to return as soon as the guest can take an interrupt.
    ///
    /// # Safety
    /// See [`exit_reason`](RunPage::exit_reason).
    pub(super) unsafe fn request_interrupt_window(&self, wanted: bool) {
        // SAFETY: as in `exit_reason`.
        unsafe { addr_of_mut!((*self.run.as_ptr()).request_interrupt_window).write(u8::from(wanted)) }
    }

    /// The port access of `KVM_EXIT_IO`; `None` where KVM describes one outside the mapping.
    ///
    /// # Safety
    /// See [`exit_reason`](RunPage::exit_reason); that reason must be `KVM_EXIT_IO`, and the result must be gone
    /// before the next `KVM_RUN` and the next call.
    pub(super) unsafe fn port_access(&self) -> Option<PortAccess<'_>> {
        // SAFETY: the exit reason selects this member of the union.
        let io = unsafe { addr_of!((*self.run.as_ptr()).__bindgen_anon_1.io).read() };
        let (offset, width) = (usize::try_from(io.data_offset).ok()?, usize::from(io.size));
        let length = width.checked_mul(usize::try_from(io.count).ok()?)?;
        let fits = offset >= size_of::<kvm_run>() && offset.checked_add(length).is_some_and(|end| end <= self.size);
        if width == 0 || !fits {
            return None;
        }
        // SAFETY: the range was just checked to lie in the mapping behind `kvm_run`; the caller holds one at a time.
        let data = unsafe { std::slice::from_raw_parts_mut(self.run.as_ptr().cast::<u8>().add(offset), length) };
        Some(PortAccess { port: io.port, width, input: u32::from(io.direction) == kvm_bindings::KVM_EXIT_IO_IN, data })
    }

    /// The memory access of `KVM_EXIT_MMIO`.
    ///
    /// # Safety
    /// As for [`port_access`](RunPage::port_access), with `KVM_EXIT_MMIO`.
    pub(super) unsafe fn memory_access(&self) -> MemoryAccess<'_> {
        // SAFETY: the exit reason selects this member of the union; no other reference to it exists.
        let mmio = unsafe { &mut *addr_of_mut!((*self.run.as_ptr()).__bindgen_anon_1.mmio) };
        let length = usize::try_from(mmio.len).unwrap_or(usize::MAX).min(mmio.data.len());
        MemoryAccess { address: mmio.phys_addr, write: mmio.is_write != 0, data: &mut mmio.data[..length] }
    }

    /// The debug event of `KVM_EXIT_DEBUG`: exception vector, program counter and DR6.
    ///
    /// # Safety
    /// See [`exit_reason`](RunPage::exit_reason); that reason must be `KVM_EXIT_DEBUG`.
    pub(super) unsafe fn debug(&self) -> kvm_bindings::kvm_debug_exit_arch {
        // SAFETY: the exit reason selects this member of the union.
        unsafe { addr_of!((*self.run.as_ptr()).__bindgen_anon_1.debug).read().arch }
    }

    /// The hardware's reason of `KVM_EXIT_FAIL_ENTRY`.
    ///
    /// # Safety
    /// See [`exit_reason`](RunPage::exit_reason); that reason must be `KVM_EXIT_FAIL_ENTRY`.
    pub(super) unsafe fn entry_failure(&self) -> u64 {
        // SAFETY: the exit reason selects this member of the union.
        unsafe { addr_of!((*self.run.as_ptr()).__bindgen_anon_1.fail_entry).read().hardware_entry_failure_reason }
    }

    /// What `KVM_EXIT_INTERNAL_ERROR` says.
    ///
    /// # Safety
    /// See [`exit_reason`](RunPage::exit_reason); that reason must be `KVM_EXIT_INTERNAL_ERROR`.
    pub(super) unsafe fn internal_error(&self) -> InternalErrorData {
        // SAFETY: the exit reason selects this member of the union; all its bytes are plain data.
        let failure = unsafe { addr_of!((*self.run.as_ptr()).__bindgen_anon_1.emulation_failure).read() };
        let has_bytes = failure.suberror == kvm_bindings::KVM_INTERNAL_ERROR_EMULATION
            && failure.ndata >= 3
            && failure.flags & u64::from(kvm_bindings::KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES) != 0;
        let mut instruction = Vec::new();
        if has_bytes {
            // SAFETY: the only member of this union.
            let bytes = unsafe { failure.__bindgen_anon_1.__bindgen_anon_1 };
            let length = usize::from(bytes.insn_size).min(bytes.insn_bytes.len());
            instruction.extend_from_slice(&bytes.insn_bytes[..length]);
        }
        InternalErrorData { suberror: failure.suberror, instruction }
    }
}

impl Drop for RunPage {
    fn drop(&mut self) {
        // SAFETY: this mapping was made by `map`, and no reference into it outlives `self`.
        unsafe { libc::munmap(self.run.as_ptr().cast(), self.size) };
    }
}
