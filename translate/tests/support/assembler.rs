//! riscv64 encodings (volume I, 2.2 and the instruction listings).

pub const MRET: u32 = 0x3020_0073;
pub const SRET: u32 = 0x1020_0073;
pub const WFI: u32 = 0x1050_0073;
pub const ECALL: u32 = 0x0000_0073;
pub const FENCE_I: u32 = 0x0000_100f;

pub fn r_type(opcode: u32, rd: u32, funct3: u32, rs1: u32, rs2: u32, funct7: u32) -> u32 {
    funct7 << 25 | rs2 << 20 | rs1 << 15 | funct3 << 12 | rd << 7 | opcode
}

pub fn i_type(opcode: u32, rd: u32, funct3: u32, rs1: u32, immediate: u32) -> u32 {
    (immediate & 0xfff) << 20 | rs1 << 15 | funct3 << 12 | rd << 7 | opcode
}

pub fn s_type(opcode: u32, funct3: u32, rs1: u32, rs2: u32, immediate: u32) -> u32 {
    (immediate >> 5 & 0x7f) << 25 | rs2 << 20 | rs1 << 15 | funct3 << 12 | (immediate & 31) << 7 | opcode
}

pub fn branch(funct3: u32, rs1: u32, rs2: u32, distance: i32) -> u32 {
    let d = distance as u32;
    (d >> 12 & 1) << 31
        | (d >> 5 & 0x3f) << 25
        | rs2 << 20
        | rs1 << 15
        | funct3 << 12
        | (d >> 1 & 15) << 8
        | (d >> 11 & 1) << 7
        | 0x63
}

pub fn jal(rd: u32, distance: i32) -> u32 {
    let d = distance as u32;
    (d >> 20 & 1) << 31 | (d >> 1 & 0x3ff) << 21 | (d >> 11 & 1) << 20 | (d >> 12 & 0xff) << 12 | rd << 7 | 0x6f
}

pub fn csr_read(rd: u32, register: u32) -> u32 {
    i_type(0x73, rd, 2, 0, register)
}

pub fn csr_write(register: u32, rs1: u32) -> u32 {
    i_type(0x73, 0, 1, rs1, register)
}

/// Code and data at a fixed address.
pub struct Program {
    start: u64,
    bytes: Vec<u8>,
}

impl Program {
    pub fn new(start: u64) -> Program {
        Program { start, bytes: Vec::new() }
    }

    pub fn address(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn word(&mut self, word: u32) {
        self.bytes.extend_from_slice(&word.to_le_bytes());
    }

    pub fn pad_to(&mut self, address: u64) {
        assert!(address >= self.address());
        self.bytes.resize((address - self.start) as usize, 0);
    }

    pub fn jump_to(&mut self, target: u64) {
        let distance = target.wrapping_sub(self.address()) as i32;
        self.word(jal(0, distance));
    }

    /// Loads any constant: 11 bits at a time.
    pub fn load_constant(&mut self, rd: u32, value: u64) {
        self.word(i_type(0x13, rd, 0, 0, 0));
        for shift in (0..66).step_by(11).rev() {
            self.word(i_type(0x13, rd, 1, rd, 11));
            self.word(i_type(0x13, rd, 6, rd, (value >> shift & 0x7ff) as u32));
        }
    }
}
