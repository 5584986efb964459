//! Floating point: F and D (volume I, chapters 21 and 22).

use super::{Illegal, Lifted, Lifter};
use crate::riscv64::decode::Instruction;

impl Lifter {
    pub(super) fn float_multiply_add(&mut self, _instruction: Instruction) -> Lifted {
        Err(Illegal)
    }

    pub(super) fn float_arithmetic(&mut self, _instruction: Instruction) -> Lifted {
        Err(Illegal)
    }
}
