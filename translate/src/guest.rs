//! What a guest architecture is to the back ends.

use crate::cpu::Cpu;
use crate::ir::{Block, MemoryMode, Op};
use crate::platform::MemoryView;

/// An exception as its architecture numbers it, and the value reported with it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exception {
    /// riscv64: the exception code of `mcause`.
    pub number: u32,
    /// riscv64: the value for `mtval`.
    pub information: u64,
}

/// What a memory access is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Fetch of code.
    Execute,
    /// Load.
    Read,
    /// Store, or atomic operation.
    Write,
    /// A debugger's look: permitted like a load, but it leaves no trace in the page tables.
    Inspect,
}

/// Where a guest-virtual page is, and what the soft TLB may answer without asking again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// Guest-physical address of the byte that was asked for.
    pub physical: u64,
    /// Later reads of the page need no further look (they are permitted, the accessed bit is set).
    pub readable: bool,
    /// Later writes of the page need no further look (they are permitted, the dirty bit is set).
    pub writable: bool,
    /// The answer holds for the whole page; if not, it is not cached.
    pub whole_page: bool,
    /// The answer is the same in every address space: [`Cpu::flush_tlb_of_address_space`] keeps it.
    pub global: bool,
}

/// The code handed to [`Guest::lift`] ends within its first instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeedsMoreCode;

/// What a helper function may do besides computing its result from its arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effects {
    /// It may return with [`crate::cpu::Context::status`] set, by [`Cpu::stop_with`].
    pub can_raise: bool,
    /// It reads guest registers (those of [`crate::cpu::Context::registers`]).
    pub reads_registers: bool,
    /// It writes guest registers.
    pub writes_registers: bool,
    /// It does something besides computing its result, so that it must be called even if nobody uses that.
    pub acts: bool,
    /// It reads or writes [`crate::cpu::Context::float_flags`], where those that compiled code has raised must be when it is called.
    pub float_flags: bool,
    /// It reads or writes the floating-point rounding mode, the instruction counter, or what translation flags are
    /// made of. It must be the only instruction of its block, which is never part of a region: so nothing is elsewhere than in the context when it is
    /// called, and nothing that was compiled before it relies on what it changes.
    pub alone: bool,
}

impl Effects {
    /// It may be left out where nobody uses its result, and what is known of the processor holds behind it.
    pub(crate) fn only_computes(self) -> bool {
        !(self.acts || self.can_raise || self.writes_registers || self.alone)
    }

    /// A function of its arguments only.
    pub const PURE: Effects = Effects {
        can_raise: false,
        reads_registers: false,
        writes_registers: false,
        acts: false,
        float_flags: false,
        alone: false,
    };
    /// May raise an exception, and touches no register.
    pub const RAISES: Effects = Effects { can_raise: true, acts: true, ..Effects::PURE };
    /// May do anything.
    pub const ALL: Effects = Effects {
        can_raise: true,
        reads_registers: true,
        writes_registers: true,
        acts: true,
        float_flags: true,
        alone: true,
    };
}

/// A function of the guest's that operations call.
pub struct Helper<G> {
    /// Name in the text form.
    pub name: &'static str,
    /// How many of the three arguments count.
    pub arguments: usize,
    /// What it may do.
    pub effects: Effects,
    /// The function. It must not unwind.
    pub function: extern "C" fn(&mut Cpu<G>, u64, u64, u64) -> u64,
}

/// The helper that an operation calls, if it calls one.
pub(crate) fn helper_of<G: Guest>(op: &Op) -> Option<&'static Helper<G>> {
    match op {
        Op::Helper { helper, .. } => Some(&G::HELPERS[usize::from(helper.0)]),
        _ => None,
    }
}

/// How many operands an operation passes to its helper.
pub(crate) fn arguments_of<G: Guest>(op: &Op) -> usize {
    helper_of::<G>(op).map_or(0, |helper| helper.arguments)
}

/// True if an operation calls a helper that stands [alone](Effects::alone).
pub(crate) fn stands_alone<G: Guest>(op: &Op) -> bool {
    helper_of::<G>(op).is_some_and(|helper| helper.effects.alone)
}

/// A guest architecture: its lifter, its address translation and its exceptions.
///
/// The implementing type is the processor's state beyond [`crate::cpu::Context`]: control registers and the like.
pub trait Guest: Sized + Send + 'static {
    /// Names of the registers that [`crate::ir::Register`] numbers; at most 256.
    const REGISTERS: &'static [&'static str];

    /// The functions that [`crate::ir::HelperId`] numbers.
    const HELPERS: &'static [Helper<Self>];

    /// Everything besides the code bytes and their address on which lifting depends (privilege, enabled extensions,
    /// rounding mode class, the regime of memory accesses).
    fn flags(cpu: &Cpu<Self>) -> u32;

    /// True if code lifted under these flags is the same wherever it is mapped, but for what is relative to where it is.
    fn is_position_independent(flags: u32) -> bool;

    /// What else lifting depends on, and what is the same for all processors of a machine as long as it lives: which
    /// extensions its model has.
    type Features: Copy + std::hash::Hash + Send + Sync + 'static;

    /// The features of the processor's model.
    fn features(cpu: &Cpu<Self>) -> Self::Features;

    /// Lifts the basic block at guest-virtual `start`: at most `most_instructions`, up to the first jump. `code` holds
    /// the bytes from there to the end of the page, or 16 bytes beyond it after [`NeedsMoreCode`]; only the first instruction may use
    /// those. Invalid code lifts to the exception that executing it raises.
    fn lift(
        start: u64,
        code: &[u8],
        flags: u32,
        features: Self::Features,
        most_instructions: usize,
    ) -> Result<Block, NeedsMoreCode>;

    /// Regime of instruction fetches.
    fn fetch_mode(cpu: &Cpu<Self>) -> MemoryMode;

    /// Translates a guest-virtual address for an access of `width` bytes that does not cross a page, walking page tables
    /// and setting their accessed and dirty bits.
    fn translate(
        cpu: &mut Cpu<Self>,
        address: u64,
        width: u64,
        access: Access,
        mode: MemoryMode,
    ) -> Result<Translation, Exception>;

    /// The exception of an access that nothing on the bus answered; `None`: it reads as all ones, and writes are lost.
    fn bus_error(address: u64, access: Access) -> Option<Exception>;

    /// Takes an exception at the instruction at [`crate::cpu::Context::pc`]: changes state and pc as the architecture says.
    fn raise(cpu: &mut Cpu<Self>, exception: Exception);

    /// Takes the interrupt of highest priority that is pending and enabled; false if there is none.
    fn take_interrupt(cpu: &mut Cpu<Self>) -> bool;

    /// False only if [`Guest::take_interrupt`] would do nothing now, provided that it was called since the processor was last asked for
    /// attention.
    fn may_take_interrupt(cpu: &Cpu<Self>) -> bool;

    /// The memory that the processor sees at present. It flushes the TLB when it changes.
    fn memory_view(cpu: &Cpu<Self>) -> MemoryView {
        let _ = cpu;
        MemoryView::Ordinary
    }

    /// True if a halted processor must go on: an interrupt is pending, enabled or not as the architecture says.
    fn wakes(cpu: &Cpu<Self>) -> bool;
}
