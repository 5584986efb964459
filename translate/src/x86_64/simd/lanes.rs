//! 64-bit halves as lanes, and functions applied to each lane.

use std::array::from_fn;

/// The 16-bit lanes of a half.
pub(super) fn words(a: u64) -> [u16; 4] {
    from_fn(|lane| (a >> (16 * lane)) as u16)
}

/// The 32-bit lanes of a half.
pub(super) fn doublewords(a: u64) -> [u32; 2] {
    [a as u32, (a >> 32) as u32]
}

/// The half with these 16-bit lanes.
pub(super) fn from_words(lanes: [u16; 4]) -> u64 {
    lanes.iter().rev().fold(0, |all, &lane| all << 16 | u64::from(lane))
}

/// The half with these 32-bit lanes.
pub(super) fn from_doublewords(lanes: [u32; 2]) -> u64 {
    u64::from(lanes[0]) | u64::from(lanes[1]) << 32
}

/// Applies a function to each pair of bytes.
#[inline]
pub(super) fn map_bytes(a: u64, b: u64, function: impl Fn(u8, u8) -> u8) -> u64 {
    let (a, b) = (a.to_le_bytes(), b.to_le_bytes());
    u64::from_le_bytes(from_fn(|lane| function(a[lane], b[lane])))
}

/// Applies a function to each pair of signed bytes.
#[inline]
pub(super) fn map_signed_bytes(a: u64, b: u64, function: impl Fn(i8, i8) -> i8) -> u64 {
    map_bytes(a, b, |a, b| function(a as i8, b as i8) as u8)
}

/// Applies a function to each pair of 16-bit lanes.
#[inline]
pub(super) fn map_words(a: u64, b: u64, function: impl Fn(u16, u16) -> u16) -> u64 {
    let (a, b) = (words(a), words(b));
    from_words(from_fn(|lane| function(a[lane], b[lane])))
}

/// Applies a function to each pair of signed 16-bit lanes.
#[inline]
pub(super) fn map_signed_words(a: u64, b: u64, function: impl Fn(i16, i16) -> i16) -> u64 {
    map_words(a, b, |a, b| function(a as i16, b as i16) as u16)
}

/// Applies a function to each pair of 32-bit lanes.
#[inline]
pub(super) fn map_doublewords(a: u64, b: u64, function: impl Fn(u32, u32) -> u32) -> u64 {
    let (a, b) = (doublewords(a), doublewords(b));
    from_doublewords(from_fn(|lane| function(a[lane], b[lane])))
}

/// Applies a function to each pair of signed 32-bit lanes.
#[inline]
pub(super) fn map_signed_doublewords(a: u64, b: u64, function: impl Fn(i32, i32) -> i32) -> u64 {
    map_doublewords(a, b, |a, b| function(a as i32, b as i32) as u32)
}
