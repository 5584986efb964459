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

/// RAM or ROM that is contiguous for the guest and in host memory.
#[derive(Clone, Copy, Debug)]
pub struct HostRange {
    /// Guest-physical address of its beginning, a multiple of [`PAGE_SIZE`].
    pub start: u64,
    /// Length in bytes, a multiple of [`PAGE_SIZE`].
    pub length: u64,
    /// First byte; all are valid for as long as the processor is inside one run.
    pub host: NonNull<u8>,
    /// As [`HostPage::writable`].
    pub writable: bool,
}

impl HostRange {
    /// The page that holds a guest-physical address, if it is in the range.
    pub fn page(&self, physical: u64) -> Option<HostPage> {
        let offset = physical.wrapping_sub(self.start);
        if offset >= self.length {
            return None;
        }
        // SAFETY: the page begins within the range, whose bytes are one allocation.
        let host = unsafe { self.host.add((offset & !(PAGE_SIZE - 1)) as usize) };
        Some(HostPage { host, writable: self.writable })
    }
}

/// Which memory a processor sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MemoryView {
    /// What all processors see.
    #[default]
    Ordinary,
    /// x86: what a processor in system-management mode sees; there may be memory that others do not see.
    Management,
}

/// An access that nothing answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BusError;

/// A register of an x86-64 processor's local APIC that instructions other than memory accesses reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LocalApicRegister {
    /// `IA32_APIC_BASE` (SDM volume 3, 11.4.4).
    Base,
    /// CR8: bits 7..4 of the task-priority register, as a number from 0 to 15.
    TaskPriority,
    /// The x2APIC register whose MSR has this number less 0x800, 0 to 0xff (SDM volume 3, table 11-6).
    X2apic(u32),
    /// `IA32_TSC_DEADLINE`, as nanoseconds of virtual time and not as a time stamp: the processor, which knows its time stamp
    /// counter, converts. 0: disarmed.
    Deadline,
}

/// The world outside a processor: memory, devices and time. Shared by all processors of a machine.
pub trait Platform: Sync {
    /// The page of RAM or ROM that holds guest-physical `address` in a view; `None` where [`read`](Platform::read) and
    /// [`write`](Platform::write) must be asked.
    fn page(&self, view: MemoryView, address: u64) -> Option<HostPage>;

    /// As [`Platform::page`], with as much as is contiguous around it.
    fn range(&self, view: MemoryView, address: u64) -> Option<HostRange> {
        let start = address & !(PAGE_SIZE - 1);
        let HostPage { host, writable } = self.page(view, address)?;
        Some(HostRange { start, length: PAGE_SIZE, host, writable })
    }

    /// A processor is about to write to the RAM page that holds guest-physical `address` in a view, maybe many times until
    /// the next TLB flush.
    fn mark_dirty(&self, view: MemoryView, address: u64);

    /// Reads 1, 2, 4 or 8 bytes, little-endian, where no RAM answers.
    fn read(&self, address: u64, width: u64) -> Result<u64, BusError>;

    /// Writes 1, 2, 4 or 8 bytes, little-endian, where no RAM answers.
    fn write(&self, address: u64, width: u64, value: u64) -> Result<(), BusError>;

    /// Reads 1, 2 or 4 bytes at an x86 I/O port; all ones where nothing answers.
    fn read_port(&self, port: u16, width: u64) -> u64 {
        let _ = port;
        u64::MAX >> (64 - 8 * width)
    }

    /// Writes 1, 2 or 4 bytes to an x86 I/O port.
    fn write_port(&self, port: u16, width: u64, value: u64) {
        let _ = (port, width, value);
    }

    /// x86: the vector of the interrupt that the processor's input asks for, which it accepts; `None`: there is none any more.
    fn acknowledge_interrupt(&self) -> Option<u8> {
        None
    }

    /// x86: reads a register of the processor's local APIC; `None`: #GP.
    fn read_local_apic(&self, register: LocalApicRegister) -> Option<u64> {
        let _ = register;
        None
    }

    /// x86: writes a register of the processor's local APIC; `None`: #GP.
    fn write_local_apic(&self, register: LocalApicRegister, value: u64) -> Option<()> {
        let _ = (register, value);
        None
    }

    /// The guest's wall clock: nanoseconds of virtual time.
    fn now(&self) -> u64;

    /// Asks that processor `index` be woken when virtual time reaches `deadline` nanoseconds; `None` takes the request
    /// back. One request a processor.
    fn set_deadline(&self, index: u64, deadline: Option<u64>);
}
