//! A small machine around a backend: RAM with a program in it, the suite's [`Bus`], and a guard against hangs.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use accel::memory::{MemorySlot, Region, allocate};
use accel::state::CpuState;
use accel::{Accelerator, Architecture, Exit, Vcpu};
use vm_memory::{Bytes, GuestMemoryRegion, MemoryRegionAddress};

use crate::bus::Bus;
use crate::program::Program;
use crate::subject::Subject;
use crate::{riscv, x86};

/// Where things are in the machine of an architecture.
#[derive(Clone, Copy)]
pub(crate) struct Layout {
    pub(crate) ram: u64,
    /// Programs, 0x1000 bytes for each processor.
    pub(crate) code: u64,
    /// The interrupt handler.
    pub(crate) handler: u64,
    /// Whole pages that nothing else uses, up to [`Layout::extra`]'s 64 KiB.
    pub(crate) data: u64,
    /// The device page.
    pub(crate) device: u64,
    /// An address range without RAM, for slots that come and go.
    pub(crate) extra: u64,
    /// The input of a processor that its external interrupts come to.
    pub(crate) input: u32,
}

/// Length of RAM.
pub(crate) const RAM: u64 = 0x10_0000;
/// What a hang guard waits: far longer than any program takes.
pub(crate) const LONG: Duration = Duration::from_secs(60);

pub(crate) struct Machine {
    pub(crate) architecture: Architecture,
    pub(crate) layout: Layout,
    pub(crate) accelerator: Arc<dyn Accelerator>,
    pub(crate) bus: Arc<Bus>,
    pub(crate) ram: Arc<Region>,
    pub(crate) vcpus: Vec<Box<dyn Vcpu>>,
}

pub(crate) fn layout(architecture: Architecture) -> Layout {
    match architecture {
        Architecture::X86_64 => x86::LAYOUT,
        Architecture::Riscv64 => riscv::LAYOUT,
    }
}

impl Machine {
    /// A machine with RAM and `processors` processors, each about to execute its code page.
    pub(crate) fn new(subject: &Subject, processors: u32) -> Machine {
        let mut machine = Machine::without_processors(subject);
        machine.add_processors(processors);
        machine
    }

    pub(crate) fn without_processors(subject: &Subject) -> Machine {
        let layout = layout(subject.architecture);
        let accelerator = (subject.open)().expect("it opened before");
        let ram = allocate(layout.ram, RAM).unwrap();
        accelerator.map_memory(MemorySlot { region: ram.clone(), read_only: false }).unwrap();
        if subject.architecture == Architecture::X86_64 {
            x86::write_tables(&ram);
        }
        let bus = Arc::new(Bus::new(layout.device, layout.input));
        Machine { architecture: subject.architecture, layout, accelerator, bus, ram, vcpus: Vec::new() }
    }

    pub(crate) fn add_processors(&mut self, processors: u32) {
        for index in 0..processors {
            let mut vcpu = self.accelerator.create_vcpu(index).unwrap();
            self.bus.add(vcpu.handle());
            let mut state = vcpu.state().unwrap();
            let code = self.layout.code + 0x1000 * u64::from(index);
            match &mut state {
                CpuState::X86_64(state) => x86::prepare(state, code, index),
                CpuState::Riscv64(state) => riscv::prepare(state, code, self.layout.handler),
            }
            vcpu.set_state(&state).unwrap();
            self.vcpus.push(vcpu);
        }
    }

    pub(crate) fn program(&self) -> Program {
        Program::new(self.architecture, self.layout.code)
    }

    /// Puts the program of processor 0 into its place.
    pub(crate) fn load(&self, program: &Program) {
        self.write(program.origin(), program.bytes());
    }

    pub(crate) fn write(&self, address: u64, data: &[u8]) {
        self.ram.write_slice(data, MemoryRegionAddress(address - self.layout.ram)).unwrap();
    }

    pub(crate) fn read_u64(&self, address: u64) -> u64 {
        self.ram.read_obj(MemoryRegionAddress(address - self.layout.ram)).unwrap()
    }

    /// All of RAM.
    pub(crate) fn contents(&self) -> Vec<u8> {
        let mut contents = vec![0; self.ram.len() as usize];
        self.ram.read_slice(&mut contents, MemoryRegionAddress(0)).unwrap();
        contents
    }

    /// Points processor 0 at `address`.
    pub(crate) fn restart_at(&mut self, address: u64) {
        let mut state = self.vcpus[0].state().unwrap();
        match &mut state {
            CpuState::X86_64(state) => state.rip = address,
            CpuState::Riscv64(state) => state.pc = address,
        }
        self.vcpus[0].set_state(&state).unwrap();
    }

    /// Runs processor 0 once.
    pub(crate) fn run(&mut self) -> Exit {
        let bus = self.bus.clone();
        run_guarded(self.vcpus[0].as_mut(), &bus)
    }

    /// Runs processor 0 until its program says that it is done.
    pub(crate) fn run_to_end(&mut self) {
        assert_eq!(self.run(), Exit::Kicked, "{}", self.describe());
    }

    pub(crate) fn describe(&mut self) -> String {
        match self.vcpus[0].state() {
            Ok(state) => format!("program counter {:#x}", state.program_counter()),
            Err(error) => error.to_string(),
        }
    }
}

/// Runs a processor once, and panics if that takes too long.
pub(crate) fn run_guarded(vcpu: &mut dyn Vcpu, bus: &Bus) -> Exit {
    let handle = vcpu.handle();
    let (ended, wait) = mpsc::channel::<()>();
    let expired = AtomicBool::new(false);
    let exit = std::thread::scope(|scope| {
        let expired = &expired;
        scope.spawn(move || {
            if wait.recv_timeout(LONG) == Err(mpsc::RecvTimeoutError::Timeout) {
                expired.store(true, Ordering::SeqCst);
                handle.kick();
            }
        });
        let exit = vcpu.run(bus);
        drop(ended);
        exit
    });
    assert!(!expired.load(Ordering::SeqCst), "the program hangs at {:#x}", vcpu.state().unwrap().program_counter());
    exit
}
