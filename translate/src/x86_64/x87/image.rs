//! Images of the state in memory: FNSTENV, FLDENV, FNSAVE, FRSTOR (SDM volume 1, 8.1.10), FXSAVE (volume 1, 10.5).

use super::{Float80, X87};
use crate::x86_64::softfloat::{Class, exception};

/// The four forms of the environment in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EnvironmentFormat {
    /// 16-bit operand size, real-address or virtual-8086 mode.
    Real16,
    /// 16-bit operand size, protected mode.
    Protected16,
    /// 32-bit operand size, real-address or virtual-8086 mode.
    Real32,
    /// 32-bit operand size (also 64-bit), protected mode.
    Protected32,
}

impl EnvironmentFormat {
    /// Length of the environment in memory: 14 or 28 bytes. An FNSAVE image has 80 bytes of registers after it.
    pub const fn bytes(self) -> usize {
        match self {
            EnvironmentFormat::Real16 | EnvironmentFormat::Protected16 => 14,
            EnvironmentFormat::Real32 | EnvironmentFormat::Protected32 => 28,
        }
    }
}

/// Length of the part of an FXSAVE image that holds the x87's state: all before MXCSR is included, and MXCSR and its mask at
/// offset 24 are left alone; the registers fill offsets 32 to 159.
pub const FXSAVE_BYTES: usize = 160;

impl X87 {
    /// The full tag word: two bits a physical register.
    pub fn tag_word(&self) -> u16 {
        (0..8).rev().fold(0, |word, register| {
            let number = self.registers[register].unpack();
            let tag = match number.class {
                _ if self.tags >> register & 1 == 0 => 3,
                Class::Zero => 1,
                Class::Finite if !number.denormal => 0,
                _ => 2,
            };
            word << 2 | tag
        })
    }

    /// FNSTENV: the environment's bytes, of which [`EnvironmentFormat::bytes`] count. Masks all exceptions.
    pub fn fnstenv(&mut self, format: EnvironmentFormat) -> [u8; 28] {
        let (instruction, data) = (self.instruction_pointer as u32, self.data_pointer as u32);
        let linear = |segment: u16, offset: u32| (u32::from(segment) << 4).wrapping_add(offset);
        let opcode = u32::from(self.opcode & 0x7ff);
        let pointers = match format {
            EnvironmentFormat::Protected16 | EnvironmentFormat::Protected32 => [
                instruction,
                u32::from(self.instruction_segment)
                    | if format == EnvironmentFormat::Protected32 { opcode << 16 } else { 0 },
                data,
                self.data_segment.into(),
            ],
            EnvironmentFormat::Real16 | EnvironmentFormat::Real32 => {
                let instruction = linear(self.instruction_segment, instruction);
                let data = linear(self.data_segment, data);
                [instruction & 0xffff, instruction >> 16 << 12 | opcode, data & 0xffff, data >> 16 << 12]
            }
        };
        let mut bytes = [0; 28];
        if format.bytes() == 14 {
            let words =
                [self.control, self.status, self.tag_word()].into_iter().chain(pointers.map(|word| word as u16));
            for (field, word) in bytes.chunks_exact_mut(2).zip(words) {
                field.copy_from_slice(&word.to_le_bytes());
            }
        } else {
            let words = [self.control, self.status, self.tag_word()].map(|word| 0xffff_0000 | u32::from(word));
            for (field, word) in bytes.chunks_exact_mut(4).zip(words.into_iter().chain(pointers)) {
                field.copy_from_slice(&word.to_le_bytes());
            }
            if format == EnvironmentFormat::Protected32 {
                bytes[26] = 0xff;
                bytes[27] = 0xff;
            }
        }
        self.control |= exception::ALL;
        self.summarise();
        bytes
    }

    /// FLDENV: of `bytes`, [`EnvironmentFormat::bytes`] count.
    pub fn fldenv(&mut self, format: EnvironmentFormat, bytes: &[u8; 28]) {
        let field = |number: usize| -> u32 {
            if format.bytes() == 14 {
                u16::from_le_bytes([bytes[2 * number], bytes[2 * number + 1]]).into()
            } else {
                let at = 4 * number;
                u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
            }
        };
        self.status = field(1) as u16;
        self.fldcw(field(0) as u16);
        let tags = field(2);
        self.tags = (0..8).fold(0, |all, register| all | u8::from(tags >> (2 * register) & 3 != 3) << register);
        match format {
            EnvironmentFormat::Protected16 | EnvironmentFormat::Protected32 => {
                self.instruction_pointer = field(3).into();
                self.instruction_segment = field(4) as u16;
                self.data_pointer = field(5).into();
                self.data_segment = field(6) as u16;
                if format == EnvironmentFormat::Protected32 {
                    self.opcode = (field(4) >> 16) as u16 & 0x7ff;
                }
            }
            EnvironmentFormat::Real16 | EnvironmentFormat::Real32 => {
                self.instruction_pointer = (field(3) & 0xffff | (field(4) >> 12 & 0xffff) << 16).into();
                self.instruction_segment = 0;
                self.opcode = field(4) as u16 & 0x7ff;
                self.data_pointer = (field(5) & 0xffff | (field(6) >> 12 & 0xffff) << 16).into();
                self.data_segment = 0;
            }
        }
    }

    /// FNSAVE: the environment, then the registers from ST(0) on, ten bytes each. The unit is initialised.
    pub fn fnsave(&mut self, format: EnvironmentFormat) -> ([u8; 28], [u8; 80]) {
        let environment = self.fnstenv(format);
        let mut registers = [0; 80];
        for (index, bytes) in (0..).zip(registers.chunks_exact_mut(10)) {
            bytes.copy_from_slice(&self.st(index).to_bytes());
        }
        self.fninit();
        (environment, registers)
    }

    /// FRSTOR: undoes [`X87::fnsave`].
    pub fn frstor(&mut self, format: EnvironmentFormat, environment: &[u8; 28], registers: &[u8; 80]) {
        self.fldenv(format, environment);
        self.load_registers(registers, 10);
    }

    /// Fills ST(0) to ST(7) from memory, `stride` bytes each, and leaves the tags alone.
    fn load_registers(&mut self, bytes: &[u8], stride: usize) {
        for (index, bytes) in (0..8).zip(bytes.chunks_exact(stride)) {
            let mut value = [0; 10];
            value.copy_from_slice(&bytes[..10]);
            let physical = self.physical(index);
            self.registers[physical] = Float80::from_bytes(value);
        }
    }

    /// FXSAVE: the first [`FXSAVE_BYTES`] of the image. `long` is the form of 64-bit mode with REX.W, which has 64-bit pointers and no
    /// selectors. Bytes 24 to 31 are zero, for the caller to fill.
    pub fn fxsave(&self, long: bool) -> [u8; FXSAVE_BYTES] {
        let mut image = [0; FXSAVE_BYTES];
        image[0..2].copy_from_slice(&self.control.to_le_bytes());
        image[2..4].copy_from_slice(&self.status.to_le_bytes());
        image[4] = self.tags;
        image[6..8].copy_from_slice(&self.opcode.to_le_bytes());
        let pointer = |address: u64, segment: u16| {
            if long { address } else { address & 0xffff_ffff | u64::from(segment) << 32 }
        };
        image[8..16].copy_from_slice(&pointer(self.instruction_pointer, self.instruction_segment).to_le_bytes());
        image[16..24].copy_from_slice(&pointer(self.data_pointer, self.data_segment).to_le_bytes());
        for (index, bytes) in (0..).zip(image[32..].chunks_exact_mut(16)) {
            bytes[..10].copy_from_slice(&self.st(index).to_bytes());
        }
        image
    }

    /// FXRSTOR: undoes [`X87::fxsave`].
    pub fn fxrstor(&mut self, long: bool, image: &[u8; FXSAVE_BYTES]) {
        let half = |at: usize| u16::from_le_bytes([image[at], image[at + 1]]);
        let address = |at: usize| u64::from(half(at)) | u64::from(half(at + 2)) << 16;
        let upper = |at: usize| if long { address(at) << 32 } else { 0 };
        self.status = half(2);
        self.fldcw(half(0));
        self.tags = image[4];
        self.opcode = half(6) & 0x7ff;
        self.instruction_pointer = address(8) | upper(12);
        self.data_pointer = address(16) | upper(20);
        self.instruction_segment = if long { 0 } else { half(12) };
        self.data_segment = if long { 0 } else { half(20) };
        self.load_registers(&image[32..], 16);
    }
}
