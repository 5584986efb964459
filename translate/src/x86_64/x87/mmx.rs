//! MMX registers: the significands of the physical registers.

use super::{Float80, X87};

impl X87 {
    /// Register MM`index`.
    pub fn mmx(&self, index: u8) -> u64 {
        self.registers[usize::from(index & 7)].significand
    }

    /// Writes register MM`index`. The exponent becomes all ones.
    pub fn set_mmx(&mut self, index: u8, value: u64) {
        self.registers[usize::from(index & 7)] = Float80 { significand: value, sign_exponent: 0xffff };
    }

    /// What every MMX instruction but EMMS does besides: the top of the stack becomes 0, and all registers valid.
    pub fn enter_mmx(&mut self) {
        self.set_top(0);
        self.tags = 0xff;
    }

    /// EMMS: all registers become empty.
    pub fn emms(&mut self) {
        self.set_top(0);
        self.tags = 0;
    }
}
