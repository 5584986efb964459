//! Moving lanes about: interleaving, shuffling, blending, inserting and extracting.

use std::array::from_fn;

use super::lanes::*;

/// Interleaves the low four bytes of two halves. The low half of XMM PUNPCKLBW is this of the operands' low halves, its
/// high half [`punpckhbw`] of the same; PUNPCKHBW does so with their high halves. The other widths are alike.
pub fn punpcklbw(a: u64, b: u64) -> u64 {
    let (a, b) = (a.to_le_bytes(), b.to_le_bytes());
    u64::from_le_bytes([a[0], b[0], a[1], b[1], a[2], b[2], a[3], b[3]])
}

/// Interleaves the high four bytes of two halves.
pub fn punpckhbw(a: u64, b: u64) -> u64 {
    punpcklbw(a >> 32, b >> 32)
}

/// Interleaves the low two words of two halves.
pub fn punpcklwd(a: u64, b: u64) -> u64 {
    let (a, b) = (words(a), words(b));
    from_words([a[0], b[0], a[1], b[1]])
}

/// Interleaves the high two words of two halves.
pub fn punpckhwd(a: u64, b: u64) -> u64 {
    punpcklwd(a >> 32, b >> 32)
}

/// The low doublewords of two halves.
pub fn punpckldq(a: u64, b: u64) -> u64 {
    from_doublewords([a as u32, b as u32])
}

/// The high doublewords of two halves.
pub fn punpckhdq(a: u64, b: u64) -> u64 {
    punpckldq(a >> 32, b >> 32)
}

/// One half of XMM PSHUFB: bytes of the table `low` and `high` chosen by the low four bits of each byte of `control`; zero where its
/// bit 7 is set.
pub fn pshufb(low: u64, high: u64, control: u64) -> u64 {
    let table = [low, high];
    map_bytes(control, 0, |index, _| {
        if index & 0x80 != 0 { 0 } else { (table[usize::from(index >> 3 & 1)] >> ((index & 7) * 8)) as u8 }
    })
}

/// MMX PSHUFB: bytes of `table` chosen by the low three bits of each byte of `control`; zero where its bit 7 is set.
pub fn pshufb_mmx(table: u64, control: u64) -> u64 {
    pshufb(table, table, control)
}

/// Two doublewords of the four in `low` and `high`, chosen by bits 1:0 and 3:2 of `control`: one half of PSHUFD, with
/// four bits of its immediate for each half; and of SHUFPS, whose low half is taken from the destination and high half from
/// the source.
pub fn select_doublewords(low: u64, high: u64, control: u64) -> u64 {
    let table = [low as u32, (low >> 32) as u32, high as u32, (high >> 32) as u32];
    from_doublewords([table[(control & 3) as usize], table[(control >> 2 & 3) as usize]])
}

/// Words of a half chosen by two bits each of `control`: PSHUFW, and what PSHUFLW and PSHUFHW do to one half.
pub fn pshufw(a: u64, control: u64) -> u64 {
    let table = words(a);
    from_words(from_fn(|lane| table[(control >> (2 * lane) & 3) as usize]))
}

/// PSHUFD.
pub fn pshufd(a: [u64; 2], control: u8) -> [u64; 2] {
    shufps(a, a, control)
}

/// SHUFPS.
pub fn shufps(a: [u64; 2], b: [u64; 2], control: u8) -> [u64; 2] {
    let control = u64::from(control);
    [select_doublewords(a[0], a[1], control), select_doublewords(b[0], b[1], control >> 4)]
}

/// SHUFPD.
pub fn shufpd(a: [u64; 2], b: [u64; 2], control: u8) -> [u64; 2] {
    [a[usize::from(control & 1)], b[usize::from(control >> 1 & 1)]]
}

/// Bytes of `b` where the sign bit of `mask`'s is set, else of `a`.
pub fn pblendvb(a: u64, b: u64, mask: u64) -> u64 {
    blend(a, b, (mask >> 7 & 0x0101_0101_0101_0101) * 0xff)
}

/// Doublewords of `b` where the sign bit of `mask`'s is set, else of `a`.
pub fn blendvps(a: u64, b: u64, mask: u64) -> u64 {
    blend(a, b, (mask >> 31 & 0x0000_0001_0000_0001) * 0xffff_ffff)
}

/// `b` if the sign bit of `mask` is set, else `a`.
pub fn blendvpd(a: u64, b: u64, mask: u64) -> u64 {
    if mask >> 63 != 0 { b } else { a }
}

/// Words of `b` where a bit of `control`'s bits 3:0 is set, else of `a`. The high half of an XMM register takes bits 7:4.
pub fn pblendw(a: u64, b: u64, control: u64) -> u64 {
    blend(a, b, from_words(from_fn(|lane| if control >> lane & 1 != 0 { u16::MAX } else { 0 })))
}

/// Doublewords of `b` where a bit of `control`'s bits 1:0 is set, else of `a`. The high half of an XMM register takes bits 3:2.
pub fn blendps(a: u64, b: u64, control: u64) -> u64 {
    blend(a, b, from_doublewords(from_fn(|lane| if control >> lane & 1 != 0 { u32::MAX } else { 0 })))
}

/// Bits of `b` where `mask` is set, else of `a`.
fn blend(a: u64, b: u64, mask: u64) -> u64 {
    a & !mask | b & mask
}

/// `a` with the lane of `bits` bits (8, 16, 32) numbered `lane` replaced by the low bits of `value`. The number is taken modulo
/// the lanes of a half.
fn insert(a: u64, value: u64, lane: u64, bits: u64) -> u64 {
    let position = lane * bits % 64;
    blend(a, value << position, u64::MAX >> (64 - bits) << position)
}

/// A half with byte `lane` (modulo 8) replaced.
pub fn pinsrb(a: u64, value: u64, lane: u64) -> u64 {
    insert(a, value, lane & 7, 8)
}

/// A half with word `lane` (modulo 4) replaced.
pub fn pinsrw(a: u64, value: u64, lane: u64) -> u64 {
    insert(a, value, lane & 3, 16)
}

/// A half with doubleword `lane` (modulo 2) replaced.
pub fn pinsrd(a: u64, value: u64, lane: u64) -> u64 {
    insert(a, value, lane & 1, 32)
}

/// Byte `lane` (modulo 8) of a half.
pub fn pextrb(a: u64, lane: u64) -> u64 {
    a >> ((lane & 7) * 8) & 0xff
}

/// Word `lane` (modulo 4) of a half.
pub fn pextrw(a: u64, lane: u64) -> u64 {
    a >> ((lane & 3) * 16) & 0xffff
}

/// Doubleword `lane` (modulo 2) of a half.
pub fn pextrd(a: u64, lane: u64) -> u64 {
    a >> ((lane & 1) * 32) & 0xffff_ffff
}

/// INSERTPS with `value` already chosen from the source (by bits 7:6 of `control` if that is a register): it replaces the lane
/// of bits 5:4; then lanes whose bit is set in bits 3:0 become zero.
pub fn insertps(mut a: [u64; 2], value: u32, control: u8) -> [u64; 2] {
    let lane = control >> 4 & 3;
    let half = usize::from(lane >> 1);
    a[half] = pinsrd(a[half], value.into(), lane.into());
    let control = u64::from(control);
    [blendps(a[0], 0, control), blendps(a[1], 0, control >> 2)]
}

/// Two doublewords of a register, chosen by the low bits of those of the control.
pub fn permute_doublewords(a: [u64; 2], control: u64) -> u64 {
    from_doublewords(
        doublewords(control).map(|chosen| doublewords(a[(chosen >> 1 & 1) as usize])[(chosen & 1) as usize]),
    )
}

/// VPERMD and VPERMPS: each doubleword of the result is that of `a` whose number is in the same place of `control`.
pub fn vpermd(control: [[u64; 2]; 2], a: [[u64; 2]; 2]) -> [[u64; 2]; 2] {
    control.map(|half| {
        half.map(|pair| {
            from_doublewords(doublewords(pair).map(|chosen| {
                let chosen = (chosen & 7) as usize;
                doublewords(a[chosen / 4][chosen / 2 % 2])[chosen % 2]
            }))
        })
    })
}
