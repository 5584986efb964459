//! Integer arithmetic.

use std::array::from_fn;

use super::lanes::*;

/// Defines a function of two halves that applies a function to each pair of lanes.
macro_rules! lanewise {
    ($($(#[$doc:meta])* $name:ident = $map:ident($function:expr);)*) => {
        $($(#[$doc])* pub fn $name(a: u64, b: u64) -> u64 { $map(a, b, $function) })*
    };
}

lanewise! {
    /// Sum of bytes.
    paddb = map_bytes(u8::wrapping_add);
    /// Sum of words.
    paddw = map_words(u16::wrapping_add);
    /// Sum of doublewords.
    paddd = map_doublewords(u32::wrapping_add);
    /// Difference of bytes.
    psubb = map_bytes(u8::wrapping_sub);
    /// Difference of words.
    psubw = map_words(u16::wrapping_sub);
    /// Difference of doublewords.
    psubd = map_doublewords(u32::wrapping_sub);
    /// Sum of signed bytes, saturated.
    paddsb = map_signed_bytes(i8::saturating_add);
    /// Sum of signed words, saturated.
    paddsw = map_signed_words(i16::saturating_add);
    /// Sum of unsigned bytes, saturated.
    paddusb = map_bytes(u8::saturating_add);
    /// Sum of unsigned words, saturated.
    paddusw = map_words(u16::saturating_add);
    /// Difference of signed bytes, saturated.
    psubsb = map_signed_bytes(i8::saturating_sub);
    /// Difference of signed words, saturated.
    psubsw = map_signed_words(i16::saturating_sub);
    /// Difference of unsigned bytes, saturated.
    psubusb = map_bytes(u8::saturating_sub);
    /// Difference of unsigned words, saturated.
    psubusw = map_words(u16::saturating_sub);
    /// Low half of the product of words.
    pmullw = map_words(u16::wrapping_mul);
    /// High half of the product of signed words.
    pmulhw = map_signed_words(|a, b| ((i32::from(a) * i32::from(b)) >> 16) as i16);
    /// High half of the product of unsigned words.
    pmulhuw = map_words(|a, b| ((u32::from(a) * u32::from(b)) >> 16) as u16);
    /// Product of signed words as fractions of 15 bits, rounded.
    pmulhrsw = map_signed_words(|a, b| ((((i32::from(a) * i32::from(b)) >> 14) + 1) >> 1) as i16);
    /// Low half of the product of doublewords.
    pmulld = map_doublewords(u32::wrapping_mul);
    /// Mean of unsigned bytes, rounded up.
    pavgb = map_bytes(|a, b| ((u16::from(a) + u16::from(b) + 1) >> 1) as u8);
    /// Mean of unsigned words, rounded up.
    pavgw = map_words(|a, b| ((u32::from(a) + u32::from(b) + 1) >> 1) as u16);
    /// Smaller of unsigned bytes.
    pminub = map_bytes(u8::min);
    /// Smaller of unsigned words.
    pminuw = map_words(u16::min);
    /// Smaller of unsigned doublewords.
    pminud = map_doublewords(u32::min);
    /// Smaller of signed bytes.
    pminsb = map_signed_bytes(i8::min);
    /// Smaller of signed words.
    pminsw = map_signed_words(i16::min);
    /// Smaller of signed doublewords.
    pminsd = map_signed_doublewords(i32::min);
    /// Larger of unsigned bytes.
    pmaxub = map_bytes(u8::max);
    /// Larger of unsigned words.
    pmaxuw = map_words(u16::max);
    /// Larger of unsigned doublewords.
    pmaxud = map_doublewords(u32::max);
    /// Larger of signed bytes.
    pmaxsb = map_signed_bytes(i8::max);
    /// Larger of signed words.
    pmaxsw = map_signed_words(i16::max);
    /// Larger of signed doublewords.
    pmaxsd = map_signed_doublewords(i32::max);
    /// Bytes of `a` negated, zeroed or kept, by the sign of those of `b`.
    psignb = map_signed_bytes(|a, b| a.wrapping_mul(b.signum()));
    /// Words of `a` negated, zeroed or kept, by the sign of those of `b`.
    psignw = map_signed_words(|a, b| a.wrapping_mul(b.signum()));
    /// Doublewords of `a` negated, zeroed or kept, by the sign of those of `b`.
    psignd = map_signed_doublewords(|a, b| a.wrapping_mul(b.signum()));
}

/// Sum of quadwords.
pub fn paddq(a: u64, b: u64) -> u64 {
    a.wrapping_add(b)
}

/// Difference of quadwords.
pub fn psubq(a: u64, b: u64) -> u64 {
    a.wrapping_sub(b)
}

/// Product of the low doublewords, unsigned.
pub fn pmuludq(a: u64, b: u64) -> u64 {
    u64::from(a as u32) * u64::from(b as u32)
}

/// Product of the low doublewords, signed.
pub fn pmuldq(a: u64, b: u64) -> u64 {
    (i64::from(a as i32) * i64::from(b as i32)) as u64
}

/// Products of signed words, neighbours added to doublewords.
pub fn pmaddwd(a: u64, b: u64) -> u64 {
    let (a, b) = (words(a), words(b));
    let product = |lane: usize| i32::from(a[lane] as i16) * i32::from(b[lane] as i16);
    from_doublewords(from_fn(|lane| product(2 * lane).wrapping_add(product(2 * lane + 1)) as u32))
}

/// Products of unsigned bytes of `a` and signed bytes of `b`, neighbours added to saturated words.
pub fn pmaddubsw(a: u64, b: u64) -> u64 {
    let (a, b) = (a.to_le_bytes(), b.to_le_bytes());
    let product = |lane: usize| i16::from(a[lane]) * i16::from(b[lane] as i8);
    from_words(from_fn(|lane| product(2 * lane).saturating_add(product(2 * lane + 1)) as u16))
}

/// Sum of the absolute differences of unsigned bytes.
pub fn psadbw(a: u64, b: u64) -> u64 {
    let (a, b) = (a.to_le_bytes(), b.to_le_bytes());
    a.iter().zip(b).map(|(&a, b)| u64::from(a.abs_diff(b))).sum()
}

/// Absolute values of signed bytes.
pub fn pabsb(a: u64) -> u64 {
    map_signed_bytes(a, 0, |a, _| a.wrapping_abs())
}

/// Absolute values of signed words.
pub fn pabsw(a: u64) -> u64 {
    map_signed_words(a, 0, |a, _| a.wrapping_abs())
}

/// Absolute values of signed doublewords.
pub fn pabsd(a: u64) -> u64 {
    map_signed_doublewords(a, 0, |a, _| a.wrapping_abs())
}

/// Combines neighbouring words of one operand: the two of each half give one half of the result.
fn horizontal_words(low: u64, high: u64, function: impl Fn(i16, i16) -> i16) -> u64 {
    let (low, high) = (words(low).map(|lane| lane as i16), words(high).map(|lane| lane as i16));
    from_words(
        [function(low[0], low[1]), function(low[2], low[3]), function(high[0], high[1]), function(high[2], high[3])]
            .map(|lane| lane as u16),
    )
}

/// Sums of neighbouring words of two halves. One half of an XMM result comes from the low and high halves of one operand; the
/// MMX result from the first and the second operand. So do the others of their kind below.
pub fn phaddw(low: u64, high: u64) -> u64 {
    horizontal_words(low, high, i16::wrapping_add)
}

/// Saturated sums of neighbouring signed words of two halves.
pub fn phaddsw(low: u64, high: u64) -> u64 {
    horizontal_words(low, high, i16::saturating_add)
}

/// Differences of neighbouring words of two halves.
pub fn phsubw(low: u64, high: u64) -> u64 {
    horizontal_words(low, high, i16::wrapping_sub)
}

/// Saturated differences of neighbouring signed words of two halves.
pub fn phsubsw(low: u64, high: u64) -> u64 {
    horizontal_words(low, high, i16::saturating_sub)
}

/// Sums of neighbouring doublewords of two halves.
pub fn phaddd(low: u64, high: u64) -> u64 {
    from_doublewords([low, high].map(|half| (half as u32).wrapping_add((half >> 32) as u32)))
}

/// Differences of neighbouring doublewords of two halves.
pub fn phsubd(low: u64, high: u64) -> u64 {
    from_doublewords([low, high].map(|half| (half as u32).wrapping_sub((half >> 32) as u32)))
}

/// The smallest of eight unsigned words (bits 15:0) and its number (bits 18:16); the upper half of the result is zero.
pub fn phminposuw(low: u64, high: u64) -> u64 {
    let lanes = words(low).into_iter().chain(words(high));
    let (number, smallest) = (0_u64..).zip(lanes).min_by_key(|&(_, lane)| lane).unwrap_or_default();
    number << 16 | u64::from(smallest)
}

/// Sums of absolute differences of four neighbouring bytes of `a`, from eight positions onward from 0 or 4 (bit 2 of
/// `immediate`), and of the four bytes of `b` chosen by its bits 1:0.
pub fn mpsadbw(a: [u64; 2], b: [u64; 2], immediate: u8) -> [u64; 2] {
    let byte = |source: [u64; 2], index: usize| (source[(index / 8) & 1] >> (index % 8 * 8)) as u8;
    let first_a = usize::from(immediate >> 2 & 1) * 4;
    let first_b = usize::from(immediate & 3) * 4;
    let sum = |position: usize| -> u16 {
        (0..4).map(|i| u16::from(byte(a, first_a + position + i).abs_diff(byte(b, first_b + i)))).sum()
    };
    [from_words(from_fn(sum)), from_words(from_fn(|lane| sum(lane + 4)))]
}
