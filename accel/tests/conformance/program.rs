//! Guest programs: a few operations that every architecture has, encoded for the one under test.

use accel::Architecture;

use crate::machine::{Layout, layout};
use crate::{bus, riscv, x86};

/// Bytes of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Width {
    One,
    Two,
    Four,
    Eight,
}

impl Width {
    pub(crate) const ALL: [Width; 4] = [Width::One, Width::Two, Width::Four, Width::Eight];

    pub(crate) fn bytes(self) -> usize {
        match self {
            Width::One => 1,
            Width::Two => 2,
            Width::Four => 4,
            Width::Eight => 8,
        }
    }

    /// Of `value`, what an access of this width holds.
    pub(crate) fn truncate(self, value: u64) -> u64 {
        value & (u64::MAX >> (64 - 8 * self.bytes()))
    }
}

/// A program in the making. One register is its accumulator.
pub(crate) struct Program {
    architecture: Architecture,
    origin: u64,
    code: Vec<u8>,
}

macro_rules! encode {
    ($self:ident, $name:ident($($argument:expr),*)) => {
        match $self.architecture {
            Architecture::X86_64 => x86::$name(&mut $self.code $(, $argument)*),
            Architecture::Riscv64 => riscv::$name(&mut $self.code $(, $argument)*),
        }
    };
}

impl Program {
    pub(crate) fn new(architecture: Architecture, origin: u64) -> Program {
        Program { architecture, origin, code: Vec::new() }
    }

    pub(crate) fn origin(&self) -> u64 {
        self.origin
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.code
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut Vec<u8> {
        &mut self.code
    }

    /// Address of the next instruction.
    pub(crate) fn here(&self) -> u64 {
        self.origin + self.code.len() as u64
    }

    fn layout(&self) -> Layout {
        layout(self.architecture)
    }

    /// Raw instructions.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.code.extend_from_slice(bytes);
        self
    }

    /// Loads the accumulator with a value.
    pub(crate) fn set(&mut self, value: u64) -> &mut Self {
        encode!(self, set_accumulator(value));
        self
    }

    /// Adds to the accumulator: one instruction. `value` is below 2048.
    pub(crate) fn add(&mut self, value: u16) -> &mut Self {
        encode!(self, add(value));
        self
    }

    /// One instruction that does nothing.
    pub(crate) fn nop(&mut self) -> &mut Self {
        encode!(self, nop());
        self
    }

    /// Loads the accumulator from memory, zero-extended.
    pub(crate) fn load(&mut self, width: Width, address: u64) -> &mut Self {
        self.address(address);
        encode!(self, load(width));
        self
    }

    /// Stores the accumulator.
    pub(crate) fn store(&mut self, width: Width, address: u64) -> &mut Self {
        self.address(address);
        encode!(self, store(width));
        self
    }

    /// Loads the address register, for the next [`Program::load_there`] and [`Program::store_there`].
    pub(crate) fn address(&mut self, address: u64) -> &mut Self {
        encode!(self, set_address(address));
        self
    }

    /// Loads from where the address register points: one instruction.
    pub(crate) fn load_there(&mut self, width: Width) -> &mut Self {
        encode!(self, load(width));
        self
    }

    /// Stores to where the address register points: one instruction.
    pub(crate) fn store_there(&mut self, width: Width) -> &mut Self {
        encode!(self, store(width));
        self
    }

    /// Adds one to eight bytes of memory, atomically. Changes the accumulator.
    pub(crate) fn increment_atomically(&mut self, address: u64) -> &mut Self {
        self.address(address);
        encode!(self, increment_atomically());
        self
    }

    /// Makes instructions that were written to memory visible to their execution.
    pub(crate) fn synchronise_code(&mut self) -> &mut Self {
        encode!(self, synchronise_code());
        self
    }

    /// Calls the code at an absolute address, which ends with [`Program::end_routine`].
    pub(crate) fn call(&mut self, address: u64) -> &mut Self {
        encode!(self, call(address));
        self
    }

    pub(crate) fn end_routine(&mut self) -> &mut Self {
        encode!(self, end_routine());
        self
    }

    /// Repeats `body` `times` times; not to be nested.
    pub(crate) fn repeat(&mut self, times: u32, body: impl FnOnce(&mut Program)) -> &mut Self {
        encode!(self, set_counter(times));
        let start = self.code.len();
        body(self);
        let back = self.code.len() - start;
        encode!(self, count_down(back));
        self
    }

    /// Takes interrupts from now on.
    pub(crate) fn enable_interrupts(&mut self) -> &mut Self {
        encode!(self, enable_interrupts());
        self
    }

    /// Waits for an interrupt and takes it.
    pub(crate) fn halt(&mut self) -> &mut Self {
        encode!(self, halt());
        self
    }

    /// Jumps to itself forever.
    pub(crate) fn spin(&mut self) -> &mut Self {
        encode!(self, spin());
        self
    }

    /// Reports that processor 0 is done and spins.
    pub(crate) fn done(&mut self) -> &mut Self {
        self.done_as(0)
    }

    /// Reports that processor `index` is done and spins.
    pub(crate) fn done_as(&mut self, index: u8) -> &mut Self {
        let device = self.layout().device;
        self.set(u64::from(index)).store(Width::One, device + bus::DONE).spin()
    }

    /// An interrupt handler that counts in memory at `counter`, lowers the interrupt and changes no register of the
    /// program.
    pub(crate) fn handler(architecture: Architecture, counter: u64) -> Program {
        let layout = layout(architecture);
        let mut program = Program::new(architecture, layout.handler);
        encode!(program, handler(counter, layout.device + bus::ACKNOWLEDGE));
        program
    }
}
