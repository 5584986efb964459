//! RV64: encodings of the operations of [`Program`](crate::program::Program) for machine mode, without compressed
//! instructions.

use accel::state::riscv64::CpuState;

use crate::machine::Layout;
use crate::program::Width;

pub(crate) const LAYOUT: Layout = Layout {
    ram: 0x8000_0000,
    code: 0x8001_0000,
    handler: 0x8001_8000,
    data: 0x8002_0000,
    device: 0x1000_0000,
    extra: 0x9000_0000,
    input: 11,
};

const ZERO: u32 = 0;
const RA: u32 = 1;
/// The address register.
const ADDRESS: u32 = 5;
const SCRATCH: u32 = 6;
const COUNTER: u32 = 7;
/// The accumulator: a0.
pub(crate) const ACCUMULATOR: u32 = 10;
// The handler's own.
const HANDLER_ADDRESS: u32 = 30;
const HANDLER_VALUE: u32 = 31;

const MSTATUS: u32 = 0x300;
const MIE: u32 = 0x304;
/// mstatus.MIE.
const INTERRUPTS_ON: u32 = 1 << 3;
/// Machine external interrupts, in mie and mip.
const EXTERNAL: u32 = 1 << 11;

/// Points a hart at `code` and its traps at `handler`.
pub(crate) fn prepare(state: &mut CpuState, code: u64, handler: u64) {
    state.pc = code;
    state.mtvec = handler;
}

fn put(code: &mut Vec<u8>, instruction: u32) {
    code.extend(instruction.to_le_bytes());
}

/// I-type, of the unprivileged specification, chapter 2.
pub(crate) fn i_type(opcode: u32, funct3: u32, rd: u32, rs1: u32, immediate: i32) -> u32 {
    (immediate as u32 & 0xfff) << 20 | rs1 << 15 | funct3 << 12 | rd << 7 | opcode
}

fn s_type(funct3: u32, rs1: u32, rs2: u32) -> u32 {
    rs2 << 20 | rs1 << 15 | funct3 << 12 | 0x23
}

fn addi(rd: u32, rs1: u32, immediate: i32) -> u32 {
    i_type(0x13, 0, rd, rs1, immediate)
}

/// Loads any constant: the upper bits first, twelve at a time.
fn li(code: &mut Vec<u8>, rd: u32, value: u64) {
    let low = (value << 52) as i64 >> 52;
    let rest = value.wrapping_sub(low as u64);
    if rest == 0 {
        put(code, addi(rd, ZERO, low as i32));
        return;
    }
    li(code, rd, (rest as i64 >> 12) as u64);
    // slli rd, rd, 12
    put(code, i_type(0x13, 1, rd, rd, 12));
    if low != 0 {
        put(code, addi(rd, rd, low as i32));
    }
}

pub(crate) fn set_accumulator(code: &mut Vec<u8>, value: u64) {
    li(code, ACCUMULATOR, value);
}

pub(crate) fn set_address(code: &mut Vec<u8>, address: u64) {
    li(code, ADDRESS, address);
}

pub(crate) fn set_counter(code: &mut Vec<u8>, times: u32) {
    li(code, COUNTER, u64::from(times));
}

pub(crate) fn add(code: &mut Vec<u8>, value: u16) {
    put(code, addi(ACCUMULATOR, ACCUMULATOR, i32::from(value)));
}

pub(crate) fn nop(code: &mut Vec<u8>) {
    put(code, addi(ZERO, ZERO, 0));
}

pub(crate) fn load(code: &mut Vec<u8>, width: Width) {
    let funct3 = match width {
        Width::One => 4,
        Width::Two => 5,
        Width::Four => 6,
        Width::Eight => 3,
    };
    put(code, i_type(0x03, funct3, ACCUMULATOR, ADDRESS, 0));
}

pub(crate) fn store(code: &mut Vec<u8>, width: Width) {
    let funct3 = match width {
        Width::One => 0,
        Width::Two => 1,
        Width::Four => 2,
        Width::Eight => 3,
    };
    put(code, s_type(funct3, ADDRESS, ACCUMULATOR));
}

pub(crate) fn increment_atomically(code: &mut Vec<u8>) {
    put(code, addi(SCRATCH, ZERO, 1));
    // amoadd.d zero, scratch, (address)
    put(code, SCRATCH << 20 | ADDRESS << 15 | 3 << 12 | ZERO << 7 | 0x2f);
}

pub(crate) fn synchronise_code(code: &mut Vec<u8>) {
    // fence.i
    put(code, 0x100f);
}

pub(crate) fn call(code: &mut Vec<u8>, address: u64) {
    li(code, SCRATCH, address);
    // jalr ra, 0(scratch)
    put(code, i_type(0x67, 0, RA, SCRATCH, 0));
}

pub(crate) fn end_routine(code: &mut Vec<u8>) {
    put(code, i_type(0x67, 0, ZERO, RA, 0));
}

pub(crate) fn count_down(code: &mut Vec<u8>, back: usize) {
    put(code, addi(COUNTER, COUNTER, -1));
    let offset = -(back as i32) - 4;
    assert!(offset > -4096, "too long a loop body for a branch");
    let offset = offset as u32;
    // bne counter, zero, offset
    let high = (offset >> 12 & 1) << 31 | (offset >> 5 & 0x3f) << 25;
    let low = (offset >> 1 & 0xf) << 8 | (offset >> 11 & 1) << 7;
    put(code, high | ZERO << 20 | COUNTER << 15 | 1 << 12 | low | 0x63);
}

pub(crate) fn enable_interrupts(code: &mut Vec<u8>) {
    li(code, SCRATCH, u64::from(EXTERNAL));
    // csrs mie, scratch; csrsi mstatus, 8
    put(code, i_type(0x73, 2, ZERO, SCRATCH, MIE as i32));
    put(code, i_type(0x73, 6, ZERO, INTERRUPTS_ON, MSTATUS as i32));
}

pub(crate) fn halt(code: &mut Vec<u8>) {
    // wfi
    put(code, 0x1050_0073);
}

pub(crate) fn spin(code: &mut Vec<u8>) {
    // j .
    put(code, 0x6f);
}

pub(crate) fn handler(code: &mut Vec<u8>, counter: u64, acknowledge: u64) {
    li(code, HANDLER_ADDRESS, counter);
    put(code, i_type(0x03, 3, HANDLER_VALUE, HANDLER_ADDRESS, 0));
    put(code, addi(HANDLER_VALUE, HANDLER_VALUE, 1));
    put(code, s_type(3, HANDLER_ADDRESS, HANDLER_VALUE));
    li(code, HANDLER_ADDRESS, acknowledge);
    put(code, s_type(2, HANDLER_ADDRESS, ZERO));
    // mret
    put(code, 0x3020_0073);
}
