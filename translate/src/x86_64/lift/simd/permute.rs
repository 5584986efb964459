//! Permutations across the halves of YMM registers.

use crate::ir::Shuffle;

use super::super::super::helpers::id;
use super::super::{Lifted, Lifter, Result};

impl Lifter {
    /// VPERM2F128.
    pub(super) fn permute_halves(&mut self) -> Result {
        let b = self.read_vector(2)?;
        let a = self.read_register(self.number(1), 2);
        let zero = self.zero_vector();
        let control = self.i.immediate8();
        let choose = |control: u8| match control & 0xb {
            0 => a[0],
            1 => a[1],
            2 => b[0],
            3 => b[1],
            _ => zero,
        };
        self.write_vector([choose(control), choose(control >> 4)]);
        Ok(Lifted::Next)
    }

    /// VPERMQ and VPERMPD.
    pub(super) fn permute_quadwords(&mut self) -> Result {
        let halves = self.read_vector(1)?;
        let control = self.i.immediate8();
        let result = self.on_halves(|lifter, half| {
            let [low, high] = [0, 1].map(|part| usize::from(control >> (4 * half + 2 * part) & 3));
            let chosen = (low % 2 + high % 2 * 2) as u8;
            lifter.shuffle(Shuffle::Doubles(chosen), halves[low / 2], halves[high / 2])
        });
        self.write_vector(result);
        Ok(Lifted::Next)
    }

    /// VPERMD and VPERMPS.
    pub(super) fn permute_doublewords(&mut self) -> Result {
        let operands = self.vector_operands(0)?;
        let operands = self.constant(operands.encode());
        self.helper(id::PERMUTE_DOUBLEWORDS, &[operands]);
        Ok(Lifted::Next)
    }
}
