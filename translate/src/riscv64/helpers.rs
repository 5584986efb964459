//! Functions that lifted code calls.

use super::decode::Instruction;
use super::{Riscv64, csr, exception, mmu, trap};
use crate::cpu::Cpu;
use crate::guest::{Effects, Exception, Guest, Helper};
use crate::ir::HelperId;

mod float;

pub(super) use float::{DYNAMIC_ROUNDING, FloatCode, RoundedOp};

/// Anything but reading or writing the floating-point flags, so that they need not be collected first.
const NO_FLOAT_FLAGS: Effects = Effects { float_flags: false, ..Effects::ALL };
/// What floating-point helpers do: they add to the flags in memory, which compiled code only adds to as well, when it returns.
const ADDS_FLAGS: Effects = Effects { acts: true, ..Effects::PURE };

/// Makes the table of helpers and a constant for the number of each.
macro_rules! helpers {
    ($($id:ident: $name:literal, $arguments:literal, $effects:expr, $function:path;)*) => {
        #[allow(non_camel_case_types, clippy::upper_case_acronyms)]
        enum Position { $($id),* }

        /// Numbers of the helpers.
        pub mod id {
            use super::{HelperId, Position};
            $(
                #[doc = concat!("`", $name, "`.")]
                pub const $id: HelperId = HelperId(Position::$id as u16);
            )*
        }

        pub(super) const HELPERS: &[Helper<Riscv64>] = &[
            $(Helper { name: $name, arguments: $arguments, effects: $effects, function: $function },)*
        ];
    };
}

helpers! {
    CSR: "csr", 2, NO_FLOAT_FLAGS, access_csr;
    FLOAT_CSR: "float_csr", 2, Effects::ALL, access_csr;
    PLAIN_CSR: "plain_csr", 2, Effects::RAISES, access_csr;
    FLOAT_FLAGS_CSR: "float_flags_csr", 2, Effects { float_flags: true, ..Effects::RAISES }, access_csr;
    MRET: "mret", 0, NO_FLOAT_FLAGS, machine_return;
    SRET: "sret", 0, NO_FLOAT_FLAGS, supervisor_return;
    WFI: "wfi", 0, NO_FLOAT_FLAGS, wait_for_interrupt;
    SFENCE_VMA: "sfence_vma", 0, NO_FLOAT_FLAGS, fence_all;
    SFENCE_VMA_ADDRESS_SPACE: "sfence_vma_address_space", 0, NO_FLOAT_FLAGS, fence_address_space;
    SFENCE_VMA_ADDRESS: "sfence_vma_address", 1, NO_FLOAT_FLAGS, fence_address;
    FLOAT_ROUNDED: "float_rounded", 3, ADDS_FLAGS, float::rounded;
    FLOAT_MIN_MAX: "float_min_max", 3, ADDS_FLAGS, float::min_max;
    FLOAT_CLASS: "float_class", 2, Effects::PURE, float::class;
    FLOAT_TO_INTEGER: "float_to_integer", 2, ADDS_FLAGS, float::to_integer;
    // One for each rounding mode, in the order of their numbers.
    FLOAT_MULTIPLY_ADD_S_RNE: "float_multiply_add_s_rne", 3, ADDS_FLAGS, float::multiply_add::<32, 0>;
    FLOAT_MULTIPLY_ADD_S_RTZ: "float_multiply_add_s_rtz", 3, ADDS_FLAGS, float::multiply_add::<32, 1>;
    FLOAT_MULTIPLY_ADD_S_RDN: "float_multiply_add_s_rdn", 3, ADDS_FLAGS, float::multiply_add::<32, 2>;
    FLOAT_MULTIPLY_ADD_S_RUP: "float_multiply_add_s_rup", 3, ADDS_FLAGS, float::multiply_add::<32, 3>;
    FLOAT_MULTIPLY_ADD_S_RMM: "float_multiply_add_s_rmm", 3, ADDS_FLAGS, float::multiply_add::<32, 4>;
    FLOAT_MULTIPLY_ADD_D_RNE: "float_multiply_add_d_rne", 3, ADDS_FLAGS, float::multiply_add::<64, 0>;
    FLOAT_MULTIPLY_ADD_D_RTZ: "float_multiply_add_d_rtz", 3, ADDS_FLAGS, float::multiply_add::<64, 1>;
    FLOAT_MULTIPLY_ADD_D_RDN: "float_multiply_add_d_rdn", 3, ADDS_FLAGS, float::multiply_add::<64, 2>;
    FLOAT_MULTIPLY_ADD_D_RUP: "float_multiply_add_d_rup", 3, ADDS_FLAGS, float::multiply_add::<64, 3>;
    FLOAT_MULTIPLY_ADD_D_RMM: "float_multiply_add_d_rmm", 3, ADDS_FLAGS, float::multiply_add::<64, 4>;
}

/// The helper of a Zicsr instruction that neither reads what compiled code keeps to itself (the count of instructions) nor changes
/// what later instructions depend on before the next trap, so that it may stand among others; `None` of any other instruction.
pub(super) fn plain_csr_helper(instruction: Instruction) -> Option<HelperId> {
    let funct3 = instruction.funct3();
    let writes = funct3 & 3 == 1 || instruction.rs1() != 0;
    let is_plain = match instruction.funct12() {
        csr::FFLAGS => return Some(id::FLOAT_FLAGS_CSR),
        // stvec, sscratch, sepc, scause, stval; mtvec, mscratch, mepc, mcause, mtval
        0x105 | 0x140..=0x143 | 0x305 | 0x340..=0x343 => true,
        // sstatus, sie, sip, satp; mstatus, mie, mip; time
        0x100 | 0x104 | csr::SIP | 0x180 | 0x300 | 0x304 | csr::MIP | csr::TIME if !writes => true,
        // CSRRCI that takes SIE away from sstatus
        0x100 => funct3 == 7 && instruction.rs1() == 2,
        _ => false,
    };
    is_plain.then_some(id::PLAIN_CSR)
}

/// The Zicsr instruction whose bits are `instruction`; `source` is the value of rs1. Gives the register's old value.
extern "C" fn access_csr(cpu: &mut Cpu<Riscv64>, instruction: u64, source: u64, _: u64) -> u64 {
    let number = (instruction >> 20 & 0xfff) as u32;
    let funct3 = instruction >> 12 & 7;
    let rs1 = instruction >> 15 & 0x1f;
    let source = if funct3 & 4 != 0 { rs1 } else { source };
    let writes = funct3 & 3 == 1 || rs1 != 0;
    let Ok(old) = csr::read(cpu, number, writes) else {
        let illegal = Exception { number: exception::ILLEGAL_INSTRUCTION, information: instruction };
        cpu.stop_with(illegal);
        return 0;
    };
    // Who has seen that the timer is due is interrupted by it as soon as that is enabled.
    cpu.guest.timer_may_be_due |= match number {
        csr::SIP | csr::MIP => old & csr::STIP != 0,
        csr::TIME => old >= cpu.guest.stimecmp,
        _ => false,
    };
    if writes {
        let modified = csr::value_to_modify(cpu, number, old);
        let new = match funct3 & 3 {
            1 => source,
            2 => modified | source,
            _ => modified & !source,
        };
        csr::write(cpu, number, new);
    }
    old
}

extern "C" fn machine_return(cpu: &mut Cpu<Riscv64>, _: u64, _: u64, _: u64) -> u64 {
    trap::machine_return(cpu)
}

extern "C" fn supervisor_return(cpu: &mut Cpu<Riscv64>, _: u64, _: u64, _: u64) -> u64 {
    trap::supervisor_return(cpu)
}

extern "C" fn wait_for_interrupt(cpu: &mut Cpu<Riscv64>, _: u64, _: u64, _: u64) -> u64 {
    // What ends the waiting may be taken at the next instruction that enables it.
    cpu.guest.timer_may_be_due = true;
    cpu.halted = !Riscv64::wakes(cpu);
    0
}

extern "C" fn fence_all(cpu: &mut Cpu<Riscv64>, _: u64, _: u64, _: u64) -> u64 {
    mmu::flush(cpu);
    0
}

extern "C" fn fence_address_space(cpu: &mut Cpu<Riscv64>, _: u64, _: u64, _: u64) -> u64 {
    mmu::flush_address_space(cpu);
    0
}

extern "C" fn fence_address(cpu: &mut Cpu<Riscv64>, address: u64, _: u64, _: u64) -> u64 {
    mmu::flush_address(cpu, address);
    0
}
