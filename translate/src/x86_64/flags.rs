//! The arithmetic flags, which are computed when something asks for them.
//!
//! An instruction leaves in three registers what its flags can be computed from: a [`Kind`] (which operation, how wide) and two
//! operands, of which only the low bits of that width count.

use crate::ir::Type;

/// Carry.
pub const CF: u64 = 1 << 0;
/// Even parity of the low byte.
pub const PF: u64 = 1 << 2;
/// Carry out of bit 3.
pub const AF: u64 = 1 << 4;
/// Zero.
pub const ZF: u64 = 1 << 6;
/// Sign.
pub const SF: u64 = 1 << 7;
/// Overflow.
pub const OF: u64 = 1 << 11;
/// The arithmetic flags.
pub const ARITHMETIC: u64 = CF | PF | AF | ZF | SF | OF;

/// Those that a result alone does not tell.
pub const NOT_OF_RESULT: u64 = CF | AF | OF;

/// Which operation set the flags, as far as that matters to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Family {
    /// Not computed from anything: A holds the flags in their places in RFLAGS.
    Explicit = 0,
    /// A + B.
    Add = 1,
    /// A + B + 1. Must follow `Add`, so that a carry can be added to its number.
    AddCarry = 2,
    /// A - B.
    Sub = 3,
    /// A - B - 1. Must follow `Sub`.
    SubBorrow = 4,
    /// A is the result, CF and OF are clear.
    Logic = 5,
    /// A is the result, B is CF, OF is clear.
    LogicCarry = 6,
    /// A is the result of adding 1, B is CF.
    Increment = 7,
    /// A is the result of subtracting 1, B is CF.
    Decrement = 8,
    /// A is the result, B the value before the last step of the shift.
    ShiftLeft = 9,
    /// A is the result, B the value before the last step of the shift.
    ShiftRight = 10,
    /// A is the result, B the value before the last step of the shift.
    ShiftRightSigned = 11,
    /// A is the low half of the product; B is not zero if that is not all of it.
    Multiply = 12,
    /// A is the result, B holds CF, AF and OF in their places.
    Result = 13,
}

const FAMILIES: [Family; 14] = [
    Family::Explicit,
    Family::Add,
    Family::AddCarry,
    Family::Sub,
    Family::SubBorrow,
    Family::Logic,
    Family::LogicCarry,
    Family::Increment,
    Family::Decrement,
    Family::ShiftLeft,
    Family::ShiftRight,
    Family::ShiftRightSigned,
    Family::Multiply,
    Family::Result,
];

const WIDTHS: [Type; 4] = [Type::I8, Type::I16, Type::I32, Type::I64];

/// An operation and its width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// The operation.
    pub family: Family,
    /// Width of its operands.
    pub ty: Type,
}

impl Kind {
    /// [`Family::Explicit`].
    pub const EXPLICIT: Kind = Kind { family: Family::Explicit, ty: Type::I8 };

    /// How the register [`super::registers::FLAGS_KIND`] holds it.
    pub fn encode(self) -> u64 {
        let width = WIDTHS.iter().position(|ty| *ty == self.ty).unwrap_or(0) as u64;
        self.family as u64 * Kind::FAMILY_STEP + width
    }

    /// Distance between the encodings of one family and the next.
    pub const FAMILY_STEP: u64 = 4;

    fn decode(word: u64) -> Kind {
        let family = FAMILIES.get((word / Kind::FAMILY_STEP) as usize).copied().unwrap_or(Family::Explicit);
        Kind { family, ty: WIDTHS[(word % Kind::FAMILY_STEP) as usize] }
    }
}

/// ZF, SF and PF of a result.
pub fn of_result(ty: Type, result: u64) -> u64 {
    let result = result & ty.mask();
    let zero = if result == 0 { ZF } else { 0 };
    let sign = if result >> (ty.bits() - 1) != 0 { SF } else { 0 };
    zero | sign | parity(result)
}

fn parity(result: u64) -> u64 {
    if (result as u8).count_ones().is_multiple_of(2) { PF } else { 0 }
}

/// A flag that is set if the bit is 1.
pub(super) fn flag_if(bit: u64, flag: u64) -> u64 {
    if bit != 0 { flag } else { 0 }
}

/// The arithmetic flags, in their places in RFLAGS.
pub fn compute(kind: u64, a: u64, b: u64) -> u64 {
    let Kind { family, ty } = Kind::decode(kind);
    let top = |value: u64| value >> (ty.bits() - 1) & 1;
    // `carries` has a one at each position out of which there was a carry (or borrow).
    let sum = |result: u64, carries: u64, overflow: u64| {
        let carry = flag_if(top(carries), CF) | flag_if(carries >> 3 & 1, AF) | flag_if(top(overflow), OF);
        of_result(ty, result) | carry
    };
    match family {
        Family::Explicit => a & ARITHMETIC,
        Family::Add | Family::AddCarry => {
            let result = a.wrapping_add(b).wrapping_add(u64::from(family == Family::AddCarry));
            sum(result, (a & b) | ((a | b) & !result), (a ^ result) & (b ^ result))
        }
        Family::Sub | Family::SubBorrow => {
            let result = a.wrapping_sub(b).wrapping_sub(u64::from(family == Family::SubBorrow));
            sum(result, (!a & b) | ((!a | b) & result), (a ^ b) & (a ^ result))
        }
        Family::Logic => of_result(ty, a),
        Family::LogicCarry => of_result(ty, a) | if b != 0 { CF } else { 0 },
        Family::Increment => {
            let half = if a & 0xf == 0 { AF } else { 0 };
            let overflow = if a & ty.mask() == 1 << (ty.bits() - 1) { OF } else { 0 };
            of_result(ty, a) | half | overflow | if b != 0 { CF } else { 0 }
        }
        Family::Decrement => {
            let half = if a & 0xf == 0xf { AF } else { 0 };
            let overflow = if a & ty.mask() == ty.mask() >> 1 { OF } else { 0 };
            of_result(ty, a) | half | overflow | if b != 0 { CF } else { 0 }
        }
        Family::ShiftLeft => of_result(ty, a) | flag_if(top(b), CF) | flag_if(top(a) ^ top(b), OF),
        Family::ShiftRight => of_result(ty, a) | flag_if(b & 1, CF) | flag_if(top(a) ^ top(b), OF),
        Family::ShiftRightSigned => of_result(ty, a) | flag_if(b & 1, CF),
        Family::Multiply => of_result(ty, a) | if b != 0 { CF | OF } else { 0 },
        Family::Result => of_result(ty, a) | b & NOT_OF_RESULT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(family: Family, ty: Type, a: u64, b: u64) -> u64 {
        compute(Kind { family, ty }.encode(), a, b)
    }

    #[test]
    fn sums_and_differences_have_the_manuals_flags() {
        assert_eq!(flags(Family::Add, Type::I8, 0xff, 1), CF | PF | AF | ZF);
        assert_eq!(flags(Family::Add, Type::I8, 0x7f, 1), AF | SF | OF);
        assert_eq!(flags(Family::AddCarry, Type::I32, 0xffff_ffff, 0), CF | PF | AF | ZF);
        assert_eq!(flags(Family::Sub, Type::I16, 0, 1), CF | PF | AF | SF);
        assert_eq!(flags(Family::Sub, Type::I64, 1 << 63, 1), PF | AF | OF);
        assert_eq!(flags(Family::SubBorrow, Type::I8, 5, 4), PF | ZF);
        // Bits above the width do not count.
        assert_eq!(flags(Family::Sub, Type::I8, 0x1_05, 0x2_05), PF | ZF);
    }

    #[test]
    fn increments_keep_carry() {
        assert_eq!(flags(Family::Increment, Type::I8, 0, 1), CF | PF | AF | ZF);
        assert_eq!(flags(Family::Increment, Type::I8, 0x80, 0), SF | AF | OF);
        assert_eq!(flags(Family::Decrement, Type::I8, 0x7f, 0), AF | OF);
    }

    #[test]
    fn shifts_carry_out_the_last_bit() {
        assert_eq!(flags(Family::ShiftLeft, Type::I8, 0x02, 0x81), CF | OF);
        assert_eq!(flags(Family::ShiftRight, Type::I8, 0x40, 0x81), CF | OF);
        assert_eq!(flags(Family::ShiftRightSigned, Type::I8, 0xc0, 0x81), CF | PF | SF);
    }

    #[test]
    fn some_flags_may_be_kept_beside_a_result() {
        assert_eq!(flags(Family::Result, Type::I16, 0x1_0000, CF | AF | OF), CF | PF | AF | ZF | OF);
        // Others come from the result.
        assert_eq!(flags(Family::Result, Type::I8, 0x80, ZF | PF), SF);
    }
}
