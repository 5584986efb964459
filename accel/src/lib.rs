//! Accelerators: what runs a guest's processors.
//!
//! Here live the [`Accelerator`] and [`Vcpu`] traits, guest memory ([`memory`]), per-architecture processor state
//! ([`state`]), the virtual clock ([`clock`]) and the backends behind the traits (`kvm`, `jit`, `qtest`). No device, no
//! machine model and no QMP lives here, and nothing above this crate matches on which backend is behind the trait.
//!
//! Read first: [`Accelerator`], [`Vcpu`], [`state::CpuState`].
//!
//! ## Threads
//! A [`Vcpu`] belongs to one thread. Everything another thread may do to a running processor goes through its
//! [`VcpuHandle`] or through the [`Accelerator`], which are shared. Neither blocks on a vCPU thread.

mod bus_access;
pub mod clock;
pub mod jit;
pub mod kvm;
pub mod memory;
pub mod probe;
pub mod qtest;
pub mod state;
pub mod switchable;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use translate::platform::LocalApicRegister;

use crate::memory::MemorySlot;
use crate::state::{ControllerState, CpuState};

/// A guest instruction-set architecture that Brolga knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Architecture {
    /// AMD64 / Intel 64, with its legacy modes.
    #[serde(rename = "x86_64")]
    X86_64,
    /// RV64GC.
    Riscv64,
}

impl Architecture {
    /// The name under which users and QMP know it (`query-target`, `-arch`).
    pub fn name(self) -> &'static str {
        match self {
            Architecture::X86_64 => "x86_64",
            Architecture::Riscv64 => "riscv64",
        }
    }
}

/// What a backend can do for the guest architecture it was opened for.
#[derive(Clone, Debug)]
pub struct Capabilities {
    /// The architecture of the guest.
    pub architecture: Architecture,
    /// The backend brings the machine's interrupt controllers (and, for `pc`, the PIT) with it; see
    /// [`Accelerator::create_interrupt_controller`].
    pub in_kernel_interrupt_controller: bool,
    /// [`DebugControl::single_step`] works.
    pub single_step: bool,
    /// How many execution breakpoints [`DebugControl`] may hold; `usize::MAX` where memory is the only limit.
    pub breakpoints: usize,
    /// How many watchpoints [`DebugControl`] may hold.
    pub watchpoints: usize,
    /// [`Accelerator::dirty_log`] works.
    pub dirty_log: bool,
    /// Most vCPUs that one virtual machine may have.
    pub most_vcpus: u32,
    /// x86-64: processors have system-management mode, which [`VcpuHandle::inject_smi`] enters.
    pub system_management: bool,
    /// Ticks of an x86-64 processor's time stamp counter in a millisecond; 0 for other guests.
    pub time_stamp_khz: u32,
}

/// Which of the two address spaces of a processor's bus an access goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum AddressSpace {
    /// Guest-physical memory addresses that no RAM answers.
    Memory,
    /// x86 I/O ports.
    Port,
}

/// Nothing on the bus answers at that address.
///
/// A backend turns it into what the architecture prescribes: an access fault on riscv64, all ones on x86-64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no device answers at this address")]
pub struct Unmapped;

/// What a vCPU calls for every access that guest RAM does not answer.
///
/// The object that [`Vcpu::run`] is given is that processor's own view of the machine: what belongs to a processor, such as
/// an x86-64 local APIC, answers there for this processor.
///
/// KVM exits and JIT slow paths both end here, so a device cannot tell who called. Called on vCPU threads, several at
/// once. `data` holds 1, 2, 4 or 8 bytes in guest memory order; KVM may split wider or page-crossing accesses.
pub trait IoBus: Send + Sync {
    /// Reads `data.len()` bytes at `address`.
    fn read(&self, space: AddressSpace, address: u64, data: &mut [u8]) -> Result<(), Unmapped>;
    /// Writes `data` at `address`.
    fn write(&self, space: AddressSpace, address: u64, data: &[u8]) -> Result<(), Unmapped>;

    /// x86-64, without a controller in the backend: the processor accepts the interrupt that its INTR input asks for (the
    /// INTA cycle). Its controller answers with the vector; `None` where there is nothing to accept any more, and then the
    /// processor goes on as if INTR had not been raised.
    fn acknowledge_interrupt(&self) -> Option<u8> {
        None
    }

    /// x86-64, without a controller in the backend: the processor reads a register of its local APIC that is not reached
    /// through memory. `None`: the access raises #GP.
    fn read_local_apic(&self, register: LocalApicRegister) -> Option<u64> {
        let _ = register;
        None
    }

    /// As [`read_local_apic`](IoBus::read_local_apic), writing. `None`: the access raises #GP.
    fn write_local_apic(&self, register: LocalApicRegister, value: u64) -> Option<()> {
        let _ = (register, value);
        None
    }
}

/// A message-signalled interrupt: the write a device performs to raise it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Msi {
    /// Guest-physical address written to.
    pub address: u64,
    /// Value written.
    pub data: u32,
}

/// A guest write that signals an event descriptor instead of leaving the accelerator (KVM's ioeventfd).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IoEvent {
    /// Address space of the write.
    pub space: AddressSpace,
    /// Address of the write.
    pub address: u64,
    /// Width in bytes: 1, 2, 4 or 8; 0 matches every width and any value.
    pub width: u32,
    /// Only a write of this value signals; `None`: any value.
    pub value: Option<u64>,
}

/// An execution environment for the processors of one virtual machine.
///
/// All methods may be called from any thread, also while vCPUs run.
pub trait Accelerator: Send + Sync {
    /// The name that `-accel` takes for it: `kvm`, `jit`, `qtest`.
    fn name(&self) -> &'static str;

    /// What this backend can do on this host.
    fn capabilities(&self) -> &Capabilities;

    /// Makes guest RAM or ROM visible to the vCPUs. Slots must not overlap.
    fn map_memory(&self, slot: MemorySlot) -> Result<(), Error>;

    /// Takes the slot that begins at guest-physical `address` away. vCPUs that ran before this returned may have used
    /// it; none does so after.
    fn unmap_memory(&self, address: u64) -> Result<(), Error>;

    /// x86-64: gives processors in system-management mode memory that they see in place of whatever else answers there, or
    /// takes it away. Fails where the capability is absent.
    fn set_management_memory(&self, slot: Option<MemorySlot>) -> Result<(), Error> {
        let _ = slot;
        Err(Error::Unsupported { name: self.name(), what: "system-management mode" })
    }

    /// Starts or stops recording which pages of the slot at `address` vCPUs write to.
    fn set_dirty_logging(&self, address: u64, enabled: bool) -> Result<(), Error>;

    /// Returns which 4 KiB pages of the slot at `address` vCPUs wrote since the last call, one bit a page, lowest page
    /// in bit 0 of word 0, and clears the record. Pages that devices wrote are in the region's own bitmap, see
    /// [`memory`].
    fn dirty_log(&self, address: u64) -> Result<Vec<u64>, Error>;

    /// Creates the interrupt controllers of the machine inside the backend. Must come before the first
    /// [`create_vcpu`](Accelerator::create_vcpu). Fails where the capability is absent.
    fn create_interrupt_controller(&self) -> Result<(), Error>;

    /// The state of those controllers. Settled only while no vCPU runs.
    fn interrupt_controller_state(&self) -> Result<ControllerState, Error> {
        Err(Error::Unsupported { name: self.name(), what: "reading an interrupt controller that it does not have" })
    }

    /// Replaces the state of those controllers, while no vCPU runs.
    fn set_interrupt_controller_state(&self, state: &ControllerState) -> Result<(), Error> {
        let _ = state;
        Err(Error::Unsupported { name: self.name(), what: "loading an interrupt controller that it does not have" })
    }

    /// Sets the level of input `line` of the backend's interrupt controller (a GSI on x86-64).
    fn set_interrupt_line(&self, line: u32, level: bool) -> Result<(), Error>;

    /// Delivers a message-signalled interrupt through the backend's interrupt controller.
    fn signal_msi(&self, msi: Msi) -> Result<(), Error>;

    /// Signals `fd` on each matching guest write from now on; the write reaches no [`IoBus`].
    fn register_io_event(&self, event: IoEvent, fd: &vmm_sys_util::eventfd::EventFd) -> Result<(), Error>;

    /// Ends what [`register_io_event`](Accelerator::register_io_event) began.
    fn unregister_io_event(&self, event: IoEvent, fd: &vmm_sys_util::eventfd::EventFd) -> Result<(), Error>;

    /// Raises an edge on input `line` of the backend's interrupt controller whenever `fd` is signalled (KVM's irqfd).
    fn register_interrupt_event(&self, line: u32, fd: &vmm_sys_util::eventfd::EventFd) -> Result<(), Error>;

    /// Ends what [`register_interrupt_event`](Accelerator::register_interrupt_event) began.
    fn unregister_interrupt_event(&self, line: u32, fd: &vmm_sys_util::eventfd::EventFd) -> Result<(), Error>;

    /// Creates processor `index` (the APIC id, the hart id) in its architectural reset state.
    fn create_vcpu(&self, index: u32) -> Result<Box<dyn Vcpu>, Error>;

    /// How many instructions were interpreted because the backend has no way of its own to execute them.
    fn interpreted_instructions(&self) -> u64 {
        0
    }

    /// The names of the backends among which [`switch_to`](Accelerator::switch_to) chooses; empty where there is one only.
    fn choices(&self) -> Vec<&'static str> {
        Vec::new()
    }

    /// Has the backend `name` run the guest from now on. Before, each processor's state was put into it with
    /// [`Vcpu::set_state_in`]; after, the interrupt controllers' state is. No vCPU runs meanwhile.
    fn switch_to(&self, name: &str) -> Result<(), Error> {
        let _ = name;
        Err(Error::Unsupported { name: self.name(), what: "a change to another accelerator" })
    }

    /// Somebody else ran the guest and changed its memory. No vCPU runs.
    fn memory_changed(&self) {}
}

/// One virtual processor, driven by the thread that owns it.
pub trait Vcpu: Send {
    /// Runs the guest until something needs the caller. A halted processor waits inside.
    fn run(&mut self, io: &dyn IoBus) -> Exit;

    /// The complete architectural state, as of the last [`run`](Vcpu::run).
    fn state(&mut self) -> Result<CpuState, Error>;

    /// Replaces the complete architectural state.
    fn set_state(&mut self, state: &CpuState) -> Result<(), Error>;

    /// As [`set_state`](Vcpu::set_state), in the processor that stands for this one in the backend `name` of a
    /// [`switchable`] accelerator. The one that runs at present is left as it is.
    fn set_state_in(&mut self, name: &str, state: &CpuState) -> Result<(), Error> {
        let _ = state;
        Err(Error::State(format!("there is no accelerator {name} to put it into")))
    }

    /// Replaces all debug requests; the default value ends debugging.
    fn set_debug(&mut self, debug: &DebugControl) -> Result<(), Error>;

    /// Translates a guest-virtual address by the processor's present page tables, as a data read of the present
    /// privilege would, without side effects. `None` where that read would fault.
    fn translate(&mut self, address: u64) -> Result<Option<u64>, Error>;

    /// What the backend counted of this processor, in sentences for people; `None` where it counts nothing.
    fn statistics(&self) -> Option<String> {
        None
    }

    /// The handle through which other threads reach this processor.
    fn handle(&self) -> Arc<dyn VcpuHandle>;
}

/// What other threads may do to a vCPU, at any time.
pub trait VcpuHandle: Send + Sync {
    /// Makes the present or else the next [`Vcpu::run`] return [`Exit::Kicked`] soon. Cheap; kicks do not add up.
    fn kick(&self);

    /// Sets the level of one of the processor's own interrupt inputs, where they are not in the backend's controller.
    /// riscv64: the bit number in `mip` (3 MSIP, 7 MTIP, 9 SEIP, 11 MEIP). x86-64: 0 is INTR. Others are ignored.
    fn set_interrupt(&self, input: u32, level: bool);

    /// Delivers a non-maskable interrupt; an error where the architecture has none.
    fn inject_nmi(&self) -> Result<(), Error>;

    /// x86-64: a system-management interrupt, which the processor takes at the next instruction boundary outside
    /// system-management mode. Where [`Capabilities::system_management`] is false it does nothing.
    fn inject_smi(&self) {}

    /// x86-64, without a controller in the backend: an INIT signal. The processor takes the state of SDM volume 3, table
    /// 10-1, at the next instruction boundary; the bootstrap processor then starts at its reset vector, any other one waits
    /// for [`inject_start_up`](VcpuHandle::inject_start_up). Elsewhere it does nothing.
    fn inject_init(&self) {}

    /// x86-64, without a controller in the backend: a start-up signal (SIPI). A processor that waits for one starts in real
    /// mode at physical address `vector << 12`; another ignores it.
    fn inject_start_up(&self, vector: u8) {
        let _ = vector;
    }

    /// True while the processor waits for an interrupt inside [`Vcpu::run`].
    fn is_halted(&self) -> bool;
}

/// Why [`Vcpu::run`] returned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// [`VcpuHandle::kick`] was called. The state is that between two instructions.
    Kicked,
    /// A request of [`DebugControl`] was met.
    Debug(DebugEvent),
    /// The processor shut down (x86-64: triple fault). It stays so until its state is set.
    Shutdown,
    /// The backend cannot go on; the sentence says why.
    InternalError(String),
}

/// What happened under debug control.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DebugEvent {
    /// One instruction was executed, or its exception or a pending interrupt was taken instead.
    SingleStep,
    /// The processor is about to execute the instruction at this breakpoint address.
    Breakpoint(u64),
    /// The last instruction accessed memory watched from this address on.
    Watchpoint(u64),
}

/// Everything a debugger asks of one vCPU at a time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DebugControl {
    /// Return after each instruction.
    pub single_step: bool,
    /// Guest-virtual addresses at which to stop before execution. A run that begins at one executes it first.
    pub breakpoints: Vec<u64>,
    /// Memory to watch.
    pub watchpoints: Vec<Watchpoint>,
}

/// Guest-virtual memory whose access stops the vCPU after the accessing instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watchpoint {
    /// First byte; KVM wants it aligned to `length`.
    pub address: u64,
    /// Length in bytes; 1, 2, 4 or 8.
    pub length: u64,
    /// Which accesses stop.
    pub access: WatchAccess,
}

/// Which accesses a [`Watchpoint`] stops at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchAccess {
    /// Writes.
    Write,
    /// Reads and writes. (x86 hardware has no read-only watchpoints.)
    ReadWrite,
}

/// Why an accelerator could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host cannot offer this backend.
    #[error("accelerator {name} is not usable here: {reason}")]
    Unavailable {
        /// The name that `-accel` takes.
        name: &'static str,
        /// What is missing.
        reason: String,
    },
    /// The backend lacks a capability.
    #[error("accelerator {name} does not support {what}")]
    Unsupported {
        /// The name that `-accel` takes.
        name: &'static str,
        /// What was asked for, as a noun.
        what: &'static str,
    },
    /// A memory slot was refused.
    #[error("guest memory at {address:#x} (length {length:#x}) {problem}")]
    Memory {
        /// Guest-physical start.
        address: u64,
        /// Length in bytes.
        length: u64,
        /// What is wrong with it, as a verb phrase.
        problem: &'static str,
    },
    /// A processor state was refused.
    #[error("the processor state cannot be loaded: {0}")]
    State(String),
    /// A call into the host's kernel failed.
    #[error("{call} failed: {source}")]
    Host {
        /// The call.
        call: &'static str,
        /// The kernel's answer.
        source: std::io::Error,
    },
}
