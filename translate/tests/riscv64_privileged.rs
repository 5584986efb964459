//! Privilege, traps, interrupts, address translation and physical memory protection of riscv64, seen by code that runs on it.

use std::cell::UnsafeCell;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use translate::cpu::ATTENTION_INTERRUPT;
use translate::engine::{Engine, Stop, Tiers, Translator};
use translate::platform::{BusError, HostPage, MemoryView, PAGE_SIZE, Platform};
use translate::riscv64::{MACHINE, Riscv64, SUPERVISOR, USER, csr};

const RAM: u64 = 0x8000_0000;
const RAM_PAGES: usize = 64;
/// Where test code runs.
const CODE: u64 = RAM;
/// Where machine mode's and supervisor mode's trap vectors point.
const MACHINE_VECTOR: u64 = RAM + 0x1000;
const SUPERVISOR_VECTOR: u64 = RAM + 0x1800;
/// The root page table; the tables below it follow.
const TABLE: u64 = RAM + 0x10000;
/// A page of data.
const DATA: u64 = RAM + 0x20000;

const MSTATUS: u32 = 0x300;
const MEDELEG: u32 = 0x302;
const MIDELEG: u32 = 0x303;
const MIE: u32 = 0x304;
const MTVEC: u32 = 0x305;
const MENVCFG: u32 = 0x30a;
const MCAUSE: u32 = 0x342;
const MIP: u32 = 0x344;
const SATP: u32 = 0x180;

const SUM: u64 = 1 << 18;
const MXR: u64 = 1 << 19;
const MPRV: u64 = 1 << 17;

const ILLEGAL: u64 = 2;
const LOAD_PAGE_FAULT: u64 = 13;
const STORE_PAGE_FAULT: u64 = 15;
const INTERRUPT: u64 = 1 << 63;

/// Bits of page-table entries.
const V: u64 = 1;
const R: u64 = 2;
const W: u64 = 4;
const X: u64 = 8;
const U: u64 = 0x10;
const A: u64 = 0x40;
const D: u64 = 0x80;

const EBREAK: u32 = 0x0010_0073;
const ECALL: u32 = 0x73;
const MRET: u32 = 0x3020_0073;
const SRET: u32 = 0x1020_0073;
const WFI: u32 = 0x1050_0073;
const NOP: u32 = 0x13;
/// ld a0, 0(a1); sd a0, 0(a1)
const LOAD: u32 = 0x0005_b503;
const STORE: u32 = 0x00a5_b023;
/// sfence.vma; sfence.vma a1
const SFENCE: u32 = 0x1200_0073;
const SFENCE_A1: u32 = 0x1205_8073;

const A0: usize = 10;
const A1: usize = 11;

struct World {
    ram: Box<[UnsafeCell<[u64; 512]>]>,
    now: AtomicU64,
    deadline: AtomicU64,
}

// SAFETY: a test uses its world from one thread.
unsafe impl Sync for World {}

impl Platform for World {
    fn page(&self, _view: MemoryView, address: u64) -> Option<HostPage> {
        let page = self.ram.get((address.checked_sub(RAM)? / PAGE_SIZE) as usize)?;
        Some(HostPage { host: NonNull::new(page.get())?.cast(), writable: true })
    }

    fn mark_dirty(&self, _view: MemoryView, _address: u64) {}

    fn read(&self, _address: u64, _width: u64) -> Result<u64, BusError> {
        Err(BusError)
    }

    fn write(&self, _address: u64, _width: u64, _value: u64) -> Result<(), BusError> {
        Err(BusError)
    }

    fn now(&self) -> u64 {
        self.now.load(Ordering::Relaxed)
    }

    fn set_deadline(&self, _index: u64, deadline: Option<u64>) {
        self.deadline.store(deadline.unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

struct Hart {
    world: World,
    engine: Engine<Riscv64>,
}

impl Hart {
    /// In machine mode, with supervisor and user mode allowed everything by physical memory protection.
    fn new() -> Hart {
        let zero = || UnsafeCell::new([0; 512]);
        let world = World {
            ram: std::iter::repeat_with(zero).take(RAM_PAGES).collect(),
            now: AtomicU64::new(0),
            deadline: AtomicU64::new(u64::MAX),
        };
        let engine = Engine::new(0, Riscv64::new(), Translator::new(Tiers::InterpreterOnly, None));
        let mut hart = Hart { world, engine };
        hart.write_csr(0x3b0, u64::MAX);
        hart.write_csr(0x3a0, 0x1f);
        hart.write_csr(MTVEC, MACHINE_VECTOR);
        hart.write_csr(0x105, SUPERVISOR_VECTOR);
        hart
    }

    fn word(&self, address: u64) -> u64 {
        // SAFETY: no processor runs meanwhile.
        unsafe { (*self.world.ram[((address - RAM) / PAGE_SIZE) as usize].get())[(address % PAGE_SIZE / 8) as usize] }
    }

    fn set_word(&mut self, address: u64, value: u64) {
        self.world.ram[((address - RAM) / PAGE_SIZE) as usize].get_mut()[(address % PAGE_SIZE / 8) as usize] = value;
    }

    fn guest(&mut self) -> &mut Riscv64 {
        &mut self.engine.cpu.guest
    }

    /// Executes instructions at [`CODE`], one step each. Stops early at a trap and says true.
    fn execute(&mut self, code: &[u32]) -> bool {
        self.execute_at(CODE, code)
    }

    fn execute_at(&mut self, address: u64, code: &[u32]) -> bool {
        for (index, pair) in code.chunks(2).enumerate() {
            let high = pair.get(1).copied().unwrap_or(EBREAK);
            self.set_word(CODE + 8 * index as u64, u64::from(high) << 32 | u64::from(pair[0]));
        }
        self.engine.cpu.context.pc = address;
        for _ in code {
            self.engine.step(&self.world);
            let pc = self.engine.cpu.context.pc;
            if pc & !0x7ff == MACHINE_VECTOR || pc & !0x7ff == SUPERVISOR_VECTOR {
                return true;
            }
        }
        false
    }

    /// As [`Hart::execute`] in mode `privilege`, with `mcause` if machine mode took a trap.
    fn cause_in(&mut self, privilege: u8, code: &[u32]) -> Option<u64> {
        self.guest().privilege = privilege;
        let trapped = self.execute(code);
        trapped.then(|| self.guest().mcause)
    }

    /// csrrw x0, number, a0 in machine mode.
    fn write_csr(&mut self, number: u32, value: u64) {
        self.guest().privilege = MACHINE;
        self.engine.cpu.context.registers[A0] = value;
        assert!(
            !self.execute(&[number << 20 | (A0 as u32) << 15 | 1 << 12 | 0x73]),
            "csr {number:#x} cannot be written"
        );
    }

    /// csrrs a0, number, x0 in some mode; `None` if it traps.
    fn read_csr_in(&mut self, privilege: u8, number: u32) -> Option<u64> {
        let trapped = self.cause_in(privilege, &[number << 20 | 2 << 12 | (A0 as u32) << 7 | 0x73]);
        trapped.is_none().then(|| self.engine.cpu.context.registers[A0])
    }

    fn read_csr(&mut self, number: u32) -> u64 {
        self.read_csr_in(MACHINE, number).expect("the register exists")
    }

    /// Puts supervisor mode under Sv39 with the kernel's RAM identity-mapped by one gigapage for its code, and `entry` for the
    /// page at [`virtual_page`].
    fn map(&mut self, entry: u64) {
        // Gigapage 2 is RAM.
        self.set_word(TABLE + 2 * 8, RAM >> 2 | V | R | W | X | A | D);
        // Gigapage 1 has tables.
        self.set_word(TABLE + 8, (TABLE + 0x1000) >> 2 | V);
        self.set_word(TABLE + 0x1000, (TABLE + 0x2000) >> 2 | V);
        self.set_word(TABLE + 0x2000, entry);
        self.write_csr(SATP, 8 << 60 | TABLE >> 12);
        self.guest().privilege = SUPERVISOR;
        self.execute(&[SFENCE]);
        self.engine.cpu.context.registers[A1] = VIRTUAL_PAGE;
    }
}

/// A page that [`Hart::map`] maps.
const VIRTUAL_PAGE: u64 = 0x4000_0000;

#[test]
fn traps_go_where_they_are_delegated() {
    let mut hart = Hart::new();
    hart.write_csr(MEDELEG, u64::MAX);
    assert_eq!(hart.read_csr(MEDELEG), 0xb3ff);
    hart.guest().mstatus |= 1 << 1;
    hart.guest().privilege = USER;
    assert!(hart.execute(&[NOP, ECALL]));
    assert_eq!(hart.engine.cpu.context.pc, SUPERVISOR_VECTOR);
    let guest = hart.guest();
    assert_eq!((guest.privilege, guest.scause, guest.sepc, guest.stval), (SUPERVISOR, 8, CODE + 4, 0));
    // SIE went to SPIE, and SPP says user mode.
    assert_eq!(guest.mstatus & 0x122, 0x20);
    // Back again.
    assert!(!hart.execute(&[SRET]));
    assert_eq!((hart.guest().privilege, hart.guest().mstatus & 0x122), (USER, 0x22));
    assert_eq!(hart.engine.cpu.context.pc, CODE + 4);
    // Calls from supervisor mode go there only if delegated; what happens in machine mode never does.
    hart.write_csr(MEDELEG, 0);
    assert_eq!(hart.cause_in(SUPERVISOR, &[ECALL]), Some(9));
    assert_eq!(hart.guest().mstatus >> 11 & 3, 1);
    hart.write_csr(MEDELEG, u64::MAX);
    assert_eq!(hart.cause_in(MACHINE, &[EBREAK]), Some(3));
    assert_eq!((hart.guest().mtval, hart.guest().mstatus >> 11 & 3), (CODE, 3));
}

#[test]
fn returning_from_machine_mode() {
    let mut hart = Hart::new();
    hart.write_csr(MSTATUS, MPRV | 1 << 11 | 1 << 7);
    hart.guest().mepc = 0x1234;
    assert!(!hart.execute(&[MRET]));
    assert_eq!(hart.engine.cpu.context.pc, 0x1234);
    assert_eq!(hart.guest().privilege, SUPERVISOR);
    // MIE has MPIE's value, MPIE is set, MPP is user mode, MPRV is off.
    assert_eq!(hart.guest().mstatus, 1 << 3 | 1 << 7);
}

#[test]
fn instructions_that_are_not_permitted() {
    let mut hart = Hart::new();
    for (privilege, instruction) in [
        (USER, WFI),
        (USER, SRET),
        (USER, SFENCE),
        (USER, MRET),
        (SUPERVISOR, MRET),
        (SUPERVISOR, MSTATUS << 20 | 2 << 12 | 0x73),
        (USER, 0x100 << 20 | 2 << 12 | 0x73),
        // Floating point is off; mvendorid is read-only; no such registers: tselect, mcontext, mtopi.
        (USER, 0x0000_2007),
        (MACHINE, 0xf11 << 20 | 1 << 12 | 0x73),
        (MACHINE, 0x7a0 << 20 | 2 << 12 | 0x73),
        (MACHINE, 0x7a8 << 20 | 2 << 12 | 0x73),
        (MACHINE, 0xfb0 << 20 | 2 << 12 | 0x73),
    ] {
        assert_eq!(hart.cause_in(privilege, &[instruction]), Some(ILLEGAL), "{instruction:#x} in mode {privilege}");
        assert_eq!(hart.guest().mtval, u64::from(instruction));
    }
    // TVM, TW, TSR
    for (bit, instruction) in [(20, SFENCE), (20, SATP << 20 | 2 << 12 | 0x73), (21, WFI), (22, SRET)] {
        hart.guest().mstatus = 1 << bit;
        assert_eq!(hart.cause_in(SUPERVISOR, &[instruction]), Some(ILLEGAL), "{instruction:#x}");
        hart.guest().mstatus = 0;
        assert_eq!(hart.cause_in(SUPERVISOR, &[instruction]), None, "{instruction:#x}");
        hart.engine.cpu.halted = false;
    }
}

#[test]
fn counters_follow_their_enables() {
    let mut hart = Hart::new();
    let (cycle, time, instret) = (0xc00, 0xc01, 0xc02);
    hart.world.now.store(12345, Ordering::Relaxed);
    for number in [cycle, time, instret] {
        assert!(hart.read_csr_in(MACHINE, number).is_some());
        assert_eq!(hart.read_csr_in(SUPERVISOR, number), None);
    }
    hart.write_csr(0x306, 7);
    assert_eq!(hart.read_csr_in(SUPERVISOR, time), Some(123));
    assert_eq!(hart.read_csr_in(USER, time), None);
    hart.write_csr(0x106, 2);
    assert_eq!(hart.read_csr_in(USER, time), Some(123));
    assert_eq!(hart.read_csr_in(USER, instret), None);
    // What is written is read by the next instruction.
    hart.write_csr(0xb02, 1000);
    assert_eq!(hart.read_csr(0xb02), 1000);
    assert_eq!(hart.read_csr(instret), 1001);
    hart.write_csr(0x320, 4);
    let stopped = hart.read_csr(instret);
    assert_eq!(hart.read_csr(instret), stopped);
    hart.write_csr(0x320, u64::MAX);
    assert_eq!(hart.read_csr(0x320), 5);
}

#[test]
fn registers_keep_legal_values_only() {
    let mut hart = Hart::new();
    hart.write_csr(MSTATUS, 1 << 11);
    hart.write_csr(MSTATUS, !(3 << 11) | 2 << 11);
    // SD, SXL and UXL of 2; MPP kept; no big endian, no vectors.
    assert_eq!(hart.read_csr(MSTATUS), 0x8000_000a_007e_69aa);
    hart.write_csr(MSTATUS, 1 << 13);
    assert_eq!(hart.read_csr(0x100), 1 << 63 | 2 << 32 | 3 << 13, "floating point that is on is dirty");
    hart.write_csr(MSTATUS, 0);
    hart.write_csr(MTVEC, RAM | 2);
    assert_eq!(hart.read_csr(MTVEC), MACHINE_VECTOR);
    hart.write_csr(SATP, 10 << 60 | 1);
    assert_eq!(hart.read_csr(SATP), 0);
    hart.write_csr(SATP, 9 << 60 | 0xffff << 44 | 1);
    assert_eq!(hart.read_csr(SATP), 9 << 60 | 0xffff << 44 | 1);
    hart.write_csr(0x301, 0);
    assert_eq!(hart.read_csr(0x301), csr::MISA);
    hart.write_csr(MIDELEG, u64::MAX);
    assert_eq!(hart.read_csr(MIDELEG), 0x222);
    hart.write_csr(MIE, u64::MAX);
    assert_eq!((hart.read_csr(MIE), hart.read_csr(0x104)), (0xaaa, 0x222));
    hart.write_csr(0x341, 0x1003);
    assert_eq!(hart.read_csr(0x341), 0x1002);
}

#[test]
fn interrupts_by_priority_and_mode() {
    let mut hart = Hart::new();
    hart.write_csr(MTVEC, MACHINE_VECTOR | 1);
    hart.write_csr(MIE, 0xaaa);
    hart.write_csr(MIDELEG, 0x222);
    for input in [3, 7, 11] {
        hart.engine.cpu.signals.set_input(input, true);
    }
    // Disabled in machine mode.
    assert!(!hart.execute(&[NOP]));
    // Always enabled for machine mode below it: external before software before timer, each at its vector.
    for (input, expected) in [(11, 11), (3, 3), (7, 7)] {
        hart.guest().privilege = USER;
        assert!(hart.execute(&[NOP]));
        assert_eq!(hart.guest().mcause, INTERRUPT | expected);
        assert_eq!(hart.engine.cpu.context.pc, MACHINE_VECTOR + 4 * expected);
        hart.engine.cpu.signals.set_input(input, false);
    }
    // Supervisor mode's are disabled there without SIE, and enabled in user mode.
    hart.engine.cpu.signals.set_input(9, true);
    hart.guest().privilege = SUPERVISOR;
    assert!(!hart.execute(&[NOP]));
    hart.guest().privilege = USER;
    assert!(hart.execute(&[NOP]));
    assert_eq!((hart.guest().scause, hart.engine.cpu.context.pc), (INTERRUPT | 9, SUPERVISOR_VECTOR));
    // The input shows in mip, but does not stick when software sets other bits there.
    assert_eq!(hart.read_csr(MIP), 1 << 9);
    assert!(!hart.execute(&[MIP << 20 | 2 << 15 | 6 << 12 | 0x73]));
    hart.engine.cpu.signals.set_input(9, false);
    assert_eq!(hart.read_csr(MIP), 1 << 1);
}

#[test]
fn supervisor_timer() {
    let mut hart = Hart::new();
    hart.write_csr(MIE, 1 << 5);
    hart.write_csr(MIDELEG, 1 << 5);
    hart.write_csr(0x14d, 50);
    assert_eq!(hart.world.deadline.load(Ordering::Relaxed), u64::MAX, "the extension is off");
    hart.write_csr(MENVCFG, 1 << 63);
    assert_eq!(hart.world.deadline.load(Ordering::Relaxed), 5000);
    assert_eq!(hart.read_csr(MIP), 0);
    // Access from supervisor mode needs TM as well.
    assert_eq!(hart.read_csr_in(SUPERVISOR, 0x14d), None);
    hart.write_csr(0x306, 2);
    assert_eq!(hart.read_csr_in(SUPERVISOR, 0x14d), Some(50));
    // Waiting ends when the timer goes off.
    hart.guest().privilege = SUPERVISOR;
    assert!(!hart.execute(&[WFI]));
    assert!(hart.engine.cpu.halted);
    assert_eq!(hart.engine.run(&hart.world), Stop::Halted);
    hart.world.now.store(5000, Ordering::Relaxed);
    hart.engine.cpu.signals.request(ATTENTION_INTERRUPT);
    assert_eq!(hart.read_csr(MIP), 1 << 5);
    hart.guest().mstatus |= 1 << 1;
    hart.guest().privilege = SUPERVISOR;
    assert!(hart.execute(&[NOP]));
    assert_eq!((hart.guest().scause, hart.guest().sepc), (INTERRUPT | 5, CODE));
    hart.write_csr(0x14d, u64::MAX);
    assert_eq!(hart.read_csr(MIP), 0);
    assert_eq!(hart.world.deadline.load(Ordering::Relaxed), u64::MAX);
}

#[test]
fn permissions_of_pages() {
    let page = DATA >> 2 | V;
    // Entry, mode, status bits, may load, may store.
    for (entry, privilege, status, loads, stores) in [
        (page | R | W, SUPERVISOR, 0, true, true),
        (page | R, SUPERVISOR, 0, true, false),
        (page | X, SUPERVISOR, 0, false, false),
        (page | X, SUPERVISOR, MXR, true, false),
        (page | R | W | U, SUPERVISOR, 0, false, false),
        (page | R | W | U, SUPERVISOR, SUM, true, true),
        // Reserved: writable but not readable; bits of extensions; a pointer at the last level.
        (page | W, SUPERVISOR, 0, false, false),
        (page | R | W | 1 << 63, SUPERVISOR, 0, false, false),
        (page | R | W | 1 << 61, SUPERVISOR, 0, false, false),
        (page, SUPERVISOR, 0, false, false),
        (page & !V | R | W, SUPERVISOR, 0, false, false),
        // Machine mode with MPRV accesses memory as the mode in MPP.
        (page | R | W, MACHINE, MPRV | 1 << 11, true, true),
        (page | R | W | U, MACHINE, MPRV, true, true),
        (page | R | W, MACHINE, MPRV, false, false),
    ] {
        let mut hart = Hart::new();
        hart.map(entry);
        hart.set_word(DATA, 42);
        hart.guest().mstatus = status;
        let expected = if loads { None } else { Some(LOAD_PAGE_FAULT) };
        assert_eq!(hart.cause_in(privilege, &[LOAD]), expected, "load by {entry:#x} in mode {privilege}");
        if loads {
            assert_eq!(hart.engine.cpu.context.registers[A0], 42);
        } else {
            assert_eq!(hart.guest().mtval, VIRTUAL_PAGE);
        }
        hart.guest().mstatus = status;
        let expected = if stores { None } else { Some(STORE_PAGE_FAULT) };
        assert_eq!(hart.cause_in(privilege, &[STORE]), expected, "store by {entry:#x} in mode {privilege}");
    }
}

#[test]
fn accessed_and_dirty_bits() {
    let entry = DATA >> 2 | V | R | W;
    // Hardware sets them.
    let mut hart = Hart::new();
    hart.map(entry);
    assert_eq!(hart.cause_in(SUPERVISOR, &[LOAD]), None);
    assert_eq!(hart.word(TABLE + 0x2000), entry | A);
    assert_eq!(hart.cause_in(SUPERVISOR, &[STORE]), None);
    assert_eq!(hart.word(TABLE + 0x2000), entry | A | D);
    // Software shall: the access traps and leaves the entry alone.
    let mut hart = Hart::new();
    hart.write_csr(MENVCFG, 0);
    hart.map(entry);
    assert_eq!(hart.cause_in(SUPERVISOR, &[LOAD]), Some(LOAD_PAGE_FAULT));
    assert_eq!(hart.word(TABLE + 0x2000), entry);
    hart.map(entry | A);
    assert_eq!(hart.cause_in(SUPERVISOR, &[LOAD]), None);
    assert_eq!(hart.cause_in(SUPERVISOR, &[STORE]), Some(STORE_PAGE_FAULT));
}

#[test]
fn a_debuggers_look_leaves_no_trace() {
    let entry = DATA >> 2 | V | R | W;
    let mut hart = Hart::new();
    hart.map(entry);
    let mode = translate::ir::MemoryMode(SUPERVISOR);
    let Hart { engine, world } = &mut hart;
    assert_eq!(engine.translate(&*world, VIRTUAL_PAGE + 5, mode), Some(DATA + 5));
    assert_eq!(hart.word(TABLE + 0x2000), entry);
    // Where a load would fault, there is nothing to see.
    hart.write_csr(MENVCFG, 0);
    let Hart { engine, world } = &mut hart;
    assert_eq!(engine.translate(&*world, VIRTUAL_PAGE + 5, mode), None);
}

#[test]
fn fences_of_addresses_reach_all_of_a_superpage() {
    let mut hart = Hart::new();
    hart.map(0);
    // A 2 MiB page at the second megapage of gigapage 1.
    let virtual_address = VIRTUAL_PAGE + 0x20_0000;
    hart.set_word(TABLE + 0x1008, RAM >> 2 | V | R | W | A | D);
    hart.set_word(DATA, 42);
    hart.engine.cpu.context.registers[A1] = virtual_address + (DATA - RAM);
    assert_eq!(hart.cause_in(SUPERVISOR, &[LOAD]), None);
    assert_eq!(hart.engine.cpu.context.registers[A0], 42);
    // Unmapped, with a fence of another address of the page.
    hart.set_word(TABLE + 0x1008, 0);
    hart.engine.cpu.context.registers[A1] = virtual_address;
    assert_eq!(hart.cause_in(SUPERVISOR, &[SFENCE_A1]), None);
    hart.engine.cpu.context.registers[A1] = virtual_address + (DATA - RAM);
    assert_eq!(hart.cause_in(SUPERVISOR, &[LOAD]), Some(LOAD_PAGE_FAULT));
    // A superpage must be aligned.
    hart.set_word(TABLE + 0x1008, DATA >> 2 | V | R | W | A | D);
    assert_eq!(hart.cause_in(SUPERVISOR, &[LOAD]), Some(LOAD_PAGE_FAULT));
}

#[test]
fn addresses_that_are_not_canonical() {
    let mut hart = Hart::new();
    hart.map(DATA >> 2 | V | R | W);
    hart.engine.cpu.context.registers[A1] = VIRTUAL_PAGE | 1 << 40;
    assert_eq!(hart.cause_in(SUPERVISOR, &[LOAD]), Some(LOAD_PAGE_FAULT));
    // Without translation, addresses have 56 bits.
    hart.write_csr(SATP, 0);
    hart.engine.cpu.context.registers[A1] = DATA | 1 << 56;
    assert_eq!(hart.cause_in(SUPERVISOR, &[LOAD]), Some(5));
}

#[test]
fn physical_memory_protection() {
    let mut hart = Hart::new();
    hart.engine.cpu.context.registers[A1] = DATA;
    assert_eq!(hart.cause_in(SUPERVISOR, &[LOAD, STORE]), None);
    // Entry 1 is what entry 0 was; entry 0 makes eight bytes read-only.
    hart.write_csr(0x3b1, u64::MAX);
    hart.write_csr(0x3b0, DATA >> 2);
    hart.write_csr(0x3a0, 0x1f19);
    hart.engine.cpu.context.registers[A1] = DATA;
    assert_eq!(hart.cause_in(SUPERVISOR, &[LOAD]), None);
    assert_eq!(hart.cause_in(SUPERVISOR, &[STORE]), Some(7));
    assert_eq!((hart.guest().mtval, hart.guest().mepc), (DATA, CODE));
    assert_eq!(hart.cause_in(MACHINE, &[STORE]), None);
    // An access that is only partly within the entry fails.
    hart.engine.cpu.context.registers[A1] = DATA + 4;
    assert_eq!(hart.cause_in(SUPERVISOR, &[LOAD]), Some(5));
    hart.engine.cpu.context.registers[A1] = DATA + 8;
    assert_eq!(hart.cause_in(SUPERVISOR, &[STORE]), None);
    // Page tables are walked with supervisor mode's rights.
    hart.map(DATA >> 2 | V | R | W);
    hart.write_csr(0x3b0, TABLE >> 2 | 0x1ff);
    hart.write_csr(0x3a0, 0x1f18);
    hart.engine.cpu.context.registers[A1] = VIRTUAL_PAGE;
    hart.guest().mstatus = MPRV | 1 << 11;
    assert_eq!(hart.cause_in(MACHINE, &[LOAD]), Some(5));
    assert_eq!(hart.read_csr(MCAUSE), 5);
}

#[test]
fn misaligned_atomic_operations_trap_and_other_accesses_do_not() {
    let mut hart = Hart::new();
    hart.engine.cpu.context.registers[A1] = DATA + 4;
    hart.set_word(DATA, 0x1122_3344_5566_7788);
    assert_eq!(hart.cause_in(MACHINE, &[LOAD]), None);
    assert_eq!(hart.engine.cpu.context.registers[A0], 0x1122_3344);
    // lr.d a0, (a1); sc.d a0, a0, (a1); amoadd.d a0, a0, (a1)
    assert_eq!(hart.cause_in(MACHINE, &[0x1005_b52f]), Some(4));
    assert_eq!(hart.cause_in(MACHINE, &[0x18a5_b52f]), Some(6));
    assert_eq!(hart.cause_in(MACHINE, &[0x00a5_b52f]), Some(6));
    assert_eq!(hart.guest().mtval, DATA + 4);
    // lr.w and sc.w are aligned there.
    assert_eq!(hart.cause_in(MACHINE, &[0x1005_a52f, 0x18a5_a52f]), None);
    assert_eq!(hart.engine.cpu.context.registers[A0], 0);
}
