//! Every instruction against the host's own x87: the same state is loaded, the instruction executed, and all that it may have
//! changed compared, under all roundings, precisions and masks.

#![cfg(target_arch = "x86_64")]

use std::arch::asm;

use super::*;
use crate::x86_64::softfloat::{pack, unpack};

mod arithmetic;
mod encodings;
mod images;
mod stack;
mod transcendental;

/// What an instruction may work on: the unit, and sixteen bytes of memory.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Machine {
    unit: X87,
    memory: [u8; 16],
}

impl Machine {
    fn u32(&self) -> u32 {
        u64::from_le_bytes(self.memory[..8].try_into().unwrap()) as u32
    }

    fn u64(&self) -> u64 {
        u64::from_le_bytes(self.memory[..8].try_into().unwrap())
    }

    fn store(&mut self, bytes: &[u8]) {
        self.memory[..bytes.len()].copy_from_slice(bytes);
    }

    fn f80(&self) -> Float80 {
        Float80::from_bytes(self.memory[..10].try_into().unwrap())
    }
}

impl std::fmt::Debug for Machine {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let X87 { control, status, tags, .. } = self.unit;
        write!(formatter, "control {control:04x} status {status:04x} tags {tags:08b} memory {:02x?}", self.memory)?;
        for index in 0..8 {
            let Float80 { significand, sign_exponent } = self.unit.st(index);
            write!(formatter, " ST{index} {sign_exponent:04x}:{significand:016x}")?;
        }
        Ok(())
    }
}

/// Executes an instruction between loading and saving the state.
macro_rules! host {
    ($($instruction:literal)*) => {
        &|machine: &mut Machine| {
            let mut image = [0_u8; 108];
            let (environment, registers) = machine.unit.fnsave_image();
            image[..28].copy_from_slice(&environment);
            image[28..].copy_from_slice(&registers);
            // SAFETY: the image has the length that FRSTOR and FNSAVE take, the operand that of the longest one; no
            // exception is pending before the instruction, and FNSAVE leaves the unit initialised and empty, as the ABI
            // has it.
            unsafe {
                asm!(
                    "frstor [{image}]",
                    concat!($($instruction,)* " /* {memory} */"),
                    "fnsave [{image}]",
                    image = in(reg) &raw mut image,
                    memory = in(reg) &raw mut machine.memory,
                    out("rax") _,
                    out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
                    out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
                );
            }
            let (environment, registers) = image.split_at(28);
            machine.unit.frstor(
                EnvironmentFormat::Protected32,
                environment.try_into().unwrap(),
                registers.try_into().unwrap(),
            );
            machine.unit.clear_pointers();
        }
    };
}
use host;

impl X87 {
    /// The image that FRSTOR loads this state from.
    fn fnsave_image(&self) -> ([u8; 28], [u8; 80]) {
        let mut copy = *self;
        copy.fnsave(EnvironmentFormat::Protected32)
    }

    fn clear_pointers(&mut self) {
        self.note_instruction(0, (0, 0), Some((0, 0)));
    }
}

/// Pseudo-random operands of every kind.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 3
    }

    fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 20) % limit
    }

    fn significand(&mut self) -> u64 {
        let random = self.next() << 3;
        match self.below(12) {
            0 => 1 << 63,
            1 => u64::MAX,
            2 => 1 << 63 | 1,
            3 => 1 << 63 | 1 << self.below(64),
            4 => !(1 << self.below(64)),
            5 => 0xffff_ff00_0000_0000 | random >> 58,
            6 => 0x8000_0080_0000_0000 | random >> 61 << self.below(40),
            7 => 0xffff_ffff_ffff_f800 & random | 0x400,
            8 => u64::MAX << self.below(64),
            _ => random | 1 << 63,
        }
    }

    fn f80(&mut self) -> Float80 {
        let sign = (self.below(2) as u16) << 15;
        let mut significand = self.significand() | 1 << 63;
        let exponent = match self.below(24) {
            0 => {
                significand = 0;
                0
            }
            1 => {
                significand >>= self.below(64);
                0
            }
            2 => 0x7fff,
            3 => {
                significand = 1 << 63;
                0x7fff
            }
            4 => {
                // Encodings that are no numbers, and pseudo-denormals.
                significand = self.significand();
                [0, 0x7fff, 0x3fff, 1][self.below(4) as usize]
            }
            5 => 1 + self.below(4) as u16,
            6 => 0x7ffe - self.below(4) as u16,
            7 => 0x3fff - 127 - 30 + self.below(60) as u16,
            8 => 0x3fff + 100 + self.below(60) as u16,
            9 => 0x3fff - 1023 - 60 + self.below(80) as u16,
            10 => 0x3fff + 1000 + self.below(60) as u16,
            11 => 0x1fff + self.below(4) as u16,
            12 => 0x5ffd + self.below(4) as u16,
            13 => self.below(0x7fff) as u16,
            14..17 => 0x3fff + self.below(66) as u16,
            _ => 0x3fff - 4 + self.below(8) as u16,
        };
        Float80 { significand, sign_exponent: sign | exponent }
    }

    /// A number near one that is no special case.
    fn finite(&mut self, least: i32, largest: i32) -> Float80 {
        let sign = (self.below(2) as u16) << 15;
        let exponent = 0x3fff + least + self.below((largest - least + 1) as u64) as i32;
        Float80 { significand: self.significand() | 1 << 63, sign_exponent: sign | exponent as u16 }
    }

    /// Bits of a binary32 or binary64 number.
    fn narrow(&mut self, format: Format) -> u64 {
        if self.below(4) == 0 {
            // Shift the random bits so that every class appears.
            let bits = self.next() << 3;
            let width = if format == Format::SINGLE { 32 } else { 64 };
            let sign = bits & 1;
            let special = [0, 1, u64::MAX >> 1, if width == 32 { 0x7f80_0000 } else { 0x7ff0_0000_0000_0000 }];
            let middle = [special[self.below(4) as usize], bits >> 12, bits >> 2][self.below(3) as usize];
            return if width == 32 { middle & 0x7fff_ffff | sign << 31 } else { middle & !(1 << 63) | sign << 63 };
        }
        let mut environment = Environment { format, ..Environment::x87(0x37f) };
        let number = environment.convert(self.f80().unpack());
        pack(format, number)
    }

    /// A unit with some registers filled, any rounding and precision; every other one has all exceptions masked.
    fn unit(&mut self) -> X87 {
        let mut unit = X87::default();
        let masked = if self.below(2) == 0 { 63 } else { self.below(64) as u16 };
        let precision = [0, 2, 3, 3][self.below(4) as usize];
        unit.control = 0x40 | masked | precision << 8 | (self.below(4) as u16) << 10;
        unit.status = (self.next() as u16) & 0x7f00 | (self.next() as u16 & masked);
        unit.tags = if self.below(8) == 0 { self.next() as u8 } else { 0xff << self.below(2) };
        if self.below(2) == 0 {
            unit.tags |= 1 << unit.top();
            unit.tags |= 1 << ((unit.top() + 1) & 7);
        }
        for register in 0..8 {
            unit.registers[register] = self.f80();
        }
        unit
    }

    fn machine(&mut self) -> Machine {
        let unit = self.unit();
        let mut memory = [0; 16];
        let (single, double) = (self.narrow(Format::SINGLE), self.narrow(Format::DOUBLE));
        let low = match self.below(3) {
            0 => single | self.next() << 32,
            1 => double,
            _ => (self.next() << 3) >> self.below(64),
        };
        memory[..8].copy_from_slice(&low.to_le_bytes());
        memory[8..].copy_from_slice(&self.next().to_le_bytes());
        Machine { unit, memory }
    }
}

const ROUNDS: usize = 20_000;

/// Compares one instruction on many states. `kind` prepares the state.
fn check_on(
    name: &str,
    rounds: usize,
    prepare: impl Fn(&mut Numbers, &mut Machine),
    ours: impl Fn(&mut Machine),
    host: &dyn Fn(&mut Machine),
) {
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    for _ in 0..rounds {
        let mut start = numbers.machine();
        prepare(&mut numbers, &mut start);
        let (mut got, mut want) = (start, start);
        ours(&mut got);
        host(&mut want);
        assert_eq!(
            got.unit.tag_word(),
            want.unit.tag_word(),
            "{name}: tags\n from {start:?}\n got  {got:?}\n want {want:?}"
        );
        assert!(got == want, "{name}\n from {start:?}\n got  {got:?}\n want {want:?}");
    }
}

/// As [`check`], but for C1, which not all makers change alike.
fn check_without_c1(name: &str, ours: impl Fn(&mut Machine), host: &dyn Fn(&mut Machine)) {
    let without = |machine: &mut Machine| machine.unit.status &= !status::C1;
    let ours = |machine: &mut Machine| {
        ours(machine);
        without(machine);
    };
    let host = |machine: &mut Machine| {
        host(machine);
        without(machine);
    };
    check_on(name, ROUNDS, |_, _| {}, ours, &host);
}

fn check(name: &str, ours: impl Fn(&mut Machine), host: &dyn Fn(&mut Machine)) {
    check_on(name, ROUNDS, |_, _| {}, ours, host);
}

#[test]
fn encodings_survive_being_taken_apart() {
    let mut numbers = Numbers(3);
    for _ in 0..ROUNDS {
        let value = numbers.f80();
        let number = value.unpack();
        let pseudo_denormal = value.sign_exponent & 0x7fff == 0 && value.significand >> 63 != 0;
        if number.class != crate::x86_64::softfloat::Class::Unsupported && !pseudo_denormal {
            assert_eq!(Float80::pack(number), value, "{number:?}");
        }
        for format in [Format::SINGLE, Format::DOUBLE] {
            let bits = numbers.narrow(format);
            let number = unpack(format, bits);
            if number.class != crate::x86_64::softfloat::Class::Signalling {
                assert_eq!(pack(format, number), bits, "{format:?} {number:?}");
            }
        }
    }
}
