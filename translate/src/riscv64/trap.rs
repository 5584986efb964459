//! Exceptions and interrupts (volume II, 3.1.6 to 3.1.9, 3.3.2, 10.1).

use super::csr::{
    MSTATUS_MIE, MSTATUS_MPIE, MSTATUS_MPP, MSTATUS_MPP_SHIFT, MSTATUS_MPRV, MSTATUS_SIE, MSTATUS_SPIE, MSTATUS_SPP,
};
use super::{MACHINE, Riscv64, SUPERVISOR, USER, csr};
use crate::cpu::{Cpu, NO_RESERVATION};
use crate::guest::Exception;

/// Marks interrupts in `mcause` and `scause`.
const INTERRUPT: u64 = 1 << 63;
/// Interrupts from high to low priority: external, software, timer; machine before supervisor.
const PRIORITIES: [u32; 6] = [11, 3, 7, 9, 1, 5];

pub(super) fn raise(cpu: &mut Cpu<Riscv64>, exception: Exception) {
    let delegated = cpu.guest.medeleg.checked_shr(exception.number).is_some_and(|delegation| delegation & 1 != 0);
    enter(cpu, u64::from(exception.number), exception.information, delegated);
}

pub(super) fn take_interrupt(cpu: &mut Cpu<Riscv64>) -> bool {
    let pending = csr::pending_interrupts(cpu);
    cpu.guest.timer_may_be_due = pending & csr::STIP != 0;
    let [for_machine, for_supervisor] = enabled(&cpu.guest).map(|enabled| pending & enabled);
    let (candidates, delegated) = match (for_machine, for_supervisor) {
        (0, 0) => return false,
        (0, for_supervisor) => (for_supervisor, true),
        (for_machine, _) => (for_machine, false),
    };
    let Some(number) = PRIORITIES.into_iter().find(|number| candidates >> number & 1 != 0) else { return false };
    enter(cpu, INTERRUPT | u64::from(number), 0, delegated);
    true
}

/// False only if [`take_interrupt`] would do nothing now, if it was called since the timer went off.
pub(super) fn may_take_interrupt(cpu: &Cpu<Riscv64>) -> bool {
    let pending = csr::pending_but_for_timer(cpu) | if cpu.guest.timer_may_be_due { csr::STIP } else { 0 };
    enabled(&cpu.guest).iter().any(|enabled| pending & enabled != 0)
}

/// The interrupts that would be taken now in machine mode, and those that would be taken in supervisor mode.
fn enabled(guest: &Riscv64) -> [u64; 2] {
    let machine = guest.privilege < MACHINE || guest.mstatus & MSTATUS_MIE != 0;
    let supervisor = guest.privilege < SUPERVISOR || guest.privilege == SUPERVISOR && guest.mstatus & MSTATUS_SIE != 0;
    let of = |enabled: bool, handled: u64| if enabled { guest.mie & handled } else { 0 };
    [of(machine, !guest.mideleg), of(supervisor, guest.mideleg)]
}

/// Enters a trap handler. `delegated`: supervisor mode handles it, unless it happens in machine mode.
fn enter(cpu: &mut Cpu<Riscv64>, cause: u64, value: u64, delegated: bool) {
    let pc = cpu.context.pc;
    let guest = &mut cpu.guest;
    let status = guest.mstatus;
    let vector = if delegated && guest.privilege <= SUPERVISOR {
        guest.sepc = pc;
        guest.scause = cause;
        guest.stval = value;
        guest.mstatus = status & !(MSTATUS_SIE | MSTATUS_SPIE | MSTATUS_SPP)
            | if status & MSTATUS_SIE != 0 { MSTATUS_SPIE } else { 0 }
            | if guest.privilege == SUPERVISOR { MSTATUS_SPP } else { 0 };
        guest.privilege = SUPERVISOR;
        guest.stvec
    } else {
        guest.mepc = pc;
        guest.mcause = cause;
        guest.mtval = value;
        guest.mstatus = status & !(MSTATUS_MIE | MSTATUS_MPIE | MSTATUS_MPP)
            | if status & MSTATUS_MIE != 0 { MSTATUS_MPIE } else { 0 }
            | u64::from(guest.privilege) << MSTATUS_MPP_SHIFT;
        guest.privilege = MACHINE;
        guest.mtvec
    };
    let offset = if vector & 1 != 0 && cause & INTERRUPT != 0 { (cause & !INTERRUPT) * 4 } else { 0 };
    cpu.context.pc = (vector & !3).wrapping_add(offset);
    cpu.context.reservation_address = NO_RESERVATION;
    cpu.halted = false;
}

/// MRET: returns from a trap to machine mode, and gives the address to go on at.
pub(super) fn machine_return(cpu: &mut Cpu<Riscv64>) -> u64 {
    let guest = &mut cpu.guest;
    let status = guest.mstatus;
    let privilege = (status >> MSTATUS_MPP_SHIFT & 3) as u8;
    guest.mstatus =
        status & !(MSTATUS_MIE | MSTATUS_MPP) | if status & MSTATUS_MPIE != 0 { MSTATUS_MIE } else { 0 } | MSTATUS_MPIE;
    if privilege != MACHINE {
        guest.mstatus &= !MSTATUS_MPRV;
    }
    guest.privilege = privilege;
    guest.mepc
}

/// SRET: returns from a trap to supervisor mode, and gives the address to go on at.
pub(super) fn supervisor_return(cpu: &mut Cpu<Riscv64>) -> u64 {
    let guest = &mut cpu.guest;
    let status = guest.mstatus;
    guest.privilege = if status & MSTATUS_SPP != 0 { SUPERVISOR } else { USER };
    guest.mstatus = status & !(MSTATUS_SIE | MSTATUS_SPP | MSTATUS_MPRV)
        | if status & MSTATUS_SPIE != 0 { MSTATUS_SIE } else { 0 }
        | MSTATUS_SPIE;
    guest.sepc
}
