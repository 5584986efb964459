//! Control and status registers (volume II, chapter 2 and what it refers to).

use super::{MACHINE, Riscv64, SUPERVISOR, mmu};
use crate::cpu::Cpu;
use crate::float::Rounding;

/// Number of `fflags`.
pub(super) const FFLAGS: u32 = 1;
/// Numbers of `sip`, `mip` and `time`.
pub(super) const SIP: u32 = 0x144;
pub(super) const MIP: u32 = 0x344;
pub(super) const TIME: u32 = 0xc01;
/// Number of `fcsr`, behind that of `frm`.
pub(super) const FCSR: u32 = 3;

/// Supervisor interrupts enabled.
pub(super) const MSTATUS_SIE: u64 = 1 << 1;
/// Machine interrupts enabled.
pub(super) const MSTATUS_MIE: u64 = 1 << 3;
/// `SIE` before the trap.
pub(super) const MSTATUS_SPIE: u64 = 1 << 5;
/// `MIE` before the trap.
pub(super) const MSTATUS_MPIE: u64 = 1 << 7;
/// Supervisor mode before the trap.
pub(super) const MSTATUS_SPP: u64 = 1 << 8;
/// Mode before the trap.
pub(super) const MSTATUS_MPP: u64 = 3 << MSTATUS_MPP_SHIFT;
/// Position of `MPP`.
pub(super) const MSTATUS_MPP_SHIFT: u32 = 11;
/// State of the floating-point unit: 0 off, 3 dirty.
pub(super) const MSTATUS_FS: u64 = 3 << 13;
/// Data accesses in machine mode are as in mode `MPP`.
pub(super) const MSTATUS_MPRV: u64 = 1 << 17;
/// Supervisor mode may access user pages.
pub(super) const MSTATUS_SUM: u64 = 1 << 18;
/// Executable pages are readable.
pub(super) const MSTATUS_MXR: u64 = 1 << 19;
/// Supervisor mode may not change address translation.
pub(super) const MSTATUS_TVM: u64 = 1 << 20;
/// WFI traps in supervisor mode.
pub(super) const MSTATUS_TW: u64 = 1 << 21;
/// SRET traps in supervisor mode.
pub(super) const MSTATUS_TSR: u64 = 1 << 22;
/// Supervisor and user registers are 64 bits wide.
const MSTATUS_XL: u64 = 2 << 34 | 2 << 32;
/// Some state is dirty.
const MSTATUS_SD: u64 = 1 << 63;
/// The bits of `mstatus` that `sstatus` shows besides `UXL` and `SD`.
const SSTATUS: u64 = MSTATUS_SIE | MSTATUS_SPIE | MSTATUS_SPP | MSTATUS_FS | MSTATUS_SUM | MSTATUS_MXR;

/// I/O fences order memory, too.
const ENVCFG_FIOM: u64 = 1;
/// `menvcfg`: hardware sets accessed and dirty bits.
pub const MENVCFG_ADUE: u64 = 1 << 61;
/// `menvcfg`: `stimecmp` drives the supervisor timer interrupt.
pub const MENVCFG_STCE: u64 = 1 << 63;
/// The bits of `menvcfg` that exist.
const MENVCFG: u64 = ENVCFG_FIOM | MENVCFG_ADUE | MENVCFG_STCE;

/// Supervisor software interrupt.
const SSIP: u64 = 1 << 1;
/// Supervisor timer interrupt.
pub(super) const STIP: u64 = 1 << 5;
/// Supervisor external interrupt.
const SEIP: u64 = 1 << 9;
/// The interrupts that supervisor mode may handle.
const SUPERVISOR_INTERRUPTS: u64 = SSIP | STIP | SEIP;
/// All interrupts.
const INTERRUPTS: u64 = 0xaaa;
/// The exceptions that supervisor mode may handle: all but calls from machine mode.
const DELEGABLE_EXCEPTIONS: u64 = 0xb3ff;

/// RV64, extensions A C D F I M, modes S and U.
pub const MISA: u64 = 2 << 62 | 1 << 20 | 1 << 18 | 1 << 12 | 1 << 8 | 1 << 5 | 1 << 3 | 1 << 2 | 1;

/// Nanoseconds that one step of `time` takes: it counts at 10 MHz.
pub const NANOSECONDS_PER_TICK: u64 = 100;

/// The access is not permitted, or the register does not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Illegal;

/// A counter of retired instructions that software may set and stop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    /// Its value while stopped; while running, what to add to the count of instructions.
    base: u64,
    stopped: bool,
}

impl Counter {
    fn read(self, instructions: u64) -> u64 {
        if self.stopped { self.base } else { self.base.wrapping_add(instructions) }
    }

    /// Sets the value that it has when `instructions` were retired.
    fn set(&mut self, instructions: u64, value: u64) {
        self.base = if self.stopped { value } else { value.wrapping_sub(instructions) };
    }

    fn set_stopped(&mut self, instructions: u64, stopped: bool) {
        let value = self.read(instructions);
        self.stopped = stopped;
        self.set(instructions, value);
    }
}

/// Value of `mcycle`. One cycle is one instruction.
pub fn mcycle(cpu: &Cpu<Riscv64>) -> u64 {
    cpu.guest.mcycle.read(cpu.context.instructions)
}

/// Value of `minstret`.
pub fn minstret(cpu: &Cpu<Riscv64>) -> u64 {
    cpu.guest.minstret.read(cpu.context.instructions)
}

/// Sets `mcountinhibit`, `mcycle` and `minstret`, as when state is loaded.
pub fn set_counters(cpu: &mut Cpu<Riscv64>, mcountinhibit: u64, mcycle: u64, minstret: u64) {
    let instructions = cpu.context.instructions;
    set_mcountinhibit(cpu, mcountinhibit);
    cpu.guest.mcycle.set(instructions, mcycle);
    cpu.guest.minstret.set(instructions, minstret);
}

fn set_mcountinhibit(cpu: &mut Cpu<Riscv64>, value: u64) {
    let instructions = cpu.context.instructions;
    cpu.guest.mcountinhibit = value & 5;
    cpu.guest.mcycle.set_stopped(instructions, value & 1 != 0);
    cpu.guest.minstret.set_stopped(instructions, value & 4 != 0);
}

/// Sets the dynamic rounding mode, 0 to 7, of which 5 to 7 make the instructions that use it illegal.
pub fn set_frm(cpu: &mut Cpu<Riscv64>, frm: u8) {
    cpu.guest.frm = frm & 7;
    cpu.context.float_rounding = rounding(frm & 7).unwrap_or(Rounding::NearestEven);
}

/// The rounding mode that a number names; `None` if it is reserved or stands for the dynamic one.
pub(super) fn rounding(mode: u8) -> Option<Rounding> {
    Some(match mode {
        0 => Rounding::NearestEven,
        1 => Rounding::TowardZero,
        2 => Rounding::Down,
        3 => Rounding::Up,
        4 => Rounding::NearestAway,
        _ => return None,
    })
}

/// Makes an `mstatus` value legal that comes from software or from saved state: `old` where `new` is not.
pub fn legal_mstatus(old: u64, new: u64) -> u64 {
    const WRITABLE: u64 =
        SSTATUS | MSTATUS_MIE | MSTATUS_MPIE | MSTATUS_MPP | MSTATUS_MPRV | MSTATUS_TVM | MSTATUS_TW | MSTATUS_TSR;
    let mut legal = new & WRITABLE;
    if legal & MSTATUS_MPP == 2 << MSTATUS_MPP_SHIFT {
        legal = legal & !MSTATUS_MPP | old & MSTATUS_MPP;
    }
    // The unit's state is tracked no more finely than this.
    if legal & MSTATUS_FS != 0 {
        legal |= MSTATUS_FS;
    }
    legal
}

/// Makes all fields of a state legal that comes from outside, as if software had written them.
pub fn legalise(guest: &mut Riscv64) {
    guest.mstatus = legal_mstatus(0, guest.mstatus);
    guest.medeleg &= DELEGABLE_EXCEPTIONS;
    guest.mideleg &= SUPERVISOR_INTERRUPTS;
    guest.mie &= INTERRUPTS;
    guest.mip &= SUPERVISOR_INTERRUPTS;
    guest.mtvec &= !2;
    guest.stvec &= !2;
    guest.mepc &= !1;
    guest.sepc &= !1;
    guest.mcounteren &= 0xffff_ffff;
    guest.scounteren &= 0xffff_ffff;
    guest.menvcfg &= MENVCFG;
    guest.senvcfg &= ENVCFG_FIOM;
    if !is_satp_supported(guest.satp) {
        guest.satp = 0;
    }
    let (configurations, addresses) = (guest.pmpcfg, guest.pmpaddr);
    // Entries are written while none is locked.
    guest.pmpcfg = [0; 2];
    for (entry, address) in addresses.into_iter().enumerate() {
        guest.set_pmpaddr(entry, address);
    }
    for (word, configuration) in configurations.into_iter().enumerate() {
        guest.set_pmpcfg(word, configuration);
    }
}

fn is_satp_supported(satp: u64) -> bool {
    matches!(satp >> 60, 0 | 8 | 9)
}

/// `mstatus` as software reads it.
pub fn mstatus(guest: &Riscv64) -> u64 {
    guest.mstatus | MSTATUS_XL | if guest.mstatus & MSTATUS_FS == MSTATUS_FS { MSTATUS_SD } else { 0 }
}

fn set_mstatus(cpu: &mut Cpu<Riscv64>, value: u64) {
    let old = cpu.guest.mstatus;
    cpu.guest.mstatus = legal_mstatus(old, value);
    if (old ^ cpu.guest.mstatus) & MSTATUS_MXR != 0 {
        mmu::flush(cpu);
    }
}

/// Value of `time`.
fn time(cpu: &Cpu<Riscv64>) -> u64 {
    cpu.platform().now() / NANOSECONDS_PER_TICK
}

/// `mip`: what software wrote, the hart's inputs, and its timer. Inside a run only.
pub fn pending_interrupts(cpu: &Cpu<Riscv64>) -> u64 {
    let guest = &cpu.guest;
    let timer = guest.menvcfg & MENVCFG_STCE != 0 && guest.stimecmp != u64::MAX && time(cpu) >= guest.stimecmp;
    pending_but_for_timer(cpu) | if timer { STIP } else { 0 }
}

/// The same without the timer of Sstc.
pub(super) fn pending_but_for_timer(cpu: &Cpu<Riscv64>) -> u64 {
    let inputs = cpu.signals.inputs.load(std::sync::atomic::Ordering::SeqCst);
    let pending = (cpu.guest.mip | inputs) & INTERRUPTS;
    if cpu.guest.menvcfg & MENVCFG_STCE != 0 { pending & !STIP } else { pending }
}

/// Tells the platform when the timer goes off next. To be called when `stimecmp` or `menvcfg` was set from outside; inside a
/// run only.
pub fn arm_timer(cpu: &Cpu<Riscv64>) {
    let enabled = cpu.guest.menvcfg & MENVCFG_STCE != 0;
    // A time that virtual time cannot express never comes.
    let deadline = cpu.guest.stimecmp.checked_mul(NANOSECONDS_PER_TICK).filter(|_| enabled);
    cpu.platform().set_deadline(cpu.index, deadline);
}

/// Software has set `stimecmp` or `menvcfg`: the timer may be due by that, or goes off at another time.
fn note_timer_change(cpu: &mut Cpu<Riscv64>) {
    cpu.guest.timer_may_be_due = true;
    arm_timer(cpu);
}

/// Reads a register, for an instruction that also writes it if `writes`. The checks of permission are all here.
pub(super) fn read(cpu: &Cpu<Riscv64>, number: u32, writes: bool) -> Result<u64, Illegal> {
    let guest = &cpu.guest;
    let needed = (number >> 8 & 3) as u8;
    if needed > guest.privilege || writes && number >> 10 == 3 {
        return Err(Illegal);
    }
    Ok(match number {
        FFLAGS..=FCSR => {
            if guest.mstatus & MSTATUS_FS == 0 {
                return Err(Illegal);
            }
            let flags = u64::from(cpu.context.float_flags & 0x1f);
            match number {
                FFLAGS => flags,
                2 => u64::from(guest.frm),
                _ => u64::from(guest.frm) << 5 | flags,
            }
        }
        // cycle, time, instret, hpmcounter3 to hpmcounter31
        0xc00..=0xc1f => {
            let bit = 1 << (number & 0x1f);
            let denied = guest.privilege < MACHINE && guest.mcounteren & bit == 0
                || guest.privilege < SUPERVISOR && guest.scounteren & bit == 0;
            match number {
                _ if denied => return Err(Illegal),
                0xc00 => mcycle(cpu),
                TIME => time(cpu),
                0xc02 => minstret(cpu),
                _ => 0,
            }
        }
        0x100 => mstatus(guest) & (SSTATUS | MSTATUS_SD | 3 << 32),
        0x104 => guest.mie & guest.mideleg,
        0x105 => guest.stvec,
        0x106 => guest.scounteren,
        0x10a => guest.senvcfg,
        0x140 => guest.sscratch,
        0x141 => guest.sepc,
        0x142 => guest.scause,
        0x143 => guest.stval,
        SIP => pending_interrupts(cpu) & guest.mideleg,
        0x14d => {
            let permitted =
                guest.privilege == MACHINE || guest.mcounteren & 2 != 0 && guest.menvcfg & MENVCFG_STCE != 0;
            if !permitted {
                return Err(Illegal);
            }
            guest.stimecmp
        }
        0x180 => {
            if guest.privilege == SUPERVISOR && guest.mstatus & MSTATUS_TVM != 0 {
                return Err(Illegal);
            }
            guest.satp
        }
        0x300 => mstatus(guest),
        0x301 => MISA,
        0x302 => guest.medeleg,
        0x303 => guest.mideleg,
        0x304 => guest.mie,
        0x305 => guest.mtvec,
        0x306 => guest.mcounteren,
        0x30a => guest.menvcfg,
        0x320 => guest.mcountinhibit,
        // mhpmevent3 to mhpmevent31
        0x323..=0x33f => 0,
        0x340 => guest.mscratch,
        0x341 => guest.mepc,
        0x342 => guest.mcause,
        0x343 => guest.mtval,
        MIP => pending_interrupts(cpu),
        0x3a0 => guest.pmpcfg[0],
        0x3a2 => guest.pmpcfg[1],
        0x3b0..=0x3bf => guest.pmpaddr[(number & 0xf) as usize],
        0xb00 => mcycle(cpu),
        0xb02 => minstret(cpu),
        // mhpmcounter3 to mhpmcounter31
        0xb03..=0xb1f => 0,
        // mvendorid, marchid, mimpid, mconfigptr
        0xf11..=0xf13 | 0xf15 => 0,
        0xf14 => cpu.index,
        _ => return Err(Illegal),
    })
}

/// Writes a register that [`read`] permitted to write.
pub(super) fn write(cpu: &mut Cpu<Riscv64>, number: u32, value: u64) {
    let guest = &mut cpu.guest;
    match number {
        FFLAGS => cpu.context.float_flags = value as u32 & 0x1f,
        2 => set_frm(cpu, value as u8 & 7),
        FCSR => {
            cpu.context.float_flags = value as u32 & 0x1f;
            set_frm(cpu, (value >> 5) as u8 & 7);
        }
        0x100 => {
            let merged = guest.mstatus & !SSTATUS | value & SSTATUS;
            set_mstatus(cpu, merged);
        }
        0x104 => guest.mie = guest.mie & !guest.mideleg | value & guest.mideleg,
        0x105 => set_vector(&mut guest.stvec, value),
        0x106 => guest.scounteren = value & 0xffff_ffff,
        0x10a => guest.senvcfg = value & ENVCFG_FIOM,
        0x140 => guest.sscratch = value,
        0x141 => guest.sepc = value & !1,
        0x142 => guest.scause = value,
        0x143 => guest.stval = value,
        SIP => {
            let writable = SSIP & guest.mideleg;
            guest.mip = guest.mip & !writable | value & writable;
        }
        0x14d => {
            guest.stimecmp = value;
            note_timer_change(cpu);
        }
        0x180 if is_satp_supported(value) && guest.satp != value => {
            let same_mode = guest.satp >> 60 == value >> 60;
            guest.satp = value;
            if same_mode {
                mmu::flush_address_space(cpu);
            } else {
                mmu::flush(cpu);
            }
        }
        0x300 => set_mstatus(cpu, value),
        0x302 => guest.medeleg = value & DELEGABLE_EXCEPTIONS,
        0x303 => guest.mideleg = value & SUPERVISOR_INTERRUPTS,
        0x304 => guest.mie = value & INTERRUPTS,
        0x305 => set_vector(&mut guest.mtvec, value),
        0x306 => guest.mcounteren = value & 0xffff_ffff,
        0x30a => {
            guest.menvcfg = value & MENVCFG;
            note_timer_change(cpu);
        }
        0x320 => set_mcountinhibit(cpu, value),
        0x340 => guest.mscratch = value,
        0x341 => guest.mepc = value & !1,
        0x342 => guest.mcause = value,
        0x343 => guest.mtval = value,
        MIP => {
            let timer = if guest.menvcfg & MENVCFG_STCE != 0 { 0 } else { STIP };
            let writable = SSIP | SEIP | timer;
            guest.mip = guest.mip & !writable | value & writable;
        }
        0x3a0 | 0x3a2 => {
            guest.set_pmpcfg((number >> 1 & 1) as usize, value);
            mmu::flush(cpu);
        }
        0x3b0..=0x3bf => {
            guest.set_pmpaddr((number & 0xf) as usize, value);
            mmu::flush(cpu);
        }
        // The instruction that writes a counter is not counted by it.
        0xb00 => guest.mcycle.set(cpu.context.instructions.wrapping_add(1), value),
        0xb02 => guest.minstret.set(cpu.context.instructions.wrapping_add(1), value),
        // Values that are not supported, and what is read-only, whatever is written: misa, events and counters that count
        // nothing.
        _ => (),
    }
}

/// Sets a trap vector; modes other than direct and vectored do not exist.
fn set_vector(vector: &mut u64, value: u64) {
    if value & 2 == 0 {
        *vector = value;
    }
}

/// What CSRRS and CSRRC combine with, instead of the value read: the external interrupt input of the hart is read, but does not
/// become what software wrote (volume II, 3.1.9).
pub(super) fn value_to_modify(cpu: &Cpu<Riscv64>, number: u32, read: u64) -> u64 {
    if number == MIP { read & !SEIP | cpu.guest.mip & SEIP } else { read }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_state_becomes_legal_and_legal_state_stays() {
        let mut guest = Riscv64::new();
        guest.mstatus = !(1 << 11);
        guest.satp = u64::MAX;
        guest.pmpcfg = [0x9f9f_9f9f_9f9f_9fff; 2];
        guest.pmpaddr = [u64::MAX; 16];
        guest.mtvec = u64::MAX;
        legalise(&mut guest);
        assert_eq!(guest.mstatus & MSTATUS_MPP, 0);
        assert_eq!((guest.satp, guest.pmpaddr[15], guest.mtvec & 2), (0, u64::MAX >> 10, 0));
        assert_eq!(guest.pmp_configuration(0), 0x9f);
        let legal = format!("{guest:?}");
        legalise(&mut guest);
        assert_eq!(format!("{guest:?}"), legal);
        guest.satp = 8 << 60 | 0x8_0000;
        legalise(&mut guest);
        assert_eq!(guest.satp, 8 << 60 | 0x8_0000);
    }
}
