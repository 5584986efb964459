//! Operations on vectors of 128 bits.
//!
//! A vector is what two adjacent guest registers hold, the first of which has an even number and the lower lanes; each of these can
//! still be read and written by itself. Wider vectors are several of these. Lanes are numbered from the lowest bits. What an operation means is in
//! [`crate::vector`].

use super::{FloatBinaryOp, MemoryMode, Register, Type, Value};

/// Operations on the lanes of two vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LaneOp {
    /// Sum, wrapping.
    Add,
    /// Difference, wrapping.
    Sub,
    /// Low half of the product; lanes of 16 and 32 bits.
    Mul,
    /// High half of the product of signed numbers; lanes of 16 bits.
    MulHighSigned,
    /// High half of the product of unsigned numbers; lanes of 16 bits.
    MulHighUnsigned,
    /// The products of the low halves of lanes, signed; lanes of 64 bits.
    MulLowHalvesSigned,
    /// The products of the low halves of lanes, unsigned; lanes of 64 bits.
    MulLowHalvesUnsigned,
    /// The products of the low halves and of the high halves of lanes, signed, added; lanes of 32 bits.
    MulAddHalves,
    /// Bitwise and; lanes of 64 bits, as all that do not depend on the lane.
    And,
    /// Bitwise or.
    Or,
    /// Bitwise exclusive or.
    Xor,
    /// Bitwise and of the complement of the left operand and the right one.
    NotAnd,
    /// Sum of signed numbers, saturating; lanes of 8 and 16 bits.
    AddSaturatingSigned,
    /// Sum of unsigned numbers, saturating; lanes of 8 and 16 bits.
    AddSaturatingUnsigned,
    /// Difference of signed numbers, saturating; lanes of 8 and 16 bits.
    SubSaturatingSigned,
    /// Difference of unsigned numbers, saturating; lanes of 8 and 16 bits.
    SubSaturatingUnsigned,
    /// Smaller of two signed numbers; lanes of up to 32 bits.
    MinSigned,
    /// Smaller of two unsigned numbers; lanes of up to 32 bits.
    MinUnsigned,
    /// Larger of two signed numbers; lanes of up to 32 bits.
    MaxSigned,
    /// Larger of two unsigned numbers; lanes of up to 32 bits.
    MaxUnsigned,
    /// Mean of two unsigned numbers, rounded up; lanes of 8 and 16 bits.
    Average,
    /// All ones where lanes are equal, else zero.
    Equal,
    /// All ones where the left lane is greater, signed, else zero.
    GreaterSigned,
    /// The lanes of both operands, left ones first, as signed numbers of half the width, saturating; lanes of 16 and 32 bits.
    NarrowSigned,
    /// The same, as unsigned numbers.
    NarrowUnsigned,
    /// Bytes of the left operand, numbered by the low four bits of those of the right one; zero where its highest bit is set. Lanes
    /// of 8 bits.
    Permute,
}

impl LaneOp {
    /// The operation is defined for lanes of a type.
    pub fn takes(self, lane: Type) -> bool {
        use LaneOp::*;
        match self {
            Add | Sub | Equal | GreaterSigned => lane.is_integer(),
            Mul | NarrowSigned | NarrowUnsigned => matches!(lane, Type::I16 | Type::I32),
            MulHighSigned | MulHighUnsigned => lane == Type::I16,
            MulAddHalves => lane == Type::I32,
            MulLowHalvesSigned | MulLowHalvesUnsigned | And | Or | Xor | NotAnd => lane == Type::I64,
            AddSaturatingSigned | AddSaturatingUnsigned | SubSaturatingSigned | SubSaturatingUnsigned | Average => {
                matches!(lane, Type::I8 | Type::I16)
            }
            MinSigned | MinUnsigned | MaxSigned | MaxUnsigned => {
                matches!(lane, Type::I8 | Type::I16 | Type::I32)
            }
            Permute => lane == Type::I8,
        }
    }
}

/// Shifts of all lanes by one count. A count of the width or more shifts everything out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LaneShift {
    /// Towards the high bits.
    Left,
    /// Towards the low bits, filling with zeroes.
    RightUnsigned,
    /// Towards the low bits, filling with the sign; lanes of 16 and 32 bits.
    RightSigned,
}

/// A choice among the bytes of two vectors that is known when code is translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shuffle {
    /// The lower halves' lanes in alternation, the left operand's first.
    InterleaveLow(Type),
    /// The upper halves' lanes.
    InterleaveHigh(Type),
    /// Four lanes of 32 bits: two of the left operand, then two of the right one, by two bits of the control each.
    Words(u8),
    /// Two lanes of 64 bits: one of the left operand, then one of the right one, by one bit of the control each.
    Doubles(u8),
    /// Of the left operand, the lower four lanes of 16 bits chosen among themselves, by two bits of the control each.
    LowHalves(u8),
    /// The same of the upper four.
    HighHalves(u8),
    /// Sixteen bytes from this one on, up to 16, of the left operand followed by the right one.
    Align(u8),
    /// Lanes of 16 bits: the right operand's where a bit of the control is set, else the left one's.
    Blend(u8),
}

impl Shuffle {
    /// The number of each byte of the result: 0 to 15 in the left operand, 16 to 31 in the right one.
    pub fn bytes(self) -> [u8; 16] {
        let lanes = |bytes: u8, lane: &dyn Fn(u8) -> u8| {
            std::array::from_fn(|byte| lane(byte as u8 / bytes) * bytes + byte as u8 % bytes)
        };
        match self {
            Shuffle::InterleaveLow(ty) | Shuffle::InterleaveHigh(ty) => {
                let bytes = (ty.bits() / 8) as u8;
                let count = 16 / bytes;
                let first = if matches!(self, Shuffle::InterleaveHigh(_)) { count / 2 } else { 0 };
                lanes(bytes, &|lane| first + lane / 2 + lane % 2 * count)
            }
            Shuffle::Words(control) => lanes(4, &|lane| (control >> (2 * lane) & 3) + lane / 2 * 4),
            Shuffle::Doubles(control) => lanes(8, &|lane| (control >> lane & 1) + lane * 2),
            Shuffle::LowHalves(control) => lanes(2, &|lane| if lane < 4 { control >> (2 * lane) & 3 } else { lane }),
            Shuffle::HighHalves(control) => {
                lanes(2, &|lane| if lane < 4 { lane } else { 4 + (control >> (2 * (lane - 4)) & 3) })
            }
            Shuffle::Align(first) => lanes(1, &|byte| first + byte),
            Shuffle::Blend(control) => lanes(2, &|lane| if control >> lane & 1 != 0 { lane + 8 } else { lane }),
        }
    }
}

/// An operation on vectors.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum VectorOp {
    /// The vector in a guest register and the one behind it.
    Get {
        /// The first.
        register: Register,
    },
    /// Sets a guest register and the one behind it. No result.
    Put {
        /// The first.
        register: Register,
        /// V128.
        value: Value,
    },
    /// Loads 16 bytes, whose address need not be aligned. Can raise.
    Load {
        /// Translation regime.
        mode: MemoryMode,
        /// I64 guest-virtual address.
        address: Value,
        /// Added to the address.
        offset: i32,
    },
    /// Stores 16 bytes; nothing if that raises. No result.
    Store {
        /// Translation regime.
        mode: MemoryMode,
        /// I64 guest-virtual address.
        address: Value,
        /// Added to the address.
        offset: i32,
        /// V128.
        value: Value,
    },
    /// A vector of two I64.
    FromHalves {
        /// The lower.
        low: Value,
        /// The upper.
        high: Value,
    },
    /// One lane.
    Extract {
        /// Type of the lane and the result.
        lane: Type,
        /// Which.
        index: u8,
        /// V128.
        a: Value,
    },
    /// A vector with one lane replaced.
    Insert {
        /// Type of the lane.
        lane: Type,
        /// Which.
        index: u8,
        /// V128.
        a: Value,
        /// The lane's new value.
        value: Value,
    },
    /// The same value in all lanes.
    Splat {
        /// Type of the lanes.
        lane: Type,
        /// Value of that type.
        value: Value,
    },
    /// Two vectors, lane by lane.
    Lanes {
        /// What.
        op: LaneOp,
        /// Type of the lanes.
        lane: Type,
        /// Left operand.
        a: Value,
        /// Right operand.
        b: Value,
    },
    /// Shift of all lanes.
    Shift {
        /// What.
        op: LaneShift,
        /// Type of the lanes, of 16 bits or more.
        lane: Type,
        /// V128.
        a: Value,
        /// I64.
        count: Value,
    },
    /// Chosen bytes.
    Shuffle {
        /// Which.
        shuffle: Shuffle,
        /// Left operand.
        a: Value,
        /// Right operand.
        b: Value,
    },
    /// The lower half's lanes with twice the width.
    Widen {
        /// Fill with the sign bit instead of zeroes.
        signed: bool,
        /// Type of the lanes before, of up to 32 bits.
        lane: Type,
        /// V128.
        a: Value,
    },
    /// I64: the highest bits of all lanes, the lowest lane's lowest.
    Mask {
        /// Type of the lanes; not I16.
        lane: Type,
        /// V128.
        a: Value,
    },
    /// Floating-point arithmetic on lanes.
    Float {
        /// What.
        op: FloatBinaryOp,
        /// Type of the lanes.
        lane: Type,
        /// Left operand.
        a: Value,
        /// Right operand.
        b: Value,
    },
    /// The lanes' square roots.
    SquareRoot {
        /// Type of the lanes.
        lane: Type,
        /// V128.
        a: Value,
    },
}

impl VectorOp {
    /// Type of the result; `None` for operations without one.
    pub fn result(&self) -> Option<Type> {
        match *self {
            VectorOp::Put { .. } | VectorOp::Store { .. } => None,
            VectorOp::Extract { lane, .. } => Some(lane),
            VectorOp::Mask { .. } => Some(Type::I64),
            _ => Some(Type::V128),
        }
    }

    /// True for memory accesses.
    pub fn can_raise(&self) -> bool {
        matches!(self, VectorOp::Load { .. } | VectorOp::Store { .. })
    }

    /// The operation does nothing but compute its result; exception flags of arithmetic are more than that.
    pub fn is_pure(&self) -> bool {
        !matches!(
            self,
            VectorOp::Put { .. }
                | VectorOp::Load { .. }
                | VectorOp::Store { .. }
                | VectorOp::Float { .. }
                | VectorOp::SquareRoot { .. }
        )
    }

    /// Replaces every operand.
    pub(crate) fn map_operands(&mut self, mut map: impl FnMut(Value) -> Value) {
        let mut set = |values: &mut [&mut Value]| {
            for value in values {
                **value = map(**value);
            }
        };
        match self {
            VectorOp::Get { .. } => {}
            VectorOp::Put { value, .. } | VectorOp::Splat { value, .. } => set(&mut [value]),
            VectorOp::Load { address, .. } => set(&mut [address]),
            VectorOp::Store { address, value, .. } => set(&mut [address, value]),
            VectorOp::FromHalves { low, high } => set(&mut [low, high]),
            VectorOp::Extract { a, .. }
            | VectorOp::Widen { a, .. }
            | VectorOp::Mask { a, .. }
            | VectorOp::SquareRoot { a, .. } => set(&mut [a]),
            VectorOp::Insert { a, value, .. } => set(&mut [a, value]),
            VectorOp::Shift { a, count, .. } => set(&mut [a, count]),
            VectorOp::Lanes { a, b, .. } | VectorOp::Shuffle { a, b, .. } | VectorOp::Float { a, b, .. } => {
                set(&mut [a, b])
            }
        }
    }
}
