//! Which of the guest's registers is which of [`crate::ir::Register`]'s.

use crate::ir::Register;

/// RAX, the first of the general-purpose registers, which have the numbers of instruction encodings.
pub const RAX: Register = Register(0);
/// RCX.
pub const RCX: Register = Register(1);
/// RDX.
pub const RDX: Register = Register(2);
/// RBX.
pub const RBX: Register = Register(3);
/// RSP.
pub const RSP: Register = Register(4);
/// RBP.
pub const RBP: Register = Register(5);
/// RSI.
pub const RSI: Register = Register(6);
/// RDI.
pub const RDI: Register = Register(7);
/// R11, in which SYSCALL saves the flags.
pub const R11: Register = Register(11);

/// What the arithmetic flags are made of: see [`super::flags`].
pub const FLAGS_KIND: Register = Register(16);
/// The first of the two operands of [`FLAGS_KIND`].
pub const FLAGS_A: Register = Register(17);
/// The second.
pub const FLAGS_B: Register = Register(18);
/// The direction of string instructions: 1, or -1 when DF is set.
pub const DIRECTION: Register = Register(19);

/// Base of the first segment (ES); the others follow in encoding order: CS, SS, DS, FS, GS.
pub const SEGMENT_BASE: u8 = 20;

/// Low half of a vector operand that is in no register; the high half follows.
pub const OPERAND: u8 = 26;

/// Low half of XMM0; the high half follows, then XMM1.
pub const XMM: u8 = 32;
/// The high half of YMM0, low half first; then that of YMM1.
pub const YMM_HIGH: u8 = 64;

/// The register that holds a segment's base.
pub fn segment_base(segment: super::SegmentName) -> Register {
    Register(SEGMENT_BASE + segment as u8)
}

/// Half 0 or 1 of XMM register `number`; 2 or 3: the upper half of the YMM register.
pub fn vector_part(number: u8, part: u8) -> Register {
    Register(if part < 2 { XMM } else { YMM_HIGH } + 2 * (number & 15) + (part & 1))
}

/// Names in the text form of the IR.
#[rustfmt::skip]
pub(super) const NAMES: &[&str] = &[
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
    "flags_kind", "flags_a", "flags_b", "direction", "es_base", "cs_base", "ss_base", "ds_base", "fs_base", "gs_base",
    "operand.0", "operand.1", "reserved28", "reserved29", "reserved30", "reserved31",
    "xmm0.0", "xmm0.1", "xmm1.0", "xmm1.1", "xmm2.0", "xmm2.1", "xmm3.0", "xmm3.1",
    "xmm4.0", "xmm4.1", "xmm5.0", "xmm5.1", "xmm6.0", "xmm6.1", "xmm7.0", "xmm7.1",
    "xmm8.0", "xmm8.1", "xmm9.0", "xmm9.1", "xmm10.0", "xmm10.1", "xmm11.0", "xmm11.1",
    "xmm12.0", "xmm12.1", "xmm13.0", "xmm13.1", "xmm14.0", "xmm14.1", "xmm15.0", "xmm15.1",
    "ymm0.2", "ymm0.3", "ymm1.2", "ymm1.3", "ymm2.2", "ymm2.3", "ymm3.2", "ymm3.3",
    "ymm4.2", "ymm4.3", "ymm5.2", "ymm5.3", "ymm6.2", "ymm6.3", "ymm7.2", "ymm7.3",
    "ymm8.2", "ymm8.3", "ymm9.2", "ymm9.3", "ymm10.2", "ymm10.3", "ymm11.2", "ymm11.3",
    "ymm12.2", "ymm12.3", "ymm13.2", "ymm13.3", "ymm14.2", "ymm14.3", "ymm15.2", "ymm15.3",
];
