//! Results that the architecture leaves undefined, and that programs therefore clear before anything can depend on them.
//!
//! Flags: as the decoder's tables say for each instruction, which follow the manuals' descriptions; among them are AF after
//! logical operations, shifts and multiplications, OF after shifts and rotations by other counts than 1, and all arithmetic
//! flags after DIV and IDIV. A program stores the flags, clears these in the copy and loads it again, so the others remain
//! to be compared.

use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, RflagsBits};

use crate::machine::Outcome;
use crate::program::Program;

const FLAGS: [(u32, u32); 6] = [
    (RflagsBits::CF, 1 << 0),
    (RflagsBits::PF, 1 << 2),
    (RflagsBits::AF, 1 << 4),
    (RflagsBits::ZF, 1 << 6),
    (RflagsBits::SF, 1 << 7),
    (RflagsBits::OF, 1 << 11),
];

/// The flags that are undefined after the instruction, in their places in RFLAGS.
pub(crate) fn flags(instruction: &Instruction) -> u32 {
    if result(instruction) && instruction.mnemonic() != Mnemonic::Bswap {
        return FLAGS.iter().map(|(_, flag)| flag).sum();
    }
    let undefined = instruction.rflags_undefined();
    FLAGS.iter().filter(|(named, _)| undefined & named != 0).map(|(_, flag)| flag).sum()
}

/// What is not compared of the state where a program ended.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ignored {
    /// Bits of RFLAGS.
    pub(crate) rflags: u64,
    /// Bits of MXCSR.
    pub(crate) mxcsr: u32,
    /// Bits of the x87 status word.
    pub(crate) fsw: u16,
    /// Top of stack, tags and registers of the x87.
    pub(crate) x87: bool,
}

/// What is undefined where a program ended:
/// - arithmetic flags after single steps, and where PUSHFQ faults, which is what takes undefined flags away;
/// - after an unmasked SSE exception of DPPS and DPPD, which of the exceptions of their many steps show;
/// - after an unmasked SSE exception of a conversion from or to MMX registers, and where MASKMOVQ faults, whether the x87
///   already changed its mode;
/// - condition codes where FXAM faults, which is what takes undefined ones away.
pub(crate) fn at_end(program: &Program, code: &[u8], end: &Outcome) -> Ignored {
    const DEBUG: u8 = 1;
    const SIMD: u8 = 19;
    let at = end.rip.checked_sub(program.origin).and_then(|at| usize::try_from(at).ok());
    let rest = at.and_then(|at| code.get(at..)).unwrap_or_default();
    let next = Decoder::new(64, rest, DecoderOptions::NONE).decode();
    let mut ignored = Ignored::default();
    if end.vector == Some(DEBUG) || next.mnemonic() == Mnemonic::Pushfq {
        ignored.rflags = FLAGS.iter().map(|(_, flag)| u64::from(*flag)).sum();
    }
    if end.vector == Some(SIMD) {
        if matches!(next.mnemonic(), Mnemonic::Dpps | Mnemonic::Dppd | Mnemonic::Vdpps | Mnemonic::Vdppd) {
            ignored.mxcsr = 0x3f;
        }
        ignored.x87 = next.op0_register().is_mm() || matches!(next.mnemonic(), Mnemonic::Cvtpi2ps | Mnemonic::Cvtpi2pd);
    }
    ignored.x87 |= next.mnemonic() == Mnemonic::Maskmovq;
    if next.mnemonic() == Mnemonic::Fxam {
        ignored.fsw = 0x4700;
    }
    ignored
}

/// Whether the instruction's result, not just its flags, is undefined for some operands.
pub(crate) fn result(instruction: &Instruction) -> bool {
    match instruction.mnemonic() {
        // Counts above 16 give what each maker likes.
        Mnemonic::Shld | Mnemonic::Shrd => {
            instruction.op0_register().size() == 2 || instruction.memory_size().size() == 2
        }
        // A register of 16 bits.
        Mnemonic::Bswap => instruction.op0_register().size() == 2,
        _ => false,
    }
}

/// Whether the instruction leaves condition codes of the x87 status word undefined, or differs among makers in them: a
/// comparison to RFLAGS clears C1 on Intel's processors and keeps it on AMD's, and a partial remainder that is not the last has
/// no quotient bits.
pub(crate) fn condition_codes(instruction: &Instruction) -> bool {
    use Mnemonic as M;
    matches!(
        instruction.mnemonic(),
        M::Ffree | M::Ffreep | M::Fcomi | M::Fcomip | M::Fucomi | M::Fucomip | M::Fprem | M::Fprem1
    )
}
