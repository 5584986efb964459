//! Arithmetic of polynomials over two elements: PCLMULQDQ and CRC32.

/// PCLMULQDQ: the carry-less product of one half of each operand, chosen by bits 0 and 4 of `control`.
pub fn pclmulqdq(a: [u64; 2], b: [u64; 2], control: u8) -> [u64; 2] {
    let (a, b) = (a[usize::from(control & 1)], b[usize::from(control >> 4 & 1)]);
    // Products of four bits and `b`.
    let mut multiples = [0_u128; 16];
    for bits in 1..16 {
        let odd = if bits & 1 != 0 { u128::from(b) } else { 0 };
        multiples[bits] = multiples[bits >> 1] << 1 ^ odd;
    }
    let product = (0..16).rev().fold(0, |product, digit| product << 4 ^ multiples[(a >> (4 * digit)) as usize & 15]);
    [product as u64, (product >> 64) as u64]
}

/// Remainders of all bytes, with CRC-32C's polynomial (11EDC6F41h), bits reflected.
const CRC32C: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut remainder = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            remainder = if remainder & 1 != 0 { remainder >> 1 ^ 0x82f6_3b78 } else { remainder >> 1 };
            bit += 1;
        }
        table[byte] = remainder;
        byte += 1;
    }
    table
};

/// CRC32: accumulates the low `bytes` bytes (1, 2, 4, 8) of `value` into the low 32 bits of `crc`.
pub fn crc32(crc: u64, value: u64, bytes: u64) -> u64 {
    let all = value.to_le_bytes();
    let crc =
        all.iter().take(bytes as usize).fold(crc as u32, |crc, byte| crc >> 8 ^ CRC32C[usize::from(crc as u8 ^ byte)]);
    u64::from(crc)
}
