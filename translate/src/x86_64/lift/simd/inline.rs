//! Common integer operations on lanes, as operations on whole parts.

use iced_x86::Mnemonic;

use crate::ir::{BinaryOp, Comparison, Type, UnaryOp, Value};

use super::super::Lifter;

/// An operation on the lanes of two parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LaneOperation {
    Add,
    Subtract,
    Equal,
    MinUnsigned,
    MaxUnsigned,
}

fn lane_operation(mnemonic: Mnemonic) -> Option<(LaneOperation, u32)> {
    use LaneOperation as L;
    use Mnemonic as M;
    Some(match mnemonic {
        M::Paddb | M::Vpaddb => (L::Add, 8),
        M::Paddw | M::Vpaddw => (L::Add, 16),
        M::Paddd | M::Vpaddd => (L::Add, 32),
        M::Paddq | M::Vpaddq => (L::Add, 64),
        M::Psubb | M::Vpsubb => (L::Subtract, 8),
        M::Psubw | M::Vpsubw => (L::Subtract, 16),
        M::Psubd | M::Vpsubd => (L::Subtract, 32),
        M::Psubq | M::Vpsubq => (L::Subtract, 64),
        M::Pcmpeqb | M::Vpcmpeqb => (L::Equal, 8),
        M::Pcmpeqw | M::Vpcmpeqw => (L::Equal, 16),
        M::Pcmpeqd | M::Vpcmpeqd => (L::Equal, 32),
        M::Pcmpeqq | M::Vpcmpeqq => (L::Equal, 64),
        M::Pminub | M::Vpminub => (L::MinUnsigned, 8),
        M::Pmaxub | M::Vpmaxub => (L::MaxUnsigned, 8),
        _ => return None,
    })
}

/// A shift of lanes by one count: the operation and the lanes' width.
fn lane_shift(mnemonic: Mnemonic) -> Option<(BinaryOp, u32)> {
    use Mnemonic as M;
    Some(match mnemonic {
        M::Psllw | M::Vpsllw => (BinaryOp::ShiftLeft, 16),
        M::Pslld | M::Vpslld => (BinaryOp::ShiftLeft, 32),
        M::Psllq | M::Vpsllq => (BinaryOp::ShiftLeft, 64),
        M::Psrlw | M::Vpsrlw => (BinaryOp::ShiftRightUnsigned, 16),
        M::Psrld | M::Vpsrld => (BinaryOp::ShiftRightUnsigned, 32),
        M::Psrlq | M::Vpsrlq => (BinaryOp::ShiftRightUnsigned, 64),
        _ => return None,
    })
}

/// All bits of a lane.
fn lane_mask(width: u32) -> u64 {
    u64::MAX >> (64 - width)
}

/// The same value in each lane.
fn in_all_lanes(width: u32, value: u64) -> u64 {
    value * (u64::MAX / lane_mask(width))
}

impl Lifter {
    fn and(&mut self, a: Value, b: Value) -> Value {
        self.b.binary(BinaryOp::And, Type::I64, a, b)
    }

    fn or(&mut self, a: Value, b: Value) -> Value {
        self.b.binary(BinaryOp::Or, Type::I64, a, b)
    }

    fn xor(&mut self, a: Value, b: Value) -> Value {
        self.b.binary(BinaryOp::Xor, Type::I64, a, b)
    }

    fn not(&mut self, a: Value) -> Value {
        self.b.unary(UnaryOp::Not, Type::I64, a)
    }

    /// Lanes all of whose bits are that lane's highest bit.
    fn fill_lanes(&mut self, width: u32, highest: Value) -> Value {
        let (down, up) = (self.constant(u64::from(width) - 1), self.constant(u64::from(width)));
        let lowest = self.b.binary(BinaryOp::ShiftRightUnsigned, Type::I64, highest, down);
        // Each lane's one becomes 2^width - 1.
        let next = self.b.binary(BinaryOp::ShiftLeft, Type::I64, lowest, up);
        self.b.binary(BinaryOp::Sub, Type::I64, next, lowest)
    }

    /// The result of a lanewise instruction on two parts; none if it is not one of the common ones.
    pub(super) fn lanes_inline(&mut self, mnemonic: Mnemonic, a: Value, b: Value) -> Option<Value> {
        let (operation, width) = lane_operation(mnemonic)?;
        if width == 64 {
            return Some(match operation {
                LaneOperation::Add => self.b.add(a, b),
                LaneOperation::Subtract => self.b.binary(BinaryOp::Sub, Type::I64, a, b),
                _ => {
                    let equal = self.b.compare(Comparison::Equal, Type::I64, a, b);
                    let equal = self.b.zero_extend(Type::I8, Type::I64, equal);
                    self.b.unary(UnaryOp::Negate, Type::I64, equal)
                }
            });
        }
        let highest_bits = in_all_lanes(width, 1 << (width - 1));
        let (highest, lower) = (self.constant(highest_bits), self.constant(!highest_bits));
        Some(match operation {
            LaneOperation::Add => {
                // Without the highest bits nothing is carried into the next lane.
                let (low_a, low_b) = (self.and(a, lower), self.and(b, lower));
                let sum = self.b.add(low_a, low_b);
                let carryless = self.xor(a, b);
                let carryless = self.and(carryless, highest);
                self.xor(sum, carryless)
            }
            LaneOperation::Subtract => {
                let difference = self.difference_of_lanes(a, b, highest, lower);
                let differ = self.xor(a, b);
                let alike = self.not(differ);
                let alike = self.and(alike, highest);
                self.xor(difference, alike)
            }
            LaneOperation::Equal => {
                let differ = self.xor(a, b);
                let low = self.and(differ, lower);
                let carried = self.b.add(low, lower);
                let any = self.or(carried, differ);
                let none = self.not(any);
                let equal = self.and(none, highest);
                self.fill_lanes(width, equal)
            }
            LaneOperation::MinUnsigned | LaneOperation::MaxUnsigned => {
                // The highest bit of a lane: a is not below b.
                let difference = self.difference_of_lanes(a, b, highest, lower);
                let not_b = self.not(b);
                let larger = self.and(a, not_b);
                let differ = self.xor(a, b);
                let alike = self.not(differ);
                let decided_below = self.and(alike, difference);
                let not_below = self.or(larger, decided_below);
                let not_below = self.and(not_below, highest);
                let chosen = self.fill_lanes(width, not_below);
                let from_a = self.and(differ, chosen);
                // b, with a's bits where a is chosen; or the other way round.
                let base = if operation == LaneOperation::MaxUnsigned { b } else { a };
                self.xor(base, from_a)
            }
        })
    }

    /// The difference of the lanes' lower bits, with a one in the highest bit that is borrowed from.
    fn difference_of_lanes(&mut self, a: Value, b: Value, highest: Value, lower: Value) -> Value {
        let (high_a, low_b) = (self.or(a, highest), self.and(b, lower));
        self.b.binary(BinaryOp::Sub, Type::I64, high_a, low_b)
    }

    /// A part, all of whose lanes are shifted by an immediate; none if the instruction is another.
    pub(super) fn shift_lanes_inline(&mut self, mnemonic: Mnemonic, a: Value, count: u32) -> Option<Value> {
        let (op, width) = lane_shift(mnemonic)?;
        if count >= width {
            return Some(self.constant(0));
        }
        let by = self.constant(count.into());
        let shifted = self.b.binary(op, Type::I64, a, by);
        let mask = lane_mask(width);
        let stays = if op == BinaryOp::ShiftLeft { mask << count & mask } else { mask >> count };
        let stays = self.constant(in_all_lanes(width, stays));
        Some(self.and(shifted, stays))
    }
}
