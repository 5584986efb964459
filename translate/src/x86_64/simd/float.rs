//! Floating-point instructions of SSE to SSE4.1.
//!
//! An [`Environment`] made of MXCSR ([`Environment::sse`]) says how to compute; it gathers what was raised by all lanes of an
//! instruction, for the caller to call [`Environment::settle`], and then to add [`Environment::raised`] to MXCSR, and to raise
//! #XM if [`Environment::unmasked`] is not zero, leaving the destination alone. Its format is set by the functions here.
//!
//! Lanes are the bits of binary32 numbers (in the low half of a `u64`) or binary64 ones, as the format says.

use super::lanes::{doublewords, from_doublewords, from_words, words};
use crate::float::Rounding;
use crate::x86_64::softfloat::{
    ComparisonFlags, Environment, Format, Number, Ordering, exception, pack, rounding, unpack,
};

/// Arithmetic on two lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arithmetic {
    /// Sum.
    Add,
    /// Difference.
    Sub,
    /// Product.
    Mul,
    /// Quotient.
    Div,
    /// The smaller; the second if they are equal or one is a NaN, which is invalid.
    Min,
    /// The larger; the second if they are equal or one is a NaN, which is invalid.
    Max,
}

/// Arithmetic on two lanes.
pub fn arithmetic(environment: &mut Environment, op: Arithmetic, format: Format, a: u64, b: u64) -> u64 {
    environment.format = format;
    let (x, y) = (environment.operand(format, a), environment.operand(format, b));
    let result = match op {
        Arithmetic::Add => environment.add(x, y),
        Arithmetic::Sub => environment.sub(x, y),
        Arithmetic::Mul => environment.mul(x, y),
        Arithmetic::Div => environment.div(x, y),
        Arithmetic::Min | Arithmetic::Max => {
            let wanted = if op == Arithmetic::Min { Ordering::Less } else { Ordering::Greater };
            return match environment.compare(x, y, true) {
                Ordering::Unordered if y.is_nan() => b & mask(format),
                ordering => pack(format, if ordering == wanted { x } else { y }),
            };
        }
    };
    pack(format, result)
}

/// SQRTSS and its kin, on one lane.
pub fn square_root(environment: &mut Environment, format: Format, a: u64) -> u64 {
    environment.format = format;
    let a = environment.operand(format, a);
    pack(format, environment.square_root(a))
}

/// All bits of a lane.
fn mask(format: Format) -> u64 {
    if format == Format::SINGLE { 0xffff_ffff } else { u64::MAX }
}

/// Applies a function to each pair of lanes of two registers.
pub fn packed(format: Format, a: [u64; 2], b: [u64; 2], mut function: impl FnMut(u64, u64) -> u64) -> [u64; 2] {
    if format != Format::SINGLE {
        return [function(a[0], b[0]), function(a[1], b[1])];
    }
    [0, 1].map(|half| {
        let (a, b) = (doublewords(a[half]), doublewords(b[half]));
        from_doublewords([0, 1].map(|lane| function(a[lane].into(), b[lane].into()) as u32))
    })
}

/// CMPSS and its kin, on one lane: all bits of the lane set if the predicate (bits 4:0; the legacy encodings have 2:0) holds.
pub fn compare(environment: &mut Environment, format: Format, a: u64, b: u64, predicate: u8) -> u64 {
    let (a, b) = (environment.operand(format, a), environment.operand(format, b));
    // Less and less-or-equal, and their complements, signal quiet NaNs; bit 4 turns that around.
    let signals = matches!(predicate & 3, 1 | 2) != (predicate & 16 != 0);
    let ordering = environment.compare(a, b, signals);
    use Ordering as O;
    let holds = match predicate & 0b1011 {
        0 => ordering == O::Equal,
        1 => ordering == O::Less,
        2 => matches!(ordering, O::Less | O::Equal),
        3 => ordering == O::Unordered,
        8 => matches!(ordering, O::Equal | O::Unordered),
        9 => matches!(ordering, O::Less | O::Unordered),
        10 => ordering != O::Greater,
        _ => false,
    };
    if holds != (predicate & 4 != 0) { mask(format) } else { 0 }
}

/// COMISS and COMISD, which signal quiet NaNs, and UCOMISS and UCOMISD (`quiet`).
pub fn compare_to_flags(environment: &mut Environment, format: Format, a: u64, b: u64, quiet: bool) -> ComparisonFlags {
    let (a, b) = (environment.operand(format, a), environment.operand(format, b));
    environment.compare(a, b, !quiet).into()
}

/// CVTSS2SD and CVTSD2SS, on one lane.
pub fn convert(environment: &mut Environment, from: Format, to: Format, a: u64) -> u64 {
    environment.format = to;
    let a = environment.operand(from, a);
    pack(to, environment.convert(a))
}

/// CVTSI2SS and CVTSI2SD.
pub fn integer_to_float(environment: &mut Environment, to: Format, a: i64) -> u64 {
    environment.format = to;
    pack(to, environment.from_integer(a))
}

/// CVTSS2SI and its kin: to a signed integer of `width` bits (32 or 64), rounded as MXCSR says or truncated. What does not fit gives
/// the smallest integer.
pub fn float_to_integer(environment: &mut Environment, from: Format, a: u64, width: u32, truncate: bool) -> i64 {
    let width = width.clamp(1, 64);
    let a = environment.operand(from, a);
    let before = environment.rounding;
    if truncate {
        environment.rounding = Rounding::TowardZero;
    }
    let result = environment.to_integer(a, width);
    environment.rounding = before;
    result.unwrap_or(i64::MIN >> (64 - width))
}

/// CVTDQ2PS, on one half; CVTPI2PS.
pub fn cvtdq2ps(environment: &mut Environment, a: u64) -> u64 {
    from_doublewords(
        doublewords(a).map(|lane| integer_to_float(environment, Format::SINGLE, i64::from(lane as i32)) as u32),
    )
}

/// CVTPS2DQ and CVTTPS2DQ, on one half; CVTPS2PI and CVTTPS2PI.
pub fn cvtps2dq(environment: &mut Environment, a: u64, truncate: bool) -> u64 {
    from_doublewords(
        doublewords(a).map(|lane| float_to_integer(environment, Format::SINGLE, lane.into(), 32, truncate) as u32),
    )
}

/// CVTDQ2PD; CVTPI2PD. Raises nothing.
pub fn cvtdq2pd(a: u64) -> [u64; 2] {
    doublewords(a).map(|lane| {
        pack(Format::DOUBLE, {
            let value = i64::from(lane as i32);
            Number::finite(value < 0, 63, value.unsigned_abs())
        })
    })
}

/// CVTPD2DQ and CVTTPD2DQ: the low half of the result, whose high half is zero; CVTPD2PI and CVTTPD2PI.
pub fn cvtpd2dq(environment: &mut Environment, a: [u64; 2], truncate: bool) -> u64 {
    from_doublewords(a.map(|lane| float_to_integer(environment, Format::DOUBLE, lane, 32, truncate) as u32))
}

/// CVTPS2PD, of the low half of its operand.
pub fn cvtps2pd(environment: &mut Environment, a: u64) -> [u64; 2] {
    doublewords(a).map(|lane| convert(environment, Format::SINGLE, Format::DOUBLE, lane.into()))
}

/// CVTPD2PS: the low half of the result, whose high half is zero.
pub fn cvtpd2ps(environment: &mut Environment, a: [u64; 2]) -> u64 {
    from_doublewords(a.map(|lane| convert(environment, Format::DOUBLE, Format::SINGLE, lane) as u32))
}

/// VCVTPH2PS, of the low half of its operand. Denormal operands raise nothing, and are never taken as zeroes.
pub fn cvtph2ps(environment: &mut Environment, a: u64) -> [u64; 2] {
    let mut inner = Environment { denormals_are_zero: false, format: Format::SINGLE, ..*environment };
    let lanes: [u32; 4] = words(a).map(|lane| {
        let number = Number { denormal: false, ..unpack(Format::HALF, lane.into()) };
        pack(Format::SINGLE, inner.convert(number)) as u32
    });
    environment.raise(inner.raised);
    [from_doublewords([lanes[0], lanes[1]]), from_doublewords([lanes[2], lanes[3]])]
}

/// VCVTPS2PH: the low half of the result. Bits 1:0 of `control` are the rounding mode, unless bit 2 is set, which means MXCSR's.
/// Tiny results are never flushed to zero.
pub fn cvtps2ph(environment: &mut Environment, a: [u64; 2], control: u8) -> u64 {
    let mode = if control & 4 != 0 { environment.rounding } else { rounding(control.into()) };
    let mut inner = Environment { flush_to_zero: false, format: Format::HALF, ..environment.with_rounding(mode) };
    let mut convert = |lane: u32| {
        let number = inner.operand(Format::SINGLE, lane.into());
        pack(Format::HALF, inner.convert(number)) as u16
    };
    let [[a0, a1], [a2, a3]] = a.map(doublewords);
    let lanes = [a0, a1, a2, a3].map(&mut convert);
    environment.raise(inner.raised);
    from_words(lanes)
}

/// ROUNDSS and its kin, on one lane. Bits 1:0 of `control` are the rounding mode, unless bit 2 is set, which means MXCSR's; bit 3
/// suppresses inexact.
pub fn round(environment: &mut Environment, format: Format, a: u64, control: u8) -> u64 {
    environment.format = format;
    let a = environment.operand(format, a);
    let mode = if control & 4 != 0 { environment.rounding } else { rounding(control.into()) };
    let mut inner = environment.with_rounding(mode);
    let result = match inner.nan(a, a) {
        Some(nan) => nan,
        None => inner.round_to_integral(a),
    };
    let suppressed = if control & 8 != 0 { exception::INEXACT & !environment.raised } else { 0 };
    environment.raise(inner.raised & !suppressed);
    pack(format, result)
}

/// ADDSUBPS and ADDSUBPD: lanes with even numbers are subtracted, the others added.
pub fn add_sub(environment: &mut Environment, format: Format, a: [u64; 2], b: [u64; 2]) -> [u64; 2] {
    let mut op = Arithmetic::Add;
    packed(format, a, b, |a, b| {
        op = if op == Arithmetic::Add { Arithmetic::Sub } else { Arithmetic::Add };
        arithmetic(environment, op, format, a, b)
    })
}

/// HADDPS, HADDPD, HSUBPS, HSUBPD (`op` is [`Arithmetic::Add`] or [`Arithmetic::Sub`]): neighbouring lanes of each operand.
pub fn horizontal(environment: &mut Environment, op: Arithmetic, format: Format, a: [u64; 2], b: [u64; 2]) -> [u64; 2] {
    [a, b].map(|operand| {
        if format != Format::SINGLE {
            return arithmetic(environment, op, format, operand[0], operand[1]);
        }
        from_doublewords(operand.map(|half| {
            let [first, second] = doublewords(half);
            arithmetic(environment, op, format, first.into(), second.into()) as u32
        }))
    })
}

/// DPPS and DPPD: the sum of the products of the lanes chosen by bits 7:4 of `control`, put into those chosen by bits 3:0.
pub fn dot_product(environment: &mut Environment, format: Format, a: [u64; 2], b: [u64; 2], control: u8) -> [u64; 2] {
    let mut choices = (4..8).map(|bit| control >> bit & 1 != 0);
    let products = packed(format, a, b, |a, b| match choices.next() {
        Some(true) => arithmetic(environment, Arithmetic::Mul, format, a, b),
        _ => 0,
    });
    // Pairs are added first, then their sums.
    let mut sum = horizontal(environment, Arithmetic::Add, format, products, products)[0];
    if format == Format::SINGLE {
        let [low, high] = doublewords(sum);
        sum = arithmetic(environment, Arithmetic::Add, format, low.into(), high.into());
    }
    let mut choices = (0..4).map(|bit| control >> bit & 1 != 0);
    packed(format, [0; 2], [0; 2], |_, _| if choices.next() == Some(true) { sum } else { 0 })
}

/// How approximate results are computed: as the SDM bounds them, to 12 bits, without exceptions, denormals being zeroes. Makers differ
/// in the bits.
fn approximate() -> Environment {
    let mxcsr = 0x9fc0;
    Environment::sse(mxcsr, Format { precision: 12, ..Format::SINGLE })
}

/// RCPSS, on one lane: approximately 1 / a.
pub fn reciprocal(a: u64) -> u64 {
    let mut environment = approximate();
    let a = environment.operand(Format::SINGLE, a);
    pack(Format::SINGLE, environment.div(Number::finite(false, 0, 1 << 63), a))
}

/// RSQRTSS, on one lane: approximately 1 / sqrt(a).
pub fn reciprocal_square_root(a: u64) -> u64 {
    let mut environment = approximate();
    let a = environment.operand(Format::SINGLE, a);
    let root = Environment { format: Format::EXTENDED, ..environment }.square_root(a);
    pack(Format::SINGLE, environment.div(Number::finite(false, 0, 1 << 63), root))
}
