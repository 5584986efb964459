//! Memory from 0xc0000 to 1 MiB: RAM, or what PCI has there, as the host bridge's attribute registers say.
//!
//! Intel 82440FX data sheet (290549), "Programmable attribute map registers": each of 13 segments is read from and written to
//! RAM or not. Of PCI there is the end of the firmware, in the last 128 KiB.

use std::sync::Arc;

use accel::Accelerator;
use accel::memory::{MemorySlot, Region, allocate};
use parking_lot::Mutex;
use vm_memory::{Bytes, MemoryRegionAddress};

use super::{FIRMWARE_SHADOW, MIB, SHADOW};
use crate::bus::{Bus, Effect, MapError, MmioDevice, Width};
use crate::device::{Device, StateError};
use crate::load::Image;
use crate::machine::BuildError;

/// Number of segments.
pub(super) const SEGMENTS: usize = 13;

/// Length of the segments below the last one, bytes.
const SMALL: u64 = 0x4000;
/// Start of the last segment, which goes on to 1 MiB.
const LAST: u64 = 0xf_0000;

/// Attribute of a segment: reads go to RAM.
const READ: u8 = 1 << 0;
/// Attribute of a segment: writes go to RAM.
const WRITE: u8 = 1 << 1;

fn start(segment: usize) -> u64 {
    SHADOW + segment as u64 * SMALL
}

fn length(segment: usize) -> u64 {
    if start(segment) == LAST { MIB - LAST } else { SMALL }
}

/// RAM of all segments, lowest first.
pub(super) fn allocate_ram() -> Result<Vec<Arc<Region>>, accel::Error> {
    (0..SEGMENTS).map(|segment| allocate(start(segment), length(segment))).collect()
}

/// What answers from 0xc0000 to 1 MiB.
pub struct Shadow {
    ram: Vec<Arc<Region>>,
    /// What reads find where they do not go to RAM, if that is memory.
    rom: Vec<Option<Arc<Region>>>,
    // Lock order: alone.
    attributes: Mutex<Attributes>,
}

#[derive(Default)]
struct Attributes {
    wanted: [u8; SEGMENTS],
    /// Those that the accelerator maps; `None`: nothing yet.
    mapped: [Option<u8>; SEGMENTS],
}

impl Shadow {
    /// The segments with their RAM; `firmware` is what of it is seen before 1 MiB.
    pub(super) fn new(ram: Vec<Arc<Region>>, firmware: Option<&Image>) -> Result<Arc<Shadow>, BuildError> {
        let mut rom = vec![None; SEGMENTS];
        if let Some(firmware) = firmware {
            for (segment, place) in
                rom.iter_mut().enumerate().filter(|(segment, _)| start(*segment) >= firmware.address)
            {
                let mut content = vec![0; length(segment) as usize];
                firmware
                    .read_at(start(segment) - firmware.address, &mut content)
                    .map_err(|source| BuildError::Host { what: "read the firmware", source })?;
                let region = allocate(start(segment), length(segment))?;
                let written = region.write_slice(&content, MemoryRegionAddress(0));
                let failed = |error| BuildError::Host { what: "write memory", source: std::io::Error::other(error) };
                written.map_err(failed)?;
                *place = Some(region);
            }
        }
        Ok(Arc::new(Shadow { ram, rom, attributes: Mutex::default() }))
    }

    /// Answers on `bus` where an accelerator's memory does not.
    pub(super) fn map(self: &Arc<Shadow>, bus: &Bus) -> Result<(), MapError> {
        bus.map_memory(SHADOW, MIB - SHADOW, self.clone())
    }

    /// True for addresses that it answers.
    pub(crate) fn contains(&self, address: u64) -> bool {
        (SHADOW..MIB).contains(&address)
    }

    /// Takes over what the attribute registers say; it counts once [`Shadow::apply`] was called.
    pub(super) fn set(&self, registers: [u8; 7]) {
        let mut attributes = self.attributes.lock();
        for (segment, wanted) in attributes.wanted.iter_mut().enumerate() {
            // Two segments a register from the second on; the last segment is in the first one's high half.
            let (register, shift) = match segment {
                12 => (0, 4),
                _ => (1 + segment / 2, 4 * (segment % 2)),
            };
            *wanted = (registers[register] >> shift) & (READ | WRITE);
        }
    }

    fn slot(&self, segment: usize, attributes: u8) -> Option<MemorySlot> {
        if attributes & READ != 0 {
            return Some(MemorySlot { region: self.ram[segment].clone(), read_only: attributes & WRITE == 0 });
        }
        self.rom[segment].clone().map(|region| MemorySlot { region, read_only: true })
    }

    /// Makes `accelerator` map what the registers say. No vCPU runs.
    pub(crate) fn apply(&self, accelerator: &dyn Accelerator) -> Result<(), accel::Error> {
        let mut attributes = self.attributes.lock();
        for segment in 0..SEGMENTS {
            let (wanted, mapped) = (attributes.wanted[segment], attributes.mapped[segment]);
            if mapped == Some(wanted) {
                continue;
            }
            if mapped.is_some_and(|mapped| self.slot(segment, mapped).is_some()) {
                accelerator.unmap_memory(start(segment))?;
            }
            attributes.mapped[segment] = None;
            if let Some(slot) = self.slot(segment, wanted) {
                accelerator.map_memory(slot)?;
            }
            attributes.mapped[segment] = Some(wanted);
        }
        Ok(())
    }

    /// The segment of an offset from 0xc0000 on, and the offset in it.
    fn place(offset: u64) -> (usize, u64) {
        let segment = ((offset / SMALL) as usize).min(SEGMENTS - 1);
        (segment, offset - segment as u64 * SMALL)
    }

    fn byte(&self, offset: u64) -> u8 {
        let (segment, offset) = Shadow::place(offset);
        let readable = self.attributes.lock().wanted[segment] & READ != 0;
        let region = if readable { Some(&self.ram[segment]) } else { self.rom[segment].as_ref() };
        // What nobody answers reads as ones.
        region.and_then(|region| region.read_obj(MemoryRegionAddress(offset)).ok()).unwrap_or(0xff)
    }
}

/// The attributes are the host bridge's state, which sets them again.
impl Device for Shadow {
    fn debug_label(&self) -> &str {
        "shadow-ram"
    }
    fn reset(&self) {}
    fn save(&self) -> serde_json::Value {
        serde_json::Value::Null
    }
    fn restore(&self, _state: &serde_json::Value) -> Result<(), StateError> {
        Ok(())
    }
}

/// Accesses that no mapped memory answers: reads of nothing, and writes to RAM that is not read.
impl MmioDevice for Shadow {
    fn access_rules(&self) -> crate::bus::AccessRules {
        crate::bus::AccessRules::BYTES
    }
    fn read(&self, offset: u64, _width: Width) -> u64 {
        u64::from(self.byte(offset))
    }
    fn write(&self, offset: u64, _width: Width, value: u64) -> Effect {
        let (segment, offset) = Shadow::place(offset);
        if self.attributes.lock().wanted[segment] & WRITE != 0 {
            // The place is in the region.
            let _ = self.ram[segment].write_obj(value as u8, MemoryRegionAddress(offset));
        }
        Effect::None
    }
    fn peek(&self, offset: u64, data: &mut [u8]) -> bool {
        for (index, byte) in data.iter_mut().enumerate() {
            *byte = self.byte(offset + index as u64);
        }
        true
    }
}

/// Number of bytes of a firmware of `length` bytes that are seen before 1 MiB.
pub(super) fn seen(length: u64) -> u64 {
    length.min(FIRMWARE_SHADOW)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::FakeAccelerator;

    #[test]
    fn segments_lie_side_by_side() {
        assert_eq!((start(0), start(12), length(12)), (0xc_0000, LAST, 0x1_0000));
        assert!((0..SEGMENTS - 1).all(|segment| start(segment) + length(segment) == start(segment + 1)));
        assert_eq!(Shadow::place(0x3_ffff), (12, 0xffff));
        assert_eq!(Shadow::place(0x4001), (1, 1));
    }

    #[test]
    fn what_is_mapped_follows_the_attributes() {
        let firmware = Image::bytes("firmware", MIB - 0x2_0000, vec![0xea; 0x2_0000]);
        let shadow = Shadow::new(allocate_ram().unwrap(), Some(&firmware)).unwrap();
        let log = FakeAccelerator::new(accel::Architecture::X86_64);
        shadow.apply(&*log).unwrap();
        // Nothing but the firmware: four small segments and the last one.
        assert_eq!(
            log.mapped(),
            [(0xe_0000, true), (0xe_4000, true), (0xe_8000, true), (0xe_c000, true), (LAST, true)]
        );
        let mut byte = [0];
        assert!(shadow.peek(0x3_fff0, &mut byte) && byte == [0xea]);
        assert!(shadow.peek(0, &mut byte) && byte == [0xff]);
        // Written, not read: copying in place.
        shadow.set([0x20, 0x02, 0, 0, 0, 0, 0]);
        shadow.apply(&*log).unwrap();
        assert_eq!(log.mapped().len(), 5);
        for offset in [0, 0x4000, 0x3_fff0] {
            let _ = shadow.write(offset, Width::Byte, 0x55);
        }
        assert_eq!(shadow.read(0x3_fff0, Width::Byte), 0xea);
        shadow.set([0x10, 0x31, 0, 0, 0, 0, 0]);
        shadow.apply(&*log).unwrap();
        let low = log.mapped().into_iter().filter(|(start, _)| *start < 0xe_0000 || *start == LAST);
        assert_eq!(low.collect::<Vec<_>>(), [(0xc_0000, true), (0xc_4000, false), (LAST, true)]);
        assert_eq!([0, 0x4000, 0x3_fff0].map(|offset| shadow.read(offset, Width::Byte)), [0x55, 0, 0x55]);
        // No longer writable.
        let _ = shadow.write(0, Width::Byte, 1);
        assert_eq!(shadow.read(0, Width::Byte), 0x55);
    }
}
