//! A platform of nothing but RAM, at the addresses where the test programs are linked.

use std::cell::UnsafeCell;
use std::ptr::NonNull;

use translate::engine::{Engine, Stop, Tiers, Translator};
use translate::platform::{BusError, HostPage, MemoryView, PAGE_SIZE, Platform};
use translate::riscv64::Riscv64;

/// `mstatus.FS`.
const FLOAT_ON: u64 = 3 << 13;

#[repr(C, align(4096))]
struct Page(UnsafeCell<[u8; PAGE_SIZE as usize]>);

/// RAM from [`Ram::start`] on, whole pages.
pub(crate) struct Ram {
    start: u64,
    pages: Vec<Page>,
}

// SAFETY: the tests run one processor, on the thread that looks at the memory before and after.
unsafe impl Sync for Ram {}

impl Ram {
    pub(crate) fn new(start: u64, image: &[u8]) -> Ram {
        assert_eq!(start % PAGE_SIZE, 0);
        let pages = image.chunks(PAGE_SIZE as usize).map(|chunk| {
            let mut page = [0; PAGE_SIZE as usize];
            page[..chunk.len()].copy_from_slice(chunk);
            Page(UnsafeCell::new(page))
        });
        Ram { start, pages: pages.collect() }
    }

    /// `length` bytes from `address` on.
    pub(crate) fn bytes(&self, address: u64, length: usize) -> Vec<u8> {
        let first = (address - self.start) as usize;
        let byte = |index: usize| {
            // SAFETY: no processor runs meanwhile.
            unsafe { (*self.pages[index / PAGE_SIZE as usize].0.get())[index % PAGE_SIZE as usize] }
        };
        (first..first + length).map(byte).collect()
    }
}

impl Platform for Ram {
    fn page(&self, _view: MemoryView, address: u64) -> Option<HostPage> {
        let page = self.pages.get((address.checked_sub(self.start)? / PAGE_SIZE) as usize)?;
        Some(HostPage { host: NonNull::new(page.0.get())?.cast(), writable: true })
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

/// Runs `image`, loaded and entered at `start`, in machine mode, until it reaches `end`.
pub(crate) fn run(start: u64, image: &[u8], end: u64, tiers: Tiers) -> Ram {
    let ram = Ram::new(start, image);
    let mut guest = Riscv64::new();
    guest.mstatus = FLOAT_ON;
    // Where an unexpected exception ends: nothing is mapped there, so that it repeats and is noticed below.
    let mut engine = Engine::new(0, guest, Translator::new(tiers, None));
    engine.cpu.context.pc = start;
    engine.set_debug([end, 0].into(), Vec::new());
    let stop = engine.run(&ram);
    assert_eq!(
        stop,
        Stop::Breakpoint(end),
        "mcause {:#x}, mepc {:#x}, mtval {:#x}",
        engine.cpu.guest.mcause,
        engine.cpu.guest.mepc,
        engine.cpu.guest.mtval
    );
    ram
}
