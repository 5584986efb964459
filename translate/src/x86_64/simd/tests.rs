//! Every function against the host's own instruction.

#![cfg(target_arch = "x86_64")]
#![allow(clippy::missing_transmute_annotations, reason = "each intrinsic's signature says the types")]

use std::arch::x86_64::*;
use std::mem::transmute;

use super::*;

type Whole = [u64; 2];

/// Pseudo-random numbers, every third of them made of bytes at the ends of their range.
pub(super) struct Numbers(pub(super) u64);

impl Numbers {
    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let random = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d);
        if !random.is_multiple_of(3) {
            return random;
        }
        const EDGES: [u8; 8] = [0, 0, 1, 0x7f, 0x80, 0x81, 0xff, 0xff];
        u64::from_le_bytes(random.to_le_bytes().map(|byte| EDGES[usize::from(byte >> 4 & 7)]))
    }

    pub(super) fn whole(&mut self) -> Whole {
        [self.next(), self.next()]
    }
}

/// Compares a function of two registers with the host's on many operands.
fn check(name: &str, ours: impl Fn(Whole, Whole) -> Whole, host: impl Fn(Whole, Whole) -> Whole) {
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    for round in 0..4000 {
        let a = numbers.whole();
        let b = if round % 16 == 0 { a } else { numbers.whole() };
        assert_eq!(ours(a, b), host(a, b), "{name} {a:x?} {b:x?}");
    }
}

/// The function of [`LANEWISE`] with this name.
fn function(name: &str) -> fn(u64, u64) -> u64 {
    LANEWISE[lanewise_named(name).unwrap_or_else(|| panic!("{name} is not in the table"))].function
}

/// The intrinsic as a function of two registers.
macro_rules! host {
    ($intrinsic:ident) => {
        |a: Whole, b: Whole| -> Whole {
            // SAFETY: the test has checked that the host has the instruction; the types have the same size.
            unsafe { transmute($intrinsic(transmute::<Whole, _>(a), transmute::<Whole, _>(b))) }
        }
    };
    (unary $intrinsic:ident) => {
        |a: Whole, _: Whole| -> Whole {
            // SAFETY: as above.
            unsafe { transmute($intrinsic(transmute::<Whole, _>(a))) }
        }
    };
    ($intrinsic:ident, $immediate:expr) => {
        |a: Whole, b: Whole| -> Whole {
            // SAFETY: as above.
            unsafe { transmute($intrinsic::<{ $immediate }>(transmute::<Whole, _>(a), transmute::<Whole, _>(b))) }
        }
    };
    (unary $intrinsic:ident, $immediate:expr) => {
        |a: Whole, _: Whole| -> Whole {
            // SAFETY: as above.
            unsafe { transmute($intrinsic::<{ $immediate }>(transmute::<Whole, _>(a))) }
        }
    };
}

/// Returns from a test whose instructions the host does not have.
macro_rules! need {
    ($test:literal, $($feature:tt),*) => {
        if !($(is_x86_feature_detected!($feature))&&*) {
            eprintln!(concat!("SKIPPED: ", $test, ": the host lacks one of", $(" ", $feature),*));
            return;
        }
    };
}

/// Runs `$body` with every value of `$immediate`, a constant.
macro_rules! for_each_immediate {
    ($immediate:ident in [$($value:literal)*] $body:block) => { $({ const $immediate: i32 = $value; $body })* };
}

#[test]
fn instructions_that_work_within_halves() {
    need!("instructions_that_work_within_halves", "sse4.1", "sse4.2", "ssse3");
    let by_half = |name: &'static str, host: &dyn Fn(Whole, Whole) -> Whole| {
        let function = function(name);
        check(name, |a, b| [function(a[0], b[0]), function(a[1], b[1])], host);
    };
    macro_rules! all { ($($name:literal $intrinsic:ident)*) => { $(by_half($name, &host!($intrinsic));)* } }
    all! {
        "paddb" _mm_add_epi8 "paddw" _mm_add_epi16 "paddd" _mm_add_epi32 "paddq" _mm_add_epi64
        "psubb" _mm_sub_epi8 "psubw" _mm_sub_epi16 "psubd" _mm_sub_epi32 "psubq" _mm_sub_epi64
        "paddsb" _mm_adds_epi8 "paddsw" _mm_adds_epi16 "paddusb" _mm_adds_epu8 "paddusw" _mm_adds_epu16
        "psubsb" _mm_subs_epi8 "psubsw" _mm_subs_epi16 "psubusb" _mm_subs_epu8 "psubusw" _mm_subs_epu16
        "pmullw" _mm_mullo_epi16 "pmulhw" _mm_mulhi_epi16 "pmulhuw" _mm_mulhi_epu16 "pmulhrsw" _mm_mulhrs_epi16
        "pmulld" _mm_mullo_epi32 "pmuludq" _mm_mul_epu32 "pmuldq" _mm_mul_epi32
        "pmaddwd" _mm_madd_epi16 "pmaddubsw" _mm_maddubs_epi16 "pavgb" _mm_avg_epu8 "pavgw" _mm_avg_epu16
        "pminub" _mm_min_epu8 "pminuw" _mm_min_epu16 "pminud" _mm_min_epu32
        "pminsb" _mm_min_epi8 "pminsw" _mm_min_epi16 "pminsd" _mm_min_epi32
        "pmaxub" _mm_max_epu8 "pmaxuw" _mm_max_epu16 "pmaxud" _mm_max_epu32
        "pmaxsb" _mm_max_epi8 "pmaxsw" _mm_max_epi16 "pmaxsd" _mm_max_epi32
        "psignb" _mm_sign_epi8 "psignw" _mm_sign_epi16 "psignd" _mm_sign_epi32 "psadbw" _mm_sad_epu8
        "pcmpeqb" _mm_cmpeq_epi8 "pcmpeqw" _mm_cmpeq_epi16 "pcmpeqd" _mm_cmpeq_epi32 "pcmpeqq" _mm_cmpeq_epi64
        "pcmpgtb" _mm_cmpgt_epi8 "pcmpgtw" _mm_cmpgt_epi16 "pcmpgtd" _mm_cmpgt_epi32 "pcmpgtq" _mm_cmpgt_epi64
    }
    check("pabsb", |a, _| a.map(arithmetic::pabsb), host!(unary _mm_abs_epi8));
    check("pabsw", |a, _| a.map(arithmetic::pabsw), host!(unary _mm_abs_epi16));
    check("pabsd", |a, _| a.map(arithmetic::pabsd), host!(unary _mm_abs_epi32));
}

#[test]
fn instructions_that_join_the_halves_of_each_operand() {
    need!("instructions_that_join_the_halves_of_each_operand", "sse4.1", "ssse3");
    let by_operand = |name: &'static str, host: &dyn Fn(Whole, Whole) -> Whole| {
        let function = function(name);
        check(name, |a, b| [function(a[0], a[1]), function(b[0], b[1])], host);
    };
    macro_rules! all { ($($name:literal $intrinsic:ident)*) => { $(by_operand($name, &host!($intrinsic));)* } }
    all! {
        "phaddw" _mm_hadd_epi16 "phaddsw" _mm_hadds_epi16 "phaddd" _mm_hadd_epi32
        "phsubw" _mm_hsub_epi16 "phsubsw" _mm_hsubs_epi16 "phsubd" _mm_hsub_epi32
        "packsswb" _mm_packs_epi16 "packuswb" _mm_packus_epi16
        "packssdw" _mm_packs_epi32 "packusdw" _mm_packus_epi32
    }
    check("phminposuw", |a, _| [arithmetic::phminposuw(a[0], a[1]), 0], host!(unary _mm_minpos_epu16));
}

#[test]
fn shifts() {
    let with_count = |name: &'static str, host: &dyn Fn(Whole, Whole) -> Whole| {
        let function = function(name);
        for shift in 0..20 {
            // Counts around the lanes' widths, and large ones.
            let count = |b: Whole| if b[0] & 1 != 0 { b[0] >> shift } else { b[0] >> 3 & 0x7f };
            let ours = |a: Whole, b: Whole| a.map(|half| function(half, count(b)));
            check(name, ours, |a, b| host(a, [count(b), b[1]]));
        }
    };
    macro_rules! all { ($($name:literal $intrinsic:ident)*) => { $(with_count($name, &host!($intrinsic));)* } }
    all! {
        "psllw" _mm_sll_epi16 "pslld" _mm_sll_epi32 "psllq" _mm_sll_epi64 "psrlw" _mm_srl_epi16 "psrld" _mm_srl_epi32
        "psrlq" _mm_srl_epi64 "psraw" _mm_sra_epi16 "psrad" _mm_sra_epi32
    }
    need!("shifts", "ssse3");
    for_each_immediate!(BYTES in [0 1 2 7 8 9 15 16 17 24 31 32 33 255] {
        check("pslldq", |a, _| shift::pslldq(a, BYTES as u8), host!(unary _mm_slli_si128, BYTES));
        check("psrldq", |a, _| shift::psrldq(a, BYTES as u8), host!(unary _mm_srli_si128, BYTES));
        check("palignr", |a, b| shift::palignr(a, b, BYTES as u8), host!(_mm_alignr_epi8, BYTES));
    });
    for offset in 0..16 {
        let by_window = |a: Whole, b: Whole| -> Whole {
            if offset < 8 {
                [shift::window(b[1], b[0], offset), shift::window(a[0], b[1], offset)]
            } else {
                [shift::window(a[0], b[1], offset - 8), shift::window(a[1], a[0], offset - 8)]
            }
        };
        check("palignr", by_window, |a, b| shift::palignr(a, b, offset as u8));
    }
}

#[test]
fn shuffles() {
    need!("shuffles", "ssse3", "sse4.1");
    use shuffle::*;
    macro_rules! unpack { ($($low:ident $high:ident $host_low:ident $host_high:ident)*) => { $(
        check(stringify!($low), |a, b| [$low(a[0], b[0]), $high(a[0], b[0])], host!($host_low));
        check(stringify!($high), |a, b| [$low(a[1], b[1]), $high(a[1], b[1])], host!($host_high));
    )* } }
    unpack! {
        punpcklbw punpckhbw _mm_unpacklo_epi8 _mm_unpackhi_epi8
        punpcklwd punpckhwd _mm_unpacklo_epi16 _mm_unpackhi_epi16
        punpckldq punpckhdq _mm_unpacklo_epi32 _mm_unpackhi_epi32
    }
    check("pshufb", |a, b| b.map(|control| pshufb(a[0], a[1], control)), host!(_mm_shuffle_epi8));
    let blendv = |a: Whole, b: Whole, mask: Whole| -> [Whole; 3] {
        // SAFETY: the host has the instructions, and the types have the same size.
        unsafe {
            let [x, y, z]: [__m128i; 3] = transmute([a, b, mask]);
            let (singles, doubles): ([__m128; 3], [__m128d; 3]) = (transmute([a, b, mask]), transmute([a, b, mask]));
            [
                transmute::<__m128i, Whole>(_mm_blendv_epi8(x, y, z)),
                transmute::<__m128, Whole>(_mm_blendv_ps(singles[0], singles[1], singles[2])),
                transmute::<__m128d, Whole>(_mm_blendv_pd(doubles[0], doubles[1], doubles[2])),
            ]
        }
    };
    let mut numbers = Numbers(7);
    for _ in 0..4000 {
        let (a, b, mask) = (numbers.whole(), numbers.whole(), numbers.whole());
        let [bytes, singles, doubles] = blendv(a, b, mask);
        for half in 0..2 {
            assert_eq!(pblendvb(a[half], b[half], mask[half]), bytes[half]);
            assert_eq!(blendvps(a[half], b[half], mask[half]), singles[half]);
            assert_eq!(blendvpd(a[half], b[half], mask[half]), doubles[half]);
        }
    }
    for_each_immediate!(CONTROL in [0 1 2 3 4 8 0x1b 0x39 0x4e 0x55 0x72 0x93 0xaa 0xc6 0xe4 0xf0 0xff] {
        let control = CONTROL as u64;
        check("pshufd", |a, _| pshufd(a, CONTROL as u8), host!(unary _mm_shuffle_epi32, CONTROL));
        check("pshuflw", |a, _| [pshufw(a[0], control), a[1]], host!(unary _mm_shufflelo_epi16, CONTROL));
        check("pshufhw", |a, _| [a[0], pshufw(a[1], control)], host!(unary _mm_shufflehi_epi16, CONTROL));
        check("shufps", |a, b| shufps(a, b, CONTROL as u8), host!(_mm_shuffle_ps, CONTROL));
        check("shufpd", |a, b| shufpd(a, b, (CONTROL & 3) as u8), host!(_mm_shuffle_pd, CONTROL & 3));
        check("pblendw", |a, b| [pblendw(a[0], b[0], control), pblendw(a[1], b[1], control >> 4)], host!(_mm_blend_epi16, CONTROL));
        check("blendps", |a, b| [blendps(a[0], b[0], control & 15), blendps(a[1], b[1], (control & 15) >> 2)], host!(_mm_blend_ps, CONTROL & 15));
        let chosen = |b: Whole| pextrd(b[CONTROL as usize >> 7 & 1], control >> 6) as u32;
        check("insertps", |a, b| insertps(a, chosen(b), CONTROL as u8), host!(_mm_insert_ps, CONTROL));
        check("mpsadbw", |a, b| arithmetic::mpsadbw(a, b, (CONTROL & 7) as u8), host!(_mm_mpsadbw_epu8, CONTROL & 7));
    });
    assert_eq!(pinsrb(0x1122_3344_5566_7788, 0xabc, 7), 0xbc22_3344_5566_7788);
    assert_eq!(pinsrw(0x1122_3344_5566_7788, 0xf_abcd, 5), 0x1122_3344_abcd_7788);
    assert_eq!(pinsrd(0x1122_3344_5566_7788, 0xf_1234_abcd, 1), 0x1234_abcd_5566_7788);
    assert_eq!(pextrb(0x1122_3344_5566_7788, 9), 0x77);
    assert_eq!(pextrw(0x1122_3344_5566_7788, 7), 0x1122);
    assert_eq!(pextrd(0x1122_3344_5566_7788, 3), 0x1122_3344);
    assert_eq!(pshufb_mmx(0x1122_3344_5566_7788, 0x8000_0102_0304_070f), 0x0088_7766_5544_1111);
}

#[test]
fn widening() {
    need!("widening", "sse4.1");
    macro_rules! all { ($($name:ident $bytes:literal $intrinsic:ident)*) => { $(
        check(stringify!($name), |a, _| [pack::$name(a[0]), pack::$name(a[0] >> ($bytes * 8))], host!(unary $intrinsic));
    )* } }
    all! {
        pmovsxbw 4 _mm_cvtepi8_epi16 pmovsxbd 2 _mm_cvtepi8_epi32 pmovsxbq 1 _mm_cvtepi8_epi64
        pmovsxwd 4 _mm_cvtepi16_epi32 pmovsxwq 2 _mm_cvtepi16_epi64 pmovsxdq 4 _mm_cvtepi32_epi64
        pmovzxbw 4 _mm_cvtepu8_epi16 pmovzxbd 2 _mm_cvtepu8_epi32 pmovzxbq 1 _mm_cvtepu8_epi64
        pmovzxwd 4 _mm_cvtepu16_epi32 pmovzxwq 2 _mm_cvtepu16_epi64 pmovzxdq 4 _mm_cvtepu32_epi64
    }
}

#[test]
fn masks_and_tests() {
    need!("masks_and_tests", "sse4.1");
    let mut numbers = Numbers(11);
    for round in 0..4000 {
        let (a, mut b) = (numbers.whole(), numbers.whole());
        match round % 4 {
            1 => b = [b[0] & !a[0], b[1] & !a[1]],
            2 => b = [b[0] & a[0], b[1] & a[1]],
            3 => b[0] &= !a[0],
            _ => {}
        }
        // SAFETY: the host has the instructions, and the types have the same size.
        let (bytes, singles, doubles, zero, carry) = unsafe {
            (
                _mm_movemask_epi8(transmute::<Whole, _>(a)),
                _mm_movemask_ps(transmute::<Whole, _>(a)),
                _mm_movemask_pd(transmute::<Whole, _>(a)),
                _mm_testz_si128(transmute::<Whole, _>(a), transmute::<Whole, _>(b)),
                _mm_testc_si128(transmute::<Whole, _>(a), transmute::<Whole, _>(b)),
            )
        };
        assert_eq!(compare::pmovmskb(a[0]) | compare::pmovmskb(a[1]) << 8, bytes as u64, "{a:x?}");
        assert_eq!(compare::movmskps(a[0]) | compare::movmskps(a[1]) << 2, singles as u64, "{a:x?}");
        assert_eq!(compare::movmskpd(a[0]) | compare::movmskpd(a[1]) << 1, doubles as u64, "{a:x?}");
        assert_eq!(compare::ptest(a, b), (zero != 0, carry != 0), "{a:x?} {b:x?}");
    }
}

#[test]
fn cryptography() {
    need!("cryptography", "aes", "pclmulqdq", "sse4.2");
    check("aesenc", aes::aesenc, host!(_mm_aesenc_si128));
    check("aesenclast", aes::aesenclast, host!(_mm_aesenclast_si128));
    check("aesdec", aes::aesdec, host!(_mm_aesdec_si128));
    check("aesdeclast", aes::aesdeclast, host!(_mm_aesdeclast_si128));
    check("aesimc", |a, _| aes::aesimc(a), host!(unary _mm_aesimc_si128));
    for_each_immediate!(CONTROL in [0 1 0x10 0x11 0x1b 0x36 0xff] {
        check("aeskeygenassist", |a, _| aes::aeskeygenassist(a, CONTROL as u8), host!(unary _mm_aeskeygenassist_si128, CONTROL));
        check("pclmulqdq", |a, b| carryless::pclmulqdq(a, b, CONTROL as u8), host!(_mm_clmulepi64_si128, CONTROL));
    });
    let crc = |a: Whole, b: Whole| {
        let crc = a[0] as u32;
        // SAFETY: the host has the instructions.
        let [byte, word, doubleword, quadword] = unsafe {
            [
                _mm_crc32_u8(crc, b[0] as u8).into(),
                _mm_crc32_u16(crc, b[0] as u16).into(),
                _mm_crc32_u32(crc, b[0] as u32).into(),
                _mm_crc32_u64(a[0], b[0]),
            ]
        };
        [byte << 32 | word, doubleword << 32 | quadword]
    };
    let ours = |a: Whole, b: Whole| {
        let [byte, word, doubleword, quadword] = [1, 2, 4, 8].map(|bytes| carryless::crc32(a[0], b[0], bytes));
        [byte << 32 | word, doubleword << 32 | quadword]
    };
    check("crc32", ours, crc);
}

#[test]
fn secure_hashes() {
    need!("secure_hashes", "sha");
    check("sha1nexte", sha::sha1nexte, host!(_mm_sha1nexte_epu32));
    check("sha1msg1", sha::sha1msg1, host!(_mm_sha1msg1_epu32));
    check("sha1msg2", sha::sha1msg2, host!(_mm_sha1msg2_epu32));
    check("sha256msg1", sha::sha256msg1, host!(_mm_sha256msg1_epu32));
    check("sha256msg2", sha::sha256msg2, host!(_mm_sha256msg2_epu32));
    for_each_immediate!(FUNCTION in [0 1 2 3] {
        check("sha1rnds4", |a, b| sha::sha1rnds4(a, b, FUNCTION as u8), host!(_mm_sha1rnds4_epu32, FUNCTION));
    });
    let mut numbers = Numbers(13);
    for _ in 0..4000 {
        let (a, b, c) = (numbers.whole(), numbers.whole(), numbers.whole());
        // SAFETY: the host has the instruction, and the types have the same size.
        let host: Whole = unsafe {
            transmute(_mm_sha256rnds2_epu32(
                transmute::<Whole, _>(a),
                transmute::<Whole, _>(b),
                transmute::<Whole, _>(c),
            ))
        };
        assert_eq!(sha::sha256rnds2(a, b, c[0]), host, "{a:x?} {b:x?} {c:x?}");
    }
}

#[test]
fn strings() {
    need!("strings", "sse4.2");
    // Few different characters, so that strings match.
    let string = |numbers: &mut Numbers| -> Whole {
        let alphabet = [0x01, 0x41, 0x42, 0x43, 0x81, 0xff, 0x42, 0x00_u8];
        let letters = if numbers.next().is_multiple_of(4) { 8 } else { 3 };
        let random = numbers.whole();
        [0, 1].map(|half| {
            let mut bytes = random[half].to_le_bytes().map(|byte| alphabet[usize::from(byte >> 3) % letters]);
            if random[0].is_multiple_of(5) && random[1] % 2 == half as u64 {
                bytes[(random[0] >> 8) as usize % 8] = 0;
            }
            u64::from_le_bytes(bytes)
        })
    };
    let mut numbers = Numbers(17);
    for _ in 0..1500 {
        let (a, b) = (string(&mut numbers), string(&mut numbers));
        let lengths = [numbers.next(), numbers.next()].map(|random| random as i32 >> (random % 29));
        // SAFETY: the host has the instructions, and the types have the same size.
        let (x, y): (__m128i, __m128i) = unsafe { (transmute(a), transmute(b)) };
        macro_rules! compare { ($($control:literal)*) => { $({
            const CONTROL: i32 = $control;
            let implicit = string::pcmpistr(a, b, CONTROL as u8);
            let explicit = string::pcmpestr(a, lengths[0].into(), b, lengths[1].into(), CONTROL as u8);
            // SAFETY: as above.
            let (want_implicit, want_explicit) = unsafe {
                let flags = [
                    _mm_cmpistrc::<CONTROL>(x, y), _mm_cmpistrz::<CONTROL>(x, y), _mm_cmpistrs::<CONTROL>(x, y),
                    _mm_cmpistro::<CONTROL>(x, y),
                ];
                let [l, m] = lengths;
                let explicit_flags = [
                    _mm_cmpestrc::<CONTROL>(x, l, y, m), _mm_cmpestrz::<CONTROL>(x, l, y, m),
                    _mm_cmpestrs::<CONTROL>(x, l, y, m), _mm_cmpestro::<CONTROL>(x, l, y, m),
                ];
                (
                    (_mm_cmpistri::<CONTROL>(x, y) as u64, transmute::<__m128i, Whole>(_mm_cmpistrm::<CONTROL>(x, y)), flags),
                    (_mm_cmpestri::<CONTROL>(x, l, y, m) as u64, transmute::<__m128i, Whole>(_mm_cmpestrm::<CONTROL>(x, l, y, m)), explicit_flags),
                )
            };
            let seen = |result: string::StringComparison| {
                let flags = [result.carry, result.zero, result.sign, result.overflow].map(i32::from);
                (result.index(), result.mask(), flags)
            };
            assert_eq!(seen(implicit), want_implicit, "pcmpistr {a:x?} {b:x?} {CONTROL:#x}");
            assert_eq!(seen(explicit), want_explicit, "pcmpestr {a:x?} {b:x?} {lengths:?} {CONTROL:#x}");
        })* } }
        compare! {
            0x00 0x01 0x02 0x03 0x04 0x05 0x06 0x07 0x08 0x09 0x0a 0x0b 0x0c 0x0d 0x0e 0x0f
            0x10 0x14 0x18 0x1c 0x1d 0x30 0x31 0x34 0x37 0x38 0x3a 0x3c 0x3f
            0x40 0x41 0x44 0x48 0x4c 0x4d 0x53 0x58 0x5c 0x70 0x74 0x78 0x79 0x7c 0x7d
        }
    }
}
