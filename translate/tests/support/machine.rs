//! A hart with RAM, a read-only page and one device page, without any machine model.

use std::cell::UnsafeCell;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex};

use translate::engine::{Engine, Keep, Stop, Tiers, Translator};
use translate::platform::{BusError, HostPage, MemoryView, PAGE_SIZE, Platform};
use translate::riscv64::Riscv64;

pub const RAM_START: u64 = 0x8000_0000;
pub const RAM_SIZE: u64 = 0x8_0000;
/// A page whose writes go to the device.
pub const ROM_START: u64 = 0x0010_0000;
/// Eight bytes of a device that remembers what was written, in a history.
pub const DEVICE_START: u64 = 0x1000_0000;

pub struct Memory {
    ram: Box<[UnsafeCell<u64>]>,
    rom: Box<[UnsafeCell<u64>]>,
    device: Mutex<Vec<(u64, u64, u64)>>,
}

// SAFETY: tests access the memory through processors, which may race as guests may.
unsafe impl Sync for Memory {}

impl Memory {
    fn new() -> Memory {
        let words = |bytes: u64| (0..bytes / 8).map(|_| UnsafeCell::new(0)).collect();
        Memory { ram: words(RAM_SIZE + PAGE_SIZE), rom: words(2 * PAGE_SIZE), device: Mutex::default() }
    }

    fn ram(&self) -> *mut u8 {
        let start = self.ram.as_ptr() as *mut u8;
        // SAFETY: one page more than needed was allocated.
        unsafe { start.add(start.align_offset(PAGE_SIZE as usize)) }
    }
}

impl Platform for Memory {
    fn page(&self, _view: MemoryView, address: u64) -> Option<HostPage> {
        let page = |start: *mut u8, offset: u64, writable| {
            // SAFETY: the offset is within the allocation.
            let host = unsafe { start.add((offset / PAGE_SIZE * PAGE_SIZE) as usize) };
            Some(HostPage { host: NonNull::new(host)?, writable })
        };
        match address {
            RAM_START.. if address - RAM_START < RAM_SIZE => page(self.ram(), address - RAM_START, true),
            ROM_START.. if address - ROM_START < PAGE_SIZE => {
                let start = self.rom.as_ptr() as *mut u8;
                // SAFETY: one page more than needed was allocated.
                page(unsafe { start.add(start.align_offset(PAGE_SIZE as usize)) }, 0, false)
            }
            _ => None,
        }
    }

    fn mark_dirty(&self, _view: MemoryView, _address: u64) {}

    fn read(&self, address: u64, width: u64) -> Result<u64, BusError> {
        if !(DEVICE_START..DEVICE_START + 8).contains(&address) {
            return Err(BusError);
        }
        let mut device = self.device.lock().unwrap();
        device.push((address, width, 0));
        Ok(device.len() as u64)
    }

    fn write(&self, address: u64, width: u64, value: u64) -> Result<(), BusError> {
        if !(DEVICE_START..DEVICE_START + 8).contains(&address) {
            return Err(BusError);
        }
        self.device.lock().unwrap().push((address, width, value));
        Ok(())
    }

    fn now(&self) -> u64 {
        0
    }

    fn set_deadline(&self, _index: u64, _deadline: Option<u64>) {}
}

pub struct Machine {
    pub engine: Engine<Riscv64>,
    pub memory: Memory,
    pub translator: Arc<Translator<Riscv64>>,
}

/// Everything that two executions of a program must agree on.
#[derive(PartialEq)]
pub struct Outcome {
    pub registers: Vec<u64>,
    pub pc: u64,
    pub instructions: u64,
    pub float_flags: u32,
    pub ram: Vec<u8>,
    pub device: Vec<(u64, u64, u64)>,
}

impl Outcome {
    pub fn assert_same(&self, other: &Outcome, what: &str) {
        for (number, (a, b)) in self.registers.iter().zip(&other.registers).enumerate() {
            assert_eq!(a, b, "{what}: register {number} is {a:#x} in one and {b:#x} in the other");
        }
        assert_eq!(self.float_flags, other.float_flags, "{what}: floating-point flags");
        for (offset, (a, b)) in self.ram.iter().zip(&other.ram).enumerate() {
            assert_eq!(a, b, "{what}: memory at {:#x}", RAM_START + offset as u64);
        }
        assert_eq!(self.device, other.device, "{what}: device accesses");
        assert_eq!(self.pc, other.pc, "{what}: pc");
        assert_eq!(self.instructions, other.instructions, "{what}: instructions retired");
    }
}

impl Machine {
    /// A machine whose compiled code is kept in a folder, if one is given, from when it is dropped on.
    pub fn new(tiers: Tiers, keep: Option<&Path>) -> Machine {
        let keep = keep.map(|folder| Keep { folder: folder.into(), features: () });
        let translator = Translator::new(tiers, keep);
        let engine = Engine::new(0, Riscv64::new(), translator.clone());
        Machine { engine, memory: Memory::new(), translator }
    }

    pub fn write(&mut self, address: u64, bytes: &[u8]) {
        let offset = (address - RAM_START) as usize;
        assert!(offset + bytes.len() <= RAM_SIZE as usize);
        // SAFETY: within the RAM, and no processor runs.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.memory.ram().add(offset), bytes.len()) };
    }

    pub fn run_until_halted(&mut self) {
        assert_eq!(self.engine.run(&self.memory), Stop::Halted);
    }

    pub fn outcome(&self) -> Outcome {
        let context = &self.engine.cpu.context;
        // SAFETY: within the RAM, and no processor runs.
        let ram = unsafe { std::slice::from_raw_parts(self.memory.ram(), RAM_SIZE as usize) };
        Outcome {
            registers: context.registers[..64].to_vec(),
            pc: context.pc,
            instructions: context.instructions,
            float_flags: context.float_flags & 0x1f,
            ram: ram.to_vec(),
            device: self.memory.device.lock().unwrap().clone(),
        }
    }
}
