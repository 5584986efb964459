//! Compiled code before it has a place: bytes that refer to nothing outside themselves but by way of the [`Context`](crate::cpu::Context),
//! and relocations for the little else. So the same code serves in another generation and in another run of the program.

use crate::ir::HelperId;

/// A function of the host that compiled code calls: a place in the table at [`Context::functions`](crate::cpu::Context::functions).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Function {
    /// Slow paths, which preserve all registers.
    Load,
    Store,
    LoadVector,
    StoreVector,
    ProbeWrite,
    ReadModifyWrite,
    ExchangeIf,
    Reserve,
    StoreIfReserved,
    /// Where blocks of the baseline compiler go on at addresses that only the jump cache knows: known ones and computed ones.
    GoDirect,
    GoIndirect,
    /// As helpers of the guest are called.
    CollectFloatFlags,
    MultiplyAdd32,
    MultiplyAdd64,
    Helper(HelperId),
}

impl Function {
    /// How many there are besides helpers.
    pub(crate) const COUNT: usize = 14;

    /// Its place in the table.
    pub(crate) fn index(self) -> usize {
        match self {
            Function::Load => 0,
            Function::Store => 1,
            Function::LoadVector => 2,
            Function::StoreVector => 3,
            Function::ProbeWrite => 4,
            Function::ReadModifyWrite => 5,
            Function::ExchangeIf => 6,
            Function::Reserve => 7,
            Function::StoreIfReserved => 8,
            Function::GoDirect => 9,
            Function::GoIndirect => 10,
            Function::CollectFloatFlags => 11,
            Function::MultiplyAdd32 => 12,
            Function::MultiplyAdd64 => 13,
            Function::Helper(helper) => Function::COUNT + usize::from(helper.0),
        }
    }

    /// The distance of its entry from the beginning of the table, bytes.
    pub(crate) fn offset(self) -> i32 {
        (size_of::<usize>() * self.index()) as i32
    }
}

/// What a relocated word of code is the address of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// The cell of code in the same page, at a distance in bytes from where this code begins.
    Cell(i16),
    /// The [`Translation`](crate::engine::Translation) that this code is of.
    Translation,
}

/// An absolute address of eight bytes within code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Relocation {
    /// Where in the code it is.
    pub(crate) offset: u32,
    /// What it is.
    pub(crate) target: Target,
}

/// Code that has no place yet.
#[derive(Clone, Debug, Default)]
pub(crate) struct Code {
    /// With anything where relocations are.
    pub(crate) bytes: Vec<u8>,
    /// What is to be filled in.
    pub(crate) relocations: Vec<Relocation>,
}
