//! The soft TLB: where pages of guest-virtual memory are in the host's, as compiled code looks it up.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::{Mutex, MutexGuard};

use crate::ir::MemoryMode;
use crate::platform::PAGE_SIZE;

/// Most translation regimes a guest may have.
pub const MOST_MODES: usize = 4;
/// Entries of the soft TLB for each regime.
pub const TLB_ENTRIES: usize = 8192;
/// Entries for each regime that take what others push out of the TLB: pages that are used in turn may belong to the same entry, as those
/// of a large copy do.
const VICTIMS: usize = 8;
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
    fn new() -> TlbEntry {
        TlbEntry {
            read: AtomicU64::new(NO_TAG),
            write: AtomicU64::new(NO_TAG),
            addend: AtomicU64::new(0),
            physical: AtomicU64::new(0),
        }
    }

    /// Exchanges the contents of two entries, for the owner under the lock.
    fn swap(&self, other: &TlbEntry) {
        let fields = |entry: &TlbEntry| {
            [&entry.read, &entry.write, &entry.addend, &entry.physical].map(|field| field.load(Ordering::Relaxed))
        };
        let (mine, theirs) = (fields(self), fields(other));
        for (entry, [read, write, addend, physical]) in [(self, theirs), (other, mine)] {
            entry.read.store(read, Ordering::Relaxed);
            entry.write.store(write, Ordering::Relaxed);
            entry.addend.store(addend, Ordering::Relaxed);
            entry.physical.store(physical, Ordering::Relaxed);
        }
    }

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
    victims: [[TlbEntry; VICTIMS]; MOST_MODES],
    /// Which victim is replaced next.
    next_victim: AtomicUsize,
    filled: Mutex<Filled>,
}

fn index(address: u64, mode: MemoryMode) -> usize {
    usize::from(mode.0) % MOST_MODES * TLB_ENTRIES + (address / PAGE_SIZE) as usize % TLB_ENTRIES
}

impl Tlb {
    pub(crate) fn new() -> Tlb {
        Tlb {
            entries: (0..MOST_MODES * TLB_ENTRIES).map(|_| TlbEntry::new()).collect(),
            victims: std::array::from_fn(|_| std::array::from_fn(|_| TlbEntry::new())),
            next_victim: AtomicUsize::new(0),
            filled: Mutex::new(Filled::new()),
        }
    }

    /// All entries, regime by regime.
    /// The entries of a translation regime, and behind them those of the others.
    pub(crate) fn entries_of(&self, mode: usize) -> &[TlbEntry] {
        &self.entries[mode * TLB_ENTRIES..]
    }

    /// The entry that an address may be in.
    pub(crate) fn entry(&self, address: u64, mode: MemoryMode) -> &TlbEntry {
        &self.entries[index(address, mode)]
    }

    /// To be held while an entry is filled.
    pub(crate) fn filling(&self) -> MutexGuard<'_, Filled> {
        self.filled.lock()
    }

    /// Forgets everything. For the owner.
    pub(crate) fn flush(&self) {
        self.filled.lock().flush(self);
    }

    /// Forgets what holds in the present address space only. For the owner.
    pub(crate) fn flush_address_space(&self) {
        self.filled.lock().flush_address_space(self);
    }

    /// Keeps what an entry holds, since it is about to be filled with another page. For the owner, under the lock.
    pub(crate) fn keep(&self, address: u64, mode: MemoryMode) {
        let entry = self.entry(address, mode);
        let page = address & !(PAGE_SIZE - 1);
        let tags = [&entry.read, &entry.write].map(|tag| tag.load(Ordering::Relaxed));
        if tags == [NO_TAG; 2] || tags.contains(&page) {
            return;
        }
        let next = self.next_victim.load(Ordering::Relaxed);
        self.next_victim.store((next + 1) % VICTIMS, Ordering::Relaxed);
        self.victims[usize::from(mode.0) % MOST_MODES][next].swap(entry);
    }

    /// Brings back what another page pushed out; the entry if it now permits the access. For the owner.
    pub(crate) fn recall(&self, address: u64, mode: MemoryMode, write: bool) -> Option<&TlbEntry> {
        let page = address & !(PAGE_SIZE - 1);
        let holds = |entry: &&TlbEntry| if write { &entry.write } else { &entry.read }.load(Ordering::Relaxed) == page;
        let victim = self.victims[usize::from(mode.0) % MOST_MODES].iter().find(holds)?;
        let _filling = self.filled.lock();
        let entry = self.entry(address, mode);
        entry.swap(victim);
        // Another thread may have taken the permission away meanwhile.
        holds(&entry).then_some(entry)
    }

    /// Forgets victims, for the owner.
    fn forget_victims(&self, chosen: impl Fn(&TlbEntry) -> bool) {
        self.victims.iter().flatten().filter(|entry| chosen(entry)).for_each(TlbEntry::forget);
    }

    /// Forgets one guest-virtual page. For the owner.
    pub fn flush_page(&self, address: u64) {
        for mode in 0..MOST_MODES {
            self.entry(address, MemoryMode(mode as u8)).forget();
        }
        let page = address & !(PAGE_SIZE - 1);
        let holds = |tag: &AtomicU64| tag.load(Ordering::Relaxed) == page;
        self.forget_victims(|entry| holds(&entry.read) || holds(&entry.write));
    }

    /// Makes the next write to a guest-physical page (to any page: `None`) take the slow path. For any thread.
    pub fn revoke_writes(&self, physical: Option<u64>) {
        let filled = self.filled.lock();
        for entry in filled.entries(self).chain(self.victims.iter().flatten()) {
            if physical.is_none_or(|page| entry.physical.load(Ordering::Relaxed) & !(PAGE_SIZE - 1) == page) {
                entry.write.store(NO_TAG, Ordering::SeqCst);
            }
        }
    }
}

/// Which entries of a TLB may be in use, so that what goes through them need not visit the others.
pub(crate) struct Filled {
    global: List,
    local: List,
}

/// Positions of entries, each once.
struct List {
    positions: Vec<u16>,
    /// For each entry whether it is among them.
    listed: Box<[bool]>,
}

impl List {
    fn new() -> List {
        List { positions: Vec::new(), listed: vec![false; MOST_MODES * TLB_ENTRIES].into() }
    }

    fn add(&mut self, position: usize) {
        if !std::mem::replace(&mut self.listed[position], true) {
            self.positions.push(position as u16);
        }
    }

    fn entries<'a>(&'a self, tlb: &'a Tlb) -> impl Iterator<Item = &'a TlbEntry> {
        self.positions.iter().map(|position| &tlb.entries[usize::from(*position)])
    }

    fn clear(&mut self) {
        for position in self.positions.drain(..) {
            self.listed[usize::from(position)] = false;
        }
    }
}

impl Filled {
    fn new() -> Filled {
        Filled { global: List::new(), local: List::new() }
    }

    /// An entry is about to be filled, with what holds in every address space or in the present one only.
    pub(crate) fn note(&mut self, address: u64, mode: MemoryMode, global: bool) {
        let list = if global { &mut self.global } else { &mut self.local };
        list.add(index(address, mode));
    }

    /// The entries that may be in use; some of them twice.
    fn entries<'a>(&'a self, tlb: &'a Tlb) -> impl Iterator<Item = &'a TlbEntry> {
        self.global.entries(tlb).chain(self.local.entries(tlb))
    }

    fn flush(&mut self, tlb: &Tlb) {
        self.entries(tlb).for_each(TlbEntry::forget);
        self.global.clear();
        self.local.clear();
        tlb.forget_victims(|_| true);
    }

    fn flush_address_space(&mut self, tlb: &Tlb) {
        let is_local = |entry: &TlbEntry| entry.physical.load(Ordering::Relaxed) & GLOBAL == 0;
        self.local.entries(tlb).filter(|entry| is_local(entry)).for_each(TlbEntry::forget);
        self.local.clear();
        tlb.forget_victims(is_local);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODE: MemoryMode = MemoryMode(1);

    fn fill(tlb: &Tlb, page: u64, global: bool) {
        tlb.filling().note(page, MODE, global);
        let entry = tlb.entry(page, MODE);
        entry.read.store(page, Ordering::Relaxed);
        entry.physical.store(if global { GLOBAL } else { 0 }, Ordering::Relaxed);
    }

    fn holds(tlb: &Tlb, page: u64) -> bool {
        tlb.entry(page, MODE).read.load(Ordering::Relaxed) == page
    }

    #[test]
    fn a_flush_of_the_address_space_leaves_what_is_global() {
        let tlb = Tlb::new();
        fill(&tlb, 0x1000, true);
        fill(&tlb, 0x2000, false);
        // An entry that was local and is global now.
        fill(&tlb, 0x3000, false);
        fill(&tlb, 0x3000, true);
        tlb.flush_address_space();
        assert_eq!([0x1000, 0x2000, 0x3000].map(|page| holds(&tlb, page)), [true, false, true]);
        tlb.flush();
        assert_eq!([0x1000, 0x3000].map(|page| holds(&tlb, page)), [false, false]);
    }

    #[test]
    fn pages_of_one_entry_push_each_other_out_and_come_back() {
        let tlb = Tlb::new();
        let pages = [1, 2, 3].map(|number| number * TLB_ENTRIES as u64 * PAGE_SIZE);
        for page in pages {
            tlb.keep(page, MODE);
            fill(&tlb, page, page == pages[0]);
        }
        assert!(tlb.recall(pages[1], MODE, true).is_none(), "it was filled for reads only");
        for page in pages {
            assert!(holds(&tlb, page) || tlb.recall(page, MODE, false).is_some() && holds(&tlb, page));
        }
        tlb.flush_address_space();
        assert!(!holds(&tlb, pages[2]) && tlb.recall(pages[1], MODE, false).is_none());
        assert!(tlb.recall(pages[0], MODE, false).is_some());
        tlb.flush_page(pages[0]);
        assert!(!holds(&tlb, pages[0]) && tlb.recall(pages[0], MODE, false).is_none());
    }

    #[test]
    fn an_entry_that_is_filled_again_is_listed_once() {
        let tlb = Tlb::new();
        for round in 0..10 {
            fill(&tlb, 0x1000, round % 2 == 0);
            tlb.flush_page(0x1000);
        }
        assert_eq!(tlb.filling().entries(&tlb).count(), 2);
        tlb.flush();
        fill(&tlb, 0x1000, true);
        assert_eq!(tlb.filling().entries(&tlb).count(), 1);
    }
}
