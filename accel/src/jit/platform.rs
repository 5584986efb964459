//! The world as one run of a vCPU sees it: the memory map of that moment, and the machine's bus.

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use translate::platform::{BusError, HostPage, HostRange, LocalApicRegister, MemoryView, Platform};

use super::{Mapped, MemoryMap, Shared};
use crate::clock::Timer;
use crate::memory::PAGE_SIZE;
use crate::{AddressSpace, IoBus, bus_access};

/// What a vCPU runs against. Holding it keeps its memory mapped.
pub(super) struct RunPlatform<'a> {
    pub(super) map: Arc<MemoryMap>,
    pub(super) shared: &'a Shared,
    pub(super) io: &'a dyn IoBus,
    pub(super) timer: &'a Timer,
}

impl RunPlatform<'_> {
    fn write_to(&self, space: AddressSpace, address: u64, width: u64, value: u64) -> Result<(), BusError> {
        for (event, fd) in self.shared.io_events.load().iter() {
            let matches = event.space == space
                && event.address == address
                && (event.width == 0
                    || u64::from(event.width) == width && event.value.is_none_or(|only| only == value));
            if matches {
                // A full counter has been signalled already.
                let _ = fd.write(1);
                return Ok(());
            }
        }
        bus_access::write(self.io, space, address, width, value)
    }
}

impl Platform for RunPlatform<'_> {
    fn page(&self, view: MemoryView, address: u64) -> Option<HostPage> {
        self.range(view, address)?.page(address)
    }

    fn range(&self, view: MemoryView, address: u64) -> Option<HostRange> {
        let mapped = self.map.find(view, address)?;
        // What only one view has lies before what all have, so a range of the latter ends there.
        let holds = |slot: &&Mapped| address.wrapping_sub(slot.start) < slot.length;
        let hidden = self.map.management.as_ref().filter(|hidden| view == MemoryView::Management && !holds(hidden));
        let end = mapped.start + mapped.length;
        let (start, end) = match hidden {
            Some(hidden) if address < hidden.start => (mapped.start, end.min(hidden.start)),
            Some(hidden) => (mapped.start.max(hidden.start + hidden.length), end),
            None => (mapped.start, end),
        };
        let offset = (start - mapped.start) as usize;
        // SAFETY: the offset lies within the mapping, which is `length` bytes long.
        let host = unsafe { mapped.slot.region.get_mmap().as_ptr().add(offset) };
        Some(HostRange { start, length: end - start, host: NonNull::new(host)?, writable: !mapped.slot.read_only })
    }

    fn mark_dirty(&self, view: MemoryView, address: u64) {
        if let Some(mapped) = self.map.find(view, address)
            && mapped.log.enabled.load(Ordering::SeqCst)
        {
            let page = (address - mapped.start) / PAGE_SIZE;
            mapped.log.pages[(page / 64) as usize].fetch_or(1 << (page % 64), Ordering::SeqCst);
        }
    }

    fn read(&self, address: u64, width: u64) -> Result<u64, BusError> {
        bus_access::read(self.io, address, width)
    }

    fn write(&self, address: u64, width: u64, value: u64) -> Result<(), BusError> {
        self.write_to(AddressSpace::Memory, address, width, value)
    }

    fn read_port(&self, port: u16, width: u64) -> u64 {
        bus_access::read_port(self.io, port, width)
    }

    fn write_port(&self, port: u16, width: u64, value: u64) {
        // Where nothing answers, writes are lost.
        let _ = self.write_to(AddressSpace::Port, u64::from(port), width, value);
    }

    fn acknowledge_interrupt(&self) -> Option<u8> {
        self.io.acknowledge_interrupt()
    }

    fn read_local_apic(&self, register: LocalApicRegister) -> Option<u64> {
        self.io.read_local_apic(register)
    }

    fn write_local_apic(&self, register: LocalApicRegister, value: u64) -> Option<()> {
        self.io.write_local_apic(register, value)
    }

    fn now(&self) -> u64 {
        self.shared.clock.now()
    }

    fn set_deadline(&self, _index: u64, deadline: Option<u64>) {
        match deadline {
            Some(deadline) => self.timer.arm(deadline),
            None => self.timer.disarm(),
        }
    }
}
