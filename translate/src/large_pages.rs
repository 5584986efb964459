//! Which large pages the soft TLB may hold pieces of.
//!
//! Its entries are 4 KiB each, so that flushing one address of a large page must flush more than that entry.

/// An approximation: it never forgets, and may remember too much.
#[derive(Clone, Debug)]
pub(crate) struct LargePages {
    of_2_mib: Numbers,
    /// Larger ones are so many of these.
    of_1_gib: Numbers,
}

impl Default for LargePages {
    fn default() -> LargePages {
        LargePages { of_2_mib: Numbers([0; WORDS]), of_1_gib: Numbers([0; WORDS]) }
    }
}

const WORDS: usize = 256;

/// Numbers of pages: a bit for each of their hashes.
#[derive(Clone, Debug)]
struct Numbers([u64; WORDS]);

impl Numbers {
    fn place(number: u64) -> (usize, u32) {
        // Kernels have memory at regular distances from what programs have there: residues would meet, these products do not.
        let hash = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - 14);
        ((hash / 64) as usize % WORDS, (hash % 64) as u32)
    }

    fn insert(&mut self, number: u64) {
        let (word, bit) = Numbers::place(number);
        self.0[word] |= 1 << bit;
    }

    fn may_contain(&self, number: u64) -> bool {
        let (word, bit) = Numbers::place(number);
        self.0[word] >> bit & 1 != 0
    }
}

impl LargePages {
    /// Remembers the page of `1 << shift` bytes that holds `address`; pages of 4 KiB are not large.
    pub(crate) fn insert(&mut self, address: u64, shift: u32) {
        match shift {
            0..=12 => (),
            13..=22 => {
                let first = address >> shift << shift;
                for number in (0..1 << (shift.max(21) - 21)).map(|part| (first >> 21) + part) {
                    self.of_2_mib.insert(number);
                }
            }
            23..=30 => self.of_1_gib.insert(address >> 30),
            _ => self.of_1_gib = Numbers([u64::MAX; WORDS]),
        }
    }

    /// A large page that holds `address` may be among those remembered.
    pub(crate) fn may_contain(&self, address: u64) -> bool {
        self.of_2_mib.may_contain(address >> 21) || self.of_1_gib.may_contain(address >> 30)
    }
}
