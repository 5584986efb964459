//! Rounds of the Advanced Encryption Standard (FIPS 197). A register holds the state column by column, byte 0 first.
//!
//! The tables make the time of a round depend on the data, as seen by other users of the host's caches.

use std::array::from_fn;

/// Product in the field of 256 elements, modulo x^8 + x^4 + x^3 + x + 1.
const fn multiply(mut a: u8, mut b: u8) -> u8 {
    let mut product = 0;
    while b != 0 {
        if b & 1 != 0 {
            product ^= a;
        }
        a = a << 1 ^ if a & 0x80 != 0 { 0x1b } else { 0 };
        b >>= 1;
    }
    product
}

/// The substitution of SubBytes and its inverse.
static SUBSTITUTION: ([u8; 256], [u8; 256]) = {
    let (mut forward, mut inverse) = ([0; 256], [0; 256]);
    // 3 generates the field's multiplicative group and f6h is its inverse, so p and q run through all pairs of inverses.
    let (mut p, mut q) = (1_u8, 1_u8);
    let mut step = 0;
    while step < 256 {
        let reciprocal = if step == 255 { 0 } else { q };
        let operand = if step == 255 { 0 } else { p };
        let substitute = reciprocal
            ^ reciprocal.rotate_left(1)
            ^ reciprocal.rotate_left(2)
            ^ reciprocal.rotate_left(3)
            ^ reciprocal.rotate_left(4)
            ^ 0x63;
        forward[operand as usize] = substitute;
        inverse[substitute as usize] = operand;
        p = multiply(p, 3);
        q = multiply(q, 0xf6);
        step += 1;
    }
    (forward, inverse)
};

/// What a byte in row 0 adds to its column after substitution and mixing; other rows do the same, rotated.
const fn mixing_table(substitution: &[u8; 256], column: [u8; 4]) -> [u32; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let value = substitution[byte];
        table[byte] = u32::from_le_bytes([
            multiply(value, column[0]),
            multiply(value, column[1]),
            multiply(value, column[2]),
            multiply(value, column[3]),
        ]);
        byte += 1;
    }
    table
}

/// The first columns of MixColumns' matrix and its inverse.
const MIX: [u8; 4] = [2, 1, 1, 3];
const INVERSE_MIX: [u8; 4] = [14, 9, 13, 11];

const IDENTITY: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = byte as u8;
        byte += 1;
    }
    table
};

static ENCRYPTION: [u32; 256] = mixing_table(&SUBSTITUTION.0, MIX);
static DECRYPTION: [u32; 256] = mixing_table(&SUBSTITUTION.1, INVERSE_MIX);
static INVERSE_MIXING: [u32; 256] = mixing_table(&IDENTITY, INVERSE_MIX);

type State = [u8; 16];

fn state(a: [u64; 2]) -> State {
    from_fn(|index| (a[index / 8] >> (index % 8 * 8)) as u8)
}

fn halves(state: State) -> [u64; 2] {
    from_fn(|half| (0..8).fold(0, |all, index| all | u64::from(state[half * 8 + index]) << (index * 8)))
}

fn add(a: [u64; 2], key: [u64; 2]) -> [u64; 2] {
    [a[0] ^ key[0], a[1] ^ key[1]]
}

/// Substitutes and mixes columns by a table, where row r of column c comes from column c + `shift` * r.
fn mix(a: [u64; 2], table: &[u32; 256], shift: usize) -> [u64; 2] {
    let byte = |column: usize, row: usize| {
        let column = (column + shift * row) & 3;
        usize::from((a[column >> 1] >> ((column & 1) * 32 + row * 8)) as u8)
    };
    let column = |column: usize| {
        let rows = [0, 1, 2, 3].map(|row| table[byte(column, row)].rotate_left(8 * row as u32));
        u64::from(rows[0] ^ rows[1] ^ rows[2] ^ rows[3])
    };
    [column(0) | column(1) << 32, column(2) | column(3) << 32]
}

/// One round of encryption.
pub fn aesenc(a: [u64; 2], key: [u64; 2]) -> [u64; 2] {
    add(mix(a, &ENCRYPTION, 1), key)
}

/// The last round of encryption.
pub fn aesenclast(a: [u64; 2], key: [u64; 2]) -> [u64; 2] {
    let state = state(a);
    // ShiftRows and SubBytes.
    add(halves(from_fn(|index| SUBSTITUTION.0[usize::from(state[(index + index % 4 * 4) % 16])])), key)
}

/// One round of decryption, of the equivalent inverse cipher.
pub fn aesdec(a: [u64; 2], key: [u64; 2]) -> [u64; 2] {
    add(mix(a, &DECRYPTION, 3), key)
}

/// The last round of decryption.
pub fn aesdeclast(a: [u64; 2], key: [u64; 2]) -> [u64; 2] {
    let state = state(a);
    add(halves(from_fn(|index| SUBSTITUTION.1[usize::from(state[(index + 16 - index % 4 * 4) % 16])])), key)
}

/// InvMixColumns, which makes round keys for decryption.
pub fn aesimc(a: [u64; 2]) -> [u64; 2] {
    mix(a, &INVERSE_MIXING, 0)
}

/// Helps to expand a key, with the round constant `constant`.
pub fn aeskeygenassist(a: [u64; 2], constant: u8) -> [u64; 2] {
    a.map(|half| {
        let word = ((half >> 32) as u32).to_le_bytes().map(|byte| SUBSTITUTION.0[usize::from(byte)]);
        let word = u32::from_le_bytes(word);
        u64::from(word) | u64::from(word.rotate_right(8) ^ u32::from(constant)) << 32
    })
}
