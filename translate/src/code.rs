//! Which guest-physical memory holds translated code.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, RwLock};
use rustc_hash::FxHashMap;

use crate::platform::PAGE_SIZE;
use crate::tlb::Tlb;

/// Bytes that one bit of a page's record stands for.
const LINE: u64 = PAGE_SIZE / 64;

/// A translation that must not be used any more once the code it was made from changes.
pub trait Invalidate: Send + Sync {
    /// Guest-physical range of the code within the page, first byte and length.
    fn overlaps(&self, physical: u64, bytes: u64) -> bool;
    /// Takes it out of use, at once and for all processors; true if making it was worth while, as it was executed often.
    fn invalidate(&self) -> bool;
}

/// How many translations of a page in succession must have been made in vain for it to be volatile.
const VAIN: u32 = 16;
/// How many blocks of a page are executed without being kept when it becomes volatile, and at most. Then it is tried again.
const FIRST_VOLATILE: u32 = 1 << 10;
const MOST_VOLATILE: u32 = 1 << 16;

/// A page whose code was rewritten.
struct Rewritten {
    /// How many translations in succession were made in vain.
    vain: u32,
    /// How many more blocks are to be executed without being kept.
    left: u32,
    /// How many the next time.
    next: u32,
}

struct Page {
    /// One bit for each [`LINE`] bytes that were translated.
    lines: u64,
    translations: Vec<Weak<dyn Invalidate>>,
    /// Counts slow-path writes, so that a translator learns whether what it read has changed since.
    writes: AtomicU64,
}

impl Page {
    fn new() -> Page {
        Page { lines: 0, translations: Vec::new(), writes: AtomicU64::new(0) }
    }
}

/// The record of translated code of one machine, shared by its processors.
#[derive(Default)]
pub struct CodePages {
    // Lock order: after a `Tlb`'s filling lock for reads; `protect` takes no TLB lock while it holds this.
    pages: RwLock<FxHashMap<u64, Page>>,
    processors: Mutex<Vec<Weak<Tlb>>>,
    // Lock order: alone.
    rewritten: Mutex<FxHashMap<u64, Rewritten>>,
}

impl CodePages {
    /// An empty record.
    pub fn new() -> Arc<CodePages> {
        Arc::new(CodePages::default())
    }

    pub(crate) fn add_processor(&self, tlb: &Arc<Tlb>) {
        let mut processors = self.processors.lock();
        processors.retain(|tlb| tlb.strong_count() > 0);
        processors.push(Arc::downgrade(tlb));
    }

    /// Makes writes to the page of `physical` take slow paths, before its code is read for translation. The result goes
    /// to [`CodePages::record`].
    pub(crate) fn protect(&self, physical: u64) -> u64 {
        let number = physical / PAGE_SIZE;
        if let Some(page) = self.pages.read().get(&number) {
            return page.writes.load(Ordering::SeqCst);
        }
        let writes = self.pages.write().entry(number).or_insert_with(Page::new).writes.load(Ordering::SeqCst);
        self.revoke_writes(Some(number * PAGE_SIZE));
        writes
    }

    /// Makes the next write of every processor to a guest-physical page (to any page: `None`) take the slow path.
    pub fn revoke_writes(&self, physical: Option<u64>) {
        let processors: Vec<_> = self.processors.lock().iter().filter_map(Weak::upgrade).collect();
        for tlb in processors {
            tlb.revoke_writes(physical);
        }
    }

    /// Records a translation of `bytes` of code at `physical`, within one page. False if the page was written to since
    /// `protect` gave `writes`: then the translation is void.
    pub(crate) fn record(&self, physical: u64, bytes: u64, writes: u64, translation: Weak<dyn Invalidate>) -> bool {
        let mut pages = self.pages.write();
        let Some(page) = pages.get_mut(&(physical / PAGE_SIZE)) else { return false };
        if page.writes.load(Ordering::SeqCst) != writes {
            return false;
        }
        page.lines |= lines(physical, bytes);
        page.translations.push(translation);
        true
    }

    /// True if the page of `physical` holds, or may soon hold, translated code.
    pub(crate) fn has_code(&self, physical: u64) -> bool {
        self.pages.read().contains_key(&(physical / PAGE_SIZE))
    }

    /// Forgets translations that are there no longer, since their generation has ended. What is left of one stays in memory as long as this knows it.
    pub(crate) fn forget_ended(&self) {
        self.pages.write().retain(|_, page| {
            page.translations.retain(|translation| translation.strong_count() > 0);
            // As where the last one is taken out of use.
            !page.translations.is_empty()
        });
    }

    /// Takes all translations of code in a range within a page out of use; true if there were any. Writers call it
    /// before and after they write, so that a translator that reads in between notices.
    pub fn invalidate(&self, physical: u64, bytes: u64) -> bool {
        let number = physical / PAGE_SIZE;
        {
            let pages = self.pages.read();
            let Some(page) = pages.get(&number) else { return false };
            page.writes.fetch_add(1, Ordering::SeqCst);
            if page.lines & lines(physical, bytes) == 0 {
                return false;
            }
        }
        let mut pages = self.pages.write();
        let Some(page) = pages.get_mut(&number) else { return false };
        let mut found = false;
        let (mut vain, mut worth_while) = (0, false);
        page.translations.retain(|translation| {
            let Some(translation) = translation.upgrade() else { return false };
            let hit = translation.overlaps(physical, bytes);
            if hit {
                found = true;
                if translation.invalidate() {
                    worth_while = true;
                } else {
                    vain += 1;
                }
            }
            !hit
        });
        if page.translations.is_empty() {
            // The page may be written at full speed again. Who protected it and has not recorded yet finds it gone.
            pages.remove(&number);
        }
        drop(pages);
        if found {
            self.note_rewritten(number, vain, worth_while);
        }
        found
    }

    fn note_rewritten(&self, number: u64, vain: u32, worth_while: bool) {
        let mut rewritten = self.rewritten.lock();
        if worth_while {
            rewritten.remove(&number);
            return;
        }
        let page = rewritten.entry(number).or_insert(Rewritten { vain: 0, left: 0, next: FIRST_VOLATILE });
        page.vain += vain;
        if page.vain >= VAIN {
            *page = Rewritten { vain: 0, left: page.next, next: (page.next * 2).min(MOST_VOLATILE) };
        }
    }

    /// True if the block that is to be executed in the page of `physical` should not be translated, since code there was rewritten again and again before
    /// its translations were of use.
    pub(crate) fn is_volatile(&self, physical: u64) -> bool {
        let mut rewritten = self.rewritten.lock();
        let Some(page) = rewritten.get_mut(&(physical / PAGE_SIZE)) else { return false };
        page.left = page.left.saturating_sub(1);
        page.left != 0
    }
}

impl CodePages {
    /// [`CodePages::invalidate`] for a range of any length.
    pub fn invalidate_range(&self, physical: u64, bytes: u64) {
        let Some(last) = bytes.checked_sub(1).map(|last| physical.saturating_add(last)) else { return };
        // A few pages are looked up one by one; of a large range, only those that hold code.
        let (first_page, last_page) = (physical / PAGE_SIZE, last / PAGE_SIZE);
        let pages: Vec<u64> = if last_page - first_page < 16 {
            (first_page..=last_page).collect()
        } else {
            self.pages.read().keys().copied().filter(|page| (first_page..=last_page).contains(page)).collect()
        };
        for page in pages {
            let start = physical.max(page * PAGE_SIZE);
            let end = last.min(page * PAGE_SIZE + (PAGE_SIZE - 1));
            self.invalidate(start, end - start + 1);
        }
    }
}

/// The lines of a page that a range within it touches.
fn lines(physical: u64, bytes: u64) -> u64 {
    let first = physical % PAGE_SIZE / LINE;
    let last = ((physical % PAGE_SIZE + bytes.max(1) - 1) / LINE).min(63);
    u64::MAX << first & u64::MAX >> (63 - last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Key, Tiers, Translation, Translator};
    use crate::riscv64::Riscv64;

    #[test]
    fn with_a_generation_go_its_traces_in_the_record_of_code() {
        let translator = Translator::<Riscv64>::new(Tiers::InterpreterOnly, None);
        let (pages, generation) = (translator.code_pages.clone(), translator.generation());
        let writes = pages.protect(0x1000);
        let key = Key { start: 0x1000, physical: 0x1000, next_page: None, flags: 0 };
        let translation = Translation::for_tests(&generation, key);
        generation.insert(translation.clone());
        assert!(pages.record(0x1000, 4, writes, Arc::downgrade(&translation) as _));
        drop(translation);
        drop(translator);
        assert!(pages.has_code(0x1000));
        drop(generation);
        assert!(!pages.has_code(0x1000));
    }
}
