//! How operations, registers and helpers are called in the text form.

use std::marker::PhantomData;

use super::*;
use crate::guest::Guest;

/// Names of a guest's registers and helpers.
pub trait Names {
    /// Name of a register; `None` if there is no such register.
    fn register(&self, register: Register) -> Option<&'static str>;
    /// The register of this name.
    fn find_register(&self, name: &str) -> Option<Register>;
    /// Name of a helper and how many arguments it takes; `None` if there is no such helper.
    fn helper(&self, helper: HelperId) -> Option<(&'static str, usize)>;
    /// The helper of this name.
    fn find_helper(&self, name: &str) -> Option<HelperId>;
}

/// The names in a guest's tables.
#[derive(Clone, Copy, Debug)]
pub struct GuestNames<G>(PhantomData<fn() -> G>);

impl<G: Guest> GuestNames<G> {
    /// The names in the tables of `G`.
    pub fn new() -> GuestNames<G> {
        GuestNames(PhantomData)
    }
}

impl<G: Guest> Default for GuestNames<G> {
    fn default() -> GuestNames<G> {
        GuestNames::new()
    }
}

impl<G: Guest> Names for GuestNames<G> {
    fn register(&self, register: Register) -> Option<&'static str> {
        G::REGISTERS.get(usize::from(register.0)).copied()
    }

    fn find_register(&self, name: &str) -> Option<Register> {
        let number = G::REGISTERS.iter().position(|known| *known == name)?;
        Some(Register(u8::try_from(number).ok()?))
    }

    fn helper(&self, helper: HelperId) -> Option<(&'static str, usize)> {
        G::HELPERS.get(usize::from(helper.0)).map(|helper| (helper.name, helper.arguments))
    }

    fn find_helper(&self, name: &str) -> Option<HelperId> {
        let number = G::HELPERS.iter().position(|known| known.name == name)?;
        Some(HelperId(u16::try_from(number).ok()?))
    }
}

/// No names: registers are `r17` and helpers `helper3`, as are those that another set of names lacks.
#[derive(Clone, Copy, Debug)]
pub struct Numbers;

impl Names for Numbers {
    fn register(&self, _register: Register) -> Option<&'static str> {
        None
    }

    fn find_register(&self, _name: &str) -> Option<Register> {
        None
    }

    fn helper(&self, _helper: HelperId) -> Option<(&'static str, usize)> {
        None
    }

    fn find_helper(&self, _name: &str) -> Option<HelperId> {
        None
    }
}

/// A table of names, read both ways.
pub(super) type Table<T> = [(&'static str, T)];

pub(super) fn name_of<T: Copy + PartialEq>(table: &Table<T>, value: T) -> &'static str {
    table.iter().find(|(_, known)| *known == value).map_or("?", |(name, _)| name)
}

pub(super) fn find<T: Copy>(table: &Table<T>, name: &str) -> Option<T> {
    table.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
}

pub(super) const TYPES: &Table<Type> = &[
    ("i8", Type::I8),
    ("i16", Type::I16),
    ("i32", Type::I32),
    ("i64", Type::I64),
    ("f32", Type::F32),
    ("f64", Type::F64),
    ("v128", Type::V128),
];

pub(super) const WIDTHS: &Table<Width> =
    &[("byte", Width::Byte), ("half", Width::Half), ("word", Width::Word), ("double", Width::Double)];

pub(super) const BINARY: &Table<BinaryOp> = &[
    ("add", BinaryOp::Add),
    ("sub", BinaryOp::Sub),
    ("mul", BinaryOp::Mul),
    ("mul_high_s", BinaryOp::MulHighSigned),
    ("mul_high_u", BinaryOp::MulHighUnsigned),
    ("div_s", BinaryOp::DivSigned),
    ("div_u", BinaryOp::DivUnsigned),
    ("rem_s", BinaryOp::RemSigned),
    ("rem_u", BinaryOp::RemUnsigned),
    ("and", BinaryOp::And),
    ("or", BinaryOp::Or),
    ("xor", BinaryOp::Xor),
    ("shift_left", BinaryOp::ShiftLeft),
    ("shift_right_u", BinaryOp::ShiftRightUnsigned),
    ("shift_right_s", BinaryOp::ShiftRightSigned),
    ("rotate_left", BinaryOp::RotateLeft),
    ("rotate_right", BinaryOp::RotateRight),
    ("min_s", BinaryOp::MinSigned),
    ("min_u", BinaryOp::MinUnsigned),
    ("max_s", BinaryOp::MaxSigned),
    ("max_u", BinaryOp::MaxUnsigned),
];

pub(super) const UNARY: &Table<UnaryOp> = &[
    ("not", UnaryOp::Not),
    ("negate", UnaryOp::Negate),
    ("leading_zeros", UnaryOp::CountLeadingZeros),
    ("trailing_zeros", UnaryOp::CountTrailingZeros),
    ("population_count", UnaryOp::PopulationCount),
    ("byte_swap", UnaryOp::ByteSwap),
];

pub(super) const COMPARISONS: &Table<Comparison> = &[
    ("equal", Comparison::Equal),
    ("not_equal", Comparison::NotEqual),
    ("less_s", Comparison::LessSigned),
    ("less_u", Comparison::LessUnsigned),
    ("less_equal_s", Comparison::LessEqualSigned),
    ("less_equal_u", Comparison::LessEqualUnsigned),
];

pub(super) const FLOAT_BINARY: &Table<FloatBinaryOp> = &[
    ("float_add", FloatBinaryOp::Add),
    ("float_sub", FloatBinaryOp::Sub),
    ("float_mul", FloatBinaryOp::Mul),
    ("float_div", FloatBinaryOp::Div),
];

pub(super) const FLOAT_COMPARISONS: &Table<FloatComparison> = &[
    ("float_equal", FloatComparison::Equal),
    ("float_less", FloatComparison::Less),
    ("float_less_quiet", FloatComparison::LessQuiet),
    ("float_less_equal", FloatComparison::LessEqual),
    ("float_unordered", FloatComparison::Unordered),
];

pub(super) const ATOMIC: &Table<AtomicOp> = &[
    ("atomic_exchange", AtomicOp::Exchange),
    ("atomic_add", AtomicOp::Add),
    ("atomic_and", AtomicOp::And),
    ("atomic_or", AtomicOp::Or),
    ("atomic_xor", AtomicOp::Xor),
    ("atomic_min_s", AtomicOp::MinSigned),
    ("atomic_min_u", AtomicOp::MinUnsigned),
    ("atomic_max_s", AtomicOp::MaxSigned),
    ("atomic_max_u", AtomicOp::MaxUnsigned),
];

pub(super) const LANE_OPS: &Table<LaneOp> = &[
    ("add", LaneOp::Add),
    ("sub", LaneOp::Sub),
    ("mul", LaneOp::Mul),
    ("mul_high_s", LaneOp::MulHighSigned),
    ("mul_high_u", LaneOp::MulHighUnsigned),
    ("mul_low_halves_s", LaneOp::MulLowHalvesSigned),
    ("mul_low_halves_u", LaneOp::MulLowHalvesUnsigned),
    ("mul_add_halves", LaneOp::MulAddHalves),
    ("and", LaneOp::And),
    ("or", LaneOp::Or),
    ("xor", LaneOp::Xor),
    ("not_and", LaneOp::NotAnd),
    ("add_saturating_s", LaneOp::AddSaturatingSigned),
    ("add_saturating_u", LaneOp::AddSaturatingUnsigned),
    ("sub_saturating_s", LaneOp::SubSaturatingSigned),
    ("sub_saturating_u", LaneOp::SubSaturatingUnsigned),
    ("min_s", LaneOp::MinSigned),
    ("min_u", LaneOp::MinUnsigned),
    ("max_s", LaneOp::MaxSigned),
    ("max_u", LaneOp::MaxUnsigned),
    ("average", LaneOp::Average),
    ("equal", LaneOp::Equal),
    ("greater_s", LaneOp::GreaterSigned),
    ("narrow_s", LaneOp::NarrowSigned),
    ("narrow_u", LaneOp::NarrowUnsigned),
    ("permute", LaneOp::Permute),
];

pub(super) const LANE_SHIFTS: &Table<LaneShift> = &[
    ("shift_left", LaneShift::Left),
    ("shift_right_u", LaneShift::RightUnsigned),
    ("shift_right_s", LaneShift::RightSigned),
];

/// Shuffles that lanes of some type are given to.
pub(super) const INTERLEAVES: &Table<fn(Type) -> Shuffle> =
    &[("interleave_low", Shuffle::InterleaveLow), ("interleave_high", Shuffle::InterleaveHigh)];

/// Shuffles with a control.
pub(super) const SHUFFLES: &Table<fn(u8) -> Shuffle> = &[
    ("words", Shuffle::Words),
    ("doubles", Shuffle::Doubles),
    ("low_halves", Shuffle::LowHalves),
    ("high_halves", Shuffle::HighHalves),
    ("align", Shuffle::Align),
    ("blend", Shuffle::Blend),
];

pub(super) const INDIRECT_JUMPS: &Table<IndirectJump> =
    &[("plain", IndirectJump::Plain), ("call", IndirectJump::Call), ("return", IndirectJump::Return)];
