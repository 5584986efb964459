//! Instructions whose function is in the tables of [`crate::x86_64::simd`].

use iced_x86::{Mnemonic, OpKind};

use crate::ir::{Type, VectorOp};

use super::super::super::helpers::id;
use super::super::super::simd::{LANEWISE, Operation, Shape};
use super::super::{Lifted, Lifter, Raises, Result};
use super::operand_half;

impl Lifter {
    /// What the tables of functions have for a mnemonic.
    pub(super) fn vector_by_table(&mut self, mnemonic: Mnemonic) -> Result {
        use Mnemonic as M;
        if let Some(lifted) = self.vector_inline(mnemonic) {
            return lifted;
        }
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
                Some((place, bytes))
            }
            _ => None,
        };
        self.helper(helper, &[operands, immediate]);
        match place {
            Some((place, 8)) => {
                let low = self.b.get(operand_half(0));
                self.store_raw(place, Type::I64, low);
            }
            Some((place, bytes)) => {
                let halves = [0, 1].map(|half| self.vector_op(VectorOp::Get { register: operand_half(half) }));
                self.store_vector(place, &halves[..bytes as usize / 16]);
            }
            None => {}
        }
        Ok(Lifted::Next)
    }

    /// A function of 64 bits of each operand.
    fn lanewise(&mut self, entry: usize) -> Result {
        let (first, second) = self.sources();
        let shape = LANEWISE[entry].shape;
        let b = self.read_vector(second)?;
        let a = self.read_register(self.number(first), self.half_count());
        let which = self.constant(entry as u64);
        let result = self.on_halves(|lifter, half| {
            let [a, b] = [a[half], b[half]].map(|vector| [0, 1].map(|part| lifter.extract(Type::I64, part, vector)));
            let [low, high] = match shape {
                Shape::Operands => [a, b],
                _ => [[a[0], b[0]], [a[1], b[1]]],
            };
            let low = lifter.helper(id::LANEWISE, &[which, low[0], low[1]]);
            let high = lifter.helper(id::LANEWISE, &[which, high[0], high[1]]);
            lifter.vector_op(VectorOp::FromHalves { low, high })
        });
        self.write_vector(result);
        Ok(Lifted::Next)
    }
}
