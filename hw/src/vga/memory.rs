//! Display memory: four planes, and how addresses, latches and the graphics controller lie between them and the bus.
//!
//! IBM VGA Technical Reference, "Graphics Controller" and "Memory maps".

use serde::{Deserialize, Serialize};

/// Bytes of a plane.
const PLANE: usize = 0x1_0000;

/// Window of the bus in which display memory may answer, and its length.
pub const WINDOW: (u64, u64) = (0xa_0000, 0x2_0000);

/// The registers that an access goes through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Path {
    /// Sequencer: map mask.
    pub(super) map_mask: u8,
    /// Sequencer: memory mode.
    pub(super) memory_mode: u8,
    /// Graphics controller, registers 0 to 8.
    pub(super) graphics: [u8; 9],
}

// Sequencer, memory mode.
const MODE_ODD_EVEN_OFF: u8 = 1 << 2;
const MODE_CHAIN_4: u8 = 1 << 3;

// Numbers of the graphics controller's registers.
const SET_RESET: usize = 0;
const ENABLE_SET_RESET: usize = 1;
const COLOR_COMPARE: usize = 2;
const ROTATE: usize = 3;
const READ_MAP: usize = 4;
const MODE: usize = 5;
const MISCELLANEOUS: usize = 6;
const COLOR_DO_NOT_CARE: usize = 7;
const BIT_MASK: usize = 8;

const MODE_READ_COMPARE: u8 = 1 << 3;
const MODE_READ_ODD_EVEN: u8 = 1 << 4;
const MISCELLANEOUS_CHAIN_ODD_EVEN: u8 = 1 << 1;

/// Where an access goes to.
#[derive(Clone, Copy)]
struct Place {
    offset: usize,
    /// The plane that is read.
    read: usize,
    /// The planes that are written, a bit each.
    write: u8,
}

impl Path {
    /// Where the byte at `offset` in [`WINDOW`] is; `None` if memory does not answer there.
    fn place(&self, offset: u64) -> Option<Place> {
        let (start, length) = match (self.graphics[MISCELLANEOUS] >> 2) & 3 {
            0 => (0, 0x2_0000),
            1 => (0, 0x1_0000),
            2 => (0x1_0000, 0x8000),
            _ => (0x1_8000, 0x8000),
        };
        let address = offset.checked_sub(start).filter(|address| *address < length)? as usize;
        let odd = address & 1;
        let offset = if self.memory_mode & MODE_CHAIN_4 != 0 {
            address & !3
        } else if self.graphics[MISCELLANEOUS] & MISCELLANEOUS_CHAIN_ODD_EVEN != 0 {
            address & !1
        } else {
            address
        };
        let write = if self.memory_mode & MODE_CHAIN_4 != 0 {
            1 << (address & 3)
        } else if self.memory_mode & MODE_ODD_EVEN_OFF == 0 {
            if odd == 0 { 0b0101 } else { 0b1010 }
        } else {
            0b1111
        };
        let map = usize::from(self.graphics[READ_MAP] & 3);
        let read = if self.memory_mode & MODE_CHAIN_4 != 0 {
            address & 3
        } else if self.graphics[MODE] & MODE_READ_ODD_EVEN != 0 {
            map & 2 | odd
        } else {
            map
        };
        Some(Place { offset: offset % PLANE, read, write: write & self.map_mask })
    }
}

/// All planes spread over the bits of four bytes: `0xff` where the plane's bit is set.
fn spread(planes: u8) -> [u8; 4] {
    [0, 1, 2, 3].map(|plane| if planes >> plane & 1 != 0 { 0xff } else { 0 })
}

/// The planes and the latches.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct DisplayMemory {
    /// One plane after the other.
    pub(super) planes: Vec<u8>,
    /// What the last read left, a byte a plane.
    latches: [u8; 4],
}

impl DisplayMemory {
    pub(super) fn new() -> DisplayMemory {
        DisplayMemory { planes: vec![0; 4 * PLANE], latches: [0; 4] }
    }

    /// True if it has the size that it must have.
    pub(super) fn is_possible(&self) -> bool {
        self.planes.len() == 4 * PLANE
    }

    fn bytes(&self, offset: usize) -> [u8; 4] {
        [0, 1, 2, 3].map(|plane| self.planes[plane * PLANE + offset])
    }

    /// What a processor reads, without loading the latches; all ones where nothing answers.
    pub(super) fn peek(&self, path: &Path, offset: u64) -> u8 {
        match path.place(offset) {
            Some(place) => DisplayMemory::answer(path, &place, self.bytes(place.offset)),
            None => 0xff,
        }
    }

    fn answer(path: &Path, place: &Place, bytes: [u8; 4]) -> u8 {
        if path.graphics[MODE] & MODE_READ_COMPARE == 0 {
            return bytes[place.read];
        }
        let (wanted, cared) = (spread(path.graphics[COLOR_COMPARE]), spread(path.graphics[COLOR_DO_NOT_CARE]));
        (0..4).fold(0xff, |same, plane| same & !((bytes[plane] ^ wanted[plane]) & cared[plane]))
    }

    /// A processor's read.
    pub(super) fn read(&mut self, path: &Path, offset: u64) -> u8 {
        let Some(place) = path.place(offset) else { return 0xff };
        self.latches = self.bytes(place.offset);
        DisplayMemory::answer(path, &place, self.latches)
    }

    /// A processor's write.
    pub(super) fn write(&mut self, path: &Path, offset: u64, value: u8) {
        let Some(place) = path.place(offset) else { return };
        let graphics = &path.graphics;
        let rotated = value.rotate_right(u32::from(graphics[ROTATE] & 7));
        let set_reset = spread(graphics[SET_RESET]);
        let (data, mask) = match graphics[MODE] & 3 {
            0 => {
                let enabled = spread(graphics[ENABLE_SET_RESET]);
                let data = [0, 1, 2, 3].map(|plane| rotated & !enabled[plane] | set_reset[plane] & enabled[plane]);
                (data, graphics[BIT_MASK])
            }
            1 => (self.latches, 0),
            2 => (spread(value), graphics[BIT_MASK]),
            _ => (set_reset, rotated & graphics[BIT_MASK]),
        };
        for plane in (0..4).filter(|plane| place.write >> plane & 1 != 0) {
            let latch = self.latches[plane];
            let combined = match (graphics[ROTATE] >> 3) & 3 {
                0 => data[plane],
                1 => data[plane] & latch,
                2 => data[plane] | latch,
                _ => data[plane] ^ latch,
            };
            self.planes[plane * PLANE + place.offset] = combined & mask | latch & !mask;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Registers of the 80x25 text mode.
    fn text() -> Path {
        Path { map_mask: 3, memory_mode: 2, graphics: [0, 0, 0, 0, 0, 0x10, 0x0e, 0, 0xff] }
    }
    /// Registers of the 16-colour modes.
    fn planar() -> Path {
        Path { map_mask: 0xf, memory_mode: 6, graphics: [0, 0, 0, 0, 0, 0, 5, 0xf, 0xff] }
    }

    #[test]
    fn text_lies_in_two_planes_and_answers_at_b8000_only() {
        let mut memory = DisplayMemory::new();
        for (offset, byte) in (0x1_8000..).zip(*b"A\x07B\x17") {
            memory.write(&text(), offset, byte);
        }
        let read: Vec<u8> = (0x1_8000..0x1_8004).map(|offset| memory.read(&text(), offset)).collect();
        assert_eq!(read, b"A\x07B\x17");
        assert_eq!((memory.planes[0], memory.planes[2], memory.planes[PLANE]), (b'A', b'B', 7));
        memory.write(&text(), 0, 9);
        assert_eq!((memory.read(&text(), 0), memory.read(&text(), 0x1_7fff)), (0xff, 0xff));
        assert_eq!(memory.planes[0], b'A');
    }

    #[test]
    fn a_font_goes_to_plane_2_and_leaves_the_others() {
        let mut memory = DisplayMemory::new();
        let mut path = planar();
        path.map_mask = 4;
        path.graphics[READ_MAP] = 2;
        memory.write(&path, 0x20, 0x7e);
        assert_eq!((memory.read(&path, 0x20), memory.planes[2 * PLANE + 0x20]), (0x7e, 0x7e));
        assert_eq!(memory.bytes(0x20), [0, 0, 0x7e, 0]);
    }

    #[test]
    fn each_write_mode_and_operation() {
        let mut memory = DisplayMemory::new();
        let mut path = planar();
        // Mode 0: rotated data, where set/reset is not enabled.
        path.graphics[ROTATE] = 4;
        (path.graphics[SET_RESET], path.graphics[ENABLE_SET_RESET]) = (0b0010, 0b0110);
        memory.write(&path, 0, 0x12);
        assert_eq!(memory.bytes(0), [0x21, 0xff, 0, 0x21]);
        // Mode 1: the latches go elsewhere.
        memory.read(&path, 0);
        path.graphics[MODE] = 1;
        memory.write(&path, 5, 0);
        assert_eq!(memory.bytes(5), [0x21, 0xff, 0, 0x21]);
        // Mode 2: a colour, under the bit mask.
        path.graphics[MODE] = 2;
        path.graphics[BIT_MASK] = 0x0f;
        path.graphics[ROTATE] = 0;
        memory.write(&path, 5, 0b0101);
        assert_eq!(memory.bytes(5), [0x2f, 0xf0, 0x0f, 0x20]);
        // Mode 3: set/reset under the data.
        path.graphics[MODE] = 3;
        path.graphics[SET_RESET] = 0b1000;
        path.graphics[BIT_MASK] = 0xff;
        memory.read(&path, 5);
        memory.write(&path, 5, 0x81);
        assert_eq!(memory.bytes(5), [0x2e, 0x70, 0x0e, 0xa1]);
        // AND, OR and XOR with the latches.
        path.graphics[MODE] = 0;
        path.graphics[ENABLE_SET_RESET] = 0;
        for (operation, expected) in [(1, 0x20), (2, 0x2e | 0xa5), (3, 0x2e ^ 0xa5)] {
            memory.read(&path, 5);
            path.graphics[ROTATE] = operation << 3;
            path.map_mask = 1;
            let before = memory.clone();
            memory.write(&path, 5, 0xa5 & if operation == 1 { 0xf1 } else { 0xff });
            assert_eq!(memory.bytes(5)[0], expected, "{operation}");
            memory = before;
        }
    }

    #[test]
    fn colours_are_compared() {
        let mut memory = DisplayMemory::new();
        let mut path = planar();
        for (plane, byte) in [(0, 0b1100), (1, 0b1010)] {
            path.map_mask = 1 << plane;
            memory.write(&path, 0, byte);
        }
        path.graphics[MODE] = MODE_READ_COMPARE;
        path.graphics[COLOR_COMPARE] = 0b01;
        assert_eq!(memory.read(&path, 0), 0b0000_0100);
        path.graphics[COLOR_DO_NOT_CARE] = 0b1101;
        assert_eq!(memory.read(&path, 0), 0b0000_1100);
    }

    #[test]
    fn chained_bytes_go_round_the_planes() {
        let mut memory = DisplayMemory::new();
        let mut path = planar();
        path.memory_mode = 0xe;
        for offset in 0..8 {
            memory.write(&path, offset, offset as u8 + 1);
        }
        assert_eq!((memory.bytes(0), memory.bytes(4)), ([1, 2, 3, 4], [5, 6, 7, 8]));
        assert_eq!((0..8).map(|offset| memory.read(&path, offset)).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6, 7, 8]);
    }
}
