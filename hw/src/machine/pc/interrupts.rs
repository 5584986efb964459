//! The interrupt controllers and the interval timer of a `pc`: the accelerator's own, or devices of the machine.
//!
//! Which of the two a machine has, its guest cannot tell, and a state saved under one is restored under the other.

use std::sync::Arc;

use accel::state::{ControllerState, pc};
use accel::{Accelerator, IoBus, Msi};

use crate::backend_controllers::BackendControllers;
use crate::bus::Bus;
use crate::device::{Device, StateError, impossible, parse_state, state_value};
use crate::i8254::{self, I8254};
use crate::i8259::{self, I8259};
use crate::interrupt::{InterruptController, InterruptLine};
use crate::io_apic::{self, IoApic};
use crate::local_apic::{LINT0, LocalApics, Message};
use crate::machine::{BuildError, Parts};
use crate::pci::msix::MsiSink;

/// ISA interrupt of the interval timer, and the I/O APIC's input that it is wired to.
const TIMER: (u32, u32) = (0, 2);

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
}

impl Interrupts {
    /// Those that `parts` ask for, at their places on the bus.
    pub(super) fn new(parts: &Parts<'_>) -> Result<Interrupts, BuildError> {
        let accelerator = parts.accelerator;
        if accelerator.capabilities().in_kernel_interrupt_controller {
            let (sender, timer) = (accelerator.clone(), accelerator.clone());
            return Ok(Interrupts {
                inputs: parts.taps.inputs("ioapic", Arc::new(BackendInputs(accelerator.clone()))),
                messages: Arc::new(move |message: Msi| {
                    if let Err(error) = sender.signal_msi(message) {
                        tracing::error!("message-signalled interrupt: {error}");
                    }
                }),
                device: BackendControllers::new(accelerator.clone())?,
                replace_timer: Arc::new(move |replaced| replace_backend_timer(&*timer, replaced)),
                local_apics: None,
                processor_buses: Vec::new(),
            });
        }
        let bus: &Arc<Bus> = parts.bus;
        let local_apics = LocalApics::new(parts.vcpus, parts.clock);
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
        let inputs: Arc<dyn InterruptController> = Arc::new(GlobalInterrupts {
            pics: parts.taps.inputs("i8259", pics.clone()),
            io_apic: parts.taps.inputs("ioapic", Arc::new(IoApicInputs(io_apic.clone()))),
        });
        let timer = parts.taps.output("i8254", InterruptLine::new(inputs.clone(), TIMER.0));
        let pit = I8254::new(parts.clock.clone(), timer);
        bus.map_ports(i8254::PORTS.0, i8254::PORTS.1, 0, pit.clone())?;
        bus.map_ports(i8254::SYSTEM_CONTROL_PORT, 1, i8254::SYSTEM_CONTROL, pit.clone())?;

        let external: Arc<dyn Fn() -> u8 + Send + Sync> = {
            let pics = pics.clone();
            Arc::new(move || pics.acknowledge())
        };
        let processor_bus = |index| local_apics.processor_bus(index, bus.clone(), external.clone());
        let processor_buses = (0..parts.vcpus.len() as u32).filter_map(processor_bus).collect();
        let sender = local_apics.clone();
        Ok(Interrupts {
            inputs,
            messages: Arc::new(move |message: Msi| match Message::from_msi(message) {
                Some(message) => {
                    sender.send(&message);
                }
                None => tracing::debug!("a device's interrupt message to {:#x} reaches nobody", message.address),
            }),
            replace_timer: {
                let pit = pit.clone();
                Arc::new(move |replaced| pit.set_replaced_by_hpet(replaced))
            },
            device: Arc::new(OwnControllers { pics, io_apic, pit, local_apics: local_apics.clone() }),
            local_apics: Some(local_apics),
            processor_buses,
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
        if let Err(error) = self.0.set_interrupt_line(number, level) {
            tracing::error!("interrupt {number}: {error}");
        }
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
struct OwnControllers {
    pics: Arc<I8259>,
    io_apic: Arc<IoApic>,
    pit: Arc<I8254>,
    local_apics: Arc<LocalApics>,
}

impl Device for OwnControllers {
    fn debug_label(&self) -> &str {
        "interrupt-controllers"
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
