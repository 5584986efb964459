//! What is known of words in 64-bit values: sign extensions that change nothing, and pairs of shifts that are one rotation.
//!
//! riscv64 keeps words sign-extended in its registers, and compilers for it extend anew what bitwise operations have made of such
//! words; without Zbb they rotate by two shifts.

use super::*;
use crate::ir::{BinaryOp, UnaryOp, Width};

/// How many operations deep is looked for what a value is made of.
const DEPTH: u32 = 4;

impl<G: Guest> Forward<'_, G> {
    /// The I64 that extending the low word of a value, with its sign, gives back as it is.
    pub(super) fn already_extended(&self, word: Value) -> Option<Value> {
        let whole = self.words.get(usize::from(word.0)).copied().flatten()?;
        self.is_sign_extended(whole, DEPTH).then_some(whole)
    }

    /// True if bits 63 to 32 of an I64 are known to be copies of bit 31.
    fn is_sign_extended(&self, value: Value, depth: u32) -> bool {
        let Some(depth) = depth.checked_sub(1) else { return false };
        match self.ops[usize::from(value.0)] {
            Op::Const { bits, .. } => bits as i64 == i64::from(bits as i32),
            Op::Extend { signed, from, .. } => from != Type::I32 || signed,
            Op::Load { width, signed, .. } => match width {
                Width::Byte | Width::Half => true,
                Width::Word => signed,
                Width::Double => false,
            },
            Op::Binary { op: BinaryOp::And | BinaryOp::Or | BinaryOp::Xor, a, b, .. } => {
                self.is_sign_extended(a, depth) && self.is_sign_extended(b, depth)
            }
            Op::Binary { op: BinaryOp::ShiftRightSigned, a, .. } => self.is_sign_extended(a, depth),
            Op::Unary { op: UnaryOp::Not, a, .. } => self.is_sign_extended(a, depth),
            Op::Select { a, b, .. } => self.is_sign_extended(a, depth) && self.is_sign_extended(b, depth),
            _ => false,
        }
    }

    /// What an operation comes to if it is done on words, where that is less.
    pub(super) fn in_words(&mut self, op: &Op) -> Option<Value> {
        match *op {
            Op::Binary { op, ty, a, b } => self.rotation(op, ty, a, b),
            Op::Truncate { from: Type::I64, to: Type::I32, a } => Some(self.low_word(a)),
            _ => None,
        }
    }

    /// The low word of an I64, the same each time.
    fn low_word(&mut self, value: Value) -> Value {
        if let Some(Some(known)) = self.words.get(usize::from(value.0)) {
            return *known;
        }
        let word = self.word_of_result(value).unwrap_or_else(|| match self.ops[usize::from(value.0)] {
            Op::Extend { from: Type::I32, a, .. } => a,
            Op::Const { bits, .. } => self.push(Op::Const { ty: Type::I32, bits: bits & Type::I32.mask() }),
            _ => self.push(Op::Truncate { from: Type::I64, to: Type::I32, a: value }),
        });
        self.words.resize(self.ops.len(), None);
        self.words[usize::from(value.0)] = Some(word);
        self.words[usize::from(word.0)].get_or_insert(value);
        word
    }

    /// The low word of what an operation computes, computed from low words: where one was extended for the operation, that was for nothing.
    fn word_of_result(&mut self, result: Value) -> Option<Value> {
        let Op::Binary { op, ty: Type::I64, a, b } = self.ops[usize::from(result.0)] else { return None };
        let carries_upwards_only =
            matches!(op, BinaryOp::Add | BinaryOp::Sub | BinaryOp::Mul | BinaryOp::And | BinaryOp::Or | BinaryOp::Xor);
        if !carries_upwards_only || (self.extended_word(a).is_none() && self.extended_word(b).is_none()) {
            return None;
        }
        let (a, b) = (self.low_word(a), self.low_word(b));
        Some(self.push(Op::Binary { op, ty: Type::I32, a, b }))
    }

    /// The I32 that an I64 was extended from.
    fn extended_word(&self, value: Value) -> Option<Value> {
        match self.ops[usize::from(value.0)] {
            Op::Extend { from: Type::I32, a, .. } => Some(a),
            _ => None,
        }
    }

    /// The rotation that an operation on two shifts of one value is.
    fn rotation(&mut self, op: BinaryOp, ty: Type, a: Value, b: Value) -> Option<Value> {
        if !matches!(op, BinaryOp::Or | BinaryOp::Xor | BinaryOp::Add) {
            return None;
        }
        let (first, other) = (self.shift_by_constant(a)?, self.shift_by_constant(b)?);
        let (left, right) = match (first.op, other.op) {
            (BinaryOp::ShiftLeft, BinaryOp::ShiftRightUnsigned) => (first, other),
            (BinaryOp::ShiftRightUnsigned, BinaryOp::ShiftLeft) => (other, first),
            _ => return None,
        };
        // With that neither is zero: each bit comes from one of them.
        let complete = left.count > 0 && left.count + right.count == u64::from(left.ty.bits());
        if left.ty != right.ty || !complete || left.value != right.value {
            return None;
        }
        let count = self.push(Op::Const { ty: left.ty, bits: left.count });
        let rotated = self.push(Op::Binary { op: BinaryOp::RotateLeft, ty: left.ty, a: left.value, b: count });
        Some(if left.ty == ty {
            rotated
        } else {
            // The sign bits of the shifted words, of which only one has any, are the rotated one's.
            self.push(Op::Extend { signed: true, from: left.ty, to: ty, a: rotated })
        })
    }

    /// The shift by a constant that a value is, or whose I32 it is, extended with its sign.
    fn shift_by_constant(&self, value: Value) -> Option<Shift> {
        let op = match self.ops[usize::from(value.0)] {
            Op::Extend { signed: true, from: Type::I32, to: Type::I64, a } => self.ops[usize::from(a.0)],
            op => op,
        };
        match op {
            Op::Binary { op: op @ (BinaryOp::ShiftLeft | BinaryOp::ShiftRightUnsigned), ty, a, b } => {
                // The count is taken modulo the width.
                Some(Shift { op, ty, value: a, count: self.constant(b)? % u64::from(ty.bits()) })
            }
            _ => None,
        }
    }
}

/// A shift to the left, or to the right filling with zeroes, by a constant below the width.
#[derive(Clone, Copy)]
struct Shift {
    op: BinaryOp,
    ty: Type,
    value: Value,
    count: u64,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::riscv64::Riscv64;

    /// How many registers the blocks here use, from the first on.
    const REGISTERS: usize = 4;

    fn op_of(kind: usize) -> BinaryOp {
        use BinaryOp::*;
        [Add, Sub, Mul, And, Or, Xor, Or, Xor, ShiftLeft, ShiftRightUnsigned, ShiftRightSigned][kind % 11]
    }

    /// A block whose instructions do what those of RV64I do with words and double words, on registers that they name.
    fn block(instructions: &[(usize, usize, usize, usize)]) -> Block {
        let mut builder = Builder::new(0);
        builder.instruction(4);
        let mut registers: Vec<Value> = (0..REGISTERS).map(|number| builder.get(Register(number as u8))).collect();
        let counts = [7, 25, 16, 31, 1, 39, 57, 0, 64, 128, -7_i64 as u64, -64_i64 as u64, -57_i64 as u64];
        for &(kind, a, b, to) in instructions {
            let op = op_of(kind / 4);
            let (a, b) = (registers[a % REGISTERS], registers[b % REGISTERS]);
            let result = match kind % 4 {
                0 => builder.binary(op, Type::I64, a, b),
                1 => {
                    let count = builder.constant(counts[to / REGISTERS % counts.len()]);
                    builder.binary(op, Type::I64, a, count)
                }
                2 => {
                    let wide = builder.binary(op, Type::I64, a, b);
                    let low = builder.truncate(Type::I64, Type::I32, wide);
                    builder.sign_extend(Type::I32, Type::I64, low)
                }
                _ => {
                    let low = builder.truncate(Type::I64, Type::I32, a);
                    let count = builder.constant_of(Type::I32, counts[to / REGISTERS % 5]);
                    let shifted = builder.binary(op, Type::I32, low, count);
                    builder.sign_extend(Type::I32, Type::I64, shifted)
                }
            };
            registers[to % REGISTERS] = result;
            builder.put(Register((to % REGISTERS) as u8), result);
        }
        let target = builder.next_address();
        builder.finish(Terminator::Jump { target })
    }

    fn execute(block: &Block, mut registers: [u64; REGISTERS]) -> [u64; REGISTERS] {
        let mut values: Vec<u64> = Vec::new();
        for op in &block.ops {
            let of = |value: Value| values[usize::from(value.0)];
            let result = match *op {
                Op::Const { bits, .. } => bits,
                Op::Get { register } => registers[usize::from(register.0)],
                Op::Put { register, value } => {
                    registers[usize::from(register.0)] = of(value);
                    0
                }
                Op::Binary { op, ty, a, b } => interpret::binary(op, ty, of(a), of(b)),
                Op::Truncate { to, a, .. } => of(a) & to.mask(),
                Op::Extend { signed: true, from, a, .. } => interpret::sign_extend(from, of(a)),
                other => panic!("no such operation was asked for: {other:?}"),
            };
            values.push(result);
        }
        registers
    }

    proptest! {
        #[test]
        fn nothing_changes_but_the_length(
            instructions in prop::collection::vec(any::<(usize, usize, usize, usize)>(), 1..24),
            registers in any::<[u64; REGISTERS]>(),
        ) {
            let block = block(&instructions);
            let shorter = Builder::for_region::<Riscv64>(&block);
            verify::<Riscv64>(&shorter).unwrap();
            prop_assert_eq!(execute(&block, registers), execute(&shorter, registers));
        }
    }

    fn simplified(text: &str) -> String {
        let names = GuestNames::<Riscv64>::new();
        let block = parse(text, &names).unwrap();
        Builder::for_region::<Riscv64>(&block).text(names).to_string()
    }

    #[test]
    fn two_shifts_of_a_word_are_a_rotation() {
        let text = "block 0x1000, 4\n0x1000:\n    v0 = get x10\n    v1 = truncate.i64.i32 v0\n    v2 = const.i32 0x7\n    \
                    v3 = shift_left.i32 v1, v2\n    v4 = extend_s.i32.i64 v3\n    v5 = truncate.i64.i32 v0\n    \
                    v6 = const.i32 0x19\n    v7 = shift_right_u.i32 v5, v6\n    v8 = extend_s.i32.i64 v7\n    \
                    v9 = or.i64 v4, v8\n    put x10, v9\njump 0x1004\n";
        let rotation = "block 0x1000, 4\n0x1000:\n    v0 = get x10\n    v1 = truncate.i64.i32 v0\n    v2 = const.i32 0x7\n    \
                        v3 = rotate_left.i32 v1, v2\n    v4 = extend_s.i32.i64 v3\n    put x10, v4\njump 0x1004\n";
        assert_eq!(simplified(text), rotation);
        let less = text.replace("0x19", "0x18");
        assert!(!simplified(&less).contains("rotate"));
    }

    #[test]
    fn words_are_extended_once() {
        let text = "block 0x1000, 4\n0x1000:\n    v0 = get x10\n    v1 = get x11\n    v2 = truncate.i64.i32 v0\n    \
                    v3 = extend_s.i32.i64 v2\n    v4 = truncate.i64.i32 v1\n    v5 = extend_s.i32.i64 v4\n    \
                    v6 = xor.i64 v3, v5\n    v7 = truncate.i64.i32 v6\n    v8 = extend_s.i32.i64 v7\n    \
                    put x12, v8\njump 0x1004\n";
        assert_eq!(simplified(text).matches("extend_s").count(), 2);
        // A sum may have carried out of the word.
        let sum = text.replace("xor", "add");
        assert!(simplified(&sum).contains("v5 = extend_s.i32.i64 v4"), "{}", simplified(&sum));
    }
}
