//! MMX.

use std::sync::LazyLock;

use iced_x86::Mnemonic;

use crate::cpu::{Cpu, Stopped};
use crate::ir::{MemoryMode, Width};

use super::super::registers::vector_part;
use super::super::simd::table::{FLOAT, LANEWISE, by_mnemonic, lanewise_named};
use super::super::simd::{arithmetic, compare, shift, shuffle};
use super::super::softfloat::Format;
use super::super::state::X86_64;
use super::vector;
use super::x87::check_pending;

/// The new destination from destination, source and immediate.
type Function = fn(u64, u64, u64) -> u64;

/// What [`LANEWISE`] does not have.
const OTHERS: &[(&str, Function)] = &[
    ("movd", |_, b, _| b),
    ("movq", |_, b, _| b),
    ("movdq2q", |_, b, _| b),
    ("pand", |a, b, _| a & b),
    ("pandn", |a, b, _| !a & b),
    ("por", |a, b, _| a | b),
    ("pxor", |a, b, _| a ^ b),
    ("pabsb", |_, b, _| arithmetic::pabsb(b)),
    ("pabsw", |_, b, _| arithmetic::pabsw(b)),
    ("pabsd", |_, b, _| arithmetic::pabsd(b)),
    ("pshufb", |a, b, _| shuffle::pshufb_mmx(a, b)),
    ("pshufw", |_, b, c| shuffle::pshufw(b, c)),
    ("palignr", shift::window),
    ("pinsrw", shuffle::pinsrw),
];

/// The number of an instruction, by its mnemonic in lower case.
fn mmx_named(name: &str) -> Option<usize> {
    let other = || OTHERS.iter().position(|(other, _)| *other == name);
    lanewise_named(name).or_else(|| Some(LANEWISE.len() + other()?))
}

/// The number of an instruction whose destination is an MMX register.
pub(in super::super) fn mmx_function(mnemonic: Mnemonic) -> Option<usize> {
    static FUNCTIONS: LazyLock<Vec<Option<usize>>> = LazyLock::new(|| by_mnemonic(mmx_named));
    FUNCTIONS.get(mnemonic as usize).copied().flatten()
}

/// Where the second operand is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum MmxSource {
    /// An argument of the helper.
    Given,
    /// In this MMX register.
    Register(u8),
}

impl MmxSource {
    fn encode(self) -> u64 {
        match self {
            MmxSource::Given => 0xff,
            MmxSource::Register(number) => number.into(),
        }
    }

    fn decode(word: u64) -> MmxSource {
        match word as u8 {
            0xff => MmxSource::Given,
            number => MmxSource::Register(number),
        }
    }

    fn read(self, cpu: &Cpu<X86_64>, given: u64) -> u64 {
        match self {
            MmxSource::Given => given,
            MmxSource::Register(number) => cpu.guest.x87.mmx(number),
        }
    }
}

/// An instruction whose destination is an MMX register.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct MmxOperation {
    /// Of [`mmx_function`].
    pub(in super::super) function: usize,
    /// Number of the register.
    pub(in super::super) destination: u8,
    pub(in super::super) source: MmxSource,
}

impl MmxOperation {
    pub(in super::super) fn encode(self) -> u64 {
        self.function as u64 | u64::from(self.destination) << 16 | self.source.encode() << 24
    }

    fn decode(word: u64) -> MmxOperation {
        MmxOperation {
            function: (word & 0xffff) as usize,
            destination: (word >> 16) as u8,
            source: MmxSource::decode(word >> 24),
        }
    }
}

/// A conversion between MMX and XMM registers.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct MmxConversion {
    /// Position in [`FLOAT`].
    pub(in super::super) function: usize,
    /// Number of the register.
    pub(in super::super) destination: u8,
    /// That is an MMX register, not an XMM register.
    pub(in super::super) to_mmx: bool,
    pub(in super::super) source: MmxSource,
    /// The x87 becomes MMX.
    pub(in super::super) enters: bool,
}

impl MmxConversion {
    pub(in super::super) fn encode(self) -> u64 {
        let MmxConversion { function, destination, to_mmx, source, enters } = self;
        MmxOperation { function, destination, source }.encode() | u64::from(to_mmx) << 32 | u64::from(enters) << 33
    }

    fn decode(word: u64) -> MmxConversion {
        let MmxOperation { function, destination, source } = MmxOperation::decode(word);
        MmxConversion { function, destination, to_mmx: word >> 32 & 1 != 0, source, enters: word >> 33 & 1 != 0 }
    }
}

/// An instruction whose destination is an MMX register; `given` is its second operand, if that is no MMX register.
pub(super) extern "C" fn operate(cpu: &mut Cpu<X86_64>, operation: u64, given: u64, immediate: u64) -> u64 {
    if check_pending(cpu).is_err() {
        return 0;
    }
    let MmxOperation { function, destination, source } = MmxOperation::decode(operation);
    let (a, b) = (cpu.guest.x87.mmx(destination), source.read(cpu, given));
    let others = function.wrapping_sub(LANEWISE.len());
    let result = match (LANEWISE.get(function), OTHERS.get(others)) {
        (Some(lanewise), _) => (lanewise.function)(a, b),
        (None, Some((_, function))) => function(a, b, immediate),
        (None, None) => a,
    };
    cpu.guest.x87.set_mmx(destination, result);
    cpu.guest.x87.enter_mmx();
    0
}

/// An MMX register, for an instruction that goes on with [`enter`].
pub(super) extern "C" fn read(cpu: &mut Cpu<X86_64>, number: u64, _: u64, _: u64) -> u64 {
    if check_pending(cpu).is_err() {
        return 0;
    }
    cpu.guest.x87.mmx(number as u8)
}

/// PEXTRW.
pub(super) extern "C" fn extract(cpu: &mut Cpu<X86_64>, number: u64, lane: u64, _: u64) -> u64 {
    shuffle::pextrw(read(cpu, number, 0, 0), lane)
}

/// PMOVMSKB.
pub(super) extern "C" fn signs(cpu: &mut Cpu<X86_64>, number: u64, _: u64, _: u64) -> u64 {
    compare::pmovmskb(read(cpu, number, 0, 0))
}

/// The x87 becomes MMX.
pub(super) extern "C" fn enter(cpu: &mut Cpu<X86_64>, _: u64, _: u64, _: u64) -> u64 {
    cpu.guest.x87.enter_mmx();
    0
}

/// EMMS.
pub(super) extern "C" fn empty(cpu: &mut Cpu<X86_64>, _: u64, _: u64, _: u64) -> u64 {
    if check_pending(cpu).is_ok() {
        cpu.guest.x87.emms();
    }
    0
}

/// MASKMOVQ to a linear address; `registers`: the value's number, and the mask's in bits 15:8.
pub(super) extern "C" fn store_masked(cpu: &mut Cpu<X86_64>, registers: u64, address: u64, mode: u64) -> u64 {
    // The helper's end looks at the status.
    let _ = try_store_masked(cpu, registers, address, MemoryMode(mode as u8));
    0
}

fn try_store_masked(cpu: &mut Cpu<X86_64>, registers: u64, address: u64, mode: MemoryMode) -> Result<(), Stopped> {
    check_pending(cpu)?;
    let value = cpu.guest.x87.mmx(registers as u8);
    let mask = cpu.guest.x87.mmx((registers >> 8) as u8);
    for byte in 0..8 {
        if mask >> (8 * byte + 7) & 1 != 0 {
            cpu.store(address.wrapping_add(byte), Width::Byte, mode, value >> (8 * byte) & 0xff)?;
        }
    }
    cpu.guest.x87.enter_mmx();
    Ok(())
}

/// CVTPI2PS and its kin; `low` and `high`: the second operand, if that is no MMX register.
pub(super) extern "C" fn convert(cpu: &mut Cpu<X86_64>, conversion: u64, low: u64, high: u64) -> u64 {
    let MmxConversion { function, destination, to_mmx, source, enters } = MmxConversion::decode(conversion);
    if enters && check_pending(cpu).is_err() {
        return 0;
    }
    let Some(entry) = FLOAT.get(function) else { return 0 };
    let mut environment = vector::environment(cpu, Format::DOUBLE);
    let before = [0, 1].map(|part| cpu.register(vector_part(destination, part)));
    let result = (entry.function)(&mut environment, before, [source.read(cpu, low), high], [0; 2]);
    if !vector::complete(cpu, &mut environment) {
        return 0;
    }
    if to_mmx {
        cpu.guest.x87.set_mmx(destination, result[0]);
    } else {
        for (part, half) in (0..).zip(result) {
            cpu.set_register(vector_part(destination, part), half);
        }
    }
    if enters {
        cpu.guest.x87.enter_mmx();
    }
    0
}
