//! The run loop of a vCPU.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use kvm_bindings::*;
use kvm_ioctls::VcpuFd;

use std::os::fd::AsRawFd;

use super::blocking::BlockingStatistic;
use super::debug::Debug;
use super::handle::{Handle, Wake, unblock_kick_signal};
use super::interpreter::{Carried, Interpreter};
use super::registers;
use super::run_page::RunPage;
use super::translate::Paging;
use super::vm::{Vm, host_error};
use crate::state::CpuState;
use crate::state::x86_64::{Activity, InterruptShadow, efer, rflags};
use crate::{AddressSpace, DebugControl, DebugEvent, Error, Exit, IoBus, Vcpu, VcpuHandle};

vmm_sys_util::ioctl_io_nr!(KVM_RUN, KVMIO, 0x80);
vmm_sys_util::ioctl_iow_nr!(KVM_INTERRUPT, KVMIO, 0x86, kvm_interrupt);

/// Longest x86 instruction, bytes.
const LONGEST_INSTRUCTION: u64 = 15;

/// DR6: the exception is that of single-stepping.
const DR6_SINGLE_STEP: u64 = 1 << 14;

/// Model-specific registers that configure AMD's processors and that other backends may hold for the guest's sake: KVM keeps
/// most of them to itself. They have no effect on what instructions do.
const AMD_CONFIGURATION: std::ops::RangeInclusive<u32> = 0xc001_0000..=0xc001_ffff;

/// A virtual processor under KVM.
pub(super) struct KvmVcpu {
    fd: VcpuFd,
    handle: Arc<Handle>,
    /// KVM's local APIC decides on halting, interrupts and start-up.
    in_kernel_controller: bool,
    /// What the processor does instead of executing, where KVM does not keep that: [`Activity::Running`] if nothing.
    activity: Activity,
    debug: Debug,
    /// The present run began at a breakpoint, and its first instruction is being stepped over.
    passing_breakpoint: bool,
    /// A device access of an instruction that is stepped was served, and KVM has yet to complete the instruction.
    completing_step: bool,
    /// Model-specific registers before the guest ran.
    msrs_at_reset: BTreeMap<u32, u64>,
    /// Registers of [`AMD_CONFIGURATION`] that the last state had and KVM has not.
    foreign_msrs: BTreeMap<u32, u64>,
    index: u32,
    /// For the instructions that KVM cannot emulate, once there was one.
    interpreter: Option<Interpreter>,
    /// Last: it must outlive `fd`, as guest memory is unmapped with it.
    vm: Arc<Vm>,
}

impl KvmVcpu {
    pub(super) fn new(vm: Arc<Vm>, fd: VcpuFd, index: u32, run_size: usize) -> Result<KvmVcpu, Error> {
        let in_kernel_controller = vm.in_kernel_controller.load(Ordering::Acquire);
        let page = RunPage::map(fd.as_raw_fd(), run_size)?;
        let blocking = if in_kernel_controller { BlockingStatistic::find(&fd) } else { None };
        let msrs_at_reset = registers::read_existing_msrs(&fd, vm.msr_numbers(&fd)?)?;
        // Nobody can wake the others without a local APIC but by loading a state.
        let activity = if index == 0 || in_kernel_controller { Activity::Running } else { Activity::WaitForSipi };
        Ok(KvmVcpu {
            handle: Arc::new(Handle::new(page, blocking)),
            in_kernel_controller,
            activity,
            debug: Debug::default(),
            passing_breakpoint: false,
            completing_step: false,
            msrs_at_reset,
            foreign_msrs: BTreeMap::new(),
            index,
            interpreter: None,
            fd,
            vm,
        })
    }

    /// What is to be done before an entry; an exit where there is none.
    fn prepare_entry(&mut self, io: &dyn IoBus) -> Option<Exit> {
        match self.activity {
            Activity::Shutdown => return Some(Exit::Shutdown),
            Activity::Halted | Activity::WaitForSipi => {
                // SAFETY: on the vCPU's thread, outside KVM_RUN.
                let interrupts = unsafe { self.handle.page().interrupt_flag() };
                if self.handle.wait(self.activity == Activity::Halted, interrupts) == Wake::Kick {
                    return Some(Exit::Kicked);
                }
                self.activity = Activity::Running;
            }
            Activity::Running | Activity::SipiReceived => {}
        }
        if self.completing_step {
            // KVM completes the instruction and returns at once; the requests wait until the step is reported.
            self.handle.page().set_immediate_exit(true);
            return None;
        }
        let pending = self.handle.take();
        if pending.nmi
            && let Err(error) = self.fd.nmi()
        {
            return Some(Exit::InternalError(format!("KVM_NMI failed: {error}")));
        }
        if self.in_kernel_controller {
            return None;
        }
        // SAFETY: on the vCPU's thread, outside KVM_RUN.
        let ready = unsafe { self.handle.page().ready_for_interrupt() };
        if pending.interrupt
            && ready
            && let Some(vector) = io.acknowledge_interrupt()
        {
            let request = kvm_interrupt { irq: u32::from(vector) };
            // SAFETY: the kernel reads one `kvm_interrupt`, which outlives the call.
            if unsafe { vmm_sys_util::ioctl::ioctl_with_ref(&self.fd, KVM_INTERRUPT(), &request) } != 0 {
                let error = std::io::Error::last_os_error();
                return Some(Exit::InternalError(format!("KVM_INTERRUPT with vector {vector:#x} failed: {error}")));
            }
        }
        // Asked again, as the acknowledgement changes it: a controller with nothing more to say has lowered INTR.
        let wants_more = self.handle.interrupt();
        // SAFETY: on the vCPU's thread, outside KVM_RUN.
        unsafe { self.handle.page().request_interrupt_window(wants_more) };
        None
    }

    /// Enters the guest once and serves what it left for; an exit where that is for the caller.
    fn enter(&mut self, io: &dyn IoBus) -> Option<Exit> {
        // SAFETY: the call takes no argument; what it writes is read through `RunPage` only.
        let result = unsafe { vmm_sys_util::ioctl::ioctl(&self.fd, KVM_RUN()) };
        let completed_step = std::mem::take(&mut self.completing_step);
        if result != 0 {
            let error = std::io::Error::last_os_error();
            return match error.raw_os_error() {
                // KVM does not report the step of an instruction that left for a device write.
                Some(libc::EINTR) if completed_step => self.stepped(DebugEvent::SingleStep),
                Some(libc::EINTR) => self.handle.take_kick().then_some(Exit::Kicked),
                // A processor that waited for its start-up IPI was woken.
                Some(libc::EAGAIN) => None,
                _ => Some(Exit::InternalError(format!("KVM_RUN failed {}: {error}", self.place()))),
            };
        }
        let handle = self.handle.clone();
        let page = handle.page();
        // SAFETY: on the vCPU's thread, outside KVM_RUN. So are all accesses to the page below, each to the member of the
        // union that the exit reason selects.
        let reason = unsafe { page.exit_reason() };
        match reason {
            KVM_EXIT_IO => {
                // SAFETY: as above; the slice is gone before the next entry.
                match unsafe { page.port_access() } {
                    Some(access) => serve_port(io, access.port, access.width, access.input, access.data),
                    None => return Some(Exit::InternalError("KVM describes a port access without data".into())),
                }
                self.completing_step = self.steps();
                None
            }
            KVM_EXIT_MMIO => {
                // SAFETY: as above; the slice is gone before the next entry.
                let access = unsafe { page.memory_access() };
                serve_memory(io, access.address, access.write, access.data);
                self.completing_step = self.steps();
                None
            }
            KVM_EXIT_HLT => {
                self.activity = Activity::Halted;
                if self.steps() { self.stepped(DebugEvent::SingleStep) } else { None }
            }
            KVM_EXIT_IRQ_WINDOW_OPEN | KVM_EXIT_INTR | KVM_EXIT_SET_TPR | KVM_EXIT_NMI => None,
            KVM_EXIT_DEBUG => {
                // SAFETY: as above.
                let exit = unsafe { page.debug() };
                match self.debug.hit(&exit) {
                    Some(event) => self.stepped(event),
                    None if self.steps() => self.stepped(DebugEvent::SingleStep),
                    None => self.return_to_guest(&exit),
                }
            }
            KVM_EXIT_SHUTDOWN => {
                self.activity = Activity::Shutdown;
                Some(Exit::Shutdown)
            }
            KVM_EXIT_FAIL_ENTRY => {
                // SAFETY: as above.
                let reason = unsafe { page.entry_failure() };
                Some(Exit::InternalError(format!(
                    "the processor refuses the guest's state (reason {reason:#x}) {}",
                    self.place()
                )))
            }
            KVM_EXIT_INTERNAL_ERROR => {
                // SAFETY: as above.
                let failure = unsafe { page.internal_error() };
                if failure.suberror == KVM_INTERNAL_ERROR_EMULATION {
                    match self.carry_out(io) {
                        Ok(Carried::Out(_)) if self.steps() => return self.stepped(DebugEvent::SingleStep),
                        Ok(Carried::Out(_)) => return None,
                        Ok(Carried::ShutDown) => {
                            self.activity = Activity::Shutdown;
                            return Some(Exit::Shutdown);
                        }
                        Ok(Carried::Unknown) => {}
                        Err(error) => tracing::error!("the interpreter cannot help KVM: {error}"),
                    }
                }
                Some(Exit::InternalError(self.describe(failure.suberror, failure.instruction)))
            }
            reason => {
                Some(Exit::InternalError(format!("KVM left the guest for unknown reason {reason} {}", self.place())))
            }
        }
    }

    /// Has the interpreter carry out the instruction that KVM could not emulate.
    fn carry_out(&mut self, io: &dyn IoBus) -> Result<Carried, Error> {
        let before = registers::read(&self.vm, &self.fd)?;
        // Kept mapped meanwhile; devices may change the machine's memory.
        let memory = self.vm.slots.lock().all();
        let interpreter = self.interpreter.get_or_insert_with(|| Interpreter::new(self.index));
        let carried = interpreter.carry_out(&before, &memory, io)?;
        if let Carried::Out(after) = &carried {
            registers::write_after_instruction(&self.vm, &self.fd, &before, after)?;
            let count = self.vm.interpreted.fetch_add(1, Ordering::Relaxed) + 1;
            tracing::debug!(
                "vCPU {}: KVM could not emulate the instruction at RIP {:#x}; the interpreter did ({count} so far)",
                self.index,
                before.rip
            );
        }
        Ok(carried)
    }

    /// Where the guest is, for messages.
    fn place(&self) -> String {
        match (self.fd.get_regs(), self.fd.get_sregs()) {
            (Ok(regs), Ok(sregs)) => {
                format!("at RIP {:#x} (CS {:#x}, CR0 {:#x})", regs.rip, sregs.cs.selector, sregs.cr0)
            }
            _ => "at an unknown place".into(),
        }
    }

    fn describe(&self, suberror: u32, instruction: Vec<u8>) -> String {
        let instruction = if instruction.is_empty() { self.fetch() } else { instruction };
        let bytes: Vec<String> = instruction.iter().map(|byte| format!("{byte:02x}")).collect();
        let bytes = if bytes.is_empty() { "that cannot be read".into() } else { bytes.join(" ") };
        let what = match suberror {
            KVM_INTERNAL_ERROR_EMULATION => "cannot emulate the instruction",
            KVM_INTERNAL_ERROR_SIMUL_EX => "met simultaneous exceptions",
            KVM_INTERNAL_ERROR_DELIVERY_EV => "failed to deliver an event",
            KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON => "left the guest unexpectedly",
            _ => "has an internal error",
        };
        format!("KVM {what} {}: instruction bytes {bytes}", self.place())
    }

    /// The bytes of the present instruction, as many as can be read of its greatest length.
    fn fetch(&self) -> Vec<u8> {
        let Ok(pc) = self.program_counter() else { return Vec::new() };
        let byte_at = |offset: u64| {
            let physical = self.translate_linear(pc.wrapping_add(offset)).ok()??;
            let mut byte = [0];
            self.vm.slots.lock().read(physical, &mut byte).then_some(byte[0])
        };
        (0..LONGEST_INSTRUCTION).map_while(byte_at).collect()
    }

    fn program_counter(&self) -> Result<u64, Error> {
        let regs = self.fd.get_regs().map_err(host_error("KVM_GET_REGS"))?;
        let sregs = self.fd.get_sregs().map_err(host_error("KVM_GET_SREGS"))?;
        let is_64_bit = sregs.efer & efer::LMA != 0 && sregs.cs.l != 0;
        Ok(if is_64_bit { regs.rip } else { sregs.cs.base.wrapping_add(regs.rip) & 0xffff_ffff })
    }

    fn translate_linear(&self, address: u64) -> Result<Option<u64>, Error> {
        let sregs = self.fd.get_sregs().map_err(host_error("KVM_GET_SREGS"))?;
        let paging =
            Paging { cr0: sregs.cr0, cr3: sregs.cr3, cr4: sregs.cr4, efer: sregs.efer, privilege: sregs.ss.dpl & 3 };
        let slots = self.vm.slots.lock();
        Ok(paging.translate(address, |physical, data| slots.read(physical, data)))
    }

    /// KVM executes one instruction at a time.
    fn steps(&self) -> bool {
        self.debug.single_step() || self.passing_breakpoint
    }

    /// Answers a debug event: that of passing a breakpoint is nobody's but ours.
    fn stepped(&mut self, event: DebugEvent) -> Option<Exit> {
        if let Err(error) = self.end_passing() {
            return Some(Exit::InternalError(error.to_string()));
        }
        match event {
            DebugEvent::SingleStep if !self.debug.single_step() => None,
            event => Some(Exit::Debug(event)),
        }
    }

    /// Gives the guest a debug exception that nobody here asked for: it steps itself. (While breakpoints are set, KVM
    /// passes on all debug exceptions.)
    fn return_to_guest(&mut self, exit: &kvm_debug_exit_arch) -> Option<Exit> {
        let inject = || {
            let mut registers = self.fd.get_debug_regs().map_err(host_error("KVM_GET_DEBUGREGS"))?;
            registers.dr6 |= exit.dr6 & DR6_SINGLE_STEP;
            self.fd.set_debug_regs(&registers).map_err(host_error("KVM_SET_DEBUGREGS"))?;
            let mut request = *self.debug.programmed();
            request.control |= KVM_GUESTDBG_INJECT_DB;
            self.fd.set_guest_debug(&request).map_err(host_error("KVM_SET_GUEST_DEBUG"))
        };
        inject().err().map(|error: Error| Exit::InternalError(error.to_string()))
    }

    /// Lets a run that begins at a breakpoint execute that instruction: it is stepped with breakpoints off. (RFLAGS.RF
    /// is made for this, but KVM's instruction emulator does not look at it.)
    fn begin_passing(&mut self) -> Result<(), Error> {
        if !self.debug.has_breakpoint(None) || !self.debug.has_breakpoint(Some(self.program_counter()?)) {
            return Ok(());
        }
        self.fd.set_guest_debug(&self.debug.passing_breakpoints()).map_err(host_error("KVM_SET_GUEST_DEBUG"))?;
        self.passing_breakpoint = true;
        Ok(())
    }

    fn end_passing(&mut self) -> Result<(), Error> {
        if !std::mem::take(&mut self.passing_breakpoint) {
            return Ok(());
        }
        self.fd.set_guest_debug(self.debug.programmed()).map_err(host_error("KVM_SET_GUEST_DEBUG"))
    }
}

/// Serves a port access: a string instruction's elements come together and go to the device one by one.
fn serve_port(io: &dyn IoBus, port: u16, width: usize, input: bool, data: &mut [u8]) {
    for element in data.chunks_exact_mut(width) {
        if input {
            if io.read(AddressSpace::Port, u64::from(port), element).is_err() {
                element.fill(0xff);
            }
        } else {
            // A write that nobody answers is lost.
            let _ = io.write(AddressSpace::Port, u64::from(port), element);
        }
    }
}

/// Serves a memory access, in pieces of 1, 2, 4 or 8 bytes: KVM's may have other lengths where an access crosses a page.
fn serve_memory(io: &dyn IoBus, address: u64, write: bool, data: &mut [u8]) {
    let mut rest = data;
    let mut address = address;
    while !rest.is_empty() {
        let length = 1 << rest.len().ilog2().min(3);
        let (piece, after) = rest.split_at_mut(length);
        if write {
            // A write that nobody answers is lost.
            let _ = io.write(AddressSpace::Memory, address, piece);
        } else if io.read(AddressSpace::Memory, address, piece).is_err() {
            piece.fill(0xff);
        }
        rest = after;
        address = address.wrapping_add(length as u64);
    }
}

impl Vcpu for KvmVcpu {
    fn run(&mut self, io: &dyn IoBus) -> Exit {
        unblock_kick_signal();
        if let Err(error) = self.begin_passing() {
            return Exit::InternalError(error.to_string());
        }
        let handle = self.handle.clone();
        let inside = handle.enter();
        let exit = loop {
            if let Some(exit) = self.prepare_entry(io) {
                break exit;
            }
            if let Some(exit) = self.enter(io) {
                break exit;
            }
        };
        drop(inside);
        match self.end_passing() {
            Ok(()) => exit,
            Err(error) => Exit::InternalError(error.to_string()),
        }
    }

    fn state(&mut self) -> Result<CpuState, Error> {
        // One that was requested since the last run is part of the state.
        if self.handle.take_nmi() {
            self.fd.nmi().map_err(host_error("KVM_NMI"))?;
        }
        let mut state = registers::read(&self.vm, &self.fd)?;
        state.msrs.extend(self.foreign_msrs.iter());
        if self.activity != Activity::Running {
            state.activity = self.activity;
        }
        Ok(CpuState::X86_64(Box::new(state)))
    }

    fn set_state(&mut self, state: &CpuState) -> Result<(), Error> {
        let CpuState::X86_64(state) = state else {
            return Err(Error::State("it is that of another architecture than x86_64".into()));
        };
        let known = self.vm.msr_numbers(&self.fd)?;
        let is_foreign = |number: &u32| AMD_CONFIGURATION.contains(number) && !known.contains(number);
        let foreign: BTreeMap<u32, u64> = state
            .msrs
            .iter()
            .filter(|(number, _)| is_foreign(number))
            .map(|(number, value)| (*number, *value))
            .collect();
        if foreign.is_empty() {
            registers::write(&self.vm, &self.fd, state, &self.msrs_at_reset)?;
        } else {
            let mut own = state.clone();
            own.msrs.retain(|number, _| !foreign.contains_key(number));
            registers::write(&self.vm, &self.fd, &own, &self.msrs_at_reset)?;
        }
        self.foreign_msrs = foreign;
        self.activity = match state.activity {
            Activity::Shutdown => Activity::Shutdown,
            activity if !self.in_kernel_controller => activity,
            _ => Activity::Running,
        };
        // One that was requested before belonged to the state that is gone.
        self.handle.take_nmi();
        let interrupts_on = state.rflags & rflags::IF != 0;
        let events = &state.events;
        let nothing_under_way = events.exception.is_none() && events.interrupt.is_none() && !events.nmi_injected;
        let ready = interrupts_on && nothing_under_way && events.shadow == InterruptShadow::None;
        // SAFETY: on the vCPU's thread, outside KVM_RUN.
        unsafe { self.handle.page().state_loaded(state.cr8, interrupts_on, ready) };
        Ok(())
    }

    fn set_debug(&mut self, request: &DebugControl) -> Result<(), Error> {
        let debug = Debug::program(request)?;
        self.fd.set_guest_debug(debug.programmed()).map_err(host_error("KVM_SET_GUEST_DEBUG"))?;
        self.debug = debug;
        Ok(())
    }

    fn translate(&mut self, address: u64) -> Result<Option<u64>, Error> {
        self.translate_linear(address)
    }

    fn handle(&self) -> Arc<dyn VcpuHandle> {
        self.handle.clone()
    }
}
