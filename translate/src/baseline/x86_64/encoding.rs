//! Short encodings: the assembler takes the long forms of displacements and immediates that it does not know, and code that is executed a few
//! times each costs what its bytes cost.

use dynasmrt::x64::X64Relocation;
use dynasmrt::{DynasmApi, VecAssembler, dynasm};

/// How far `rbp` is behind the start of the context, bytes: so that one signed byte reaches twice as much of it.
pub(super) const CONTEXT_BIAS: i32 = 128;
/// Where the context starts, from `rbp`.
pub(super) const CONTEXT_START: i8 = -CONTEXT_BIAS as i8;

/// Emits an instruction with an operand in the context: what stands before that operand, its offset, and what stands behind it.
macro_rules! with_context {
    ($code:expr, [$($before:tt)*] $offset:expr, [$($behind:tt)*]) => {{
        let displacement = $offset as i32 - $crate::baseline::x86_64::encoding::CONTEXT_BIAS;
        match i8::try_from(displacement) {
            Ok(displacement) => dynasm!($code ; .arch x64 ; $($before)* [BYTE rbp + displacement] $($behind)*),
            Err(_) => dynasm!($code ; .arch x64 ; $($before)* [rbp + displacement] $($behind)*),
        }
    }};
}

/// Emits an instruction that ends with a signed immediate, as short as it can be.
macro_rules! with_immediate {
    ($code:expr, [$($before:tt)*] $immediate:expr) => {{
        let immediate: i32 = $immediate;
        match i8::try_from(immediate) {
            Ok(immediate) => dynasm!($code ; .arch x64 ; $($before)* BYTE immediate),
            Err(_) => dynasm!($code ; .arch x64 ; $($before)* immediate),
        }
    }};
}

/// Adds a constant to the 64-bit word of the context at an offset.
pub(super) fn add_to_context(code: &mut VecAssembler<X64Relocation>, offset: usize, addend: i32) {
    let displacement = offset as i32 - CONTEXT_BIAS;
    match (i8::try_from(displacement), i8::try_from(addend)) {
        // By its bytes: the assembler has no short immediates for operands in memory.
        (Ok(displacement), Ok(addend)) => {
            dynasm!(code ; .arch x64 ; .u8 0x48 ; .u8 0x83 ; .u8 0x45 ; .i8 displacement ; .i8 addend);
        }
        _ => dynasm!(code ; .arch x64 ; add QWORD [rbp + displacement], addend),
    }
}

/// Compares a register of 64 (`wide`) or 32 bits with a constant.
pub(super) fn compare_with_constant(code: &mut VecAssembler<X64Relocation>, wide: bool, register: u8, constant: i32) {
    match i8::try_from(constant) {
        // As above.
        Ok(constant) => {
            let rex = 0x40 | u8::from(wide) << 3 | register >> 3;
            if rex != 0x40 {
                code.push(rex);
            }
            dynasm!(code ; .arch x64 ; .u8 0x83 ; .u8 0xf8 | register & 7 ; .i8 constant);
        }
        Err(_) if wide => dynasm!(code ; .arch x64 ; cmp Rq(register), constant),
        Err(_) => dynasm!(code ; .arch x64 ; cmp Rd(register), constant),
    }
}
