//! Rounds and message schedules of SHA-1 and SHA-256 (FIPS 180-4).

/// The four doublewords of a register.
fn lanes(a: [u64; 2]) -> [u32; 4] {
    [a[0] as u32, (a[0] >> 32) as u32, a[1] as u32, (a[1] >> 32) as u32]
}

fn halves(lanes: [u32; 4]) -> [u64; 2] {
    [u64::from(lanes[0]) | u64::from(lanes[1]) << 32, u64::from(lanes[2]) | u64::from(lanes[3]) << 32]
}

fn choose(x: u32, y: u32, z: u32) -> u32 {
    x & y ^ !x & z
}

fn parity(x: u32, y: u32, z: u32) -> u32 {
    x ^ y ^ z
}

fn majority(x: u32, y: u32, z: u32) -> u32 {
    x & y ^ x & z ^ y & z
}

/// Four rounds of SHA-1 on the state a, b, c, d (from the highest lane down) and four words of the message, the first of
/// which has e added; bits 1:0 of `function` choose the function and constant.
pub fn sha1rnds4(state: [u64; 2], message: [u64; 2], function: u8) -> [u64; 2] {
    let (mix, constant): (fn(u32, u32, u32) -> u32, u32) = match function & 3 {
        0 => (choose, 0x5a82_7999),
        1 => (parity, 0x6ed9_eba1),
        2 => (majority, 0x8f1b_bcdc),
        _ => (parity, 0xca62_c1d6),
    };
    let [mut d, mut c, mut b, mut a] = lanes(state);
    let mut e = 0_u32;
    for word in lanes(message).into_iter().rev() {
        let next =
            mix(b, c, d).wrapping_add(a.rotate_left(5)).wrapping_add(word).wrapping_add(e).wrapping_add(constant);
        (a, b, c, d, e) = (next, a, b.rotate_left(30), c, d);
    }
    halves([d, c, b, a])
}

/// Adds e after four rounds, made of the a before them in the highest lane of `state`, to the first word of the message.
pub fn sha1nexte(state: [u64; 2], message: [u64; 2]) -> [u64; 2] {
    let mut sum = lanes(message);
    sum[3] = sum[3].wrapping_add(lanes(state)[3].rotate_left(30));
    halves(sum)
}

/// First part of the message schedule of SHA-1.
pub fn sha1msg1(a: [u64; 2], b: [u64; 2]) -> [u64; 2] {
    let ([w3, w2, w1, w0], [_, _, w5, w4]) = (lanes(a), lanes(b));
    halves([w5 ^ w3, w4 ^ w2, w3 ^ w1, w2 ^ w0])
}

/// Last part of the message schedule of SHA-1.
pub fn sha1msg2(a: [u64; 2], b: [u64; 2]) -> [u64; 2] {
    let ([a3, a2, a1, a0], [w15, w14, w13, _]) = (lanes(a), lanes(b));
    let w16 = (a0 ^ w13).rotate_left(1);
    halves([(a3 ^ w16).rotate_left(1), (a2 ^ w15).rotate_left(1), (a1 ^ w14).rotate_left(1), w16])
}

/// Two rounds of SHA-256: `cdgh` and `abef` hold the state from the highest lane down, the low half of `message` two words
/// with their round constants added. Gives the new a, b, e, f.
pub fn sha256rnds2(cdgh: [u64; 2], abef: [u64; 2], message: u64) -> [u64; 2] {
    let ([mut h, mut g, mut d, mut c], [mut f, mut e, mut b, mut a]) = (lanes(cdgh), lanes(abef));
    for word in [message as u32, (message >> 32) as u32] {
        let sum_e = e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25);
        let sum_a = a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22);
        let first = choose(e, f, g).wrapping_add(sum_e).wrapping_add(word).wrapping_add(h);
        let second = majority(a, b, c).wrapping_add(sum_a);
        (a, b, c, d, e, f, g, h) = (first.wrapping_add(second), a, b, c, first.wrapping_add(d), e, f, g);
    }
    halves([f, e, b, a])
}

fn sigma0(x: u32) -> u32 {
    x.rotate_right(7) ^ x.rotate_right(18) ^ x >> 3
}

fn sigma1(x: u32) -> u32 {
    x.rotate_right(17) ^ x.rotate_right(19) ^ x >> 10
}

/// First part of the message schedule of SHA-256.
pub fn sha256msg1(a: [u64; 2], b: [u64; 2]) -> [u64; 2] {
    let ([w0, w1, w2, w3], w4) = (lanes(a), b[0] as u32);
    let next = |word: u32, later: u32| word.wrapping_add(sigma0(later));
    halves([next(w0, w1), next(w1, w2), next(w2, w3), next(w3, w4)])
}

/// Last part of the message schedule of SHA-256.
pub fn sha256msg2(a: [u64; 2], b: [u64; 2]) -> [u64; 2] {
    let ([a0, a1, a2, a3], [_, _, w14, w15]) = (lanes(a), lanes(b));
    let w16 = a0.wrapping_add(sigma1(w14));
    let w17 = a1.wrapping_add(sigma1(w15));
    halves([w16, w17, a2.wrapping_add(sigma1(w16)), a3.wrapping_add(sigma1(w17))])
}
