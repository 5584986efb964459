//! Translated code of one machine: the cache of blocks, the cells through which compiled code is entered, and the
//! compile thread's queue.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::{Mutex, RwLock};
use rustc_hash::FxHashMap;

use super::kept::{self, GuestCode, Keep, LiftLater};
use super::queue::{Queue, Request};
use super::region;
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

/// What a block's executions make worth while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Code of the baseline compiler.
    Baseline,
    /// A region.
    Region,
}

/// Where a translation's compiled code begins. Linking and unlinking are one store each.
#[repr(C)]
#[derive(Debug)]
pub struct Cell {
    /// Compiled code, or `none`.
    entry: AtomicPtr<u8>,
    /// Code that returns to the dispatcher.
    none: *const u8,
}

// SAFETY: `none` points to code that is never freed while a cell lives, and is never written through.
unsafe impl Send for Cell {}
// SAFETY: as above.
unsafe impl Sync for Cell {}

impl Cell {
    /// The compiled code, if there is any.
    #[inline]
    pub fn compiled(&self) -> Option<*const u8> {
        let entry = self.entry.load(Ordering::Acquire).cast_const();
        (entry != self.none).then_some(entry)
    }

    fn link(&self, entry: *const u8) {
        self.entry.store(entry.cast_mut(), Ordering::SeqCst);
    }

    fn unlink(&self) {
        self.entry.store(self.none.cast_mut(), Ordering::SeqCst);
    }
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
    /// It may not be compiled.
    pub interpreted: bool,
    valid: AtomicBool,
    /// The code of the baseline compiler, if there is any.
    baseline: AtomicPtr<u8>,
    /// The baseline compiler had its turn.
    baseline_tried: AtomicBool,
    /// The cell leads to the compiled region that begins here.
    pub(super) has_region: AtomicBool,
    /// How many executions of the baseline compiler's code are left until it asks for more; it asks when this becomes negative.
    pub(crate) countdown: AtomicI32,
    executions: AtomicU32,
    /// After how many executions it shall be asked for next, if those are more than the threshold.
    next_request: AtomicU32,
    /// Heads of compiled regions that contain this block.
    regions: Mutex<Vec<Weak<Translation>>>,
    /// What its code is kept with, if it may be.
    pub(super) guest_code: Option<GuestCode>,
    /// The code of the baseline compiler as far as it is to be kept.
    pub(super) kept_block: OnceLock<PlacedCode>,
    /// The same of the latest region that begins here, with its blocks, the head first.
    pub(super) kept_region: Mutex<Option<(PlacedCode, Vec<Weak<Translation>>)>>,
}

/// What a translation is made of.
pub(super) struct Parts {
    pub(super) key: Key,
    pub(super) block: OnceLock<Block>,
    /// Needed where there is no block yet.
    pub(super) later: Option<LiftLater>,
    pub(super) spans: Vec<Span>,
    pub(super) breakpoint: bool,
    pub(super) interpreted: bool,
    pub(super) guest_code: Option<GuestCode>,
}

impl Translation {
    /// A translation that nobody knows of yet.
    pub(super) fn new(generation: &Generation, parts: Parts) -> Arc<Translation> {
        let Parts { key, block, later, spans, breakpoint, interpreted, guest_code } = parts;
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
            interpreted,
            valid: AtomicBool::new(true),
            baseline: AtomicPtr::new(std::ptr::null_mut()),
            baseline_tried: AtomicBool::new(false),
            has_region: AtomicBool::new(false),
            countdown: AtomicI32::new(0),
            executions: AtomicU32::new(0),
            next_request: AtomicU32::new(0),
            regions: Mutex::new(Vec::new()),
            guest_code,
            kept_block: OnceLock::new(),
            kept_region: Mutex::new(None),
        })
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
        let can_be_compiled = !(self.interpreted || self.breakpoint) && self.spans.len() == 1;
        if count >= baseline && !self.baseline_tried.load(Ordering::Relaxed) {
            self.baseline_tried.store(true, Ordering::Relaxed);
            return can_be_compiled.then_some(Wanted::Baseline);
        }
        if count < region || count < self.next_request.load(Ordering::Relaxed) {
            return None;
        }
        self.next_request.store(count.saturating_mul(2), Ordering::Relaxed);
        can_be_compiled.then_some(Wanted::Region)
    }

    /// The baseline compiler's code was executed as often as it was to be; true if the region is to be compiled.
    pub(super) fn count_down(&self, tiers: Tiers) -> bool {
        let Tiers::Background(threshold) = tiers else {
            self.countdown.store(i32::MAX, Ordering::Relaxed);
            return false;
        };
        // It asks again each time that it was executed twice as often.
        let more = self.executions().max(threshold);
        let count = self.executions().saturating_add(more);
        self.executions.store(count, Ordering::Relaxed);
        let given_up = self.next_request.load(Ordering::Relaxed) == u32::MAX;
        let left = if given_up { i32::MAX } else { i32::try_from(count).unwrap_or(i32::MAX) };
        self.countdown.store(left, Ordering::Relaxed);
        !given_up
    }

    /// Makes code of the baseline compiler the block's.
    pub(super) fn link_baseline(&self, entry: EntryPoint, tiers: Tiers) {
        let left = match tiers {
            Tiers::Background(threshold) => i32::try_from(threshold).unwrap_or(i32::MAX),
            _ => i32::MAX,
        };
        self.countdown.store(left, Ordering::Relaxed);
        self.baseline.store(entry.0.cast_mut(), Ordering::SeqCst);
        self.link(entry.0);
    }

    /// The compiled region that begins here is in use.
    pub(super) fn has_region(&self) -> bool {
        self.has_region.load(Ordering::SeqCst)
    }

    /// Makes the cell lead to code of this block, unless the block is void.
    pub(super) fn link(&self, entry: *const u8) {
        self.cell.link(entry);
        // Who invalidated it before the link has not undone that.
        if !self.is_valid() {
            self.cell.unlink();
        }
    }

    /// It cannot be compiled, so that nobody shall ask for it again.
    fn give_up(&self) {
        self.next_request.store(u32::MAX, Ordering::Relaxed);
    }

    pub(super) fn invalidate_now(&self) {
        self.valid.store(false, Ordering::SeqCst);
        self.cell.unlink();
        for head in self.regions.lock().drain(..).filter_map(|head| head.upgrade()) {
            head.unlink_region();
        }
    }

    /// Takes the compiled region that begins here out of use, since the code of one of its blocks changed. The block becomes hot anew.
    fn unlink_region(&self) {
        self.has_region.store(false, Ordering::SeqCst);
        let baseline = self.baseline.load(Ordering::SeqCst).cast_const();
        if baseline.is_null() {
            self.cell.unlink();
        } else {
            self.link(baseline);
        }
        self.executions.store(0, Ordering::Relaxed);
        self.next_request.store(0, Ordering::Relaxed);
        self.countdown.store(WARM as i32, Ordering::Relaxed);
    }
}

impl Invalidate for Translation {
    fn overlaps(&self, physical: u64, bytes: u64) -> bool {
        self.spans.iter().any(|span| {
            physical.wrapping_sub(span.physical) < span.bytes || span.physical.wrapping_sub(physical) < bytes
        })
    }

    fn invalidate(&self) {
        self.invalidate_now();
    }
}

/// All translations made until memory for them runs out; then the next generation begins, and this one is freed when
/// the last processor has left it.
pub struct Generation {
    number: u64,
    pub(super) translations: RwLock<FxHashMap<Key, Arc<Translation>>>,
    /// Those whose code changed, which jump caches may still point to.
    replaced: Mutex<Vec<Arc<Translation>>>,
    cells: Mutex<FxHashMap<Key, Arc<Cell>>>,
    none: *const u8,
    ir_bytes: AtomicU64,
    /// The memory for compiled code is used up.
    code_is_full: AtomicBool,
    pub(crate) code: CodeMemory,
    /// Kept so that `none` stays valid.
    _runtime: Arc<dyn Send + Sync>,
}

// SAFETY: `none` points to code that `_runtime` keeps alive.
unsafe impl Send for Generation {}
// SAFETY: as above.
unsafe impl Sync for Generation {}

impl Generation {
    pub(super) fn find(&self, key: &Key) -> Option<Arc<Translation>> {
        self.translations.read().get(key).filter(|translation| translation.is_valid()).cloned()
    }

    /// The cell for a key, whether or not its translation exists yet.
    pub(crate) fn cell(&self, key: Key) -> Arc<Cell> {
        let new = || Arc::new(Cell { entry: AtomicPtr::new(self.none.cast_mut()), none: self.none });
        self.cells.lock().entry(key).or_insert_with(new).clone()
    }

    pub(super) fn add(&self, parts: Parts) -> Arc<Translation> {
        let translation = Translation::new(self, parts);
        self.insert(translation.clone());
        translation
    }

    /// Puts a translation in the place of what has its key.
    pub(super) fn insert(&self, translation: Arc<Translation>) {
        if let Some(old) = self.translations.write().insert(translation.key, translation) {
            self.replaced.lock().push(old);
        }
    }

    /// Gives the code of a block, or of the region that begins with it, its place; `None` if there is no more room.
    pub(super) fn place(&self, code: Code, translation: &Translation) -> Option<PlacedCode> {
        let Code { mut bytes, relocations } = code;
        for relocation in &relocations {
            let address = match relocation.target {
                Target::Translation => std::ptr::from_ref(translation) as u64,
                Target::Cell(distance) => {
                    let key = translation.key.in_same_page(distance.into())?;
                    Arc::as_ptr(&self.cell(key)) as u64
                }
            };
            let offset = relocation.offset as usize;
            bytes.get_mut(offset..offset + 8)?.copy_from_slice(&address.to_ne_bytes());
        }
        match self.code.add(&bytes) {
            Some(start) => Some(PlacedCode { start, bytes: bytes.len(), relocations: relocations.into() }),
            None => {
                self.code_is_full.store(true, Ordering::Relaxed);
                None
            }
        }
    }

    fn is_full(&self) -> bool {
        self.ir_bytes.load(Ordering::Relaxed) > MOST_IR as u64 || self.code_is_full.load(Ordering::Relaxed)
    }
}

/// Compiled code at its place in the memory of its generation.
pub(super) struct PlacedCode {
    pub(super) start: *const u8,
    pub(super) bytes: usize,
    pub(super) relocations: Box<[Relocation]>,
}

// SAFETY: `start` is an address that is only used with the generation, whose memory for code threads share.
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
        let generation = new_generation(0, runtime.as_ref());
        let saved = keep.zip(runtime.as_deref()).and_then(|(keep, runtime)| kept::open(keep, runtime));
        Arc::new(Translator {
            code_pages: CodePages::new(),
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

    pub(super) fn generation(&self) -> Arc<Generation> {
        self.generation.read().clone()
    }

    /// The present generation if `known` is not it any more, or is full.
    pub(super) fn newer_generation(&self, known: &Generation) -> Option<Arc<Generation>> {
        if self.generation_number.load(Ordering::Acquire) == known.number && !known.is_full() {
            return None;
        }
        let mut generation = self.generation.write();
        if generation.is_full() {
            *generation = new_generation(generation.number + 1, self.runtime.as_ref());
            self.generation_number.store(generation.number, Ordering::Release);
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
            generation.translations.read().len(),
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
        translation.link_baseline(EntryPoint(placed.start), self.tiers);
        if translation.guest_code.is_some() {
            // If two processors compiled it, they made the same.
            let _ = translation.kept_block.set(placed);
        }
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
        for translation in generation.translations.read().values() {
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

fn new_generation<G: Guest>(number: u64, runtime: Option<&Arc<Runtime<G>>>) -> Arc<Generation> {
    let (none, code, kept): (_, _, Arc<dyn Send + Sync>) = match runtime {
        Some(runtime) => (runtime.return_to_dispatcher().0, CodeMemory::new(CODE_SIZE), runtime.clone()),
        None => (std::ptr::null(), CodeMemory::new(0), Arc::new(())),
    };
    let code = code.unwrap_or_else(|error| {
        tracing::warn!("no memory for compiled code, so guest code will only be interpreted: {error}");
        CodeMemory::none()
    });
    Arc::new(Generation {
        number,
        translations: RwLock::default(),
        replaced: Mutex::default(),
        cells: Mutex::default(),
        none,
        ir_bytes: AtomicU64::new(0),
        code_is_full: AtomicBool::new(false),
        code,
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
    let region = region::form(&request.generation, head);
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
    let entry = placed.start;
    perf_map::record(entry, placed.bytes, || format!("region {:#x} of {}", head.block().start, region.blocks.len()));
    if region.blocks.iter().all(|block| block.guest_code.is_some()) {
        *head.kept_region.lock() = Some((placed, region.blocks.iter().map(Arc::downgrade).collect()));
    }
    for block in &region.blocks {
        block.regions.lock().push(Arc::downgrade(head));
    }
    head.has_region.store(true, Ordering::SeqCst);
    head.link(entry);
    count.fetch_add(1, Ordering::Relaxed);
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
