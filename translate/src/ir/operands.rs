//! The operands of operations and terminators, one after the other.

use super::{Op, Terminator, Value};

impl Op {
    /// Replaces every operand; `arguments` is the number of those that the helper takes, if it is one.
    pub(crate) fn map_operands(&mut self, arguments: usize, mut map: impl FnMut(Value) -> Value) {
        let mut set = |values: &mut [&mut Value]| {
            for value in values {
                **value = map(**value);
            }
        };
        match self {
            Op::Const { .. } | Op::CodeAddress { .. } | Op::Get { .. } | Op::Fence { .. } => {}
            Op::Put { value, .. } => set(&mut [value]),
            Op::Vector(op) => op.map_operands(map),
            Op::Binary { a, b, .. }
            | Op::Compare { a, b, .. }
            | Op::FloatBinary { a, b, .. }
            | Op::FloatCompare { a, b, .. } => set(&mut [a, b]),
            Op::Unary { a, .. }
            | Op::Extend { a, .. }
            | Op::Truncate { a, .. }
            | Op::Bitcast { a, .. }
            | Op::FloatSquareRoot { a, .. }
            | Op::FloatCanonical { a, .. }
            | Op::FloatConvert { a, .. }
            | Op::IntegerToFloat { a, .. } => set(&mut [a]),
            Op::Select { condition, a, b, .. } => set(&mut [condition, a, b]),
            Op::FloatMultiplyAdd { a, b, c, .. } => set(&mut [a, b, c]),
            Op::Load { address, .. } | Op::ProbeWrite { address, .. } | Op::LoadReserved { address, .. } => {
                set(&mut [address])
            }
            Op::Store { address, value, .. }
            | Op::AtomicReadModifyWrite { address, value, .. }
            | Op::StoreConditional { address, value, .. } => set(&mut [address, value]),
            Op::AtomicCompareExchange { address, expected, new, .. } => set(&mut [address, expected, new]),
            Op::Helper { arguments: values, .. } => {
                for value in values.iter_mut().take(arguments) {
                    set(&mut [value]);
                }
            }
            Op::RaiseIf { condition, information, .. } => set(&mut [condition, information]),
        }
    }

    /// Visits every operand; `arguments` as above.
    pub(crate) fn for_each_operand(&self, arguments: usize, mut visit: impl FnMut(Value)) {
        let mut op = *self;
        op.map_operands(arguments, |value| {
            visit(value);
            value
        });
    }
}

impl Terminator {
    /// Replaces every operand.
    pub(crate) fn map_operands(&mut self, mut map: impl FnMut(Value) -> Value) {
        match self {
            Terminator::Branch { condition: value, .. }
            | Terminator::JumpIndirect { target: value, .. }
            | Terminator::LeaveIndirect { target: value }
            | Terminator::Raise { information: value, .. } => *value = map(*value),
            Terminator::Jump { .. } | Terminator::Leave { .. } => {}
        }
    }

    /// Visits every operand.
    pub(crate) fn for_each_operand(&self, mut visit: impl FnMut(Value)) {
        let mut terminator = *self;
        terminator.map_operands(|value| {
            visit(value);
            value
        });
    }
}
