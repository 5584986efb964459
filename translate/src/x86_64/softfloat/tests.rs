//! Arithmetic against another implementation, on any host. The instructions that use it are compared with the host's own.

use rustc_apfloat::ieee::{Double, Single, X87DoubleExtended};
use rustc_apfloat::{Float, Round, Status, StatusAnd};

use super::*;

const ROUNDINGS: [(Rounding, Round); 4] = [
    (Rounding::NearestEven, Round::NearestTiesToEven),
    (Rounding::TowardZero, Round::TowardZero),
    (Rounding::Down, Round::TowardNegative),
    (Rounding::Up, Round::TowardPositive),
];

/// A format of ours and the other library's type for it.
trait Pair: Float {
    const FORMAT: Format;

    /// Bits of the fraction field, the integer bit not counted.
    const FRACTION: u32 = Self::FORMAT.precision - 1;

    fn number(bits: u128) -> Number {
        unpack(Self::FORMAT, bits as u64)
    }

    fn bits(number: Number) -> u128 {
        pack(Self::FORMAT, number).into()
    }

    fn encode(negative: bool, exponent: u64, fraction: u64) -> u128 {
        let sign = if negative { 2 * (Self::FORMAT.largest_exponent as u128 + 1) } else { 0 };
        (sign | u128::from(exponent)) << Self::FRACTION | u128::from(fraction)
    }
}

impl Pair for Single {
    const FORMAT: Format = Format::SINGLE;
}

impl Pair for Double {
    const FORMAT: Format = Format::DOUBLE;
}

impl Pair for X87DoubleExtended {
    const FORMAT: Format = Format::EXTENDED;

    fn number(bits: u128) -> Number {
        Float80 { significand: bits as u64, sign_exponent: (bits >> 64) as u16 }.unpack()
    }

    fn bits(number: Number) -> u128 {
        let Float80 { significand, sign_exponent } = Float80::pack(number);
        u128::from(sign_exponent) << 64 | u128::from(significand)
    }

    fn encode(negative: bool, exponent: u64, fraction: u64) -> u128 {
        let integer = u128::from(exponent != 0) << 63;
        (u128::from(negative) << 15 | u128::from(exponent)) << 64 | integer | u128::from(fraction)
    }
}

/// Numbers of every kind but NaNs, many of them near one.
fn samples<F: Pair>() -> Vec<u128> {
    let bias = F::FORMAT.largest_exponent as u64;
    let ones = (1_u64 << F::FRACTION) - 1;
    let mut state = 0x1234_5678_9abc_def1_u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut all = vec![F::encode(false, 0, 0), F::encode(true, 0, 0), F::encode(false, 2 * bias + 1, 0)];
    for exponent in [0, 1, 2, bias / 2, bias - 1, bias, bias + 1, bias + F::FRACTION as u64, bias * 3 / 2, 2 * bias] {
        for fraction in [1, 3, ones, ones - 1, 1 << (F::FRACTION - 1), random() & ones, random() & random() & ones, 0] {
            all.push(F::encode(random() & 1 != 0, exponent, fraction));
        }
    }
    all
}

fn check<F: Pair>() {
    type Ours = fn(&mut Environment, Number, Number) -> Number;
    let samples = samples::<F>();
    for (rounding, other) in ROUNDINGS {
        for &a in &samples {
            for &b in &samples {
                let (x, y) = (F::from_bits(a), F::from_bits(b));
                let operations: [(&str, Ours, StatusAnd<F>); 4] = [
                    ("+", Environment::add, x.add_r(y, other)),
                    ("-", Environment::sub, x.sub_r(y, other)),
                    ("*", Environment::mul, x.mul_r(y, other)),
                    ("/", Environment::div, x.div_r(y, other)),
                ];
                for (name, ours, want) in operations {
                    let mut environment = Environment::sse(MXCSR_RESET, F::FORMAT).with_rounding(rounding);
                    let got = ours(&mut environment, F::number(a), F::number(b));
                    let what = format!("{a:#x} {name} {b:#x} {rounding:?}: {got:x?}");
                    if want.value.is_nan() {
                        assert_eq!(got, Number::DEFAULT_NAN, "{what}");
                    } else {
                        assert_eq!(F::bits(got), want.value.to_bits(), "{what}");
                    }
                    for (status, exception) in [
                        (Status::INVALID_OP, exception::INVALID),
                        (Status::DIV_BY_ZERO, exception::ZERO_DIVIDE),
                        (Status::INEXACT, exception::INEXACT),
                    ] {
                        let raised = environment.raised & exception != 0;
                        assert_eq!(raised, want.status.contains(status), "{what} {status:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn single_precision() {
    check::<Single>();
}

#[test]
fn double_precision() {
    check::<Double>();
}

#[test]
fn extended_precision() {
    check::<X87DoubleExtended>();
}

#[test]
fn flags_survive_conversion() {
    for exceptions in 0..64 {
        assert_eq!(from_flags(to_flags(exceptions)), exceptions);
    }
    assert_eq!(to_flags(exception::INVALID), Flags::INVALID);
    assert_eq!(to_flags(exception::DENORMAL).0, 32);
}

#[test]
fn unmasked_exceptions_found_before_computing_hide_those_after() {
    let mut environment = Environment::sse(MXCSR_RESET & !(1 << 8), Format::DOUBLE);
    let denormal = unpack(Format::DOUBLE, 1);
    environment.add(denormal, unpack(Format::DOUBLE, 1.0_f64.to_bits()));
    assert_eq!(environment.raised, exception::DENORMAL | exception::INEXACT);
    environment.settle();
    assert_eq!((environment.raised, environment.unmasked()), (exception::DENORMAL, exception::DENORMAL));
}
