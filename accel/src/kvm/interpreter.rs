//! Instructions that KVM's own emulator does not know: the translator's interpreter carries them out, on the same state.
//!
//! KVM emulates what the host's processor cannot execute by itself, above all accesses to device memory, and knows the
//! instructions that operating systems use for that. Others, such as CMPXCHG16B or many vector instructions, end KVM's run.

use std::ptr::NonNull;
use std::sync::Arc;

use translate::engine::{Engine, Stop, Tiers, Translator};
use translate::platform::{BusError, HostPage, LocalApicRegister, MemoryView, PAGE_SIZE, Platform};
use translate::x86_64::cpuid::CpuModel;
use translate::x86_64::event::{number, vector};
use translate::x86_64::{X86_64, state as guest_state};
use vm_memory::bitmap::Bitmap;
use vm_memory::{GuestMemoryRegion, GuestRegionMmap};

use crate::jit::x86_64::{set_state, state};
use crate::memory::{DirtyBitmap, MemorySlot};
use crate::state::x86_64::CpuState;
use crate::{AddressSpace, Error, IoBus, bus_access};

/// A processor that executes one instruction at a time for a vCPU.
pub(super) struct Interpreter {
    engine: Engine<X86_64>,
}

/// What became of an instruction.
pub(super) enum Carried {
    /// It was executed, or its exception was delivered: the state after it.
    Out(Box<CpuState>),
    /// The interpreter does not know it either.
    Unknown,
    /// The processor shut down.
    ShutDown,
}

/// [`translate::guest::Exception::number`] of none.
const NO_EXCEPTION: u32 = u32::MAX;

impl Interpreter {
    pub(super) fn new(index: u32) -> Interpreter {
        let translator = Translator::<X86_64>::new(Tiers::InterpreterOnly, None);
        let guest = X86_64::new(Arc::new(CpuModel::best()), Arc::default(), index == 0);
        let mut engine = Engine::new(u64::from(index), guest, translator);
        guest_state::reset(&mut engine.cpu, false);
        Interpreter { engine }
    }

    /// Carries out the instruction at which `before` stands, with `memory` as the RAM and ROM.
    pub(super) fn carry_out(
        &mut self,
        before: &CpuState,
        memory: &[MemorySlot],
        io: &dyn IoBus,
    ) -> Result<Carried, Error> {
        let mut known = before.clone();
        // What the interpreter has no instructions for stays as it is.
        known.fpu.components.clear();
        known.events.in_smm = false;
        let world = World { memory, io };
        self.engine.cpu.with_platform(&world, |cpu| set_state(cpu, &known))?;
        self.engine.cpu.context.exception.number = NO_EXCEPTION;
        let stop = self.engine.step(&world);
        if self.engine.cpu.context.exception.number == number(vector::INVALID_OPCODE) {
            return Ok(Carried::Unknown);
        }
        if let Some(Stop::ShutDown) = stop {
            return Ok(Carried::ShutDown);
        }
        let mut after = self.engine.cpu.with_platform(&world, |cpu| state(cpu));
        after.fpu.components.clone_from(&before.fpu.components);
        after.fpu.xcr0 = before.fpu.xcr0;
        after.apic_base = before.apic_base;
        after.cr8 = before.cr8;
        after.events = crate::state::x86_64::Events { shadow: after.events.shadow, ..before.events.clone() };
        // An event that was on its way has been delivered by now.
        after.events.exception = None;
        after.events.interrupt = None;
        Ok(Carried::Out(Box::new(after)))
    }
}

/// The machine as the instruction sees it.
struct World<'a> {
    memory: &'a [MemorySlot],
    io: &'a dyn IoBus,
}

impl World<'_> {
    fn find(&self, address: u64) -> Option<(&MemorySlot, u64)> {
        let offset = |slot: &MemorySlot| address.checked_sub(slot.region.start_addr().0);
        let slot = self.memory.iter().find(|slot| offset(slot).is_some_and(|offset| offset < slot.region.len()))?;
        Some((slot, offset(slot)?))
    }
}

impl Platform for World<'_> {
    fn page(&self, _view: MemoryView, address: u64) -> Option<HostPage> {
        let (slot, offset) = self.find(address)?;
        let page = offset / PAGE_SIZE * PAGE_SIZE;
        // SAFETY: the offset lies within the mapping; slots are whole pages.
        let host = unsafe { slot.region.get_mmap().as_ptr().add(page as usize) };
        Some(HostPage { host: NonNull::new(host)?, writable: !slot.read_only })
    }

    fn mark_dirty(&self, _view: MemoryView, address: u64) {
        // KVM's own log sees what its processors write; this write is like a device's.
        if let Some((slot, offset)) = self.find(address) {
            let region: &GuestRegionMmap<DirtyBitmap> = &slot.region;
            region.get_mmap().bitmap().mark_dirty((offset / PAGE_SIZE * PAGE_SIZE) as usize, PAGE_SIZE as usize);
        }
    }

    fn read(&self, address: u64, width: u64) -> Result<u64, BusError> {
        bus_access::read(self.io, address, width)
    }

    fn write(&self, address: u64, width: u64, value: u64) -> Result<(), BusError> {
        bus_access::write(self.io, AddressSpace::Memory, address, width, value)
    }

    fn read_port(&self, port: u16, width: u64) -> u64 {
        bus_access::read_port(self.io, port, width)
    }

    fn write_port(&self, port: u16, width: u64, value: u64) {
        // Where nothing answers, writes are lost.
        let _ = bus_access::write(self.io, AddressSpace::Port, u64::from(port), width, value);
    }

    fn read_local_apic(&self, register: LocalApicRegister) -> Option<u64> {
        self.io.read_local_apic(register)
    }

    fn write_local_apic(&self, register: LocalApicRegister, value: u64) -> Option<()> {
        self.io.write_local_apic(register, value)
    }

    /// Instructions that read a clock are never among those that KVM leaves.
    fn now(&self) -> u64 {
        0
    }

    fn set_deadline(&self, _index: u64, _deadline: Option<u64>) {}
}
