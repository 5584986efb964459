//! The host's results are within one unit in the last place, as are ours, so that they may differ by two. All else that
//! instructions change must agree, but for inexact and underflow of results that are exact.

use super::*;
use crate::x86_64::softfloat::Class;

/// The numbers of registers in which results are.
type Results = &'static [u8];

/// Distance of two numbers in units in the last place.
fn distance(a: Float80, b: Float80) -> u128 {
    let key = |value: Float80| -> i128 {
        // Pseudo-encodings do not occur; the integer bit follows from the exponent.
        let exponent = i128::from(value.sign_exponent & 0x7fff).max(1);
        let magnitude = (exponent << 63)
            + i128::from(value.significand & u64::MAX >> 1)
            + if value.significand >> 63 != 0 { 0 } else { -(1_i128 << 63) };
        if value.sign_exponent & 0x8000 != 0 { -magnitude } else { magnitude }
    };
    key(a).abs_diff(key(b))
}

fn check_near(
    name: &str,
    results: Results,
    tolerance: u128,
    prepare: impl Fn(&mut Numbers, &mut Machine),
    ours: impl Fn(&mut X87),
    host: &dyn Fn(&mut Machine),
) {
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    let mut worst = 0;
    for _ in 0..ROUNDS {
        let mut start = numbers.machine();
        prepare(&mut numbers, &mut start);
        let (mut got, mut want) = (start, start);
        ours(&mut got.unit);
        host(&mut want);
        let report = |got: &Machine, want: &Machine| format!("{name}\n from {start:?}\n got  {got:?}\n want {want:?}");
        for &index in results {
            let (a, b) = (got.unit.st(index), want.unit.st(index));
            let apart = distance(a, b);
            worst = worst.max(apart);
            assert!(apart <= tolerance, "{apart} apart: {}", report(&got, &want));
            let physical = got.unit.physical(index);
            got.unit.registers[physical] = b;
        }
        // Whether a result is inexact, and which way it was rounded, is not the same on all processors.
        for machine in [&mut got, &mut want] {
            machine.unit.status &= !(status::C1 | exception::INEXACT | exception::UNDERFLOW);
            if machine.unit.control & exception::INEXACT == 0 || machine.unit.control & exception::UNDERFLOW == 0 {
                machine.unit.status &= !(status::ERROR_SUMMARY | status::BUSY);
            }
        }
        assert!(got == want, "{}", report(&got, &want));
    }
    eprintln!("{name}: at most {worst} units in the last place from the host");
}

fn set(machine: &mut Machine, index: u8, value: Float80) {
    let physical = machine.unit.physical(index);
    machine.unit.registers[physical] = value;
}

#[test]
fn powers() {
    let in_range = |numbers: &mut Numbers, machine: &mut Machine| {
        let number = machine.unit.st(0).unpack();
        if number.class == Class::Finite && number.exponent >= 0 {
            set(machine, 0, numbers.finite(-70, -1));
        }
    };
    check_near("f2xm1", &[0], 2, in_range, X87::f2xm1, host!("f2xm1"));
}

#[test]
fn logarithms() {
    let any = |_: &mut Numbers, _: &mut Machine| {};
    check_near("fyl2x", &[0], 2, any, X87::fyl2x, host!("fyl2x"));
    let near_one = |numbers: &mut Numbers, machine: &mut Machine| {
        let shift = numbers.below(60) as u32;
        let value = Float80 { significand: 1 << 63 | numbers.next() >> shift, sign_exponent: 0x3fff };
        let below = Float80 { significand: u64::MAX - (numbers.next() >> shift), sign_exponent: 0x3ffe };
        set(machine, 0, if shift & 1 == 0 { value } else { below });
    };
    check_near("fyl2x near one", &[0], 2, near_one, X87::fyl2x, host!("fyl2x"));
    let in_range = |numbers: &mut Numbers, machine: &mut Machine| {
        let number = machine.unit.st(0).unpack();
        if number.class == Class::Finite && number.exponent >= -2 || number.class == Class::Infinity {
            set(machine, 0, numbers.finite(-70, -3));
        }
    };
    check_near("fyl2xp1", &[0], 2, in_range, X87::fyl2xp1, host!("fyl2xp1"));
}

#[test]
fn arctangents() {
    let any = |_: &mut Numbers, _: &mut Machine| {};
    check_near("fpatan", &[0], 2, any, X87::fpatan, host!("fpatan"));
    let near = |numbers: &mut Numbers, machine: &mut Machine| {
        for index in 0..2 {
            set(machine, index, numbers.finite(-5, 5));
        }
    };
    check_near("fpatan", &[0], 2, near, X87::fpatan, host!("fpatan"));
}

#[test]
fn sines() {
    // Beyond a quarter of pi, arguments are reduced with a pi of 66 bits by Intel's and AMD's processors alike.
    let any = |numbers: &mut Numbers, machine: &mut Machine| match numbers.below(3) {
        0 => set(machine, 0, numbers.finite(-40, 0)),
        1 => set(machine, 0, numbers.finite(0, 63)),
        _ => {}
    };
    check_near("fsin", &[0], 2, any, X87::fsin, host!("fsin"));
    check_near("fcos", &[0], 2, any, X87::fcos, host!("fcos"));
    check_near("fsincos", &[0, 1], 2, any, X87::fsincos, host!("fsincos"));
    check_near("fptan", &[0, 1], 2, any, X87::fptan, host!("fptan"));
}

#[test]
fn operands_out_of_range_are_harmless() {
    let mut numbers = Numbers(23);
    for _ in 0..ROUNDS {
        let start = numbers.unit();
        for instruction in
            [X87::f2xm1, X87::fyl2x, X87::fyl2xp1, X87::fpatan, X87::fsin, X87::fcos, X87::fsincos, X87::fptan]
        {
            let mut unit = start;
            instruction(&mut unit);
            assert_eq!(unit.control, start.control);
        }
    }
}
