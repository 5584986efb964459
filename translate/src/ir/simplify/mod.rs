//! Makes a block shorter without changing what it does.
//!
//! Lifters write what each instruction does by itself. This drops what that leaves over: reads of registers whose value is
//! known, writes that nothing sees before the next, constants computed from constants, and results that nobody uses.

mod words;

use super::builder;
use super::*;
use crate::cpu::MOST_REGISTERS;
use crate::guest::{Guest, arguments_of};
use crate::interpret;

/// What the passes compute, in memory that is used again.
#[derive(Default)]
pub(super) struct Room {
    /// The operations behind the pass from the beginning.
    ops: Vec<Op>,
    /// What became of the values before a pass.
    map: Vec<Value>,
    /// What that pass knows of words.
    words: Vec<Option<Value>>,
    /// By value, whether something uses it.
    used: Vec<bool>,
    /// By operation, whether it stays.
    kept: Vec<bool>,
}

/// How much is looked for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Effort {
    /// What pays in every block.
    Lifted,
    /// What pays in those that become parts of regions.
    Region,
}

/// Makes the block in the making shorter, with what it is going to end with.
pub(super) fn simplify<G: Guest>(block: &mut builder::Room, terminator: &mut Terminator, effort: Effort) {
    Forward::<G>::run(block, terminator, effort);
    drop_unused::<G>(block, terminator);
}

/// The pass from the beginning: known registers and constants.
struct Forward<'a, G> {
    ops: &'a mut Vec<Op>,
    /// What became of the old values.
    map: &'a mut Vec<Value>,
    registers: [Option<Value>; MOST_REGISTERS],
    /// The vectors in registers and those behind them, by the first.
    vectors: [Option<Value>; MOST_REGISTERS],
    effort: Effort,
    /// By I64 value, its low word, where that was asked for, and by word, what it is the low word of.
    words: &'a mut Vec<Option<Value>>,
    _guest: std::marker::PhantomData<G>,
}

impl<'a, G: Guest> Forward<'a, G> {
    fn run(block: &'a mut builder::Room, terminator: &mut Terminator, effort: Effort) {
        let room = &mut block.simplifying;
        room.ops.clear();
        room.map.clear();
        room.words.clear();
        let mut forward = Forward::<G> {
            ops: &mut room.ops,
            map: &mut room.map,
            registers: [None; MOST_REGISTERS],
            vectors: [None; MOST_REGISTERS],
            effort,
            words: &mut room.words,
            _guest: std::marker::PhantomData,
        };
        let mut starts = block.instructions.iter_mut().peekable();
        for (position, op) in block.ops.iter().enumerate() {
            while let Some(start) = starts.next_if(|start| usize::from(start.op) <= position) {
                start.op = forward.ops.len() as u16;
            }
            let value = forward.op(*op);
            forward.map.push(value);
        }
        for start in starts {
            start.op = forward.ops.len() as u16;
        }
        terminator.map_operands(|value| forward.map[usize::from(value.0)]);
    }

    fn push(&mut self, op: Op) -> Value {
        self.ops.push(op);
        Value((self.ops.len() - 1) as u16)
    }

    fn op(&mut self, mut op: Op) -> Value {
        let arguments = arguments_of::<G>(&op);
        op.map_operands(arguments, |value| self.map[usize::from(value.0)]);
        match op {
            Op::Get { register } => {
                if let Some(known) = self.registers[usize::from(register.0)] {
                    return known;
                }
                let value = match self.half_of_known_vector(register) {
                    Some((a, index)) => self.op_on_new(VectorOp::Extract { lane: Type::I64, index, a }),
                    None => self.push(op),
                };
                self.registers[usize::from(register.0)] = Some(value);
                value
            }
            Op::Put { register, value } => {
                self.registers[usize::from(register.0)] = Some(value);
                self.vectors[usize::from(register.0 & !1)] = None;
                self.push(op)
            }
            Op::Vector(VectorOp::Get { register }) => {
                let first = usize::from(register.0);
                if let Some(known) = self.vectors[first] {
                    return known;
                }
                let halves = self.registers[first].zip(self.registers[first | 1]);
                let value = match halves {
                    Some((low, high)) => self.op_on_new(VectorOp::FromHalves { low, high }),
                    None => self.push(op),
                };
                self.vectors[first] = Some(value);
                value
            }
            Op::Vector(VectorOp::Put { register, value }) => {
                let first = usize::from(register.0);
                self.vectors[first] = Some(value);
                self.registers[first..=first | 1].fill(None);
                self.push(op)
            }
            Op::Helper { helper, .. } => {
                if G::HELPERS[usize::from(helper.0)].effects.writes_registers {
                    self.registers = [None; MOST_REGISTERS];
                    self.vectors = [None; MOST_REGISTERS];
                }
                self.push(op)
            }
            _ => match self.folded(&op) {
                Some(Folded::Value(value)) => value,
                Some(Folded::Const { ty, bits }) => self.push(Op::Const { ty, bits }),
                Some(Folded::CodeAddress { distance }) => self.push(Op::CodeAddress { distance }),
                None => {
                    let better = if self.effort == Effort::Region { self.in_words(&op) } else { None };
                    better.unwrap_or_else(|| self.push(op))
                }
            },
        }
    }

    /// The vector that is known to hold a register, and which half of it that is.
    fn half_of_known_vector(&self, register: Register) -> Option<(Value, u8)> {
        Some((self.vectors[usize::from(register.0 & !1)]?, register.0 & 1))
    }

    /// As [`Forward::op`], of an operation on new values.
    fn op_on_new(&mut self, op: VectorOp) -> Value {
        let op = Op::Vector(op);
        match self.folded(&op) {
            Some(Folded::Value(value)) => value,
            _ => self.push(op),
        }
    }

    fn vector_op(&self, value: Value) -> Option<VectorOp> {
        match self.ops[usize::from(value.0)] {
            Op::Vector(op) => Some(op),
            _ => None,
        }
    }

    /// The value that an operation on vectors only hands on.
    fn handed_on(&self, op: VectorOp) -> Option<Value> {
        match op {
            VectorOp::Extract { lane, index, a } => match self.vector_op(a)? {
                VectorOp::Insert { lane: inserted, index: place, value, .. } => {
                    (inserted == lane && place == index).then_some(value)
                }
                VectorOp::FromHalves { low, high } if lane == Type::I64 => Some(if index == 0 { low } else { high }),
                _ => None,
            },
            VectorOp::FromHalves { low, high } => match (self.vector_op(low)?, self.vector_op(high)?) {
                (
                    VectorOp::Extract { lane: Type::I64, index: 0, a },
                    VectorOp::Extract { lane: Type::I64, index: 1, a: other },
                ) => (a == other).then_some(a),
                _ => None,
            },
            _ => None,
        }
    }

    fn constant(&self, value: Value) -> Option<u64> {
        match self.ops[usize::from(value.0)] {
            Op::Const { bits, .. } => Some(bits),
            _ => None,
        }
    }

    fn code_address(&self, value: Value) -> Option<i64> {
        match self.ops[usize::from(value.0)] {
            Op::CodeAddress { distance } => Some(distance),
            _ => None,
        }
    }

    /// What an operation without effects comes to, if that is simpler.
    fn folded(&self, op: &Op) -> Option<Folded> {
        let constant = |ty: Type, bits: u64| Some(Folded::Const { ty, bits });
        match *op {
            Op::Binary { op, ty, a, b } => match (self.constant(a), self.constant(b)) {
                (Some(a), Some(b)) => constant(ty, interpret::binary(op, ty, a, b)),
                (None, Some(bits)) if op == BinaryOp::Add && self.code_address(a).is_some() => {
                    let distance = self.code_address(a)?.wrapping_add(bits as i64);
                    Some(Folded::CodeAddress { distance })
                }
                (None, Some(bits)) => {
                    let neutral = match op {
                        BinaryOp::Add
                        | BinaryOp::Sub
                        | BinaryOp::Or
                        | BinaryOp::Xor
                        | BinaryOp::ShiftLeft
                        | BinaryOp::ShiftRightUnsigned
                        | BinaryOp::ShiftRightSigned => bits == 0,
                        BinaryOp::And => bits == ty.mask(),
                        BinaryOp::Mul => bits == 1,
                        _ => false,
                    };
                    neutral.then_some(Folded::Value(a))
                }
                _ => None,
            },
            Op::Unary { op, ty, a } => constant(ty, interpret::unary(op, ty, self.constant(a)?)),
            Op::Compare { op, ty, a, b } => {
                constant(Type::I8, u64::from(interpret::compare(op, ty, self.constant(a)?, self.constant(b)?)))
            }
            Op::Select { condition, a, b, .. } => {
                if a == b {
                    return Some(Folded::Value(a));
                }
                Some(Folded::Value(if self.constant(condition)? != 0 { a } else { b }))
            }
            Op::Extend { signed, from, to, a } => match self.constant(a) {
                Some(bits) => constant(to, if signed { interpret::sign_extend(from, bits) & to.mask() } else { bits }),
                None if signed && from == Type::I32 && self.effort == Effort::Region => {
                    self.already_extended(a).map(Folded::Value)
                }
                None => None,
            },
            Op::Truncate { to, a, .. } => match self.ops[usize::from(a.0)] {
                Op::Const { bits, .. } => constant(to, bits & to.mask()),
                Op::Extend { from, a: inner, .. } if from == to => Some(Folded::Value(inner)),
                _ => None,
            },
            Op::Bitcast { to, a, .. } => match self.ops[usize::from(a.0)] {
                Op::Bitcast { from, a: inner, .. } if from == to => Some(Folded::Value(inner)),
                _ => None,
            },
            Op::Vector(op) => self.handed_on(op).map(Folded::Value),
            _ => None,
        }
    }
}

enum Folded {
    Value(Value),
    Const { ty: Type, bits: u64 },
    CodeAddress { distance: i64 },
}

/// The operation does nothing but compute its result.
fn is_pure<G: Guest>(op: &Op) -> bool {
    match op {
        Op::Const { .. }
        | Op::CodeAddress { .. }
        | Op::Get { .. }
        | Op::Binary { .. }
        | Op::Unary { .. }
        | Op::Compare { .. }
        | Op::Select { .. }
        | Op::Extend { .. }
        | Op::Truncate { .. }
        | Op::Bitcast { .. } => true,
        Op::Vector(op) => op.is_pure(),
        Op::Helper { helper, .. } => G::HELPERS[usize::from(helper.0)].effects.only_computes(),
        _ => false,
    }
}

/// Something may look at the guest's registers at this operation.
fn observes<G: Guest>(op: &Op) -> bool {
    match op {
        Op::Helper { helper, .. } => {
            let effects = G::HELPERS[usize::from(helper.0)].effects;
            effects.can_raise || effects.reads_registers || effects.writes_registers
        }
        op => op.can_raise(),
    }
}

/// The pass from the end: writes that are overwritten, results that are not used.
fn drop_unused<G: Guest>(block: &mut builder::Room, terminator: &mut Terminator) {
    let Room { ops, used, kept, .. } = &mut block.simplifying;
    for marks in [&mut *used, &mut *kept] {
        marks.clear();
        marks.resize(ops.len(), false);
    }
    terminator.for_each_operand(|value| used[usize::from(value.0)] = true);
    let mut overwritten = [false; MOST_REGISTERS];
    for (position, op) in ops.iter().enumerate().rev() {
        kept[position] = match *op {
            Op::Put { register, .. } => !std::mem::replace(&mut overwritten[usize::from(register.0)], true),
            Op::Get { register } => {
                // What was written before is read here.
                if used[position] {
                    overwritten[usize::from(register.0)] = false;
                }
                used[position]
            }
            Op::Vector(VectorOp::Put { register, .. }) => {
                let first = usize::from(register.0);
                let halves = &mut overwritten[first..=first | 1];
                let seen = halves.contains(&false);
                halves.fill(true);
                seen
            }
            Op::Vector(VectorOp::Get { register }) if used[position] => {
                overwritten[usize::from(register.0)..=usize::from(register.0 | 1)].fill(false);
                true
            }
            _ if is_pure::<G>(op) && !used[position] => false,
            _ => {
                if observes::<G>(op) {
                    overwritten = [false; MOST_REGISTERS];
                }
                true
            }
        };
        if kept[position] {
            op.for_each_operand(arguments_of::<G>(op), |value| used[usize::from(value.0)] = true);
        }
    }
    keep_marked::<G>(block, terminator);
}

/// Leaves the marked operations.
fn keep_marked<G: Guest>(block: &mut builder::Room, terminator: &mut Terminator) {
    let Room { ops, map, kept, .. } = &mut block.simplifying;
    map.clear();
    block.ops.clear();
    for (op, keep) in ops.iter().zip(&*kept) {
        map.push(Value(block.ops.len() as u16));
        if *keep {
            let mut op = *op;
            let arguments = arguments_of::<G>(&op);
            op.map_operands(arguments, |value| map[usize::from(value.0)]);
            block.ops.push(op);
        }
    }
    map.push(Value(block.ops.len() as u16));
    for start in &mut block.instructions {
        start.op = map[usize::from(start.op)].0;
    }
    terminator.map_operands(|value| map[usize::from(value.0)]);
}
