//! SMBIOS tables of the `pc` machine: as files for its firmware, and in place for kernels that are booted without it.
//!
//! DMTF DSP0134, System Management BIOS Reference Specification 2.8: the structures that it requires, and the 32-bit entry
//! point.

use super::{CONVENTIONAL_END, Layout};
use crate::machine::Config;

/// Name of the file with the entry point.
pub(super) const ENTRY_FILE: &str = "etc/smbios/smbios-anchor";
/// Name of the file with the structures.
pub(super) const TABLES_FILE: &str = "etc/smbios/smbios-tables";

const MANUFACTURER: &str = "Brolga";
const PRODUCT: &str = "Standard PC (i440FX + PIIX, 1996)";
const MIB: u64 = 1 << 20;

/// Structures as they are collected.
#[derive(Default)]
struct Structures {
    bytes: Vec<u8>,
    count: u16,
    longest: u16,
}

impl Structures {
    /// Adds a structure: its type, handle, the rest of its formatted part, and its strings.
    fn add(&mut self, kind: u8, handle: u16, formatted: &[u8], strings: &[&str]) {
        let start = self.bytes.len();
        self.bytes.extend([kind, formatted.len() as u8 + 4]);
        self.bytes.extend(handle.to_le_bytes());
        self.bytes.extend(formatted);
        for string in strings {
            self.bytes.extend(string.as_bytes());
            self.bytes.push(0);
        }
        if strings.is_empty() {
            self.bytes.push(0);
        }
        self.bytes.push(0);
        self.count += 1;
        self.longest = self.longest.max((self.bytes.len() - start) as u16);
    }
}

/// A range of memory as structure 19 has it: start and end in KiB, or in bytes where that is too much.
fn mapped_range(start: u64, length: u64) -> Vec<u8> {
    let last = start + length - 1;
    let in_kib = last >> 10 < u64::from(u32::MAX);
    let (short_start, short_end) =
        if in_kib { ((start >> 10) as u32, (last >> 10) as u32) } else { (u32::MAX, u32::MAX) };
    let mut bytes = [short_start.to_le_bytes(), short_end.to_le_bytes()].concat();
    // Handle of the array, and its width.
    bytes.extend([0x00, 0x10, 1]);
    let (long_start, long_end) = if in_kib { (0, 0) } else { (start, last) };
    bytes.extend([long_start.to_le_bytes(), long_end.to_le_bytes()].concat());
    bytes
}

/// The structures and the entry point, whose checksums and address the firmware fills in.
pub(super) fn files(config: &Config, layout: &Layout) -> (Vec<u8>, Vec<u8>) {
    let mut structures = Structures::default();
    let version = env!("CARGO_PKG_VERSION");

    // Type 0, firmware: characteristics not supported, but a virtual machine (extension byte 2, bit 4).
    let mut firmware = vec![1, 2, 0x00, 0xe8, 3, 0];
    firmware.extend(8u64.to_le_bytes());
    firmware.extend([0, 0x14, 0xff, 0xff, 0xff, 0xff]);
    structures.add(0, 0, &firmware, &[MANUFACTURER, version, "11/22/2026"]);

    // Type 1, system: the first three fields of the UUID are little-endian.
    let mut system = vec![1, 2, 3, 0];
    system.extend(config.uuid.unwrap_or(uuid::Uuid::nil()).to_bytes_le());
    system.extend([6, 0, 0]);
    structures.add(1, 0x100, &system, &[MANUFACTURER, PRODUCT, version]);

    // Type 3, enclosure: other, all states safe, security none.
    structures.add(3, 0x300, &[1, 1, 2, 0, 0, 3, 3, 3, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[MANUFACTURER, version]);

    // Type 4, a processor each: central processor, of unknown family, enabled, with one core.
    for index in 0..config.vcpus as u16 {
        let socket = format!("CPU {index}");
        let mut processor = vec![1, 3, 1, 2];
        // Id, version, voltage, external clock, maximum and present speed: unknown but for the last two.
        processor.extend([0; 8]);
        processor.extend([3, 0, 0, 0, 0xd0, 0x07, 0xd0, 0x07, 0x41, 1]);
        // No cache structures, no serial number and the like; cores, enabled cores, threads, 64-bit capable.
        processor.extend([0xff; 6]);
        processor.extend([0, 0, 0, 1, 1, 1, 4, 0, 1, 0]);
        structures.add(4, 0x400 + index, &processor, &[&socket, MANUFACTURER, version]);
    }

    // Type 16, the array of memory: on the board, of system memory, multi-bit error correction.
    let total = layout.low_end + layout.high;
    let (short, long) = if total >> 10 < 0x8000_0000 { ((total >> 10) as u32, 0) } else { (0x8000_0000, total) };
    let mut array = vec![1, 3, 6];
    array.extend(short.to_le_bytes());
    array.extend([0xfe, 0xff, 1, 0]);
    array.extend(long.to_le_bytes());
    structures.add(16, 0x1000, &array, &[]);

    // Type 17, its one device: a RAM DIMM.
    let size = total / MIB;
    let (short, long) = if size < 0x7fff { (size as u16, 0) } else { (0x7fff, size as u32) };
    let mut device = vec![0x00, 0x10, 0xfe, 0xff, 0xff, 0xff, 0xff, 0xff];
    device.extend(short.to_le_bytes());
    device.extend([9, 0, 1, 0, 7, 2, 0, 0, 0, 2, 0, 0, 0, 0]);
    device.extend(long.to_le_bytes());
    device.extend([0; 8]);
    structures.add(17, 0x1100, &device, &["DIMM 0", MANUFACTURER]);

    // Type 19: where it is mapped.
    structures.add(19, 0x1300, &mapped_range(0, layout.low_end.max(CONVENTIONAL_END)), &[]);
    if layout.high > 0 {
        structures.add(19, 0x1301, &mapped_range(super::FOUR_GIB, layout.high), &[]);
    }
    // Type 32: no errors at boot. Type 127: the end.
    structures.add(32, 0x2000, &[0; 7], &[]);
    structures.add(127, 0x7f00, &[], &[]);

    let mut entry = b"_SM_\0\x1f\x02\x08".to_vec();
    entry.extend(structures.longest.to_le_bytes());
    entry.extend([0; 6]);
    entry.extend(b"_DMI_\0");
    entry.extend((structures.bytes.len() as u16).to_le_bytes());
    entry.extend([0; 4]);
    entry.extend(structures.count.to_le_bytes());
    entry.push(0x28);
    (structures.bytes, entry)
}

/// Where the tables are without firmware: where kernels look for the entry point.
pub(super) const ADDRESS: u64 = 0xf_8000;

/// Entry point and structures, to be put at [`ADDRESS`]. `None` if there is no room.
pub(super) fn tables(config: &Config, layout: &Layout) -> Option<Vec<u8>> {
    let (structures, mut entry) = files(config, layout);
    let length = entry.len();
    let start = length.next_multiple_of(16);
    entry[0x18..0x1c].copy_from_slice(&(ADDRESS as u32 + start as u32).to_le_bytes());
    // The second part has a checksum of its own, which counts for the first.
    for (checksum, first) in [(0x15, 0x10), (0x04, 0x00)] {
        entry[checksum] = entry[first..].iter().fold(0, |sum: u8, byte| sum.wrapping_sub(*byte));
    }
    entry.resize(start, 0);
    entry.extend(structures);
    (ADDRESS + entry.len() as u64 <= MIB).then_some(entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_firmware_the_checksums_and_the_address_are_there() {
        let config = Config { vcpus: 255, ..Config::default() };
        let tables = tables(&config, &Layout::new(config.memory)).unwrap();
        let sum = |bytes: &[u8]| bytes.iter().fold(0, |sum: u8, byte| sum.wrapping_add(*byte));
        assert_eq!((sum(&tables[..0x1f]), sum(&tables[0x10..0x1f])), (0, 0));
        assert_eq!(tables[0x18..0x1c], 0xf_8020u32.to_le_bytes());
        assert_eq!(tables[0x20..0x22], [0, 24]);
    }

    #[test]
    fn the_structures_can_be_walked_and_have_the_lengths_of_the_specification() {
        let uuid = uuid::Uuid::from_u128(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff);
        let config = Config { vcpus: 3, uuid: Some(uuid), memory: 6 << 30, ..Config::default() };
        let (tables, entry) = files(&config, &Layout::new(6 << 30));
        assert_eq!(entry.len(), 0x1f);
        assert_eq!(u16::from_le_bytes([entry[0x16], entry[0x17]]) as usize, tables.len());
        let mut rest = &tables[..];
        let mut found = Vec::new();
        while !rest.is_empty() {
            let (kind, length) = (rest[0], usize::from(rest[1]));
            if kind == 1 {
                assert_eq!(rest[8..16], [0x33, 0x22, 0x11, 0x00, 0x55, 0x44, 0x77, 0x66]);
            }
            found.push((kind, length));
            let strings = rest[length..].windows(2).position(|pair| pair == [0, 0]).unwrap();
            rest = &rest[length + strings + 2..];
        }
        let processor = (4, 0x2a);
        assert_eq!(
            found,
            [
                (0, 24),
                (1, 27),
                (3, 22),
                processor,
                processor,
                processor,
                (16, 23),
                (17, 40),
                (19, 31),
                (19, 31),
                (32, 11),
                (127, 4)
            ]
        );
        assert_eq!(u16::from_le_bytes([entry[0x1c], entry[0x1d]]) as usize, found.len());
    }
}
