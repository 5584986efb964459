//! Instructions by their encoding.
//!
//! An instruction's opcode, as here and in the FOP register, is 11 bits: the low three of the escape byte D8 to DF, then ModRM.
//! That says all but where an operand in memory is.

use super::status::C1;
use super::{Arithmetic, Constant, Float80, X87};
use crate::x86_64::softfloat::ComparisonFlags;

/// What an instruction does with memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// No memory operand.
    Register,
    /// It reads this many bytes.
    Load(u8),
    /// It writes this many bytes, unless an unmasked exception prevents it.
    Store(u8),
    /// FLDENV: [`X87::fldenv`].
    LoadEnvironment,
    /// FNSTENV: [`X87::fnstenv`].
    StoreEnvironment,
    /// FRSTOR: [`X87::frstor`].
    LoadState,
    /// FNSAVE: [`X87::fnsave`].
    StoreState,
    /// No instruction: #UD.
    Undefined,
}

/// What an instruction gives besides changing the unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing.
    Done,
    /// ZF, PF and CF; OF, SF and AF become 0.
    Flags(ComparisonFlags),
    /// AX.
    Accumulator(u16),
    /// What to store, of which the number of bytes in [`Form::Store`] count; nothing if an unmasked exception prevents it.
    Store(Option<[u8; 10]>),
}

fn escape(opcode: u16) -> u8 {
    (opcode >> 8 & 7) as u8
}

fn operation(opcode: u16) -> u8 {
    (opcode >> 3 & 7) as u8
}

fn is_register(opcode: u16) -> bool {
    opcode & 0xc0 == 0xc0
}

/// What the instruction does with memory.
pub fn form(opcode: u16) -> Form {
    if is_register(opcode) {
        let index = opcode & 7;
        let defined = match (escape(opcode), operation(opcode)) {
            (1, 2) => index == 0,
            (1, 4) => matches!(index, 0 | 1 | 4 | 5),
            (1, 5) => index != 7,
            (2, 5) | (6, 3) => index == 1,
            (2, 4 | 6 | 7) | (3, 7) | (5, 6 | 7) | (7, 7) => false,
            (3, 4) => index < 5,
            (7, 4) => index == 0,
            _ => true,
        };
        return if defined { Form::Register } else { Form::Undefined };
    }
    match (escape(opcode), operation(opcode)) {
        (0 | 2, _) | (1, 0) | (3, 0) => Form::Load(4),
        (4, _) | (5, 0) | (7, 5) => Form::Load(8),
        (6, _) | (1, 5) | (7, 0) => Form::Load(2),
        (3, 5) | (7, 4) => Form::Load(10),
        (1 | 3, 2 | 3) | (3, 1) => Form::Store(4),
        (5, 1..=3) | (7, 7) => Form::Store(8),
        (1, 7) | (5, 7) | (7, 1..=3) => Form::Store(2),
        (3, 7) | (7, 6) => Form::Store(10),
        (1, 4) => Form::LoadEnvironment,
        (1, 6) => Form::StoreEnvironment,
        (5, 4) => Form::LoadState,
        (5, 6) => Form::StoreState,
        _ => Form::Undefined,
    }
}

/// True for instructions that raise #MF first if an exception is pending: all but FNINIT, FNCLEX, FNSTCW, FNSTSW, FNSTENV, FNSAVE,
/// and the FNENI, FNDISI and FNSETPM of old processors.
pub fn waits(opcode: u16) -> bool {
    match (escape(opcode), operation(opcode)) {
        (1, 6 | 7) | (5, 6 | 7) => is_register(opcode),
        (3, 4) => !(is_register(opcode) && opcode & 7 <= 4),
        (7, 4) => !is_register(opcode),
        _ => true,
    }
}

/// True for instructions that leave the last instruction's opcode and pointers alone.
pub fn is_control(opcode: u16) -> bool {
    match (escape(opcode), operation(opcode)) {
        (1, 4..=7) | (5, 4 | 6 | 7) => !is_register(opcode),
        (3, 4) | (7, 4) => is_register(opcode),
        _ => false,
    }
}

/// The arithmetic that bits 5:3 of an opcode choose, and [`None`] for comparisons.
fn arithmetic(operation: u8) -> Option<Arithmetic> {
    Some(match operation {
        0 => Arithmetic::Add,
        1 => Arithmetic::Mul,
        4 => Arithmetic::Sub,
        5 => Arithmetic::SubReversed,
        6 => Arithmetic::Div,
        7 => Arithmetic::DivReversed,
        _ => return None,
    })
}

/// The same for the escapes whose destination is not ST(0): there the reversed forms come first.
fn arithmetic_to_register(operation: u8) -> Option<Arithmetic> {
    arithmetic(if operation >= 4 { operation ^ 1 } else { operation })
}

/// The low bytes of what is stored.
fn stored<const N: usize>(bytes: Option<[u8; N]>) -> Outcome {
    Outcome::Store(bytes.map(|bytes| {
        let mut all = [0; 10];
        all.iter_mut().zip(bytes).for_each(|(all, byte)| *all = byte);
        all
    }))
}

impl X87 {
    /// Executes an instruction of the forms [`Form::Register`], [`Form::Load`] and [`Form::Store`]; others do nothing. `operand` holds the bytes that
    /// were read, the lowest first; `flags` is what FCMOVcc looks at.
    pub fn execute(&mut self, opcode: u16, operand: [u8; 10], flags: ComparisonFlags) -> Outcome {
        match form(opcode) {
            Form::Register => self.execute_register(opcode, flags),
            Form::Load(_) => {
                self.execute_load(opcode, operand);
                Outcome::Done
            }
            Form::Store(_) => self.execute_store(opcode),
            _ => Outcome::Done,
        }
    }

    fn execute_load(&mut self, opcode: u16, bytes: [u8; 10]) {
        let double = Float80::from_bytes(bytes).significand;
        let (single, word) = (double as u32, double as u16);
        let operation = operation(opcode);
        let pop = operation == 3;
        match (escape(opcode), arithmetic(operation)) {
            (0, Some(op)) => self.arithmetic_f32(op, single),
            (0, None) => self.fcom_f32(single, pop),
            (2, Some(op)) => self.arithmetic_integer(op, single as i32),
            (2, None) => self.ficom(single as i32, pop),
            (4, Some(op)) => self.arithmetic_f64(op, double),
            (4, None) => self.fcom_f64(double, pop),
            (6, Some(op)) => self.arithmetic_integer(op, (word as i16).into()),
            (6, None) => self.ficom((word as i16).into(), pop),
            (1, _) if operation == 5 => self.fldcw(word),
            (1, _) => self.fld_f32(single),
            (3, _) if operation == 5 => self.fld_f80(Float80::from_bytes(bytes)),
            (3, _) => self.fild((single as i32).into()),
            (5, _) => self.fld_f64(double),
            (_, _) if operation == 4 => self.fbld(bytes),
            (_, _) if operation == 5 => self.fild(double as i64),
            (_, _) => self.fild((word as i16).into()),
        }
    }

    fn execute_store(&mut self, opcode: u16) -> Outcome {
        let operation = operation(opcode);
        let pop = operation & 1 != 0;
        match (escape(opcode), operation) {
            (1, 7) => stored(Some(self.fnstcw().to_le_bytes())),
            (1, _) => stored(self.fst_f32(pop).map(u32::to_le_bytes)),
            (3, 1) => stored(self.fisttp(32).map(i64::to_le_bytes)),
            (3, 7) => stored(self.fstp_f80().map(Float80::to_bytes)),
            (3, _) => stored(self.fist(32, pop).map(i64::to_le_bytes)),
            (5, 1) => stored(self.fisttp(64).map(i64::to_le_bytes)),
            (5, 7) => stored(Some(self.fnstsw().to_le_bytes())),
            (5, _) => stored(self.fst_f64(pop).map(u64::to_le_bytes)),
            (_, 1) => stored(self.fisttp(16).map(i64::to_le_bytes)),
            (_, 6) => stored(self.fbstp()),
            (_, 7) => stored(self.fist(64, true).map(i64::to_le_bytes)),
            (_, _) => stored(self.fist(16, pop).map(i64::to_le_bytes)),
        }
    }

    fn execute_register(&mut self, opcode: u16, flags: ComparisonFlags) -> Outcome {
        let (operation, index) = (operation(opcode), (opcode & 7) as u8);
        match (escape(opcode), operation) {
            // D0 and D8 of the escapes DC, DD, DE, DF, and C8 of DD and DF, are aliases that no manual promises.
            (0 | 4, 2) => self.fcom(index, false, 0),
            (0 | 4, 3) | (6, 2) => self.fcom(index, false, 1),
            (6, 3) => self.fcom(1, false, 2),
            (0, _) => self.register_arithmetic(arithmetic(operation), 0, index, false),
            (4, _) => self.register_arithmetic(arithmetic_to_register(operation), index, 0, false),
            (6, _) => self.register_arithmetic(arithmetic_to_register(operation), index, 0, true),
            (1, 0) => self.fld_st(index),
            (1 | 5 | 7, 1) => self.fxch(index),
            (1, 2) => {}
            (1, 3) => self.fstpnce(index),
            (5, 3) | (7, 2 | 3) => self.fst_st(index, true),
            (1, _) => self.execute_d9(opcode as u8),
            (2, 5) => self.fcom(1, true, 2),
            (2, _) => self.fcmov(index, condition(operation, flags)),
            (3, 0..=3) => self.fcmov(index, !condition(operation, flags)),
            (3, 4) if index == 2 => self.fnclex(),
            (3, 4) if index == 3 => self.fninit(),
            // FNENI, FNDISI and FNSETPM of old processors.
            (3, 4) => {}
            (3, 5) => return Outcome::Flags(self.fcomi(index, true, false)),
            (3, _) => return Outcome::Flags(self.fcomi(index, false, false)),
            (5, 0) => {
                self.set_conditions(C1, false);
                self.ffree(index);
            }
            (5, 2) => self.fst_st(index, false),
            (5, 4) => self.fcom(index, true, 0),
            (5, _) => self.fcom(index, true, 1),
            (7, 0) => {
                self.set_conditions(C1, false);
                self.ffree(index);
                self.pop();
            }
            (7, 4) => return Outcome::Accumulator(self.fnstsw()),
            (7, 5) => return Outcome::Flags(self.fcomi(index, true, true)),
            _ => return Outcome::Flags(self.fcomi(index, false, true)),
        }
        Outcome::Done
    }

    fn register_arithmetic(&mut self, op: Option<Arithmetic>, destination: u8, source: u8, pop: bool) {
        if let Some(op) = op {
            self.arithmetic(op, destination, source, pop);
        }
    }

    /// The instructions D9 E0 to D9 FF.
    fn execute_d9(&mut self, modrm: u8) {
        match modrm {
            0xe0 => self.fchs(),
            0xe1 => self.fabs(),
            0xe4 => self.ftst(),
            0xe5 => self.fxam(),
            0xe8 => self.fld_constant(Constant::One),
            0xe9 => self.fld_constant(Constant::Log2Of10),
            0xea => self.fld_constant(Constant::Log2OfE),
            0xeb => self.fld_constant(Constant::Pi),
            0xec => self.fld_constant(Constant::Log10Of2),
            0xed => self.fld_constant(Constant::LogOf2),
            0xee => self.fld_constant(Constant::Zero),
            0xf0 => self.f2xm1(),
            0xf1 => self.fyl2x(),
            0xf2 => self.fptan(),
            0xf3 => self.fpatan(),
            0xf4 => self.fxtract(),
            0xf5 => self.fprem1(),
            0xf6 => self.fdecstp(),
            0xf7 => self.fincstp(),
            0xf8 => self.fprem(),
            0xf9 => self.fyl2xp1(),
            0xfa => self.fsqrt(),
            0xfb => self.fsincos(),
            0xfc => self.frndint(),
            0xfd => self.fscale(),
            0xfe => self.fsin(),
            0xff => self.fcos(),
            _ => {}
        }
    }
}

/// The condition of FCMOVB, FCMOVE, FCMOVBE and FCMOVU.
fn condition(operation: u8, flags: ComparisonFlags) -> bool {
    match operation {
        0 => flags.carry,
        1 => flags.zero,
        2 => flags.carry || flags.zero,
        _ => flags.parity,
    }
}
