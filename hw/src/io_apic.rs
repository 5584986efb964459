//! The I/O APIC of a PC: interrupt lines become messages to local APICs.
//!
//! Intel 82093AA data sheet (290566), in the version (0x20) whose EOI register ends an interrupt directly. Index at
//! offset 0, data at 0x10, EOI at 0x40 of its page.
//!
//! A high input is an asserted one whatever an entry's polarity bit says: the machine's lines are logical levels.

use std::sync::{Arc, Weak};

use accel::state::pc::IoApic as IoApicState;
use parking_lot::Mutex;

use crate::bus::{AccessRules, Effect, MmioDevice, Width};
use crate::device::{Device, StateError, parse_state, state_value};
use crate::interrupt::InterruptController;
use crate::local_apic::{DeliveryMode, Destination, LocalApics, Message};

/// Guest-physical address of its page.
pub const ADDRESS: u64 = 0xfec0_0000;
/// Size of its page, bytes.
pub const SIZE: u64 = 0x1000;
/// Number of inputs.
pub const INPUTS: u32 = 24;

const SELECT: u64 = 0x00;
const WINDOW: u64 = 0x10;
const EOI: u64 = 0x40;

const ID: u32 = 0;
const VERSION: u32 = 1;
const ARBITRATION: u32 = 2;
const FIRST_ENTRY: u32 = 0x10;

/// Version, and the number of the last entry.
const VERSION_VALUE: u32 = 0x20 | ((INPUTS - 1) << 16);

// Bits of a redirection entry.
const LOGICAL: u64 = 1 << 11;
const DELIVERY_STATUS: u64 = 1 << 12;
const REMOTE_IRR: u64 = 1 << 14;
const LEVEL: u64 = 1 << 15;
const MASKED: u64 = 1 << 16;
const WRITABLE: u64 = 0xff00_0000_0001_afff;

/// The I/O APIC.
pub struct IoApic {
    apics: Arc<LocalApics>,
    // Lock order: before the local APICs'.
    state: Mutex<IoApicState>,
}

fn reset_state() -> IoApicState {
    IoApicState { address: ADDRESS, selected: 0, id: 0, levels: 0, redirection: [MASKED; INPUTS as usize] }
}

/// The message that an entry stands for.
fn message(entry: u64) -> Message {
    let destination = (entry >> 56) as u32;
    Message {
        destination: if entry & LOGICAL != 0 {
            Destination::logical_8_bit(destination)
        } else {
            Destination::physical_8_bit(destination)
        },
        mode: DeliveryMode::from_bits((entry >> 8) as u32),
        vector: entry as u8,
        level: entry & LEVEL != 0,
    }
}

impl IoApic {
    /// An I/O APIC that sends to `apics`, and is told by them of the ends of level-triggered interrupts.
    pub fn new(apics: Arc<LocalApics>) -> Arc<IoApic> {
        Arc::new_cyclic(|this: &Weak<IoApic>| {
            let this = this.clone();
            apics.set_end_of_interrupt(move |vector| {
                if let Some(this) = this.upgrade() {
                    this.end_of_interrupt(vector);
                }
            });
            IoApic { apics, state: Mutex::new(reset_state()) }
        })
    }

    /// The registers.
    pub fn state(&self) -> IoApicState {
        self.state.lock().clone()
    }

    /// Replaces the registers.
    pub fn set_state(&self, new: &IoApicState) {
        *self.state.lock() = IoApicState { address: ADDRESS, ..new.clone() };
    }

    /// Sends the interrupt of `input`, which is asserted, unless it is masked or still being served.
    fn send(&self, state: &mut IoApicState, input: usize) {
        let Some(entry) = state.redirection.get_mut(input) else { return };
        if *entry & MASKED != 0 || *entry & LEVEL != 0 && *entry & REMOTE_IRR != 0 {
            return;
        }
        // The end of the interrupt cannot be told before the state is unlocked, so the bit is set in time.
        if self.apics.send(&message(*entry)) && *entry & LEVEL != 0 {
            *entry |= REMOTE_IRR;
        }
    }

    /// A local APIC, or the EOI register, tells that the level-triggered interrupt with `vector` was served.
    fn end_of_interrupt(&self, vector: u8) {
        let mut state = self.state.lock();
        for input in 0..state.redirection.len() {
            let entry = &mut state.redirection[input];
            if *entry as u8 == vector && *entry & LEVEL != 0 && *entry & REMOTE_IRR != 0 {
                *entry &= !REMOTE_IRR;
                if state.levels & (1 << input) != 0 {
                    self.send(&mut state, input);
                }
            }
        }
    }

    fn read_register(state: &IoApicState) -> u32 {
        match state.selected {
            // The arbitration id follows the id.
            ID | ARBITRATION => state.id << 24,
            VERSION => VERSION_VALUE,
            register => {
                let index = register.wrapping_sub(FIRST_ENTRY);
                let entry = state.redirection.get((index / 2) as usize).copied().unwrap_or(0) & !DELIVERY_STATUS;
                if index.is_multiple_of(2) { entry as u32 } else { (entry >> 32) as u32 }
            }
        }
    }

    fn write_register(&self, state: &mut IoApicState, value: u32) {
        match state.selected {
            ID => state.id = (value >> 24) & 0xf,
            VERSION | ARBITRATION => {}
            register => {
                let index = register.wrapping_sub(FIRST_ENTRY);
                let input = (index / 2) as usize;
                let Some(entry) = state.redirection.get_mut(input) else { return };
                let (shift, value) = (32 * (index % 2), u64::from(value));
                let writable = WRITABLE & (0xffff_ffff << shift);
                *entry = *entry & !writable | value << shift & writable;
                if *entry & LEVEL == 0 {
                    // An edge has nothing to wait for.
                    *entry &= !REMOTE_IRR;
                } else if state.levels & (1 << input) != 0 {
                    self.send(state, input);
                }
            }
        }
    }
}

impl InterruptController for IoApic {
    fn set_input(&self, number: u32, level: bool) {
        if number >= INPUTS {
            return;
        }
        let mut state = self.state.lock();
        let was = state.levels & (1 << number) != 0;
        state.levels = state.levels & !(1 << number) | u32::from(level) << number;
        // An edge at a masked input is lost; a level is seen when the mask goes.
        if level && !was {
            self.send(&mut state, number as usize);
        }
    }
}

impl Device for IoApic {
    fn debug_label(&self) -> &str {
        "ioapic"
    }
    fn reset(&self) {
        *self.state.lock() = reset_state();
    }
    fn save(&self) -> serde_json::Value {
        state_value(&self.state())
    }
    fn restore(&self, state: &serde_json::Value) -> Result<(), StateError> {
        let new: IoApicState = parse_state(self.debug_label(), state)?;
        self.set_state(&new);
        Ok(())
    }
}

impl MmioDevice for IoApic {
    fn access_rules(&self) -> AccessRules {
        AccessRules { narrowest: Width::Byte, widest: Width::Double, split_to: Width::Word, unaligned: false }
    }

    fn read(&self, offset: u64, width: Width) -> u64 {
        let state = self.state.lock();
        let value = match offset & !0xf {
            SELECT => state.selected,
            WINDOW => IoApic::read_register(&state),
            _ => 0,
        };
        match offset & 0xf {
            byte @ 0..4 => u64::from(value) >> (8 * byte) & width.mask(),
            _ => 0,
        }
    }

    fn write(&self, offset: u64, _width: Width, value: u64) -> Effect {
        match offset {
            SELECT => self.state.lock().selected = value as u32 & 0xff,
            WINDOW => self.write_register(&mut self.state.lock(), value as u32),
            EOI => self.end_of_interrupt(value as u8),
            _ => {}
        }
        Effect::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::FakeAccelerator;
    use accel::clock::VirtualClock;
    use accel::{Accelerator, AddressSpace, Architecture, IoBus};

    struct Machine {
        io_apic: Arc<IoApic>,
        cpu: Arc<dyn IoBus>,
    }

    impl Machine {
        fn new() -> Machine {
            let accelerator = FakeAccelerator::new(Architecture::X86_64);
            let vcpu = accelerator.create_vcpu(0).unwrap().handle();
            let apics = LocalApics::new(&[vcpu], &VirtualClock::new(), 1_000_000);
            let bus = Arc::new(crate::bus::Bus::new(Arc::new(|_| {})));
            let cpu = apics.processor_bus(0, bus, Arc::new(|| 0)).unwrap();
            let machine = Machine { io_apic: IoApic::new(apics), cpu };
            machine.local(0xf0, 0x1ff);
            machine
        }
        fn local(&self, offset: u64, value: u32) {
            self.cpu.write(AddressSpace::Memory, 0xfee0_0000 + offset, &value.to_le_bytes()).unwrap();
        }
        fn end(&self) {
            self.local(0xb0, 0);
        }
        fn taken(&self) -> Option<u8> {
            self.cpu.acknowledge_interrupt()
        }
        fn read(&self, register: u64) -> u32 {
            let _ = self.io_apic.write(0, Width::Word, register);
            self.io_apic.read(0x10, Width::Word) as u32
        }
        fn write(&self, register: u64, value: u32) {
            let _ = self.io_apic.write(0, Width::Word, register);
            let _ = self.io_apic.write(0x10, Width::Word, u64::from(value));
        }
    }

    #[test]
    fn registers_after_reset() {
        let machine = Machine::new();
        assert_eq!((machine.read(0), machine.read(1), machine.read(2)), (0, 0x17_0020, 0));
        assert_eq!((machine.read(0x10), machine.read(0x11), machine.read(0x3e)), (0x1_0000, 0, 0x1_0000));
        machine.write(0, 0xffff_ffff);
        assert_eq!((machine.read(0), machine.read(2)), (0xf00_0000, 0xf00_0000));
        machine.write(0x12, 0xffff_ffff);
        machine.write(0x13, 0xffff_ffff);
        assert_eq!((machine.read(0x12), machine.read(0x13)), (0x1_afff, 0xff00_0000));
        machine.write(0x40, 1);
        assert_eq!((machine.read(0x40), machine.read(0xff)), (0, 0));
        assert_eq!((machine.io_apic.read(0x20, Width::Word), machine.io_apic.read(0, Width::Byte)), (0, 0xff));
    }

    #[test]
    fn an_edge_is_sent_once_and_lost_while_it_is_masked() {
        let machine = Machine::new();
        machine.io_apic.set_input(4, true);
        machine.write(0x18, 0x31);
        assert_eq!(machine.taken(), None);
        machine.io_apic.set_input(4, false);
        machine.io_apic.set_input(4, true);
        machine.io_apic.set_input(4, true);
        assert_eq!(machine.taken(), Some(0x31));
        machine.end();
        assert_eq!(machine.taken(), None);
        machine.io_apic.set_input(99, true);
    }

    #[test]
    fn a_level_is_sent_again_after_its_end_until_it_falls() {
        let machine = Machine::new();
        machine.io_apic.set_input(10, true);
        machine.write(0x24, 0x8042);
        assert_eq!((machine.taken(), machine.read(0x24)), (Some(0x42), 0xc042));
        machine.io_apic.set_input(10, false);
        machine.io_apic.set_input(10, true);
        machine.end();
        assert_eq!((machine.taken(), machine.taken()), (Some(0x42), None));
        machine.io_apic.set_input(10, false);
        machine.end();
        assert_eq!((machine.taken(), machine.read(0x24)), (None, 0x8042));
    }

    #[test]
    fn the_eoi_register_and_a_change_to_edge_end_a_level() {
        let machine = Machine::new();
        machine.write(0x24, 0x8042);
        machine.io_apic.set_input(10, true);
        machine.io_apic.set_input(10, false);
        let _ = machine.io_apic.write(0x40, Width::Word, 0x43);
        assert_eq!(machine.read(0x24), 0xc042);
        let _ = machine.io_apic.write(0x40, Width::Word, 0x42);
        assert_eq!(machine.read(0x24), 0x8042);
        machine.io_apic.set_input(10, true);
        assert_eq!(machine.read(0x24), 0xc042);
        machine.write(0x24, 0x1_0042);
        assert_eq!(machine.read(0x24), 0x1_0042);
    }

    #[test]
    fn a_level_that_nobody_accepts_waits() {
        let machine = Machine::new();
        machine.write(0x25, 5 << 24);
        machine.write(0x24, 0x8042);
        machine.io_apic.set_input(10, true);
        assert_eq!(machine.read(0x24), 0x8042);
        machine.write(0x25, 0);
        assert_eq!(machine.taken(), Some(0x42));
    }

    #[test]
    fn a_saved_state_goes_on() {
        let (machine, other) = (Machine::new(), Machine::new());
        machine.write(0x24, 0x8042);
        machine.io_apic.set_input(10, true);
        other.io_apic.restore(&machine.io_apic.save()).unwrap();
        assert_eq!((other.read(0x24), other.io_apic.save()), (0xc042, machine.io_apic.save()));
    }
}
