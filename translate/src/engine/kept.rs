//! Compiled code that earlier runs kept, brought into this one, and this one's kept for the next.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock, Weak};

use super::translations::{Generation, Key, Parts, PlacedCode, Span, Translation, Translator};
use crate::baseline::Baseline;
use crate::compile::{Runtime, perf_map};
use crate::guest::{Guest, NeedsMoreCode};
use crate::ir::Block;
use crate::platform::PAGE_SIZE;
use crate::saved::{self, Identity, Kind, Part, SavedTranslations};

/// Where compiled code is kept between runs, and for processors with which features.
pub struct Keep<G: Guest> {
    /// A folder of the user's own; it is made if it is not there.
    pub folder: PathBuf,
    /// What [`Guest::features`] says of every processor.
    pub features: G::Features,
}

/// Lifts a block whose compiled code was there before.
pub(super) type LiftLater = Box<dyn Fn() -> Block + Send + Sync>;

/// The code that a block was lifted from.
pub(super) struct GuestCode {
    /// What it is found by: see [`saved::hash`].
    pub(super) hash: u64,
    pub(super) bytes: Box<[u8]>,
}

/// What was kept for such processors and this host.
pub(super) fn open<G: Guest>(keep: Keep<G>, runtime: &Runtime<G>) -> Option<(SavedTranslations, G::Features)> {
    let guest = std::any::type_name::<G>().rsplit("::").next().unwrap_or("guest").to_lowercase();
    let identity = Identity::new(&guest, keep.features, &runtime.host());
    match SavedTranslations::open(keep.folder, &guest, identity) {
        Ok(saved) => Some((saved, keep.features)),
        Err(error) => {
            tracing::warn!("compiled code is not kept for the next run: {error}");
            None
        }
    }
}

impl<G: Guest> Translator<G> {
    /// True if code may be kept for the next run, so that blocks must know what they were lifted from.
    pub(super) fn keeps_code(&self) -> bool {
        self.saved.is_some()
    }

    /// A translation from what was kept, for the code at `key` in a page with these bytes, wherever it is mapped. `record` makes known which
    /// guest code it is of, and says whether that is still there; then its compiled code comes into use.
    pub(super) fn restore(
        &self,
        generation: &Generation,
        key: Key,
        page: &[u8; PAGE_SIZE as usize],
        record: impl FnOnce(&Arc<Translation>) -> bool,
    ) -> Option<Arc<Translation>> {
        let (saved, features) = self.saved.as_ref()?;
        let offset = (key.physical % PAGE_SIZE) as u16;
        let entry = saved.find(key.flags, offset, page)?;
        let page_start = key.physical - u64::from(offset);
        let span = |(offset, bytes): (u16, u16)| Span { physical: page_start + u64::from(offset), bytes: bytes.into() };
        let hash = saved::hash(key.flags, offset, &page[usize::from(offset)..]);
        let head: Box<[u8]> = entry.head().into();
        let (code, features) = (head.clone(), *features);
        let parts = Parts {
            key,
            block: OnceLock::new(),
            later: Some(Box::new(move || lift_again::<G>(key, &code, features))),
            spans: entry.spans().map(span).collect(),
            breakpoint: false,
            alone: false,
            guest_code: Some(GuestCode { hash, bytes: head }),
        };
        let translation = Translation::new(generation, parts);
        let placed = generation.place(entry.code(), &translation)?;
        // From here on the generation keeps it alive, which its code needs.
        generation.insert(translation.clone());
        if !record(&translation) {
            translation.invalidate_now();
            return None;
        }
        let (start, bytes) = (placed.start, placed.bytes);
        let name = match entry.kind {
            Kind::Block => {
                if !self.link_block(generation, &translation, placed) {
                    return Some(translation);
                }
                "block"
            }
            Kind::Region => {
                generation.link_region(&translation, &placed);
                "region"
            }
        };
        perf_map::record(start, bytes, || format!("{name} {:#x} from an earlier run", key.physical));
        Some(translation)
    }

    /// A processor is there.
    pub(super) fn enter(&self) {
        self.processors.fetch_add(1, Ordering::SeqCst);
    }

    /// A processor has ended. With the last one what was compiled is kept for the next run.
    pub(super) fn leave(&self) {
        if self.processors.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.save();
        }
    }

    fn save(&self) {
        let Some((saved, _)) = &self.saved else { return };
        let generation = self.generation();
        let translations = generation.table.translations();
        let mut room = saved::MOST_BYTES;
        let entries = translations.iter().filter_map(|translation| generation.entry(translation));
        let entries: Vec<_> = entries
            .take_while(|(_, bytes)| {
                room = room.saturating_sub(bytes.len());
                room > 0
            })
            .collect();
        if let Err(error) = saved.save(&entries) {
            tracing::warn!("compiled code is not kept for the next run: {error}");
        }
    }
}

/// Lifts a block from the guest code that its compiled code was found for.
fn lift_again<G: Guest>(key: Key, code: &[u8], features: G::Features) -> Block {
    match G::lift(key.start, code, key.flags, features, super::MOST_INSTRUCTIONS) {
        Ok(block) => block,
        Err(NeedsMoreCode) => unreachable!("the block was lifted from this code before it was kept"),
    }
}

impl Generation {
    /// What is kept for the next run of a translation's compiled code, and what it is found by; `None` if there is nothing new.
    fn entry(&self, translation: &Translation) -> Option<(u64, Vec<u8>)> {
        let head = translation.guest_code.as_ref().filter(|_| translation.is_valid())?;
        let encode = |kind, blocks: &[&Translation], placed: &PlacedCode, mut host: Vec<u8>| {
            let parts = blocks.iter().map(|block| {
                let offset = (block.key.physical % PAGE_SIZE) as u16;
                Some(Part { offset, code: &block.guest_code.as_ref()?.bytes })
            });
            let parts: Vec<Part> = parts.collect::<Option<_>>()?;
            for relocation in &placed.relocations {
                let offset = relocation.offset as usize;
                host[offset..offset + relocation.target.size()].fill(0);
            }
            let flags = translation.key.flags;
            Some((head.hash, saved::encode(kind, flags, &parts, &host, &placed.relocations)))
        };
        if translation.has_region()
            && let Some(region) = &*translation.kept_region.lock()
        {
            let (placed, blocks) = &**region;
            let blocks: Vec<_> = blocks.iter().map(Weak::upgrade).collect::<Option<_>>()?;
            let blocks: Vec<&Translation> = blocks.iter().map(Arc::as_ref).collect();
            let mut host = self.code.read(placed.start, placed.bytes)?.to_vec();
            // It may have been closed since.
            let start = if self.has_gates() { Baseline::REGION_START } else { &[] };
            host.get_mut(..start.len())?.copy_from_slice(start);
            return encode(Kind::Region, &blocks, placed, host);
        }
        let block = translation.block_code.get()?;
        encode(Kind::Block, &[translation], &block.placed, block.compiled()?)
    }
}
