//! Every floating-point function against the host's own instruction, results and flags, for all settings of MXCSR but unmasked
//! exceptions.

#![cfg(target_arch = "x86_64")]

use std::arch::asm;
use std::arch::x86_64::{__m128i, _mm_set_epi64x};

use super::float::*;
use super::tests::Numbers;
use crate::x86_64::softfloat::{Environment, Format, exception};
use crate::x86_64::test_host::host_is_amd;

type Whole = [u64; 2];

/// An instruction of two registers and what it leaves in MXCSR.
type Host = fn(Whole, Whole, u32) -> (Whole, u32);

fn vector(a: Whole) -> __m128i {
    // SAFETY: every x86-64 host has SSE2.
    unsafe { _mm_set_epi64x(a[1] as i64, a[0] as i64) }
}

fn whole(a: __m128i) -> Whole {
    // SAFETY: the types have the same size, and any bits are valid.
    unsafe { std::mem::transmute::<__m128i, Whole>(a) }
}

/// Executes an instruction on `a`, `b` (and a 64-bit general register `r` with the low half of `b`) under a given MXCSR. The general
/// register is put into the high half of the result if `general`.
macro_rules! host {
    ($($instruction:literal)*) => {
        |a: Whole, b: Whole, mxcsr: u32| -> (Whole, u32) {
            let (mut x, mut general) = (vector(a), b[0]);
            let mut state = mxcsr;
            let mut saved = 0_u32;
            // SAFETY: the memory operands are valid, all exceptions are masked, and the control register has its old value
            // again at the end.
            unsafe {
                asm!(
                    "stmxcsr [{saved}]",
                    "ldmxcsr [{state}]",
                    concat!($($instruction,)* " /* {a} {b} {r} */"),
                    "stmxcsr [{state}]",
                    "ldmxcsr [{saved}]",
                    a = inout(xmm_reg) x, b = in(xmm_reg) vector(b), r = inout(reg) general,
                    saved = in(reg) &raw mut saved, state = in(reg) &raw mut state,
                );
            }
            let result = whole(x);
            (if concat!($($instruction,)*).contains("{r:e}, ") || concat!($($instruction,)*).contains("{r}, ") { [general, 0] } else { result }, state)
        }
    };
}

/// Lanes of every kind, near each other in magnitude or not.
fn lane(numbers: &mut Numbers, format: Format) -> u64 {
    let random = numbers.next();
    let choice = numbers.0 >> 17;
    let (fraction, bias, width) = if format == Format::SINGLE { (23, 127_u64, 32) } else { (52, 1023_u64, 64) };
    let sign = (choice & 1) << (width - 1);
    let low = random & ((1 << fraction) - 1);
    let low = [low, 0, 1, (1 << fraction) - 1, low & 0xff, low | 1 << (fraction - 1)][(choice >> 1) as usize % 6];
    let exponent = match (choice >> 8) % 16 {
        0 => 0,
        1 => 2 * bias + 1,
        2 => 2 * bias - (choice >> 12) % 3,
        3 => 1 + (choice >> 12) % 3,
        4 => bias / 2 + (choice >> 12) % 4,
        5 => bias + bias / 2 + (choice >> 12) % 4,
        6..9 => bias + (choice >> 12) % 66,
        9 => (random >> 5) % (2 * bias),
        10 => bias - (choice >> 12) % 60,
        _ => bias - 2 + (choice >> 12) % 5,
    };
    sign | exponent << fraction | low
}

fn lanes(numbers: &mut Numbers, format: Format) -> Whole {
    if format != Format::SINGLE {
        return [lane(numbers, format), lane(numbers, format)];
    }
    [0, 1].map(|_| lane(numbers, format) | lane(numbers, format) << 32)
}

const ROUNDS: usize = 30_000;

/// Compares one instruction on many operands and settings.
fn check(name: &str, format: Format, ours: impl Fn(&mut Environment, Whole, Whole) -> Whole, host: Host) {
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    for _ in 0..ROUNDS {
        let (a, b) = (lanes(&mut numbers, format), lanes(&mut numbers, format));
        let setting = numbers.next() as u32;
        // All exceptions masked; any rounding; the other two settings sometimes.
        let mxcsr = 0x1f80 | setting & 0x6000 | setting & setting >> 1 & 0x8040;
        let mut environment = Environment::sse(mxcsr, format);
        let got = ours(&mut environment, a, b);
        let (want, after) = host(a, b, mxcsr);
        let raised = after as u16 & exception::ALL;
        assert_eq!(got, want, "{name} {a:x?} {b:x?} MXCSR {mxcsr:#x}: raised {:#x} {raised:#x}", environment.raised);
        assert_eq!(environment.raised, raised, "{name} {a:x?} {b:x?} MXCSR {mxcsr:#x} raised");
    }
}

const SINGLE: Format = Format::SINGLE;
const DOUBLE: Format = Format::DOUBLE;

#[test]
fn arithmetic_of_packed_lanes() {
    macro_rules! all { ($($name:literal $op:ident $format:ident)*) => { $(
        let ours = |environment: &mut Environment, a: Whole, b: Whole| {
            packed($format, a, b, |a, b| arithmetic(environment, Arithmetic::$op, $format, a, b))
        };
        check($name, $format, ours, host!($name " {a}, {b}"));
    )* } }
    all! {
        "addps" Add SINGLE "subps" Sub SINGLE "mulps" Mul SINGLE "divps" Div SINGLE "minps" Min SINGLE "maxps" Max SINGLE
        "addpd" Add DOUBLE "subpd" Sub DOUBLE "mulpd" Mul DOUBLE "divpd" Div DOUBLE "minpd" Min DOUBLE "maxpd" Max DOUBLE
    }
    let roots = |format: Format| {
        move |environment: &mut Environment, _: Whole, b: Whole| {
            packed(format, b, b, |a, _| square_root(environment, format, a))
        }
    };
    check("sqrtps", SINGLE, roots(SINGLE), host!("sqrtps {a}, {b}"));
    check("sqrtpd", DOUBLE, roots(DOUBLE), host!("sqrtpd {a}, {b}"));
}

#[test]
fn comparisons() {
    macro_rules! all { ($($predicate:literal)*) => { $(
        let ours = |format: Format| {
            move |environment: &mut Environment, a: Whole, b: Whole| {
                packed(format, a, b, |a, b| compare(environment, format, a, b, $predicate))
            }
        };
        check("cmpps", SINGLE, ours(SINGLE), host!("cmpps {a}, {b}, " $predicate));
        check("cmppd", DOUBLE, ours(DOUBLE), host!("cmppd {a}, {b}, " $predicate));
    )* } }
    all! { 0 1 2 3 4 5 6 7 }
    macro_rules! flags { ($($name:literal $format:ident $quiet:literal)*) => { $(
        let ours = |environment: &mut Environment, a: Whole, b: Whole| {
            let flags = compare_to_flags(environment, $format, a[0], b[0], $quiet);
            [u64::from(flags.zero) << 6 | u64::from(flags.parity) << 2 | u64::from(flags.carry), 0]
        };
        check($name, $format, ours, host!($name " {a}, {b}; pushfq; pop {r}; and {r}, 0x8d5"));
    )* } }
    flags! { "comiss" SINGLE false "comisd" DOUBLE false "ucomiss" SINGLE true "ucomisd" DOUBLE true }
}

#[test]
fn conversions() {
    check("cvtps2pd", SINGLE, |environment, _, b| cvtps2pd(environment, b[0]), host!("cvtps2pd {a}, {b}"));
    check("cvtpd2ps", DOUBLE, |environment, _, b| [cvtpd2ps(environment, b), 0], host!("cvtpd2ps {a}, {b}"));
    check(
        "cvtdq2ps",
        SINGLE,
        |environment, _, b| b.map(|half| cvtdq2ps(environment, half)),
        host!("cvtdq2ps {a}, {b}"),
    );
    check("cvtdq2pd", SINGLE, |_, _, b| cvtdq2pd(b[0]), host!("cvtdq2pd {a}, {b}"));
    let ours = |truncate: bool| {
        move |environment: &mut Environment, _: Whole, b: Whole| b.map(|half| cvtps2dq(environment, half, truncate))
    };
    check("cvtps2dq", SINGLE, ours(false), host!("cvtps2dq {a}, {b}"));
    check("cvttps2dq", SINGLE, ours(true), host!("cvttps2dq {a}, {b}"));
    let ours = |truncate: bool| {
        move |environment: &mut Environment, _: Whole, b: Whole| [cvtpd2dq(environment, b, truncate), 0]
    };
    check("cvtpd2dq", DOUBLE, ours(false), host!("cvtpd2dq {a}, {b}"));
    check("cvttpd2dq", DOUBLE, ours(true), host!("cvttpd2dq {a}, {b}"));
    macro_rules! to_integer { ($($name:literal $format:ident $truncate:literal)*) => { $(
        let ours = |width: u32| move |environment: &mut Environment, _: Whole, b: Whole| {
            let value = float_to_integer(environment, $format, b[0], width, $truncate) as u64;
            [if width == 32 { value & 0xffff_ffff } else { value }, 0]
        };
        check($name, $format, ours(32), host!($name " {r:e}, {b}"));
        check($name, $format, ours(64), host!($name " {r}, {b}"));
    )* } }
    to_integer! { "cvtss2si" SINGLE false "cvttss2si" SINGLE true "cvtsd2si" DOUBLE false "cvttsd2si" DOUBLE true }
    let ours = |environment: &mut Environment, a: Whole, b: Whole| {
        [a[0] & !0xffff_ffff | integer_to_float(environment, SINGLE, b[0] as i64), a[1]]
    };
    check("cvtsi2ss", DOUBLE, ours, host!("cvtsi2ss {a}, {r}"));
    let ours =
        |environment: &mut Environment, a: Whole, b: Whole| [integer_to_float(environment, DOUBLE, b[0] as i64), a[1]];
    check("cvtsi2sd", DOUBLE, ours, host!("cvtsi2sd {a}, {r}"));
}

#[test]
fn rounding_to_integers() {
    if !is_x86_feature_detected!("sse4.1") {
        eprintln!("SKIPPED: rounding_to_integers: the host lacks sse4.1");
        return;
    }
    macro_rules! all { ($($control:literal)*) => { $(
        let ours = |format: Format| {
            move |environment: &mut Environment, _: Whole, b: Whole| {
                packed(format, b, b, |a, _| round(environment, format, a, $control))
            }
        };
        check("roundps", SINGLE, ours(SINGLE), host!("roundps {a}, {b}, " $control));
        check("roundpd", DOUBLE, ours(DOUBLE), host!("roundpd {a}, {b}, " $control));
    )* } }
    all! { 0 1 2 3 4 7 8 9 10 11 12 }
}

#[test]
fn sums_within_registers() {
    if !is_x86_feature_detected!("sse4.1") || !is_x86_feature_detected!("sse3") {
        eprintln!("SKIPPED: sums_within_registers: the host lacks sse4.1 or sse3");
        return;
    }
    check("addsubps", SINGLE, |environment, a, b| add_sub(environment, SINGLE, a, b), host!("addsubps {a}, {b}"));
    check("addsubpd", DOUBLE, |environment, a, b| add_sub(environment, DOUBLE, a, b), host!("addsubpd {a}, {b}"));
    macro_rules! all { ($($name:literal $op:ident $format:ident)*) => { $(
        let ours = |environment: &mut Environment, a: Whole, b: Whole| horizontal(environment, Arithmetic::$op, $format, a, b);
        check($name, $format, ours, host!($name " {a}, {b}"));
    )* } }
    all! { "haddps" Add SINGLE "haddpd" Add DOUBLE "hsubps" Sub SINGLE "hsubpd" Sub DOUBLE }
    if !host_is_amd() {
        eprintln!(
            "SKIPPED: sums_within_registers, DPPS and DPPD: several NaNs are as in AMD's processors, the host has another"
        );
        return;
    }
    macro_rules! dot { ($($control:literal)*) => { $(
        let ours = |format: Format| {
            move |environment: &mut Environment, a: Whole, b: Whole| dot_product(environment, format, a, b, $control)
        };
        check("dpps", SINGLE, ours(SINGLE), host!("dpps {a}, {b}, " $control));
        check("dppd", DOUBLE, ours(DOUBLE), host!("dppd {a}, {b}, " $control));
    )* } }
    dot! { 0xff 0x71 0x31 0x33 0x5a 0xf0 0x0f 0x12 }
}

#[test]
fn approximations_are_within_their_bounds() {
    let mut numbers = Numbers(19);
    let close = |got: u64, want: u32, what: u64| {
        let (got, want) = (f32::from_bits(got as u32), f32::from_bits(want));
        // Both are within 1.5 * 2^-12 of the true value.
        let same = got.to_bits() == want.to_bits() || (got - want).abs() <= want.abs() * (3.0 / 4096.0);
        assert!(same, "of {what:#x}: {got} {want}");
    };
    for _ in 0..ROUNDS {
        let operand = lane(&mut numbers, SINGLE);
        let host_reciprocal: Host = host!("rcpss {a}, {b}");
        let (want, after) = host_reciprocal([0; 2], [operand, 0], 0x1f80);
        assert_eq!(after, 0x1f80);
        // Makers differ in whether the least results become zero.
        let exponent = operand >> 23 & 0xff;
        if exponent < 252 || exponent == 255 {
            close(reciprocal(operand), want[0] as u32, operand);
        }
        let host_root: Host = host!("rsqrtss {a}, {b}");
        let (want, _) = host_root([0; 2], [operand, 0], 0x1f80);
        close(reciprocal_square_root(operand), want[0] as u32, operand);
    }
}

#[test]
fn the_tables_have_every_instruction() {
    if !is_x86_feature_detected!("sse4.2") || !is_x86_feature_detected!("ssse3") {
        eprintln!("SKIPPED: the_tables_have_every_instruction: the host lacks sse4.2 or ssse3");
        return;
    }
    use crate::x86_64::simd::{FLOAT, INTEGER, LANEWISE, float_named, integer_named, lanewise_named};
    macro_rules! lanewise_all { ($($name:literal)*) => { $(
        let entry = LANEWISE[lanewise_named($name).unwrap()];
        check($name, SINGLE, |_, a, b| entry.on_registers(a, [b[0] & 0x7f, b[1]]), |a, b, mxcsr| {
            let host: Host = host!($name " {a}, {b}");
            host(a, [b[0] & 0x7f, b[1]], mxcsr)
        });
    )* } }
    lanewise_all! {
        "paddb" "psubq" "pmaddubsw" "pcmpgtq" "psllw" "psrad" "psrlq" "phaddw" "packusdw" "punpcklbw" "punpcklwd"
        "punpckldq" "punpckhbw" "punpckhwd" "punpckhdq"
    }
    macro_rules! integer_all { ($($name:literal)*) => { $(
        let function = INTEGER[integer_named($name).unwrap()].function;
        check($name, SINGLE, |_, a, b| function(a, b, [0; 2]), host!($name " {a}, {b}"));
    )* } }
    integer_all! {
        "pabsb" "pabsd" "pmovsxbw" "pmovsxbq" "pmovzxwd" "pmovzxdq" "pshufb" "unpcklps" "unpckhps" "unpcklpd" "unpckhpd"
        "punpcklqdq" "punpckhqdq" "movddup" "movsldup" "movshdup" "phminposuw"
    }
    macro_rules! with_immediate { ($($name:literal)*) => { $(
        let function = INTEGER[integer_named($name).unwrap()].function;
        check($name, SINGLE, |_, a, b| function(a, b, [0x1b, 0]), host!($name " {a}, {b}, 0x1b"));
        check($name, SINGLE, |_, a, b| function(a, b, [6, 0]), host!($name " {a}, {b}, 6"));
    )* } }
    with_immediate! {
        "palignr" "pshufd" "pshuflw" "pshufhw" "shufps" "shufpd" "pblendw" "blendps" "blendpd" "mpsadbw"
    }
    macro_rules! float_all { ($format:ident: $($name:literal $($operands:literal)?),*) => { $(
        let function = FLOAT[float_named($name).unwrap()].function;
        check($name, $format, |environment, a, b| function(environment, a, b, [6, 0]), host!($name " {a}, {b}" $($operands)?));
    )* } }
    float_all! {
        SINGLE: "addps", "subss", "minss", "maxps", "divss", "sqrtss", "sqrtps", "cmpps" ", 6", "cmpss" ", 6",
        "roundps" ", 6", "roundss" ", 6", "addsubps", "haddps", "hsubps", "dpps" ", 6", "cvtss2sd", "cvtps2pd", "cvtdq2ps",
        "cvtdq2pd", "cvtps2dq", "cvttps2dq"
    }
    float_all! {
        DOUBLE: "addpd", "subsd", "minsd", "maxpd", "divsd", "sqrtsd", "sqrtpd", "cmppd" ", 6", "cmpsd" ", 6",
        "roundpd" ", 6", "roundsd" ", 6", "addsubpd", "haddpd", "hsubpd", "dppd" ", 6", "cvtsd2ss", "cvtpd2ps",
        "cvtpd2dq", "cvttpd2dq"
    }
}
