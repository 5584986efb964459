//! Instructions by their mnemonics.

use std::sync::LazyLock;

use iced_x86::Mnemonic;

use super::multiply_add::MultiplyAdd;
use super::{aes, arithmetic::*, carryless, compare::*, float, pack::*, sha, shift::*, shuffle::*};
use crate::x86_64::softfloat::{Environment, Format};

/// Which operands the function of a [`Lanewise`] takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A half of the destination and the same half of the source.
    Halves,
    /// A half of the destination, and the shift count: the low half of the source, or the immediate.
    Shift,
    /// The low and the high half of the destination, for the low half of the result; those of the source for the high half. Of
    /// MMX registers: destination and source.
    Operands,
    /// PUNPCKL: the low half of the result is this of the operands' low halves, the high half is the function of the PUNPCKH
    /// of the same width of the same. Of MMX registers: destination and source.
    UnpackLow,
    /// PUNPCKH: the low half of the result is the function of the PUNPCKL of the same width of the operands' high halves,
    /// the high half is this of the same. Of MMX registers: destination and source.
    UnpackHigh,
}

/// A function of two halves.
#[derive(Clone, Copy, Debug)]
pub struct Lanewise {
    /// The mnemonic, in lower case.
    pub name: &'static str,
    /// What the function is applied to.
    pub shape: Shape,
    /// The function.
    pub function: fn(u64, u64) -> u64,
}

/// An XMM register, low half first.
pub type Register = [u64; 2];

/// A YMM register, lower half first.
pub type Wide = [Register; 2];

/// How the upper 128 bits of a result of 256 bits follow from the function of 128-bit registers that gives the lower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upper {
    /// The function of the operands' upper halves.
    Same,
    /// As [`Upper::Same`], with the immediate shifted right by so many bits.
    Immediate(u32),
    /// The source is narrower than the result: the function of the source shifted right by so many bits.
    Widens(u32),
    /// The result is narrower than the source: the low quadwords of both halves' results, and zeroes.
    Narrows,
}

impl Upper {
    /// Applies a function of registers to registers of 256 bits. In `c` an immediate is in both halves.
    pub fn apply(
        self,
        a: Wide,
        b: Wide,
        c: Wide,
        mut function: impl FnMut(Register, Register, Register) -> Register,
    ) -> Wide {
        let low = function(a[0], b[0], c[0]);
        match self {
            Upper::Same => [low, function(a[1], b[1], c[1])],
            Upper::Immediate(bits) => [low, function(a[1], b[1], [c[1][0] >> bits, 0])],
            Upper::Widens(bits) => {
                let source = u128::from(b[0][0]) | u128::from(b[0][1]) << 64;
                let source = source >> bits;
                [low, function(a[1], [source as u64, (source >> 64) as u64], c[1])]
            }
            Upper::Narrows => [[low[0], function(a[1], b[1], c[1])[0]], [0, 0]],
        }
    }
}

/// An instruction on XMM registers.
#[derive(Clone, Copy, Debug)]
pub struct Integer {
    /// The mnemonic, in lower case.
    pub name: &'static str,
    /// The rest of the instruction on YMM registers.
    pub upper: Upper,
    /// Computes the new destination from the destination, the source (of an operand in memory that is narrower than a
    /// register, the missing part is zero), and the immediate in the low half of a register, or XMM0 where that is an implicit operand.
    pub function: fn(Register, Register, Register) -> Register,
}

/// A floating-point instruction on XMM registers.
#[derive(Clone, Copy, Debug)]
pub struct Float {
    /// The mnemonic, in lower case.
    pub name: &'static str,
    /// The rest of the instruction on YMM registers.
    pub upper: Upper,
    /// As of [`Integer`], in an environment.
    pub function: fn(&mut Environment, Register, Register, Register) -> Register,
}

macro_rules! lanewise {
    ($($shape:ident: $($name:ident)*;)*) => {
        /// The instructions that are functions of two halves, of MMX or XMM registers.
        pub const LANEWISE: &[Lanewise] =
            &[$($(Lanewise { name: stringify!($name), shape: Shape::$shape, function: $name },)*)*];
    };
}

lanewise! {
    Halves:
        paddb paddw paddd paddq psubb psubw psubd psubq
        paddsb paddsw paddusb paddusw psubsb psubsw psubusb psubusw
        pmullw pmulhw pmulhuw pmulhrsw pmulld pmuludq pmuldq pmaddwd pmaddubsw
        pavgb pavgw pminub pminuw pminud pminsb pminsw pminsd pmaxub pmaxuw pmaxud pmaxsb pmaxsw pmaxsd
        psignb psignw psignd psadbw
        pcmpeqb pcmpeqw pcmpeqd pcmpeqq pcmpgtb pcmpgtw pcmpgtd pcmpgtq
        psllvd psllvq psrlvd psrlvq psravd;
    Shift: psllw pslld psllq psrlw psrld psrlq psraw psrad;
    Operands: phaddw phaddsw phaddd phsubw phsubsw phsubd packsswb packuswb packssdw packusdw;
    UnpackLow: punpcklbw punpcklwd punpckldq;
    UnpackHigh: punpckhbw punpckhwd punpckhdq;
}

/// Position in [`LANEWISE`] of the function of a mnemonic in lower case.
pub fn lanewise_named(name: &str) -> Option<usize> {
    LANEWISE.iter().position(|entry| entry.name == name)
}

/// Position in [`INTEGER`] of the function of a mnemonic in lower case.
pub fn integer_named(name: &str) -> Option<usize> {
    INTEGER.iter().position(|entry| entry.name == name)
}

/// Position in [`FLOAT`] of the function of a mnemonic in lower case.
pub fn float_named(name: &str) -> Option<usize> {
    FLOAT.iter().position(|entry| entry.name == name)
}

macro_rules! integers {
    (
        unary: $($unary:ident)*;
        widen: $($widen:ident $bytes:literal)*;
        rounds: $($module:ident::$round:ident)*;
        $($name:ident $([$upper:expr])? = $function:expr;)*
    ) => {
        /// The integer instructions on XMM registers that are not in [`LANEWISE`].
        pub const INTEGER: &[Integer] = &[
            $(Integer { name: stringify!($unary), upper: Upper::Same, function: |_, b, _| b.map($unary) },)*
            $(Integer {
                name: stringify!($widen),
                upper: Upper::Widens($bytes * 16),
                function: |_, b, _| [$widen(b[0]), $widen(b[0] >> ($bytes * 8))],
            },)*
            $(Integer { name: stringify!($round), upper: Upper::Same, function: |a, b, _| $module::$round(a, b) },)*
            $(Integer { name: stringify!($name), upper: or_same(&[$($upper)?]), function: $function },)*
        ];
    };
}

/// What an entry of the tables says of its upper half.
const fn or_same(given: &[Upper]) -> Upper {
    if given.is_empty() { Upper::Same } else { given[0] }
}

/// The immediate operand.
fn immediate(c: Register) -> u8 {
    c[0] as u8
}

integers! {
    unary: pabsb pabsw pabsd;
    widen:
        pmovsxbw 4 pmovsxbd 2 pmovsxbq 1 pmovsxwd 4 pmovsxwq 2 pmovsxdq 4
        pmovzxbw 4 pmovzxbd 2 pmovzxbq 1 pmovzxwd 4 pmovzxwq 2 pmovzxdq 4;
    rounds:
        aes::aesenc aes::aesenclast aes::aesdec aes::aesdeclast
        sha::sha1nexte sha::sha1msg1 sha::sha1msg2 sha::sha256msg1 sha::sha256msg2;
    aesimc = |_, b, _| aes::aesimc(b);
    aeskeygenassist = |_, b, c| aes::aeskeygenassist(b, immediate(c));
    pclmulqdq = |a, b, c| carryless::pclmulqdq(a, b, immediate(c));
    sha1rnds4 = |a, b, c| sha::sha1rnds4(a, b, immediate(c));
    sha256rnds2 = |a, b, c| sha::sha256rnds2(a, b, c[0]);
    pslldq = |a, _, c| pslldq(a, immediate(c));
    psrldq = |a, _, c| psrldq(a, immediate(c));
    palignr = |a, b, c| palignr(a, b, immediate(c));
    pshufb = |a, b, _| b.map(|control| pshufb(a[0], a[1], control));
    pshufd = |_, b, c| pshufd(b, immediate(c));
    pshuflw = |_, b, c| [pshufw(b[0], c[0]), b[1]];
    pshufhw = |_, b, c| [b[0], pshufw(b[1], c[0])];
    shufps = |a, b, c| shufps(a, b, immediate(c));
    shufpd [Upper::Immediate(2)] = |a, b, c| shufpd(a, b, immediate(c));
    unpcklps = |a, b, _| [punpckldq(a[0], b[0]), punpckhdq(a[0], b[0])];
    unpckhps = |a, b, _| [punpckldq(a[1], b[1]), punpckhdq(a[1], b[1])];
    punpcklqdq = |a, b, _| [a[0], b[0]];
    punpckhqdq = |a, b, _| [a[1], b[1]];
    unpcklpd = |a, b, _| [a[0], b[0]];
    unpckhpd = |a, b, _| [a[1], b[1]];
    movddup = |_, b, _| [b[0]; 2];
    movsldup = |_, b, _| b.map(|half| punpckldq(half, half));
    movshdup = |_, b, _| b.map(|half| punpckhdq(half, half));
    pblendvb = |a, b, c| [0, 1].map(|half| pblendvb(a[half], b[half], c[half]));
    blendvps = |a, b, c| [0, 1].map(|half| blendvps(a[half], b[half], c[half]));
    blendvpd = |a, b, c| [0, 1].map(|half| blendvpd(a[half], b[half], c[half]));
    pblendw = |a, b, c| [pblendw(a[0], b[0], c[0]), pblendw(a[1], b[1], c[0] >> 4)];
    blendps [Upper::Immediate(4)] = |a, b, c| [blendps(a[0], b[0], c[0]), blendps(a[1], b[1], c[0] >> 2)];
    blendpd [Upper::Immediate(2)] = |a, b, c| [0, 1].map(|half| blendvpd(a[half], b[half], c[0] << (63 - half)));
    mpsadbw [Upper::Immediate(3)] = |a, b, c| mpsadbw(a, b, immediate(c));
    vpblendd [Upper::Immediate(4)] = |a, b, c| [blendps(a[0], b[0], c[0]), blendps(a[1], b[1], c[0] >> 2)];
    vpermilps = |a, b, _| b.map(|control| permute_doublewords(a, control));
    vpermilpd = |a, b, _| b.map(|control| a[(control >> 1 & 1) as usize]);
    phminposuw = |_, b, _| [phminposuw(b[0], b[1]), 0];
}

/// Replaces the lowest lane of a register.
fn lowest(format: Format, a: Register, lane: u64) -> Register {
    if format == Format::SINGLE { [a[0] & !0xffff_ffff | lane, a[1]] } else { [lane, a[1]] }
}

/// The lowest lane of a register.
fn lane(format: Format, a: Register) -> u64 {
    if format == Format::SINGLE { a[0] & 0xffff_ffff } else { a[0] }
}

macro_rules! floats {
    (
        arithmetic: $($packed_single:ident $packed_double:ident $single:ident $double:ident $op:ident)*;
        lanes: $($lanes_single:ident $lanes_double:ident $lane_single:ident $lane_double:ident $lane_function:path)*;
        $($name:ident $([$upper:expr])? = $function:expr;)*
    ) => {
        /// The floating-point instructions on XMM registers, and between them and MMX registers (in the low half of their operand).
        pub const FLOAT: &[Float] = &[
            $(
                Float { name: stringify!($packed_single), upper: Upper::Same, function: |e, a, b, _| {
                    float::packed(Format::SINGLE, a, b, |a, b| float::arithmetic(e, float::Arithmetic::$op, Format::SINGLE, a, b))
                } },
                Float { name: stringify!($packed_double), upper: Upper::Same, function: |e, a, b, _| {
                    float::packed(Format::DOUBLE, a, b, |a, b| float::arithmetic(e, float::Arithmetic::$op, Format::DOUBLE, a, b))
                } },
                Float { name: stringify!($single), upper: Upper::Same, function: |e, a, b, _| {
                    let result = float::arithmetic(e, float::Arithmetic::$op, Format::SINGLE, a[0], b[0]);
                    lowest(Format::SINGLE, a, result)
                } },
                Float { name: stringify!($double), upper: Upper::Same, function: |e, a, b, _| {
                    let result = float::arithmetic(e, float::Arithmetic::$op, Format::DOUBLE, a[0], b[0]);
                    lowest(Format::DOUBLE, a, result)
                } },
            )*
            $(
                Float { name: stringify!($lanes_single), upper: Upper::Same, function: |e, a, b, c| {
                    float::packed(Format::SINGLE, a, b, |a, b| $lane_function(e, Format::SINGLE, a, b, immediate(c)))
                } },
                Float { name: stringify!($lanes_double), upper: Upper::Same, function: |e, a, b, c| {
                    float::packed(Format::DOUBLE, a, b, |a, b| $lane_function(e, Format::DOUBLE, a, b, immediate(c)))
                } },
                Float { name: stringify!($lane_single), upper: Upper::Same, function: |e, a, b, c| {
                    let (x, y) = (lane(Format::SINGLE, a), lane(Format::SINGLE, b));
                    lowest(Format::SINGLE, a, $lane_function(e, Format::SINGLE, x, y, immediate(c)))
                } },
                Float { name: stringify!($lane_double), upper: Upper::Same, function: |e, a, b, c| {
                    let (x, y) = (lane(Format::DOUBLE, a), lane(Format::DOUBLE, b));
                    lowest(Format::DOUBLE, a, $lane_function(e, Format::DOUBLE, x, y, immediate(c)))
                } },
            )*
            $(Float { name: stringify!($name), upper: or_same(&[$($upper)?]), function: $function },)*
        ];
    };
}

/// Functions of one lane of each operand and the immediate.
fn square_root(environment: &mut Environment, format: Format, _: u64, b: u64, _: u8) -> u64 {
    float::square_root(environment, format, b)
}

fn round(environment: &mut Environment, format: Format, _: u64, b: u64, control: u8) -> u64 {
    float::round(environment, format, b, control)
}

floats! {
    arithmetic:
        addps addpd addss addsd Add subps subpd subss subsd Sub mulps mulpd mulss mulsd Mul divps divpd divss divsd Div
        minps minpd minss minsd Min maxps maxpd maxss maxsd Max;
    lanes:
        sqrtps sqrtpd sqrtss sqrtsd square_root
        cmpps cmppd cmpss cmpsd float::compare
        roundps roundpd roundss roundsd round;
    addsubps = |e, a, b, _| float::add_sub(e, Format::SINGLE, a, b);
    addsubpd = |e, a, b, _| float::add_sub(e, Format::DOUBLE, a, b);
    haddps = |e, a, b, _| float::horizontal(e, float::Arithmetic::Add, Format::SINGLE, a, b);
    haddpd = |e, a, b, _| float::horizontal(e, float::Arithmetic::Add, Format::DOUBLE, a, b);
    hsubps = |e, a, b, _| float::horizontal(e, float::Arithmetic::Sub, Format::SINGLE, a, b);
    hsubpd = |e, a, b, _| float::horizontal(e, float::Arithmetic::Sub, Format::DOUBLE, a, b);
    dpps = |e, a, b, c| float::dot_product(e, Format::SINGLE, a, b, immediate(c));
    dppd = |e, a, b, c| float::dot_product(e, Format::DOUBLE, a, b, immediate(c));
    rcpps = |_, a, b, _| float::packed(Format::SINGLE, a, b, |_, b| float::reciprocal(b));
    rcpss = |_, a, b, _| lowest(Format::SINGLE, a, float::reciprocal(lane(Format::SINGLE, b)));
    rsqrtps = |_, a, b, _| float::packed(Format::SINGLE, a, b, |_, b| float::reciprocal_square_root(b));
    rsqrtss = |_, a, b, _| lowest(Format::SINGLE, a, float::reciprocal_square_root(lane(Format::SINGLE, b)));
    cvtss2sd = |e, a, b, _| lowest(Format::DOUBLE, a, float::convert(e, Format::SINGLE, Format::DOUBLE, b[0]));
    cvtsd2ss = |e, a, b, _| lowest(Format::SINGLE, a, float::convert(e, Format::DOUBLE, Format::SINGLE, b[0]));
    cvtps2pd [Upper::Widens(64)] = |e, _, b, _| float::cvtps2pd(e, b[0]);
    cvtpd2ps [Upper::Narrows] = |e, _, b, _| [float::cvtpd2ps(e, b), 0];
    cvtdq2ps = |e, _, b, _| b.map(|half| float::cvtdq2ps(e, half));
    cvtdq2pd [Upper::Widens(64)] = |_, _, b, _| float::cvtdq2pd(b[0]);
    cvtps2dq = |e, _, b, _| b.map(|half| float::cvtps2dq(e, half, false));
    cvttps2dq = |e, _, b, _| b.map(|half| float::cvtps2dq(e, half, true));
    cvtpd2dq [Upper::Narrows] = |e, _, b, _| [float::cvtpd2dq(e, b, false), 0];
    cvttpd2dq [Upper::Narrows] = |e, _, b, _| [float::cvtpd2dq(e, b, true), 0];
    vcvtph2ps [Upper::Widens(64)] = |e, _, b, _| float::cvtph2ps(e, b[0]);
    vcvtps2ph [Upper::Narrows] = |e, _, b, c| [float::cvtps2ph(e, b, immediate(c)), 0];
    cvtpi2ps = |e, a, b, _| [float::cvtdq2ps(e, b[0]), a[1]];
    cvtpi2pd = |_, _, b, _| float::cvtdq2pd(b[0]);
    cvtps2pi = |e, _, b, _| [float::cvtps2dq(e, b[0], false), 0];
    cvttps2pi = |e, _, b, _| [float::cvtps2dq(e, b[0], true), 0];
    cvtpd2pi = |e, _, b, _| [float::cvtpd2dq(e, b, false), 0];
    cvttpd2pi = |e, _, b, _| [float::cvtpd2dq(e, b, true), 0];
}

impl Lanewise {
    /// The instruction on XMM registers: the new destination. The count of a shift is the source's low half.
    pub fn on_registers(&self, a: Register, b: Register) -> Register {
        let function = self.function;
        match self.shape {
            Shape::Halves => [function(a[0], b[0]), function(a[1], b[1])],
            Shape::Shift => a.map(|half| function(half, b[0])),
            Shape::Operands => [function(a[0], a[1]), function(b[0], b[1])],
            // PUNPCKH of shifted halves is what PUNPCKL leaves over, and the other way round.
            Shape::UnpackLow => [function(a[0], b[0]), function(a[0] >> 32, b[0] >> 32)],
            Shape::UnpackHigh => [function(a[1] << 32, b[1] << 32), function(a[1], b[1])],
        }
    }
}

/// Where the function of an instruction is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Position in [`LANEWISE`].
    Lanewise(usize),
    /// Position in [`INTEGER`].
    Integer(usize),
    /// Position in [`FLOAT`].
    Float(usize),
    /// A fused multiply-add.
    MultiplyAdd(MultiplyAdd),
}

impl Operation {
    fn named(name: &str) -> Option<Operation> {
        lanewise_named(name)
            .map(Operation::Lanewise)
            .or_else(|| integer_named(name).map(Operation::Integer))
            .or_else(|| float_named(name).map(Operation::Float))
            .or_else(|| MultiplyAdd::named(name).map(Operation::MultiplyAdd))
    }

    /// The operation of a mnemonic, of a legacy encoding or with VEX.
    pub fn of(mnemonic: Mnemonic) -> Option<Operation> {
        static OPERATIONS: LazyLock<Vec<Option<Operation>>> =
            // VEX has a V before the name of the legacy instruction, and instructions of its own.
            LazyLock::new(|| {
                by_mnemonic(|name| Operation::named(name).or_else(|| Operation::named(name.strip_prefix('v')?)))
            });
        OPERATIONS.get(mnemonic as usize).copied().flatten()
    }
}

/// A table by mnemonics, from a look-up by their names in lower case.
pub fn by_mnemonic<T>(named: impl Fn(&str) -> Option<T>) -> Vec<Option<T>> {
    Mnemonic::values().map(|mnemonic| named(&format!("{mnemonic:?}").to_lowercase())).collect()
}
