//! Physical memory protection (volume II, 3.7): 16 entries, granularity 4 bytes.

use super::{MACHINE, Riscv64};
use crate::platform::PAGE_SIZE;

/// Permission to read, as in a configuration byte.
pub(super) const READ: u8 = 1;
/// Permission to write.
pub(super) const WRITE: u8 = 2;
/// Permission to execute.
pub(super) const EXECUTE: u8 = 4;
/// The entry may not be changed until reset, and binds machine mode, too.
const LOCKED: u8 = 0x80;

/// Address registers have 54 bits, of addresses without their two lowest.
const ADDRESS_MASK: u64 = (1 << 54) - 1;

/// What may be done with the bytes of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Permission {
    /// [`READ`], [`WRITE`], [`EXECUTE`].
    pub allowed: u8,
    /// The same holds for the whole page of the access.
    pub whole_page: bool,
}

/// Physical addresses between which every access below machine mode is treated alike: most are in the same few ranges, and each
/// step of a page-table walk asks.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Uniform {
    first: u64,
    /// The one behind the last.
    end: u64,
    allowed: u8,
}

impl Riscv64 {
    /// Configuration byte of an entry.
    pub(super) fn pmp_configuration(&self, entry: usize) -> u8 {
        self.pmpcfg.get(entry / 8).map_or(0, |word| (word >> (entry % 8 * 8)) as u8)
    }

    /// The bytes that an entry matches: the first one and the one behind the last. `None` if it is off.
    fn pmp_range(&self, entry: usize) -> Option<(u64, u64)> {
        let address = *self.pmpaddr.get(entry)? & ADDRESS_MASK;
        match self.pmp_configuration(entry) >> 3 & 3 {
            // TOR
            1 => {
                let low = entry
                    .checked_sub(1)
                    .and_then(|below| self.pmpaddr.get(below))
                    .map_or(0, |below| (below & ADDRESS_MASK) << 2);
                Some((low, address << 2))
            }
            // NA4
            2 => Some((address << 2, (address << 2) + 4)),
            // NAPOT. Nothing here overflows, given the width of addresses.
            3 => {
                let ones = address.trailing_ones().min(54);
                let low = (address & !((1 << ones) - 1)) << 2;
                Some((low, low + (8 << ones)))
            }
            _ => None,
        }
    }

    /// The entries that are not off, in order. Every step of a page-table walk looks at them.
    fn pmp_entries(&self) -> impl Iterator<Item = usize> {
        /// The field A of each configuration byte.
        const MODES: u64 = 0x1818_1818_1818_1818;
        let mut words = self.pmpcfg.map(|word| word & MODES);
        std::iter::from_fn(move || {
            let word = words.iter().position(|&word| word != 0)?;
            let byte = words[word].trailing_zeros() / 8;
            words[word] &= !(0xff << (byte * 8));
            Some(word * 8 + byte as usize)
        })
    }

    /// What a mode may do with `width` bytes of physical memory that lie within one page.
    pub(super) fn pmp_check(&mut self, physical: u64, width: u64, privilege: u8) -> Permission {
        let page = physical & !(PAGE_SIZE - 1);
        let Uniform { first, end, allowed } = self.pmp_uniform;
        if privilege != MACHINE && first <= page && page.saturating_add(PAGE_SIZE) <= end {
            return Permission { allowed, whole_page: true };
        }
        let permission = self.pmp_look_up(physical, width, privilege);
        if privilege != MACHINE && permission.whole_page {
            self.pmp_uniform = self.pmp_uniform_around(page, permission.allowed);
        }
        permission
    }

    /// The range around a page, all of which is treated alike, in which what is allowed below machine mode is so.
    fn pmp_uniform_around(&self, page: u64, allowed: u8) -> Uniform {
        let mut range = Uniform { first: 0, end: u64::MAX, allowed };
        for (low, high) in self.pmp_entries().filter_map(|entry| self.pmp_range(entry)).filter(|(low, high)| low < high)
        {
            if high <= page {
                range.first = range.first.max(high);
            } else if low > page {
                range.end = range.end.min(low);
            } else {
                return Uniform { first: range.first.max(low), end: range.end.min(high), allowed };
            }
        }
        range
    }

    fn pmp_look_up(&self, physical: u64, width: u64, privilege: u8) -> Permission {
        let page = physical & !(PAGE_SIZE - 1);
        let mut whole_page = true;
        for entry in self.pmp_entries() {
            let Some((low, high)) = self.pmp_range(entry) else { continue };
            if high <= page || low >= page.saturating_add(PAGE_SIZE) || low >= high {
                continue;
            }
            if high <= physical || low >= physical.saturating_add(width) {
                whole_page = false;
                continue;
            }
            whole_page &= low <= page && high >= page.saturating_add(PAGE_SIZE);
            let configuration = self.pmp_configuration(entry);
            let allowed = if low > physical || high < physical.saturating_add(width) {
                // An access that an entry matches in part fails, in every mode.
                0
            } else if privilege == MACHINE && configuration & LOCKED == 0 {
                READ | WRITE | EXECUTE
            } else {
                configuration & (READ | WRITE | EXECUTE)
            };
            return Permission { allowed, whole_page };
        }
        Permission { allowed: if privilege == MACHINE { READ | WRITE | EXECUTE } else { 0 }, whole_page }
    }

    /// Writes eight configuration bytes: `pmpcfg0` (`word` 0) or `pmpcfg2` (1).
    pub(super) fn set_pmpcfg(&mut self, word: usize, value: u64) {
        self.pmp_uniform = Uniform::default();
        let mut new = 0;
        for entry in 0..8 {
            let old = self.pmp_configuration(word * 8 + entry);
            let mut byte = (value >> (entry * 8)) as u8 & 0x9f;
            if old & LOCKED != 0 {
                byte = old;
            } else if byte & (READ | WRITE) == WRITE {
                // The combination is reserved.
                byte &= !WRITE;
            }
            new |= u64::from(byte) << (entry * 8);
        }
        if let Some(slot) = self.pmpcfg.get_mut(word) {
            *slot = new;
        }
    }

    /// Writes an address register, unless its entry is locked, or the next one is and begins where this one ends.
    pub(super) fn set_pmpaddr(&mut self, entry: usize, value: u64) {
        self.pmp_uniform = Uniform::default();
        let next = self.pmp_configuration(entry + 1);
        if self.pmp_configuration(entry) & LOCKED != 0 || next & LOCKED != 0 && next >> 3 & 3 == 1 {
            return;
        }
        if let Some(slot) = self.pmpaddr.get_mut(entry) {
            *slot = value & ADDRESS_MASK;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::riscv64::SUPERVISOR;

    #[test]
    fn no_entry_denies_all_modes_but_machine_mode() {
        let mut guest = Riscv64::new();
        assert_eq!(guest.pmp_check(0x8000_0000, 8, SUPERVISOR), Permission { allowed: 0, whole_page: true });
        assert_eq!(guest.pmp_check(0x8000_0000, 8, MACHINE), Permission { allowed: 7, whole_page: true });
    }

    #[test]
    fn lower_entries_win_and_partial_matches_fail() {
        let mut guest = Riscv64::new();
        // Entry 0: 16 bytes at 0x8000_0010, nothing allowed, locked. Entry 1: everything.
        guest.set_pmpaddr(0, 0x8000_0010 >> 2 | 1);
        guest.set_pmpaddr(1, u64::MAX);
        guest.set_pmpcfg(0, 0x1f98);
        assert_eq!(guest.pmp_check(0x8000_0010, 8, MACHINE), Permission { allowed: 0, whole_page: false });
        assert_eq!(guest.pmp_check(0x8000_000c, 8, MACHINE), Permission { allowed: 0, whole_page: false });
        assert_eq!(guest.pmp_check(0x8000_0020, 8, SUPERVISOR), Permission { allowed: 7, whole_page: false });
        assert_eq!(guest.pmp_check(0x8000_1000, 8, SUPERVISOR), Permission { allowed: 7, whole_page: true });
        guest.set_pmpcfg(0, 0);
        assert_eq!(guest.pmp_configuration(0), 0x98);
        assert_eq!(guest.pmp_configuration(1), 0);
        guest.set_pmpaddr(0, 0);
        assert_eq!(guest.pmpaddr[0], 0x8000_0010 >> 2 | 1);
    }

    #[test]
    fn what_was_found_before_changes_no_answer() {
        let mut guest = Riscv64::new();
        // 16 bytes read-only, a page that may be executed, what lies below 0x9000 readable and writable, the rest nothing.
        guest.set_pmpaddr(0, 0x2010 >> 2 | 1);
        guest.set_pmpaddr(1, 0x4000 >> 2 | 0x1ff);
        guest.set_pmpaddr(2, 0x9000 >> 2);
        guest.set_pmpaddr(3, u64::MAX);
        guest.set_pmpcfg(0, 0x18_0b_1c_19);
        let places = (0..12).flat_map(|page| [0, 8, 0x10, 0xff8].map(|offset| page * 0x1000 + offset));
        let answers: Vec<_> = places.clone().map(|place| guest.pmp_look_up(place, 8, SUPERVISOR)).collect();
        assert!(answers.iter().any(|answer| !answer.whole_page));
        for step in [1, 5, 7, 11] {
            for at in (0..answers.len()).map(|at| at * step % answers.len()) {
                let place = places.clone().nth(at).unwrap();
                assert_eq!(guest.pmp_check(place, 8, SUPERVISOR), answers[at], "{place:#x}");
            }
        }
    }

    #[test]
    fn top_of_range_entries() {
        let mut guest = Riscv64::new();
        guest.set_pmpaddr(0, 0x1000 >> 2);
        guest.set_pmpaddr(1, 0x2ff8 >> 2);
        guest.set_pmpcfg(0, 0x0900);
        assert_eq!(guest.pmp_check(0x0ff8, 8, SUPERVISOR).allowed, 0);
        assert_eq!(guest.pmp_check(0x1000, 8, SUPERVISOR), Permission { allowed: READ, whole_page: true });
        assert_eq!(guest.pmp_check(0x2ff4, 8, SUPERVISOR).allowed, 0);
    }
}
