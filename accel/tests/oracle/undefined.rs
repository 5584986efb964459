//! Results that the architecture leaves undefined, and that programs therefore clear before anything can depend on them.
//!
//! Flags: as the decoder's tables say for each instruction, which follow the manuals' descriptions; among them are AF after
//! logical operations, shifts and multiplications, OF after shifts and rotations by other counts than 1, and all arithmetic
//! flags after DIV and IDIV. A program stores the flags, clears these in the copy and loads it again, so the others remain
//! to be compared.

use iced_x86::{Instruction, Mnemonic, RflagsBits};

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

/// The flags that are undefined where a program ended, in their places in RFLAGS: after single steps, and where PUSHFQ faults,
/// which is what takes undefined flags away.
pub(crate) fn flags_at_end(program: &Program, code: &[u8], end: &Outcome) -> u64 {
    const DEBUG: u8 = 1;
    const PUSHFQ: u8 = 0x9c;
    let next = end.rip.checked_sub(program.origin).and_then(|at| code.get(usize::try_from(at).ok()?));
    if end.vector == Some(DEBUG) || next == Some(&PUSHFQ) {
        FLAGS.iter().map(|(_, flag)| u64::from(*flag)).sum()
    } else {
        0
    }
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
