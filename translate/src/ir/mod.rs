//! The intermediate representation: what one guest basic block does, in about fifty operations.
//!
//! A [`Block`] is a straight line of operations ([`Op`]) followed by one [`Terminator`]. The result of an operation is named
//! by its position ([`Value`]): every value is defined once, before its uses. There is no control flow inside a block;
//! conditional work is a [`Op::Select`], a conditional exception a [`Op::RaiseIf`], and a repeating instruction a block that
//! jumps to itself.
//!
//! Guest registers are 64-bit slots of the processor's run-time state, read with [`Op::Get`] and written with [`Op::Put`].
//! The program counter is not among them: it is known from [`Block::instructions`] and set by terminators.
//!
//! Exceptions are precise. An operation that can raise one ([`Op::can_raise`]) leaves registers and memory as they were
//! before it; what `Put` and `Store` did earlier in the same instruction stays. A lifter therefore places the
//! operations that can raise before those that change state, within each instruction.

mod builder;
mod names;
mod op;
mod operands;
mod parse;
mod simplify;
mod text;
mod vector;
mod verify;

pub use builder::Builder;
pub use names::{GuestNames, Names, Numbers};
pub use op::*;
pub use parse::{ParseError, parse};
pub use text::Text;
pub use vector::{LaneOp, LaneShift, Shuffle, VectorOp};
pub use verify::{VerifyError, verify};

/// The value that the operation at this position of its block computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Value(pub u16);

/// Number of a guest register: an index into [`crate::guest::Guest::REGISTERS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Register(pub u8);

/// Number of a helper function: an index into [`crate::guest::Guest::HELPERS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HelperId(pub u16);

/// Type of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Type {
    /// 8-bit integer; also truth values, which are 0 or 1.
    I8,
    /// 16-bit integer.
    I16,
    /// 32-bit integer.
    I32,
    /// 64-bit integer.
    I64,
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary64.
    F64,
    /// A vector of 128 bits, of any lanes.
    V128,
}

impl Type {
    /// Width in bits.
    pub fn bits(self) -> u32 {
        match self {
            Type::I8 => 8,
            Type::I16 => 16,
            Type::I32 | Type::F32 => 32,
            Type::I64 | Type::F64 => 64,
            Type::V128 => 128,
        }
    }

    /// All bits of the type set, in the low bits of a `u64`; of a vector, those of its lower half.
    pub fn mask(self) -> u64 {
        u64::MAX >> (64 - self.bits().min(64))
    }

    /// True for the integer types.
    pub fn is_integer(self) -> bool {
        !matches!(self, Type::F32 | Type::F64 | Type::V128)
    }

    /// True for the floating-point types.
    pub fn is_float(self) -> bool {
        matches!(self, Type::F32 | Type::F64)
    }
}

/// Where an instruction begins, in the guest's code and among the block's operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InstructionStart {
    /// Position in [`Block::ops`] of the instruction's first operation.
    pub op: u16,
    /// Distance of the instruction from [`Block::start`], bytes.
    pub offset: u16,
}

/// What one guest basic block does.
///
/// The same code may be mapped at several addresses, and then the block is shared: what it says of addresses in
/// code, in terminators and by [`Op::CodeAddress`], is meant as a distance from its start. It is executed with
/// [`crate::cpu::Context::pc`] at the address where it starts this time.
#[derive(Clone, Debug, PartialEq)]
pub struct Block {
    /// Guest-virtual address of the first instruction, when the block was lifted.
    pub start: u64,
    /// Length of the guest code in bytes; it lies within one page, or is one instruction that crosses into the next.
    pub length: u16,
    /// The operations.
    pub ops: Vec<Op>,
    /// One entry an instruction, in order. Never empty.
    pub instructions: Vec<InstructionStart>,
    /// Where to go on.
    pub terminator: Terminator,
}

impl Block {
    /// How far from the start the instruction begins that the operation at position `op` belongs to, bytes; the last one for
    /// the terminator (`op == ops.len()`).
    pub fn instruction_distance(&self, op: usize) -> u64 {
        u64::from(self.instructions[self.instruction_index(op)].offset)
    }

    /// How far from the start an address that the block was lifted with is.
    pub fn distance(&self, target: u64) -> i64 {
        target.wrapping_sub(self.start) as i64
    }

    /// How many instructions of the block come before the one that the operation at position `op` belongs to.
    pub fn instruction_index(&self, op: usize) -> usize {
        self.instructions.partition_point(|instruction| usize::from(instruction.op) <= op).saturating_sub(1)
    }
}

/// How a block ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Terminator {
    /// Goes on at a known address.
    Jump {
        /// Guest-virtual address.
        target: u64,
    },
    /// Goes on at one of two known addresses.
    Branch {
        /// [`Type::I8`]; not zero: taken.
        condition: Value,
        /// Guest-virtual address if taken.
        taken: u64,
        /// Guest-virtual address if not.
        not_taken: u64,
    },
    /// Goes on at a computed address.
    JumpIndirect {
        /// [`Type::I64`]: guest-virtual address.
        target: Value,
        /// What the jump is for, as far as the instruction tells.
        kind: IndirectJump,
    },
    /// Goes on at a known address, after another look at everything that lifted code depends on: translation flags, interrupts, address
    /// translation, halting. For instructions that change those.
    Leave {
        /// Guest-virtual address.
        target: u64,
    },
    /// As [`Terminator::Leave`], at a computed address.
    LeaveIndirect {
        /// [`Type::I64`]: guest-virtual address.
        target: Value,
    },
    /// Raises an exception at the block's last instruction, which counts as not executed.
    Raise {
        /// Number of the exception, for [`crate::guest::Guest::raise`].
        exception: u32,
        /// [`Type::I64`]: what the architecture reports with it (such as the faulting instruction's bits).
        information: Value,
    },
}

impl Terminator {
    /// True if everything is looked at again before it goes on.
    pub fn leaves(&self) -> bool {
        matches!(self, Terminator::Leave { .. } | Terminator::LeaveIndirect { .. } | Terminator::Raise { .. })
    }
}

/// What an indirect jump is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IndirectJump {
    /// A jump, or unknown.
    Plain,
    /// A call of a function.
    Call,
    /// The return from one.
    Return,
}
