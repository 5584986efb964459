//! Builds blocks: one method an operation, in lifters' terms.

use std::cell::Cell;

use super::simplify::Effort;
use super::*;
use crate::guest::Guest;

/// A block in the making.
pub struct Builder {
    start: u64,
    length: u64,
    room: Room,
}

/// Where a block grows. Lifting one takes less than asking for such memory a dozen times, so that a thread uses the same for all.
#[derive(Default)]
pub(super) struct Room {
    pub(super) ops: Vec<Op>,
    pub(super) instructions: Vec<InstructionStart>,
    /// For [`simplify`].
    pub(super) simplifying: simplify::Room,
}

thread_local! {
    /// Empty, but for the memory, unless a block is in the making.
    static ROOM: Cell<Room> = Cell::default();
}

impl Drop for Builder {
    fn drop(&mut self) {
        let mut room = std::mem::take(&mut self.room);
        room.ops.clear();
        room.instructions.clear();
        ROOM.set(room);
    }
}

impl Builder {
    /// Most operations a block may have before the lifter must end it. A single instruction may go beyond.
    pub const MOST_OPS: usize = 1024;

    /// An empty block at a guest-virtual address.
    pub fn new(start: u64) -> Builder {
        Builder { start, length: 0, room: ROOM.take() }
    }

    /// Begins the next instruction, of `length` bytes.
    pub fn instruction(&mut self, length: u64) {
        self.room.instructions.push(InstructionStart { op: self.room.ops.len() as u16, offset: self.length as u16 });
        self.length += length;
    }

    /// Guest-virtual address of the instruction in the making.
    pub fn address(&self) -> u64 {
        self.start.wrapping_add(self.room.instructions.last().map_or(0, |instruction| u64::from(instruction.offset)))
    }

    /// Guest-virtual address behind the instruction in the making.
    pub fn next_address(&self) -> u64 {
        self.start.wrapping_add(self.length)
    }

    /// How many instructions were begun.
    pub fn instruction_count(&self) -> usize {
        self.room.instructions.len()
    }

    /// How many operations there are.
    pub fn op_count(&self) -> usize {
        self.room.ops.len()
    }

    /// Ends the block.
    pub fn finish(self, terminator: Terminator) -> Block {
        // Blocks are many, and stay: their memory has no more room than they need.
        let (ops, instructions) = (self.room.ops.as_slice().into(), self.room.instructions.as_slice().into());
        Block { start: self.start, length: self.length as u16, ops, instructions, terminator }
    }

    /// Ends the block, made shorter.
    pub fn finish_simplified<G: Guest>(mut self, mut terminator: Terminator) -> Block {
        simplify::simplify::<G>(&mut self.room, &mut terminator, Effort::Lifted);
        self.finish(terminator)
    }

    /// The block as it is worth compiling for a region: as short as it gets.
    pub(crate) fn for_region<G: Guest>(block: &Block) -> Block {
        let mut builder = Builder::new(block.start);
        builder.length = block.length.into();
        builder.room.ops.extend_from_slice(&block.ops);
        builder.room.instructions.extend_from_slice(&block.instructions);
        let mut terminator = block.terminator;
        simplify::simplify::<G>(&mut builder.room, &mut terminator, Effort::Region);
        builder.finish(terminator)
    }

    /// Appends an operation.
    pub fn push(&mut self, op: Op) -> Value {
        self.room.ops.push(op);
        Value((self.room.ops.len() - 1) as u16)
    }

    /// An I64 constant.
    pub fn constant(&mut self, bits: u64) -> Value {
        self.push(Op::Const { ty: Type::I64, bits })
    }

    /// Changes what [`Builder::constant`] gave.
    pub fn change_constant(&mut self, constant: Value, bits: u64) {
        self.room.ops[usize::from(constant.0)] = Op::Const { ty: Type::I64, bits };
    }

    /// A constant of any type; bits above its width are dropped.
    pub fn constant_of(&mut self, ty: Type, bits: u64) -> Value {
        self.push(Op::Const { ty, bits: bits & ty.mask() })
    }

    /// The I64 value of a guest-virtual address that depends on where the block is.
    pub fn code_address(&mut self, address: u64) -> Value {
        self.push(Op::CodeAddress { distance: address.wrapping_sub(self.start) as i64 })
    }

    /// Reads a register.
    pub fn get(&mut self, register: Register) -> Value {
        self.push(Op::Get { register })
    }

    /// Writes a register.
    pub fn put(&mut self, register: Register, value: Value) {
        self.push(Op::Put { register, value });
    }

    /// Integer arithmetic of any width.
    pub fn binary(&mut self, op: BinaryOp, ty: Type, a: Value, b: Value) -> Value {
        self.push(Op::Binary { op, ty, a, b })
    }

    /// I64 sum.
    pub fn add(&mut self, a: Value, b: Value) -> Value {
        self.binary(BinaryOp::Add, Type::I64, a, b)
    }

    /// Unary integer arithmetic.
    pub fn unary(&mut self, op: UnaryOp, ty: Type, a: Value) -> Value {
        self.push(Op::Unary { op, ty, a })
    }

    /// Integer comparison.
    pub fn compare(&mut self, op: Comparison, ty: Type, a: Value, b: Value) -> Value {
        self.push(Op::Compare { op, ty, a, b })
    }

    /// Selection.
    pub fn select(&mut self, ty: Type, condition: Value, a: Value, b: Value) -> Value {
        self.push(Op::Select { ty, condition, a, b })
    }

    /// Sign extension.
    pub fn sign_extend(&mut self, from: Type, to: Type, a: Value) -> Value {
        self.push(Op::Extend { signed: true, from, to, a })
    }

    /// Zero extension.
    pub fn zero_extend(&mut self, from: Type, to: Type, a: Value) -> Value {
        self.push(Op::Extend { signed: false, from, to, a })
    }

    /// Truncation; of what was extended from that width, it is what there was before.
    pub fn truncate(&mut self, from: Type, to: Type, a: Value) -> Value {
        if let Op::Extend { from: narrow, a: before, .. } = self.room.ops[usize::from(a.0)]
            && narrow == to
        {
            return before;
        }
        self.push(Op::Truncate { from, to, a })
    }

    /// Reinterpretation.
    pub fn bitcast(&mut self, from: Type, to: Type, a: Value) -> Value {
        self.push(Op::Bitcast { from, to, a })
    }

    /// Call of a helper with up to three arguments.
    pub fn helper(&mut self, helper: HelperId, arguments: &[Value]) -> Value {
        let mut padded = [Value(0); 3];
        padded[..arguments.len()].copy_from_slice(arguments);
        self.push(Op::Helper { helper, arguments: padded })
    }
}
