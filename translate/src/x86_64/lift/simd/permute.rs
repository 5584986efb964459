//! Permutations across the halves of YMM registers.

use super::super::super::helpers::id;
use super::super::{Lifted, Lifter, Result};

impl Lifter {
    /// VPERM2F128.
    pub(super) fn permute_halves(&mut self) -> Result {
        let b = self.read_vector(2)?;
        let a = self.read_register(self.number(1), 4);
        let zero = self.constant(0);
        let control = self.i.immediate8();
        let choose = |control: u8| match control & 0xb {
            0 => [a[0], a[1]],
            1 => [a[2], a[3]],
            2 => [b[0], b[1]],
            3 => [b[2], b[3]],
            _ => [zero; 2],
        };
        let ([p0, p1], [p2, p3]) = (choose(control), choose(control >> 4));
        self.write_vector([p0, p1, p2, p3]);
        Ok(Lifted::Next)
    }

    /// VPERMQ and VPERMPD.
    pub(super) fn permute_quadwords(&mut self) -> Result {
        let parts = self.read_vector(1)?;
        let control = self.i.immediate8();
        let chosen = [0, 2, 4, 6].map(|shift| parts[usize::from(control >> shift & 3)]);
        self.write_vector(chosen);
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
