//! Compiled code before it has a place: bytes that refer to nothing outside themselves but by way of the [`Context`](crate::cpu::Context),
//! and relocations for the little else. So the same code serves in another generation and in another run of the program.

use crate::ir::HelperId;

/// A function of the host that compiled code calls: a place in the table at [`Context::functions`](crate::cpu::Context::functions).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Function {
    /// A slow path for blocks of the baseline compiler, which leaves the block by itself if the access does not complete. First in the
    /// table, for short code.
    OfBlock(SlowPath),
    /// A slow path, which preserves all registers.
    Slow(SlowPath),
    /// Through what code goes on at addresses that only the jump cache knows: known ones and computed ones.
    GoDirect,
    GoIndirect,
    /// Through what code goes on behind an instruction that changed what lifted code depends on.
    GoAnew,
    /// As helpers of the guest are called.
    CollectFloatFlags,
    MultiplyAdd32,
    MultiplyAdd64,
    Helper(HelperId),
}

/// Memory accesses, and the like, that are not on the fast path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SlowPath {
    Load,
    Store,
    LoadVector,
    StoreVector,
    ProbeWrite,
    ReadModifyWrite,
    ExchangeIf,
    Reserve,
    StoreIfReserved,
    /// What a multiplication and addition comes to whose result is a NaN: it takes the factors instead of an address and a value.
    NanOfMultiplyAdd,
}

impl SlowPath {
    /// All of them, in order.
    pub(crate) const ALL: [SlowPath; 10] = [
        SlowPath::Load,
        SlowPath::Store,
        SlowPath::LoadVector,
        SlowPath::StoreVector,
        SlowPath::ProbeWrite,
        SlowPath::ReadModifyWrite,
        SlowPath::ExchangeIf,
        SlowPath::Reserve,
        SlowPath::StoreIfReserved,
        SlowPath::NanOfMultiplyAdd,
    ];
}

impl Function {
    /// How many there are besides helpers.
    pub(crate) const COUNT: usize = 2 * SlowPath::ALL.len() + 6;

    /// Its place in the table.
    pub(crate) fn index(self) -> usize {
        match self {
            Function::OfBlock(path) => path as usize,
            Function::GoDirect => SlowPath::ALL.len(),
            Function::GoIndirect => SlowPath::ALL.len() + 1,
            Function::GoAnew => SlowPath::ALL.len() + 2,
            Function::CollectFloatFlags => SlowPath::ALL.len() + 3,
            Function::MultiplyAdd32 => SlowPath::ALL.len() + 4,
            Function::MultiplyAdd64 => SlowPath::ALL.len() + 5,
            Function::Slow(path) => SlowPath::ALL.len() + 6 + path as usize,
            Function::Helper(helper) => Function::COUNT + usize::from(helper.0),
        }
    }

    /// The distance of its entry from the beginning of the table, bytes.
    pub(crate) fn offset(self) -> i32 {
        (size_of::<usize>() * self.index()) as i32
    }
}

/// What a relocated word of code is the address of, or the distance to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// The cell of code in the same page, at a distance in bytes from where this code begins.
    Cell(i16),
    /// The [`Translation`](crate::engine::Translation) that this code is of.
    Translation,
    /// How far the block's counter is behind the instruction's end, which is one byte behind the four of the distance. These are two bytes behind
    /// where other blocks enter this one.
    Counter,
    /// How far the block at a distance of so many bytes in the same page, or a return to the dispatcher, is behind the end of the four
    /// bytes: the operand of a jump, aligned so that one store changes it.
    Jump(i16),
}

impl Target {
    /// How many bytes are relocated.
    pub(crate) fn size(self) -> usize {
        match self {
            Target::Cell(_) | Target::Translation => 8,
            Target::Counter | Target::Jump(_) => 4,
        }
    }
}

/// A word within code that is known when the code has its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Relocation {
    /// Where in the code it is.
    pub(crate) offset: u32,
    /// What it is.
    pub(crate) target: Target,
}

impl Relocation {
    /// True if it is within code of so many bytes, and where it can be changed if it must.
    pub(crate) fn fits(&self, bytes: usize) -> bool {
        let offset = self.offset as usize;
        let aligned = !matches!(self.target, Target::Jump(_)) || offset.is_multiple_of(self.target.size());
        aligned && offset.checked_add(self.target.size()).is_some_and(|end| end <= bytes)
    }
}

/// Code that has no place yet.
#[derive(Clone, Debug, Default)]
pub(crate) struct Code {
    /// With anything where relocations are.
    pub(crate) bytes: Vec<u8>,
    /// What is to be filled in.
    pub(crate) relocations: Vec<Relocation>,
}

impl Code {
    /// The same behind other code, which goes on into it.
    pub(crate) fn behind(self, start: &[u8]) -> Code {
        let bytes = [start, &self.bytes].concat();
        let behind = |relocation: Relocation| Relocation {
            offset: relocation.offset + start.len() as u32,
            target: relocation.target,
        };
        Code { bytes, relocations: self.relocations.into_iter().map(behind).collect() }
    }
}
