//! Several backends for one machine, one of which runs it at a time.
//!
//! All of them know the machine's memory, and each has a processor for each of the machine's. Which one runs is a number that
//! all parts of this accelerator share, so that a change is one store, made while no vCPU runs. What makes a change complete
//! is the caller's: it puts each processor's state into the backend to come ([`Vcpu::set_state_in`]), then changes
//! ([`Accelerator::switch_to`]), then hands the state of the interrupt controllers over. Until the change nothing is lost, so
//! a state that the other backend refuses leaves the machine as it was.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::RwLock;
use vmm_sys_util::eventfd::EventFd;

use crate::memory::MemorySlot;
use crate::state::{ControllerState, CpuState};
use crate::{Accelerator, Capabilities, DebugControl, Error, Exit, IoBus, IoEvent, Msi, Vcpu, VcpuHandle};

/// An accelerator that is one of several others at a time.
pub struct Switchable {
    backends: Vec<Arc<dyn Accelerator>>,
    active: Arc<Active>,
}

/// Which backend runs.
#[derive(Default)]
struct Active {
    number: AtomicUsize,
    // Lock order: alone. Held for reading while something is delivered to a processor, so that nothing is delivered to one
    // whose state has just been taken.
    delivering: RwLock<()>,
}

impl Active {
    fn number(&self) -> usize {
        self.number.load(Ordering::SeqCst)
    }
}

impl Switchable {
    /// One of `backends` at a time, at first the one at position `first`.
    ///
    /// # Panics
    /// If there is no such backend.
    pub fn new(backends: Vec<Arc<dyn Accelerator>>, first: usize) -> Switchable {
        assert!(first < backends.len(), "one of the backends runs first");
        let active = Active { number: AtomicUsize::new(first), ..Active::default() };
        Switchable { backends, active: Arc::new(active) }
    }

    fn active(&self) -> &dyn Accelerator {
        &*self.backends[self.active.number()]
    }

    fn position(&self, name: &str) -> Result<usize, Error> {
        let found = self.backends.iter().position(|backend| backend.name() == name);
        found.ok_or(Error::Unsupported { name: self.name(), what: "a change to an accelerator that was not prepared" })
    }

    /// Does something in every backend, and undoes it where one of them refuses.
    fn in_each(
        &self,
        action: impl Fn(&dyn Accelerator) -> Result<(), Error>,
        undo: impl Fn(&dyn Accelerator) -> Result<(), Error>,
    ) -> Result<(), Error> {
        for (position, backend) in self.backends.iter().enumerate() {
            if let Err(error) = action(&**backend) {
                for done in &self.backends[..position] {
                    if let Err(error) = undo(&**done) {
                        tracing::error!("accelerator {}: {error}", done.name());
                    }
                }
                return Err(error);
            }
        }
        Ok(())
    }
}

impl Accelerator for Switchable {
    fn name(&self) -> &'static str {
        self.active().name()
    }

    fn capabilities(&self) -> &Capabilities {
        self.active().capabilities()
    }

    fn map_memory(&self, slot: MemorySlot) -> Result<(), Error> {
        let address = vm_memory::GuestMemoryRegion::start_addr(&*slot.region).0;
        self.in_each(|backend| backend.map_memory(slot.clone()), |backend| backend.unmap_memory(address))
    }

    fn unmap_memory(&self, address: u64) -> Result<(), Error> {
        self.backends.iter().try_for_each(|backend| backend.unmap_memory(address))
    }

    fn set_dirty_logging(&self, address: u64, enabled: bool) -> Result<(), Error> {
        self.in_each(
            |backend| backend.set_dirty_logging(address, enabled),
            |backend| backend.set_dirty_logging(address, !enabled),
        )
    }

    fn dirty_log(&self, address: u64) -> Result<Vec<u64>, Error> {
        let mut all: Vec<u64> = Vec::new();
        for backend in &self.backends {
            let log = backend.dirty_log(address)?;
            all.resize(all.len().max(log.len()), 0);
            all.iter_mut().zip(log).for_each(|(all, word)| *all |= word);
        }
        Ok(all)
    }

    fn create_interrupt_controller(&self) -> Result<(), Error> {
        let has_one = |backend: &&Arc<dyn Accelerator>| backend.capabilities().in_kernel_interrupt_controller;
        self.backends.iter().filter(has_one).try_for_each(|backend| backend.create_interrupt_controller())
    }

    fn interrupt_controller_state(&self) -> Result<ControllerState, Error> {
        self.active().interrupt_controller_state()
    }

    fn set_interrupt_controller_state(&self, state: &ControllerState) -> Result<(), Error> {
        self.active().set_interrupt_controller_state(state)
    }

    fn set_interrupt_line(&self, line: u32, level: bool) -> Result<(), Error> {
        self.active().set_interrupt_line(line, level)
    }

    fn signal_msi(&self, msi: Msi) -> Result<(), Error> {
        self.active().signal_msi(msi)
    }

    fn register_io_event(&self, event: IoEvent, fd: &EventFd) -> Result<(), Error> {
        self.in_each(|backend| backend.register_io_event(event, fd), |backend| backend.unregister_io_event(event, fd))
    }

    fn unregister_io_event(&self, event: IoEvent, fd: &EventFd) -> Result<(), Error> {
        self.backends.iter().try_for_each(|backend| backend.unregister_io_event(event, fd))
    }

    fn register_interrupt_event(&self, _line: u32, _fd: &EventFd) -> Result<(), Error> {
        // Interrupts must go through whoever knows which controllers count at present.
        Err(Error::Unsupported { name: self.name(), what: "interrupt events in a machine that changes accelerators" })
    }

    fn unregister_interrupt_event(&self, line: u32, fd: &EventFd) -> Result<(), Error> {
        self.register_interrupt_event(line, fd)
    }

    fn create_vcpu(&self, index: u32) -> Result<Box<dyn Vcpu>, Error> {
        let mut vcpus = Vec::new();
        for backend in &self.backends {
            vcpus.push((backend.name(), backend.create_vcpu(index)?));
        }
        let handles = vcpus.iter().map(|(_, vcpu)| vcpu.handle()).collect();
        let handle = Arc::new(Handle { handles, active: self.active.clone() });
        let prepared = self.active.number();
        Ok(Box::new(SwitchableVcpu {
            vcpus,
            active: self.active.clone(),
            handle,
            debug: DebugControl::default(),
            prepared,
        }))
    }

    fn interpreted_instructions(&self) -> u64 {
        self.backends.iter().map(|backend| backend.interpreted_instructions()).sum()
    }

    fn choices(&self) -> Vec<&'static str> {
        self.backends.iter().map(|backend| backend.name()).collect()
    }

    fn switch_to(&self, name: &str) -> Result<(), Error> {
        let to = self.position(name)?;
        self.backends[to].memory_changed();
        let _delivering = self.active.delivering.write();
        self.active.number.store(to, Ordering::SeqCst);
        Ok(())
    }
}

/// A processor of a machine: one of each backend.
struct SwitchableVcpu {
    vcpus: Vec<(&'static str, Box<dyn Vcpu>)>,
    active: Arc<Active>,
    handle: Arc<Handle>,
    /// What a debugger asked for, in whichever backend.
    debug: DebugControl,
    /// The backend whose processor has been told that.
    prepared: usize,
}

impl SwitchableVcpu {
    fn active(&mut self) -> &mut dyn Vcpu {
        &mut *self.vcpus[self.active.number()].1
    }
}

impl Vcpu for SwitchableVcpu {
    fn run(&mut self, io: &dyn IoBus) -> Exit {
        let active = self.active.number();
        if self.prepared != active {
            let debug = self.debug.clone();
            if let Err(error) = self.active().set_debug(&debug) {
                return Exit::InternalError(error.to_string());
            }
            self.prepared = active;
        }
        self.active().run(io)
    }

    fn state(&mut self) -> Result<CpuState, Error> {
        self.active().state()
    }

    fn set_state(&mut self, state: &CpuState) -> Result<(), Error> {
        self.active().set_state(state)
    }

    fn set_state_in(&mut self, name: &str, state: &CpuState) -> Result<(), Error> {
        match self.vcpus.iter_mut().find(|(known, _)| *known == name) {
            Some((_, vcpu)) => vcpu.set_state(state),
            None => Err(Error::State(format!("there is no accelerator {name} to put it into"))),
        }
    }

    fn set_debug(&mut self, debug: &DebugControl) -> Result<(), Error> {
        self.active().set_debug(debug)?;
        self.debug = debug.clone();
        self.prepared = self.active.number();
        Ok(())
    }

    fn translate(&mut self, address: u64) -> Result<Option<u64>, Error> {
        self.active().translate(address)
    }

    fn statistics(&self) -> Option<String> {
        self.vcpus[self.active.number()].1.statistics()
    }

    fn handle(&self) -> Arc<dyn VcpuHandle> {
        self.handle.clone()
    }
}

struct Handle {
    handles: Vec<Arc<dyn VcpuHandle>>,
    active: Arc<Active>,
}

impl Handle {
    /// Delivers something to the processor that runs.
    fn deliver<R>(&self, delivery: impl FnOnce(&dyn VcpuHandle) -> R) -> R {
        let _delivering = self.active.delivering.read();
        delivery(&*self.handles[self.active.number()])
    }
}

impl VcpuHandle for Handle {
    fn kick(&self) {
        // At once, whatever is being delivered.
        self.handles[self.active.number()].kick();
    }

    fn set_interrupt(&self, input: u32, level: bool) {
        self.deliver(|handle| handle.set_interrupt(input, level));
    }

    fn inject_nmi(&self) -> Result<(), Error> {
        self.deliver(|handle| handle.inject_nmi())
    }

    fn inject_smi(&self) {
        self.deliver(|handle| handle.inject_smi());
    }

    fn inject_init(&self) {
        self.deliver(|handle| handle.inject_init());
    }

    fn inject_start_up(&self, vector: u8) {
        self.deliver(|handle| handle.inject_start_up(vector));
    }

    fn is_halted(&self) -> bool {
        self.handles[self.active.number()].is_halted()
    }
}
