//! The interrupt controllers and the interval timer of a `pc`: the accelerator's own, or devices of the machine.
//!
//! Which of the two a machine has, its guest cannot tell, and a state saved under one is restored under the other. A machine
//! that can change its accelerator has both, and the state moves between them; see [`Both`].

use std::sync::Arc;

use accel::state::{ControllerState, pc};
use accel::{Accelerator, IoBus, Msi};
use parking_lot::RwLock;

use crate::backend_controllers::BackendControllers;
use crate::bus::Bus;
use crate::device::{Device, StateError, impossible, parse_state, state_value};
use crate::i8254::{self, I8254};
use crate::i8259::{self, I8259};
use crate::interrupt::{InterruptController, InterruptLine};
use crate::io_apic::{self, IoApic};
use crate::local_apic::{LINT0, LocalApics, Message};
use crate::machine::{BuildError, CarryOver, Parts};
use crate::pci::msix::MsiSink;

/// ISA interrupt of the interval timer, and the I/O APIC's input that it is wired to.
const TIMER: (u32, u32) = (0, 2);

const LABEL: &str = "interrupt-controllers";

/// Number of ISA interrupts.
const ISA_INTERRUPTS: u32 = 16;

/// What the rest of a `pc` sees of its interrupt controllers.
pub(super) struct Interrupts {
    /// Its inputs are the global system interrupts.
    pub(super) inputs: Arc<dyn InterruptController>,
    /// Where devices send messages.
    pub(super) messages: MsiSink,
    /// Reset, saving and restoring.
    pub(super) device: Arc<dyn Device>,
    /// Tells the interval timer that another one takes its place on its interrupt line, or gives it back.
    pub(super) replace_timer: Arc<dyn Fn(bool) + Send + Sync>,
    /// The local APICs, where they are the machine's.
    pub(super) local_apics: Option<Arc<LocalApics>>,
    /// The bus as each processor sees it; empty where all see the machine's.
    pub(super) processor_buses: Vec<Arc<dyn IoBus>>,
    /// Takes their state along when the accelerator changes, where that is possible.
    pub(super) carry_over: Option<Arc<dyn CarryOver>>,
}

impl Interrupts {
    /// Those that `parts` ask for, at their places on the bus.
    pub(super) fn new(parts: &Parts<'_>) -> Result<Interrupts, BuildError> {
        if !parts.accelerator.choices().is_empty() {
            return Interrupts::of_either(parts);
        }
        if parts.accelerator.capabilities().in_kernel_interrupt_controller {
            return Interrupts::of_accelerator(parts);
        }
        let own = Own::new(parts)?;
        let (messages, timer) = (own.clone(), own.clone());
        Ok(Interrupts {
            inputs: own.clone(),
            messages: Arc::new(move |message| messages.signal(message)),
            replace_timer: Arc::new(move |replaced| timer.pit.set_replaced_by_hpet(replaced)),
            local_apics: Some(own.local_apics.clone()),
            processor_buses: own.processor_buses(parts),
            device: own,
            carry_over: None,
        })
    }

    fn of_accelerator(parts: &Parts<'_>) -> Result<Interrupts, BuildError> {
        let accelerator = parts.accelerator;
        let (sender, timer) = (accelerator.clone(), accelerator.clone());
        Ok(Interrupts {
            inputs: parts.taps.inputs("ioapic", Arc::new(BackendInputs(accelerator.clone()))),
            messages: Arc::new(move |message| signal(&*sender, message)),
            device: BackendControllers::new(accelerator.clone())?,
            replace_timer: Arc::new(move |replaced| replace_backend_timer(&*timer, replaced)),
            local_apics: None,
            processor_buses: Vec::new(),
            carry_over: None,
        })
    }

    fn of_either(parts: &Parts<'_>) -> Result<Interrupts, BuildError> {
        let accelerator = parts.accelerator.clone();
        let own = Own::new(parts)?;
        let both = Arc::new(Both { accelerator, own: own.clone(), carrying: RwLock::new(()) });
        let (messages, timer) = (both.clone(), both.clone());
        Ok(Interrupts {
            inputs: both.clone(),
            messages: Arc::new(move |message| messages.signal(message)),
            replace_timer: Arc::new(move |replaced| timer.replace_timer(replaced)),
            local_apics: Some(own.local_apics.clone()),
            processor_buses: own.processor_buses(parts),
            device: both.clone(),
            carry_over: Some(both),
        })
    }
}

/// As guests do it once at their start, it does not matter that interrupts of that moment may be lost.
fn replace_backend_timer(accelerator: &dyn Accelerator, replaced: bool) {
    let change = || {
        let ControllerState::Pc(mut state) = accelerator.interrupt_controller_state()?;
        if state.pit.replaced_by_hpet != replaced {
            state.pit.replaced_by_hpet = replaced;
            accelerator.set_interrupt_controller_state(&ControllerState::Pc(state))?;
        }
        Ok::<(), accel::Error>(())
    };
    if let Err(error) = change() {
        tracing::error!("the interval timer cannot be replaced: {error}");
    }
}

/// The accelerator's interrupt controllers.
struct BackendInputs(Arc<dyn Accelerator>);

impl InterruptController for BackendInputs {
    fn set_input(&self, number: u32, level: bool) {
        set_line(&*self.0, number, level);
    }
}

fn set_line(accelerator: &dyn Accelerator, number: u32, level: bool) {
    if let Err(error) = accelerator.set_interrupt_line(number, level) {
        tracing::error!("interrupt {number}: {error}");
    }
}

fn signal(accelerator: &dyn Accelerator, message: Msi) {
    if let Err(error) = accelerator.signal_msi(message) {
        tracing::error!("message-signalled interrupt: {error}");
    }
}

/// ISA interrupts lead to the 8259s and to the I/O APIC, the others to the latter only.
struct GlobalInterrupts {
    pics: Arc<dyn InterruptController>,
    io_apic: Arc<dyn InterruptController>,
}

impl InterruptController for GlobalInterrupts {
    fn set_input(&self, number: u32, level: bool) {
        if number < ISA_INTERRUPTS {
            self.pics.set_input(number, level);
        }
        self.io_apic.set_input(number, level);
    }
}

/// The I/O APIC's inputs by global system interrupt.
struct IoApicInputs(Arc<IoApic>);

impl InterruptController for IoApicInputs {
    fn set_input(&self, number: u32, level: bool) {
        self.0.set_input(if number == TIMER.0 { TIMER.1 } else { number }, level);
    }
}

/// The machine's own controllers, with the state of the accelerator's.
struct Own {
    pics: Arc<I8259>,
    io_apic: Arc<IoApic>,
    inputs: Arc<GlobalInterrupts>,
    pit: Arc<I8254>,
    local_apics: Arc<LocalApics>,
}

impl Own {
    fn new(parts: &Parts<'_>) -> Result<Arc<Own>, BuildError> {
        let bus: &Arc<Bus> = parts.bus;
        let time_stamp_khz = parts.accelerator.capabilities().time_stamp_khz;
        let local_apics = LocalApics::new(parts.vcpus, parts.clock, time_stamp_khz);
        let pics = I8259::new(parts.taps.output("i8259", InterruptLine::new(local_apics.clone(), LINT0)));
        for ((port, count), offset) in [
            (i8259::FIRST_PORTS, i8259::FIRST),
            (i8259::SECOND_PORTS, i8259::SECOND),
            (i8259::LEVEL_PORTS, i8259::LEVEL),
        ] {
            bus.map_ports(port, count, offset, pics.clone())?;
        }
        let io_apic = IoApic::new(local_apics.clone());
        bus.map_memory(io_apic::ADDRESS, io_apic::SIZE, io_apic.clone())?;
        let inputs = Arc::new(GlobalInterrupts {
            pics: parts.taps.inputs("i8259", pics.clone()),
            io_apic: parts.taps.inputs("ioapic", Arc::new(IoApicInputs(io_apic.clone()))),
        });
        let timer = parts.taps.output("i8254", InterruptLine::new(inputs.clone(), TIMER.0));
        let pit = I8254::new(parts.clock.clone(), timer);
        bus.map_ports(i8254::PORTS.0, i8254::PORTS.1, 0, pit.clone())?;
        bus.map_ports(i8254::SYSTEM_CONTROL_PORT, 1, i8254::SYSTEM_CONTROL, pit.clone())?;
        Ok(Arc::new(Own { pics, io_apic, inputs, pit, local_apics }))
    }

    fn processor_buses(&self, parts: &Parts<'_>) -> Vec<Arc<dyn IoBus>> {
        let external: Arc<dyn Fn() -> u8 + Send + Sync> = {
            let pics = self.pics.clone();
            Arc::new(move || pics.acknowledge())
        };
        let bus = |index| self.local_apics.processor_bus(index, parts.bus.clone(), external.clone());
        (0..parts.vcpus.len() as u32).filter_map(bus).collect()
    }

    fn signal(&self, message: Msi) {
        match Message::from_msi(message) {
            Some(message) => {
                self.local_apics.send(&message);
            }
            None => tracing::debug!("a device's interrupt message to {:#x} reaches nobody", message.address),
        }
    }
}

impl InterruptController for Own {
    fn set_input(&self, number: u32, level: bool) {
        self.inputs.set_input(number, level);
    }
}

impl Device for Own {
    fn debug_label(&self) -> &str {
        LABEL
    }
    fn reset(&self) {
        // The timer's output is high after a reset: the others must not see that rise.
        let devices: [&dyn Device; 4] = [&*self.pit, &*self.pics, &*self.io_apic, &*self.local_apics];
        devices.into_iter().for_each(Device::reset);
    }
    fn save(&self) -> serde_json::Value {
        let controllers =
            pc::Controllers { pics: self.pics.state(), io_apic: self.io_apic.state(), pit: self.pit.state() };
        state_value(&ControllerState::Pc(Box::new(controllers)))
    }
    fn restore(&self, state: &serde_json::Value) -> Result<(), StateError> {
        let ControllerState::Pc(new) = parse_state(self.debug_label(), state)?;
        if new.pics.iter().any(|pic| pic.initialisation > 3) {
            return Err(impossible(self.debug_label(), "an 8259 has four initialisation command words"));
        }
        self.io_apic.set_state(&new.io_apic);
        self.pics.set_state(&new.pics);
        self.pit.set_state(&new.pit);
        Ok(())
    }
}

/// The machine's own controllers and those that some of its accelerators bring: the ones of the accelerator that runs count,
/// the others rest. While an accelerator with controllers runs, the guest's accesses to the others do not reach the bus.
struct Both {
    accelerator: Arc<dyn Accelerator>,
    own: Arc<Own>,
    // Lock order: before everything else here. Held for writing while the state moves.
    carrying: RwLock<()>,
}

impl Both {
    fn accelerator_has_them(&self) -> bool {
        self.accelerator.capabilities().in_kernel_interrupt_controller
    }

    fn signal(&self, message: Msi) {
        let _moves_not = self.carrying.read();
        if self.accelerator_has_them() { signal(&*self.accelerator, message) } else { self.own.signal(message) }
    }

    fn replace_timer(&self, replaced: bool) {
        let _moves_not = self.carrying.read();
        if self.accelerator_has_them() {
            replace_backend_timer(&*self.accelerator, replaced);
        } else {
            self.own.pit.set_replaced_by_hpet(replaced);
        }
    }

    fn state(&self) -> Result<serde_json::Value, accel::Error> {
        if self.accelerator_has_them() {
            self.accelerator.interrupt_controller_state().map(|state| state_value(&state))
        } else {
            Ok(self.own.save())
        }
    }

    fn set_state(&self, state: &serde_json::Value) -> Result<(), StateError> {
        if !self.accelerator_has_them() {
            return self.own.restore(state);
        }
        let new: ControllerState = parse_state(LABEL, state)?;
        let set = self.accelerator.set_interrupt_controller_state(&new);
        set.map_err(|error| impossible(LABEL, error.to_string()))
    }
}

impl InterruptController for Both {
    fn set_input(&self, number: u32, level: bool) {
        let _moves_not = self.carrying.read();
        if self.accelerator_has_them() {
            set_line(&*self.accelerator, number, level);
        } else {
            self.own.set_input(number, level);
        }
    }
}

impl Device for Both {
    fn debug_label(&self) -> &str {
        LABEL
    }
    fn reset(&self) {
        self.own.reset();
        if self.accelerator_has_them()
            && let Err(error) = self.set_state(&self.own.save())
        {
            tracing::error!("the interrupt controllers cannot be reset: {error}");
        }
    }
    fn save(&self) -> serde_json::Value {
        self.state().unwrap_or_else(|error| {
            tracing::error!("the interrupt controllers cannot be read: {error}");
            serde_json::Value::Null
        })
    }
    fn restore(&self, state: &serde_json::Value) -> Result<(), StateError> {
        self.set_state(state)
    }
}

impl CarryOver for Both {
    fn carry_over(&self, change: &mut dyn FnMut() -> Result<(), accel::Error>) -> Result<(), accel::Error> {
        let _moving = self.carrying.write();
        let state = self.state()?;
        change()?;
        self.set_state(&state).map_err(|error| accel::Error::State(error.to_string()))?;
        if self.accelerator_has_them() {
            // Nothing of what the machine's own ones had still to do is theirs any more.
            self.own.reset();
        }
        Ok(())
    }
}
