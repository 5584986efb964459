//! Guest-physical memory and ports, as seen from outside the processors.

use accel::{AddressSpace, IoBus};
use vm_memory::{Bytes, GuestAddress, GuestMemoryRegion};

use super::{Vm, for_pages};
use crate::bus::Width;
use crate::machine::Board;

impl Vm {
    /// The bus as the first processor sees it.
    fn first_bus(&self) -> &dyn IoBus {
        match self.core.board.processor_buses.first() {
            Some(bus) => &**bus,
            None => &*self.core.bus,
        }
    }

    /// Reads guest-physical memory (`pmemsave`, `xp`): RAM and ROM, the memory of devices without an effect on them, and
    /// else their registers. What nobody answers reads as 0.
    pub fn read_physical(&self, address: u64, buffer: &mut [u8]) {
        buffer.fill(0);
        for_pages(address, buffer.len(), |address, range| {
            let part = &mut buffer[range];
            // A page is in memory or not.
            if self.read_memory(address, part) || self.core.bus.peek(address, part) {
                return;
            }
            part.fill(0);
            self.read_registers(address, part);
        });
    }

    /// Reads RAM or ROM, where reads go there; false elsewhere.
    fn read_memory(&self, address: u64, buffer: &mut [u8]) -> bool {
        let Board { shadow, physical, .. } = &self.core.board;
        let elsewhere = shadow.as_ref().is_some_and(|shadow| shadow.contains(address));
        !elsewhere && physical.read_slice(buffer, GuestAddress(address)).is_ok()
    }

    /// Reads registers of devices in one page.
    fn read_registers(&self, address: u64, part: &mut [u8]) {
        let last = address.saturating_add(part.len() as u64 - 1);
        let bus = self.first_bus();
        // Large holes are skipped; what a processor has for itself fills a page from its beginning on.
        if !self.core.bus.answers_in(address, last)
            && bus.read(AddressSpace::Memory, address & !0xfff, &mut [0; 4]).is_err()
        {
            return;
        }
        let mut done = 0;
        while done < part.len() {
            let here = address + done as u64;
            let width = access_width(here, part.len() - done);
            let data = &mut part[done..done + width];
            if bus.read(AddressSpace::Memory, here, data).is_err() {
                data.fill(0);
            }
            done += width;
        }
    }

    /// Writes guest-physical memory. What is neither RAM nor ROM is left out.
    pub fn write_physical(&self, address: u64, data: &[u8]) {
        for_pages(address, data.len(), |address, range| {
            // A page is in memory or not.
            let _ = self.core.board.physical.write_slice(&data[range], GuestAddress(address));
        });
    }

    /// True if a processor may write memory at `address`.
    fn is_writable_memory(&self, address: u64) -> bool {
        self.core.board.slots.iter().any(|slot| {
            use vm_memory::Address;
            let start = slot.region.start_addr().raw_value();
            !slot.read_only && (start..start.saturating_add(slot.region.len())).contains(&address)
        })
    }

    /// Writes as a processor does: RAM, and registers of devices; ROM and what nobody answers stay as they are.
    pub(crate) fn write_as_processor(&self, address: u64, data: &[u8]) {
        for_pages(address, data.len(), |address, range| {
            let part = &data[range];
            if self.is_writable_memory(address) {
                // Just seen to be there.
                let _ = self.core.board.physical.write_slice(part, GuestAddress(address));
                return;
            }
            let mut done = 0;
            while done < part.len() {
                let here = address + done as u64;
                let width = access_width(here, part.len() - done);
                // Where nothing answers, writes are lost.
                let _ = self.first_bus().write(AddressSpace::Memory, here, &part[done..done + width]);
                done += width;
            }
        });
        self.settle();
    }

    /// Reads as a processor does, in one access where no memory answers.
    pub(crate) fn read_value(&self, address: u64, width: Width) -> u64 {
        let mut bytes = [0; 8];
        let data = &mut bytes[..width.bytes() as usize];
        if !self.read_memory(address, data) && self.first_bus().read(AddressSpace::Memory, address, data).is_err() {
            data.fill(0);
        }
        u64::from_le_bytes(bytes)
    }

    /// Writes as a processor does, in one access where no memory answers.
    pub(crate) fn write_value(&self, address: u64, width: Width, value: u64) {
        let bytes = value.to_le_bytes();
        let data = &bytes[..width.bytes() as usize];
        let last = address.saturating_add(width.bytes() - 1);
        if self.is_writable_memory(address) && self.is_writable_memory(last) {
            // Just seen to be there.
            let _ = self.core.board.physical.write_slice(data, GuestAddress(address));
        } else {
            // Where nothing answers, writes are lost.
            let _ = self.first_bus().write(AddressSpace::Memory, address, data);
        }
        self.settle();
    }

    /// Reads a port as a processor does; ones where nothing answers.
    pub(crate) fn read_port(&self, port: u16, width: Width) -> u64 {
        let mut bytes = [0; 8];
        let data = &mut bytes[..width.bytes() as usize];
        if self.first_bus().read(AddressSpace::Port, u64::from(port), data).is_err() {
            data.fill(0xff);
        }
        u64::from_le_bytes(bytes)
    }

    /// Writes a port as a processor does.
    pub(crate) fn write_port(&self, port: u16, width: Width, value: u64) {
        let bytes = value.to_le_bytes();
        // Where nothing answers, writes are lost.
        let _ = self.first_bus().write(AddressSpace::Port, u64::from(port), &bytes[..width.bytes() as usize]);
        self.settle();
    }
}

/// The widest access of at most 4 bytes that is aligned at `address` and not longer than `left`.
fn access_width(address: u64, left: usize) -> usize {
    [4, 2, 1].into_iter().find(|width| address.is_multiple_of(*width as u64) && *width <= left).unwrap_or(1)
}
