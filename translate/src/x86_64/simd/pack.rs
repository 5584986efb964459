//! Packing with saturation, and widening.
//!
//! One half of an XMM result of packing comes from the low and high halves of one operand; the MMX result from the first and
//! the second operand.

use std::array::from_fn;

use super::lanes::*;

/// Eight words become saturated bytes.
fn pack_words(low: u64, high: u64, saturate: impl Fn(i16) -> u8) -> u64 {
    let (low, high) = (words(low), words(high));
    u64::from_le_bytes(from_fn(|lane| saturate(if lane < 4 { low[lane] } else { high[lane - 4] } as i16)))
}

/// Four doublewords become saturated words.
fn pack_doublewords(low: u64, high: u64, saturate: impl Fn(i32) -> u16) -> u64 {
    let (low, high) = (doublewords(low), doublewords(high));
    from_words([low[0], low[1], high[0], high[1]].map(|lane| saturate(lane as i32)))
}

/// Signed words to signed bytes.
pub fn packsswb(low: u64, high: u64) -> u64 {
    pack_words(low, high, |word| word.clamp(i8::MIN.into(), i8::MAX.into()) as u8)
}

/// Signed words to unsigned bytes.
pub fn packuswb(low: u64, high: u64) -> u64 {
    pack_words(low, high, |word| word.clamp(0, u8::MAX.into()) as u8)
}

/// Signed doublewords to signed words.
pub fn packssdw(low: u64, high: u64) -> u64 {
    pack_doublewords(low, high, |doubleword| doubleword.clamp(i16::MIN.into(), i16::MAX.into()) as u16)
}

/// Signed doublewords to unsigned words.
pub fn packusdw(low: u64, high: u64) -> u64 {
    pack_doublewords(low, high, |doubleword| doubleword.clamp(0, u16::MAX.into()) as u16)
}

/// Defines a function that widens the low lanes of its operand to fill a half.
macro_rules! widen {
    ($($(#[$doc:meta])* $name:ident: $lanes:literal from $from:ty as $to:ty;)*) => {
        $($(#[$doc])* pub fn $name(a: u64) -> u64 {
            (0..$lanes).fold(0, |all, lane| {
                let lane_bits = 64 / $lanes;
                let value = (a >> (lane * <$from>::BITS)) as $from as $to;
                all | (value as u64 & u64::MAX >> (64 - lane_bits)) << (lane * lane_bits)
            })
        })*
    };
}

widen! {
    /// Four signed bytes to words. The high half of an XMM result comes from the operand's next four bytes; so below.
    pmovsxbw: 4 from i8 as i16;
    /// Two signed bytes to doublewords.
    pmovsxbd: 2 from i8 as i32;
    /// One signed byte to a quadword.
    pmovsxbq: 1 from i8 as i64;
    /// Two signed words to doublewords.
    pmovsxwd: 2 from i16 as i32;
    /// One signed word to a quadword.
    pmovsxwq: 1 from i16 as i64;
    /// One signed doubleword to a quadword.
    pmovsxdq: 1 from i32 as i64;
    /// Four bytes to words.
    pmovzxbw: 4 from u8 as u16;
    /// Two bytes to doublewords.
    pmovzxbd: 2 from u8 as u32;
    /// One byte to a quadword.
    pmovzxbq: 1 from u8 as u64;
    /// Two words to doublewords.
    pmovzxwd: 2 from u16 as u32;
    /// One word to a quadword.
    pmovzxwq: 1 from u16 as u64;
    /// One doubleword to a quadword.
    pmovzxdq: 1 from u32 as u64;
}
