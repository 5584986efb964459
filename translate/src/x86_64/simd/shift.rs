//! Shifts by a count that is the same for all lanes. A count beyond the lane's width shifts everything out.

use super::lanes::*;

/// Shifts words towards the high bits.
pub fn psllw(a: u64, count: u64) -> u64 {
    if count > 15 { 0 } else { map_words(a, 0, |a, _| a << count) }
}

/// Shifts doublewords towards the high bits.
pub fn pslld(a: u64, count: u64) -> u64 {
    if count > 31 { 0 } else { map_doublewords(a, 0, |a, _| a << count) }
}

/// Shifts quadwords towards the high bits.
pub fn psllq(a: u64, count: u64) -> u64 {
    if count > 63 { 0 } else { a << count }
}

/// Shifts words towards the low bits, filling with zeroes.
pub fn psrlw(a: u64, count: u64) -> u64 {
    if count > 15 { 0 } else { map_words(a, 0, |a, _| a >> count) }
}

/// Shifts doublewords towards the low bits, filling with zeroes.
pub fn psrld(a: u64, count: u64) -> u64 {
    if count > 31 { 0 } else { map_doublewords(a, 0, |a, _| a >> count) }
}

/// Shifts quadwords towards the low bits, filling with zeroes.
pub fn psrlq(a: u64, count: u64) -> u64 {
    if count > 63 { 0 } else { a >> count }
}

/// Shifts words towards the low bits, filling with the sign.
pub fn psraw(a: u64, count: u64) -> u64 {
    let count = count.min(15);
    map_signed_words(a, 0, |a, _| a >> count)
}

/// Shifts doublewords towards the low bits, filling with the sign.
pub fn psrad(a: u64, count: u64) -> u64 {
    let count = count.min(31);
    map_signed_doublewords(a, 0, |a, _| a >> count)
}

fn whole(a: [u64; 2]) -> u128 {
    u128::from(a[0]) | u128::from(a[1]) << 64
}

fn halves(a: u128) -> [u64; 2] {
    [a as u64, (a >> 64) as u64]
}

/// Shifts a whole register towards the high bits by bytes.
pub fn pslldq(a: [u64; 2], bytes: u8) -> [u64; 2] {
    halves(whole(a).checked_shl(u32::from(bytes) * 8).unwrap_or(0))
}

/// Shifts a whole register towards the low bits by bytes.
pub fn psrldq(a: [u64; 2], bytes: u8) -> [u64; 2] {
    halves(whole(a).checked_shr(u32::from(bytes) * 8).unwrap_or(0))
}

/// Eight bytes of the sixteen in `high` and `low`, from byte `offset` on; zeroes beyond. PALIGNR on MMX registers, and what each half
/// of the other byte shifts is made of.
pub fn window(high: u64, low: u64, offset: u64) -> u64 {
    if offset > 15 { 0 } else { (whole([low, high]) >> (offset * 8)) as u64 }
}

/// PALIGNR on XMM registers: sixteen bytes of destination (high) and source (low), from byte `offset` on.
pub fn palignr(destination: [u64; 2], source: [u64; 2], offset: u8) -> [u64; 2] {
    if offset < 16 {
        let bits = u32::from(offset) * 8;
        let from_destination = whole(destination).checked_shl(128 - bits).unwrap_or(0);
        halves(whole(source) >> bits | from_destination)
    } else {
        psrldq(destination, offset - 16)
    }
}

/// Shifts doublewords towards the high bits, each by its own count.
pub fn psllvd(a: u64, counts: u64) -> u64 {
    map_doublewords(a, counts, |a, count| a.checked_shl(count).unwrap_or(0))
}

/// Shifts quadwords towards the high bits, each by its own count.
pub fn psllvq(a: u64, count: u64) -> u64 {
    psllq(a, count)
}

/// Shifts doublewords towards the low bits, each by its own count, filling with zeroes.
pub fn psrlvd(a: u64, counts: u64) -> u64 {
    map_doublewords(a, counts, |a, count| a.checked_shr(count).unwrap_or(0))
}

/// Shifts quadwords towards the low bits, each by its own count, filling with zeroes.
pub fn psrlvq(a: u64, count: u64) -> u64 {
    psrlq(a, count)
}

/// Shifts doublewords towards the low bits, each by its own count, filling with the sign.
pub fn psravd(a: u64, counts: u64) -> u64 {
    map_doublewords(a, counts, |a, count| (a as i32 >> count.min(31)) as u32)
}
