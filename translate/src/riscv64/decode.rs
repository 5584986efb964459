//! Fields of 32-bit instructions (volume I, 2.2 and 2.3).

/// A 32-bit instruction.
#[derive(Clone, Copy, Debug)]
pub(super) struct Instruction(pub u32);

impl Instruction {
    fn bits(self, low: u32, count: u32) -> u32 {
        self.0 >> low & ((1 << count) - 1)
    }

    pub(super) fn opcode(self) -> u32 {
        self.bits(0, 7)
    }

    pub(super) fn rd(self) -> u8 {
        self.bits(7, 5) as u8
    }

    pub(super) fn rs1(self) -> u8 {
        self.bits(15, 5) as u8
    }

    pub(super) fn rs2(self) -> u8 {
        self.bits(20, 5) as u8
    }

    pub(super) fn rs3(self) -> u8 {
        self.bits(27, 5) as u8
    }

    pub(super) fn funct3(self) -> u32 {
        self.bits(12, 3)
    }

    pub(super) fn funct7(self) -> u32 {
        self.bits(25, 7)
    }

    /// The upper 12 bits, unsigned: the number of a control and status register, or a function code.
    pub(super) fn funct12(self) -> u32 {
        self.bits(20, 12)
    }

    /// The upper 6 bits: what tells apart shifts by a 6-bit immediate.
    pub(super) fn funct6(self) -> u32 {
        self.bits(26, 6)
    }

    /// The count of shifts by an immediate.
    pub(super) fn shift(self) -> u32 {
        self.bits(20, 6)
    }

    /// Immediate of loads, immediate arithmetic and JALR.
    pub(super) fn immediate_i(self) -> i32 {
        self.0 as i32 >> 20
    }

    /// Immediate of stores.
    pub(super) fn immediate_s(self) -> i32 {
        self.0 as i32 >> 20 & !0x1f | self.bits(7, 5) as i32
    }

    /// Immediate of branches.
    pub(super) fn immediate_b(self) -> i32 {
        let low = self.bits(8, 4) << 1 | self.bits(25, 6) << 5 | self.bits(7, 1) << 11;
        self.0 as i32 >> 31 << 12 | low as i32
    }

    /// Immediate of LUI and AUIPC.
    pub(super) fn immediate_u(self) -> i32 {
        (self.0 & 0xffff_f000) as i32
    }

    /// Immediate of JAL.
    pub(super) fn immediate_j(self) -> i32 {
        let low = self.bits(21, 10) << 1 | self.bits(20, 1) << 11 | self.bits(12, 8) << 12;
        self.0 as i32 >> 31 << 20 | low as i32
    }
}
