//! The bus master of an IDE channel: its registers, and the memory that a transfer goes to.

use accel::memory::GuestMemory;
use serde::{Deserialize, Serialize};
use vm_memory::{Bytes, GuestAddress};

const COMMAND: u64 = 0;
const STATUS: u64 = 2;
const TABLE: u64 = 4;

const COMMAND_START: u8 = 1 << 0;
const COMMAND_WRITABLE: u8 = 0x09;

const STATUS_ACTIVE: u8 = 1 << 0;
const STATUS_ERROR: u8 = 1 << 1;
const STATUS_INTERRUPT: u8 = 1 << 2;
/// Set by software for drives that can do DMA.
const STATUS_CAPABLE: u8 = 0x60;

/// Entries of the longest table: it may not cross a boundary of 64 KiB.
const MOST_ENTRIES: u64 = 0x1_0000 / 8;
const LAST_ENTRY: u32 = 1 << 31;

/// The registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct BusMaster {
    command: u8,
    status: u8,
    /// Guest-physical address of the table of regions.
    table: u32,
}

impl BusMaster {
    pub(super) fn read(&self, offset: u64) -> u8 {
        match offset {
            COMMAND => self.command,
            STATUS => self.status,
            TABLE..=7 => (self.table >> (8 * (offset - TABLE))) as u8,
            _ => 0,
        }
    }

    /// True if the transfer is to start.
    pub(super) fn write(&mut self, offset: u64, value: u8) -> bool {
        match offset {
            COMMAND => {
                let starts = value & COMMAND_START != 0 && self.command & COMMAND_START == 0;
                self.command = value & COMMAND_WRITABLE;
                if value & COMMAND_START == 0 {
                    self.status &= !STATUS_ACTIVE;
                } else if starts {
                    self.status |= STATUS_ACTIVE;
                }
                starts
            }
            STATUS => {
                let cleared = value & (STATUS_ERROR | STATUS_INTERRUPT);
                self.status = self.status & !cleared & !STATUS_CAPABLE | value & STATUS_CAPABLE;
                false
            }
            TABLE..=7 => {
                let shift = 8 * (offset - TABLE);
                self.table = (self.table & !(0xff << shift) | u32::from(value) << shift) & !3;
                false
            }
            _ => false,
        }
    }

    pub(super) fn is_started(&self) -> bool {
        self.status & STATUS_ACTIVE != 0
    }

    /// The drive raised its interrupt.
    pub(super) fn interrupt(&mut self) {
        self.status |= STATUS_INTERRUPT;
    }

    /// The transfer ended; it is still active where the regions are longer.
    pub(super) fn stop(&mut self, more_memory: bool) {
        if !more_memory {
            self.status &= !STATUS_ACTIVE;
        }
    }

    /// Memory or the drive failed.
    pub(super) fn fail(&mut self) {
        self.status = self.status & !STATUS_ACTIVE | STATUS_ERROR;
    }

    /// Reads the table of regions.
    pub(super) fn regions(&self, memory: &GuestMemory) -> Regions {
        let mut regions = Regions::default();
        for index in 0..MOST_ENTRIES {
            let at = GuestAddress(u64::from(self.table) + 8 * index);
            let Ok([address, control]) = memory.read_obj::<[u32; 2]>(at) else { break };
            let length = match control & 0xfffe {
                0 => 0x1_0000,
                length => u64::from(length),
            };
            regions.list.push((u64::from(address & !1), length));
            if control & LAST_ENTRY != 0 {
                break;
            }
        }
        regions
    }
}

/// Where the bytes of a transfer are: address and length of each part.
#[derive(Debug, Default)]
pub(super) struct Regions {
    list: Vec<(u64, u64)>,
}

impl Regions {
    /// Calls `access` with the address and the range in a buffer of each part of `length` bytes from byte `start` of the
    /// transfer on; false if there is no such memory, or `access` fails.
    fn visit(
        &self,
        start: u64,
        length: usize,
        mut access: impl FnMut(GuestAddress, std::ops::Range<usize>) -> bool,
    ) -> bool {
        let (mut skip, mut done) = (start, 0);
        for (address, size) in &self.list {
            if done == length {
                break;
            }
            if skip >= *size {
                skip -= size;
                continue;
            }
            let count = (size - skip).min((length - done) as u64) as usize;
            if !access(GuestAddress(address.saturating_add(skip)), done..done + count) {
                return false;
            }
            (skip, done) = (0, done + count);
        }
        done == length
    }

    /// Writes `data` as bytes from `start` on of the transfer.
    pub(super) fn write(&self, memory: &GuestMemory, start: u64, data: &[u8]) -> bool {
        self.visit(start, data.len(), |address, range| memory.write_slice(&data[range], address).is_ok())
    }

    /// Reads bytes of the transfer from `start` on.
    pub(super) fn read(&self, memory: &GuestMemory, start: u64, buffer: &mut [u8]) -> bool {
        self.visit(start, buffer.len(), |address, range| memory.read_slice(&mut buffer[range], address).is_ok())
    }

    /// True if a transfer of `length` bytes leaves nothing over.
    pub(super) fn is_used_up(&self, length: u64) -> bool {
        self.list.iter().map(|(_, size)| size).sum::<u64>() <= length
    }
}
