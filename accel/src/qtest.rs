//! A backend without processors: vCPUs that never execute an instruction.
//!
//! Devices are driven from outside, register by register, and virtual time passes when the driver says so: open it with a
//! clock made by [`VirtualClock::stepped`](crate::clock::VirtualClock::stepped).

use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use vmm_sys_util::eventfd::EventFd;

use crate::memory::MemorySlot;
use crate::state::{CpuState, riscv64, x86_64};
use crate::{
    Accelerator, Architecture, Capabilities, DebugControl, Error, Exit, IoBus, IoEvent, Msi, Vcpu, VcpuHandle,
};

/// The backend for one machine.
pub struct Qtest {
    capabilities: Capabilities,
}

impl Qtest {
    /// A backend for a machine of that architecture.
    pub fn open(architecture: Architecture) -> Qtest {
        Qtest {
            capabilities: Capabilities {
                architecture,
                in_kernel_interrupt_controller: false,
                single_step: false,
                breakpoints: 0,
                watchpoints: 0,
                dirty_log: false,
                most_vcpus: 512,
                system_management: architecture == Architecture::X86_64,
                time_stamp_khz: 0,
            },
        }
    }

    fn unsupported<T>(what: &'static str) -> Result<T, Error> {
        Err(Error::Unsupported { name: "qtest", what })
    }
}

impl Accelerator for Qtest {
    fn name(&self) -> &'static str {
        "qtest"
    }
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }
    /// Nobody uses it.
    fn map_memory(&self, _slot: MemorySlot) -> Result<(), Error> {
        Ok(())
    }
    fn unmap_memory(&self, _address: u64) -> Result<(), Error> {
        Ok(())
    }
    fn set_management_memory(&self, _slot: Option<MemorySlot>) -> Result<(), Error> {
        Ok(())
    }
    fn set_dirty_logging(&self, _address: u64, _enabled: bool) -> Result<(), Error> {
        Qtest::unsupported("a log of what processors write")
    }
    fn dirty_log(&self, _address: u64) -> Result<Vec<u64>, Error> {
        Qtest::unsupported("a log of what processors write")
    }
    fn create_interrupt_controller(&self) -> Result<(), Error> {
        Qtest::unsupported("an interrupt controller of its own")
    }
    fn set_interrupt_line(&self, _line: u32, _level: bool) -> Result<(), Error> {
        Qtest::unsupported("an interrupt controller of its own")
    }
    fn signal_msi(&self, _msi: Msi) -> Result<(), Error> {
        Qtest::unsupported("an interrupt controller of its own")
    }
    fn register_io_event(&self, _event: IoEvent, _fd: &EventFd) -> Result<(), Error> {
        Qtest::unsupported("I/O events")
    }
    fn unregister_io_event(&self, _event: IoEvent, _fd: &EventFd) -> Result<(), Error> {
        Qtest::unsupported("I/O events")
    }
    fn register_interrupt_event(&self, _line: u32, _fd: &EventFd) -> Result<(), Error> {
        Qtest::unsupported("interrupt events")
    }
    fn unregister_interrupt_event(&self, _line: u32, _fd: &EventFd) -> Result<(), Error> {
        Qtest::unsupported("interrupt events")
    }
    fn create_vcpu(&self, index: u32) -> Result<Box<dyn Vcpu>, Error> {
        let state = match self.capabilities.architecture {
            Architecture::X86_64 => CpuState::X86_64(Box::new(x86_64::CpuState::reset(index))),
            Architecture::Riscv64 => CpuState::Riscv64(Box::new(riscv64::CpuState::reset(index))),
        };
        Ok(Box::new(Idle { state, handle: Arc::default() }))
    }
}

/// A processor that does nothing.
struct Idle {
    state: CpuState,
    handle: Arc<Handle>,
}

#[derive(Default)]
struct Handle {
    // Lock order: alone.
    kicked: Mutex<bool>,
    changed: Condvar,
}

impl VcpuHandle for Handle {
    fn kick(&self) {
        *self.kicked.lock() = true;
        self.changed.notify_one();
    }
    fn set_interrupt(&self, _input: u32, _level: bool) {}
    fn inject_nmi(&self) -> Result<(), Error> {
        Qtest::unsupported("interrupts of processors")
    }
    fn is_halted(&self) -> bool {
        false
    }
}

impl Vcpu for Idle {
    fn run(&mut self, _io: &dyn IoBus) -> Exit {
        let mut kicked = self.handle.kicked.lock();
        while !std::mem::take(&mut *kicked) {
            self.handle.changed.wait(&mut kicked);
        }
        Exit::Kicked
    }
    fn state(&mut self) -> Result<CpuState, Error> {
        Ok(self.state.clone())
    }
    fn set_state(&mut self, state: &CpuState) -> Result<(), Error> {
        if std::mem::discriminant(state) != std::mem::discriminant(&self.state) {
            return Err(Error::State("it is that of another architecture".into()));
        }
        self.state = state.clone();
        Ok(())
    }
    fn set_debug(&mut self, debug: &DebugControl) -> Result<(), Error> {
        if *debug == DebugControl::default() { Ok(()) } else { Qtest::unsupported("debugging") }
    }
    /// No address translation takes place.
    fn translate(&mut self, address: u64) -> Result<Option<u64>, Error> {
        Ok(Some(address))
    }
    fn handle(&self) -> Arc<dyn VcpuHandle> {
        self.handle.clone()
    }
}
