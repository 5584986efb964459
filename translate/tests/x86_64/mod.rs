//! A bare x86-64 processor in 64-bit mode with RAM from address 0 on, without paging or any machine model; and the same code on the host.
// Each test program uses some of it.
#![allow(dead_code, unreachable_pub)]

use std::cell::UnsafeCell;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use translate::cpu::Cpu;
use translate::engine::{Engine, Stop, Tiers, Translator};
use translate::platform::{BusError, HostPage, MemoryView, PAGE_SIZE, Platform};
use translate::x86_64::X86_64;
use translate::x86_64::cpuid::CpuModel;
use translate::x86_64::registers::{RDI, RSP, segment_base};
use translate::x86_64::segment::{Segment, SegmentName, Table, attribute};
use translate::x86_64::state;

const RAM_PAGES: usize = 1024;
const GDT: u64 = 0x1000;
const IDT: u64 = 0x2000;
const HANDLERS: u64 = 0x3000;
/// The interrupt descriptor table of 32-bit mode.
const IDT_32: u64 = 0x4000;
const STACK_TOP: u64 = 0x6000;
/// Where handlers of exceptions leave their vector.
const VECTOR: u64 = 0x7000;
/// What RDI points to when a program begins: [`DATA_BYTES`] of data.
pub const DATA: u64 = 0x8000;
pub const DATA_BYTES: usize = 2048;
/// Where the first program is.
pub const CODE: u64 = 0x10000;
const SELECTOR: u16 = 8;
const SELECTOR_32: u16 = 16;
/// HLT.
const HALT: u8 = 0xf4;

pub struct Ram(Box<[UnsafeCell<[u64; PAGE_SIZE as usize / 8]>]>);

// SAFETY: one processor accesses it, and tests do only while that does not run.
unsafe impl Sync for Ram {}

impl Platform for Ram {
    fn page(&self, _view: MemoryView, address: u64) -> Option<HostPage> {
        let page = self.0.get(usize::try_from(address / PAGE_SIZE).ok()?)?;
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
        0
    }

    fn set_deadline(&self, _index: u64, _deadline: Option<u64>) {}
}

pub struct Processor {
    ram: Ram,
    engine: Engine<X86_64>,
    translator: Arc<Translator<X86_64>>,
    next_code: u64,
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It ran to its end.
    Normally,
    /// It raised the exception with this vector, while RIP was so many bytes from its beginning.
    Exception(u8, u64),
}

impl Processor {
    pub fn new(tiers: Tiers) -> Processor {
        let ram = (0..RAM_PAGES).map(|_| UnsafeCell::new([0; PAGE_SIZE as usize / 8])).collect();
        let guest = X86_64::new(Arc::new(CpuModel::best()), Arc::new(AtomicU32::new(1)), true);
        let translator = Translator::new(tiers, None);
        let engine = Engine::new(0, guest, translator.clone());
        let mut processor = Processor { ram: Ram(ram), engine, translator, next_code: CODE };
        // A 64-bit code segment, and a 32-bit one; interrupt gates.
        processor.write(GDT + 8, &0x00af_9b00_0000_ffff_u64.to_le_bytes());
        processor.write(GDT + 16, &0x00cf_9b00_0000_ffff_u64.to_le_bytes());
        for vector in 0..32 {
            let handler = HANDLERS + 16 * vector;
            let low = handler & 0xffff | u64::from(SELECTOR) << 16 | 0x8e00 << 32 | handler >> 16 << 48;
            processor.write(IDT + 16 * vector, &low.to_le_bytes());
            let low = low & !0xffff_0000 | u64::from(SELECTOR_32) << 16;
            processor.write(IDT_32 + 8 * vector, &low.to_le_bytes());
            // mov dword [VECTOR], vector; hlt
            let mut code = vec![0xc7, 0x04, 0x25];
            code.extend((VECTOR as u32).to_le_bytes());
            code.extend((vector as u32).to_le_bytes());
            code.push(HALT);
            processor.write(handler, &code);
        }
        processor
    }

    pub fn cpu(&mut self) -> &mut Cpu<X86_64> {
        &mut self.engine.cpu
    }

    pub fn write(&mut self, address: u64, bytes: &[u8]) {
        for (address, byte) in (address..).zip(bytes) {
            let page = self.ram.page(MemoryView::Ordinary, address).expect("within the RAM");
            // SAFETY: within the page, and the processor does not run.
            unsafe { page.host.as_ptr().add((address % PAGE_SIZE) as usize).write(*byte) };
        }
    }

    pub fn read(&self, address: u64, bytes: &mut [u8]) {
        for (address, byte) in (address..).zip(bytes) {
            let page = self.ram.page(MemoryView::Ordinary, address).expect("within the RAM");
            // SAFETY: as above.
            *byte = unsafe { page.host.as_ptr().add((address % PAGE_SIZE) as usize).read() };
        }
    }

    /// Puts a program where none was; gives its address.
    pub fn add_program(&mut self, code: &[u8]) -> u64 {
        let address = self.next_code;
        self.write(address, code);
        self.write(address + code.len() as u64, &[HALT]);
        self.next_code = (address + code.len() as u64 + 1).next_multiple_of(16);
        address
    }

    /// Makes the processor's state what it is when a program begins: 64-bit mode, privilege level 0, x87 and SSE usable.
    pub fn reset(&mut self) {
        let cpu = &mut *self.engine.cpu;
        state::reset(cpu, false);
        let guest = &mut cpu.guest;
        guest.cr0 = state::CR0_PE | state::CR0_ET | state::CR0_NE | state::CR0_MP;
        guest.cr4 = state::CR4_OSFXSR | state::CR4_OSXMMEXCPT;
        guest.efer = state::EFER_LMA | state::EFER_LME;
        let data = attribute::PRESENT | attribute::CODE_OR_DATA | attribute::WRITABLE_OR_READABLE | attribute::ACCESSED;
        for name in SegmentName::ALL {
            let kind = if name == SegmentName::Cs { attribute::CODE | attribute::LONG } else { attribute::BIG };
            let selector = if name == SegmentName::Cs { SELECTOR } else { 0 };
            guest.segments[name as usize] = Segment { selector, limit: u32::MAX, attributes: data | kind };
            cpu.context.registers[usize::from(segment_base(name).0)] = 0;
        }
        cpu.guest.gdt = Table { base: GDT, limit: 23 };
        cpu.guest.idt = Table { base: IDT, limit: 32 * 16 - 1 };
        cpu.context.registers[usize::from(RDI.0)] = DATA;
        cpu.context.registers[usize::from(RSP.0)] = STACK_TOP;
        cpu.flush_tlb();
    }

    /// As [`Processor::reset`], in 32-bit protected mode; `data_limit` is the limit of DS.
    pub fn reset_32(&mut self, data_limit: u32) {
        self.reset();
        let guest = &mut self.engine.cpu.guest;
        guest.efer = 0;
        let code = &mut guest.segments[SegmentName::Cs as usize];
        code.selector = SELECTOR_32;
        code.attributes = code.attributes & !attribute::LONG | attribute::BIG;
        guest.segments[SegmentName::Ds as usize].limit = data_limit;
        guest.idt = Table { base: IDT_32, limit: 32 * 8 - 1 };
    }

    /// How many pieces of code were compiled.
    pub fn regions_compiled(&self) -> u64 {
        self.translator.regions_compiled()
    }

    /// Runs the program at an address after [`Processor::reset`].
    pub fn go_on_at(&mut self, address: u64) -> Ended {
        self.write(VECTOR, &u32::MAX.to_le_bytes());
        self.engine.cpu.context.pc = address;
        self.engine.cpu.halted = false;
        assert_eq!(self.engine.run(&self.ram), Stop::Halted);
        self.ended(address)
    }

    /// Goes on with a processor that is halted.
    pub fn go_on_halted(&mut self) -> Ended {
        assert!(self.engine.cpu.halted);
        assert_eq!(self.engine.run(&self.ram), Stop::Halted);
        self.ended(0)
    }

    /// Runs the program at an address; true if it shut the processor down.
    pub fn shuts_down_at(&mut self, address: u64) -> bool {
        self.engine.cpu.context.pc = address;
        self.engine.cpu.halted = false;
        self.engine.run(&self.ram) == Stop::ShutDown
    }

    fn ended(&self, address: u64) -> Ended {
        let mut vector = [0; 4];
        self.read(VECTOR, &mut vector);
        match u32::from_le_bytes(vector) {
            u32::MAX => Ended::Normally,
            vector => {
                // RIP is the last but what exceptions with an error code push after it.
                let has_error_code = matches!(vector, 8 | 10..=14 | 17);
                let mut rip = [0; 8];
                let top = self.engine.cpu.context.registers[usize::from(RSP.0)];
                let width = if self.engine.cpu.guest.is_64_bit() { 8 } else { 4 };
                self.read(top + if has_error_code { width as u64 } else { 0 }, &mut rip[..width]);
                Ended::Exception(vector as u8, u64::from_le_bytes(rip).wrapping_sub(address))
            }
        }
    }

    /// Runs a program that was added, with `data` in memory, which it may change.
    pub fn run(&mut self, program: u64, data: &mut [u8; DATA_BYTES]) -> Ended {
        self.reset();
        self.write(DATA, data);
        let ended = self.go_on_at(program);
        self.read(DATA, data);
        ended
    }
}

/// A page of the host's memory that holds one program at a time.
#[cfg(target_arch = "x86_64")]
pub struct Host(NonNull<u8>);

#[cfg(target_arch = "x86_64")]
impl Host {
    /// `None` if the host does not let programs write code for themselves.
    pub fn new() -> Option<Host> {
        let protection = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
        let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping, of nothing that exists.
        let page = unsafe { libc::mmap(std::ptr::null_mut(), PAGE_SIZE as usize, protection, kind, -1, 0) };
        if page == libc::MAP_FAILED {
            return None;
        }
        NonNull::new(page.cast()).map(Host)
    }

    /// Runs a program, which must change neither the stack nor registers that a callee saves, and access no memory but `data`.
    pub fn run(&self, program: &[u8], data: &mut [u8; DATA_BYTES]) {
        #[repr(align(64))]
        struct Aligned([u8; DATA_BYTES]);
        let mut aligned = Aligned(*data);
        // EMMS; FNINIT; RET
        let code = [program, &[0x0f, 0x77, 0xdb, 0xe3, 0xc3]].concat();
        assert!(code.len() <= PAGE_SIZE as usize);
        // SAFETY: the code fits the page, and does what the caller promises.
        unsafe {
            std::ptr::copy_nonoverlapping(code.as_ptr(), self.0.as_ptr(), code.len());
            let function: extern "C" fn(*mut u8) = std::mem::transmute(self.0.as_ptr());
            function(aligned.0.as_mut_ptr());
        }
        *data = aligned.0;
    }
}

#[cfg(target_arch = "x86_64")]
impl Drop for Host {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own.
        unsafe { libc::munmap(self.0.as_ptr().cast(), PAGE_SIZE as usize) };
    }
}
