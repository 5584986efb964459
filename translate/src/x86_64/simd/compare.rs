//! Comparisons and tests of integers.

use super::lanes::*;

/// All bits set if the condition holds.
fn mask<const BITS: u32>(condition: bool) -> u64 {
    if condition { u64::MAX >> (64 - BITS) } else { 0 }
}

/// Bytes that are equal.
pub fn pcmpeqb(a: u64, b: u64) -> u64 {
    map_bytes(a, b, |a, b| mask::<8>(a == b) as u8)
}

/// Words that are equal.
pub fn pcmpeqw(a: u64, b: u64) -> u64 {
    map_words(a, b, |a, b| mask::<16>(a == b) as u16)
}

/// Doublewords that are equal.
pub fn pcmpeqd(a: u64, b: u64) -> u64 {
    map_doublewords(a, b, |a, b| mask::<32>(a == b) as u32)
}

/// Quadwords that are equal.
pub fn pcmpeqq(a: u64, b: u64) -> u64 {
    mask::<64>(a == b)
}

/// Signed bytes of `a` that are greater.
pub fn pcmpgtb(a: u64, b: u64) -> u64 {
    map_bytes(a, b, |a, b| mask::<8>(a as i8 > b as i8) as u8)
}

/// Signed words of `a` that are greater.
pub fn pcmpgtw(a: u64, b: u64) -> u64 {
    map_words(a, b, |a, b| mask::<16>(a as i16 > b as i16) as u16)
}

/// Signed doublewords of `a` that are greater.
pub fn pcmpgtd(a: u64, b: u64) -> u64 {
    map_doublewords(a, b, |a, b| mask::<32>(a as i32 > b as i32) as u32)
}

/// Signed quadwords of `a` that are greater.
pub fn pcmpgtq(a: u64, b: u64) -> u64 {
    mask::<64>(a as i64 > b as i64)
}

/// ZF and CF of PTEST with destination `a` and source `b`: no common bit; no bit of `b` outside `a`.
pub fn ptest(a: [u64; 2], b: [u64; 2]) -> (bool, bool) {
    (a[0] & b[0] | a[1] & b[1] == 0, !a[0] & b[0] | !a[1] & b[1] == 0)
}

/// The sign bits of a half's eight bytes, in bits 7:0.
pub fn pmovmskb(a: u64) -> u64 {
    // The product moves bit 8n+7 to bit 56+n; no two partial products meet.
    (a >> 7 & 0x0101_0101_0101_0101).wrapping_mul(0x0102_0408_1020_4080) >> 56
}

/// The sign bits of a half's two doublewords, in bits 1:0.
pub fn movmskps(a: u64) -> u64 {
    a >> 31 & 1 | a >> 62 & 2
}

/// The sign bit of a half, in bit 0.
pub fn movmskpd(a: u64) -> u64 {
    a >> 63
}
