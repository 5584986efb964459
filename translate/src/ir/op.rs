//! The operations.

use super::{HelperId, Register, Type, Value, VectorOp};

/// Binary operations on integers of one width; results wrap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BinaryOp {
    /// Sum.
    Add,
    /// Difference.
    Sub,
    /// Low half of the product.
    Mul,
    /// High half of the product of two signed numbers; I64 only.
    MulHighSigned,
    /// High half of the product of two unsigned numbers; I64 only.
    MulHighUnsigned,
    /// Signed quotient, rounded towards zero; x / 0 = 0, MIN / -1 = MIN.
    DivSigned,
    /// Unsigned quotient; x / 0 = 0.
    DivUnsigned,
    /// Signed remainder, with the dividend's sign; x % 0 = x, MIN % -1 = 0.
    RemSigned,
    /// Unsigned remainder; x % 0 = x.
    RemUnsigned,
    /// Bitwise and.
    And,
    /// Bitwise or.
    Or,
    /// Bitwise exclusive or.
    Xor,
    /// Shift towards the high bits; the count is taken modulo the width.
    ShiftLeft,
    /// Shift towards the low bits, filling with zeroes; the count is taken modulo the width.
    ShiftRightUnsigned,
    /// Shift towards the low bits, filling with the sign; the count is taken modulo the width.
    ShiftRightSigned,
    /// Rotation towards the high bits; the count is taken modulo the width.
    RotateLeft,
    /// Rotation towards the low bits; the count is taken modulo the width.
    RotateRight,
    /// Smaller of two signed numbers.
    MinSigned,
    /// Smaller of two unsigned numbers.
    MinUnsigned,
    /// Larger of two signed numbers.
    MaxSigned,
    /// Larger of two unsigned numbers.
    MaxUnsigned,
}

/// Unary operations on integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UnaryOp {
    /// Bitwise complement.
    Not,
    /// Two's complement.
    Negate,
    /// Zero bits above the highest one; the width for zero.
    CountLeadingZeros,
    /// Zero bits below the lowest one; the width for zero.
    CountTrailingZeros,
    /// One bits.
    PopulationCount,
    /// Bytes in reverse order; not for I8.
    ByteSwap,
}

/// Comparisons of integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Comparison {
    /// Equal.
    Equal,
    /// Not equal.
    NotEqual,
    /// Less, signed.
    LessSigned,
    /// Less, unsigned.
    LessUnsigned,
    /// Less or equal, signed.
    LessEqualSigned,
    /// Less or equal, unsigned.
    LessEqualUnsigned,
}

/// Binary arithmetic on floating-point numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FloatBinaryOp {
    /// Sum.
    Add,
    /// Difference.
    Sub,
    /// Product.
    Mul,
    /// Quotient.
    Div,
}

/// Comparisons of floating-point numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FloatComparison {
    /// Equal. Only a signalling NaN raises invalid.
    Equal,
    /// Less. Any NaN raises invalid.
    Less,
    /// Less. Only a signalling NaN raises invalid.
    LessQuiet,
    /// Less or equal. Any NaN raises invalid.
    LessEqual,
    /// One is a NaN. Only a signalling NaN raises invalid.
    Unordered,
}

/// What an atomic read-modify-write makes of the old value and its operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AtomicOp {
    /// The operand.
    Exchange,
    /// The sum.
    Add,
    /// Bitwise and.
    And,
    /// Bitwise or.
    Or,
    /// Bitwise exclusive or.
    Xor,
    /// The smaller, signed.
    MinSigned,
    /// The smaller, unsigned.
    MinUnsigned,
    /// The larger, signed.
    MaxSigned,
    /// The larger, unsigned.
    MaxUnsigned,
}

/// Width of a memory access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Width {
    /// 1 byte.
    Byte,
    /// 2 bytes.
    Half,
    /// 4 bytes.
    Word,
    /// 8 bytes.
    Double,
}

impl Width {
    /// The width in bytes.
    pub fn bytes(self) -> u64 {
        match self {
            Width::Byte => 1,
            Width::Half => 2,
            Width::Word => 4,
            Width::Double => 8,
        }
    }
}

/// Translation regime of a memory access: the number of a soft TLB, whose meaning is the guest's
/// (for riscv64: privilege and the bits of `mstatus` that change what is permitted).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MemoryMode(pub u8);

/// One operation. Operands name earlier operations of the same block.
///
/// Memory is little-endian. Integer loads extend to I64 and integer stores take the low bytes of an I64; accesses need no alignment unless
/// stated. Floating-point arithmetic rounds by the mode in [`crate::cpu::Context`] and accumulates exception flags there; a
/// NaN that an arithmetic operation returns has an unspecified payload.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Op {
    /// A constant. Floating-point constants are given by their bits.
    Const {
        /// Type of the constant.
        ty: Type,
        /// Its bits; those above the type's width are zero.
        bits: u64,
    },
    /// The I64 guest-virtual address at a distance from the block's start. The same code may be mapped at several addresses.
    CodeAddress {
        /// Bytes from the block's start on, backwards too.
        distance: i64,
    },
    /// The I64 value of a guest register.
    Get {
        /// Which.
        register: Register,
    },
    /// Sets a guest register. No result.
    Put {
        /// Which.
        register: Register,
        /// I64.
        value: Value,
    },
    /// Binary integer arithmetic.
    Binary {
        /// What.
        op: BinaryOp,
        /// Type of the operands and the result.
        ty: Type,
        /// Left operand.
        a: Value,
        /// Right operand.
        b: Value,
    },
    /// Unary integer arithmetic.
    Unary {
        /// What.
        op: UnaryOp,
        /// Type of the operand and the result.
        ty: Type,
        /// Operand.
        a: Value,
    },
    /// Integer comparison, giving an I8 truth value.
    Compare {
        /// What.
        op: Comparison,
        /// Type of the operands.
        ty: Type,
        /// Left operand.
        a: Value,
        /// Right operand.
        b: Value,
    },
    /// `a` if the I8 `condition` is not zero, else `b`.
    Select {
        /// Type of `a`, `b` and the result; any type.
        ty: Type,
        /// I8.
        condition: Value,
        /// Result if the condition holds.
        a: Value,
        /// Result if not.
        b: Value,
    },
    /// Widens an integer.
    Extend {
        /// Fill with the sign bit instead of zeroes.
        signed: bool,
        /// Type of the operand.
        from: Type,
        /// Wider type of the result.
        to: Type,
        /// Operand.
        a: Value,
    },
    /// The low bits of an integer.
    Truncate {
        /// Type of the operand.
        from: Type,
        /// Narrower type of the result.
        to: Type,
        /// Operand.
        a: Value,
    },
    /// The same bits under another type of the same width.
    Bitcast {
        /// Type of the operand.
        from: Type,
        /// Type of the result.
        to: Type,
        /// Operand.
        a: Value,
    },
    /// Loads from memory, extending to I64. Can raise.
    Load {
        /// How many bytes.
        width: Width,
        /// Extend with the sign bit instead of zeroes.
        signed: bool,
        /// Translation regime.
        mode: MemoryMode,
        /// I64 guest-virtual address.
        address: Value,
        /// Added to the address.
        offset: i32,
    },
    /// Stores the low bytes of an I64 to memory. No result. Can raise.
    Store {
        /// How many bytes.
        width: Width,
        /// Translation regime.
        mode: MemoryMode,
        /// I64 guest-virtual address.
        address: Value,
        /// Added to the address.
        offset: i32,
        /// I64.
        value: Value,
    },
    /// Before stores of the parts of an operand that may lie in two pages: raises what a write to either page would raise, so that
    /// nothing is stored if anything cannot be. Does nothing if the operand lies within one page. No result. Can raise.
    ProbeWrite {
        /// Bytes of the whole operand, less than a page.
        bytes: u8,
        /// Translation regime.
        mode: MemoryMode,
        /// I64 guest-virtual address.
        address: Value,
        /// Added to the address.
        offset: i32,
    },
    /// Atomic read-modify-write, sequentially consistent; gives the old value, sign-extended to I64. Where the address is not a multiple of
    /// the width, it may not be atomic. Can raise, as a store does.
    AtomicReadModifyWrite {
        /// What.
        op: AtomicOp,
        /// How many bytes.
        width: Width,
        /// Translation regime.
        mode: MemoryMode,
        /// I64 guest-virtual address.
        address: Value,
        /// I64 operand, of which the low bytes count.
        value: Value,
    },
    /// Atomic compare and exchange, sequentially consistent; gives the old value, sign-extended to I64. As above, where it is not
    /// aligned. Can raise, as a store does.
    AtomicCompareExchange {
        /// How many bytes.
        width: Width,
        /// Translation regime.
        mode: MemoryMode,
        /// I64 guest-virtual address.
        address: Value,
        /// I64 value that memory must hold, of which the low bytes count.
        expected: Value,
        /// I64 value stored then.
        new: Value,
    },
    /// Loads and takes the processor's reservation on the address, which must be a multiple of the width (the lifter checks);
    /// sign-extends to I64. Can raise.
    LoadReserved {
        /// [`Width::Word`] or [`Width::Double`].
        width: Width,
        /// Translation regime.
        mode: MemoryMode,
        /// I64 guest-virtual address.
        address: Value,
    },
    /// Stores if the processor holds a reservation on the address and memory still has the value then loaded; gives I64 0 on
    /// success, 1 on failure. Ends the reservation. Aligned, as above. Can raise, as a store does.
    StoreConditional {
        /// [`Width::Word`] or [`Width::Double`].
        width: Width,
        /// Translation regime.
        mode: MemoryMode,
        /// I64 guest-virtual address.
        address: Value,
        /// I64 value to store.
        value: Value,
    },
    /// Orders all earlier memory accesses before all later ones, but for stores before loads, which hosts of total store order need no
    /// instruction for. No result.
    Fence {
        /// It orders earlier stores before later loads, too.
        store_load: bool,
    },
    /// Floating-point arithmetic.
    FloatBinary {
        /// What.
        op: FloatBinaryOp,
        /// F32 or F64.
        ty: Type,
        /// Left operand.
        a: Value,
        /// Right operand.
        b: Value,
    },
    /// Square root.
    FloatSquareRoot {
        /// F32 or F64.
        ty: Type,
        /// Operand.
        a: Value,
    },
    /// The number, or the canonical NaN of the format if it is a NaN, which must be a quiet one.
    FloatCanonical {
        /// F32 or F64.
        ty: Type,
        /// Operand.
        a: Value,
    },
    /// `a * b + c`, rounded once. A NaN is the canonical one, and infinity times zero is an invalid operation even if `c` is a quiet NaN.
    FloatMultiplyAdd {
        /// F32 or F64.
        ty: Type,
        /// Factor.
        a: Value,
        /// Factor.
        b: Value,
        /// Addend.
        c: Value,
    },
    /// Floating-point comparison, giving an I8 truth value; false if unordered, unless that is what was asked.
    FloatCompare {
        /// What.
        op: FloatComparison,
        /// F32 or F64.
        ty: Type,
        /// Left operand.
        a: Value,
        /// Right operand.
        b: Value,
    },
    /// Converts between F32 and F64.
    FloatConvert {
        /// Type of the operand.
        from: Type,
        /// Type of the result.
        to: Type,
        /// Operand.
        a: Value,
    },
    /// Converts a signed integer to floating point.
    IntegerToFloat {
        /// I32 or I64.
        from: Type,
        /// F32 or F64.
        to: Type,
        /// Operand.
        a: Value,
    },
    /// An operation on vectors.
    Vector(VectorOp),
    /// Calls one of the guest's helper functions, giving an I64. Its declared effects say what it may do.
    Helper {
        /// Which.
        helper: HelperId,
        /// I64 each; those beyond the helper's declared number are ignored.
        arguments: [Value; 3],
    },
    /// Raises an exception at this instruction if the I8 `condition` is not zero. No result.
    RaiseIf {
        /// I8.
        condition: Value,
        /// Number of the exception, for [`crate::guest::Guest::raise`].
        exception: u32,
        /// I64: what the architecture reports with it.
        information: Value,
    },
}

impl Op {
    /// Type of the result; `None` for operations without one.
    pub fn result(&self) -> Option<Type> {
        match *self {
            Op::Const { ty, .. }
            | Op::Binary { ty, .. }
            | Op::Unary { ty, .. }
            | Op::Select { ty, .. }
            | Op::FloatBinary { ty, .. }
            | Op::FloatSquareRoot { ty, .. }
            | Op::FloatCanonical { ty, .. }
            | Op::FloatMultiplyAdd { ty, .. } => Some(ty),
            Op::Extend { to, .. }
            | Op::Truncate { to, .. }
            | Op::Bitcast { to, .. }
            | Op::FloatConvert { to, .. }
            | Op::IntegerToFloat { to, .. } => Some(to),
            Op::Compare { .. } | Op::FloatCompare { .. } => Some(Type::I8),
            Op::CodeAddress { .. }
            | Op::Get { .. }
            | Op::Load { .. }
            | Op::AtomicReadModifyWrite { .. }
            | Op::AtomicCompareExchange { .. }
            | Op::LoadReserved { .. }
            | Op::StoreConditional { .. }
            | Op::Helper { .. } => Some(Type::I64),
            Op::Vector(op) => op.result(),
            Op::Put { .. } | Op::Store { .. } | Op::ProbeWrite { .. } | Op::Fence { .. } | Op::RaiseIf { .. } => None,
        }
    }

    /// True for memory accesses and [`Op::RaiseIf`]. A helper can raise if its effects say so.
    pub fn can_raise(&self) -> bool {
        if let Op::Vector(op) = self {
            return op.can_raise();
        }
        matches!(
            self,
            Op::Load { .. }
                | Op::Store { .. }
                | Op::ProbeWrite { .. }
                | Op::AtomicReadModifyWrite { .. }
                | Op::AtomicCompareExchange { .. }
                | Op::LoadReserved { .. }
                | Op::StoreConditional { .. }
                | Op::RaiseIf { .. }
        )
    }
}
