//! Compressed instructions (volume I, chapter 27), expanded to their 32-bit equivalents.

/// The 32-bit equivalent of a compressed instruction of RV64DC; `None` if it is illegal or reserved.
pub(super) fn expand(half: u16) -> Option<u32> {
    let c = u32::from(half);
    let funct3 = c >> 13;
    match c & 3 {
        0 => expand_quadrant_0(c, funct3),
        1 => expand_quadrant_1(c, funct3),
        2 => expand_quadrant_2(c, funct3),
        _ => None,
    }
}

/// Bits `low + count - 1 ..= low` of the instruction, moved to `to`.
fn field(c: u32, low: u32, count: u32, to: u32) -> u32 {
    (c >> low & ((1 << count) - 1)) << to
}

/// One of the registers x8 to x15 named by the three bits at `low`.
fn short_register(c: u32, low: u32) -> u32 {
    8 + field(c, low, 3, 0)
}

/// A signed immediate whose sign is bit 12 of the instruction.
fn signed(c: u32, low_bits: u32, sign_bit: u32) -> i32 {
    if c & 0x1000 != 0 { low_bits as i32 | -1 << sign_bit } else { low_bits as i32 }
}

fn type_i(opcode: u32, funct3: u32, rd: u32, rs1: u32, immediate: i32) -> Option<u32> {
    Some((immediate as u32) << 20 | rs1 << 15 | funct3 << 12 | rd << 7 | opcode)
}

fn type_s(opcode: u32, funct3: u32, rs1: u32, rs2: u32, immediate: u32) -> Option<u32> {
    Some(field(immediate, 5, 7, 25) | rs2 << 20 | rs1 << 15 | funct3 << 12 | field(immediate, 0, 5, 7) | opcode)
}

fn type_r(opcode: u32, funct3: u32, funct7: u32, rd: u32, rs1: u32, rs2: u32) -> Option<u32> {
    Some(funct7 << 25 | rs2 << 20 | rs1 << 15 | funct3 << 12 | rd << 7 | opcode)
}

fn jal(rd: u32, offset: i32) -> Option<u32> {
    let o = offset as u32;
    Some(field(o, 20, 1, 31) | field(o, 1, 10, 21) | field(o, 11, 1, 20) | field(o, 12, 8, 12) | rd << 7 | 0x6f)
}

const LOAD: u32 = 0x03;
const LOAD_FP: u32 = 0x07;
const OP_IMM: u32 = 0x13;
const OP_IMM_32: u32 = 0x1b;
const STORE: u32 = 0x23;
const STORE_FP: u32 = 0x27;
const OP: u32 = 0x33;
const OP_32: u32 = 0x3b;
const LUI: u32 = 0x37;
const BRANCH: u32 = 0x63;
const JALR: u32 = 0x67;

fn expand_quadrant_0(c: u32, funct3: u32) -> Option<u32> {
    let (rd, rs1) = (short_register(c, 2), short_register(c, 7));
    let word = field(c, 10, 3, 3) | field(c, 6, 1, 2) | field(c, 5, 1, 6);
    let double = field(c, 10, 3, 3) | field(c, 5, 2, 6);
    match funct3 {
        // C.ADDI4SPN
        0 => {
            let immediate = field(c, 11, 2, 4) | field(c, 7, 4, 6) | field(c, 6, 1, 2) | field(c, 5, 1, 3);
            if immediate == 0 { None } else { type_i(OP_IMM, 0, rd, 2, immediate as i32) }
        }
        // C.FLD, C.LW, C.LD
        1 => type_i(LOAD_FP, 3, rd, rs1, double as i32),
        2 => type_i(LOAD, 2, rd, rs1, word as i32),
        3 => type_i(LOAD, 3, rd, rs1, double as i32),
        // C.FSD, C.SW, C.SD
        5 => type_s(STORE_FP, 3, rs1, rd, double),
        6 => type_s(STORE, 2, rs1, rd, word),
        7 => type_s(STORE, 3, rs1, rd, double),
        _ => None,
    }
}

fn expand_quadrant_1(c: u32, funct3: u32) -> Option<u32> {
    let rd = field(c, 7, 5, 0);
    let short = short_register(c, 7);
    let immediate = signed(c, field(c, 2, 5, 0), 5);
    match funct3 {
        // C.ADDI, C.ADDIW, C.LI
        0 => type_i(OP_IMM, 0, rd, rd, immediate),
        1 if rd == 0 => None,
        1 => type_i(OP_IMM_32, 0, rd, rd, immediate),
        2 => type_i(OP_IMM, 0, rd, 0, immediate),
        // C.ADDI16SP
        3 if rd == 2 => {
            let low = field(c, 6, 1, 4) | field(c, 5, 1, 6) | field(c, 3, 2, 7) | field(c, 2, 1, 5);
            let immediate = signed(c, low, 9);
            if immediate == 0 { None } else { type_i(OP_IMM, 0, 2, 2, immediate) }
        }
        // C.LUI
        3 if immediate == 0 => None,
        3 => Some((immediate as u32) << 12 | rd << 7 | LUI),
        4 => {
            let rs2 = short_register(c, 2);
            let shift = field(c, 2, 5, 0) | field(c, 12, 1, 5);
            match (field(c, 10, 2, 0), field(c, 12, 1, 0), field(c, 5, 2, 0)) {
                // C.SRLI, C.SRAI, C.ANDI
                (0, _, _) => type_i(OP_IMM, 5, short, short, shift as i32),
                (1, _, _) => type_i(OP_IMM, 5, short, short, (shift | 0x400) as i32),
                (2, _, _) => type_i(OP_IMM, 7, short, short, immediate),
                // C.SUB, C.XOR, C.OR, C.AND, C.SUBW, C.ADDW
                (_, 0, 0) => type_r(OP, 0, 0x20, short, short, rs2),
                (_, 0, 1) => type_r(OP, 4, 0, short, short, rs2),
                (_, 0, 2) => type_r(OP, 6, 0, short, short, rs2),
                (_, 0, _) => type_r(OP, 7, 0, short, short, rs2),
                (_, _, 0) => type_r(OP_32, 0, 0x20, short, short, rs2),
                (_, _, 1) => type_r(OP_32, 0, 0, short, short, rs2),
                _ => None,
            }
        }
        // C.J
        5 => {
            let low = field(c, 3, 3, 1)
                | field(c, 11, 1, 4)
                | field(c, 2, 1, 5)
                | field(c, 7, 1, 6)
                | field(c, 6, 1, 7)
                | field(c, 9, 2, 8)
                | field(c, 8, 1, 10);
            jal(0, signed(c, low, 11))
        }
        // C.BEQZ, C.BNEZ
        _ => {
            let low = field(c, 3, 2, 1) | field(c, 10, 2, 3) | field(c, 2, 1, 5) | field(c, 5, 2, 6);
            let o = signed(c, low, 8) as u32;
            let offset = field(o, 12, 1, 31) | field(o, 5, 6, 25) | field(o, 1, 4, 8) | field(o, 11, 1, 7);
            Some(offset | short << 15 | (funct3 & 1) << 12 | BRANCH)
        }
    }
}

fn expand_quadrant_2(c: u32, funct3: u32) -> Option<u32> {
    let rd = field(c, 7, 5, 0);
    let rs2 = field(c, 2, 5, 0);
    let word = field(c, 12, 1, 5) | field(c, 4, 3, 2) | field(c, 2, 2, 6);
    let double = field(c, 12, 1, 5) | field(c, 5, 2, 3) | field(c, 2, 3, 6);
    let store_word = field(c, 9, 4, 2) | field(c, 7, 2, 6);
    let store_double = field(c, 10, 3, 3) | field(c, 7, 3, 6);
    match funct3 {
        // C.SLLI
        0 => type_i(OP_IMM, 1, rd, rd, (field(c, 2, 5, 0) | field(c, 12, 1, 5)) as i32),
        // C.FLDSP, C.LWSP, C.LDSP
        1 => type_i(LOAD_FP, 3, rd, 2, double as i32),
        2 | 3 if rd == 0 => None,
        2 => type_i(LOAD, 2, rd, 2, word as i32),
        3 => type_i(LOAD, 3, rd, 2, double as i32),
        4 => match (field(c, 12, 1, 0), rd, rs2) {
            // C.JR, C.MV, C.EBREAK, C.JALR, C.ADD
            (0, 0, 0) => None,
            (0, _, 0) => type_i(JALR, 0, 0, rd, 0),
            (0, _, _) => type_r(OP, 0, 0, rd, 0, rs2),
            (_, 0, 0) => Some(0x0010_0073),
            (_, _, 0) => type_i(JALR, 0, 1, rd, 0),
            _ => type_r(OP, 0, 0, rd, rd, rs2),
        },
        // C.FSDSP, C.SWSP, C.SDSP
        5 => type_s(STORE_FP, 3, 2, rs2, store_double),
        6 => type_s(STORE, 2, 2, rs2, store_word),
        _ => type_s(STORE, 3, 2, rs2, store_double),
    }
}
