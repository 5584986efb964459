//! A virtual machine under KVM: what its processors share.

use std::collections::BTreeMap;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use kvm_bindings::{
    CpuId, KVM_CAP_EXCEPTION_PAYLOAD as EXCEPTION_PAYLOAD, KVM_PIT_SPEAKER_DUMMY, kvm_enable_cap, kvm_ioeventfd,
    kvm_msi, kvm_pit_config,
};
use kvm_ioctls::{Cap, VmFd};
use parking_lot::Mutex;
use vmm_sys_util::eventfd::EventFd;

use translate::x86_64::cpuid::{CpuModel, Placement};

use super::handle::install_kick_signal;
use super::memory::Slots;
use super::vcpu::KvmVcpu;
use super::{NAME, controllers, cpuid, registers, xsave};
use crate::memory::MemorySlot;
use crate::state::ControllerState;
use crate::state::x86_64::msr;
use crate::{Accelerator, AddressSpace, Architecture, Capabilities, Error, IoEvent, Msi, Vcpu};

vmm_sys_util::ioctl_iow_nr!(KVM_IOEVENTFD, kvm_bindings::KVMIO, 0x79, kvm_ioeventfd);

/// Three pages that KVM needs on processors without unrestricted guests, and one before them for its identity map; in
/// the firmware's range below 4 GiB, where no machine has RAM.
const TSS_ADDRESS: usize = 0xfffb_d000;
const IDENTITY_MAP_ADDRESS: u64 = 0xfffb_c000;

/// Debug address registers of an x86 processor.
const DEBUG_REGISTERS: usize = 4;

/// A virtual machine under KVM.
pub struct Kvm {
    vm: Arc<Vm>,
    capabilities: Capabilities,
    /// What the processors are to be, and how many there will be; else they are all that the host has.
    model: Option<(CpuModel, u32)>,
}

/// What the accelerator and its vCPUs share. It lives as long as either does, as guest memory must not be unmapped
/// from the host while a vCPU may run.
pub(super) struct Vm {
    pub(super) fd: VmFd,
    // Lock order: alone.
    pub(super) slots: Mutex<Slots>,
    /// The interrupt controllers, local APICs included, are KVM's.
    pub(super) in_kernel_controller: AtomicBool,
    pub(super) cpuid: CpuId,
    pub(super) exception_payload: bool,
    pub(super) smm: bool,
    pub(super) xsave_layout: xsave::Layout,
    /// Numbers of the model-specific registers that a state holds.
    pub(super) msr_numbers: OnceLock<Vec<u32>>,
    /// Candidates for the above.
    pub(super) msr_candidates: Vec<u32>,
    pub(super) tsc_deadline_timer: bool,
    /// See [`TimeStamp::start`].
    time_stamp_start: u64,
    /// How many instructions the interpreter carried out, as KVM could not emulate them.
    pub(super) interpreted: AtomicU64,
    run_size: usize,
}

/// Turns an error of a call into KVM into one of ours.
pub(super) fn host_error(call: &'static str) -> impl Fn(kvm_ioctls::Error) -> Error {
    move |error| Error::Host { call, source: std::io::Error::from_raw_os_error(error.errno()) }
}

impl Kvm {
    /// As [`Kvm::open`], for a machine of `count` processors of a model that other backends have as well. The result has as
    /// many of `model`'s features as this host supports, and its rate of the time stamp counter.
    pub fn open_with_model(architecture: Architecture, model: CpuModel, count: u32) -> Result<(Kvm, CpuModel), Error> {
        let mut kvm = Kvm::open(architecture)?;
        let mut model = model;
        cpuid::restrict(&mut model, &kvm.vm.cpuid, kvm.vm.tsc_deadline_timer);
        model.time_stamp_khz = kvm.capabilities.time_stamp_khz;
        model.time_stamp_start = kvm.vm.time_stamp_start;
        kvm.model = Some((model.clone(), count));
        Ok((kvm, model))
    }

    /// Creates a virtual machine for guests of `architecture`.
    ///
    /// # Errors
    /// [`Error::Unavailable`] where the host has no KVM, this user may not use it, or it runs another architecture.
    pub fn open(architecture: Architecture) -> Result<Kvm, Error> {
        let unavailable = |reason: String| Error::Unavailable { name: NAME, reason };
        if architecture != Architecture::X86_64 {
            return Err(unavailable(format!(
                "this host's processor is x86_64 and KVM runs no other guests, such as {}",
                architecture.name()
            )));
        }
        let system = kvm_ioctls::Kvm::new().map_err(|error| {
            unavailable(match error.errno() {
                libc::ENOENT => "there is no /dev/kvm: the processor's virtualisation is absent or switched off, or \
                                 the kernel's kvm module is not loaded"
                    .into(),
                libc::EACCES | libc::EPERM => {
                    "no permission to open /dev/kvm: membership of its group (kvm, on most systems) is needed".into()
                }
                _ => format!("/dev/kvm cannot be opened: {error}"),
            })
        })?;
        if system.get_api_version() != 12 {
            return Err(unavailable(format!("KVM's interface has version {}, not 12", system.get_api_version())));
        }
        for (capability, name) in [
            (Cap::UserMemory, "memory slots"),
            (Cap::ImmediateExit, "immediate exits (Linux 4.12)"),
            (Cap::SetGuestDebug, "guest debugging"),
            (Cap::VcpuEvents, "access to pending events"),
            (Cap::Xsave, "access to XSAVE state"),
            (Cap::Debugregs, "access to debug registers"),
            (Cap::MpState, "access to the activity of a processor"),
        ] {
            if !system.check_extension(capability) {
                return Err(unavailable(format!("the host's KVM lacks {name}")));
            }
        }
        install_kick_signal()?;
        let fd =
            create_vm(&system).map_err(|error| unavailable(format!("KVM refuses a new virtual machine: {error}")))?;
        fd.set_identity_map_address(IDENTITY_MAP_ADDRESS).map_err(host_error("KVM_SET_IDENTITY_MAP_ADDR"))?;
        fd.set_tss_address(TSS_ADDRESS).map_err(host_error("KVM_SET_TSS_ADDR"))?;
        let exception_payload = fd.check_extension_raw(EXCEPTION_PAYLOAD.into()) > 0 && {
            let request = kvm_enable_cap { cap: EXCEPTION_PAYLOAD, args: [1, 0, 0, 0], ..Default::default() };
            fd.enable_cap(&request).is_ok()
        };
        let cpuid = system
            .get_supported_cpuid(kvm_bindings::KVM_MAX_CPUID_ENTRIES)
            .map_err(host_error("KVM_GET_SUPPORTED_CPUID"))?;
        let time_stamp = time_stamp(&system)?;
        let capabilities = Capabilities {
            architecture,
            in_kernel_interrupt_controller: system.check_extension(Cap::Irqchip) && system.check_extension(Cap::Pit2),
            single_step: true,
            breakpoints: DEBUG_REGISTERS,
            watchpoints: DEBUG_REGISTERS,
            dirty_log: true,
            most_vcpus: u32::try_from(system.get_max_vcpus()).unwrap_or(u32::MAX),
            // KVM has it; the memory for it would be a second address space (KVM_CAP_MULTI_ADDRESS_SPACE), which is not built.
            system_management: false,
            time_stamp_khz: time_stamp.khz,
        };
        let vm = Vm {
            slots: Mutex::new(Slots::new(u32::try_from(system.get_nr_memslots()).unwrap_or(u32::MAX))),
            in_kernel_controller: AtomicBool::new(false),
            exception_payload,
            smm: fd.check_extension(Cap::X86Smm),
            xsave_layout: xsave::Layout::from_cpuid(&cpuid),
            msr_numbers: OnceLock::new(),
            msr_candidates: registers::msr_candidates(&system)?,
            tsc_deadline_timer: system.check_extension(Cap::TscDeadlineTimer),
            interpreted: AtomicU64::new(0),
            time_stamp_start: time_stamp.start,
            run_size: fd.run_size(),
            cpuid,
            fd,
        };
        Ok(Kvm { vm: Arc::new(vm), capabilities, model: None })
    }

    fn io_event(&self, event: IoEvent, fd: &EventFd, flags: u32) -> Result<(), Error> {
        let mut flags = flags;
        if event.space == AddressSpace::Port {
            flags |= 1 << kvm_bindings::kvm_ioeventfd_flag_nr_pio;
        }
        if event.value.is_some() {
            if event.width == 0 {
                return Err(Error::Unsupported { name: NAME, what: "an I/O event on a value of any width" });
            }
            flags |= 1 << kvm_bindings::kvm_ioeventfd_flag_nr_datamatch;
        }
        let request = kvm_ioeventfd {
            datamatch: event.value.unwrap_or(0),
            addr: event.address,
            len: event.width,
            fd: fd.as_raw_fd(),
            flags,
            ..Default::default()
        };
        // SAFETY: the kernel reads one `kvm_ioeventfd`, which outlives the call.
        let result = unsafe { vmm_sys_util::ioctl::ioctl_with_ref(&self.vm.fd, KVM_IOEVENTFD(), &request) };
        if result == 0 {
            Ok(())
        } else {
            Err(Error::Host { call: "KVM_IOEVENTFD", source: std::io::Error::last_os_error() })
        }
    }

    /// Interrupt lines and events reach nothing without the controllers.
    fn need_controller(&self) -> Result<(), Error> {
        if self.vm.in_kernel_controller.load(Ordering::Acquire) {
            Ok(())
        } else {
            Err(Error::Unsupported { name: NAME, what: "the use of its interrupt controller before that is created" })
        }
    }
}

fn create_vm(system: &kvm_ioctls::Kvm) -> Result<VmFd, kvm_ioctls::Error> {
    loop {
        match system.create_vm() {
            // A signal came; KVM does not restart this call by itself.
            Err(error) if error.errno() == libc::EINTR => {}
            result => return result,
        }
    }
}

/// What guests' time stamp counters are like.
struct TimeStamp {
    khz: u32,
    /// The value that a new processor's has, where KVM ignores what is written to it, as some KVMs inside virtual machines do;
    /// otherwise 0.
    start: u64,
}

/// Older kernels tell it of a vCPU only, and this is needed before there is one.
fn time_stamp(system: &kvm_ioctls::Kvm) -> Result<TimeStamp, Error> {
    let probe = create_vm(system).map_err(host_error("KVM_CREATE_VM"))?;
    let vcpu = probe.create_vcpu(0).map_err(host_error("KVM_CREATE_VCPU"))?;
    let khz = vcpu.get_tsc_khz().map_err(host_error("KVM_GET_TSC_KHZ"))?;
    let now = registers::read_existing_msrs(&vcpu, &[msr::TSC])?.get(&msr::TSC).copied().unwrap_or(0);
    // A second is more than the few calls since its creation take.
    let begins_at_zero = now < u64::from(khz) * 1000;
    Ok(TimeStamp { khz, start: if begins_at_zero { 0 } else { now } })
}

impl Accelerator for Kvm {
    fn name(&self) -> &'static str {
        NAME
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn map_memory(&self, slot: MemorySlot) -> Result<(), Error> {
        self.vm.slots.lock().map(&self.vm.fd, slot)
    }

    fn unmap_memory(&self, address: u64) -> Result<(), Error> {
        self.vm.slots.lock().unmap(&self.vm.fd, address)
    }

    fn set_dirty_logging(&self, address: u64, enabled: bool) -> Result<(), Error> {
        self.vm.slots.lock().set_logging(&self.vm.fd, address, enabled)
    }

    fn dirty_log(&self, address: u64) -> Result<Vec<u64>, Error> {
        self.vm.slots.lock().dirty_log(&self.vm.fd, address)
    }

    fn create_interrupt_controller(&self) -> Result<(), Error> {
        if !self.capabilities.in_kernel_interrupt_controller {
            return Err(Error::Unsupported { name: NAME, what: "an interrupt controller on this host" });
        }
        self.vm.fd.create_irq_chip().map_err(host_error("KVM_CREATE_IRQCHIP"))?;
        let pit = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() };
        self.vm.fd.create_pit2(pit).map_err(host_error("KVM_CREATE_PIT2"))?;
        self.vm.in_kernel_controller.store(true, Ordering::Release);
        Ok(())
    }

    fn interrupt_controller_state(&self) -> Result<ControllerState, Error> {
        self.need_controller()?;
        controllers::read(&self.vm.fd).map(|state| ControllerState::Pc(Box::new(state)))
    }

    fn set_interrupt_controller_state(&self, state: &ControllerState) -> Result<(), Error> {
        self.need_controller()?;
        let ControllerState::Pc(state) = state;
        controllers::write(&self.vm.fd, state)
    }

    fn set_interrupt_line(&self, line: u32, level: bool) -> Result<(), Error> {
        self.need_controller()?;
        self.vm.fd.set_irq_line(line, level).map_err(host_error("KVM_IRQ_LINE"))
    }

    fn signal_msi(&self, msi: Msi) -> Result<(), Error> {
        self.need_controller()?;
        let request = kvm_msi {
            address_lo: msi.address as u32,
            address_hi: (msi.address >> 32) as u32,
            data: msi.data,
            ..Default::default()
        };
        // Zero: the guest blocks the vector at present, and as on hardware the message is lost.
        self.vm.fd.signal_msi(request).map(|_delivered| ()).map_err(host_error("KVM_SIGNAL_MSI"))
    }

    fn register_io_event(&self, event: IoEvent, fd: &EventFd) -> Result<(), Error> {
        self.io_event(event, fd, 0)
    }

    fn unregister_io_event(&self, event: IoEvent, fd: &EventFd) -> Result<(), Error> {
        self.io_event(event, fd, 1 << kvm_bindings::kvm_ioeventfd_flag_nr_deassign)
    }

    fn register_interrupt_event(&self, line: u32, fd: &EventFd) -> Result<(), Error> {
        self.need_controller()?;
        self.vm.fd.register_irqfd(fd, line).map_err(host_error("KVM_IRQFD"))
    }

    fn unregister_interrupt_event(&self, line: u32, fd: &EventFd) -> Result<(), Error> {
        self.need_controller()?;
        self.vm.fd.unregister_irqfd(fd, line).map_err(host_error("KVM_IRQFD"))
    }

    fn interpreted_instructions(&self) -> u64 {
        self.vm.interpreted.load(Ordering::Relaxed)
    }

    fn create_vcpu(&self, index: u32) -> Result<Box<dyn Vcpu>, Error> {
        let fd = self.vm.fd.create_vcpu(u64::from(index)).map_err(host_error("KVM_CREATE_VCPU"))?;
        let in_kernel_controller = self.vm.in_kernel_controller.load(Ordering::Acquire);
        let deadline_timer = in_kernel_controller && self.vm.tsc_deadline_timer;
        let cpuid = match &self.model {
            Some((model, count)) => cpuid::of_model(model, Placement { id: index, count: *count })?,
            None => cpuid::for_vcpu(&self.vm.cpuid, index, in_kernel_controller, deadline_timer),
        };
        fd.set_cpuid2(&cpuid).map_err(host_error("KVM_SET_CPUID2"))?;
        let vcpu = KvmVcpu::new(self.vm.clone(), fd, index, self.vm.run_size)?;
        Ok(Box::new(vcpu))
    }
}

impl Vm {
    /// The model-specific registers that exist for this guest, found out with its first vCPU.
    pub(super) fn msr_numbers(&self, fd: &kvm_ioctls::VcpuFd) -> Result<&[u32], Error> {
        if let Some(numbers) = self.msr_numbers.get() {
            return Ok(numbers);
        }
        let found: BTreeMap<u32, u64> = registers::read_existing_msrs(fd, &self.msr_candidates)?;
        Ok(self.msr_numbers.get_or_init(|| found.into_keys().collect()))
    }
}
