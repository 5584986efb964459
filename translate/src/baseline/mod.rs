//! The baseline compiler: host code for one block at a time, in a few microseconds.
//!
//! It stands between the interpreter and Cranelift. What is executed some dozens of times is too often for the interpreter and too
//! seldom for a compiler that takes a hundred times as long; most of what an operating system's boot or a compiler's run executes is
//! of that kind. Its code does what the interpreter does, in the same order and on the same state: guest registers stay in
//! [`Context`](crate::cpu::Context), values live in host registers from the operation that computes them to the last that uses
//! them, and blocks go on to one another through the same cells as regions do.
//!
//! There is one for x86-64 hosts. Elsewhere blocks are interpreted until they are compiled as parts of regions.

#[cfg(target_arch = "x86_64")]
#[expect(clippy::useless_conversion, reason = "dynasm! converts every register number and immediate")]
mod x86_64;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86_64::Baseline;

#[cfg(not(target_arch = "x86_64"))]
mod none;
#[cfg(not(target_arch = "x86_64"))]
pub(crate) use none::Baseline;

use crate::ir::{Block, Op, Value};

/// When each value of a block is used last, and which comparisons need no value.
#[derive(Default)]
struct Uses {
    /// For each value, the position of the last operation that uses it; that of the terminator is the number of operations. The
    /// value's own position where nothing uses it.
    last: Vec<u16>,
    /// Comparisons whose only user is the operation behind them, which takes the host's flags.
    fused: Vec<bool>,
    /// How many operations use each value, up to some.
    counts: Vec<u8>,
}

impl Uses {
    /// Makes it that of a block.
    fn note(&mut self, block: &Block, arguments: impl Fn(&Op) -> usize) {
        let Uses { last, fused, counts } = self;
        let count = block.ops.len();
        last.clear();
        last.extend(0..count as u16);
        counts.clear();
        counts.resize(count, 0);
        fused.clear();
        fused.resize(count, false);
        let mut see = |position: usize, value: Value| {
            last[usize::from(value.0)] = position as u16;
            counts[usize::from(value.0)] = counts[usize::from(value.0)].saturating_add(1);
        };
        for (position, op) in block.ops.iter().enumerate() {
            op.for_each_operand(arguments(op), |value| see(position, value));
        }
        block.terminator.for_each_operand(|value| see(count, value));
        for (position, op) in block.ops.iter().enumerate() {
            let Op::Compare { a, b, .. } = *op else { continue };
            let next = block.ops.get(position + 1);
            let takes_flags = match next {
                Some(Op::Select { condition, .. } | Op::RaiseIf { condition, .. }) => {
                    usize::from(condition.0) == position
                }
                Some(_) => false,
                None => matches!(block.terminator, crate::ir::Terminator::Branch { .. }),
            };
            if takes_flags && counts[position] == 1 && usize::from(last[position]) == position + 1 {
                fused[position] = true;
                for operand in [a, b] {
                    let last = &mut last[usize::from(operand.0)];
                    *last = (*last).max(position as u16 + 1);
                }
            }
        }
    }
}
