use super::*;

const ROUNDINGS: [Rounding; 5] =
    [Rounding::NearestEven, Rounding::TowardZero, Rounding::Down, Rounding::Up, Rounding::NearestAway];
const OPS: [FloatBinaryOp; 4] = [FloatBinaryOp::Add, FloatBinaryOp::Sub, FloatBinaryOp::Mul, FloatBinaryOp::Div];

/// Numbers of every kind, then pseudo-random ones, many of them near each other in magnitude.
fn samples(ty: Type) -> Vec<u64> {
    let one: u64 = if ty == Type::F32 { 0x3f80_0000 } else { 0x3ff0_0000_0000_0000 };
    let smallest_normal: u64 = if ty == Type::F32 { 0x0080_0000 } else { 0x0010_0000_0000_0000 };
    let mut all =
        vec![0, 1, 2, 3, smallest_normal - 1, smallest_normal, smallest_normal + 1, one - 1, one, one + 1, one + 2];
    all.extend([infinity(ty) - 1, infinity(ty), infinity(ty) + 1, canonical_nan(ty), canonical_nan(ty) + 5]);
    // Products and quotients with these come close to the smallest normal and the largest number.
    let two = one + smallest_normal;
    let half = one - smallest_normal;
    all.extend([half, half - 1, half + 1, two, two - 1, two + 1, 2 * smallest_normal, 2 * smallest_normal - 1]);
    let mut state = 0x1234_5678_9abc_def1_u64;
    for index in 0..60 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let near_one = one ^ (state & (smallest_normal * 16 - 1));
        all.push(if index % 2 == 0 { state } else { near_one } & ty.mask() & !sign(ty));
    }
    let negative: Vec<u64> = all.iter().map(|bits| bits | sign(ty)).collect();
    all.extend(negative);
    all
}

/// NaNs have no particular payload.
fn same(ty: Type, a: (u64, Flags), b: (u64, Flags)) -> bool {
    a.1.ieee() == b.1.ieee() && (a.0 == b.0 || is_nan(ty, a.0) && is_nan(ty, b.0))
}

#[test]
fn host_and_software_agree() {
    for ty in [Type::F32, Type::F64] {
        let other = if ty == Type::F32 { Type::F64 } else { Type::F32 };
        let samples = samples(ty);
        for rounding in ROUNDINGS {
            for &a in &samples {
                for &b in &samples {
                    for op in OPS {
                        let (got, want) = (binary(op, ty, a, b, rounding), soft::binary(op, ty, a, b, rounding));
                        assert!(same(ty, got, want), "{op:?} {ty:?} {a:#x} {b:#x} {rounding:?}: {got:x?} {want:x?}");
                    }
                }
                let (got, want) = (square_root(ty, a, rounding), soft::square_root(ty, a, rounding));
                assert!(same(ty, got, want), "sqrt {ty:?} {a:#x} {rounding:?}: {got:x?} {want:x?}");
                let (got, want) = (convert(ty, other, a, rounding), soft::convert(ty, a, rounding));
                assert!(same(other, got, want), "convert {ty:?} {a:#x} {rounding:?}: {got:x?} {want:x?}");
            }
        }
    }
}

#[test]
fn host_and_software_agree_on_multiply_add() {
    for ty in [Type::F32, Type::F64] {
        let samples: Vec<u64> = samples(ty).into_iter().step_by(3).collect();
        for rounding in ROUNDINGS {
            for &a in &samples {
                for &b in &samples {
                    for &c in &samples {
                        let got = multiply_add(ty, a, b, c, rounding);
                        let want = soft::multiply_add(ty, a, b, c, rounding);
                        assert!(same(ty, got, want), "{ty:?} {a:#x} {b:#x} {c:#x} {rounding:?}: {got:x?} {want:x?}");
                    }
                }
            }
        }
    }
}

#[test]
fn integers_agree_with_apfloat() {
    use rustc_apfloat::Float;
    use rustc_apfloat::ieee::{Double, Single};
    let integers = [0, 1, u64::MAX, 1 << 63, (1 << 63) - 1, 0x20_0000_0000_0001, 0x100_0001, 0xffff_ffff, 0x8000_0000];
    for rounding in ROUNDINGS {
        for &a in &integers {
            for ty in [Type::F32, Type::F64] {
                let want = soft::integer_to_float(ty, i128::from(a as i64), rounding);
                assert_eq!(integer_to_float(Type::I64, ty, a, rounding), want, "{a:#x} {ty:?} {rounding:?}");
                let want = soft::integer_to_float(ty, i128::from(a as i32), rounding);
                assert_eq!(integer_to_float(Type::I32, ty, a, rounding), want, "{a:#x} {ty:?} {rounding:?}");
            }
        }
        let round = match rounding {
            Rounding::NearestEven => rustc_apfloat::Round::NearestTiesToEven,
            Rounding::TowardZero => rustc_apfloat::Round::TowardZero,
            Rounding::Down => rustc_apfloat::Round::TowardNegative,
            Rounding::Up => rustc_apfloat::Round::TowardPositive,
            Rounding::NearestAway => rustc_apfloat::Round::NearestTiesToAway,
        };
        for ty in [Type::F32, Type::F64] {
            let extra: Vec<u64> =
                [0.5_f64, 1.5, 2.5, -0.5, -0.75, 2147483647.5, 4294967295.5, 1.8446744073709552e19, -0.25]
                    .iter()
                    .map(|x| if ty == Type::F32 { u64::from((*x as f32).to_bits()) } else { x.to_bits() })
                    .collect();
            for a in samples(ty).into_iter().chain(extra).filter(|&a| !is_nan(ty, a)) {
                for (width, signed) in [(32, true), (32, false), (64, true), (64, false)] {
                    let mut exact = false;
                    let (value, status) = match (ty, signed) {
                        (Type::F32, true) => {
                            let result = Single::from_bits(a.into()).to_i128_r(width, round, &mut exact);
                            (result.value as u64, result.status)
                        }
                        (_, true) => {
                            let result = Double::from_bits(a.into()).to_i128_r(width, round, &mut exact);
                            (result.value as u64, result.status)
                        }
                        (Type::F32, false) => {
                            let result = Single::from_bits(a.into()).to_u128_r(width, round, &mut exact);
                            (result.value as u64, result.status)
                        }
                        (_, false) => {
                            let result = Double::from_bits(a.into()).to_u128_r(width, round, &mut exact);
                            (result.value as u64, result.status)
                        }
                    };
                    let flags = if status.contains(rustc_apfloat::Status::INVALID_OP) {
                        Flags::INVALID
                    } else if status.contains(rustc_apfloat::Status::INEXACT) {
                        Flags::INEXACT
                    } else {
                        Flags::NONE
                    };
                    let got = float_to_integer(ty, width as u32, signed, a, rounding);
                    assert_eq!(got, (value, flags), "{ty:?} {a:#x} {width} {signed} {rounding:?}");
                }
            }
        }
    }
}

#[test]
fn comparisons_agree_with_rust() {
    let samples = samples(Type::F64);
    for &a in &samples {
        for &b in &samples {
            let (x, y) = (f64::from_bits(a), f64::from_bits(b));
            assert_eq!(compare(FloatComparison::Equal, Type::F64, a, b).0, x == y);
            assert_eq!(compare(FloatComparison::Less, Type::F64, a, b).0, x < y);
            assert_eq!(compare(FloatComparison::LessEqual, Type::F64, a, b).0, x <= y);
            assert_eq!(compare(FloatComparison::Unordered, Type::F64, a, b).0, x.is_nan() || y.is_nan());
        }
    }
}

#[test]
fn flags_survive_the_way_through_the_control_register() {
    let saved = enter_guest(Rounding::Up);
    let (sum, flags) = binary(FloatBinaryOp::Add, Type::F64, 1.0_f64.to_bits(), 1, Rounding::Down);
    let raised = leave_guest(saved);
    assert_eq!((sum, flags.ieee()), (1.0_f64.to_bits(), Flags::INEXACT));
    // What an explicit operation raises does not leak into the flags of compiled code around it.
    assert_eq!(raised, Flags::NONE);
}
