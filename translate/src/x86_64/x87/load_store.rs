//! Loads and stores, constants, exchange, conditional moves.

use super::status::C1;
use super::{INDEFINITE, X87};
use crate::x86_64::softfloat::exception::{INEXACT, INVALID, OVERFLOW, UNDERFLOW};
use crate::x86_64::softfloat::{Environment, Float80, Format, Number, pack, unpack};

/// What FLD1 and the others after it load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Constant {
    /// FLD1: 1.
    One,
    /// FLDL2T: the binary logarithm of 10.
    Log2Of10,
    /// FLDL2E: the binary logarithm of e.
    Log2OfE,
    /// FLDPI: pi.
    Pi,
    /// FLDLG2: the decimal logarithm of 2.
    Log10Of2,
    /// FLDLN2: the natural logarithm of 2.
    LogOf2,
    /// FLDZ: plus zero.
    Zero,
}

impl Constant {
    /// The constant's exponent, and its first 128 bits.
    fn parts(self) -> (i32, u128) {
        match self {
            Constant::One => (0, 1 << 127),
            Constant::Log2Of10 => (1, 0xd49a_784b_cd1b_8afe_492b_f6ff_4daf_db4d),
            Constant::Log2OfE => (0, 0xb8aa_3b29_5c17_f0bb_be87_fed0_691d_3e89),
            Constant::Pi => (1, 0xc90f_daa2_2168_c234_c4c6_628b_80dc_1cd1),
            Constant::Log10Of2 => (-2, 0x9a20_9a84_fbcf_f798_8f89_59ac_0b7c_9178),
            Constant::LogOf2 => (-1, 0xb172_17f7_d1cf_79ab_c9e3_b398_03f2_f6af),
            Constant::Zero => (0, 0),
        }
    }
}

/// The indefinite packed decimal.
const INDEFINITE_DECIMAL: [u8; 10] = [0, 0, 0, 0, 0, 0, 0, 0xc0, 0xff, 0xff];

impl X87 {
    /// FLD from a binary32 operand.
    pub fn fld_f32(&mut self, bits: u32) {
        self.load(unpack(Format::SINGLE, bits.into()));
    }

    /// FLD from a binary64 operand.
    pub fn fld_f64(&mut self, bits: u64) {
        self.load(unpack(Format::DOUBLE, bits));
    }

    /// FLD from an 80-bit operand, whatever it encodes.
    pub fn fld_f80(&mut self, value: Float80) {
        self.push(value);
    }

    /// FILD, of each width.
    pub fn fild(&mut self, value: i64) {
        self.push(Float80::pack(Number::finite(value < 0, 63, value.unsigned_abs())));
    }

    /// FBLD: 18 decimal digits, two a byte, and a sign.
    pub fn fbld(&mut self, bytes: [u8; 10]) {
        let value = bytes[..9].iter().rev().fold(0_u64, |value, byte| {
            value.wrapping_mul(100).wrapping_add(u64::from(byte >> 4) * 10 + u64::from(byte & 15))
        });
        self.push(Float80::pack(Number::finite(bytes[9] & 0x80 != 0, 63, value)));
    }

    /// FLD1, FLDL2T, FLDL2E, FLDPI, FLDLG2, FLDLN2, FLDZ.
    pub fn fld_constant(&mut self, constant: Constant) {
        let (exponent, significand) = constant.parts();
        // Rounded by the control word, but raises nothing.
        let value = match significand {
            0 => Number::zero(false),
            _ => self.extended().round(false, exponent, significand),
        };
        self.push(Float80::pack(value));
    }

    fn load(&mut self, value: Number) {
        if !self.is_empty(7) {
            self.push(INDEFINITE);
            return;
        }
        let mut environment = self.extended();
        let value = environment.convert(value);
        if self.conclude(&mut environment) || environment.unmasked() & INVALID == 0 {
            self.push(Float80::pack(value));
        }
    }

    /// FLD ST(`index`).
    pub fn fld_st(&mut self, index: u8) {
        match self.underflow(&[index]) {
            Some(true) => self.push_after_fault(INDEFINITE),
            Some(false) => {}
            None => self.push(self.st(index)),
        }
    }

    /// Pushes without looking whether the stack has room, leaving C1 as it is.
    pub(super) fn push_after_fault(&mut self, value: Float80) {
        self.set_top(self.top() + 7);
        self.set(0, value);
    }

    /// FST and FSTP ST(`index`).
    pub fn fst_st(&mut self, index: u8, pop: bool) {
        let value = match self.underflow(&[0]) {
            Some(true) => INDEFINITE,
            Some(false) => return,
            None => self.st(0),
        };
        self.set(index, value);
        self.pop_times(pop.into());
    }

    /// FSTPNCE ST(`index`), as opcode maps call an undocumented FSTP that only pops if ST(0) is empty.
    pub fn fstpnce(&mut self, index: u8) {
        self.set_conditions(C1, false);
        if !self.is_empty(0) {
            self.set(index, self.st(0));
        }
        self.pop();
    }

    /// FST and FSTP to a binary32 operand: the bits to store, if any.
    pub fn fst_f32(&mut self, pop: bool) -> Option<u32> {
        self.store_float(Format::SINGLE, pop).map(|bits| bits as u32)
    }

    /// FST and FSTP to a binary64 operand: the bits to store, if any.
    pub fn fst_f64(&mut self, pop: bool) -> Option<u64> {
        self.store_float(Format::DOUBLE, pop)
    }

    fn store_float(&mut self, format: Format, pop: bool) -> Option<u64> {
        let result = match self.underflow(&[0]) {
            Some(false) => return None,
            Some(true) => Number::DEFAULT_NAN,
            None => {
                let mut environment = Environment { format, ..self.environment() };
                // A store does not raise denormal.
                let operand = Number { denormal: false, ..self.st(0).unpack() };
                let result = environment.convert(operand);
                let out_of_range = environment.unmasked() & (OVERFLOW | UNDERFLOW) != 0;
                if out_of_range {
                    environment.raised &= !INEXACT;
                }
                if !self.conclude(&mut environment) || out_of_range {
                    return None;
                }
                result
            }
        };
        self.pop_times(pop.into());
        Some(pack(format, result))
    }

    /// FSTP to an 80-bit operand: what to store, if anything.
    pub fn fstp_f80(&mut self) -> Option<Float80> {
        let value = match self.underflow(&[0]) {
            Some(true) => INDEFINITE,
            Some(false) => return None,
            None => self.st(0),
        };
        self.pop();
        Some(value)
    }

    /// FIST and FISTP to an integer of `width` bits (16, 32, 64): its value, if any.
    pub fn fist(&mut self, width: u32, pop: bool) -> Option<i64> {
        self.store_integer(width, self.extended(), pop)
    }

    /// FISTTP to an integer of `width` bits (16, 32, 64): its value, if any. Truncates.
    pub fn fisttp(&mut self, width: u32) -> Option<i64> {
        self.store_integer(width, self.extended().with_rounding(crate::float::Rounding::TowardZero), true)
    }

    fn store_integer(&mut self, width: u32, mut environment: Environment, pop: bool) -> Option<i64> {
        let width = width.clamp(1, 64);
        let indefinite = i64::MIN >> (64 - width);
        let value = match self.underflow(&[0]) {
            Some(false) => return None,
            Some(true) => indefinite,
            None => {
                let value = environment.to_integer(self.st(0).unpack(), width);
                if !self.conclude(&mut environment) {
                    return None;
                }
                value.unwrap_or(indefinite)
            }
        };
        self.pop_times(pop.into());
        Some(value)
    }

    /// FBSTP: the bytes to store, if any.
    pub fn fbstp(&mut self) -> Option<[u8; 10]> {
        let bytes = match self.underflow(&[0]) {
            Some(false) => return None,
            Some(true) => INDEFINITE_DECIMAL,
            None => {
                let mut environment = self.extended();
                let operand = self.st(0).unpack();
                let value = environment.to_integer(operand, 64).filter(|value| value.unsigned_abs() < 10_u64.pow(18));
                if value.is_none() {
                    environment.raised = INVALID;
                }
                if !self.conclude(&mut environment) {
                    return None;
                }
                value.map_or(INDEFINITE_DECIMAL, |value| decimal(value.unsigned_abs(), operand.negative))
            }
        };
        self.pop();
        Some(bytes)
    }

    /// FXCH ST(`index`).
    pub fn fxch(&mut self, index: u8) {
        match self.underflow(&[0, index]) {
            Some(false) => return,
            Some(true) => {
                for index in [0, index] {
                    if self.is_empty(index) {
                        self.set(index, INDEFINITE);
                    }
                }
            }
            None => {}
        }
        let (a, b) = (self.st(0), self.st(index));
        self.set(0, b);
        self.set(index, a);
    }

    /// FCMOVcc ST(0), ST(`index`), if its condition holds. An empty register is a fault either way.
    pub fn fcmov(&mut self, index: u8, taken: bool) {
        let condition = self.status & C1;
        match self.underflow(&[0, index]) {
            Some(true) => self.set(0, INDEFINITE),
            Some(false) => {}
            None => {
                self.set_conditions(condition, true);
                if taken {
                    self.set(0, self.st(index));
                }
            }
        }
    }
}

/// 18 decimal digits, two a byte, and a sign.
fn decimal(mut magnitude: u64, negative: bool) -> [u8; 10] {
    let mut bytes = [0; 10];
    for byte in &mut bytes[..9] {
        let pair = (magnitude % 100) as u8;
        *byte = ((pair / 10) << 4) | (pair % 10);
        magnitude /= 100;
    }
    bytes[9] = u8::from(negative) << 7;
    bytes
}
