//! The jump cache: where the dispatcher, and compiled code at jumps between pages and to computed addresses, look first for the
//! translation of an address.

use super::{Cell, Translation};
use crate::platform::PAGE_SIZE;

/// Groups of entries, each for the addresses of pages with the same residue.
pub(crate) const JUMP_CACHE_PAGES: u64 = 512;
/// Entries of a group.
pub(crate) const JUMP_CACHE_PLACES: u64 = 256;
/// Bytes of an entry, for compiled code.
pub(crate) const JUMP_CACHE_ENTRY: u64 = size_of::<JumpCacheEntry>() as u64;
/// [`JumpCacheEntry::flags`] of an empty entry; translation flags have 32 bits.
const NO_FLAGS: u64 = u64::MAX;

/// Compiled code takes the number of a page from an address by a shift to the left.
const _: () = assert!(JUMP_CACHE_PLACES * JUMP_CACHE_ENTRY >= PAGE_SIZE);

/// Where an address leads under certain flags.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct JumpCacheEntry {
    pub(crate) pc: u64,
    pub(crate) flags: u64,
    /// Code for it, or what returns to the dispatcher. It serves as long as the generation: whoever comes to it when there is better goes on to that.
    /// Where regions cannot be [closed](super::links), as on hosts without a baseline compiler, it is the cell instead.
    pub(crate) code: *const u8,
    /// Kept alive by the generation that the engine holds; stays when the entry is emptied.
    translation: *const Translation,
}

impl JumpCacheEntry {
    const EMPTY: JumpCacheEntry =
        JumpCacheEntry { pc: 0, flags: NO_FLAGS, code: std::ptr::null(), translation: std::ptr::null() };
}

/// How far the second place of an address is from its first: one to the right or to the left.
const OTHER: usize = 1;

/// Whose addresses a group of entries holds.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pages {
    None,
    /// Those of the page that begins there.
    One(u64),
    Several,
}

/// Both entries that an address may have, in one line of the host's cache.
#[repr(C, align(64))]
struct Pair([JumpCacheEntry; 2]);

/// The jump cache of one processor. Pointers in it are valid as long as the generation of translations that they were filled from.
pub(super) struct JumpCache {
    pairs: Box<[Pair]>,
    pages: [Pages; JUMP_CACHE_PAGES as usize],
    /// Positions of entries that hold in this address space only, filled since it was entered.
    local: Vec<usize>,
    /// For each position, whether it is among these.
    is_local: Box<[bool]>,
    /// For each position, whether it was filled later than the other that the same addresses have.
    is_later: Box<[bool]>,
}

/// The first position of an address. [`crate::compile`] emits the same computation.
fn index(pc: u64) -> usize {
    let place = (pc ^ (pc / JUMP_CACHE_PLACES)) % JUMP_CACHE_PLACES;
    group(pc) * JUMP_CACHE_PLACES as usize + place as usize
}

fn group(pc: u64) -> usize {
    (pc / PAGE_SIZE % JUMP_CACHE_PAGES) as usize
}

/// The code of an address under certain flags, for who is in compiled code; `by_cell`: where entries hold cells instead.
///
/// # Safety
/// `entries` is what [`JumpCache::as_ptr`] gave of a jump cache that lives and is not written to meanwhile, and the generation that it was filled
/// from lives, too.
pub(crate) unsafe fn code_of(entries: *const JumpCacheEntry, pc: u64, flags: u32, by_cell: bool) -> Option<*const u8> {
    // SAFETY: the index is within the entries, as of the jump cache itself.
    let pair = unsafe { &*entries.cast::<Pair>().add(index(pc) / 2) };
    let entry = pair.0.iter().find(|entry| entry.pc == pc && entry.flags == u64::from(flags))?;
    if by_cell {
        // SAFETY: there, it points to the cell of a translation of the generation.
        return Some(unsafe { &*entry.code.cast::<Cell>() }.entry());
    }
    Some(entry.code)
}

impl JumpCache {
    pub(super) fn new() -> JumpCache {
        let count = (JUMP_CACHE_PAGES * JUMP_CACHE_PLACES) as usize;
        JumpCache {
            pairs: (0..count / 2).map(|_| Pair([JumpCacheEntry::EMPTY; 2])).collect(),
            pages: [Pages::None; JUMP_CACHE_PAGES as usize],
            local: Vec::new(),
            is_local: vec![false; count].into(),
            is_later: vec![false; count].into(),
        }
    }

    /// The entries, for compiled code.
    pub(super) fn as_ptr(&self) -> *const JumpCacheEntry {
        self.pairs.as_ptr().cast()
    }

    fn entry(&mut self, position: usize) -> &mut JumpCacheEntry {
        &mut self.pairs[position / 2].0[position % 2]
    }

    /// The translation of an address under certain flags.
    #[inline]
    pub(super) fn get(&self, pc: u64, flags: u32) -> Option<*const Translation> {
        let is_of = |entry: &&JumpCacheEntry| entry.pc == pc && entry.flags == u64::from(flags);
        self.pair(pc).iter().find(is_of).map(|entry| entry.translation)
    }

    /// The last translations of an address, even if their entries were emptied since.
    pub(super) fn last(&self, pc: u64) -> impl Iterator<Item = *const Translation> {
        let known = move |entry: &&JumpCacheEntry| entry.pc == pc && !entry.translation.is_null();
        self.pair(pc).iter().filter(known).map(|entry| entry.translation)
    }

    #[inline]
    fn pair(&self, pc: u64) -> &[JumpCacheEntry; 2] {
        &self.pairs[index(pc) / 2].0
    }

    /// Notes what code there now is of an address under certain flags.
    #[inline]
    pub(super) fn note_code(&mut self, pc: u64, flags: u32, code: *const u8) {
        let pair = &mut self.pairs[index(pc) / 2].0;
        if let Some(entry) = pair.iter_mut().find(|entry| entry.pc == pc && entry.flags == u64::from(flags)) {
            entry.code = code;
        }
    }

    fn set_local(&mut self, position: usize, local: bool) {
        // Those that are no longer local stay in the list, which does not repeat any.
        if local && !self.is_local[position] {
            self.local.push(position);
            self.is_local[position] = true;
        }
    }

    /// Fills the entry of an address; `code`: see [`JumpCacheEntry::code`]; `global`: for all address spaces.
    pub(super) fn fill(&mut self, pc: u64, flags: u32, translation: &Translation, code: *const u8, global: bool) {
        let first = index(pc);
        let same = |entry: &JumpCacheEntry| entry.pc == pc && [NO_FLAGS, flags.into()].contains(&entry.flags);
        let other = first ^ OTHER;
        let position = if same(self.entry(other)) { other } else { first };
        if !same(self.entry(position)) && self.is_later[first] {
            // What was filled before the other goes.
            self.pairs[first / 2].0.swap(0, 1);
            self.set_local(other, self.is_local[first]);
        }
        (self.is_later[position], self.is_later[position ^ OTHER]) = (true, false);
        self.set_local(position, !global);
        let page = pc & !(PAGE_SIZE - 1);
        let pages = &mut self.pages[group(pc)];
        *pages = match *pages {
            Pages::Several => Pages::Several,
            Pages::One(other) if other != page => Pages::Several,
            Pages::None | Pages::One(_) => Pages::One(page),
        };
        *self.entry(position) = JumpCacheEntry { pc, flags: flags.into(), code, translation };
    }

    fn clear_group(&mut self, group: usize) {
        let pairs = JUMP_CACHE_PLACES as usize / 2;
        self.pages[group] = Pages::None;
        for entry in self.pairs[group * pairs..][..pairs].iter_mut().flat_map(|pair| &mut pair.0) {
            entry.flags = NO_FLAGS;
        }
    }

    /// Empties all entries.
    pub(super) fn clear(&mut self) {
        self.forget_local();
        for group in 0..self.pages.len() {
            if self.pages[group] != Pages::None {
                self.clear_group(group);
            }
        }
    }

    /// Empties the entries of addresses in a page.
    pub(super) fn clear_page(&mut self, address: u64) {
        let held = self.pages[group(address)];
        if held == Pages::Several || held == Pages::One(address & !(PAGE_SIZE - 1)) {
            self.clear_group(group(address));
        }
    }

    /// Empties the entries that hold in this address space only.
    pub(super) fn clear_address_space(&mut self) {
        for position in self.local.drain(..) {
            self.pairs[position / 2].0[position % 2].flags = NO_FLAGS;
            self.is_local[position] = false;
        }
    }

    fn forget_local(&mut self) {
        for position in self.local.drain(..) {
            self.is_local[position] = false;
        }
    }

    /// Forgets everything, since the translations go.
    pub(super) fn forget(&mut self) {
        self.forget_local();
        self.pages.fill(Pages::None);
        self.pairs.fill_with(|| Pair([JumpCacheEntry::EMPTY; 2]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::translations::{Key, Tiers, Translation, Translator};
    use crate::riscv64::Riscv64;

    #[test]
    fn what_was_filled_before_the_others_goes() {
        let generation = Translator::<Riscv64>::new(Tiers::InterpreterOnly, None).generation();
        let translation =
            |physical| Translation::for_tests(&generation, Key { start: 0, physical, next_page: None, flags: 0 });
        let translations: Vec<_> = (0..3).map(|number| translation(number * PAGE_SIZE)).collect();
        // The first and the last have the same first place, the second has the other.
        let addresses = [0, 0x100, JUMP_CACHE_PAGES * PAGE_SIZE];
        let mut cache = JumpCache::new();
        let fill = |cache: &mut JumpCache, which: usize| {
            cache.fill(addresses[which], 0, &translations[which], std::ptr::null(), false);
        };
        let present = |cache: &JumpCache| addresses.map(|address| cache.get(address, 0).is_some());
        fill(&mut cache, 2);
        fill(&mut cache, 0);
        assert_eq!(present(&cache), [true, false, true]);
        fill(&mut cache, 1);
        assert_eq!(present(&cache), [true, true, false]);
        cache.clear_address_space();
        assert_eq!(present(&cache), [false; 3]);
        assert!(cache.last(addresses[0]).any(|last| last == std::sync::Arc::as_ptr(&translations[0])));
        fill(&mut cache, 0);
        fill(&mut cache, 1);
        cache.clear_page(addresses[1]);
        assert_eq!(present(&cache), [false; 3]);
    }
}
