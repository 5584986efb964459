//! Floppy drives and the disks in them.

use std::sync::Arc;

use block::Backend;

/// Bytes of a sector.
pub(super) const SECTOR: u64 = 512;

/// Data rates as the controller's registers number them.
const RATE_500: u8 = 0;
const RATE_300: u8 = 1;
const RATE_250: u8 = 2;
const RATE_1000: u8 = 3;

/// A floppy drive with a disk.
#[derive(Clone)]
pub struct Drive {
    /// The disk.
    pub medium: Arc<Backend>,
}

/// Kinds of drives, with the numbers that a PC's CMOS RAM has for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DriveKind {
    /// 5.25 inches, 1.2 MB.
    High525 = 2,
    /// 3.5 inches, 1.44 MB.
    High35 = 4,
    /// 3.5 inches, 2.88 MB.
    Extra35 = 5,
}

/// How a disk is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// The drive that takes such disks.
    pub kind: DriveKind,
    /// Tracks on a side.
    pub tracks: u8,
    /// Sides.
    pub heads: u8,
    /// Sectors of a track, numbered from 1.
    pub sectors: u8,
    /// Data rate that it needs.
    pub(super) rate: u8,
}

const fn geometry(kind: DriveKind, tracks: u8, heads: u8, sectors: u8, rate: u8) -> Geometry {
    Geometry { kind, tracks, heads, sectors, rate }
}

/// The formats of disks that are told apart by their size.
const FORMATS: [Geometry; 14] = [
    geometry(DriveKind::High35, 80, 2, 18, RATE_500),
    geometry(DriveKind::High35, 80, 2, 20, RATE_500),
    geometry(DriveKind::High35, 80, 2, 21, RATE_500),
    geometry(DriveKind::High35, 82, 2, 21, RATE_500),
    geometry(DriveKind::High35, 83, 2, 21, RATE_500),
    geometry(DriveKind::High35, 80, 2, 22, RATE_500),
    geometry(DriveKind::Extra35, 80, 2, 36, RATE_1000),
    geometry(DriveKind::High35, 80, 2, 9, RATE_250),
    geometry(DriveKind::High35, 80, 2, 10, RATE_250),
    geometry(DriveKind::High525, 80, 2, 15, RATE_500),
    geometry(DriveKind::High525, 40, 2, 9, RATE_300),
    geometry(DriveKind::High525, 40, 2, 8, RATE_250),
    geometry(DriveKind::High525, 40, 1, 9, RATE_300),
    geometry(DriveKind::High525, 40, 1, 8, RATE_250),
];

impl Geometry {
    /// Bytes of a disk.
    pub fn size(&self) -> u64 {
        u64::from(self.tracks) * u64::from(self.heads) * u64::from(self.sectors) * SECTOR
    }

    /// Where a sector is; `None` if there is none of that address.
    pub(super) fn offset(&self, track: u8, head: u8, sector: u8) -> Option<u64> {
        let exists = track < self.tracks && head < self.heads && (1..=self.sectors).contains(&sector);
        let tracks = u64::from(track) * u64::from(self.heads) + u64::from(head);
        exists.then(|| (tracks * u64::from(self.sectors) + u64::from(sector) - 1) * SECTOR)
    }
}

impl Drive {
    /// The layout of the disk. An image of an unusual size is the beginning of a usual disk; `None` if it is too long.
    pub fn geometry(&self) -> Option<Geometry> {
        let length = self.medium.length();
        let exact = FORMATS.iter().find(|format| format.size() == length);
        let usual = [&FORMATS[0], &FORMATS[6]];
        exact.or_else(|| usual.into_iter().find(|format| length <= format.size())).copied()
    }

    /// Reads a sector; what lies beyond the image's end is zero.
    pub(super) fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), block::Error> {
        let inside = self.medium.length().saturating_sub(offset).min(buffer.len() as u64) as usize;
        let (start, rest) = buffer.split_at_mut(inside);
        rest.fill(0);
        if start.is_empty() { Ok(()) } else { self.medium.read_blocking(offset, start) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use block::{MemoryDisk, Node};

    #[test]
    fn the_size_of_an_image_tells_its_format() {
        let layout = |size: u64| {
            let medium = MemoryDisk::new(vec![0; size as usize], true);
            let drive = Drive { medium: Backend::new(Node::new("disk", medium)) };
            drive.geometry().map(|format| (format.kind, format.tracks, format.heads, format.sectors))
        };
        assert_eq!(layout(1440 << 10), Some((DriveKind::High35, 80, 2, 18)));
        assert_eq!(layout(2880 << 10), Some((DriveKind::Extra35, 80, 2, 36)));
        assert_eq!(layout(720 << 10), Some((DriveKind::High35, 80, 2, 9)));
        assert_eq!(layout(1200 << 10), Some((DriveKind::High525, 80, 2, 15)));
        assert_eq!(layout(360 << 10), Some((DriveKind::High525, 40, 2, 9)));
        assert_eq!(layout(512), Some((DriveKind::High35, 80, 2, 18)));
        assert_eq!(layout(2 << 20), Some((DriveKind::Extra35, 80, 2, 36)));
        assert_eq!(layout(3 << 20), None);
        for (place, format) in FORMATS.iter().enumerate() {
            assert!(FORMATS[..place].iter().all(|other| other.size() != format.size()), "{format:?}");
        }
    }

    #[test]
    fn sectors_follow_each_other_by_heads_and_tracks() {
        let format = FORMATS[0];
        assert_eq!(format.offset(0, 0, 1), Some(0));
        assert_eq!(format.offset(0, 1, 1), Some(18 * 512));
        assert_eq!(format.offset(79, 1, 18), Some(format.size() - 512));
        assert_eq!(
            [format.offset(80, 0, 1), format.offset(0, 2, 1), format.offset(0, 0, 0), format.offset(0, 0, 19)],
            [None; 4]
        );
    }
}
