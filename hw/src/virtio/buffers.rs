//! The buffers of a chain of descriptors.

use std::any::Any;
use std::ptr::NonNull;
use std::sync::Arc;

use accel::memory::GuestMemory;
use block::IoVector;
use serde::{Deserialize, Serialize};
use vm_memory::bitmap::Bitmap;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use super::queues::Chain;

/// A chain that was taken out of its queue, to be given back when the device is done with it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Buffers {
    /// The chain's first descriptor, by which the driver knows it.
    pub(super) head: u16,
    /// What the device reads.
    pub readable: Memory,
    /// What the device writes.
    pub writable: Memory,
}

/// Pieces of the guest's memory that follow one another in a chain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    pieces: Vec<(u64, u64)>,
}

impl Buffers {
    /// What a chain leads to. Nothing is known of where it is.
    pub(super) fn of(chain: &Chain<'_>) -> Buffers {
        let mut buffers =
            Buffers { head: chain.head_index(), readable: Memory::default(), writable: Memory::default() };
        for descriptor in chain.clone() {
            let memory = if descriptor.is_write_only() { &mut buffers.writable } else { &mut buffers.readable };
            memory.pieces.push((descriptor.addr().0, descriptor.len().into()));
        }
        buffers
    }
}

impl Memory {
    /// Length in bytes.
    pub fn length(&self) -> u64 {
        self.pieces.iter().map(|(_, length)| length).sum()
    }

    /// The first `length` bytes, and the rest; `None` if there are not as many.
    pub fn split(&self, length: u64) -> Option<(Memory, Memory)> {
        let (mut first, mut rest) = (Memory::default(), Memory::default());
        let mut left = length;
        for (address, length) in &self.pieces {
            let here = left.min(*length);
            if here > 0 {
                first.pieces.push((*address, here));
            }
            if here < *length {
                rest.pieces.push((address.checked_add(here)?, length - here));
            }
            left -= here;
        }
        (left == 0).then_some((first, rest))
    }

    /// A copy of the bytes; `None` if some are not in RAM.
    pub fn bytes(&self, memory: &GuestMemory) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        for (address, length) in &self.pieces {
            let start = bytes.len();
            bytes.resize(start + usize::try_from(*length).ok()?, 0);
            memory.read_slice(&mut bytes[start..], GuestAddress(*address)).ok()?;
        }
        Some(bytes)
    }

    /// Writes bytes, as many as there are here; `None` if some are not in RAM.
    pub fn put(&self, memory: &GuestMemory, bytes: &[u8]) -> Option<()> {
        let mut rest = bytes;
        for (address, length) in &self.pieces {
            let (here, behind) = rest.split_at_checked(usize::try_from(*length).ok()?)?;
            memory.write_slice(here, GuestAddress(*address)).ok()?;
            rest = behind;
        }
        rest.is_empty().then_some(())
    }

    /// The memory, for requests of disks; `None` if some of it is not in RAM.
    pub fn vector(&self, memory: &Arc<GuestMemory>) -> Option<IoVector> {
        let mut vector = IoVector::empty();
        for (address, length) in &self.pieces {
            for slice in memory.get_slices(GuestAddress(*address), usize::try_from(*length).ok()?) {
                let slice = slice.ok()?;
                let start = NonNull::new(slice.ptr_guard_mut().as_ptr())?;
                let owner: Arc<dyn Any + Send + Sync> = memory.clone();
                // SAFETY: the slice is of a mapping that `owner` keeps, and nothing relies on the guest's memory not to change.
                vector.append(unsafe { IoVector::from_raw(start, slice.len(), owner) });
            }
        }
        Some(vector)
    }

    /// Says that a device wrote here, after it did so by way of [`Memory::vector`].
    pub fn mark_written(&self, memory: &GuestMemory) {
        for (address, length) in &self.pieces {
            for slice in memory.get_slices(GuestAddress(*address), *length as usize).flatten() {
                slice.bitmap().mark_dirty(0, slice.len());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_split_anywhere() {
        let memory = Memory { pieces: vec![(0x1000, 10), (0x3000, 0), (0x2000, 6)] };
        assert_eq!(memory.length(), 16);
        let (first, rest) = memory.split(12).unwrap();
        assert_eq!((first.pieces, rest.pieces), (vec![(0x1000, 10), (0x2000, 2)], vec![(0x2002, 4)]));
        let (first, rest) = memory.split(10).unwrap();
        assert_eq!((first.length(), rest.length()), (10, 6));
        assert_eq!(memory.split(17), None);
        assert_eq!(memory.split(0).unwrap().1.length(), 16);
    }
}
