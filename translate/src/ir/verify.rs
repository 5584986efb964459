//! Checks that a block is well-formed. The back ends rely on it; lifters are tested against it.

use super::*;
use crate::guest::Guest;
use crate::tlb::MOST_MODES;

/// A block is not well-formed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place} of the block: {problem}")]
pub struct VerifyError {
    /// Which part: an operation, the terminator, the table of instructions.
    pub place: String,
    /// What is wrong with it.
    pub problem: String,
}

/// Checks a block of guest `G`: that every operand is defined before its use and has the type that is asked for, that
/// registers, helpers and regimes exist, that the table of instructions is in order, and that a helper that must
/// stand alone does.
pub fn verify<G: Guest>(block: &Block) -> Result<(), VerifyError> {
    instructions(block).map_err(|problem| VerifyError { place: "table of instructions".to_string(), problem })?;
    for (position, op) in block.ops.iter().enumerate() {
        let before = &block.ops[..position];
        operation::<G>(op, before, block.instructions.len())
            .map_err(|problem| VerifyError { place: format!("operation {position}"), problem })?;
    }
    terminator(block).map_err(|problem| VerifyError { place: "terminator".to_string(), problem })
}

fn instructions(block: &Block) -> Result<(), String> {
    if block.ops.len() > usize::from(u16::MAX) {
        return Err(format!("{} operations are more than can be numbered", block.ops.len()));
    }
    match block.instructions.first() {
        Some(InstructionStart { op: 0, offset: 0 }) => (),
        Some(first) => return Err(format!("the first entry is {first:?}, not operation 0 at offset 0")),
        None => return Err("it is empty".to_string()),
    }
    for pair in block.instructions.windows(2) {
        if pair[0].op > pair[1].op || pair[0].offset >= pair[1].offset {
            return Err(format!("{:?} comes before {:?}", pair[0], pair[1]));
        }
    }
    match block.instructions.last() {
        Some(last) if usize::from(last.op) > block.ops.len() || last.offset >= block.length => {
            Err(format!("{last:?} is beyond the end"))
        }
        _ => Ok(()),
    }
}

/// Checks that `value` is one of `before` and of type `ty`.
fn operand(before: &[Op], value: Value, ty: Type) -> Result<(), String> {
    match before.get(usize::from(value.0)).map(Op::result) {
        Some(Some(found)) if found == ty => Ok(()),
        Some(Some(found)) => Err(format!("{value} is {found}, not {ty}")),
        Some(None) => Err(format!("{value} is the number of an operation without a result")),
        None => Err(format!("{value} is not defined before it")),
    }
}

fn require(holds: bool, problem: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(problem()) }
}

fn integer(ty: Type) -> Result<(), String> {
    require(ty.is_integer(), || format!("{ty} is not an integer type"))
}

fn float(ty: Type) -> Result<(), String> {
    require(ty.is_float(), || format!("{ty} is not a floating-point type"))
}

fn regime(mode: MemoryMode) -> Result<(), String> {
    require(usize::from(mode.0) < MOST_MODES, || format!("regime {mode} does not exist"))
}

fn register<G: Guest>(register: Register) -> Result<(), String> {
    require(usize::from(register.0) < G::REGISTERS.len(), || format!("register {} does not exist", register.0))
}

fn reservation(width: Width, mode: MemoryMode) -> Result<(), String> {
    require(matches!(width, Width::Word | Width::Double), || format!("a reservation cannot be a {width} wide"))?;
    regime(mode)
}

fn operation<G: Guest>(op: &Op, before: &[Op], instructions: usize) -> Result<(), String> {
    let check = |value: Value, ty: Type| operand(before, value, ty);
    match *op {
        Op::Const { ty, bits } => {
            require(bits & !ty.mask() == 0 && ty != Type::V128, || format!("{bits:#x} is not a constant of type {ty}"))
        }
        Op::CodeAddress { .. } => Ok(()),
        Op::Get { register: number } => register::<G>(number),
        Op::Put { register: number, value } => {
            register::<G>(number)?;
            check(value, Type::I64)
        }
        Op::Binary { op, ty, a, b } => {
            integer(ty)?;
            let is_high = matches!(op, BinaryOp::MulHighSigned | BinaryOp::MulHighUnsigned);
            require(!is_high || ty == Type::I64, || format!("{op:?} is for i64 only"))?;
            check(a, ty)?;
            check(b, ty)
        }
        Op::Unary { op, ty, a } => {
            integer(ty)?;
            require(op != UnaryOp::ByteSwap || ty != Type::I8, || "a single byte cannot be swapped".to_string())?;
            check(a, ty)
        }
        Op::Compare { ty, a, b, .. } => {
            integer(ty)?;
            check(a, ty)?;
            check(b, ty)
        }
        Op::Select { ty, condition, a, b } => {
            require(ty != Type::V128, || "vectors cannot be selected".to_string())?;
            check(condition, Type::I8)?;
            check(a, ty)?;
            check(b, ty)
        }
        Op::Extend { from, to, a, .. } => {
            integer(from)?;
            integer(to)?;
            require(from.bits() < to.bits(), || format!("{to} is not wider than {from}"))?;
            check(a, from)
        }
        Op::Truncate { from, to, a } => {
            integer(from)?;
            integer(to)?;
            require(from.bits() > to.bits(), || format!("{to} is not narrower than {from}"))?;
            check(a, from)
        }
        Op::Bitcast { from, to, a } => {
            require(from.bits() == to.bits(), || format!("{from} and {to} have different widths"))?;
            require(from != Type::V128, || "vectors have one type only".to_string())?;
            check(a, from)
        }
        Op::Load { mode, address, .. } | Op::ProbeWrite { mode, address, .. } => {
            regime(mode)?;
            check(address, Type::I64)
        }
        Op::Store { mode, address, value, .. } => {
            regime(mode)?;
            check(address, Type::I64)?;
            check(value, Type::I64)
        }
        Op::AtomicReadModifyWrite { mode, address, value, .. } => {
            regime(mode)?;
            check(address, Type::I64)?;
            check(value, Type::I64)
        }
        Op::StoreConditional { width, mode, address, value } => {
            reservation(width, mode)?;
            check(address, Type::I64)?;
            check(value, Type::I64)
        }
        Op::AtomicCompareExchange { mode, address, expected, new, .. } => {
            regime(mode)?;
            check(address, Type::I64)?;
            check(expected, Type::I64)?;
            check(new, Type::I64)
        }
        Op::LoadReserved { width, mode, address } => {
            reservation(width, mode)?;
            check(address, Type::I64)
        }
        Op::Fence { .. } => Ok(()),
        Op::FloatBinary { ty, a, b, .. } | Op::FloatCompare { ty, a, b, .. } => {
            float(ty)?;
            check(a, ty)?;
            check(b, ty)
        }
        Op::FloatSquareRoot { ty, a } | Op::FloatCanonical { ty, a } => {
            float(ty)?;
            check(a, ty)
        }
        Op::FloatMultiplyAdd { ty, a, b, c } => {
            float(ty)?;
            check(a, ty)?;
            check(b, ty)?;
            check(c, ty)
        }
        Op::FloatConvert { from, to, a } => {
            float(from)?;
            float(to)?;
            require(from != to, || format!("converts {from} to itself"))?;
            check(a, from)
        }
        Op::IntegerToFloat { from, to, a } => {
            require(matches!(from, Type::I32 | Type::I64), || format!("{from} cannot be converted to floating point"))?;
            float(to)?;
            check(a, from)
        }
        Op::Vector(op) => vector::<G>(op, before),
        Op::Helper { helper, arguments } => {
            let known = G::HELPERS.get(usize::from(helper.0));
            let known = known.ok_or_else(|| format!("helper {} does not exist", helper.0))?;
            require(!known.effects.alone || instructions == 1, || {
                format!("helper {} must be in a block of its own", known.name)
            })?;
            arguments.iter().take(known.arguments).try_for_each(|&argument| check(argument, Type::I64))
        }
        Op::RaiseIf { condition, information, .. } => {
            check(condition, Type::I8)?;
            check(information, Type::I64)
        }
    }
}

fn lane(ty: Type, index: u8) -> Result<(), String> {
    require(ty != Type::V128, || "a vector is no lane".to_string())?;
    let count = 128 / ty.bits();
    require(u32::from(index) < count, || format!("lane {index} of {count} does not exist"))
}

fn vector<G: Guest>(op: VectorOp, before: &[Op]) -> Result<(), String> {
    let check = |value: Value, ty: Type| operand(before, value, ty);
    let pair = |first: Register| {
        require(first.0.is_multiple_of(2), || format!("no vector begins in register {}", first.0))?;
        register::<G>(Register(first.0 + 1))
    };
    let both = |a: Value, b: Value| {
        check(a, Type::V128)?;
        check(b, Type::V128)
    };
    match op {
        VectorOp::Get { register } => pair(register),
        VectorOp::Put { register, value } => {
            pair(register)?;
            check(value, Type::V128)
        }
        VectorOp::Load { mode, address, .. } => {
            regime(mode)?;
            check(address, Type::I64)
        }
        VectorOp::Store { mode, address, value, .. } => {
            regime(mode)?;
            check(address, Type::I64)?;
            check(value, Type::V128)
        }
        VectorOp::FromHalves { low, high } => {
            check(low, Type::I64)?;
            check(high, Type::I64)
        }
        VectorOp::Extract { lane: ty, index, a } => {
            lane(ty, index)?;
            check(a, Type::V128)
        }
        VectorOp::Insert { lane: ty, index, a, value } => {
            lane(ty, index)?;
            check(a, Type::V128)?;
            check(value, ty)
        }
        VectorOp::Splat { lane: ty, value } => {
            lane(ty, 0)?;
            check(value, ty)
        }
        VectorOp::Lanes { op, lane: ty, a, b } => {
            require(op.takes(ty), || format!("{op:?} is not for lanes of {ty}"))?;
            both(a, b)
        }
        VectorOp::Shift { op, lane: ty, a, count } => {
            let possible = match op {
                LaneShift::RightSigned => matches!(ty, Type::I16 | Type::I32),
                _ => matches!(ty, Type::I16 | Type::I32 | Type::I64),
            };
            require(possible, || format!("{op:?} is not for lanes of {ty}"))?;
            check(a, Type::V128)?;
            check(count, Type::I64)
        }
        VectorOp::Shuffle { shuffle, a, b } => {
            if let Shuffle::InterleaveLow(ty) | Shuffle::InterleaveHigh(ty) = shuffle {
                integer(ty)?;
            }
            if let Shuffle::Align(first) = shuffle {
                require(first <= 16, || format!("byte {first} of two vectors is not followed by sixteen more"))?;
            }
            both(a, b)
        }
        VectorOp::Widen { lane: ty, a, .. } => {
            require(matches!(ty, Type::I8 | Type::I16 | Type::I32), || format!("{ty} has no wider lanes"))?;
            check(a, Type::V128)
        }
        VectorOp::Mask { lane: ty, a } => {
            require(matches!(ty, Type::I8 | Type::I32 | Type::I64), || format!("lanes of {ty} have no mask"))?;
            check(a, Type::V128)
        }
        VectorOp::Float { lane: ty, a, b, .. } => {
            float(ty)?;
            both(a, b)
        }
        VectorOp::SquareRoot { lane: ty, a } => {
            float(ty)?;
            check(a, Type::V128)
        }
    }
}

fn terminator(block: &Block) -> Result<(), String> {
    match block.terminator {
        Terminator::Branch { condition, .. } => operand(&block.ops, condition, Type::I8),
        Terminator::JumpIndirect { target, .. } | Terminator::LeaveIndirect { target } => {
            operand(&block.ops, target, Type::I64)
        }
        Terminator::Raise { information, .. } => operand(&block.ops, information, Type::I64),
        Terminator::Jump { .. } | Terminator::Leave { .. } => Ok(()),
    }
}
