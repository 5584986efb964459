//! SSE instructions that are more than moves, logic and plain arithmetic.

use crate::cpu::Cpu;
use crate::float::Flags;

use super::super::event::{plain, vector};
use super::super::flags::{CF, OF, PF, SF, ZF, flag_if};
use super::super::registers::{self, RAX, RCX, RDX};
use super::super::simd::table::{FLOAT, INTEGER, LANEWISE, Register};
use super::super::simd::{carryless, compare, float, shuffle, string};
use super::super::softfloat::{self, ComparisonFlags, Environment, Format};
use super::super::state::{X86_64, mxcsr};

/// Which registers an instruction works on, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct VectorOperands {
    /// Position in its table.
    pub(in super::super) entry: usize,
    pub(in super::super) destination: u8,
    /// [`VectorOperands::IN_MEMORY`]: what was loaded to [`registers::OPERAND`].
    pub(in super::super) source: u8,
    /// The third operand is XMM0, not the immediate.
    pub(in super::super) third_is_xmm0: bool,
}

impl VectorOperands {
    /// [`VectorOperands::source`] of an operand that is in no register.
    pub(in super::super) const IN_MEMORY: u8 = 16;

    pub(in super::super) fn encode(self) -> u64 {
        self.entry as u64
            | u64::from(self.destination) << 16
            | u64::from(self.source) << 24
            | u64::from(self.third_is_xmm0) << 32
    }

    fn decode(word: u64) -> VectorOperands {
        VectorOperands {
            entry: (word & 0xffff) as usize,
            destination: (word >> 16) as u8,
            source: (word >> 24) as u8,
            third_is_xmm0: word >> 32 & 1 != 0,
        }
    }
}

fn read(cpu: &Cpu<X86_64>, number: u8) -> Register {
    if number == VectorOperands::IN_MEMORY {
        let first = usize::from(registers::OPERAND);
        return [cpu.context.registers[first], cpu.context.registers[first + 1]];
    }
    [0, 1].map(|part| cpu.register(registers::vector_part(number, part)))
}

fn write(cpu: &mut Cpu<X86_64>, number: u8, value: Register) {
    for (part, value) in (0..).zip(value) {
        cpu.set_register(registers::vector_part(number, part), value);
    }
}

/// A half of a lanewise operation; `entry` is its position in [`LANEWISE`].
pub(super) extern "C" fn lanewise(_: &mut Cpu<X86_64>, entry: u64, a: u64, b: u64) -> u64 {
    LANEWISE.get(entry as usize).map_or(0, |lanewise| (lanewise.function)(a, b))
}

/// An instruction of [`INTEGER`].
pub(super) extern "C" fn integer(cpu: &mut Cpu<X86_64>, operands: u64, immediate: u64, _: u64) -> u64 {
    let operands = VectorOperands::decode(operands);
    let Some(entry) = INTEGER.get(operands.entry) else { return 0 };
    let third = if operands.third_is_xmm0 { read(cpu, 0) } else { [immediate, 0] };
    let (a, b) = (read(cpu, operands.destination), read(cpu, operands.source));
    write(cpu, operands.destination, (entry.function)(a, b, third));
    0
}

/// The environment of SSE arithmetic.
pub(super) fn environment(cpu: &Cpu<X86_64>, format: Format) -> Environment {
    Environment::sse(mxcsr(cpu), format)
}

/// Records what an instruction raised; true if it may complete, else #XM is raised.
pub(super) fn complete(cpu: &mut Cpu<X86_64>, environment: &mut Environment) -> bool {
    environment.settle();
    let Flags(raised) = softfloat::to_flags(environment.raised);
    cpu.context.float_flags |= raised;
    if environment.unmasked() == 0 {
        return true;
    }
    let enabled = cpu.guest.cr4 & super::super::state::CR4_OSXMMEXCPT != 0;
    cpu.stop_with(plain(if enabled { vector::SIMD } else { vector::INVALID_OPCODE }).0);
    false
}

/// An instruction of [`FLOAT`].
pub(super) extern "C" fn floating(cpu: &mut Cpu<X86_64>, operands: u64, immediate: u64, _: u64) -> u64 {
    let operands = VectorOperands::decode(operands);
    let Some(entry) = FLOAT.get(operands.entry) else { return 0 };
    let mut environment = environment(cpu, Format::DOUBLE);
    let (a, b) = (read(cpu, operands.destination), read(cpu, operands.source));
    let result = (entry.function)(&mut environment, a, b, [immediate, 0]);
    if complete(cpu, &mut environment) {
        write(cpu, operands.destination, result);
    }
    0
}

fn format(double: bool) -> Format {
    if double { Format::DOUBLE } else { Format::SINGLE }
}

pub(super) fn comparison_flags(ComparisonFlags { zero, parity, carry }: ComparisonFlags) -> u64 {
    flag_if(zero.into(), ZF) | flag_if(parity.into(), PF) | flag_if(carry.into(), CF)
}

/// COMISS and its kin: the arithmetic flags. `how`: bit 0 double, bit 1 quiet.
pub(super) extern "C" fn compare_floats(cpu: &mut Cpu<X86_64>, a: u64, b: u64, how: u64) -> u64 {
    let format = format(how & 1 != 0);
    let mut environment = environment(cpu, format);
    let result = float::compare_to_flags(&mut environment, format, a, b, how & 2 != 0);
    complete(cpu, &mut environment);
    comparison_flags(result)
}

/// CVTSI2SS and CVTSI2SD: bit 0 of `how`: double, bit 1: of 64 bits.
pub(super) extern "C" fn integer_to_float(cpu: &mut Cpu<X86_64>, value: u64, how: u64, _: u64) -> u64 {
    let format = format(how & 1 != 0);
    let mut environment = environment(cpu, format);
    let value = if how & 2 != 0 { value as i64 } else { i64::from(value as i32) };
    let result = float::integer_to_float(&mut environment, format, value);
    complete(cpu, &mut environment);
    result
}

/// CVTSS2SI and its kin: bit 0 of `how`: from double, bit 1: to 64 bits, bit 2: truncating.
pub(super) extern "C" fn float_to_integer(cpu: &mut Cpu<X86_64>, value: u64, how: u64, _: u64) -> u64 {
    let format = format(how & 1 != 0);
    let mut environment = environment(cpu, format);
    let width = if how & 2 != 0 { 64 } else { 32 };
    let result = float::float_to_integer(&mut environment, format, value, width, how & 4 != 0);
    complete(cpu, &mut environment);
    result as u64
}

/// The sign bits of the lanes of a half: bytes (0), words of 32 bits (1), of 64 bits (2).
pub(super) extern "C" fn sign_bits(_: &mut Cpu<X86_64>, half: u64, which: u64, _: u64) -> u64 {
    match which {
        0 => compare::pmovmskb(half),
        1 => compare::movmskps(half),
        _ => compare::movmskpd(half),
    }
}

/// The bytes of `new` whose bits are set in `which`, and those of `old` where not.
pub(super) extern "C" fn merge_bytes(_: &mut Cpu<X86_64>, old: u64, new: u64, which: u64) -> u64 {
    let mask = (0..8).filter(|byte| which >> byte & 1 != 0).fold(0, |mask, byte| mask | 0xff << (8 * byte));
    old & !mask | new & mask
}

/// CRC32 of 1, 2, 4 or 8 bytes.
pub(super) extern "C" fn checksum(_: &mut Cpu<X86_64>, crc: u64, value: u64, bytes: u64) -> u64 {
    carryless::crc32(crc & 0xffff_ffff, value, bytes)
}

/// INSERTPS: `value` into the destination; the immediate without its source bits.
pub(super) extern "C" fn insert_single(cpu: &mut Cpu<X86_64>, number: u64, value: u64, immediate: u64) -> u64 {
    let before = read(cpu, number as u8);
    write(cpu, number as u8, shuffle::insertps(before, value as u32, immediate as u8));
    0
}

/// PCMPESTRI (bit 8 of the immediate: explicit lengths; bit 9: these are in 64-bit registers; bit 10: a mask in XMM0 and not an index in
/// ECX). Gives the flags.
pub(super) extern "C" fn compare_strings(cpu: &mut Cpu<X86_64>, operands: u64, immediate: u64, _: u64) -> u64 {
    let operands = VectorOperands::decode(operands);
    let (a, b) = (read(cpu, operands.destination), read(cpu, operands.source));
    let control = immediate as u8;
    let result = if immediate & 0x100 != 0 {
        let length = |value: u64| if immediate & 0x200 != 0 { value as i64 } else { i64::from(value as i32) };
        let (length_a, length_b) = (length(cpu.register(RAX)), length(cpu.register(RDX)));
        string::pcmpestr(a, length_a, b, length_b, control)
    } else {
        string::pcmpistr(a, b, control)
    };
    if immediate & 0x400 != 0 {
        write(cpu, 0, result.mask());
    } else {
        cpu.set_register(RCX, result.index());
    }
    flag_if(result.carry.into(), CF)
        | flag_if(result.zero.into(), ZF)
        | flag_if(result.sign.into(), SF)
        | flag_if(result.overflow.into(), OF)
}
