//! Translated code of one machine: the cache of blocks, the cells through which compiled code is entered, and the
//! compile thread's queue.

use std::collections::BTreeMap;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::{Mutex, RwLock};

use super::kept::{self, GuestCode, Keep, LiftLater};
use super::links::{self, BlockCode, Cell};
use super::queue::{Queue, Request};
use super::region;
use super::table::Table;
use crate::baseline::Baseline;
use crate::code::{CodePages, Invalidate};
use crate::compile::{Code, CodeMemory, Compiler, EntryPoint, Relocation, Runtime, Target, perf_map};
use crate::cpu::Cpu;
use crate::guest::Guest;
use crate::interpret::Ended;
use crate::ir::{Block, Op};
use crate::platform::PAGE_SIZE;
use crate::saved::SavedTranslations;

/// Bytes of compiled code in one generation.
const CODE_SIZE: usize = 384 << 20;
/// Bytes of IR in one generation.
const MOST_IR: usize = 512 << 20;

/// What a translation was made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// Guest-virtual address; where the address makes no difference, only its place in the page.
    pub start: u64,
    /// Guest-physical address.
    pub physical: u64,
    /// Guest-physical address of the next page, if the first instruction might reach it and it is there.
    pub next_page: Option<u64>,
    /// Translation flags.
    pub flags: u32,
}

/// When code is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tiers {
    /// Never.
    InterpreterOnly,
    /// In the background, after so many executions of a block.
    Background(u32),
    /// At once, on the processor's thread, after so many executions: for tests.
    Immediate(u32),
    /// The same, one block at a time by the baseline compiler, and never better.
    Baseline(u32),
}

/// How often a block is interpreted before the baseline compiler takes it: its code is that much faster, and it takes as long as
/// so many executions.
const WARM: u32 = 5;

/// After how many executions a translation was worth its making.
const WORTH_WHILE: u32 = 32;

/// What a block's executions make worth while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Code of the baseline compiler.
    Baseline,
    /// A region.
    Region,
}

/// A range of guest-physical memory within one page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// First byte.
    pub physical: u64,
    /// Length.
    pub bytes: u64,
}

/// One lifted block.
pub struct Translation {
    /// What it was made from.
    pub key: Key,
    /// The IR; of kept code, from when it is first asked for.
    block: OnceLock<Block>,
    later: Option<LiftLater>,
    /// Where its compiled code is entered.
    pub cell: Arc<Cell>,
    /// The code it was made from.
    pub spans: Vec<Span>,
    /// A breakpoint is at its beginning; it is never compiled.
    pub breakpoint: bool,
    /// It may not be part of a region: it has a helper that stands [alone](crate::guest::Effects::alone), or its code reaches the next page.
    pub alone: bool,
    valid: AtomicBool,
    /// The code of the baseline compiler, if there is any.
    pub(super) block_code: OnceLock<BlockCode>,
    /// The baseline compiler had its turn.
    baseline_tried: AtomicBool,
    /// The compiled region that begins here, or null.
    region: AtomicPtr<u8>,
    /// Held while what the cell leads to changes. Lock order: before the cell's own.
    linking: Mutex<()>,
    executions: AtomicU32,
    /// After how many executions it shall be asked for next, if those are more than the threshold.
    next_request: AtomicU32,
    /// Heads of compiled regions that contain this block.
    regions: Mutex<Vec<Weak<Translation>>>,
    /// What its code is kept with, if it may be.
    pub(super) guest_code: Option<GuestCode>,
    /// Code of the latest region that begins here, if it is to be kept, with its blocks, the head first.
    pub(super) kept_region: Mutex<Option<Box<KeptRegion>>>,
}

/// A region's code and its blocks, the head first.
pub(super) type KeptRegion = (PlacedCode, Vec<Weak<Translation>>);

/// What a translation is made of.
pub(super) struct Parts {
    pub(super) key: Key,
    pub(super) block: OnceLock<Block>,
    /// Needed where there is no block yet.
    pub(super) later: Option<LiftLater>,
    pub(super) spans: Vec<Span>,
    pub(super) breakpoint: bool,
    pub(super) alone: bool,
    pub(super) guest_code: Option<GuestCode>,
}

impl Translation {
    /// A translation that nobody knows of yet.
    pub(super) fn new(generation: &Generation, parts: Parts) -> Arc<Translation> {
        let Parts { key, block, later, spans, breakpoint, alone, guest_code } = parts;
        let ops = block.get().map_or(0, |block| block.ops.capacity());
        let bytes = size_of::<Translation>() + ops * size_of::<Op>() + 256;
        generation.ir_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        Arc::new(Translation {
            key,
            block,
            later,
            cell: generation.cell(key),
            spans,
            breakpoint,
            alone,
            valid: AtomicBool::new(true),
            block_code: OnceLock::new(),
            baseline_tried: AtomicBool::new(false),
            region: AtomicPtr::default(),
            linking: Mutex::new(()),
            executions: AtomicU32::new(0),
            next_request: AtomicU32::new(0),
            regions: Mutex::new(Vec::new()),
            guest_code,
            kept_region: Mutex::new(None),
        })
    }

    /// A translation of nothing.
    #[cfg(test)]
    pub(crate) fn for_tests(generation: &Generation, key: Key) -> Arc<Translation> {
        let (block, spans) = (OnceLock::new(), Vec::new());
        let parts = Parts { key, block, later: None, spans, breakpoint: false, alone: false, guest_code: None };
        Translation::new(generation, parts)
    }

    /// The IR.
    pub fn block(&self) -> &Block {
        self.block.get_or_init(|| {
            let later = self.later.as_ref().expect("a translation has a block or what lifts it");
            later()
        })
    }

    /// False once the code it was made from has changed.
    #[inline]
    pub fn is_valid(&self) -> bool {
        self.valid.load(Ordering::Acquire)
    }

    /// How often it was executed before it was compiled as a region, as far as that was counted.
    pub fn executions(&self) -> u32 {
        self.executions.load(Ordering::Relaxed)
    }

    fn may_head_region(&self) -> bool {
        !self.alone && !self.breakpoint
    }

    /// Counts one by the interpreter; says what shall be compiled now.
    pub(super) fn count_execution(&self, tiers: Tiers) -> Option<Wanted> {
        // Two processors may lose a count to one another, which is harmless.
        let count = self.executions().wrapping_add(1);
        self.executions.store(count, Ordering::Relaxed);
        let (baseline, region) = match tiers {
            Tiers::InterpreterOnly => return None,
            Tiers::Background(threshold) => (threshold.min(WARM), threshold),
            Tiers::Immediate(threshold) => (u32::MAX, threshold),
            Tiers::Baseline(threshold) => (threshold, u32::MAX),
        };
        if count >= baseline
            && !self.baseline_tried.load(Ordering::Relaxed)
            && !self.baseline_tried.swap(true, Ordering::Relaxed)
        {
            return (!self.breakpoint).then_some(Wanted::Baseline);
        }
        if count < region || count < self.next_request.load(Ordering::Relaxed) {
            return None;
        }
        self.next_request.store(count.saturating_mul(2), Ordering::Relaxed);
        self.may_head_region().then_some(Wanted::Region)
    }

    /// The baseline compiler's code was executed as often as it was to be; true if the region is to be compiled.
    pub(super) fn count_down(&self, tiers: Tiers) -> bool {
        let Tiers::Background(threshold) = tiers else {
            self.set_countdown(u32::MAX);
            return false;
        };
        // It asks again each time that it was executed twice as often.
        let more = self.executions().max(threshold);
        let count = self.executions().saturating_add(more);
        self.executions.store(count, Ordering::Relaxed);
        let given_up = self.next_request.load(Ordering::Relaxed) == u32::MAX || !self.may_head_region();
        self.set_countdown(if given_up { u32::MAX } else { count });
        !given_up
    }

    fn set_countdown(&self, left: u32) {
        if let Some(code) = self.block_code.get() {
            code.set_countdown(left);
        }
    }

    /// Makes code of the baseline compiler the block's, unless it has some.
    pub(super) fn link_block(&self, code: BlockCode, tiers: Tiers) {
        if self.block_code.set(code).is_err() {
            return;
        }
        self.set_countdown(match tiers {
            Tiers::Background(threshold) if self.may_head_region() => threshold,
            _ => u32::MAX,
        });
        self.relink(None);
        if let Some(code) = self.block_code.get() {
            code.accept_jumps(&self.cell);
        }
    }

    /// The compiled region that begins here is in use.
    pub(super) fn has_region(&self) -> bool {
        !self.region.load(Ordering::SeqCst).is_null()
    }

    /// Makes a compiled region that begins here the block's code.
    pub(super) fn link_region(&self, entry: *const u8) {
        self.region.store(entry.cast_mut(), Ordering::SeqCst);
        self.relink(None);
    }

    /// Makes the cell, and other blocks, lead to the best code there is of this block, and to none if the block is void. Whoever changes what this
    /// depends on calls it afterwards, so that the last of them gets it right. `gone`: a region that is not to be used any more.
    fn relink(&self, gone: Option<*const u8>) {
        let _linking = self.linking.lock();
        let region = self.region.load(Ordering::SeqCst).cast_const();
        let block = self.block_code.get();
        let best = if region.is_null() { block.map(BlockCode::entry) } else { Some(region) };
        match best {
            Some(entry) if self.is_valid() => self.cell.link(entry),
            _ => {
                let entries = [block.map(BlockCode::entry), (!region.is_null()).then_some(region), gone];
                entries.into_iter().flatten().for_each(|entry| self.cell.unlink(entry));
            }
        }
        if let Some(block) = block {
            block.redirect(!region.is_null() || !self.is_valid());
        }
    }

    /// It cannot be compiled, so that nobody shall ask for it again.
    fn give_up(&self) {
        self.next_request.store(u32::MAX, Ordering::Relaxed);
    }

    pub(super) fn invalidate_now(&self) {
        self.valid.store(false, Ordering::SeqCst);
        // Its own, too, which may be one from an earlier run, of which no block knows.
        self.unlink_region();
        for head in self.regions.lock().drain(..).filter_map(|head| head.upgrade()) {
            head.unlink_region();
        }
    }

    /// Takes the compiled region that begins here out of use, since the code of one of its blocks changed. The block becomes hot anew.
    fn unlink_region(&self) {
        let region = self.region.swap(null_mut(), Ordering::SeqCst).cast_const();
        let region = (!region.is_null()).then_some(region);
        self.relink(region);
        if let Some(region) = region {
            self.cell.close_region(region);
        }
        self.executions.store(0, Ordering::Relaxed);
        self.next_request.store(0, Ordering::Relaxed);
        self.set_countdown(WARM);
    }
}

impl Invalidate for Translation {
    fn overlaps(&self, physical: u64, bytes: u64) -> bool {
        self.spans.iter().any(|span| {
            physical.wrapping_sub(span.physical) < span.bytes || span.physical.wrapping_sub(physical) < bytes
        })
    }

    fn invalidate(&self) -> bool {
        let compiled = self.block_code.get().map_or(0, BlockCode::executions);
        let worth_while = self.has_region() || self.executions().saturating_add(compiled) >= WORTH_WHILE;
        self.invalidate_now();
        worth_while
    }
}

/// All translations made until memory for them runs out; then the next generation begins, and this one is freed when
/// the last processor has left it.
pub struct Generation {
    pub(super) number: u64,
    pub(super) table: Table,
    /// Those whose code changed, which jump caches may still point to.
    replaced: Mutex<Vec<Arc<Translation>>>,
    none: *const u8,
    ir_bytes: AtomicU64,
    /// The memory for compiled code is used up.
    code_is_full: AtomicBool,
    pub(crate) code: Arc<CodeMemory>,
    /// Code that returns from a block to the dispatcher; null where blocks have no code of their own.
    leave: *const u8,
    /// Which memory the translations are of.
    code_pages: Arc<CodePages>,
    /// Kept so that `none` stays valid.
    _runtime: Arc<dyn Send + Sync>,
}

// SAFETY: `none` points to code that `_runtime` keeps alive, `leave` to `code`.
unsafe impl Send for Generation {}
// SAFETY: as above.
unsafe impl Sync for Generation {}

impl Drop for Generation {
    fn drop(&mut self) {
        self.table.clear();
        self.replaced.get_mut().clear();
        self.code_pages.forget_ended();
    }
}

impl Generation {
    pub(super) fn find(&self, key: &Key) -> Option<Arc<Translation>> {
        self.table.find(key).filter(|translation| translation.is_valid())
    }

    /// The cell for a key, whether or not its translation exists yet.
    pub(crate) fn cell(&self, key: Key) -> Arc<Cell> {
        self.table.cell(&key, || Cell::new(key, self.none, self.code.clone()))
    }

    pub(super) fn add(&self, parts: Parts) -> Arc<Translation> {
        let translation = Translation::new(self, parts);
        self.insert(translation.clone());
        translation
    }

    /// Puts a translation in the place of what has its key.
    pub(crate) fn insert(&self, translation: Arc<Translation>) {
        if let Some(old) = self.table.insert(translation) {
            self.replaced.lock().push(old);
        }
    }

    /// Gives the code of a block, or of the region that begins with it, its place; `None` if there is no more room.
    pub(super) fn place(&self, code: Code, translation: &Translation) -> Option<PlacedCode> {
        let placed = self.try_to_place(code, translation);
        if placed.is_none() {
            self.code_is_full.store(true, Ordering::Relaxed);
        }
        placed
    }

    fn try_to_place(&self, code: Code, translation: &Translation) -> Option<PlacedCode> {
        let Code { bytes, relocations } = code;
        if !relocations.iter().all(|relocation| relocation.fits(bytes.len())) {
            return None;
        }
        let is_block = relocations.iter().any(|relocation| relocation.target == Target::Counter);
        let counter = if is_block { Some(self.code.counter()?) } else { None };
        let counter: Option<*const u8> = counter.map(|counter| std::ptr::from_ref(counter).cast());
        let mut cells = Vec::with_capacity(relocations.len());
        for relocation in &relocations {
            cells.push(match relocation.target {
                Target::Cell(distance) | Target::Jump(distance) => {
                    Some(self.cell(translation.key.in_same_page(distance.into())?))
                }
                Target::Translation | Target::Counter => None,
            });
        }
        let start = self.code.add_at(bytes.len(), |start, to| {
            to.copy_from_slice(&bytes);
            for (relocation, cell) in relocations.iter().zip(&cells) {
                let offset = relocation.offset as usize;
                let to = &mut to[offset..][..relocation.target.size()];
                let address = start.wrapping_add(offset);
                match relocation.target {
                    Target::Translation => to.copy_from_slice(&(std::ptr::from_ref(translation) as u64).to_ne_bytes()),
                    Target::Cell(_) => {
                        let cell = cell.as_ref().map_or(std::ptr::null(), Arc::as_ptr);
                        to.copy_from_slice(&(cell as u64).to_ne_bytes());
                    }
                    Target::Counter => {
                        let counter = counter.unwrap_or(start);
                        to.copy_from_slice(&links::distance(address.wrapping_add(1), counter).to_ne_bytes());
                    }
                    Target::Jump(_) => to.copy_from_slice(&links::distance(address, self.leave).to_ne_bytes()),
                }
            }
        })?;
        for (relocation, cell) in relocations.iter().zip(cells) {
            if let (Target::Jump(_), Some(cell)) = (relocation.target, cell) {
                cell.link_jump(start.wrapping_add(relocation.offset as usize));
            }
        }
        Some(PlacedCode { start, bytes: bytes.len(), counter, relocations: relocations.into() })
    }

    /// Makes a placed region the code of its head, if there is room for what belongs to that.
    pub(super) fn link_region(&self, head: &Translation, placed: &PlacedCode) {
        if !self.has_gates() {
            head.link_region(placed.start);
        } else if let Some(gate) = head.cell.gate() {
            head.link_region(placed.start);
            head.cell.accept_jumps_through(gate);
        } else {
            self.code_is_full.store(true, Ordering::Relaxed);
        }
    }

    /// The host has a baseline compiler, and so what leads from its code to others'.
    pub(super) fn has_gates(&self) -> bool {
        !self.leave.is_null()
    }

    /// What [`JumpCacheEntry::code`](super::JumpCacheEntry::code) is of a translation now.
    pub(super) fn way_in(&self, translation: &Translation) -> *const u8 {
        if !self.has_gates() { Arc::as_ptr(&translation.cell).cast() } else { translation.cell.entry() }
    }

    fn is_full(&self) -> bool {
        self.ir_bytes.load(Ordering::Relaxed) > MOST_IR as u64 || self.code_is_full.load(Ordering::Relaxed)
    }
}

/// Compiled code at its place in the memory of its generation.
pub(super) struct PlacedCode {
    pub(super) start: *const u8,
    pub(super) bytes: usize,
    /// Of a block, what counts its executions.
    pub(super) counter: Option<*const u8>,
    pub(super) relocations: Box<[Relocation]>,
}

// SAFETY: the addresses are only used with the generation, whose memory for code threads share.
unsafe impl Send for PlacedCode {}
// SAFETY: as above.
unsafe impl Sync for PlacedCode {}

/// What the processors of one machine share: translated code, the compiler and the breakpoints.
pub struct Translator<G: Guest> {
    /// Which memory holds translated code.
    pub code_pages: Arc<CodePages>,
    tiers: Tiers,
    runtime: Option<Arc<Runtime<G>>>,
    generation: RwLock<Arc<Generation>>,
    generation_number: AtomicU64,
    queue: Option<Arc<Queue>>,
    immediate: Mutex<Option<Compiler<G>>>,
    breakpoints: RwLock<BTreeMap<u64, usize>>,
    regions_compiled: Arc<AtomicU64>,
    /// How many processors there are.
    pub(super) processors: AtomicUsize,
    /// Code of earlier runs, and for which features it was lifted.
    pub(super) saved: Option<(SavedTranslations, G::Features)>,
}

impl<G: Guest> Translator<G> {
    /// A translator without translations, but for those that were kept. Where the host has no code generator, everything is
    /// interpreted.
    pub fn new(tiers: Tiers, keep: Option<Keep<G>>) -> Arc<Translator<G>> {
        let runtime = match tiers {
            Tiers::InterpreterOnly => None,
            _ => match Runtime::new() {
                Ok(runtime) => Some(Arc::new(runtime)),
                Err(error) => {
                    tracing::warn!("guest code will only be interpreted: {error}");
                    None
                }
            },
        };
        let tiers = if runtime.is_some() { tiers } else { Tiers::InterpreterOnly };
        let regions_compiled = Arc::new(AtomicU64::new(0));
        let queue = runtime.as_ref().filter(|_| matches!(tiers, Tiers::Background(_))).map(|runtime| {
            let queue = Arc::new(Queue::default());
            let requests = queue.clone();
            let compiler = Compiler::new(runtime.clone());
            let count = regions_compiled.clone();
            std::thread::Builder::new()
                .name("jit compiler".into())
                .spawn(move || serve(compiler, &requests, &count))
                .expect("the host refuses a thread for the compiler");
            queue
        });
        let immediate = runtime
            .as_ref()
            .filter(|_| matches!(tiers, Tiers::Immediate(_)))
            .map(|runtime| Compiler::new(runtime.clone()));
        let code_pages = CodePages::new();
        let generation = new_generation(0, runtime.as_ref(), &code_pages);
        let saved = keep.zip(runtime.as_deref()).and_then(|(keep, runtime)| kept::open(keep, runtime));
        Arc::new(Translator {
            code_pages,
            tiers,
            runtime,
            generation: RwLock::new(generation),
            generation_number: AtomicU64::new(0),
            queue,
            immediate: Mutex::new(immediate),
            breakpoints: RwLock::new(BTreeMap::new()),
            regions_compiled,
            processors: AtomicUsize::new(0),
            saved,
        })
    }

    pub(super) fn tiers(&self) -> Tiers {
        self.tiers
    }

    pub(crate) fn generation(&self) -> Arc<Generation> {
        self.generation.read().clone()
    }

    /// The present generation if `known` is not it any more, or is full.
    pub(super) fn newer_generation(&self, known: &Generation) -> Option<Arc<Generation>> {
        if self.generation_number.load(Ordering::Acquire) == known.number && !known.is_full() {
            return None;
        }
        let mut generation = self.generation.write();
        if generation.is_full() {
            *generation = new_generation(generation.number + 1, self.runtime.as_ref(), &self.code_pages);
            self.generation_number.store(generation.number, Ordering::Release);
            if let Some(queue) = &self.queue {
                queue.begin(generation.number);
            }
        }
        Some(generation.clone())
    }

    /// Functions that compiled code calls, for [`Context::functions`](crate::cpu::Context::functions).
    pub(super) fn functions(&self) -> *const *const u8 {
        self.runtime.as_ref().map_or(std::ptr::null(), |runtime| runtime.functions())
    }

    /// Enters compiled code.
    pub(super) fn call(&self, cpu: &mut Cpu<G>, entry: EntryPoint) -> Ended {
        match &self.runtime {
            Some(runtime) => runtime.call(cpu, entry),
            None => Ended::Next,
        }
    }

    /// What was compiled for all processors.
    pub(super) fn statistics(&self) -> String {
        const MIB: u64 = 1 << 20;
        let generation = self.generation();
        format!(
            "compiled: {} regions so far; now {} translations, {} MiB of code, {} MiB of IR; memory was used up {} times",
            self.regions_compiled(),
            generation.table.count(),
            generation.code.used() as u64 / MIB,
            generation.ir_bytes.load(Ordering::Relaxed) / MIB,
            generation.number
        )
    }

    /// How many regions were compiled so far.
    pub fn regions_compiled(&self) -> u64 {
        self.regions_compiled.load(Ordering::Relaxed)
    }

    /// Compiles a block by itself, if the host has a compiler for that and it can do so; says whether it did.
    pub(super) fn compile_baseline(&self, generation: &Generation, translation: &Translation) -> bool {
        let Some(runtime) = &self.runtime else { return false };
        let Some(baseline) = &runtime.baseline else { return false };
        let Some(code) = baseline.compile::<G>(translation) else { return false };
        let Some(placed) = generation.place(code, translation) else { return false };
        perf_map::record(placed.start, placed.bytes, || format!("block {:#x}", translation.block().start));
        self.link_block(generation, translation, placed)
    }

    /// Makes placed code of the baseline compiler a translation's; false if there is no room for what belongs to that.
    pub(super) fn link_block(&self, generation: &Generation, translation: &Translation, placed: PlacedCode) -> bool {
        let Some(gate) = translation.cell.gate() else {
            generation.code_is_full.store(true, Ordering::Relaxed);
            return false;
        };
        let Some(code) = BlockCode::new(placed, &generation.code, gate) else { return false };
        translation.link_block(code, self.tiers);
        true
    }

    /// Asks for the region that begins with a block to be compiled.
    pub(super) fn request(&self, generation: &Arc<Generation>, key: &Key) {
        // It may have been invalidated meanwhile.
        let Some(head) = generation.find(key) else { return };
        let request = Request { generation: generation.clone(), head };
        if let Some(queue) = &self.queue {
            queue.push(request);
        } else if let Some(compiler) = &mut *self.immediate.lock() {
            compile(compiler, &request, &self.regions_compiled);
        }
    }

    pub(super) fn add_breakpoint(&self, address: u64) {
        *self.breakpoints.write().entry(address).or_insert(0) += 1;
        self.invalidate_around(address);
    }

    pub(super) fn remove_breakpoint(&self, address: u64) {
        let mut breakpoints = self.breakpoints.write();
        if let Some(count) = breakpoints.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                breakpoints.remove(&address);
                drop(breakpoints);
                self.invalidate_around(address);
            }
        }
    }

    /// Ends all translations of code at a guest-virtual address, under whatever address translation.
    fn invalidate_around(&self, address: u64) {
        let generation = self.generation();
        for translation in generation.table.translations() {
            // Of code that may run anywhere, there is none in use in a page with a breakpoint.
            if address.wrapping_sub(translation.key.start) < translation.spans[0].bytes {
                translation.invalidate_now();
            }
        }
    }

    pub(super) fn is_breakpoint(&self, address: u64) -> bool {
        self.breakpoints.read().contains_key(&address)
    }

    /// True if a breakpoint is in the guest-virtual page of an address.
    pub(super) fn has_breakpoint_in_page(&self, address: u64) -> bool {
        let breakpoints = self.breakpoints.read();
        let start = address & !(PAGE_SIZE - 1);
        !breakpoints.is_empty() && breakpoints.range(start..=start | (PAGE_SIZE - 1)).next().is_some()
    }

    /// The first breakpoint behind `start` and before `end`.
    pub(super) fn breakpoint_between(&self, start: u64, end: u64) -> Option<u64> {
        let breakpoints = self.breakpoints.read();
        if breakpoints.is_empty() || end <= start {
            return None;
        }
        breakpoints.range(start + 1..end.max(start + 1)).next().map(|(address, _)| *address)
    }
}

impl<G: Guest> Drop for Translator<G> {
    fn drop(&mut self) {
        if let Some(queue) = &self.queue {
            queue.close();
        }
    }
}

fn new_generation<G: Guest>(
    number: u64,
    runtime: Option<&Arc<Runtime<G>>>,
    code_pages: &Arc<CodePages>,
) -> Arc<Generation> {
    let (none, code, kept): (_, _, Arc<dyn Send + Sync>) = match runtime {
        Some(runtime) => (runtime.return_to_dispatcher().0, CodeMemory::new(CODE_SIZE), runtime.clone()),
        None => (std::ptr::null(), CodeMemory::new(0), Arc::new(())),
    };
    let code = code.unwrap_or_else(|error| {
        tracing::warn!("no memory for compiled code, so guest code will only be interpreted: {error}");
        CodeMemory::none()
    });
    let has_baseline = runtime.is_some_and(|runtime| runtime.baseline.is_some());
    let leave = if has_baseline { code.add(Baseline::LEAVE) } else { None }.unwrap_or(std::ptr::null());
    Arc::new(Generation {
        number,
        table: Table::default(),
        replaced: Mutex::default(),
        none,
        ir_bytes: AtomicU64::new(0),
        code_is_full: AtomicBool::new(false),
        code: Arc::new(code),
        leave,
        code_pages: code_pages.clone(),
        _runtime: kept,
    })
}

fn serve<G: Guest>(mut compiler: Compiler<G>, requests: &Queue, count: &AtomicU64) {
    while let Some(request) = requests.take() {
        compile(&mut compiler, &request, count);
    }
}

fn compile<G: Guest>(compiler: &mut Compiler<G>, request: &Request, count: &AtomicU64) {
    let head = &request.head;
    if !head.is_valid() || head.has_region() {
        return;
    }
    let region = region::form::<G>(&request.generation, head);
    // The head itself may have been invalidated meanwhile.
    if region.blocks.is_empty() {
        return;
    }
    let code = match compiler.compile(&region) {
        Ok(code) => code,
        Err(error) => {
            head.give_up();
            tracing::debug!("the region at {:#x} stays interpreted: {error}", head.block().start);
            return;
        }
    };
    let Some(placed) = request.generation.place(code, head) else { return };
    let name = || format!("region {:#x} of {}", head.block().start, region.blocks.len());
    perf_map::record(placed.start, placed.bytes, name);
    for block in &region.blocks {
        block.regions.lock().push(Arc::downgrade(head));
    }
    request.generation.link_region(head, &placed);
    count.fetch_add(1, Ordering::Relaxed);
    if region.blocks.iter().all(|block| block.guest_code.is_some()) {
        *head.kept_region.lock() = Some(Box::new((placed, region.blocks.iter().map(Arc::downgrade).collect())));
    }
    // One that was invalidated before it knew of this region has not unlinked it.
    if !region.blocks.iter().all(|block| block.is_valid()) {
        head.unlink_region();
    }
}

impl Key {
    /// The key of code in the same page under the same flags, at a distance in bytes; `None` if that is in another page, or may reach it.
    pub(crate) fn in_same_page(&self, distance: i64) -> Option<Key> {
        let start = self.start.wrapping_add_signed(distance);
        let same_page = start / PAGE_SIZE == self.start / PAGE_SIZE;
        let reaches_next = PAGE_SIZE - start % PAGE_SIZE < super::LONGEST_INSTRUCTION;
        (same_page && !reaches_next).then(|| Key {
            start,
            physical: self.physical.wrapping_add_signed(distance),
            next_page: None,
            flags: self.flags,
        })
    }

    /// How far behind `other`, in the same page, it is, bytes.
    pub(crate) fn distance_from(&self, other: &Key) -> i64 {
        self.physical.wrapping_sub(other.physical) as i64
    }
}
