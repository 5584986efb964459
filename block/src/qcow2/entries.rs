//! Entries of L1 and L2 tables, and where an offset of the disk finds its own.

use super::header::Header;
use crate::Error;

/// The host cluster belongs to this entry alone.
const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
/// Without bits for parts of clusters: the cluster reads as zeros.
const ZERO: u64 = 1 << 0;
/// Bits of a host offset.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// What compressed data's length is counted in, bytes.
const SECTOR: u64 = 512;

/// The sizes that the header decides.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    /// Bits of an offset in a cluster.
    pub(super) cluster_bits: u32,
    /// How many parts of a cluster have bits of their own: 1 or 32.
    pub(super) parts: u32,
    /// 2 knows no zero clusters.
    pub(super) version: u32,
    /// Data is in another file, which has its own bytes where the disk's are.
    pub(super) has_data_file: bool,
}

impl Layout {
    pub(super) fn of(header: &Header) -> Layout {
        Layout {
            cluster_bits: header.cluster_bits,
            parts: if header.has_extended_l2() { 32 } else { 1 },
            version: header.version,
            has_data_file: header.has_data_file(),
        }
    }

    /// Bytes of a cluster.
    pub(super) fn cluster(self) -> u64 {
        1 << self.cluster_bits
    }

    /// Bytes of the smallest part of a cluster that can be there or not.
    pub(super) fn part(self) -> u64 {
        self.cluster() / u64::from(self.parts)
    }

    /// Bytes of an L2 entry.
    pub(super) fn entry(self) -> u64 {
        if self.parts == 1 { 8 } else { 16 }
    }

    /// Entries of an L2 table.
    pub(super) fn l2_entries(self) -> u64 {
        self.cluster() / self.entry()
    }

    /// How much of the disk an L2 table is for, bytes.
    pub(super) fn l2_reach(self) -> u64 {
        self.l2_entries() * self.cluster()
    }

    /// The L1 entry for an offset of the disk.
    pub(super) fn l1_index(self, offset: u64) -> usize {
        (offset / self.l2_reach()) as usize
    }

    /// The L2 entry for an offset of the disk.
    pub(super) fn l2_index(self, offset: u64) -> u64 {
        offset / self.cluster() % self.l2_entries()
    }

    /// The bits of the parts that `length` bytes at an offset touch; they are in one cluster.
    pub(super) fn parts_at(self, offset: u64, length: u64) -> u32 {
        let at = offset % self.cluster();
        let (first, last) = (at / self.part(), (at + length).div_ceil(self.part()));
        bits(first as u32..last as u32)
    }

    /// The bits of all parts.
    pub(super) fn all_parts(self) -> u32 {
        bits(0..self.parts)
    }
}

fn bits(range: std::ops::Range<u32>) -> u32 {
    ((1_u64 << range.end) - (1_u64 << range.start)) as u32
}

/// The host offset that an L1 entry has, if it has one, and whether it belongs to that entry alone.
pub(super) fn l2_table(entry: u64, layout: Layout) -> Result<Option<(u64, bool)>, Error> {
    let offset = entry & OFFSET;
    if !offset.is_multiple_of(layout.cluster()) {
        return Err(Error::Corrupt(format!("L2 table offset {offset:#x} is not a multiple of the cluster size")));
    }
    Ok((offset != 0).then_some((offset, entry & COPIED != 0)))
}

/// The L1 entry for an L2 table that belongs to it alone, or not.
pub(super) fn l1_entry(offset: u64, is_own: bool) -> u64 {
    offset | if is_own { COPIED } else { 0 }
}

/// What an L2 entry says of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cluster {
    /// It has a host cluster, or none, and each part is there, zero, or neither (then the backing file has it).
    Plain {
        /// Where its data is, and whether it belongs to this entry alone.
        host: Option<(u64, bool)>,
        /// The parts that have data there.
        data: u32,
        /// The parts that are zero.
        zero: u32,
    },
    /// It is compressed.
    Compressed {
        /// Where it begins in the file.
        host: u64,
        /// How many bytes there may belong to it.
        length: u64,
    },
}

impl Cluster {
    /// Nothing is known of it.
    pub(super) const NONE: Cluster = Cluster::Plain { host: None, data: 0, zero: 0 };

    /// Takes an entry apart; `bitmap` is its second half, where there is one.
    pub(super) fn decode(entry: u64, bitmap: u64, layout: Layout) -> Result<Cluster, Error> {
        if entry & COMPRESSED != 0 {
            let length_at = 62 - (layout.cluster_bits - 8);
            let host = entry & ((1 << length_at) - 1);
            let sectors = (entry >> length_at & ((1 << (layout.cluster_bits - 8)) - 1)) + 1;
            if layout.has_data_file {
                return Err(Error::Corrupt("a compressed cluster in an image with a data file".into()));
            }
            return Ok(Cluster::Compressed { host, length: sectors * SECTOR - host % SECTOR });
        }
        let offset = entry & OFFSET;
        if !offset.is_multiple_of(layout.cluster()) {
            return Err(Error::Corrupt(format!("cluster offset {offset:#x} is not a multiple of the cluster size")));
        }
        let is_own = entry & COPIED != 0;
        // The first cluster of a data file is data.
        let host = (offset != 0 || layout.has_data_file && is_own).then_some((offset, is_own));
        if layout.parts > 1 {
            let (data, zero) = (bitmap as u32, (bitmap >> 32) as u32);
            if data & zero != 0 {
                return Err(Error::Corrupt(format!("the parts {:#x} of a cluster are data and zero", data & zero)));
            }
            if data != 0 && host.is_none() {
                return Err(Error::Corrupt("parts of a cluster are data and have no place".into()));
            }
            return Ok(Cluster::Plain { host, data, zero });
        }
        let zero = u32::from(entry & ZERO != 0 && layout.version >= 3);
        Ok(Cluster::Plain { host, data: u32::from(host.is_some()) & !zero, zero })
    }

    /// Both halves of its entry.
    pub(super) fn encode(self, layout: Layout) -> (u64, u64) {
        match self {
            Cluster::Plain { host, data, zero } => {
                let place = host.map_or(0, |(offset, is_own)| l1_entry(offset, is_own));
                if layout.parts > 1 {
                    (place, u64::from(zero) << 32 | u64::from(data))
                } else {
                    (place | u64::from(zero), 0)
                }
            }
            Cluster::Compressed { host, length } => {
                let length_at = 62 - (layout.cluster_bits - 8);
                let sectors = (host % SECTOR + length).div_ceil(SECTOR);
                (COMPRESSED | (sectors - 1) << length_at | host, 0)
            }
        }
    }

    /// The host clusters that it uses: the first one's offset, and how many.
    pub(super) fn host_clusters(self, layout: Layout) -> Option<(u64, u64)> {
        match self {
            Cluster::Plain { host, .. } => host.map(|(offset, _)| (offset, 1)),
            Cluster::Compressed { host, length } => {
                let first = host / layout.cluster();
                // Data that ends in the middle of a sector has the rest of it for itself.
                let last = (host + length - 1) / layout.cluster();
                Some((first * layout.cluster(), last - first + 1))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Layout = Layout { cluster_bits: 16, parts: 1, version: 3, has_data_file: false };
    const PARTS: Layout = Layout { parts: 32, ..PLAIN };

    #[test]
    fn entries_say_again_what_was_said() {
        for (cluster, layout) in [
            (Cluster::NONE, PLAIN),
            (Cluster::Plain { host: Some((0x5_0000, true)), data: 1, zero: 0 }, PLAIN),
            (Cluster::Plain { host: Some((0x5_0000, false)), data: 0, zero: 1 }, PLAIN),
            (Cluster::Plain { host: None, data: 0, zero: 1 }, PLAIN),
            (Cluster::Compressed { host: 0x5_0123, length: 0x2dd }, PLAIN),
            (Cluster::Compressed { host: 0x5_0000, length: 0x1_0000 }, PLAIN),
            (Cluster::Plain { host: Some((0x5_0000, true)), data: 0xff, zero: 0xff00 }, PARTS),
            (Cluster::Plain { host: None, data: 0, zero: u32::MAX }, PARTS),
        ] {
            let (entry, bitmap) = cluster.encode(layout);
            assert_eq!(Cluster::decode(entry, bitmap, layout).unwrap(), cluster, "{entry:#x} {bitmap:#x}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        assert!(Cluster::decode(0x5_0200, 0, PLAIN).is_err());
        assert!(Cluster::decode(0, 1, PARTS).is_err());
        assert!(Cluster::decode(0x5_0000, 1 << 32 | 1, PARTS).is_err());
        assert!(l2_table(0x200, PLAIN).is_err());
    }

    #[test]
    fn compressed_data_uses_each_cluster_that_it_touches() {
        let at = |host, length| Cluster::Compressed { host, length }.host_clusters(PLAIN);
        assert_eq!(at(0x5_0000, 0x200), Some((0x5_0000, 1)));
        assert_eq!(at(0x5_ff00, 0x100), Some((0x5_0000, 1)));
        assert_eq!(at(0x5_ff00, 0x300), Some((0x5_0000, 2)));
    }

    #[test]
    fn parts_of_a_cluster() {
        assert_eq!(PARTS.part(), 2048);
        assert_eq!(PARTS.parts_at(0x1_0000, 0x1_0000), u32::MAX);
        assert_eq!(PARTS.parts_at(0x1_0001, 1), 1);
        assert_eq!(PARTS.parts_at(0x1_07ff, 2), 3);
        assert_eq!(PARTS.parts_at(0x1_f800, 0x800), 1 << 31);
        assert_eq!(PLAIN.parts_at(0x1_0001, 1), 1);
    }
}
