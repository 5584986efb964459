//! Whether KVM holds a vCPU blocked in HLT, read from its binary statistics: the only way to ask a running vCPU.

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;

use kvm_ioctls::VcpuFd;

vmm_sys_util::ioctl_io_nr!(KVM_GET_STATS_FD, kvm_bindings::KVMIO, 0xce);

/// The statistic `blocking` of one vCPU (Linux 5.17 and later).
pub(super) struct BlockingStatistic {
    file: File,
    offset: u64,
}

/// Lengths of `struct kvm_stats_header` and of `struct kvm_stats_desc` without its name.
const HEADER: usize = 24;
const DESCRIPTOR: usize = 16;
/// More than any kernel has; a bound for what is believed of the file.
const MOST_DESCRIPTORS: u32 = 4096;
const LONGEST_NAME: u32 = 256;

impl BlockingStatistic {
    /// Finds the statistic; `None` where the kernel has none.
    pub(super) fn find(vcpu: &VcpuFd) -> Option<BlockingStatistic> {
        // SAFETY: the call takes no argument and returns a new descriptor or -1.
        let fd = unsafe { vmm_sys_util::ioctl::ioctl(vcpu, KVM_GET_STATS_FD()) };
        if fd < 0 {
            return None;
        }
        // SAFETY: `fd` was just created and is owned by nobody else.
        let file = unsafe { File::from_raw_fd(fd) };
        debug_assert!(file.as_raw_fd() != vcpu.as_raw_fd());
        let word = |bytes: &[u8], at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let mut header = [0; HEADER];
        file.read_exact_at(&mut header, 0).ok()?;
        let (name_size, count) = (word(&header, 4)?, word(&header, 8)?);
        let (descriptors, data) = (u64::from(word(&header, 16)?), u64::from(word(&header, 20)?));
        if name_size > LONGEST_NAME || count > MOST_DESCRIPTORS {
            return None;
        }
        let length = DESCRIPTOR + name_size as usize;
        let mut table = vec![0; length * count as usize];
        file.read_exact_at(&mut table, descriptors).ok()?;
        let found =
            table.chunks_exact(length).find(|descriptor| descriptor[DESCRIPTOR..].starts_with(b"blocking\0"))?;
        let offset = data.checked_add(u64::from(word(found, 8)?))?;
        Some(BlockingStatistic { file, offset })
    }

    pub(super) fn is_blocking(&self) -> bool {
        let mut value = [0; 8];
        self.file.read_exact_at(&mut value, self.offset).is_ok() && value != [0; 8]
    }
}
