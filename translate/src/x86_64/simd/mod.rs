//! What the instructions of MMX, SSE to SSE4.2, AVX, AVX2, FMA and F16C compute, as functions of their operands.
//!
//! An XMM register is two 64-bit halves, low and high; an MMX register is one. An instruction that works within each half is
//! a function of halves, called once a half: those of two operands stand in [`LANEWISE`]. [`INTEGER`] and [`FLOAT`] hold
//! all others, as functions of whole registers, which VEX encodings apply to both halves of YMM registers ([`Upper`]). Functions that need whole
//! registers take and give `[u64; 2]`, low half first. Nothing here knows the processor's state.
//!
//! Functions bear the instruction's mnemonic. Numbers of lanes and bits count from the least significant.

pub mod aes;
pub mod arithmetic;
pub mod carryless;
pub mod compare;
pub mod float;
#[cfg(test)]
mod float_tests;
mod lanes;
pub mod multiply_add;
pub mod pack;
pub mod sha;
pub mod shift;
pub mod shuffle;
pub mod string;
pub mod table;
#[cfg(test)]
mod tests;

pub use table::{
    FLOAT, Float, INTEGER, Integer, LANEWISE, Lanewise, Operation, Register, Shape, Upper, Wide, float_named,
    integer_named, lanewise_named,
};
