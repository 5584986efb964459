//! A hart's run-time state to and from [`CpuState`].

use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use translate::cpu::{Cpu, NO_RESERVATION, Signals};
use translate::riscv64::{Riscv64, csr};
use translate::x86_64::cpuid::CpuModel;

use super::processor::Processor;
use crate::Error;
use crate::state::CpuState as AnyState;
use crate::state::riscv64::CpuState;

/// Position of the floating-point registers among a hart's registers.
const F0: usize = 32;

impl Processor for Riscv64 {
    const INPUTS: u64 = u64::MAX;

    fn new(_index: u32, _count: &Arc<AtomicU32>, _model: &Arc<CpuModel>) -> Riscv64 {
        Riscv64::new()
    }

    fn model_features(_model: &CpuModel) {}

    fn reset(_cpu: &mut Cpu<Riscv64>) {}

    fn state(cpu: &Cpu<Riscv64>) -> AnyState {
        AnyState::Riscv64(Box::new(state(cpu)))
    }

    fn set_state(cpu: &mut Cpu<Riscv64>, state: &AnyState) -> Result<(), Error> {
        match state {
            AnyState::Riscv64(state) => set_state(cpu, state),
            _ => Err(Error::State("it is that of another architecture; this processor is a riscv64 hart".into())),
        }
    }

    fn settle(cpu: &mut Cpu<Riscv64>) {
        csr::arm_timer(cpu);
    }

    fn data_mode(cpu: &Cpu<Riscv64>) -> translate::ir::MemoryMode {
        translate::riscv64::data_mode(&cpu.guest)
    }

    fn inject_nmi(_signals: &Signals) -> Result<(), Error> {
        Err(Error::Unsupported { name: "jit", what: "non-maskable interrupts of a riscv64 hart" })
    }
}

/// Copies a hart's state out.
fn state(cpu: &Cpu<Riscv64>) -> CpuState {
    let guest = &cpu.guest;
    let registers = |first: usize| std::array::from_fn(|number| cpu.context.registers[first + number]);
    let mut x: [u64; 32] = registers(0);
    x[0] = 0;
    CpuState {
        hart_id: cpu.index,
        pc: cpu.context.pc,
        x,
        f: registers(F0),
        fcsr: u32::from(guest.frm) << 5 | cpu.context.float_flags & 0x1f,
        privilege: guest.privilege,
        mstatus: csr::mstatus(guest),
        misa: csr::MISA,
        medeleg: guest.medeleg,
        mideleg: guest.mideleg,
        mie: guest.mie,
        mip: guest.mip,
        interrupt_inputs: cpu.signals.inputs.load(std::sync::atomic::Ordering::SeqCst),
        mtvec: guest.mtvec,
        mscratch: guest.mscratch,
        mepc: guest.mepc,
        mcause: guest.mcause,
        mtval: guest.mtval,
        mcounteren: guest.mcounteren,
        mcountinhibit: guest.mcountinhibit,
        menvcfg: guest.menvcfg,
        pmpcfg: guest.pmpcfg,
        pmpaddr: guest.pmpaddr,
        stvec: guest.stvec,
        sscratch: guest.sscratch,
        sepc: guest.sepc,
        scause: guest.scause,
        stval: guest.stval,
        scounteren: guest.scounteren,
        senvcfg: guest.senvcfg,
        satp: guest.satp,
        stimecmp: guest.stimecmp,
        mcycle: csr::mcycle(cpu),
        minstret: csr::minstret(cpu),
        reservation: (cpu.context.reservation_address != NO_RESERVATION).then_some(cpu.context.reservation_address),
        reservation_value: cpu.context.reservation_value,
        waiting: cpu.halted,
    }
}

/// Replaces a hart's state.
fn set_state(cpu: &mut Cpu<Riscv64>, state: &CpuState) -> Result<(), Error> {
    if ![0, 1, 3].contains(&state.privilege) {
        return Err(Error::State(format!("privilege {} is none; it is 0 (U), 1 (S) or 3 (M)", state.privilege)));
    }
    if state.hart_id != cpu.index {
        return Err(Error::State(format!("it is that of hart {}, and this is hart {}", state.hart_id, cpu.index)));
    }
    cpu.context.pc = state.pc;
    for (number, value) in state.x.iter().enumerate().skip(1) {
        cpu.context.registers[number] = *value;
    }
    cpu.context.registers[F0..F0 + 32].copy_from_slice(&state.f);
    cpu.context.float_flags = state.fcsr & 0x1f;
    cpu.context.reservation_address = state.reservation.unwrap_or(NO_RESERVATION);
    cpu.context.reservation_value = state.reservation_value;
    cpu.halted = state.waiting;
    cpu.signals.inputs.store(state.interrupt_inputs, std::sync::atomic::Ordering::SeqCst);
    csr::set_frm(cpu, (state.fcsr >> 5 & 7) as u8);
    let guest = &mut cpu.guest;
    guest.privilege = state.privilege;
    guest.mstatus = state.mstatus;
    guest.medeleg = state.medeleg;
    guest.mideleg = state.mideleg;
    guest.mie = state.mie;
    guest.mip = state.mip;
    guest.mtvec = state.mtvec;
    guest.mscratch = state.mscratch;
    guest.mepc = state.mepc;
    guest.mcause = state.mcause;
    guest.mtval = state.mtval;
    guest.mcounteren = state.mcounteren;
    guest.menvcfg = state.menvcfg;
    guest.pmpcfg = state.pmpcfg;
    guest.pmpaddr = state.pmpaddr;
    guest.stvec = state.stvec;
    guest.sscratch = state.sscratch;
    guest.sepc = state.sepc;
    guest.scause = state.scause;
    guest.stval = state.stval;
    guest.scounteren = state.scounteren;
    guest.senvcfg = state.senvcfg;
    guest.satp = state.satp;
    guest.stimecmp = state.stimecmp;
    csr::legalise(guest);
    csr::set_counters(cpu, state.mcountinhibit, state.mcycle, state.minstret);
    cpu.flush_tlb();
    Ok(())
}
