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
const SUBSTITUTION: ([u8; 256], [u8; 256]) = {
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

/// ShiftRows and SubBytes.
fn shift_and_substitute(state: State) -> State {
    from_fn(|index| SUBSTITUTION.0[usize::from(state[(index + index % 4 * 4) % 16])])
}

/// InvShiftRows and InvSubBytes.
fn inverse_shift_and_substitute(state: State) -> State {
    from_fn(|index| SUBSTITUTION.1[usize::from(state[(index + 16 - index % 4 * 4) % 16])])
}

/// Multiplies each column by the circulant matrix whose first row is `row`.
fn mix_columns(state: State, row: [u8; 4]) -> State {
    from_fn(|index| {
        let column = index / 4 * 4;
        (0..4).fold(0, |sum, other| sum ^ multiply(state[column + other], row[(other + 4 - index % 4) % 4]))
    })
}

const MIX: [u8; 4] = [2, 3, 1, 1];
const INVERSE_MIX: [u8; 4] = [14, 11, 13, 9];

/// One round of encryption.
pub fn aesenc(a: [u64; 2], key: [u64; 2]) -> [u64; 2] {
    add(halves(mix_columns(shift_and_substitute(state(a)), MIX)), key)
}

/// The last round of encryption.
pub fn aesenclast(a: [u64; 2], key: [u64; 2]) -> [u64; 2] {
    add(halves(shift_and_substitute(state(a))), key)
}

/// One round of decryption, of the equivalent inverse cipher.
pub fn aesdec(a: [u64; 2], key: [u64; 2]) -> [u64; 2] {
    add(halves(mix_columns(inverse_shift_and_substitute(state(a)), INVERSE_MIX)), key)
}

/// The last round of decryption.
pub fn aesdeclast(a: [u64; 2], key: [u64; 2]) -> [u64; 2] {
    add(halves(inverse_shift_and_substitute(state(a))), key)
}

/// InvMixColumns, which makes round keys for decryption.
pub fn aesimc(a: [u64; 2]) -> [u64; 2] {
    halves(mix_columns(state(a), INVERSE_MIX))
}

/// Helps to expand a key, with the round constant `constant`.
pub fn aeskeygenassist(a: [u64; 2], constant: u8) -> [u64; 2] {
    a.map(|half| {
        let word = ((half >> 32) as u32).to_le_bytes().map(|byte| SUBSTITUTION.0[usize::from(byte)]);
        let word = u32::from_le_bytes(word);
        u64::from(word) | u64::from(word.rotate_right(8) ^ u32::from(constant)) << 32
    })
}
