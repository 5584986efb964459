//! How compiled code goes from one place to another: cells, which regions and the dispatcher go through, and the jumps of blocks of the baseline
//! compiler, which lead to one another directly.
//!
//! A block's code is entered in two ways. From a cell or the jump cache its *entry* is called, under the convention of regions. Other blocks jump
//! [`ENTRY`] bytes behind it, and these jumps are never changed again: code stays where it is for as long as its generation. Where a block shall not
//! be executed any more, because its code is void or a region takes its place, the first instruction behind the entry is replaced by a jump to the
//! *gate* of its key, which goes on through the cell. So linking and unlinking are one store each, wherever the jumps come from. A region that shall
//! not be executed any more is closed in the same way, at its entry, for jump caches know that.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicPtr, Ordering};

use parking_lot::Mutex;

use super::translations::{Key, PlacedCode};
use crate::baseline::Baseline;
use crate::compile::CodeMemory;

/// How far behind a block's entry other blocks enter it, bytes.
pub(crate) const ENTRY: usize = 8;

/// Where the compiled code of a [`Key`] begins.
#[repr(C)]
#[derive(Debug)]
pub struct Cell {
    /// Compiled code, or `none`.
    entry: AtomicPtr<u8>,
    /// Code that returns to the dispatcher.
    none: *const u8,
    /// Where the code is, and what jumps to it.
    memory: Arc<CodeMemory>,
    jumps: Mutex<Jumps>,
    /// Whose it is.
    pub(super) key: Key,
}

/// Jumps of blocks to the code of a cell.
#[derive(Debug, Default)]
struct Jumps {
    /// Where they lead: behind the entry of a block, or to the gate. Null while there is no code.
    target: Option<Address>,
    /// Operands of those that lead to the dispatcher until there is code.
    waiting: Vec<Address>,
    /// Code that goes through the cell.
    gate: Option<Address>,
}

/// An address in the code of the generation.
#[derive(Clone, Copy, Debug)]
struct Address(*const u8);

// SAFETY: the addresses are used by methods that take the memory that they point into.
unsafe impl Send for Address {}

// SAFETY: `none` points to code that is never freed while a cell lives, and is never written through.
unsafe impl Send for Cell {}
// SAFETY: as above.
unsafe impl Sync for Cell {}

impl Cell {
    pub(super) fn new(key: Key, none: *const u8, memory: Arc<CodeMemory>) -> Cell {
        Cell { entry: AtomicPtr::new(none.cast_mut()), none, memory, jumps: Mutex::default(), key }
    }

    /// The compiled code, or what returns to the dispatcher.
    pub(super) fn entry(&self) -> *const u8 {
        self.entry.load(Ordering::Acquire)
    }

    /// The compiled code, if there is any.
    #[inline]
    pub fn compiled(&self) -> Option<*const u8> {
        let entry = self.entry();
        (entry != self.none).then_some(entry)
    }

    pub(super) fn link(&self, entry: *const u8) {
        self.entry.store(entry.cast_mut(), Ordering::SeqCst);
    }

    /// Makes it lead to the dispatcher if it leads to `entry`.
    pub(super) fn unlink(&self, entry: *const u8) {
        // What another translation of the key put there meanwhile stays.
        let (entry, none) = (entry.cast_mut(), self.none.cast_mut());
        let _ = self.entry.compare_exchange(entry, none, Ordering::SeqCst, Ordering::SeqCst);
    }

    /// Makes a jump lead to the code of this cell, at once or once there is some. `operand` is the address of its distance.
    pub(super) fn link_jump(&self, operand: *const u8) {
        let mut jumps = self.jumps.lock();
        match jumps.target {
            Some(target) => set_distance(&self.memory, operand, target.0),
            None => jumps.waiting.push(Address(operand)),
        }
    }

    /// Makes jumps lead to a block's code.
    pub(super) fn accept_jumps(&self, target: *const u8) {
        let mut jumps = self.jumps.lock();
        jumps.target = Some(Address(target));
        for operand in std::mem::take(&mut jumps.waiting) {
            set_distance(&self.memory, operand.0, target);
        }
    }

    /// Makes jumps lead to what the cell leads to, where no block has code for them.
    pub(super) fn accept_jumps_through(&self, gate: *const u8) {
        if self.jumps.lock().target.is_none() {
            self.accept_jumps(gate);
        }
    }

    /// The code that goes through the cell; `None` where there is no room for it.
    pub(super) fn gate(&self) -> Option<*const u8> {
        let mut jumps = self.jumps.lock();
        if jumps.gate.is_none() {
            jumps.gate = self.memory.add(&Baseline::gate(self)).map(Address);
        }
        jumps.gate.map(|gate| gate.0)
    }

    /// Sends those who come to the entry of a region that was this cell's code on through the cell.
    pub(super) fn close_region(&self, entry: *const u8) {
        let gate = self.jumps.lock().gate;
        // Where there are no gates, nobody but the cell knows the entry.
        if let (Some(gate), Some(first)) = (gate, Baseline::REGION_START.first_chunk()) {
            let jump = with_jump(u64::from_le_bytes(*first), entry, gate.0.wrapping_add(Baseline::GATE_FROM_OUTSIDE));
            self.memory.patch_wide(entry, jump);
        }
    }
}

/// Eight bytes of code at an address with their first instruction replaced by a jump to `target`, to a distance of 32 bits.
fn with_jump(code: u64, address: *const u8, target: *const u8) -> u64 {
    let mut bytes = code.to_le_bytes();
    bytes[0] = 0xe9;
    bytes[1..5].copy_from_slice(&distance(address.wrapping_add(1), target).to_le_bytes());
    u64::from_le_bytes(bytes)
}

/// Sets the distance of a jump whose last four bytes are at `operand`.
fn set_distance(memory: &CodeMemory, operand: *const u8, target: *const u8) {
    memory.patch(operand, distance(operand, target));
}

/// The distance that an instruction whose last four bytes are at `operand` needs to reach a target in the same memory.
pub(super) fn distance(operand: *const u8, target: *const u8) -> u32 {
    (target as usize).wrapping_sub(operand as usize + size_of::<u32>()) as u32
}

/// The baseline compiler's code of a block, which other blocks enter directly.
pub(super) struct BlockCode {
    pub(super) placed: PlacedCode,
    memory: Arc<CodeMemory>,
    /// How many executions are left until it asks for more; it asks when this becomes negative.
    counter: Address,
    /// What it was set to.
    granted: AtomicI32,
    /// The first bytes behind the entry, as they were compiled.
    first: u64,
    /// The same with a jump to the gate.
    redirected: u64,
}

// SAFETY: `counter` is in `memory`, which is kept alive, and is only used as an atomic.
unsafe impl Sync for BlockCode {}

impl BlockCode {
    /// Code at its place, whose execution `counter` counts and whose gate is at `gate`.
    pub(super) fn new(placed: PlacedCode, memory: &Arc<CodeMemory>, gate: *const u8) -> Option<BlockCode> {
        let counter = Address(placed.counter?);
        let code = memory.read(placed.start, placed.bytes)?;
        let first = u64::from_le_bytes(*code.get(ENTRY..)?.first_chunk()?);
        // What the jump replaces is longer, so that nobody is in the middle of it.
        let redirected = with_jump(first, placed.start.wrapping_add(ENTRY), gate);
        Some(BlockCode { placed, memory: memory.clone(), counter, granted: AtomicI32::new(0), first, redirected })
    }

    pub(super) fn entry(&self) -> *const u8 {
        self.placed.start
    }

    fn counter(&self) -> &AtomicI32 {
        // SAFETY: it points to a counter of `memory`, which is only accessed as an atomic while this is shared.
        unsafe { AtomicI32::from_ptr(self.counter.0.cast_mut().cast()) }
    }

    /// Sets how many executions are left.
    pub(super) fn set_countdown(&self, left: u32) {
        let left = i32::try_from(left).unwrap_or(i32::MAX);
        self.granted.store(left, Ordering::Relaxed);
        self.counter().store(left, Ordering::Relaxed);
    }

    /// How often it was executed since that was last set.
    pub(super) fn executions(&self) -> u32 {
        let left = self.counter().load(Ordering::Relaxed);
        self.granted.load(Ordering::Relaxed).saturating_sub(left).unsigned_abs()
    }

    /// Makes jumps of other blocks come here.
    pub(super) fn accept_jumps(&self, cell: &Cell) {
        cell.accept_jumps(self.entry().wrapping_add(ENTRY));
    }

    /// Sends those who come from other blocks on through the cell, or takes that back.
    pub(super) fn redirect(&self, redirect: bool) {
        let bytes = if redirect { self.redirected } else { self.first };
        self.memory.patch_wide(self.entry().wrapping_add(ENTRY), bytes);
    }

    /// The code as it was compiled; what is relocated is meaningless.
    pub(super) fn compiled(&self) -> Option<Vec<u8>> {
        let mut code = self.memory.read(self.placed.start, self.placed.bytes)?.to_vec();
        code.get_mut(ENTRY..ENTRY + 8)?.copy_from_slice(&self.first.to_le_bytes());
        Some(code)
    }
}
