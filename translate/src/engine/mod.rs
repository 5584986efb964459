//! The dispatcher: runs one processor, block by block, choosing for each between interpreter and compiled code.
//!
//! A block is lifted when it is first reached and interpreted from its cached IR. Each execution counts; a hot block becomes the
//! head of a region ([`region`]) that a background thread compiles. What processors share is the [`Translator`]; what
//! each has for itself is its [`Engine`].

mod jump_cache;
mod kept;
pub(crate) mod links;
mod queue;
mod region;
mod table;
mod translations;
mod volatile;

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use crate::activity::{Activity, Samples};
use crate::compile::EntryPoint;
use crate::cpu::{ATTENTION_KICK, ATTENTION_MEMORY, Cpu, Status, Stopped, WatchedRange};
use crate::guest::{Access, Exception, Guest, NeedsMoreCode, stands_alone};
use crate::interpret::{self, Ended, Values, interpret};
use crate::ir::{Block, MemoryMode, Terminator};
use crate::platform::{PAGE_SIZE, Platform};

use jump_cache::JumpCache;
pub(crate) use jump_cache::code_of as code_in_jump_cache;
pub(crate) use jump_cache::{JUMP_CACHE_ENTRY, JUMP_CACHE_PAGES, JUMP_CACHE_PLACES, JumpCacheEntry};
use kept::GuestCode;
pub use kept::Keep;
pub use links::Cell;
pub use region::Region;
pub use translations::{Generation, Key, Tiers, Translation, Translator};
use translations::{Parts, Span, Wanted};
use volatile::VolatileBlocks;

/// Most instructions in a block.
const MOST_INSTRUCTIONS: usize = 64;
/// Most bytes of code of a block, but for an instruction that crosses into the next page: more than so many instructions have.
const MOST_CODE: u64 = 1024;
/// How far beyond the page's end the code of an instruction may reach, bytes.
const LONGEST_INSTRUCTION: u64 = 16;

/// Pages whose translation for instruction fetches is remembered.
const FETCH_PAGES: usize = 256;

/// Where a page of code is.
#[derive(Clone, Copy)]
struct FetchPage {
    /// Guest-virtual page; [`NO_PAGE`] in an empty entry.
    start: u64,
    mode: MemoryMode,
    physical: u64,
    /// It is there in every address space.
    global: bool,
}

/// No page begins there.
const NO_PAGE: u64 = 1;
const NO_FETCH_PAGE: FetchPage = FetchPage { start: NO_PAGE, mode: MemoryMode(0), physical: 0, global: false };

fn fetch_page_index(address: u64) -> usize {
    (address / PAGE_SIZE) as usize % FETCH_PAGES
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// [`ATTENTION_KICK`] was requested.
    Kicked,
    /// [`ATTENTION_MEMORY`] was requested; the next run shall have the new memory.
    MemoryChanged,
    /// The processor waits for an interrupt.
    Halted,
    /// The processor shut down.
    ShutDown,
    /// It is about to execute the instruction at this breakpoint.
    Breakpoint(u64),
    /// The last instruction accessed watched memory from this address on.
    Watchpoint(u64),
}

/// One processor and what it needs to run.
pub struct Engine<G: Guest> {
    /// The processor.
    pub cpu: Box<Cpu<G>>,
    dispatcher: Dispatcher<G>,
    /// Where its time goes, if the log is to say that.
    samples: Option<Arc<Samples>>,
}

impl<G: Guest> Drop for Engine<G> {
    fn drop(&mut self) {
        tracing::info!(target: "perf", "processor {}:\n{}", self.cpu.index, self.statistics());
    }
}

struct Dispatcher<G: Guest> {
    translator: Arc<Translator<G>>,
    generation: Arc<Generation>,
    jump_cache: JumpCache,
    fetch_pages: Box<[FetchPage; FETCH_PAGES]>,
    values: Values,
    volatile: VolatileBlocks,
    breakpoints: BTreeSet<u64>,
}

// SAFETY: the raw pointers of the jump cache point to translations that `generation` keeps alive, which are `Sync`.
unsafe impl<G: Guest> Send for Dispatcher<G> {}

impl<G: Guest> Engine<G> {
    /// Processor `index` of the machine that `translator` serves.
    pub fn new(index: u64, guest: G, translator: Arc<Translator<G>>) -> Engine<G> {
        translator.enter();
        let mut cpu = Cpu::new(index, guest, translator.code_pages.clone());
        let jump_cache = JumpCache::new();
        cpu.context.jump_cache = jump_cache.as_ptr();
        cpu.context.functions = translator.functions();
        let dispatcher = Dispatcher {
            generation: translator.generation(),
            translator,
            jump_cache,
            fetch_pages: Box::new([NO_FETCH_PAGE; FETCH_PAGES]),
            values: Values::new(),
            volatile: VolatileBlocks::new(),
            breakpoints: BTreeSet::new(),
        };
        let is_profiled = tracing::enabled!(target: "perf", tracing::Level::INFO);
        let samples = if is_profiled { Samples::take(&cpu.signals) } else { None };
        Engine { cpu, dispatcher, samples }
    }

    /// Runs until something needs the caller. A breakpoint at the first instruction is passed over.
    pub fn run(&mut self, platform: &dyn Platform) -> Stop {
        let Engine { cpu, dispatcher, .. } = self;
        cpu.during(Activity::Dispatching, |cpu| cpu.with_platform(platform, |cpu| dispatcher.run(cpu)))
    }

    /// What the processor did so far, and what is known of its time; and of all processors, what was compiled.
    pub fn statistics(&self) -> String {
        let mut text = format!("{}\n{}", self.cpu.counters, self.dispatcher.translator.statistics());
        if let Some(samples) = &self.samples {
            text.push_str(&format!("\n{samples}"));
        }
        text
    }

    /// Executes one instruction, or takes its exception or a pending interrupt instead.
    pub fn step(&mut self, platform: &dyn Platform) -> Option<Stop> {
        let Engine { cpu, dispatcher, .. } = self;
        cpu.with_platform(platform, |cpu| {
            if let Some(stop) = take_attention(cpu) {
                return Some(stop);
            }
            dispatcher.note_flushes(cpu);
            if cpu.shut_down {
                return Some(Stop::ShutDown);
            }
            if cpu.halted && !G::wakes(cpu) {
                return Some(Stop::Halted);
            }
            cpu.was_halted = std::mem::take(&mut cpu.halted);
            if G::take_interrupt(cpu) {
                return None;
            }
            cpu.context.flags = G::flags(cpu);
            dispatcher.step_uncached(cpu)
        })
    }

    /// Translates a guest-virtual address as a load of the processor's would, without a trace; `None` where it would fault.
    pub fn translate(&mut self, platform: &dyn Platform, address: u64, mode: MemoryMode) -> Option<u64> {
        self.cpu.with_platform(platform, |cpu| {
            G::translate(cpu, address, 1, Access::Inspect, mode).ok().map(|translation| translation.physical)
        })
    }

    /// Replaces breakpoints and watched memory.
    pub fn set_debug(&mut self, breakpoints: BTreeSet<u64>, watched: Vec<WatchedRange>) {
        let dispatcher = &mut self.dispatcher;
        for added in breakpoints.difference(&dispatcher.breakpoints) {
            dispatcher.translator.add_breakpoint(*added);
        }
        for removed in dispatcher.breakpoints.difference(&breakpoints) {
            dispatcher.translator.remove_breakpoint(*removed);
        }
        dispatcher.breakpoints = breakpoints;
        self.cpu.watched = watched;
        self.cpu.flush_tlb();
    }
}

/// Acts on what other threads want of the processor; says whether its run must end.
fn take_attention<G: Guest>(cpu: &mut Cpu<G>) -> Option<Stop> {
    let attention = cpu.signals.attention.swap(0, Ordering::SeqCst);
    if attention & ATTENTION_MEMORY != 0 {
        cpu.flush_tlb();
    }
    if attention & ATTENTION_KICK != 0 {
        return Some(Stop::Kicked);
    }
    (attention & ATTENTION_MEMORY != 0).then_some(Stop::MemoryChanged)
}

/// False if nothing is to be done before the next block but to look at the translation flags, provided that [`Guest::take_interrupt`] was called
/// since the processor was last asked for attention. So compiled code may then go on by itself.
#[inline]
pub(crate) fn needs_dispatcher<G: Guest>(cpu: &Cpu<G>) -> bool {
    cpu.signals.attention.load(Ordering::Relaxed) != 0
        || cpu.halted
        || cpu.shut_down
        || cpu.flushed.any()
        || G::may_take_interrupt(cpu)
}

impl<G: Guest> Drop for Dispatcher<G> {
    fn drop(&mut self) {
        for address in &self.breakpoints {
            self.translator.remove_breakpoint(*address);
        }
        self.translator.leave();
    }
}

impl<G: Guest> Dispatcher<G> {
    fn run(&mut self, cpu: &mut Cpu<G>) -> Stop {
        let mut passed_over = Some(cpu.context.pc);
        let mut look_again = true;
        // What comes from outside may have changed.
        let mut was_called = true;
        loop {
            if cpu.signals.attention.load(Ordering::Relaxed) != 0 {
                (look_again, was_called) = (true, true);
                if let Some(stop) = take_attention(cpu) {
                    return stop;
                }
            }
            if look_again {
                look_again = false;
                cpu.was_halted = false;
                if was_called || needs_dispatcher(cpu) {
                    if cpu.shut_down {
                        return Stop::ShutDown;
                    }
                    if cpu.halted && !G::wakes(cpu) {
                        return Stop::Halted;
                    }
                    cpu.was_halted = std::mem::take(&mut cpu.halted);
                    // What has woken it is looked for, too.
                    was_called |= cpu.was_halted;
                    if std::mem::take(&mut was_called) || G::may_take_interrupt(cpu) {
                        G::take_interrupt(cpu);
                    }
                    if cpu.halted {
                        // By the signal that it took.
                        look_again = true;
                        continue;
                    }
                    self.note_flushes(cpu);
                }
                cpu.context.flags = G::flags(cpu);
            }
            let ended = match self.find(cpu) {
                Ok(None) => {
                    passed_over = None;
                    self.execute_volatile(cpu)
                }
                Ok(Some(translation)) => {
                    // SAFETY: `self.generation`, which is replaced in `find` only, keeps it alive.
                    let translation = unsafe { &*translation };
                    if translation.breakpoint {
                        let pc = cpu.context.pc;
                        if passed_over != Some(pc) && self.breakpoints.contains(&pc) {
                            return Stop::Breakpoint(pc);
                        }
                    }
                    passed_over = None;
                    self.execute(cpu, translation)
                }
                Err(Stopped) => Ended::Stopped,
            };
            match ended {
                Ended::Next => {}
                Ended::Leave => look_again = true,
                Ended::Stopped => {
                    look_again = true;
                    if let Some(stop) = self.handle_stopped(cpu) {
                        return stop;
                    }
                }
            }
        }
    }

    fn execute(&mut self, cpu: &mut Cpu<G>, translation: &Translation) -> Ended {
        let pc = cpu.context.pc;
        if let Some(entry) = translation.cell.compiled() {
            cpu.counters.entered += 1;
            self.jump_cache.note_code(pc, cpu.context.flags, self.generation.way_in(translation));
            let ended = cpu.during(Activity::Compiled, |cpu| self.translator.call(cpu, EntryPoint(entry)));
            let hot = std::mem::replace(&mut cpu.context.hot, std::ptr::null());
            // SAFETY: code of the baseline compiler put it there, and its generation, which `self.generation` is, keeps it alive.
            if let Some(hot) = unsafe { hot.as_ref() }
                && hot.count_down(self.translator.tiers())
            {
                cpu.counters.regions_requested += 1;
                self.translator.request(&self.generation, &hot.key);
            }
            return ended;
        }
        cpu.counters.interpreted += 1;
        let ended = cpu.during(Activity::Interpreting, |cpu| interpret(cpu, translation.block(), &mut self.values));
        match translation.count_execution(self.translator.tiers()) {
            Some(Wanted::Baseline) => {
                let compile = |_: &mut Cpu<G>| self.translator.compile_baseline(&self.generation, translation);
                let done = cpu.during(Activity::Compiling, compile);
                cpu.counters.baseline += u64::from(done);
                self.jump_cache.note_code(pc, cpu.context.flags, self.generation.way_in(translation));
            }
            Some(Wanted::Region) => {
                cpu.counters.regions_requested += 1;
                self.translator.request(&self.generation, &translation.key);
            }
            None => {}
        }
        ended
    }

    /// Acts on what an operation could not complete; the processor's pc is that of its instruction.
    fn handle_stopped(&mut self, cpu: &mut Cpu<G>) -> Option<Stop> {
        match interpret::status(cpu) {
            Some(Status::Raised) => {
                let exception = cpu.context.exception;
                cpu.counters.exceptions += 1;
                G::raise(cpu, exception);
                None
            }
            Some(Status::CodeWrite) => {
                cpu.counters.code_writes += 1;
                cpu.context.flags = G::flags(cpu);
                self.step_uncached(cpu)
            }
            Some(Status::Watchpoint) => {
                let address = cpu.watch_hit;
                cpu.watch_suspended = true;
                cpu.context.flags = G::flags(cpu);
                self.step_uncached(cpu);
                cpu.watch_suspended = false;
                Some(Stop::Watchpoint(address))
            }
            None => None,
        }
    }

    /// Executes one instruction without the cache of translations.
    fn step_uncached(&mut self, cpu: &mut Cpu<G>) -> Option<Stop> {
        let ended = match self.lift(cpu, 1) {
            Ok((block, _)) => interpret(cpu, &block, &mut self.values),
            Err(Stopped) => Ended::Stopped,
        };
        if ended == Ended::Stopped { self.handle_stopped(cpu) } else { None }
    }

    /// Forgets the places of the jump cache, and the pages of code, whose address translation may have changed.
    fn note_flushes(&mut self, cpu: &mut Cpu<G>) {
        if std::mem::take(&mut cpu.flushed.all) {
            cpu.flushed.pages.clear();
            self.jump_cache.clear();
            for page in self.fetch_pages.iter_mut() {
                page.start = NO_PAGE;
            }
        }
        if std::mem::take(&mut cpu.flushed.address_space) {
            self.jump_cache.clear_address_space();
            for page in self.fetch_pages.iter_mut().filter(|page| !page.global) {
                page.start = NO_PAGE;
            }
        }
        for address in cpu.flushed.pages.drain(..) {
            self.fetch_pages[fetch_page_index(address)].start = NO_PAGE;
            // A translation may begin on the page before.
            for page in [address, address.wrapping_sub(PAGE_SIZE)] {
                self.jump_cache.clear_page(page);
            }
        }
    }

    /// The translation at the processor's pc; `None` if there shall be none.
    #[inline]
    fn find(&mut self, cpu: &mut Cpu<G>) -> Result<Option<*const Translation>, Stopped> {
        let pc = cpu.context.pc;
        if let Some(translation) = self.jump_cache.get(pc, cpu.context.flags)
            // SAFETY: it was filled from `self.generation`, which keeps it alive.
            && unsafe { &*translation }.is_valid()
        {
            return Ok(Some(translation));
        }
        self.find_slowly(cpu)
    }

    fn find_slowly(&mut self, cpu: &mut Cpu<G>) -> Result<Option<*const Translation>, Stopped> {
        if let Some(generation) = self.translator.newer_generation(&self.generation) {
            // Before the old one goes, and the translations with it.
            self.jump_cache.forget();
            self.generation = generation;
        }
        cpu.counters.jump_cache_misses += 1;
        let pc = cpu.context.pc;
        let physical = self.fetch_address(cpu, pc)?;
        let to_page_end = PAGE_SIZE - pc % PAGE_SIZE;
        let next_page = if to_page_end < LONGEST_INSTRUCTION {
            // The next page counts only if the first instruction reaches it; until then a fault there is no fault.
            let status = cpu.context.status;
            let next = self.fetch_address(cpu, pc.wrapping_add(to_page_end)).ok();
            cpu.context.status = status;
            next
        } else {
            None
        };
        // Code that may run at any address is translated once, wherever it is mapped; but breakpoints are at an address.
        let movable = G::is_position_independent(cpu.context.flags) && !self.translator.has_breakpoint_in_page(pc);
        let start = if movable { pc % PAGE_SIZE } else { pc };
        let key = Key { start, physical, next_page, flags: cpu.context.flags };
        // An address space that is entered again finds what it left: comparing keys is cheaper than hashing one.
        let before = self.jump_cache.last(pc).find(|before| {
            // SAFETY: what an entry points to is kept alive by `self.generation`.
            let before = unsafe { &**before };
            before.key == key && before.is_valid()
        });
        let pointer = match before {
            Some(before) => before,
            None => {
                cpu.counters.hashed += 1;
                match self.generation.find(&key) {
                    Some(translation) => Arc::as_ptr(&translation),
                    None if movable && to_page_end >= LONGEST_INSTRUCTION && cpu.code_pages.is_volatile(physical) => {
                        return Ok(None);
                    }
                    None => {
                        let made = cpu.during(Activity::Translating, |cpu| self.translate(cpu, key, movable));
                        Arc::as_ptr(&made?)
                    }
                }
            }
        };
        let known = &self.fetch_pages[fetch_page_index(pc)];
        let in_global_page = known.start == pc & !(PAGE_SIZE - 1) && known.global;
        // SAFETY: as above.
        let translation = unsafe { &*pointer };
        let code = self.generation.way_in(translation);
        self.jump_cache.fill(pc, cpu.context.flags, translation, code, in_global_page && key.next_page.is_none());
        Ok(Some(pointer))
    }

    /// Makes and records the translation at the processor's pc; `movable`: it may be mapped anywhere.
    fn translate(&mut self, cpu: &mut Cpu<G>, key: Key, movable: bool) -> Result<Arc<Translation>, Stopped> {
        let may_be_kept = movable && key.next_page.is_none() && self.translator.keeps_code();
        if may_be_kept && let Some(translation) = self.restore(cpu, key) {
            cpu.counters.restored += 1;
            return Ok(translation);
        }
        cpu.counters.lifted += 1;
        loop {
            let first_writes = cpu.code_pages.protect(key.physical);
            let second_writes = key.next_page.map(|next| cpu.code_pages.protect(next));
            let (block, breakpoint) = self.lift(cpu, MOST_INSTRUCTIONS)?;
            tracing::trace!(target: "op", "\n{}", block.text(crate::ir::GuestNames::<G>::new()));
            let length = u64::from(block.length);
            let in_first = length.min(PAGE_SIZE - key.physical % PAGE_SIZE);
            let mut spans = vec![Span { physical: key.physical, bytes: in_first }];
            if length > in_first
                && let Some(next) = key.next_page
            {
                spans.push(Span { physical: next, bytes: length - in_first });
            }
            let alone = spans.len() > 1 || block.ops.iter().any(stands_alone::<G>);
            // What was kept may be part of a region.
            let guest_code = if may_be_kept && !alone { self.guest_code(cpu, key, &block) } else { None };
            let block = OnceLock::from(block);
            let parts = Parts { key, block, later: None, spans, breakpoint, alone, guest_code };
            let translation = self.generation.add(parts);
            let writes = [Some(first_writes), second_writes];
            let recorded = translation.spans.iter().zip(writes).all(|(span, writes)| {
                let weak = Arc::downgrade(&translation);
                cpu.code_pages.record(span.physical, span.bytes, writes.unwrap_or(0), weak)
            });
            if recorded {
                return Ok(translation);
            }
            translation.invalidate_now();
        }
    }

    /// The translation at a key from what was kept of earlier runs, recorded.
    fn restore(&mut self, cpu: &mut Cpu<G>, key: Key) -> Option<Arc<Translation>> {
        let writes = cpu.code_pages.protect(key.physical);
        let mut page = [0; PAGE_SIZE as usize];
        self.read_code(cpu, 0, key.physical & !(PAGE_SIZE - 1), &mut page).ok()?;
        self.translator.restore(&self.generation, key, &page, |translation| {
            let record = |span: &Span| {
                cpu.code_pages.record(span.physical, span.bytes, writes, Arc::downgrade(translation) as _)
            };
            translation.spans.iter().all(record)
        })
    }

    /// What a block was lifted from, if that is still there: if not, its translation is void anyway.
    fn guest_code(&self, cpu: &mut Cpu<G>, key: Key, block: &Block) -> Option<GuestCode> {
        let offset = key.physical % PAGE_SIZE;
        let length = usize::from(block.length).max(crate::saved::HASHED).min((PAGE_SIZE - offset) as usize);
        let mut room = [0; (MOST_CODE + LONGEST_INSTRUCTION) as usize];
        let code = room.get_mut(..length)?;
        self.read_code(cpu, 0, key.physical, code).ok()?;
        let bytes: Box<[u8]> = code.get(..usize::from(block.length))?.into();
        // What is invalid may have been found so by bytes behind it, without which it cannot be lifted again.
        if matches!(block.terminator, Terminator::Raise { .. }) {
            let again = G::lift(block.start, &bytes, cpu.context.flags, G::features(cpu), MOST_INSTRUCTIONS);
            if again.ok().as_ref() != Some(block) {
                return None;
            }
        }
        Some(GuestCode { hash: crate::saved::hash(key.flags, offset as u16, code), bytes })
    }

    /// Lifts the block at the processor's pc, up to the next breakpoint; says whether one is at its beginning.
    fn lift(&mut self, cpu: &mut Cpu<G>, most_instructions: usize) -> Result<(Block, bool), Stopped> {
        let pc = cpu.context.pc;
        let to_page_end = PAGE_SIZE - pc % PAGE_SIZE;
        let physical = self.fetch_address(cpu, pc)?;
        let mut room = [0; (MOST_CODE + LONGEST_INSTRUCTION) as usize];
        let length = to_page_end.min(MOST_CODE) as usize;
        self.read_code(cpu, pc, physical, &mut room[..length])?;
        let mut code = &room[..length];
        let mut most = most_instructions;
        let mut block = match G::lift(pc, code, cpu.context.flags, G::features(cpu), most) {
            Ok(block) => block,
            Err(NeedsMoreCode) => {
                let next = pc.wrapping_add(to_page_end);
                let physical = self.fetch_address(cpu, next)?;
                let longer = length + LONGEST_INSTRUCTION as usize;
                self.read_code(cpu, next, physical, &mut room[length..longer])?;
                code = &room[..longer];
                most = 1;
                G::lift(pc, code, cpu.context.flags, G::features(cpu), most).map_err(|NeedsMoreCode| {
                    // No guest has instructions that long.
                    cpu.stop_with(Exception { number: 0, information: pc })
                })?
            }
        };
        let end = pc.wrapping_add(u64::from(block.length));
        if let Some(next) = self.translator.breakpoint_between(pc, end) {
            let before =
                block.instructions.iter().take_while(|at| pc.wrapping_add(u64::from(at.offset)) < next).count();
            if before < block.instructions.len()
                && let Ok(shorter) = G::lift(pc, code, cpu.context.flags, G::features(cpu), before.max(1))
            {
                block = shorter;
            }
        }
        Ok((block, self.translator.is_breakpoint(pc)))
    }

    fn fetch_address(&mut self, cpu: &mut Cpu<G>, address: u64) -> Result<u64, Stopped> {
        let mode = G::fetch_mode(cpu);
        let start = address & !(PAGE_SIZE - 1);
        let known = &mut self.fetch_pages[fetch_page_index(address)];
        if known.start == start && known.mode == mode {
            return Ok(known.physical | (address % PAGE_SIZE));
        }
        match G::translate(cpu, address, 2, Access::Execute, mode) {
            Ok(translation) => {
                if translation.whole_page {
                    let physical = translation.physical & !(PAGE_SIZE - 1);
                    *known = FetchPage { start, mode, physical, global: translation.global };
                }
                Ok(translation.physical)
            }
            Err(exception) => Err(cpu.stop_with(exception)),
        }
    }

    fn read_code(&self, cpu: &mut Cpu<G>, address: u64, physical: u64, code: &mut [u8]) -> Result<(), Stopped> {
        let Some(page) = cpu.host_page(physical) else {
            let Some(exception) = G::bus_error(address, Access::Execute) else {
                code.fill(0xff);
                return Ok(());
            };
            return Err(cpu.stop_with(exception));
        };
        let offset = (physical % PAGE_SIZE) as usize;
        let length = code.len().min(PAGE_SIZE as usize - offset);
        // SAFETY: the page is valid during the run, and the range lies within it. Processors that write there at the same
        // time are noticed by `CodePages::record`; what was read then is thrown away.
        unsafe { std::ptr::copy_nonoverlapping(page.host.as_ptr().add(offset), code.as_mut_ptr(), length) };
        Ok(())
    }
}
