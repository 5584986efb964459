//! A processor at run time: registers, soft TLB, and every access to guest memory that is not on a fast path.

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use crate::activity::{Activity, Present};
use crate::code::CodePages;
use crate::counters::Counters;
use crate::guest::{Access, Exception, Guest};
use crate::ir::{MemoryMode, Width};
use crate::platform::{BusError, HostPage, HostRange, MemoryView, PAGE_SIZE, Platform};
use crate::tlb::{GLOBAL, MAY_WRITE, MOST_MODES, NO_TAG, Tlb, TlbEntry};

/// Most registers a guest may have.
pub const MOST_REGISTERS: usize = 256;
/// Room for values that find no host register.
pub(crate) const SPILL_SLOTS: usize = 32;
/// The same for vectors.
pub(crate) const VECTOR_SPILL_SLOTS: usize = 16;

/// The part of a processor that compiled code reaches by offset. What it uses most comes first, for short code: the first 256 bytes are
/// within reach of one byte.
#[repr(C)]
#[derive(Debug)]
pub struct Context {
    /// Not zero: the operation that called out did not complete, as [`Status`] says.
    pub status: u32,
    /// Floating-point exception flags raised so far: bit 0 inexact, 1 underflow, 2 overflow, 3 division by zero, 4
    /// invalid. Compiled code keeps those it raises in the host's control register until it returns.
    pub float_flags: u32,
    /// Address of the next instruction, while no code runs; while a block or a compiled region does, where it was entered.
    pub pc: u64,
    /// Instructions retired.
    pub instructions: u64,
    /// Result of a slow path called by compiled code; of a vector, the lower half.
    pub result: u64,
    /// The upper half.
    pub result_high: u64,
    /// The attention word, see [`Signals::attention`].
    pub attention: *const AtomicU32,
    /// The soft TLB's [`TLB_ENTRIES`](crate::tlb::TLB_ENTRIES) entries for each regime, one regime behind the other.
    pub tlb: [*const TlbEntry; MOST_MODES],
    /// Functions that compiled code calls, in the order of `crate::compile::Function`; null where nothing is compiled.
    pub(crate) functions: *const *const u8,
    /// The jump cache: see [`crate::engine`].
    pub(crate) jump_cache: *const crate::engine::JumpCacheEntry,
    /// The guest's registers.
    pub registers: [u64; MOST_REGISTERS],
    /// Rounding mode of floating-point arithmetic.
    pub float_rounding: crate::float::Rounding,
    /// Address of the instruction that last jumped to a computed address, of those whose target the dispatcher had to look up.
    pub jump_source: u64,
    /// Where it jumped.
    pub jump_target: u64,
    /// Compiled code leaves by a [`crate::ir::Terminator::Leave`], and the dispatcher has to take another look at everything.
    pub leave: u64,
    /// Translation flags, as of the last look: the dispatcher's, or that of code which goes on under others without coming back to it.
    pub(crate) flags: u32,
    /// Where compiled code puts results of floating-point operations that nothing uses at once, so that none is dropped or moved across a
    /// side effect: its exception flags count even if its result does not.
    pub float_scratch: [u64; 2],
    /// Guest-virtual address of the reservation that [`crate::ir::Op::LoadReserved`] took; [`NO_RESERVATION`] if none is
    /// held.
    pub reservation_address: u64,
    /// The value then loaded.
    pub reservation_value: u64,
    /// The exception of [`Status::Raised`].
    pub exception: Exception,
    /// The block that asks to be compiled better; compiled code returns before it. Null if there is none.
    pub(crate) hot: *const crate::engine::Translation,
    /// Values of the block in progress that find no host register, for the baseline compiler.
    pub(crate) spilled: [u64; SPILL_SLOTS],
    /// The same for vectors.
    pub(crate) spilled_vectors: [[u64; 2]; VECTOR_SPILL_SLOTS],
}

// SAFETY: the pointers point into `Signals` and `Tlb`, which the `Cpu` keeps alive and which are `Sync`, into the table of
// functions, which never changes, and into the jump cache, which belongs to the same thread as the `Cpu` itself.
unsafe impl Send for Context {}

/// [`Context::reservation_address`] when there is no reservation; not a multiple of an access width.
pub const NO_RESERVATION: u64 = 1;

/// Why an operation did not complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Status {
    /// It raised [`Context::exception`].
    Raised = 1,
    /// It writes to code that was translated: the dispatcher must execute this one instruction by itself.
    CodeWrite = 2,
    /// It touches watched memory, from [`Cpu::watch_hit`] on.
    Watchpoint = 3,
}

/// An operation did not complete; [`Context::status`] says why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped;

/// What other threads may change of a processor.
#[derive(Debug, Default)]
pub struct Signals {
    /// Not zero: compiled and interpreted code returns to the dispatcher soon. Bits `ATTENTION_*`.
    pub attention: AtomicU32,
    /// Levels of the processor's interrupt inputs.
    pub inputs: AtomicU64,
    /// What the processor does, for who looks from outside.
    pub(crate) activity: Present,
}

impl Signals {
    /// Sets bits of the attention word.
    pub fn request(&self, attention: u32) {
        self.attention.fetch_or(attention, Ordering::SeqCst);
    }

    /// Sets the level of an interrupt input; true if it changed.
    pub fn set_input(&self, input: u32, level: bool) -> bool {
        let bit = 1_u64 << (input & 63);
        let old = if level {
            self.inputs.fetch_or(bit, Ordering::SeqCst)
        } else {
            self.inputs.fetch_and(!bit, Ordering::SeqCst)
        };
        self.request(ATTENTION_INTERRUPT);
        (old & bit != 0) != level
    }
}

/// Interrupt inputs or a timer changed.
pub const ATTENTION_INTERRUPT: u32 = 1;
/// The owner of the processor's thread wants it back.
pub const ATTENTION_KICK: u32 = 2;
/// Guest memory was mapped or unmapped: cached translations are void.
pub const ATTENTION_MEMORY: u32 = 4;

/// Memory that stops the processor when it is accessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WatchedRange {
    /// First guest-virtual address.
    pub address: u64,
    /// Length in bytes.
    pub length: u64,
    /// Reads stop, too.
    pub reads: bool,
}

impl WatchedRange {
    pub(crate) fn overlaps(&self, address: u64, length: u64) -> bool {
        address.wrapping_sub(self.address) < self.length || self.address.wrapping_sub(address) < length
    }
}

/// Of which address translation something was forgotten, so that what was derived from it goes too.
#[derive(Debug, Default)]
pub(crate) struct Flushed {
    /// Of all.
    pub(crate) all: bool,
    /// Of what is not global.
    pub(crate) address_space: bool,
    /// Of the pages with these guest-virtual addresses.
    pub(crate) pages: Vec<u64>,
}

impl Flushed {
    pub(crate) fn any(&self) -> bool {
        self.all || self.address_space || !self.pages.is_empty()
    }
}

/// A processor: the context that code runs on, the guest's further state, and what connects it to the world.
#[repr(C)]
pub struct Cpu<G> {
    /// What compiled code reaches. Must come first: helpers get a pointer to it.
    pub context: Context,
    /// The guest's state beyond registers.
    pub guest: G,
    /// Number of the processor in its machine.
    pub index: u64,
    /// The processor waits for an interrupt; set by helpers.
    pub halted: bool,
    /// It was until the interrupt that [`Guest::take_interrupt`] is looking for.
    pub was_halted: bool,
    /// The processor shut down, and stays so until its state is replaced.
    pub shut_down: bool,
    /// Memory to watch.
    pub watched: Vec<WatchedRange>,
    /// Address of the watched range of [`Status::Watchpoint`].
    pub watch_hit: u64,
    /// Memory whose accesses the guest's own debug registers ask to be told of, each with the bits that an access sets in
    /// [`Cpu::traced_hits`]. To be changed with [`Cpu::trace`].
    pub(crate) traced: Vec<(WatchedRange, u64)>,
    /// The ranges of [`Cpu::traced`] that were accessed since this was last cleared.
    pub(crate) traced_hits: u64,
    /// What happened so far.
    pub counters: Counters,
    /// The soft TLB.
    pub tlb: Arc<Tlb>,
    /// The memory that was last looked up, and in which view; valid inside a run only.
    range: Option<(MemoryView, HostRange)>,
    /// What other threads may change.
    pub signals: Arc<Signals>,
    /// Which memory holds translated code.
    pub(crate) code_pages: Arc<CodePages>,
    /// What was flushed since the dispatcher last asked.
    pub(crate) flushed: Flushed,
    /// The rounding mode that compiled code was entered with.
    pub(crate) rounding_in_use: crate::float::Rounding,
    /// Watchpoints are passed over: the instruction that hit one is being completed.
    pub(crate) watch_suspended: bool,
    /// The world outside; valid inside a run only.
    platform: Option<NonNull<dyn Platform>>,
}

// SAFETY: `platform` is set only while the owner is inside a run, and `Platform` is `Sync`; everything else is `Send`.
unsafe impl<G: Send> Send for Cpu<G> {}

impl<G: Guest> Cpu<G> {
    /// Processor `index` of the machine whose translated code `code_pages` records.
    pub fn new(index: u64, guest: G, code_pages: Arc<CodePages>) -> Box<Cpu<G>> {
        let tlb = Arc::new(Tlb::new());
        let signals = Arc::new(Signals::default());
        code_pages.add_processor(&tlb);
        Box::new(Cpu {
            context: Context {
                status: 0,
                float_flags: 0,
                float_rounding: crate::float::Rounding::NearestEven,
                pc: 0,
                instructions: 0,
                jump_source: 0,
                jump_target: 0,
                result: 0,
                result_high: 0,
                leave: 0,
                flags: 0,
                float_scratch: [0; 2],
                attention: &raw const signals.attention,
                tlb: std::array::from_fn(|mode| tlb.entries_of(mode).as_ptr()),
                reservation_address: NO_RESERVATION,
                reservation_value: 0,
                exception: Exception { number: 0, information: 0 },
                functions: std::ptr::null(),
                jump_cache: std::ptr::null(),
                hot: std::ptr::null(),
                spilled: [0; SPILL_SLOTS],
                spilled_vectors: [[0; 2]; VECTOR_SPILL_SLOTS],
                registers: [0; MOST_REGISTERS],
            },
            guest,
            index,
            halted: false,
            was_halted: false,
            shut_down: false,
            watched: Vec::new(),
            watch_hit: 0,
            traced: Vec::new(),
            traced_hits: 0,
            counters: Counters::default(),
            tlb,
            range: None,
            signals,
            code_pages,
            flushed: Flushed::default(),
            rounding_in_use: crate::float::Rounding::NearestEven,
            watch_suspended: false,
            platform: None,
        })
    }

    /// Makes `platform` the world outside for the duration of `run`.
    pub fn with_platform<R>(&mut self, platform: &dyn Platform, run: impl FnOnce(&mut Cpu<G>) -> R) -> R {
        // SAFETY: only the lifetime changes; the pointer is taken back before `platform` can end, also on unwinding, since
        // `Reset` outlives the call of `run`.
        let pointer: NonNull<dyn Platform> = unsafe {
            std::mem::transmute::<NonNull<dyn Platform + '_>, NonNull<dyn Platform>>(NonNull::from(platform))
        };
        struct Reset<'a, G>(&'a mut Cpu<G>, Option<NonNull<dyn Platform>>);
        impl<G> Drop for Reset<'_, G> {
            fn drop(&mut self) {
                self.0.platform = self.1;
                self.0.range = None;
            }
        }
        let previous = self.platform.replace(pointer);
        self.range = None;
        let reset = Reset(self, previous);
        run(&mut *reset.0)
    }

    /// The world outside, for helpers.
    ///
    /// # Panics
    /// Outside [`Cpu::with_platform`], which is a mistake of this crate's caller and not reachable by a guest.
    pub fn platform(&self) -> &dyn Platform {
        let pointer = self.platform.expect("a processor is used outside its run");
        // SAFETY: set by `with_platform`, whose borrow of the platform is still alive.
        unsafe { pointer.as_ref() }
    }

    /// The page of RAM or ROM that holds a guest-physical address, as [`Platform::page`].
    pub(crate) fn host_page(&mut self, physical: u64) -> Option<HostPage> {
        let view = G::memory_view(self);
        if let Some((known, range)) = &self.range
            && *known == view
            && let Some(page) = range.page(physical)
        {
            return Some(page);
        }
        let range = self.platform().range(view, physical)?;
        self.range = Some((view, range));
        range.page(physical)
    }

    /// Records an exception for the operation in progress; for helpers and slow paths. The helper returns next.
    pub fn stop_with(&mut self, exception: Exception) -> Stopped {
        self.context.exception = exception;
        self.context.status = Status::Raised as u32;
        Stopped
    }

    /// Replaces the ranges of memory that the guest traces.
    pub(crate) fn trace(&mut self, ranges: Vec<(WatchedRange, u64)>) {
        if ranges != self.traced {
            self.traced = ranges;
            self.flush_tlb();
        }
    }

    /// Forgets all cached translations, since what they were made from changed. For helpers that the lifter follows with
    /// a [`crate::ir::Terminator::Leave`].
    pub fn flush_tlb(&mut self) {
        self.flushed.all = true;
        self.counters.flushes += 1;
        self.tlb.flush();
    }

    /// Forgets the cached translations that hold in one address space only, since another is entered.
    pub fn flush_tlb_of_address_space(&mut self) {
        self.flushed.address_space = true;
        self.counters.address_space_flushes += 1;
        self.tlb.flush_address_space();
    }

    /// Forgets the cached translations of one guest-virtual page.
    pub fn flush_tlb_page(&mut self, address: u64) {
        self.flushed.pages.push(address);
        self.counters.page_flushes += 1;
        self.tlb.flush_page(address);
    }

    /// Loads from guest-virtual memory, zero-extending.
    #[inline]
    pub fn load(&mut self, address: u64, width: Width, mode: MemoryMode) -> Result<u64, Stopped> {
        let bytes = width.bytes();
        let entry = self.tlb.entry(address, mode);
        let last = address.wrapping_add(bytes - 1);
        if entry.read.load(Ordering::Relaxed) == last & !(PAGE_SIZE - 1) && (address ^ last) & !(PAGE_SIZE - 1) == 0 {
            let host = entry.addend.load(Ordering::Relaxed).wrapping_add(address) as *const u8;
            // SAFETY: the entry says that the page is host memory at this address, and the access lies within the page.
            return Ok(unsafe { load_host(host, bytes) });
        }
        self.load_slow(address, bytes, mode)
    }

    /// Stores to guest-virtual memory.
    #[inline]
    pub fn store(&mut self, address: u64, width: Width, mode: MemoryMode, value: u64) -> Result<(), Stopped> {
        let bytes = width.bytes();
        let entry = self.tlb.entry(address, mode);
        let last = address.wrapping_add(bytes - 1);
        if entry.write.load(Ordering::Relaxed) == last & !(PAGE_SIZE - 1) && (address ^ last) & !(PAGE_SIZE - 1) == 0 {
            let host = entry.addend.load(Ordering::Relaxed).wrapping_add(address) as *mut u8;
            // SAFETY: the entry says that the page is writable host memory at this address, and the access lies within it.
            unsafe { store_host(host, bytes, value) };
            return Ok(());
        }
        self.store_slow(address, bytes, mode, value)
    }

    /// Loads 16 bytes from guest-virtual memory.
    pub fn load_vector(&mut self, address: u64, mode: MemoryMode) -> Result<u128, Stopped> {
        let last = address.wrapping_add(15);
        if (address ^ last) & !(PAGE_SIZE - 1) == 0
            && let Some(host) = self.host_for_reads(address, mode)
        {
            // SAFETY: the entry says that the page is host memory at this address, and the access lies within the page.
            let [low, high] = unsafe { [load_host(host, 8), load_host(host.add(8), 8)] };
            return Ok(u128::from(low) | u128::from(high) << 64);
        }
        self.load_vector_slow(address, mode)
    }

    /// Stores 16 bytes to guest-virtual memory.
    pub fn store_vector(&mut self, address: u64, mode: MemoryMode, value: u128) -> Result<(), Stopped> {
        let last = address.wrapping_add(15);
        if (address ^ last) & !(PAGE_SIZE - 1) == 0
            && let Some(host) = self.host_for_writes(address, mode)
        {
            // SAFETY: the entry says that the page is writable host memory at this address, and the access lies within it.
            unsafe {
                store_host(host, 8, value as u64);
                store_host(host.add(8), 8, (value >> 64) as u64);
            }
            return Ok(());
        }
        self.store_vector_slow(address, mode, value)
    }

    /// [`Cpu::load_vector`] without the look into the TLB first.
    pub fn load_vector_slow(&mut self, address: u64, mode: MemoryMode) -> Result<u128, Stopped> {
        self.probe_vector(address, Access::Read, mode)?;
        let low = self.load_slow(address, 8, mode)?;
        let high = self.load_slow(address.wrapping_add(8), 8, mode)?;
        Ok(u128::from(low) | u128::from(high) << 64)
    }

    /// [`Cpu::store_vector`] without the look into the TLB first.
    pub fn store_vector_slow(&mut self, address: u64, mode: MemoryMode, value: u128) -> Result<(), Stopped> {
        self.probe_vector(address, Access::Write, mode)?;
        self.store_slow(address, 8, mode, value as u64)?;
        self.store_slow(address.wrapping_add(8), 8, mode, (value >> 64) as u64)
    }

    /// Fails as an access to 16 bytes would, before any part of it is made.
    fn probe_vector(&mut self, address: u64, access: Access, mode: MemoryMode) -> Result<(), Stopped> {
        self.check_watched(address, 16, access == Access::Write)?;
        let in_page = PAGE_SIZE - address % PAGE_SIZE;
        if in_page < 16 {
            self.translate(address, in_page, access, mode)?;
            self.translate(address.wrapping_add(in_page), 16 - in_page, access, mode)?;
        }
        Ok(())
    }

    /// [`Cpu::load`] without the look into the TLB first.
    pub fn load_slow(&mut self, address: u64, bytes: u64, mode: MemoryMode) -> Result<u64, Stopped> {
        self.check_watched(address, bytes, false)?;
        let in_page = PAGE_SIZE - address % PAGE_SIZE;
        if bytes > in_page {
            // Both pages are looked up first, so that a fault on the second leaves no trace of device reads on the first.
            self.translate(address, in_page, Access::Read, mode)?;
            self.translate(address.wrapping_add(in_page), bytes - in_page, Access::Read, mode)?;
            let mut value = 0;
            for byte in (0..bytes).rev() {
                value = value << 8 | self.load_in_page(address.wrapping_add(byte), 1, mode)?;
            }
            return Ok(value);
        }
        self.load_in_page(address, bytes, mode)
    }

    fn load_in_page(&mut self, address: u64, bytes: u64, mode: MemoryMode) -> Result<u64, Stopped> {
        let (physical, host) = self.translate(address, bytes, Access::Read, mode)?;
        if let Some(page) = host {
            // SAFETY: the platform's page is valid during the run, and the access lies within it.
            return Ok(unsafe { load_host(page.as_ptr().add((physical % PAGE_SIZE) as usize), bytes) });
        }
        self.device_access(address, physical, bytes, Access::Read, None)
    }

    /// [`Cpu::store`] without the look into the TLB first.
    pub fn store_slow(&mut self, address: u64, bytes: u64, mode: MemoryMode, value: u64) -> Result<(), Stopped> {
        self.check_watched(address, bytes, true)?;
        let in_page = PAGE_SIZE - address % PAGE_SIZE;
        if bytes > in_page {
            self.translate(address, in_page, Access::Write, mode)?;
            self.translate(address.wrapping_add(in_page), bytes - in_page, Access::Write, mode)?;
            for byte in 0..bytes {
                self.store_in_page(address.wrapping_add(byte), 1, mode, value >> (8 * byte))?;
            }
            return Ok(());
        }
        self.store_in_page(address, bytes, mode, value)
    }

    /// Fails as a write of some bytes, less than a page, would if they lie in two pages.
    pub fn probe_write(&mut self, address: u64, bytes: u64, mode: MemoryMode) -> Result<(), Stopped> {
        let in_page = PAGE_SIZE - address % PAGE_SIZE;
        if bytes > in_page {
            self.translate(address, 1, Access::Write, mode)?;
            self.translate(address.wrapping_add(in_page), 1, Access::Write, mode)?;
        }
        Ok(())
    }

    fn store_in_page(&mut self, address: u64, bytes: u64, mode: MemoryMode, value: u64) -> Result<(), Stopped> {
        let (physical, host) = match self.translated_for_writes(address, mode) {
            Some((physical, page)) => (physical, Some(page)),
            None => self.translate(address, bytes, Access::Write, mode)?,
        };
        if let Some(page) = host {
            self.check_code(physical, bytes)?;
            // SAFETY: the platform's page is valid and writable during the run, and the access lies within it.
            unsafe { store_host(page.as_ptr().add((physical % PAGE_SIZE) as usize), bytes, value) };
            self.code_pages.invalidate(physical, bytes);
            return Ok(());
        }
        let mask = u64::MAX >> (64 - 8 * bytes);
        self.device_access(address, physical, bytes, Access::Write, Some(value & mask)).map(|_| ())
    }

    /// Guest-physical address and host page of memory that was written to before but whose writes are not on the fast path, since
    /// the page holds translated code.
    fn translated_for_writes(&self, address: u64, mode: MemoryMode) -> Option<(u64, NonNull<u8>)> {
        let virtual_page = address & !(PAGE_SIZE - 1);
        let entry = self.tlb.entry(address, mode);
        let physical = entry.physical.load(Ordering::Relaxed);
        if entry.read.load(Ordering::Relaxed) != virtual_page || physical & MAY_WRITE == 0 {
            return None;
        }
        let physical = physical & !(PAGE_SIZE - 1);
        // Once the code is gone the page is to be written at full speed again.
        if !self.code_pages.has_code(physical) {
            return None;
        }
        self.platform().mark_dirty(G::memory_view(self), physical);
        let host = entry.addend.load(Ordering::Relaxed).wrapping_add(virtual_page) as *mut u8;
        NonNull::new(host).map(|host| (physical | (address % PAGE_SIZE), host))
    }

    /// An access that devices answer: naturally aligned as a whole, byte by byte if not.
    fn device_access(
        &mut self,
        address: u64,
        physical: u64,
        bytes: u64,
        access: Access,
        value: Option<u64>,
    ) -> Result<u64, Stopped> {
        self.counters.device_accesses += 1;
        let result = self.during(Activity::Device, |cpu| {
            let platform = cpu.platform();
            let one = |physical, bytes, value: Option<u64>| match value {
                None => platform.read(physical, bytes),
                Some(value) => platform.write(physical, bytes, value).map(|()| 0),
            };
            if physical.is_multiple_of(bytes) {
                return one(physical, bytes, value);
            }
            (0..bytes).try_fold(0, |whole, byte| {
                let part = one(physical + byte, 1, value.map(|value| value >> (8 * byte) & 0xff))?;
                Ok(whole | part << (8 * byte))
            })
        });
        result.or_else(|BusError| match G::bus_error(address, access) {
            Some(exception) => Err(self.stop_with(exception)),
            None => Ok(u64::MAX >> (64 - 8 * bytes)),
        })
    }

    /// Host address for an atomic operation on memory within one page, which may be written; `None` where no RAM answers.
    pub fn atomic_address(
        &mut self,
        address: u64,
        width: Width,
        mode: MemoryMode,
    ) -> Result<Option<NonNull<u8>>, Stopped> {
        let entry = self.tlb.entry(address, mode);
        if entry.write.load(Ordering::Relaxed) == address & !(PAGE_SIZE - 1) {
            let host = entry.addend.load(Ordering::Relaxed).wrapping_add(address) as *mut u8;
            if let Some(host) = NonNull::new(host) {
                return Ok(Some(host));
            }
        }
        self.check_watched(address, width.bytes(), true)?;
        let (physical, host) = self.translate(address, width.bytes(), Access::Write, mode)?;
        let Some(page) = host else {
            return match G::bus_error(address, Access::Write) {
                Some(exception) => Err(self.stop_with(exception)),
                None => Ok(None),
            };
        };
        self.check_code(physical, width.bytes())?;
        // SAFETY: the offset lies within the page.
        Ok(Some(unsafe { page.add((physical % PAGE_SIZE) as usize) }))
    }

    /// Host address of guest-virtual memory up to the end of its page, if reads of it are on the fast path.
    pub fn host_for_reads(&self, address: u64, mode: MemoryMode) -> Option<*const u8> {
        let entry = self.tlb.entry(address, mode);
        let hit = entry.read.load(Ordering::Relaxed) == address & !(PAGE_SIZE - 1);
        hit.then(|| entry.addend.load(Ordering::Relaxed).wrapping_add(address) as *const u8)
    }

    /// Host address of guest-virtual memory up to the end of its page, if writes to it are on the fast path.
    pub fn host_for_writes(&self, address: u64, mode: MemoryMode) -> Option<*mut u8> {
        let entry = self.tlb.entry(address, mode);
        let hit = entry.write.load(Ordering::Relaxed) == address & !(PAGE_SIZE - 1);
        hit.then(|| entry.addend.load(Ordering::Relaxed).wrapping_add(address) as *mut u8)
    }

    /// Does something that a profile tells from what is done around it.
    #[inline]
    pub(crate) fn during<R>(&mut self, activity: Activity, work: impl FnOnce(&mut Cpu<G>) -> R) -> R {
        let before = self.signals.activity.begin(activity);
        let result = work(self);
        self.signals.activity.resume(before);
        result
    }

    /// Translates an address, caches the answer, and gives the host page if RAM answers such an access.
    fn translate(
        &mut self,
        address: u64,
        bytes: u64,
        access: Access,
        mode: MemoryMode,
    ) -> Result<(u64, Option<NonNull<u8>>), Stopped> {
        if let Some(entry) = self.tlb.recall(address, mode, access == Access::Write) {
            let physical = entry.physical.load(Ordering::Relaxed) & !(PAGE_SIZE - 1) | (address % PAGE_SIZE);
            let host = entry.addend.load(Ordering::Relaxed).wrapping_add(address & !(PAGE_SIZE - 1)) as *mut u8;
            return Ok((physical, NonNull::new(host)));
        }
        let translation =
            G::translate(self, address, bytes, access, mode).map_err(|exception| self.stop_with(exception))?;
        let physical = translation.physical;
        let view = G::memory_view(self);
        let Some(page) = self.host_page(physical) else {
            return Ok((physical, None));
        };
        if access == Access::Write {
            if !page.writable {
                return Ok((physical, None));
            }
            self.platform().mark_dirty(view, physical);
        }
        if translation.whole_page {
            let virtual_page = address & !(PAGE_SIZE - 1);
            let watched = self.watched.iter().any(|range| range.overlaps(virtual_page, PAGE_SIZE))
                || self.traced.iter().any(|(range, _)| range.overlaps(virtual_page, PAGE_SIZE));
            let tag = |allowed: bool| if allowed && !watched { virtual_page } else { NO_TAG };
            self.counters.tlb_fills += 1;
            let entry = self.tlb.entry(address, mode);
            let mut filling = self.tlb.filling();
            filling.note(address, mode, translation.global);
            self.tlb.keep(address, mode);
            let writes = access == Access::Write && translation.writable && !self.code_pages.has_code(physical);
            if writes {
                // Under the lock, lest the dirty log be taken between the mark and the tag.
                self.platform().mark_dirty(view, physical);
            }
            let keeps_write = entry.write.load(Ordering::Relaxed) == virtual_page
                && entry.physical.load(Ordering::Relaxed) & !(PAGE_SIZE - 1) == physical & !(PAGE_SIZE - 1);
            entry.read.store(tag(translation.readable), Ordering::Relaxed);
            entry.write.store(if keeps_write && !watched { virtual_page } else { tag(writes) }, Ordering::Relaxed);
            entry.addend.store((page.host.as_ptr() as u64).wrapping_sub(virtual_page), Ordering::Relaxed);
            let may_write = translation.writable && page.writable && !watched;
            let physical_page = physical & !(PAGE_SIZE - 1);
            let bits = if may_write { MAY_WRITE } else { 0 } | if translation.global { GLOBAL } else { 0 };
            entry.physical.store(physical_page | bits, Ordering::Relaxed);
        }
        Ok((physical, Some(page.host)))
    }

    fn check_watched(&mut self, address: u64, bytes: u64, write: bool) -> Result<(), Stopped> {
        for (range, bits) in &self.traced {
            if (write || range.reads) && range.overlaps(address, bytes) {
                self.traced_hits |= bits;
            }
        }
        if self.watched.is_empty() || self.watch_suspended {
            return Ok(());
        }
        let hit = self.watched.iter().find(|range| (write || range.reads) && range.overlaps(address, bytes));
        if let Some(range) = hit {
            self.watch_hit = range.address;
            self.context.status = Status::Watchpoint as u32;
            return Err(Stopped);
        }
        Ok(())
    }

    fn check_code(&mut self, physical: u64, bytes: u64) -> Result<(), Stopped> {
        if self.code_pages.invalidate(physical, bytes) {
            self.context.status = Status::CodeWrite as u32;
            return Err(Stopped);
        }
        Ok(())
    }

    /// Reads an aligned 8-byte word of guest-physical memory, as page-table walks do.
    pub fn read_physical(&mut self, physical: u64) -> Result<u64, BusError> {
        match self.host_page(physical) {
            // SAFETY: the page is valid during the run; the offset is within it since the address is aligned.
            Some(page) => Ok(unsafe { load_host(page.host.as_ptr().add(((physical % PAGE_SIZE) & !7) as usize), 8) }),
            None => self.platform().read(physical, 8),
        }
    }

    /// Replaces an aligned 8-byte word of guest-physical RAM if it still holds `expected`; false if it does not.
    pub fn compare_exchange_physical(&mut self, physical: u64, expected: u64, new: u64) -> Result<bool, BusError> {
        let view = G::memory_view(self);
        let page = self.host_page(physical).filter(|page| page.writable).ok_or(BusError)?;
        self.platform().mark_dirty(view, physical);
        // SAFETY: the page is valid and writable during the run; the offset is aligned and within it.
        let word =
            unsafe { AtomicU64::from_ptr(page.host.as_ptr().add(((physical % PAGE_SIZE) & !7) as usize).cast()) };
        Ok(word.compare_exchange(expected, new, Ordering::SeqCst, Ordering::SeqCst).is_ok())
    }
}

/// Loads little-endian bytes. Aligned loads are single copies, as guests' memory models demand.
///
/// # Safety
/// `host` must be valid for reads of `bytes` (1, 2, 4 or 8). Other threads may write there.
unsafe fn load_host(host: *const u8, bytes: u64) -> u64 {
    // SAFETY: by the contract above; alignment is checked before each atomic access.
    unsafe {
        match bytes {
            1 => u64::from(AtomicU8::from_ptr(host.cast_mut()).load(Ordering::Relaxed)),
            2 if (host as usize).is_multiple_of(2) => {
                u64::from(u16::from_le(AtomicU16::from_ptr(host.cast_mut().cast()).load(Ordering::Relaxed)))
            }
            4 if (host as usize).is_multiple_of(4) => {
                u64::from(u32::from_le(AtomicU32::from_ptr(host.cast_mut().cast()).load(Ordering::Relaxed)))
            }
            8 if (host as usize).is_multiple_of(8) => {
                u64::from_le(AtomicU64::from_ptr(host.cast_mut().cast()).load(Ordering::Relaxed))
            }
            2 => u64::from(u16::from_le(host.cast::<u16>().read_unaligned())),
            4 => u64::from(u32::from_le(host.cast::<u32>().read_unaligned())),
            _ => u64::from_le(host.cast::<u64>().read_unaligned()),
        }
    }
}

/// Stores little-endian bytes. Aligned stores are single copies.
///
/// # Safety
/// `host` must be valid for writes of `bytes` (1, 2, 4 or 8). Other threads may access it.
unsafe fn store_host(host: *mut u8, bytes: u64, value: u64) {
    // SAFETY: by the contract above; alignment is checked before each atomic access.
    unsafe {
        match bytes {
            1 => AtomicU8::from_ptr(host).store(value as u8, Ordering::Relaxed),
            2 if (host as usize).is_multiple_of(2) => {
                AtomicU16::from_ptr(host.cast()).store((value as u16).to_le(), Ordering::Relaxed);
            }
            4 if (host as usize).is_multiple_of(4) => {
                AtomicU32::from_ptr(host.cast()).store((value as u32).to_le(), Ordering::Relaxed);
            }
            8 if (host as usize).is_multiple_of(8) => {
                AtomicU64::from_ptr(host.cast()).store(value.to_le(), Ordering::Relaxed)
            }
            2 => host.cast::<u16>().write_unaligned((value as u16).to_le()),
            4 => host.cast::<u32>().write_unaligned((value as u32).to_le()),
            _ => host.cast::<u64>().write_unaligned(value.to_le()),
        }
    }
}
