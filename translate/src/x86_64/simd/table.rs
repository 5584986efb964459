//! The functions of two halves by their mnemonics.

use super::arithmetic::*;
use super::compare::*;
use super::pack::*;
use super::shift::*;
use super::shuffle::*;

/// A function of two halves.
#[derive(Clone, Copy, Debug)]
pub struct Lanewise {
    /// The mnemonic, in lower case.
    pub name: &'static str,
    /// The function: for most, of the destination's half and the source's half; for shifts, of the destination's half and the
    /// count; for packing and horizontal arithmetic, of the two halves of one operand.
    pub function: fn(u64, u64) -> u64,
}

macro_rules! table {
    ($($name:ident)*) => {
        /// The instructions that are functions of two halves.
        pub const LANEWISE: &[Lanewise] = &[$(Lanewise { name: stringify!($name), function: $name }),*];
    };
}

table! {
    paddb paddw paddd paddq psubb psubw psubd psubq
    paddsb paddsw paddusb paddusw psubsb psubsw psubusb psubusw
    pmullw pmulhw pmulhuw pmulhrsw pmulld pmuludq pmuldq pmaddwd pmaddubsw
    pavgb pavgw pminub pminuw pminud pminsb pminsw pminsd pmaxub pmaxuw pmaxud pmaxsb pmaxsw pmaxsd
    psignb psignw psignd psadbw
    phaddw phaddsw phaddd phsubw phsubsw phsubd phminposuw
    pcmpeqb pcmpeqw pcmpeqd pcmpeqq pcmpgtb pcmpgtw pcmpgtd pcmpgtq
    psllw pslld psllq psrlw psrld psrlq psraw psrad
    packsswb packuswb packssdw packusdw
    punpcklbw punpcklwd punpckldq punpckhbw punpckhwd punpckhdq
    pshufw pshufb_mmx
}

/// Position in [`LANEWISE`] of the function of a mnemonic in lower case.
pub fn lanewise(name: &str) -> Option<usize> {
    LANEWISE.iter().position(|entry| entry.name == name)
}
