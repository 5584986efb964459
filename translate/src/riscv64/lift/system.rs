//! System instructions (volume I, 2.8 and chapter 7; volume II, 3.3 and 10.2).

use super::{Illegal, Lifted, Lifter};
use crate::ir::Terminator;
use crate::riscv64::decode::Instruction;
use crate::riscv64::helpers::plain_csr_helper;
use crate::riscv64::{MACHINE, SUPERVISOR, USER, csr, exception, helper_id};

impl Lifter {
    pub(super) fn system(&mut self, instruction: Instruction) -> Lifted {
        if instruction.funct3() & 3 != 0 {
            return self.control_and_status(instruction);
        }
        if instruction.funct3() != 0 || instruction.rd() != 0 {
            return Err(Illegal);
        }
        let privilege = self.flags.privilege();
        if instruction.funct7() == 0x09 {
            return self.fence_address_translation(instruction);
        }
        if instruction.rs1() != 0 {
            return Err(Illegal);
        }
        match instruction.funct12() {
            // ECALL
            0x000 => {
                let information = self.builder.constant(0);
                let exception = exception::USER_ENVIRONMENT_CALL + u32::from(privilege);
                Ok(Some(Terminator::Raise { exception, information }))
            }
            // EBREAK
            0x001 => {
                let information = self.builder.code_address(self.builder.address());
                Ok(Some(Terminator::Raise { exception: exception::BREAKPOINT, information }))
            }
            // SRET
            0x102 if privilege == MACHINE || privilege == SUPERVISOR && !self.flags.traps_supervisor_return() => {
                let target = self.builder.helper(helper_id::SRET, &[]);
                Ok(Some(Terminator::LeaveIndirect { target }))
            }
            // MRET
            0x302 if privilege == MACHINE => {
                let target = self.builder.helper(helper_id::MRET, &[]);
                Ok(Some(Terminator::LeaveIndirect { target }))
            }
            // WFI
            0x105 if privilege == MACHINE || privilege == SUPERVISOR && !self.flags.traps_wait() => {
                self.builder.helper(helper_id::WFI, &[]);
                self.leave()
            }
            _ => Err(Illegal),
        }
    }

    /// SFENCE.VMA.
    fn fence_address_translation(&mut self, instruction: Instruction) -> Lifted {
        let privilege = self.flags.privilege();
        if privilege == USER || privilege == SUPERVISOR && self.flags.traps_virtual_memory() {
            return Err(Illegal);
        }
        if instruction.rs1() == 0 && instruction.rs2() == 0 {
            self.builder.helper(helper_id::SFENCE_VMA, &[]);
        } else if instruction.rs1() == 0 {
            // Whichever it names, only the present one has translations.
            self.builder.helper(helper_id::SFENCE_VMA_ADDRESS_SPACE, &[]);
        } else {
            let address = self.x(instruction.rs1());
            self.builder.helper(helper_id::SFENCE_VMA_ADDRESS, &[address]);
        }
        self.leave()
    }

    /// CSRRW, CSRRS, CSRRC and their immediate forms.
    fn control_and_status(&mut self, instruction: Instruction) -> Lifted {
        let bits = self.builder.constant(instruction.0.into());
        // The immediate forms have their operand in the instruction.
        let source = if instruction.funct3() & 4 != 0 { bits } else { self.x(instruction.rs1()) };
        let plain = plain_csr_helper(instruction);
        let any = match instruction.funct12() {
            csr::FFLAGS..=csr::FCSR => helper_id::FLOAT_CSR,
            _ => helper_id::CSR,
        };
        let old = self.builder.helper(plain.unwrap_or(any), &[bits, source]);
        self.set_x(instruction.rd(), old);
        if plain.is_some() { Ok(None) } else { self.leave() }
    }

    fn leave(&self) -> Lifted {
        Ok(Some(Terminator::Leave { target: self.builder.next_address() }))
    }
}
