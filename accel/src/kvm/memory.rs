//! Memory slots: which guest-physical ranges KVM maps to which host memory, and their dirty logs.

use std::collections::BTreeMap;

use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, kvm_userspace_memory_region};
use kvm_ioctls::VmFd;
use vm_memory::{Bytes, GuestMemoryRegion, MemoryRegionAddress};

use super::vm::host_error;
use crate::Error;
use crate::memory::MemorySlot;

/// The slots of one virtual machine, by guest-physical address.
pub(super) struct Slots {
    slots: BTreeMap<u64, Slot>,
    /// Numbers below `next` that no slot has.
    free: Vec<u32>,
    next: u32,
    most: u32,
}

struct Slot {
    number: u32,
    /// Keeps the host memory mapped for as long as KVM uses it.
    memory: MemorySlot,
    logging: bool,
}

impl Slot {
    fn describe(&self) -> kvm_userspace_memory_region {
        let mut flags = 0;
        if self.memory.read_only {
            flags |= KVM_MEM_READONLY;
        }
        if self.logging {
            flags |= KVM_MEM_LOG_DIRTY_PAGES;
        }
        kvm_userspace_memory_region {
            slot: self.number,
            flags,
            guest_phys_addr: self.memory.region.start_addr().0,
            memory_size: self.memory.region.len(),
            userspace_addr: self.memory.region.as_ptr() as u64,
        }
    }
}

/// Tells KVM about a slot, or with a length of zero that it is gone.
fn set_region(vm: &VmFd, region: kvm_userspace_memory_region) -> Result<(), Error> {
    // SAFETY: the host range is a whole mapping that its slot keeps alive: `Slots` drops no slot before KVM has
    // forgotten it, and lives as long as the virtual machine's last user.
    unsafe { vm.set_user_memory_region(region) }.map_err(host_error("KVM_SET_USER_MEMORY_REGION"))
}

impl Slots {
    /// No slots yet, and at most `most` of them later.
    pub(super) fn new(most: u32) -> Slots {
        Slots { slots: BTreeMap::new(), free: Vec::new(), next: 0, most }
    }

    pub(super) fn map(&mut self, vm: &VmFd, memory: MemorySlot) -> Result<(), Error> {
        let (address, length) = (memory.region.start_addr().0, memory.region.len());
        let problem = |problem| Error::Memory { address, length, problem };
        let end = address.checked_add(length).ok_or_else(|| problem("ends beyond the address space"))?;
        let below = self.slots.range(..end).next_back();
        if below.is_some_and(|(start, slot)| start + slot.memory.region.len() > address) {
            return Err(problem("overlaps another slot"));
        }
        let number = match self.free.pop() {
            Some(number) => number,
            None if self.next < self.most => {
                self.next += 1;
                self.next - 1
            }
            None => return Err(problem("is one slot more than KVM allows")),
        };
        let slot = Slot { number, memory, logging: false };
        match set_region(vm, slot.describe()) {
            Ok(()) => {
                self.slots.insert(address, slot);
                Ok(())
            }
            Err(error) => {
                self.free.push(number);
                Err(error)
            }
        }
    }

    pub(super) fn unmap(&mut self, vm: &VmFd, address: u64) -> Result<(), Error> {
        let slot = self.get(address)?;
        let number = slot.number;
        set_region(vm, kvm_userspace_memory_region { memory_size: 0, flags: 0, ..slot.describe() })?;
        self.slots.remove(&address);
        self.free.push(number);
        Ok(())
    }

    pub(super) fn set_logging(&mut self, vm: &VmFd, address: u64, enabled: bool) -> Result<(), Error> {
        let slot = self.get_mut(address)?;
        let before = std::mem::replace(&mut slot.logging, enabled);
        if before == enabled {
            return Ok(());
        }
        set_region(vm, slot.describe()).inspect_err(|_| slot.logging = before)
    }

    pub(super) fn dirty_log(&self, vm: &VmFd, address: u64) -> Result<Vec<u64>, Error> {
        let slot = self.get(address)?;
        let length = slot.memory.region.len();
        if !slot.logging {
            return Err(Error::Memory { address, length, problem: "has no dirty log switched on" });
        }
        let size = slot.memory.region.size();
        vm.get_dirty_log(slot.number, size).map_err(host_error("KVM_GET_DIRTY_LOG"))
    }

    /// All of it, kept mapped by the result.
    pub(super) fn all(&self) -> Vec<MemorySlot> {
        self.slots.values().map(|slot| slot.memory.clone()).collect()
    }

    /// Reads guest-physical memory; false where no slot holds all of it.
    pub(super) fn read(&self, address: u64, data: &mut [u8]) -> bool {
        let Some((start, slot)) = self.slots.range(..=address).next_back() else { return false };
        slot.memory.region.read_slice(data, MemoryRegionAddress(address - start)).is_ok()
    }

    fn get(&self, address: u64) -> Result<&Slot, Error> {
        self.slots.get(&address).ok_or(no_slot(address))
    }

    fn get_mut(&mut self, address: u64) -> Result<&mut Slot, Error> {
        self.slots.get_mut(&address).ok_or(no_slot(address))
    }
}

fn no_slot(address: u64) -> Error {
    Error::Memory { address, length: 0, problem: "is not the start of a mapped slot" }
}
