//! The text form of blocks.
//!
//! ```text
//! block 0x80000000, 6
//! 0x80000000:
//!     v0 = get x10
//!     v1 = load_s.word.m3 v0, -16
//!     put x11, v1
//! 0x80000004:
//!     v3 = const.i64 0x1
//!     v4 = add.i64 v1, v3
//!     put x11, v4
//! jump 0x80000006
//! ```
//!
//! A line each: the block's address and length in bytes; the address of each instruction, before its operations; each
//! operation, with the number of its result; the terminator. What an operation's name leaves open follows in suffixes:
//! types, widths, `m` and the number of a translation regime. [`super::parse()`] reads the form back.

use std::fmt;

use super::names::*;
use super::*;

/// A block as text, with a guest's names.
pub struct Text<'a, N> {
    block: &'a Block,
    names: N,
}

impl Block {
    /// The block as text, with the names that `names` knows.
    pub fn text<N: Names>(&self, names: N) -> Text<'_, N> {
        Text { block: self, names }
    }
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text(Numbers).fmt(f)
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}", self.0)
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(name_of(TYPES, *self))
    }
}

impl fmt::Display for Width {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(name_of(WIDTHS, *self))
    }
}

impl fmt::Display for MemoryMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "m{}", self.0)
    }
}

impl<N: Names> fmt::Display for Text<'_, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let block = self.block;
        writeln!(f, "block {:#x}, {}", block.start, block.length)?;
        let mut instructions = block.instructions.iter().peekable();
        for position in 0..=block.ops.len() {
            while let Some(instruction) = instructions.next_if(|next| usize::from(next.op) <= position) {
                writeln!(f, "{:#x}:", block.start.wrapping_add(u64::from(instruction.offset)))?;
            }
            if let Some(op) = block.ops.get(position) {
                f.write_str("    ")?;
                if op.result().is_some() {
                    write!(f, "v{position} = ")?;
                }
                self.op(f, op)?;
                writeln!(f)?;
            }
        }
        match block.terminator {
            Terminator::Jump { target } => writeln!(f, "jump {target:#x}"),
            Terminator::Branch { condition, taken, not_taken } => {
                writeln!(f, "branch {condition}, {taken:#x}, {not_taken:#x}")
            }
            Terminator::JumpIndirect { target, kind } => {
                writeln!(f, "jump_indirect.{} {target}", name_of(INDIRECT_JUMPS, kind))
            }
            Terminator::Leave { target } => writeln!(f, "leave {target:#x}"),
            Terminator::LeaveIndirect { target } => writeln!(f, "leave_indirect {target}"),
            Terminator::Raise { exception, information } => writeln!(f, "raise {exception}, {information}"),
        }
    }
}

impl<N: Names> Text<'_, N> {
    fn register(&self, f: &mut fmt::Formatter<'_>, register: Register) -> fmt::Result {
        match self.names.register(register) {
            Some(name) => f.write_str(name),
            None => write!(f, "r{}", register.0),
        }
    }

    fn helper(&self, f: &mut fmt::Formatter<'_>, helper: HelperId, arguments: [Value; 3]) -> fmt::Result {
        let count = match self.names.helper(helper) {
            Some((name, count)) => {
                write!(f, "helper {name}")?;
                count
            }
            None => {
                write!(f, "helper helper{}", helper.0)?;
                arguments.len()
            }
        };
        // Arguments that do not count are shown only if they are not what the builder puts there.
        let shown = arguments.iter().rposition(|argument| argument.0 != 0).map_or(0, |last| last + 1).max(count);
        for (index, argument) in arguments.iter().take(shown).enumerate() {
            write!(f, "{}{argument}", if index == 0 { " " } else { ", " })?;
        }
        Ok(())
    }

    fn vector(&self, f: &mut fmt::Formatter<'_>, op: VectorOp) -> fmt::Result {
        f.write_str("vector.")?;
        match op {
            VectorOp::Get { register } => {
                f.write_str("get ")?;
                self.register(f, register)
            }
            VectorOp::Put { register, value } => {
                f.write_str("put ")?;
                self.register(f, register)?;
                write!(f, ", {value}")
            }
            VectorOp::Load { mode, address, offset } => write!(f, "load.{mode} {address}, {offset}"),
            VectorOp::Store { mode, address, offset, value } => write!(f, "store.{mode} {address}, {offset}, {value}"),
            VectorOp::FromHalves { low, high } => write!(f, "from_halves {low}, {high}"),
            VectorOp::Extract { lane, index, a } => write!(f, "extract.{lane} {a}, {index}"),
            VectorOp::Insert { lane, index, a, value } => write!(f, "insert.{lane} {a}, {index}, {value}"),
            VectorOp::Splat { lane, value } => write!(f, "splat.{lane} {value}"),
            VectorOp::Lanes { op, lane, a, b } => write!(f, "{}.{lane} {a}, {b}", name_of(LANE_OPS, op)),
            VectorOp::Shift { op, lane, a, count } => write!(f, "{}.{lane} {a}, {count}", name_of(LANE_SHIFTS, op)),
            VectorOp::Shuffle { shuffle, a, b } => match shuffle {
                Shuffle::InterleaveLow(lane) => write!(f, "interleave_low.{lane} {a}, {b}"),
                Shuffle::InterleaveHigh(lane) => write!(f, "interleave_high.{lane} {a}, {b}"),
                Shuffle::Words(control) => write!(f, "words {a}, {b}, {control:#x}"),
                Shuffle::Doubles(control) => write!(f, "doubles {a}, {b}, {control:#x}"),
                Shuffle::LowHalves(control) => write!(f, "low_halves {a}, {b}, {control:#x}"),
                Shuffle::HighHalves(control) => write!(f, "high_halves {a}, {b}, {control:#x}"),
                Shuffle::Align(first) => write!(f, "align {a}, {b}, {first:#x}"),
                Shuffle::Blend(control) => write!(f, "blend {a}, {b}, {control:#x}"),
            },
            VectorOp::Widen { signed, lane, a } => write!(f, "widen_{}.{lane} {a}", if signed { "s" } else { "u" }),
            VectorOp::Mask { lane, a } => write!(f, "mask.{lane} {a}"),
            VectorOp::Float { op, lane, a, b } => write!(f, "{}.{lane} {a}, {b}", name_of(FLOAT_BINARY, op)),
            VectorOp::SquareRoot { lane, a } => write!(f, "float_square_root.{lane} {a}"),
        }
    }

    fn op(&self, f: &mut fmt::Formatter<'_>, op: &Op) -> fmt::Result {
        match *op {
            Op::Const { ty, bits } => write!(f, "const.{ty} {bits:#x}"),
            Op::CodeAddress { distance } => write!(f, "code_address {distance}"),
            Op::Get { register } => {
                f.write_str("get ")?;
                self.register(f, register)
            }
            Op::Put { register, value } => {
                f.write_str("put ")?;
                self.register(f, register)?;
                write!(f, ", {value}")
            }
            Op::Binary { op, ty, a, b } => write!(f, "{}.{ty} {a}, {b}", name_of(BINARY, op)),
            Op::Unary { op, ty, a } => write!(f, "{}.{ty} {a}", name_of(UNARY, op)),
            Op::Compare { op, ty, a, b } => write!(f, "{}.{ty} {a}, {b}", name_of(COMPARISONS, op)),
            Op::Select { ty, condition, a, b } => write!(f, "select.{ty} {condition}, {a}, {b}"),
            Op::Extend { signed, from, to, a } => {
                write!(f, "extend_{}.{from}.{to} {a}", if signed { "s" } else { "u" })
            }
            Op::Truncate { from, to, a } => write!(f, "truncate.{from}.{to} {a}"),
            Op::Bitcast { from, to, a } => write!(f, "bitcast.{from}.{to} {a}"),
            Op::Load { width, signed, mode, address, offset } => {
                write!(f, "load_{}.{width}.{mode} {address}, {offset}", if signed { "s" } else { "u" })
            }
            Op::Store { width, mode, address, offset, value } => {
                write!(f, "store.{width}.{mode} {address}, {offset}, {value}")
            }
            Op::ProbeWrite { bytes, mode, address, offset } => {
                write!(f, "probe_write.{bytes}.{mode} {address}, {offset}")
            }
            Op::AtomicReadModifyWrite { op, width, mode, address, value } => {
                write!(f, "{}.{width}.{mode} {address}, {value}", name_of(ATOMIC, op))
            }
            Op::AtomicCompareExchange { width, mode, address, expected, new } => {
                write!(f, "compare_exchange.{width}.{mode} {address}, {expected}, {new}")
            }
            Op::LoadReserved { width, mode, address } => write!(f, "load_reserved.{width}.{mode} {address}"),
            Op::StoreConditional { width, mode, address, value } => {
                write!(f, "store_conditional.{width}.{mode} {address}, {value}")
            }
            Op::Fence { store_load } => f.write_str(if store_load { "fence" } else { "fence.tso" }),
            Op::FloatBinary { op, ty, a, b } => write!(f, "{}.{ty} {a}, {b}", name_of(FLOAT_BINARY, op)),
            Op::FloatSquareRoot { ty, a } => write!(f, "float_square_root.{ty} {a}"),
            Op::FloatCanonical { ty, a } => write!(f, "float_canonical.{ty} {a}"),
            Op::FloatMultiplyAdd { ty, a, b, c } => write!(f, "float_multiply_add.{ty} {a}, {b}, {c}"),
            Op::FloatCompare { op, ty, a, b } => write!(f, "{}.{ty} {a}, {b}", name_of(FLOAT_COMPARISONS, op)),
            Op::FloatConvert { from, to, a } => write!(f, "float_convert.{from}.{to} {a}"),
            Op::IntegerToFloat { from, to, a } => write!(f, "integer_to_float.{from}.{to} {a}"),
            Op::Vector(op) => self.vector(f, op),
            Op::Helper { helper, arguments } => self.helper(f, helper, arguments),
            Op::RaiseIf { condition, exception, information } => {
                write!(f, "raise_if {condition}, {exception}, {information}")
            }
        }
    }
}
