//! Which large pages the soft TLB may hold pieces of.
//!
//! Its entries are 4 KiB each, so that flushing one address of a large page must flush more than that entry.

/// An approximation: it never forgets, and may remember too much.
#[derive(Clone, Debug, Default)]
pub(crate) struct LargePages {
    /// A bit for each residue of the number of a 2 MiB page.
    of_2_mib: [u64; 16],
    /// The same for 1 GiB pages; all bits for larger ones.
    of_1_gib: u64,
}

impl LargePages {
    /// Remembers the page of `1 << shift` bytes that holds `address`; pages of 4 KiB are not large.
    pub(crate) fn insert(&mut self, address: u64, shift: u32) {
        match shift {
            0..=12 => (),
            13..=22 => {
                let first = address >> shift << shift;
                for number in (0..1 << (shift - 21)).map(|part| (first >> 21) as usize + part) {
                    self.of_2_mib[number / 64 % 16] |= 1 << (number % 64);
                }
            }
            23..=30 => self.of_1_gib |= 1 << (address >> 30 & 63),
            _ => self.of_1_gib = u64::MAX,
        }
    }

    /// A large page that holds `address` may be among those remembered.
    pub(crate) fn may_contain(&self, address: u64) -> bool {
        let number = (address >> 21) as usize;
        self.of_2_mib[number / 64 % 16] >> (number % 64) & 1 != 0 || self.of_1_gib >> (address >> 30 & 63) & 1 != 0
    }
}
