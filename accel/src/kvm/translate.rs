//! A walk of the guest's page tables (SDM volume 3, chapter 4).
//!
//! KVM has a call for this, but that call answers for supervisor mode only and may set accessed bits.

use crate::state::x86_64::{cr0, cr4, efer};

/// What paging depends on.
pub(super) struct Paging {
    pub(super) cr0: u64,
    pub(super) cr3: u64,
    pub(super) cr4: u64,
    pub(super) efer: u64,
    /// Current privilege level.
    pub(super) privilege: u8,
}

const PRESENT: u64 = 1 << 0;
const USER: u64 = 1 << 2;
const LARGE: u64 = 1 << 7;
/// Address bits of an entry of eight bytes.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

impl Paging {
    /// Where a data read of linear `address` goes; `None` where it would fault. `read` reads physical memory.
    ///
    /// Supervisor-mode access prevention and protection keys, by which software guards itself, do not hold here.
    pub(super) fn translate(&self, address: u64, read: impl Fn(u64, &mut [u8]) -> bool) -> Option<u64> {
        let long = self.efer & efer::LMA != 0;
        if self.cr0 & cr0::PG == 0 {
            return (address >> 32 == 0).then_some(address);
        }
        if !long && address >> 32 != 0 {
            return None;
        }
        if !long && self.cr4 & cr4::PAE == 0 {
            return self.walk_32_bit(address, read);
        }
        // The level whose entries each map as much as the whole tree below: bits 47..39 or 56..48 choose in the top.
        let (mut level, mut table) = match (long, self.cr4 & cr4::LA57 != 0) {
            (true, true) => (5, self.cr3 & ADDRESS),
            (true, false) => (4, self.cr3 & ADDRESS),
            (false, _) => (3, self.cr3 & 0xffff_ffe0),
        };
        if long {
            let unused = 64 - (12 + 9 * level);
            let extended = ((address << unused) as i64 >> unused) as u64;
            if extended != address {
                return None;
            }
        }
        loop {
            let shift = 12 + 9 * (level - 1);
            let index = address >> shift & if level == 3 && !long { 3 } else { 0x1ff };
            let mut entry = [0; 8];
            if !read(table.checked_add(8 * index)?, &mut entry) {
                return None;
            }
            let entry = u64::from_le_bytes(entry);
            let is_page_directory_pointer_of_pae = level == 3 && !long;
            if entry & PRESENT == 0 || self.forbidden(entry) && !is_page_directory_pointer_of_pae {
                return None;
            }
            let large = entry & LARGE != 0 && (level == 2 || level == 3 && long);
            if level == 1 || large {
                let offset = (1_u64 << shift) - 1;
                return Some(entry & ADDRESS & !offset | address & offset);
            }
            table = entry & ADDRESS;
            level -= 1;
        }
    }

    fn walk_32_bit(&self, address: u64, read: impl Fn(u64, &mut [u8]) -> bool) -> Option<u64> {
        let entry_at = |at: u64| {
            let mut entry = [0; 4];
            let entry = read(at, &mut entry).then(|| u64::from(u32::from_le_bytes(entry)))?;
            (entry & PRESENT != 0 && !self.forbidden(entry)).then_some(entry)
        };
        let directory = entry_at((self.cr3 & 0xffff_f000) + 4 * (address >> 22 & 0x3ff))?;
        if directory & LARGE != 0 && self.cr4 & cr4::PSE != 0 {
            // Bits 20..13 are bits 39..32 of the address.
            let high = (directory >> 13 & 0xff) << 32;
            return Some(high | directory & 0xffc0_0000 | address & 0x003f_ffff);
        }
        let page = entry_at((directory & 0xffff_f000) + 4 * (address >> 12 & 0x3ff))?;
        Some(page & 0xffff_f000 | address & 0xfff)
    }

    fn forbidden(&self, entry: u64) -> bool {
        self.privilege == 3 && entry & USER == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn memory(entries: &[(u64, u64)]) -> impl Fn(u64, &mut [u8]) -> bool {
        let entries: HashMap<u64, u64> = entries.iter().copied().collect();
        move |address, data| {
            let Some(entry) = entries.get(&address) else { return false };
            data.copy_from_slice(&entry.to_le_bytes()[..data.len()]);
            true
        }
    }

    fn long(privilege: u8) -> Paging {
        Paging { cr0: cr0::PG | cr0::PE, cr3: 0x1000, cr4: cr4::PAE, efer: efer::LMA, privilege }
    }

    #[test]
    fn long_mode_pages_of_all_sizes() {
        let tables = [
            (0x1ff8, 0x2007),
            (0x2ff8, 0x3007),
            (0x2ff0, 0x4000_0087),
            (0x3ff8, 0x4007),
            (0x3ff0, 0x20_0087),
            (0x4ff8, 0x5003),
        ];
        let supervisor = |address| long(0).translate(address, memory(&tables));
        assert_eq!(supervisor(0xffff_ffff_ffff_f123), Some(0x5123));
        assert_eq!(supervisor(0xffff_ffff_ffc1_2345), Some(0x21_2345));
        assert_eq!(supervisor(0xffff_ffff_8123_4567), Some(0x4123_4567));
        assert_eq!(supervisor(0x0000_7fff_ffff_f123), None, "no entry");
        assert_eq!(supervisor(0x0000_ffff_ffff_f123), None, "not canonical");
        let user = |address| long(3).translate(address, memory(&tables));
        assert_eq!(user(0xffff_ffff_ffff_f123), None, "a supervisor page");
        assert_eq!(user(0xffff_ffff_ffc1_2345), Some(0x21_2345));
    }

    #[test]
    fn legacy_paging() {
        let pae = Paging { cr0: cr0::PG, cr3: 0x1020, cr4: cr4::PAE, efer: 0, privilege: 3 };
        let tables = [(0x1038, 0x2001), (0x2ff8, 0x3007), (0x3ff8, 0x9007)];
        assert_eq!(pae.translate(0xffff_f042, memory(&tables)), Some(0x9042));
        let two_levels = Paging { cr0: cr0::PG, cr3: 0x1000, cr4: cr4::PSE, efer: 0, privilege: 0 };
        let tables = [(0x1ffc, 0x2003), (0x2ffc, 0x7003), (0x1000, 0x0080_2083)];
        assert_eq!(two_levels.translate(0xffff_f042, memory(&tables)), Some(0x7042));
        assert_eq!(two_levels.translate(0x0012_3456, memory(&tables)), Some(0x1_0092_3456));
        assert_eq!(two_levels.translate(0x1_0000_0000, memory(&tables)), None);
    }
}
