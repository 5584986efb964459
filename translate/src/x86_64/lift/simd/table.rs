//! Instructions whose function is in the tables of [`crate::x86_64::simd`].

use iced_x86::{Mnemonic, OpKind};

use crate::ir::{BinaryOp, Type, Value};

use super::super::super::helpers::id;
use super::super::super::simd::{LANEWISE, Operation, Shape};
use super::super::{Lifted, Lifter, Raises, Result};

impl Lifter {
    /// What the tables of functions have for a mnemonic.
    pub(super) fn vector_by_table(&mut self, mnemonic: Mnemonic) -> Result {
        use Mnemonic as M;
        let operation = Operation::of(mnemonic).ok_or(Raises::INVALID_OPCODE)?;
        let (helper, entry) = match operation {
            Operation::Lanewise(entry) => return self.lanewise(entry),
            Operation::Integer(entry) => (id::VECTOR_INTEGER, entry),
            Operation::Float(entry) => (id::VECTOR_FLOAT, entry),
            Operation::MultiplyAdd(_) => (id::MULTIPLY_ADD, 0),
        };
        let operands = self.vector_operands(entry)?;
        let operands = self.constant(operands.encode());
        let immediate = match (operation, mnemonic) {
            (Operation::MultiplyAdd(how), _) => self.constant(how.encode()),
            // The legacy encodings ignore all but three bits.
            (_, M::Cmpps | M::Cmppd | M::Cmpss | M::Cmpsd) => self.constant(u64::from(self.i.immediate8() & 7)),
            _ => self.vector_immediate(),
        };
        let place = match self.i.op0_kind() {
            OpKind::Memory => {
                let bytes = self.i.memory_size().size() as u64;
                let place = self.place_of_bytes(bytes, true)?;
                // What the store raises comes before what the arithmetic does.
                self.probe_write(place, bytes);
                Some((place, bytes as usize / 8))
            }
            _ => None,
        };
        self.helper(helper, &[operands, immediate]);
        if let Some((place, count)) = place {
            let registers = (super::super::super::registers::OPERAND..).map(crate::ir::Register);
            let parts: Vec<Value> = registers.take(count).map(|register| self.b.get(register)).collect();
            self.store_vector(place, &parts);
        }
        Ok(Lifted::Next)
    }

    fn lanewise(&mut self, entry: usize) -> Result {
        let (first, second) = self.sources();
        let shape = LANEWISE[entry].shape;
        let count = self.part_count();
        let last = self.i.op_count() - 1;
        let b = if self.i.op_kind(last) == OpKind::Immediate8 {
            let amount = self.constant(u64::from(self.i.immediate8()));
            [amount; 4]
        } else {
            self.read_vector(second)?
        };
        let a = self.read_register(self.number(first), count);
        let which = self.constant(entry as u64);
        let mut result = self.no_parts();
        for half in (0..count).step_by(2) {
            let (a, b) =
                ([a[half], a[half + 1]], if shape == Shape::Shift { [b[0]; 2] } else { [b[half], b[half + 1]] });
            let parts = self.lanewise_half(shape, which, a, b);
            result[half..half + 2].copy_from_slice(&parts);
        }
        self.write_vector(result);
        Ok(Lifted::Next)
    }

    /// The 128 bits of a lanewise instruction.
    fn lanewise_half(&mut self, shape: Shape, which: Value, a: [Value; 2], b: [Value; 2]) -> [Value; 2] {
        let call = |lifter: &mut Lifter, a, b| lifter.helper(id::LANEWISE, &[which, a, b]);
        match shape {
            Shape::Halves | Shape::Shift => [call(self, a[0], b[0]), call(self, a[1], b[1])],
            Shape::Operands => [call(self, a[0], a[1]), call(self, b[0], b[1])],
            Shape::UnpackLow | Shape::UnpackHigh => {
                // The halves' upper or lower parts, moved to where the function looks.
                let by = self.constant(32);
                let (op, part) = if shape == Shape::UnpackLow {
                    (BinaryOp::ShiftRightUnsigned, 0)
                } else {
                    (BinaryOp::ShiftLeft, 1)
                };
                let moved = [a[part], b[part]].map(|half| self.b.binary(op, Type::I64, half, by));
                let (plain, other) = (call(self, a[part], b[part]), call(self, moved[0], moved[1]));
                if part == 0 { [plain, other] } else { [other, plain] }
            }
        }
    }
}
