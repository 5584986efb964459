//! SSE and AVX instructions that are more than moves, logic and plain arithmetic.

use crate::cpu::Cpu;
use crate::float::Flags;

use super::super::event::{plain, vector};
use super::super::flags::{CF, OF, PF, SF, ZF, flag_if};
use super::super::registers::{self, RAX, RCX, RDX};
use super::super::simd::multiply_add::MultiplyAdd;
use super::super::simd::table::{FLOAT, INTEGER, LANEWISE, Register, Upper, Wide};
use super::super::simd::{carryless, float, shuffle, string};
use super::super::softfloat::{self, ComparisonFlags, Environment, Format};
use super::super::state::{X86_64, mxcsr};

/// The third operand of an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Third {
    /// The immediate.
    Immediate,
    /// This register.
    Register(u8),
}

/// Which registers an instruction works on, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct VectorOperands {
    /// Position in its table.
    pub(in super::super) entry: usize,
    /// [`VectorOperands::IN_MEMORY`]: [`registers::OPERAND`], from where it goes to memory.
    pub(in super::super) destination: u8,
    pub(in super::super) first: u8,
    /// [`VectorOperands::IN_MEMORY`]: what was loaded to [`registers::OPERAND`].
    pub(in super::super) second: u8,
    pub(in super::super) third: Third,
    /// Encoded with VEX: what is above the result becomes zero.
    pub(in super::super) vex: bool,
    /// On 256 bits.
    pub(in super::super) wide: bool,
}

impl VectorOperands {
    /// Number of an operand that is in no register.
    pub(in super::super) const IN_MEMORY: u8 = 16;

    /// [`Third::Immediate`] in the word.
    const IMMEDIATE: u8 = 0xff;

    pub(in super::super) fn encode(self) -> u64 {
        let third = match self.third {
            Third::Immediate => VectorOperands::IMMEDIATE,
            Third::Register(number) => number,
        };
        self.entry as u64
            | u64::from(self.destination) << 16
            | u64::from(self.first) << 24
            | u64::from(self.second) << 32
            | u64::from(third) << 40
            | u64::from(self.vex) << 48
            | u64::from(self.wide) << 49
    }

    pub(super) fn decode(word: u64) -> VectorOperands {
        VectorOperands {
            entry: (word & 0xffff) as usize,
            destination: (word >> 16) as u8,
            first: (word >> 24) as u8,
            second: (word >> 32) as u8,
            third: match (word >> 40) as u8 {
                VectorOperands::IMMEDIATE => Third::Immediate,
                number => Third::Register(number),
            },
            vex: word >> 48 & 1 != 0,
            wide: word >> 49 & 1 != 0,
        }
    }

    fn read_third(self, cpu: &Cpu<X86_64>, immediate: u64) -> Wide {
        match self.third {
            Third::Immediate => [[immediate, 0]; 2],
            Third::Register(number) => read_wide(cpu, number),
        }
    }

    /// Writes a result.
    fn write(self, cpu: &mut Cpu<X86_64>, [low, high]: Wide) {
        write(cpu, self.destination, low);
        if self.vex {
            let high = if self.wide { high } else { [0; 2] };
            for (part, value) in (2..).zip(high) {
                cpu.set_register(part_of(self.destination, part), value);
            }
        }
    }

    /// Applies a function of 128-bit registers.
    fn apply(
        self,
        cpu: &Cpu<X86_64>,
        immediate: u64,
        upper: Upper,
        mut function: impl FnMut(Register, Register, Register) -> Register,
    ) -> Wide {
        let third = self.read_third(cpu, immediate);
        if !self.wide {
            let (first, second) = (read(cpu, self.first), read(cpu, self.second));
            return [function(first, second, third[0]), [0; 2]];
        }
        let (first, second) = (read_wide(cpu, self.first), read_wide(cpu, self.second));
        upper.apply(first, second, third, function)
    }
}

/// The register that holds a part of an operand.
fn part_of(number: u8, part: u8) -> crate::ir::Register {
    if number == VectorOperands::IN_MEMORY {
        return crate::ir::Register(registers::OPERAND + part);
    }
    registers::vector_part(number, part)
}

pub(super) fn read(cpu: &Cpu<X86_64>, number: u8) -> Register {
    [0, 1].map(|part| cpu.register(part_of(number, part)))
}

pub(super) fn read_wide(cpu: &Cpu<X86_64>, number: u8) -> Wide {
    [[0, 1], [2, 3]].map(|parts| parts.map(|part| cpu.register(part_of(number, part))))
}

fn write(cpu: &mut Cpu<X86_64>, number: u8, value: Register) {
    for (part, value) in (0..).zip(value) {
        cpu.set_register(part_of(number, part), value);
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
    let result = operands.apply(cpu, immediate, entry.upper, entry.function);
    operands.write(cpu, result);
    0
}

/// VPERMD and VPERMPS.
pub(super) extern "C" fn permute_doublewords(cpu: &mut Cpu<X86_64>, operands: u64, _: u64, _: u64) -> u64 {
    let operands = VectorOperands::decode(operands);
    let result = shuffle::vpermd(read_wide(cpu, operands.first), read_wide(cpu, operands.second));
    operands.write(cpu, result);
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
    let result = operands.apply(cpu, immediate, entry.upper, |a, b, c| (entry.function)(&mut environment, a, b, c));
    if complete(cpu, &mut environment) {
        operands.write(cpu, result);
    }
    0
}

/// An instruction of FMA, as [`MultiplyAdd::encode`] says.
pub(super) extern "C" fn multiply_add(cpu: &mut Cpu<X86_64>, operands: u64, how: u64, _: u64) -> u64 {
    let operands = VectorOperands::decode(operands);
    let how = MultiplyAdd::decode(how);
    let mut environment = environment(cpu, Format::DOUBLE);
    let inputs = [operands.destination, operands.first, operands.second].map(|number| read_wide(cpu, number));
    let low = how.on_registers(&mut environment, inputs.map(|[low, _]| low));
    let high = if operands.wide { how.on_registers(&mut environment, inputs.map(|[_, high]| high)) } else { [0; 2] };
    if complete(cpu, &mut environment) {
        operands.write(cpu, [low, high]);
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

/// The bytes of `new` whose bits are set in `which`, and those of `old` where not.
pub(super) extern "C" fn merge_bytes(_: &mut Cpu<X86_64>, old: u64, new: u64, which: u64) -> u64 {
    let mask = (0..8).filter(|byte| which >> byte & 1 != 0).fold(0, |mask, byte| mask | 0xff << (8 * byte));
    old & !mask | new & mask
}

/// CRC32 of 1, 2, 4 or 8 bytes.
pub(super) extern "C" fn checksum(_: &mut Cpu<X86_64>, crc: u64, value: u64, bytes: u64) -> u64 {
    carryless::crc32(crc & 0xffff_ffff, value, bytes)
}

/// INSERTPS: `value` into the first operand; the immediate without its source bits.
pub(super) extern "C" fn insert_single(cpu: &mut Cpu<X86_64>, operands: u64, value: u64, immediate: u64) -> u64 {
    let operands = VectorOperands::decode(operands);
    let result = shuffle::insertps(read(cpu, operands.first), value as u32, immediate as u8);
    operands.write(cpu, [result, [0; 2]]);
    0
}

/// PCMPESTRI (bit 8 of the immediate: explicit lengths; bit 9: these are in 64-bit registers; bit 10: a mask in XMM0 and not an index in
/// ECX). Gives the flags.
pub(super) extern "C" fn compare_strings(cpu: &mut Cpu<X86_64>, operands: u64, immediate: u64, _: u64) -> u64 {
    let operands = VectorOperands::decode(operands);
    let (a, b) = (read(cpu, operands.first), read(cpu, operands.second));
    let control = immediate as u8;
    let result = if immediate & 0x100 != 0 {
        let length = |value: u64| if immediate & 0x200 != 0 { value as i64 } else { i64::from(value as i32) };
        let (length_a, length_b) = (length(cpu.register(RAX)), length(cpu.register(RDX)));
        string::pcmpestr(a, length_a, b, length_b, control)
    } else {
        string::pcmpistr(a, b, control)
    };
    if immediate & 0x400 != 0 {
        VectorOperands { destination: 0, ..operands }.write(cpu, [result.mask(), [0; 2]]);
    } else {
        cpu.set_register(RCX, result.index());
    }
    flag_if(result.carry.into(), CF)
        | flag_if(result.zero.into(), ZF)
        | flag_if(result.sign.into(), SF)
        | flag_if(result.overflow.into(), OF)
}
