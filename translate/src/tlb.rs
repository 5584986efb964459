//! The soft TLB: where pages of guest-virtual memory are in the host's, as compiled code looks it up.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, MutexGuard};

use crate::ir::MemoryMode;
use crate::platform::PAGE_SIZE;

/// Most translation regimes a guest may have.
pub const MOST_MODES: usize = 4;
/// Entries of the soft TLB for each regime.
pub const TLB_ENTRIES: usize = 1024;
/// A tag that no address matches.
pub(crate) const NO_TAG: u64 = 1;

/// One cached translation.
#[repr(C)]
#[derive(Debug)]
pub struct TlbEntry {
    /// Guest-virtual page whose reads go to host memory.
    pub read: AtomicU64,
    /// Guest-virtual page whose writes go to host memory. Cleared by other threads when the page gets translated code or
    /// its dirty bit is taken.
    pub write: AtomicU64,
    /// Host address minus guest-virtual address.
    pub addend: AtomicU64,
    /// Guest-physical page, [`MAY_WRITE`] and [`GLOBAL`].
    pub physical: AtomicU64,
}

impl TlbEntry {
    fn forget(&self) {
        self.read.store(NO_TAG, Ordering::Relaxed);
        self.write.store(NO_TAG, Ordering::Relaxed);
    }
}

/// Bit of [`TlbEntry::physical`]: writes need no further look at the page tables. Where `write` has no tag all the same, they
/// must be recorded, or the page holds translated code.
pub(crate) const MAY_WRITE: u64 = 1;

/// Bit of [`TlbEntry::physical`]: the entry holds in every address space.
pub(crate) const GLOBAL: u64 = 2;

/// A processor's soft TLB.
///
/// Only the owner fills it; any thread may take write permission away, under the lock that filling takes as well.
pub struct Tlb {
    entries: Box<[TlbEntry]>,
    filling: Mutex<()>,
}

fn index(address: u64, mode: MemoryMode) -> usize {
    usize::from(mode.0) % MOST_MODES * TLB_ENTRIES + (address / PAGE_SIZE) as usize % TLB_ENTRIES
}

impl Tlb {
    pub(crate) fn new() -> Tlb {
        let entry = |_| TlbEntry {
            read: AtomicU64::new(NO_TAG),
            write: AtomicU64::new(NO_TAG),
            addend: AtomicU64::new(0),
            physical: AtomicU64::new(0),
        };
        Tlb { entries: (0..MOST_MODES * TLB_ENTRIES).map(entry).collect(), filling: Mutex::new(()) }
    }

    /// All entries, regime by regime.
    pub(crate) fn entries(&self) -> &[TlbEntry] {
        &self.entries
    }

    /// The entry that an address may be in.
    pub(crate) fn entry(&self, address: u64, mode: MemoryMode) -> &TlbEntry {
        &self.entries[index(address, mode)]
    }

    /// To be held while an entry is filled.
    pub(crate) fn filling(&self) -> MutexGuard<'_, ()> {
        self.filling.lock()
    }

    /// Forgets one guest-virtual page. For the owner.
    pub fn flush_page(&self, address: u64) {
        for mode in 0..MOST_MODES {
            self.entry(address, MemoryMode(mode as u8)).forget();
        }
    }

    /// Makes the next write to a guest-physical page (to any page: `None`) take the slow path. For any thread.
    pub fn revoke_writes(&self, physical: Option<u64>) {
        let _filling = self.filling.lock();
        for entry in &self.entries {
            if physical.is_none_or(|page| entry.physical.load(Ordering::Relaxed) & !(PAGE_SIZE - 1) == page) {
                entry.write.store(NO_TAG, Ordering::SeqCst);
            }
        }
    }
}

/// Which entries of a TLB may be in use, so that a flush need not visit the others. The owner's.
#[derive(Default)]
pub(crate) struct Filled {
    global: Vec<u16>,
    local: Vec<u16>,
}

/// An entry that is filled again and again is in its list again and again; then a flush comes before the list grows further.
const MOST_FILLED: usize = 2 * MOST_MODES * TLB_ENTRIES;

impl Filled {
    /// An entry is about to be filled, with what holds in every address space or in the present one only.
    pub(crate) fn note(&mut self, tlb: &Tlb, address: u64, mode: MemoryMode, global: bool) {
        let list = if global { &mut self.global } else { &mut self.local };
        if list.len() == MOST_FILLED {
            for position in list.drain(..) {
                tlb.entries[usize::from(position)].forget();
            }
        }
        list.push(index(address, mode) as u16);
    }

    /// Forgets everything.
    pub(crate) fn flush(&mut self, tlb: &Tlb) {
        for position in self.global.drain(..).chain(self.local.drain(..)) {
            tlb.entries[usize::from(position)].forget();
        }
    }

    /// Forgets what holds in the present address space only.
    pub(crate) fn flush_address_space(&mut self, tlb: &Tlb) {
        for position in self.local.drain(..) {
            let entry = &tlb.entries[usize::from(position)];
            if entry.physical.load(Ordering::Relaxed) & GLOBAL == 0 {
                entry.forget();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODE: MemoryMode = MemoryMode(1);

    fn fill(tlb: &Tlb, filled: &mut Filled, page: u64, global: bool) {
        filled.note(tlb, page, MODE, global);
        let entry = tlb.entry(page, MODE);
        entry.read.store(page, Ordering::Relaxed);
        entry.physical.store(if global { GLOBAL } else { 0 }, Ordering::Relaxed);
    }

    fn holds(tlb: &Tlb, page: u64) -> bool {
        tlb.entry(page, MODE).read.load(Ordering::Relaxed) == page
    }

    #[test]
    fn a_flush_of_the_address_space_leaves_what_is_global() {
        let (tlb, mut filled) = (Tlb::new(), Filled::default());
        fill(&tlb, &mut filled, 0x1000, true);
        fill(&tlb, &mut filled, 0x2000, false);
        // An entry that was local and is global now.
        fill(&tlb, &mut filled, 0x3000, false);
        fill(&tlb, &mut filled, 0x3000, true);
        filled.flush_address_space(&tlb);
        assert_eq!([0x1000, 0x2000, 0x3000].map(|page| holds(&tlb, page)), [true, false, true]);
        filled.flush(&tlb);
        assert_eq!([0x1000, 0x3000].map(|page| holds(&tlb, page)), [false, false]);
    }

    #[test]
    fn an_entry_that_is_filled_forever_takes_no_memory_forever() {
        let (tlb, mut filled) = (Tlb::new(), Filled::default());
        fill(&tlb, &mut filled, 0x5000, false);
        for _ in 0..3 * MOST_FILLED {
            fill(&tlb, &mut filled, 0x1000, false);
        }
        assert!(filled.local.len() <= MOST_FILLED && holds(&tlb, 0x1000) && !holds(&tlb, 0x5000));
    }
}
