//! Local APICs: the interrupt controllers of x86-64 processors, where the accelerator has none.
//!
//! SDM volume 3, chapter 11, in xAPIC and x2APIC mode: version 14H with six local vector table entries, as KVM's.
//!
//! [`LocalApics`] are those of one machine. A processor reaches its own through [`LocalApics::processor_bus`], which is the
//! machine's bus with that processor's page and model-specific registers in front of it; everybody else sends a [`Message`].
//!
//! ExtINT messages are not delivered: the 8259 is wired to LINT0.

mod message;
mod registers;
#[cfg(test)]
mod tests;
mod timer;

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use accel::clock::{Timer, VirtualClock};
use accel::state::{self, x86_64};
use accel::{AddressSpace, IoBus, LocalApicRegister, Unmapped, VcpuHandle};
use parking_lot::Mutex;

use crate::device::{Device, StateError};
use crate::interrupt::InterruptController;

pub use message::{DeliveryMode, Destination, Message};
use registers::{CURRENT_COUNT, DIVIDE, INITIAL_COUNT, LVT_LINT0, LVT_LINT1, LVT_TIMER, Registers, Request};

/// Size of the page of registers, bytes.
const PAGE: u64 = 0x1000;
/// Where no page is.
const NO_PAGE: u64 = u64::MAX;

/// Input of [`LocalApics`] as an [`InterruptController`] that leads to LINT0 of all processors.
pub const LINT0: u32 = 0;
/// Input that leads to LINT1 of all processors.
pub const LINT1: u32 = 1;

/// The local APIC of one processor.
struct LocalApic {
    vcpu: Arc<dyn VcpuHandle>,
    clock: Arc<VirtualClock>,
    timer: Timer,
    /// Address of the page of registers, for a look without the lock; [`NO_PAGE`] if there is none.
    page: AtomicU64,
    /// Its id, for a look without the lock.
    id: AtomicU32,
    // Lock order: after devices', the 8259's and the I/O APIC's; before the clock's and the vCPU handle's. Never two at a
    // time.
    inner: Mutex<Inner>,
}

struct Inner {
    registers: Registers,
    /// Level of INTR that the processor was last told.
    interrupts: bool,
    /// What the timer is armed for.
    armed: Option<u64>,
}

impl LocalApic {
    fn new(index: u32, vcpu: Arc<dyn VcpuHandle>, clock: Arc<VirtualClock>) -> Arc<LocalApic> {
        Arc::new_cyclic(|this: &Weak<LocalApic>| {
            let this = this.clone();
            let timer = clock.timer(move || {
                if let Some(this) = this.upgrade() {
                    this.timer_due();
                }
            });
            let registers = Registers::new(index);
            let page = AtomicU64::new(registers.page_address().unwrap_or(NO_PAGE));
            let inner = Mutex::new(Inner { registers, interrupts: false, armed: None });
            LocalApic { vcpu, clock, timer, page, id: AtomicU32::new(index), inner }
        })
    }

    /// Changes the registers, then tells the processor what changed for it.
    fn change<R>(&self, change: impl FnOnce(&mut Registers) -> R) -> R {
        let mut inner = self.inner.lock();
        let result = change(&mut inner.registers);
        self.settle(&mut inner);
        result
    }

    fn settle(&self, inner: &mut Inner) {
        self.id.store(inner.registers.id, Ordering::Release);
        let interrupts = inner.registers.interrupts();
        if interrupts != inner.interrupts {
            inner.interrupts = interrupts;
            self.vcpu.set_interrupt(0, interrupts);
        }
    }

    /// As [`LocalApic::change`], where the timer may change as well.
    fn change_timer<R>(&self, change: impl FnOnce(&mut Registers, u64) -> R) -> R {
        let now = self.clock.now();
        let mut inner = self.inner.lock();
        let result = change(&mut inner.registers, now);
        // A deadline in the past is due at once.
        inner.registers.timer_due(now);
        self.settle(&mut inner);
        self.arm(&mut inner);
        result
    }

    fn arm(&self, inner: &mut Inner) {
        let due = inner.registers.timer.due().filter(|_| inner.registers.timer_matters());
        if due != inner.armed {
            inner.armed = due;
            match due {
                Some(due) => self.timer.arm(due),
                None => self.timer.disarm(),
            }
        }
    }

    fn timer_due(&self) {
        let now = self.clock.now();
        let mut inner = self.inner.lock();
        // The clock has disarmed it, unless it was armed anew meanwhile: then arming it again does no harm.
        inner.armed = None;
        inner.registers.timer_due(now);
        self.settle(&mut inner);
        self.arm(&mut inner);
    }

    /// Puts new registers in place, whatever the processor was told of the old ones.
    fn replace(&self, replace: impl FnOnce(&mut Registers, u64)) {
        let now = self.clock.now();
        let mut inner = self.inner.lock();
        replace(&mut inner.registers, now);
        self.id.store(inner.registers.id, Ordering::Release);
        inner.interrupts = inner.registers.interrupts();
        self.vcpu.set_interrupt(0, inner.interrupts);
        self.arm(&mut inner);
        self.page.store(inner.registers.page_address().unwrap_or(NO_PAGE), Ordering::Release);
    }

    /// Takes `message` if it is for this processor; true if it was accepted.
    fn offer(&self, message: &Message) -> bool {
        if !self.inner.lock().registers.is_addressed(message.destination) {
            return false;
        }
        match message.mode {
            DeliveryMode::Fixed | DeliveryMode::LowestPriority => {
                return self.change(|registers| registers.accept(message.vector, message.level));
            }
            DeliveryMode::Nmi => self.inject_nmi(),
            DeliveryMode::Init => {
                self.replace(|registers, _| registers.initialise());
                self.vcpu.inject_init();
            }
            DeliveryMode::StartUp => self.vcpu.inject_start_up(message.vector),
            DeliveryMode::Smi => self.vcpu.inject_smi(),
            DeliveryMode::External | DeliveryMode::Reserved => return false,
        }
        true
    }

    fn inject_nmi(&self) {
        if let Err(error) = self.vcpu.inject_nmi() {
            tracing::error!("{error}");
        }
    }

    fn set_lint(&self, number: usize, level: bool) {
        let mut request = Request::default();
        self.change(|registers| {
            let rises = level && !registers.lint[number];
            registers.lint[number] = level;
            if rises {
                registers.local_interrupt([LVT_LINT0, LVT_LINT1][number], &mut request);
                // Without an APIC the pin is the processor's NMI input.
                request.nmi |= number == 1 && !registers.is_enabled();
            }
        });
        if request.nmi {
            self.inject_nmi();
        }
        if request.smi {
            self.vcpu.inject_smi();
        }
    }
}

/// Called with the vector when a level-triggered interrupt was served.
type EndOfInterrupt = Box<dyn Fn(u8) + Send + Sync>;

/// The local APICs of a machine, in the order of its processors.
pub struct LocalApics {
    apics: Vec<Arc<LocalApic>>,
    /// Ticks of the processors' time stamp counters in a millisecond.
    time_stamp_khz: u32,
    end_of_interrupt: OnceLock<EndOfInterrupt>,
}

impl LocalApics {
    /// Those of `vcpus`, whose time stamp counters count `time_stamp_khz` in a millisecond.
    pub fn new(vcpus: &[Arc<dyn VcpuHandle>], clock: &Arc<VirtualClock>, time_stamp_khz: u32) -> Arc<LocalApics> {
        let apic = |(index, vcpu): (u32, &Arc<dyn VcpuHandle>)| LocalApic::new(index, vcpu.clone(), clock.clone());
        let apics = (0..).zip(vcpus).map(apic).collect();
        Arc::new(LocalApics { apics, time_stamp_khz, end_of_interrupt: OnceLock::new() })
    }

    /// Has `told` called when a level-triggered interrupt was served; once, by the I/O APIC.
    pub(crate) fn set_end_of_interrupt(&self, told: impl Fn(u8) + Send + Sync + 'static) {
        // A machine has one I/O APIC.
        let _ = self.end_of_interrupt.set(Box::new(told));
    }

    /// Sends a message; true if a processor accepted it.
    pub fn send(&self, message: &Message) -> bool {
        if message.mode == DeliveryMode::LowestPriority {
            return self.send_to_lowest(message);
        }
        let may_be_addressed = |apic: &&Arc<LocalApic>| match message.destination {
            Destination::Physical(id) => apic.id.load(Ordering::Acquire) == id,
            _ => true,
        };
        // All of them must see it; more than one may have an id.
        self.apics.iter().filter(may_be_addressed).fold(false, |accepted, apic| apic.offer(message) | accepted)
    }

    fn send_to_lowest(&self, message: &Message) -> bool {
        let priority = |apic: &&Arc<LocalApic>| {
            let inner = apic.inner.lock();
            inner.registers.is_addressed(message.destination).then(|| inner.registers.processor_priority())
        };
        let candidates = self.apics.iter().filter_map(|apic| Some((priority(&apic)?, apic)));
        candidates.min_by_key(|(priority, _)| *priority).is_some_and(|(_, apic)| apic.offer(message))
    }

    /// The bus as processor `index` sees it: its own local APIC, and `bus` behind it. `external` acknowledges an interrupt
    /// of the 8259.
    pub fn processor_bus(
        self: &Arc<LocalApics>,
        index: u32,
        bus: Arc<dyn IoBus>,
        external: Arc<dyn Fn() -> u8 + Send + Sync>,
    ) -> Option<Arc<dyn IoBus>> {
        let apic = self.apics.get(index as usize)?.clone();
        Some(Arc::new(ProcessorBus { apic, apics: self.clone(), bus, external }))
    }

    /// Writes the local APIC of processor `index` into its state.
    pub fn save_into(&self, index: u32, state: &mut state::CpuState) {
        let (Some(apic), state::CpuState::X86_64(state)) = (self.apics.get(index as usize), state) else { return };
        let now = apic.clock.now();
        let inner = apic.inner.lock();
        let registers = &inner.registers;
        let page = registers.save(now);
        state.cr8 = registers.task_priority();
        state.apic_base = registers.base;
        state.local_apic = Some(page);
        let time_stamp = state.msrs.get(&x86_64::msr::TSC).copied().unwrap_or(0);
        let deadline = match registers.timer.deadline {
            0 => 0,
            deadline => {
                let ticks = u128::from(deadline.saturating_sub(now)) * u128::from(self.time_stamp_khz) / 1_000_000;
                time_stamp.saturating_add(u64::try_from(ticks).unwrap_or(u64::MAX))
            }
        };
        state.msrs.insert(x86_64::msr::TSC_DEADLINE, deadline);
    }

    /// Takes the local APIC of processor `index` over from its state.
    pub fn load_from(&self, index: u32, state: &state::CpuState) {
        let (Some(apic), state::CpuState::X86_64(state)) = (self.apics.get(index as usize), state) else { return };
        let msr = |number| state.msrs.get(&number).copied().unwrap_or(0);
        let (time_stamp, deadline) = (msr(x86_64::msr::TSC), msr(x86_64::msr::TSC_DEADLINE));
        let page = state.local_apic.as_deref().unwrap_or(&[]);
        apic.replace(|registers, now| {
            let deadline = match deadline {
                0 => 0,
                deadline if deadline < time_stamp => now.max(1),
                deadline => {
                    let nanoseconds =
                        u128::from(deadline - time_stamp) * 1_000_000 / u128::from(self.time_stamp_khz.max(1));
                    now.saturating_add(u64::try_from(nanoseconds).unwrap_or(u64::MAX)).max(1)
                }
            };
            registers.load(state.apic_base, page, deadline, now);
        });
    }

    /// Carries out what a register write asked for.
    fn perform(&self, request: &Request) {
        if let Some(message) = &request.message {
            self.send(message);
        }
        if let (Some(vector), Some(told)) = (request.ended, self.end_of_interrupt.get()) {
            told(vector);
        }
    }
}

impl InterruptController for LocalApics {
    fn set_input(&self, number: u32, level: bool) {
        if number <= LINT1 {
            for apic in &self.apics {
                apic.set_lint(number as usize, level);
            }
        }
    }
}

impl Device for LocalApics {
    fn debug_label(&self) -> &str {
        "local-apics"
    }
    fn reset(&self) {
        for (index, apic) in (0..).zip(&self.apics) {
            apic.replace(|registers, _| {
                let lint = registers.lint;
                *registers = Registers::new(index);
                registers.lint = lint;
            });
        }
    }
    /// Nothing: their registers are in the states of the processors.
    fn save(&self) -> serde_json::Value {
        serde_json::Value::Null
    }
    fn restore(&self, _state: &serde_json::Value) -> Result<(), StateError> {
        Ok(())
    }
}

/// What one processor sees.
struct ProcessorBus {
    apic: Arc<LocalApic>,
    apics: Arc<LocalApics>,
    bus: Arc<dyn IoBus>,
    external: Arc<dyn Fn() -> u8 + Send + Sync>,
}

/// True for the registers that tell or change the timer's time.
fn is_timer(register: usize) -> bool {
    matches!(register, LVT_TIMER | INITIAL_COUNT | CURRENT_COUNT | DIVIDE)
}

impl ProcessorBus {
    /// Offset in the page of registers.
    fn offset(&self, space: AddressSpace, address: u64) -> Option<u64> {
        let page = self.apic.page.load(Ordering::Acquire);
        let inside = space == AddressSpace::Memory && address & !(PAGE - 1) == page;
        inside.then_some(address & (PAGE - 1))
    }

    fn now(&self, register: usize) -> u64 {
        if is_timer(register) { self.apic.clock.now() } else { 0 }
    }

    fn write_register<R>(&self, register: usize, write: impl FnOnce(&mut Registers, u64) -> R) -> R {
        if is_timer(register) {
            self.apic.change_timer(write)
        } else {
            self.apic.change(|registers| write(registers, 0))
        }
    }
}

impl IoBus for ProcessorBus {
    fn read(&self, space: AddressSpace, address: u64, data: &mut [u8]) -> Result<(), Unmapped> {
        let Some(offset) = self.offset(space, address) else { return self.bus.read(space, address, data) };
        data.fill(0);
        let byte = (offset & 0xf) as usize;
        let register = (offset / 16) as usize;
        if byte < 4 {
            let now = self.now(register);
            let value = self.apic.change(|registers| registers.read_page(register, now)).to_le_bytes();
            for (to, from) in data.iter_mut().zip(&value[byte..]) {
                *to = *from;
            }
        }
        Ok(())
    }

    fn write(&self, space: AddressSpace, address: u64, data: &[u8]) -> Result<(), Unmapped> {
        let Some(offset) = self.offset(space, address) else { return self.bus.write(space, address, data) };
        // Only whole aligned registers can be written.
        if offset & 0xf == 0
            && let Some(value) = data.first_chunk().map(|value| u32::from_le_bytes(*value))
        {
            let register = (offset / 16) as usize;
            let request = self.write_register(register, |registers, now| registers.write_page(register, value, now));
            self.apics.perform(&request);
        }
        Ok(())
    }

    fn acknowledge_interrupt(&self) -> Option<u8> {
        // The 8259 is asked without the lock, as it lowers LINT0 then.
        if self.apic.inner.lock().registers.wants_external() {
            return Some((self.external)());
        }
        self.apic.change(Registers::acknowledge)
    }

    fn read_local_apic(&self, register: LocalApicRegister) -> Option<u64> {
        match register {
            LocalApicRegister::X2apic(number) => {
                let number = number as usize;
                let now = self.now(number);
                self.apic.inner.lock().registers.read_msr(number, now).ok()
            }
            _ => {
                let inner = self.apic.inner.lock();
                let registers = &inner.registers;
                Some(match register {
                    LocalApicRegister::Base => registers.base,
                    LocalApicRegister::TaskPriority => registers.task_priority(),
                    _ => registers.timer.deadline,
                })
            }
        }
    }

    fn write_local_apic(&self, register: LocalApicRegister, value: u64) -> Option<()> {
        match register {
            LocalApicRegister::Base => {
                let result = self.apic.change_timer(|registers, _| {
                    registers.write_base(value).map(|()| registers.page_address().unwrap_or(NO_PAGE))
                });
                self.apic.page.store(result.ok()?, Ordering::Release);
            }
            LocalApicRegister::TaskPriority => {
                if value > 15 {
                    return None;
                }
                self.apic.change(|registers| registers.set_task_priority(value));
            }
            LocalApicRegister::X2apic(number) => {
                let number = number as usize;
                let result = self.write_register(number, |registers, now| registers.write_msr(number, value, now));
                self.apics.perform(&result.ok()?);
            }
            LocalApicRegister::Deadline => {
                self.apic.change_timer(|registers, now| registers.timer.set_deadline(value, now));
            }
        }
        Some(())
    }
}
