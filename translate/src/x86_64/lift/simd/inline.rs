//! Integer instructions and permutations for which the IR has operations, by their names without VEX's V.

use std::sync::LazyLock;

use iced_x86::{Mnemonic, OpKind};

use crate::ir::{LaneOp, LaneShift, Shuffle, Type, Value, VectorOp};

use super::super::super::simd::table::by_mnemonic;
use super::super::{Lifted, Lifter, Result};
use super::Halves;

/// How an instruction is done on each half of its operands.
#[derive(Clone, Copy, Debug)]
enum Inline {
    /// Lanes of both sources.
    Lanes(LaneOp, Type),
    /// Lanes of the first source, shifted by the second's low half or the immediate.
    Shift(LaneShift, Type),
    /// Bytes of both sources, by the immediate and the number of the half.
    Choose(fn(u8, usize) -> Shuffle),
    /// Bytes of the second source.
    ChooseOfSecond(fn(u8) -> Shuffle),
    /// PALIGNR.
    Align,
    /// PSLLDQ.
    ShiftBytesLeft,
    /// PSRLDQ.
    ShiftBytesRight,
    /// Magnitudes of the second source's lanes.
    Magnitude(Type),
    /// The second source's low lanes, widened so many times to twice their width.
    Widen { signed: bool, lane: Type, times: u32 },
    /// The second source's lanes where the sign of the third's is set, else the first's.
    BlendBySign(Type),
}

#[rustfmt::skip]
fn named(name: &str) -> Option<Inline> {
    use Inline::*;
    use LaneOp as L;
    use LaneShift as S;
    use Type::{I8, I16, I32, I64};
    Some(match name {
        "paddb" => Lanes(L::Add, I8), "paddw" => Lanes(L::Add, I16),
        "paddd" => Lanes(L::Add, I32), "paddq" => Lanes(L::Add, I64),
        "psubb" => Lanes(L::Sub, I8), "psubw" => Lanes(L::Sub, I16),
        "psubd" => Lanes(L::Sub, I32), "psubq" => Lanes(L::Sub, I64),
        "paddsb" => Lanes(L::AddSaturatingSigned, I8), "paddsw" => Lanes(L::AddSaturatingSigned, I16),
        "paddusb" => Lanes(L::AddSaturatingUnsigned, I8), "paddusw" => Lanes(L::AddSaturatingUnsigned, I16),
        "psubsb" => Lanes(L::SubSaturatingSigned, I8), "psubsw" => Lanes(L::SubSaturatingSigned, I16),
        "psubusb" => Lanes(L::SubSaturatingUnsigned, I8), "psubusw" => Lanes(L::SubSaturatingUnsigned, I16),
        "pmullw" => Lanes(L::Mul, I16), "pmulld" => Lanes(L::Mul, I32),
        "pmulhw" => Lanes(L::MulHighSigned, I16), "pmulhuw" => Lanes(L::MulHighUnsigned, I16),
        "pmuldq" => Lanes(L::MulLowHalvesSigned, I64), "pmuludq" => Lanes(L::MulLowHalvesUnsigned, I64),
        "pmaddwd" => Lanes(L::MulAddHalves, I32),
        "pavgb" => Lanes(L::Average, I8), "pavgw" => Lanes(L::Average, I16),
        "pminsb" => Lanes(L::MinSigned, I8), "pminsw" => Lanes(L::MinSigned, I16), "pminsd" => Lanes(L::MinSigned, I32),
        "pminub" => Lanes(L::MinUnsigned, I8), "pminuw" => Lanes(L::MinUnsigned, I16), "pminud" => Lanes(L::MinUnsigned, I32),
        "pmaxsb" => Lanes(L::MaxSigned, I8), "pmaxsw" => Lanes(L::MaxSigned, I16), "pmaxsd" => Lanes(L::MaxSigned, I32),
        "pmaxub" => Lanes(L::MaxUnsigned, I8), "pmaxuw" => Lanes(L::MaxUnsigned, I16), "pmaxud" => Lanes(L::MaxUnsigned, I32),
        "pcmpeqb" => Lanes(L::Equal, I8), "pcmpeqw" => Lanes(L::Equal, I16),
        "pcmpeqd" => Lanes(L::Equal, I32), "pcmpeqq" => Lanes(L::Equal, I64),
        "pcmpgtb" => Lanes(L::GreaterSigned, I8), "pcmpgtw" => Lanes(L::GreaterSigned, I16),
        "pcmpgtd" => Lanes(L::GreaterSigned, I32), "pcmpgtq" => Lanes(L::GreaterSigned, I64),
        "packsswb" => Lanes(L::NarrowSigned, I16), "packssdw" => Lanes(L::NarrowSigned, I32),
        "packuswb" => Lanes(L::NarrowUnsigned, I16), "packusdw" => Lanes(L::NarrowUnsigned, I32),
        "pshufb" => Lanes(L::Permute, I8),
        "psllw" => Shift(S::Left, I16), "pslld" => Shift(S::Left, I32), "psllq" => Shift(S::Left, I64),
        "psrlw" => Shift(S::RightUnsigned, I16), "psrld" => Shift(S::RightUnsigned, I32),
        "psrlq" => Shift(S::RightUnsigned, I64),
        "psraw" => Shift(S::RightSigned, I16), "psrad" => Shift(S::RightSigned, I32),
        "punpcklbw" => Choose(|_, _| Shuffle::InterleaveLow(I8)),
        "punpcklwd" => Choose(|_, _| Shuffle::InterleaveLow(I16)),
        "punpckldq" | "unpcklps" => Choose(|_, _| Shuffle::InterleaveLow(I32)),
        "punpcklqdq" | "unpcklpd" => Choose(|_, _| Shuffle::InterleaveLow(I64)),
        "punpckhbw" => Choose(|_, _| Shuffle::InterleaveHigh(I8)),
        "punpckhwd" => Choose(|_, _| Shuffle::InterleaveHigh(I16)),
        "punpckhdq" | "unpckhps" => Choose(|_, _| Shuffle::InterleaveHigh(I32)),
        "punpckhqdq" | "unpckhpd" => Choose(|_, _| Shuffle::InterleaveHigh(I64)),
        "shufps" => Choose(|immediate, _| Shuffle::Words(immediate)),
        "shufpd" => Choose(|immediate, half| Shuffle::Doubles(immediate >> (2 * half))),
        "pblendw" => Choose(|immediate, _| Shuffle::Blend(immediate)),
        "blendps" | "pblendd" => Choose(|immediate, half| Shuffle::Blend(repeat_bits(immediate >> (4 * half), 2))),
        "blendpd" => Choose(|immediate, half| Shuffle::Blend(repeat_bits(immediate >> (2 * half), 4))),
        "pshufd" => ChooseOfSecond(Shuffle::Words),
        "pshuflw" => ChooseOfSecond(Shuffle::LowHalves),
        "pshufhw" => ChooseOfSecond(Shuffle::HighHalves),
        "movddup" => ChooseOfSecond(|_| Shuffle::Doubles(0)),
        "movsldup" => ChooseOfSecond(|_| Shuffle::Words(0b10_10_00_00)),
        "movshdup" => ChooseOfSecond(|_| Shuffle::Words(0b11_11_01_01)),
        "palignr" => Align,
        "pslldq" => ShiftBytesLeft,
        "psrldq" => ShiftBytesRight,
        "pabsb" => Magnitude(I8), "pabsw" => Magnitude(I16), "pabsd" => Magnitude(I32),
        "pmovsxbw" => Widen { signed: true, lane: I8, times: 1 }, "pmovsxbd" => Widen { signed: true, lane: I8, times: 2 },
        "pmovsxbq" => Widen { signed: true, lane: I8, times: 3 }, "pmovsxwd" => Widen { signed: true, lane: I16, times: 1 },
        "pmovsxwq" => Widen { signed: true, lane: I16, times: 2 }, "pmovsxdq" => Widen { signed: true, lane: I32, times: 1 },
        "pmovzxbw" => Widen { signed: false, lane: I8, times: 1 }, "pmovzxbd" => Widen { signed: false, lane: I8, times: 2 },
        "pmovzxbq" => Widen { signed: false, lane: I8, times: 3 }, "pmovzxwd" => Widen { signed: false, lane: I16, times: 1 },
        "pmovzxwq" => Widen { signed: false, lane: I16, times: 2 }, "pmovzxdq" => Widen { signed: false, lane: I32, times: 1 },
        "pblendvb" => BlendBySign(I8), "blendvps" => BlendBySign(I32), "blendvpd" => BlendBySign(I64),
        _ => return None,
    })
}

/// Each of the low bits so many times, up to 8 bits.
fn repeat_bits(bits: u8, times: u32) -> u8 {
    (0..8).fold(0, |all, bit| all | (bits >> (bit / times) & 1) << bit)
}

fn of(mnemonic: Mnemonic) -> Option<Inline> {
    static ALL: LazyLock<Vec<Option<Inline>>> =
        LazyLock::new(|| by_mnemonic(|name| named(name).or_else(|| named(name.strip_prefix('v')?))));
    ALL.get(mnemonic as usize).copied().flatten()
}

impl Lifter {
    /// An instruction that operations on vectors do; none if it is not one.
    pub(super) fn vector_inline(&mut self, mnemonic: Mnemonic) -> Option<Result> {
        let inline = of(mnemonic)?;
        Some(self.inline_result(inline).map(|result| {
            self.write_vector(result);
            Lifted::Next
        }))
    }

    fn inline_result(&mut self, inline: Inline) -> Result<Halves> {
        let (first, second) = self.sources();
        let count = self.half_count();
        let immediate = if self.has_immediate() { self.i.immediate8() } else { 0 };
        let by_immediate = self.i.op_kind(self.i.op_count() - 1) == OpKind::Immediate8;
        let b = match inline {
            Inline::ShiftBytesLeft | Inline::ShiftBytesRight => [self.zero_vector(); 2],
            Inline::Shift(..) if by_immediate => [self.zero_vector(); 2],
            _ => self.read_vector(second)?,
        };
        // A shuffle of one source may have it in memory.
        let a = if self.is_memory(first) { b } else { self.read_register(self.number(first), count) };
        let zero = self.zero_vector();
        Ok(match inline {
            Inline::Lanes(op, lane) => self.on_halves(|lifter, half| lifter.lanes(op, lane, a[half], b[half])),
            Inline::Shift(op, lane) => {
                let count =
                    if by_immediate { self.constant(immediate.into()) } else { self.extract(Type::I64, 0, b[0]) };
                self.on_halves(|lifter, half| lifter.vector_op(VectorOp::Shift { op, lane, a: a[half], count }))
            }
            Inline::Choose(shuffle) => {
                self.on_halves(|lifter, half| lifter.shuffle(shuffle(immediate, half), a[half], b[half]))
            }
            Inline::ChooseOfSecond(shuffle) => {
                self.on_halves(|lifter, half| lifter.shuffle(shuffle(immediate), b[half], b[half]))
            }
            Inline::Align => self.on_halves(|lifter, half| match immediate {
                0..=16 => lifter.shuffle(Shuffle::Align(immediate), b[half], a[half]),
                17..=31 => lifter.shuffle(Shuffle::Align(immediate - 16), a[half], zero),
                _ => zero,
            }),
            Inline::ShiftBytesLeft => {
                let by = immediate.min(16);
                self.on_halves(|lifter, half| lifter.shuffle(Shuffle::Align(16 - by), zero, a[half]))
            }
            Inline::ShiftBytesRight => {
                let by = immediate.min(16);
                self.on_halves(|lifter, half| lifter.shuffle(Shuffle::Align(by), a[half], zero))
            }
            Inline::Magnitude(lane) => self.on_halves(|lifter, half| {
                let negative = lifter.lanes(LaneOp::Sub, lane, zero, b[half]);
                // The least number, whose negative it is itself, is its own magnitude as an unsigned one.
                lifter.lanes(LaneOp::MaxSigned, lane, b[half], negative)
            }),
            Inline::Widen { signed, lane, times } => self.on_halves(|lifter, half| {
                let bytes = (half as u8 * 16) >> times;
                let source = if half == 0 { b[0] } else { lifter.shuffle(Shuffle::Align(bytes), b[0], zero) };
                (0..times)
                    .fold((source, lane), |(a, lane), _| {
                        (lifter.vector_op(VectorOp::Widen { signed, lane, a }), wider(lane))
                    })
                    .0
            }),
            Inline::BlendBySign(lane) => {
                // The decoder does not count an implicit XMM0 among the operands.
                let third = if self.is_vex() { self.number(3) } else { 0 };
                let signs = self.read_register(third, count);
                self.on_halves(|lifter, half| {
                    let chosen = lifter.lanes(LaneOp::GreaterSigned, lane, zero, signs[half]);
                    let from_b = lifter.lanes(LaneOp::And, Type::I64, chosen, b[half]);
                    let from_a = lifter.lanes(LaneOp::NotAnd, Type::I64, chosen, a[half]);
                    lifter.lanes(LaneOp::Or, Type::I64, from_a, from_b)
                })
            }
        })
    }

    pub(super) fn shuffle(&mut self, shuffle: Shuffle, a: Value, b: Value) -> Value {
        self.vector_op(VectorOp::Shuffle { shuffle, a, b })
    }
}

/// The type of twice the width.
fn wider(lane: Type) -> Type {
    match lane {
        Type::I8 => Type::I16,
        Type::I16 => Type::I32,
        _ => Type::I64,
    }
}
