//! The devices of the suite's machines: a log of every access, and a few registers by which guest programs talk.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use accel::{AddressSpace, IoBus, Unmapped, VcpuHandle};
use parking_lot::Mutex;

/// One access that a guest made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Access {
    pub(crate) space: AddressSpace,
    pub(crate) address: u64,
    /// What was written; `None` for a read.
    pub(crate) written: Option<Vec<u8>>,
    pub(crate) width: usize,
}

/// Offset in the device page: a write of `n` kicks processor `n`, whose program is done.
pub(crate) const DONE: u64 = 0;
/// Offset: a write lowers the interrupt of processor 0.
pub(crate) const ACKNOWLEDGE: u64 = 8;
/// Offset: 16 bytes that read as 0x10, 0x11, 0x12 and so on.
pub(crate) const PATTERN: u64 = 0x10;
/// Offset: each read answers one more than the last; the first 1.
pub(crate) const COUNTER: u64 = 0x20;
/// Offset: nothing answers, from here to the end of the page. Writes elsewhere are accepted, as by read-only memory.
pub(crate) const NOTHING: u64 = 0x800;

/// Port that reads as 0x10, 0x11, ... as the pattern in memory does.
pub(crate) const PATTERN_PORT: u16 = 0x210;
/// Port that kicks processor 0.
pub(crate) const DONE_PORT: u16 = 0x200;

/// The vector with which the machine's controller answers.
pub(crate) const VECTOR: u8 = 0x40;

pub(crate) struct Bus {
    /// Address of the device page.
    page: u64,
    /// Input to lower on acknowledgement.
    input: u32,
    log: Mutex<Vec<Access>>,
    handles: Mutex<Vec<Arc<dyn VcpuHandle>>>,
    counter: AtomicU64,
}

impl Bus {
    pub(crate) fn new(page: u64, input: u32) -> Bus {
        Bus { page, input, log: Mutex::default(), handles: Mutex::default(), counter: AtomicU64::new(0) }
    }

    pub(crate) fn add(&self, handle: Arc<dyn VcpuHandle>) {
        self.handles.lock().push(handle);
    }

    /// All accesses but those that report the end of a program; they are forgotten.
    pub(crate) fn take_log(&self) -> Vec<Access> {
        std::mem::take(&mut self.log.lock())
    }

    fn lower(&self) {
        let handle = self.handles.lock().first().cloned();
        handle.expect("a machine with a processor").set_interrupt(self.input, false);
    }
}

impl IoBus for Bus {
    fn read(&self, space: AddressSpace, address: u64, data: &mut [u8]) -> Result<(), Unmapped> {
        self.log.lock().push(Access { space, address, written: None, width: data.len() });
        let offset = match space {
            AddressSpace::Memory => address.wrapping_sub(self.page),
            AddressSpace::Port if address >= u64::from(PATTERN_PORT) => address - u64::from(PATTERN_PORT) + PATTERN,
            AddressSpace::Port => NOTHING,
        };
        match offset {
            PATTERN..COUNTER => {
                for (byte, value) in data.iter_mut().zip(offset as u8..) {
                    *byte = value;
                }
            }
            COUNTER => {
                let value = self.counter.fetch_add(1, Ordering::Relaxed) + 1;
                data.copy_from_slice(&value.to_le_bytes()[..data.len()]);
            }
            _ => return Err(Unmapped),
        }
        Ok(())
    }

    fn write(&self, space: AddressSpace, address: u64, data: &[u8]) -> Result<(), Unmapped> {
        let done = match space {
            AddressSpace::Memory => address == self.page + DONE,
            AddressSpace::Port => address == u64::from(DONE_PORT),
        };
        if done {
            let number = if space == AddressSpace::Port { 0 } else { usize::from(data[0]) };
            let handle = self.handles.lock().get(number).cloned();
            handle.expect("the number of a processor").kick();
            return Ok(());
        }
        self.log.lock().push(Access { space, address, written: Some(data.to_vec()), width: data.len() });
        if space == AddressSpace::Memory && address == self.page + ACKNOWLEDGE {
            self.lower();
        }
        let is_nothing = space == AddressSpace::Memory && (NOTHING..0x1000).contains(&address.wrapping_sub(self.page));
        if is_nothing { Err(Unmapped) } else { Ok(()) }
    }

    fn acknowledge_interrupt(&self) -> Option<u8> {
        self.lower();
        Some(VECTOR)
    }
}
