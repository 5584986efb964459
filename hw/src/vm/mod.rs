//! A virtual machine: processors, memory and devices put together, and its life.
//!
//! [`Vm`] is all that the layers above need: QMP, the human monitor, the debugger and the command line talk to it and
//! to nothing below it. Every method may be called from any thread, several at once, except on a vCPU thread of the
//! same machine (a device's method) and, for those that change the run state, from a listener.
//!
//! ```text
//! let clock = VirtualClock::new();
//! let accelerator = /* opened with the clock */;
//! let vm = Vm::new(config, accelerator, clock)?;   // run state prelaunch
//! let _listener = vm.subscribe(|event| ...);
//! vm.cont()?;                                      // not with -S
//! std::process::exit(vm.wait_for_exit());
//! ```

mod control;
mod event;
mod physical;
mod run_state;
mod sleep;
mod switch;
mod vcpu_thread;

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak, mpsc};
use std::time::{Duration, Instant};

use accel::clock::VirtualClock;
use accel::memory::PAGE_SIZE;
use accel::state::CpuState;
use accel::{Accelerator, Architecture, DebugEvent, Vcpu, VcpuHandle};
use host::chardev::CharBackend;
use parking_lot::{Condvar, Mutex};

pub use event::{Cause, Event};
pub use run_state::RunState;

use crate::bus::{Bus, Effect};
use crate::device::Device;
use crate::interrupt::Taps;
use crate::load::LoadError;
use crate::local_apic::LocalApics;
use crate::machine::{self, Board, BuildError, Config, DeviceModel, MachineType, Parts};
use control::{Command, Message};
use vcpu_thread::VcpuThread;

/// Why a machine could not be built, or did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It could not be built.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The accelerator refused something.
    #[error(transparent)]
    Accelerator(#[from] accel::Error),
    /// A file could not be loaded again.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// `cont` in a run state that only a reset ends. The text is QEMU's, which clients know.
    #[error("Resetting the Virtual Machine is required")]
    NeedsReset,
    /// The machine has ended.
    #[error("the machine has ended")]
    Ended,
    /// There is no such processor.
    #[error("there is no CPU {index}; the machine has CPUs 0 to {last}")]
    NoSuchCpu {
        /// The number asked for.
        index: u32,
        /// The highest number.
        last: u32,
    },
    /// There is nothing to wake. The text is QEMU's, which clients know.
    #[error("Unable to wake up: guest is not in suspended state")]
    NotSuspended,
    /// The machine was not made to change its accelerator.
    #[error(
        "this machine stays on accelerator {accelerator}: what its processors told the guest of themselves at the start holds \
         for that one only; a machine started with -machine switchable=on can change"
    )]
    NotSwitchable {
        /// The one that it has.
        accelerator: &'static str,
    },
    /// An accelerator that the machine was not prepared for.
    #[error("this machine runs on the accelerators {known}, not on {name:?}")]
    NoSuchAccelerator {
        /// The name asked for.
        name: String,
        /// Those that there are.
        known: String,
    },
    /// Guest-virtual memory that is not mapped.
    #[error("no memory is mapped at the virtual address {0:#018x}")]
    NotMapped(u64),
}

/// One processor, as `query-cpus` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuInfo {
    /// Its index.
    pub index: u32,
    /// It waits for an interrupt.
    pub halted: bool,
    /// The host's id of its thread.
    pub thread_id: i32,
}

/// A listener's function.
type Listener = Arc<dyn Fn(&Event) + Send + Sync>;

/// What the threads of a machine share.
struct Core {
    accelerator: Arc<dyn Accelerator>,
    machine: &'static MachineType,
    clock: Arc<VirtualClock>,
    bus: Arc<Bus>,
    taps: Taps,
    board: Board,
    vcpus: Vec<VcpuThread>,
    /// States of the processors after an architectural reset.
    reset_states: Vec<CpuState>,
    backends: Vec<Arc<dyn CharBackend>>,
    disks: Arc<block::Graph>,
    no_reboot: bool,
    no_shutdown: bool,
    /// A [`RunState`]'s position in [`RunState::ALL`]. Only the control thread writes it.
    state: AtomicU8,
    quitting: AtomicBool,
    // Each of these is locked alone, and for a moment only.
    listeners: Mutex<Vec<(u64, Listener)>>,
    next_listener: AtomicU64,
    /// What a device access asked for and the control thread has not done yet.
    pending_effect: Mutex<Option<Effect>>,
    /// A device asked to wake the machine.
    wake_requested: AtomicBool,
    /// A device access changed the memory map, and the control thread has not seen to it yet.
    memory_map_changed: AtomicBool,
    /// An effect was requested since somebody waited for it last.
    effect_requested: AtomicBool,
    last_debug_event: Mutex<Option<(u32, DebugEvent)>>,
    last_internal_error: Mutex<Option<(u32, String)>>,
    exit_status: Mutex<Option<i32>>,
    exited: Condvar,
}

impl Core {
    fn state(&self) -> RunState {
        let position = usize::from(self.state.load(Ordering::Acquire));
        RunState::ALL.get(position).copied().unwrap_or(RunState::InternalError)
    }

    fn set_state(&self, state: RunState) {
        self.state.store(state as u8, Ordering::Release);
    }

    /// Calls all listeners, in the order in which they came.
    fn emit(&self, event: Event) {
        tracing::debug!("{}", event.name());
        let listeners: Vec<Listener> = self.listeners.lock().iter().map(|(_, listener)| listener.clone()).collect();
        for listener in listeners {
            listener(&event);
        }
    }

    /// Makes the accelerator map what devices say. No vCPU runs.
    fn apply_memory_map(&self) -> Result<(), accel::Error> {
        if let Some(shadow) = &self.board.shadow {
            shadow.apply(&*self.accelerator)?;
        }
        if let Some(smram) = &self.board.smram {
            smram.apply(&*self.accelerator)?;
        }
        Ok(())
    }

    /// Puts devices, memory images and processors into the state of power-on. No vCPU runs.
    fn initialise(&self) -> Result<(), Error> {
        self.initialise_with(true)
    }

    /// As [`Core::initialise`]; `memory` tells whether memory loses its content.
    fn initialise_with(&self, memory: bool) -> Result<(), Error> {
        for device in &self.board.devices {
            device.reset();
        }
        self.apply_memory_map()?;
        for image in self.board.images.iter().filter(|_| memory) {
            image.load(&self.board.physical)?;
        }
        for (vcpu, state) in self.vcpus.iter().zip(&self.reset_states) {
            let mut state = state.clone();
            match (&self.board.sleep, &mut state) {
                (Some(sleep), CpuState::X86_64(state)) if !memory && vcpu.index() == 0 => sleep.set_start(state),
                (_, state) => (self.board.start_state)(vcpu.index(), state),
            }
            if let (Some(local_apics), true) = (&self.board.local_apics, self.has_controllers_in_accelerator()) {
                // The state may be that of another accelerator, which has none.
                local_apics.save_into(vcpu.index(), &mut state);
            }
            vcpu.call(move |vcpu| vcpu.set_state(&state)).ok_or(Error::Ended)??;
        }
        Ok(())
    }

    fn has_controllers_in_accelerator(&self) -> bool {
        self.accelerator.capabilities().in_kernel_interrupt_controller
    }

    /// The local APICs, while they are devices of the machine.
    fn local_apics(&self) -> Option<&Arc<LocalApics>> {
        self.board.local_apics.as_ref().filter(|_| !self.has_controllers_in_accelerator())
    }

    /// The complete state of a processor, with that of its local APIC wherever that is.
    fn cpu_state(&self, vcpu: &VcpuThread) -> Result<CpuState, Error> {
        let mut state = vcpu.call(|vcpu| vcpu.state()).ok_or(Error::Ended)??;
        if let Some(local_apics) = self.local_apics() {
            local_apics.save_into(vcpu.index(), &mut state);
        }
        Ok(state)
    }

    /// Takes the local APICs over from processors' states, by index.
    fn load_local_apics(&self, states: &[CpuState]) {
        let Some(local_apics) = self.local_apics() else { return };
        (0..).zip(states).for_each(|(index, state)| local_apics.load_from(index, state));
    }

    /// Makes all vCPUs leave the guest soon and stay out until they are resumed.
    fn park_vcpus(&self) {
        for vcpu in &self.vcpus {
            vcpu.park();
        }
    }

    /// Takes the effect of a device access over from a vCPU thread.
    fn request_effect(&self, effect: Effect, commands: &mpsc::Sender<Message>) {
        self.effect_requested.store(true, Ordering::Release);
        if effect == Effect::Wake {
            // Of a sleeping machine, whose vCPUs do not run.
            if !self.wake_requested.swap(true, Ordering::AcqRel) {
                let _ = commands.send(Message { command: Command::Wake { by_clock: true }, reply: None });
            }
            return;
        }
        if effect == Effect::MemoryMap {
            // Always followed by a command: whoever changed the map is parked until that is carried out.
            self.memory_map_changed.store(true, Ordering::Release);
        } else {
            let mut pending = self.pending_effect.lock();
            if pending.is_some() {
                return;
            }
            *pending = Some(effect);
        }
        self.park_vcpus();
        // A machine that has ended needs no effects.
        let _ = commands.send(Message { command: Command::Effect, reply: None });
    }
}

/// A virtual machine. It ends when it is dropped.
pub struct Vm {
    core: Arc<Core>,
    commands: mpsc::Sender<Message>,
    control: Option<std::thread::JoinHandle<()>>,
    name: Option<String>,
    uuid: Option<uuid::Uuid>,
}

/// A listener, until it is dropped. See [`Vm::subscribe`].
pub struct Subscription {
    core: Weak<Core>,
    number: u64,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if let Some(core) = self.core.upgrade() {
            core.listeners.lock().retain(|(number, _)| *number != self.number);
        }
    }
}

impl Vm {
    /// Builds the machine that `config` describes, for the architecture that `accelerator` was opened for. `clock` is
    /// the one that the accelerator was opened with. The machine is in run state prelaunch; [`Vm::cont`] starts it.
    pub fn new(config: Config, accelerator: Arc<dyn Accelerator>, clock: Arc<VirtualClock>) -> Result<Vm, Error> {
        let architecture = accelerator.capabilities().architecture;
        let machine = machine::find(architecture, &config.machine)?;
        let most = machine.cpu_max.min(accelerator.capabilities().most_vcpus);
        if config.vcpus == 0 || config.vcpus > most {
            let (machine, accelerator, count) = (machine.name, accelerator.name(), config.vcpus);
            return Err(BuildError::Cpus { machine, accelerator, most, count }.into());
        }
        let (commands, messages) = mpsc::channel();

        let whole: Arc<OnceLock<Weak<Core>>> = Arc::default();
        let effects = {
            let (whole, commands) = (whole.clone(), commands.clone());
            Arc::new(move |effect| {
                if let Some(core) = whole.get().and_then(Weak::upgrade) {
                    core.request_effect(effect, &commands);
                }
            })
        };
        let bus = Arc::new(Bus::new(effects));

        machine.prepare(&*accelerator)?;
        let mut vcpus: Vec<Box<dyn Vcpu>> =
            (0..config.vcpus).map(|index| accelerator.create_vcpu(index)).collect::<Result<_, _>>()?;
        let reset_states = vcpus.iter_mut().map(|vcpu| vcpu.state()).collect::<Result<_, _>>()?;
        let handles: Vec<Arc<dyn VcpuHandle>> = vcpus.iter().map(|vcpu| vcpu.handle()).collect();
        let taps = Taps::default();
        let parts = Parts { accelerator: &accelerator, clock: &clock, bus: &bus, vcpus: &handles, taps: &taps };
        let board = machine.build(&config, &parts)?;
        for slot in &board.slots {
            accelerator.map_memory(slot.clone())?;
        }

        let host = |source| BuildError::Host { what: "start a thread for the machine", source };
        let start = |(index, vcpu): (u32, Box<dyn Vcpu>)| {
            let commands = commands.clone();
            let exited = move |index, exit| {
                // A machine that has ended needs no exits.
                let _ = commands.send(Message { command: Command::VcpuExit { index, exit }, reply: None });
            };
            let own = board.processor_buses.get(index as usize).cloned();
            VcpuThread::start(index, vcpu, own.unwrap_or_else(|| bus.clone()), exited)
        };
        let threads = (0..).zip(vcpus).map(start).collect::<Result<_, _>>().map_err(host)?;
        let consoles = config.devices.iter().filter_map(|device| match &device.model {
            DeviceModel::VirtioConsole { backend } => Some(backend),
            DeviceModel::VirtioBlk { .. } | DeviceModel::VirtioRng | DeviceModel::PciTestdev => None,
        });
        let debug_console = config.debug_console.iter().map(|(_, backend)| backend);
        let backends = config.serial.iter().chain(debug_console).chain(consoles).cloned().collect();
        let core = Arc::new(Core {
            accelerator,
            machine,
            clock,
            bus,
            taps,
            board,
            vcpus: threads,
            reset_states,
            backends,
            disks: config.disks,
            no_reboot: config.no_reboot,
            no_shutdown: config.no_shutdown,
            state: AtomicU8::new(RunState::Prelaunch as u8),
            quitting: AtomicBool::new(false),
            listeners: Mutex::default(),
            next_listener: AtomicU64::new(0),
            pending_effect: Mutex::default(),
            wake_requested: AtomicBool::new(false),
            memory_map_changed: AtomicBool::new(false),
            effect_requested: AtomicBool::new(false),
            last_debug_event: Mutex::default(),
            last_internal_error: Mutex::default(),
            exit_status: Mutex::default(),
            exited: Condvar::new(),
        });
        // Set once, here.
        let _ = whole.set(Arc::downgrade(&core));
        let (told, stopped) = (Arc::downgrade(&core), commands.clone());
        core.disks.listen(move |failed| {
            let Some(core) = told.upgrade() else { return };
            let stops = failed.action == block::ErrorAction::Stop;
            core.emit(Event::BlockIoError(failed));
            if stops {
                // A machine that has ended needs no stop.
                let _ = stopped.send(Message { command: Command::Stop(RunState::IoError), reply: None });
            }
        });
        // From here on the threads end when `vm` is dropped.
        let mut vm = Vm { core: core.clone(), commands, control: None, name: config.name, uuid: config.uuid };
        core.initialise()?;
        let control = std::thread::Builder::new()
            .name("control".into())
            .spawn(move || control::serve(&core, &messages))
            .map_err(host)?;
        vm.control = Some(control);
        Ok(vm)
    }

    fn request(&self, command: Command) -> Result<bool, Error> {
        let (sender, receiver) = mpsc::sync_channel(1);
        self.commands.send(Message { command, reply: Some(sender) }).map_err(|_| Error::Ended)?;
        receiver.recv().map_err(|_| Error::Ended)?
    }

    /// Waits until effects of accesses that this thread made are carried out.
    pub(crate) fn settle(&self) {
        if self.core.effect_requested.swap(false, Ordering::AcqRel) {
            // The control thread answers in the order of requests. A machine that has ended has no effects.
            let _ = self.request(Command::Nothing);
        }
    }

    /// The virtual clock.
    pub(crate) fn clock(&self) -> &Arc<VirtualClock> {
        &self.core.clock
    }

    /// Where a test client listens to interrupt lines.
    pub(crate) fn taps(&self) -> &Taps {
        &self.core.taps
    }

    // Life

    /// Starts or continues the machine (`cont`); RESUME. Nothing happens if it runs. Returns once it runs.
    ///
    /// [`Error::NeedsReset`] in the run states internal-error and shutdown.
    pub fn cont(&self) -> Result<(), Error> {
        self.request(Command::Continue).map(|_| ())
    }

    /// Stops the machine (`stop`); STOP. Nothing happens unless it runs. Returns once no vCPU is in the guest, the
    /// clock stands and no device works.
    pub fn stop(&self) -> Result<(), Error> {
        self.request(Command::Stop(RunState::Paused)).map(|_| ())
    }

    /// As [`Vm::stop`], into another run state: io-error, save-vm, watchdog and so on.
    pub fn stop_into(&self, state: RunState) -> Result<(), Error> {
        self.request(Command::Stop(state)).map(|_| ())
    }

    /// Resets the machine (`system_reset`); RESET, or with `-no-reboot` SHUTDOWN. Returns once it is reset. A running
    /// machine goes on running; the run states internal-error and shutdown become paused; others stay.
    pub fn reset(&self, cause: Cause) -> Result<(), Error> {
        self.request(Command::Reset(cause)).map(|_| ())
    }

    /// Has the accelerator `name` run the machine from the present instruction of each processor on (`x-accelerator-set`);
    /// X_ACCELERATOR_CHANGED. Nothing happens if it does already. An error leaves the machine as it was.
    pub fn switch_accelerator(&self, name: &str) -> Result<(), Error> {
        self.request(Command::SwitchAccelerator(name.into())).map(|_| ())
    }

    /// Wakes a guest that sleeps (`system_wakeup`); WAKEUP. [`Error::NotSuspended`] if it does not.
    pub fn wake(&self) -> Result<(), Error> {
        self.request(Command::Wake { by_clock: false }).map(|_| ())
    }

    /// Asks the guest to switch off (`system_powerdown`); POWERDOWN. Returns whether the machine has a way to tell the
    /// guest; what the guest does is its own affair.
    pub fn powerdown(&self) -> Result<bool, Error> {
        self.request(Command::Powerdown)
    }

    /// Ends the machine as if the guest had switched off, so that `-no-shutdown` counts; SHUTDOWN.
    pub fn shutdown(&self, cause: Cause, exit_status: u8) -> Result<(), Error> {
        self.request(Command::Shutdown { cause, exit_status }).map(|_| ())
    }

    /// Ends the machine (`quit`), also with `-no-shutdown`; SHUTDOWN, before this returns.
    pub fn quit(&self, cause: Cause) -> Result<(), Error> {
        self.core.quitting.store(true, Ordering::Release);
        self.request(Command::Quit(cause)).map(|_| ())
    }

    /// Waits until the machine has ended; the exit status for the process.
    pub fn wait_for_exit(&self) -> i32 {
        let mut status = self.core.exit_status.lock();
        loop {
            match *status {
                Some(status) => return status,
                None => self.core.exited.wait(&mut status),
            }
        }
    }

    /// As [`Vm::wait_for_exit`], but gives up after `limit`.
    pub fn wait_for_exit_at_most(&self, limit: Duration) -> Option<i32> {
        let deadline = Instant::now() + limit;
        let mut status = self.core.exit_status.lock();
        while status.is_none() && !self.core.exited.wait_until(&mut status, deadline).timed_out() {}
        *status
    }

    /// Has `listener` called for each event from now on, until the result is dropped. It is called on the control
    /// thread, before the request that caused the event returns and before the next event; it must be short and must
    /// not ask the machine to change its run state.
    #[must_use = "the listener goes when the subscription is dropped"]
    pub fn subscribe(&self, listener: impl Fn(&Event) + Send + Sync + 'static) -> Subscription {
        let number = self.core.next_listener.fetch_add(1, Ordering::Relaxed);
        self.core.listeners.lock().push((number, Arc::new(listener)));
        Subscription { core: Arc::downgrade(&self.core), number }
    }

    // What it is; none of these waits

    /// The run state (`query-status`).
    pub fn status(&self) -> RunState {
        self.core.state()
    }

    /// The name that the user gave it (`query-name`).
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Its UUID, all zero if the user gave none (`query-uuid`).
    pub fn uuid(&self) -> uuid::Uuid {
        self.uuid.unwrap_or(uuid::Uuid::nil())
    }

    /// The architecture of its processors (`query-target`).
    pub fn architecture(&self) -> Architecture {
        self.core.machine.architecture
    }

    /// Its machine type; all there are, for `query-machines`, are [`machine::machines`].
    pub fn machine(&self) -> &'static MachineType {
        self.core.machine
    }

    /// The name of the accelerator that runs it: `kvm`, `jit`.
    pub fn accelerator_name(&self) -> &'static str {
        self.core.accelerator.name()
    }

    /// Whether [`Vm::switch_accelerator`] has something to choose from.
    pub fn can_switch_accelerator(&self) -> bool {
        self.core.board.carry_over.is_some()
    }

    /// Its processors (`query-cpus`).
    pub fn cpus(&self) -> Vec<CpuInfo> {
        let info = |vcpu: &VcpuThread| CpuInfo {
            index: vcpu.index(),
            halted: vcpu.handle().is_halted(),
            thread_id: vcpu.thread_id(),
        };
        self.core.vcpus.iter().map(info).collect()
    }

    /// Number of processors.
    pub fn cpu_count(&self) -> u32 {
        self.core.vcpus.len() as u32
    }

    /// All disks.
    pub fn disks(&self) -> &Arc<block::Graph> {
        &self.core.disks
    }

    /// For how long the guest has run, nanoseconds.
    pub fn clock_nanoseconds(&self) -> u64 {
        self.core.clock.now()
    }

    /// All devices, in the order of reset.
    pub fn devices(&self) -> &[Arc<dyn Device>] {
        &self.core.board.devices
    }

    /// Size of RAM in bytes.
    pub fn ram_size(&self) -> u64 {
        use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};
        self.core.board.ram.iter().map(|region| region.len()).sum()
    }

    /// Why the machine was last stopped for a debugger: the processor, and what happened to it.
    pub fn last_debug_event(&self) -> Option<(u32, DebugEvent)> {
        *self.core.last_debug_event.lock()
    }

    /// Why the machine was last in run state internal-error: the processor, and the accelerator's sentence.
    pub fn last_internal_error(&self) -> Option<(u32, String)> {
        self.core.last_internal_error.lock().clone()
    }

    // Processors and memory

    fn vcpu(&self, index: u32) -> Result<&VcpuThread, Error> {
        let last = self.cpu_count() - 1;
        self.core.vcpus.get(index as usize).ok_or(Error::NoSuchCpu { index, last })
    }

    /// Has `action` done on the thread of processor `index`, between two instructions, and returns its result. Works
    /// while the machine runs (the processor leaves the guest for that moment) and while it is stopped.
    pub fn with_vcpu<R: Send + 'static>(
        &self,
        index: u32,
        action: impl FnOnce(&mut dyn Vcpu) -> R + Send + 'static,
    ) -> Result<R, Error> {
        self.vcpu(index)?.call(action).ok_or(Error::Ended)
    }

    /// What the accelerator counted of each processor, in sentences for people; `None` where it counts nothing.
    pub fn statistics(&self) -> Result<Option<String>, Error> {
        let mut text = String::new();
        for index in 0..self.cpu_count() {
            let Some(of_one) = self.with_vcpu(index, |vcpu| vcpu.statistics())? else { return Ok(None) };
            text.push_str(&format!("processor {index}:\n{of_one}\n"));
        }
        Ok(Some(text))
    }

    /// The complete state of processor `index`, with that of its local APIC wherever that is.
    pub fn cpu_state(&self, index: u32) -> Result<CpuState, Error> {
        self.core.cpu_state(self.vcpu(index)?)
    }

    /// Replaces the complete state of processor `index`, with that of its local APIC wherever that is.
    pub fn set_cpu_state(&self, index: u32, state: &CpuState) -> Result<(), Error> {
        let for_vcpu = state.clone();
        self.with_vcpu(index, move |vcpu| vcpu.set_state(&for_vcpu))??;
        if let Some(local_apics) = self.core.local_apics() {
            local_apics.load_from(index, state);
        }
        Ok(())
    }

    /// Delivers a non-maskable interrupt to every processor (`inject-nmi`).
    pub fn inject_nmi(&self) -> Result<(), Error> {
        for vcpu in &self.core.vcpus {
            vcpu.handle().inject_nmi()?;
        }
        Ok(())
    }

    /// The guest-physical address of each page that `length` bytes at the virtual `address` touch, from `address` on.
    fn translate(&self, cpu: u32, address: u64, length: usize) -> Result<Vec<u64>, Error> {
        let mut pages = Vec::new();
        for_pages(address, length, |address, _| pages.push(address));
        self.with_vcpu(cpu, move |vcpu| {
            let translate = |page: u64| vcpu.translate(page)?.ok_or(Error::NotMapped(page));
            pages.into_iter().map(translate).collect()
        })?
    }

    /// Reads memory at a virtual address of processor `cpu` (`memsave`). On an error `buffer` holds what came before.
    pub fn read_virtual(&self, cpu: u32, address: u64, buffer: &mut [u8]) -> Result<(), Error> {
        let mut address = address;
        for part in buffer.chunks_mut(TRANSLATED_AT_ONCE) {
            let pages = self.translate(cpu, address, part.len())?;
            let mut pages = pages.into_iter();
            for_pages(address, part.len(), |_, range| {
                if let Some(physical) = pages.next() {
                    self.read_physical(physical, &mut part[range]);
                }
            });
            address = address.wrapping_add(part.len() as u64);
        }
        Ok(())
    }

    /// Writes memory at a virtual address of processor `cpu`.
    pub fn write_virtual(&self, cpu: u32, address: u64, data: &[u8]) -> Result<(), Error> {
        let mut address = address;
        for part in data.chunks(TRANSLATED_AT_ONCE) {
            let pages = self.translate(cpu, address, part.len())?;
            let mut pages = pages.into_iter();
            for_pages(address, part.len(), |_, range| {
                if let Some(physical) = pages.next() {
                    self.write_physical(physical, &part[range]);
                }
            });
            address = address.wrapping_add(part.len() as u64);
        }
        Ok(())
    }
}

/// How much virtual memory is translated with one visit to the processor, bytes.
const TRANSLATED_AT_ONCE: usize = 1 << 20;

/// Calls `visit` with the address of each page's part of `length` bytes at `address`, and its range in the buffer.
/// What lies beyond the end of the address space is left out.
fn for_pages(address: u64, length: usize, mut visit: impl FnMut(u64, std::ops::Range<usize>)) {
    let mut done = 0;
    while done < length {
        let Some(here) = address.checked_add(done as u64) else { return };
        let in_page = (PAGE_SIZE - here % PAGE_SIZE) as usize;
        let end = length.min(done + in_page);
        visit(here, done..end);
        done = end;
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        self.core.quitting.store(true, Ordering::Release);
        // It may have ended before.
        let _ = self.commands.send(Message { command: Command::Abandon, reply: None });
        match self.control.take() {
            Some(control) if control.thread().id() != std::thread::current().id() => {
                // A listener's panic is no reason for another one here.
                let _ = control.join();
            }
            Some(_) => {}
            // It was never started.
            None => self.core.vcpus.iter().for_each(|vcpu| {
                vcpu.end();
                vcpu.wait_gone(control::PATIENCE);
            }),
        }
    }
}

#[cfg(test)]
mod tests;
