//! High-precision event timers.
//!
//! IA-PC HPET specification 1.0a: three comparators on a 64-bit counter of 100 MHz, without message-signalled interrupts. With
//! legacy replacement, timer 0 takes the interval timer's place on ISA interrupt 0 and timer 1 that of the real-time clock
//! on ISA interrupt 8.

use std::sync::{Arc, Weak};

use accel::clock::{Timer, VirtualClock};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::bus::{AccessRules, Effect, MmioDevice, Width};
use crate::device::{Device, StateError, parse_state, state_value};
use crate::interrupt::{InterruptController, InterruptLine};

/// Guest-physical address of the registers.
pub const ADDRESS: u64 = 0xfed0_0000;
/// Size of the register area, bytes.
pub const SIZE: u64 = 0x400;
/// The low half of the capabilities register, as ACPI's table repeats it: revision 1, three timers, 64 bits, legacy
/// replacement.
pub const BLOCK_ID: u32 = 0x8086_a201;

/// Nanoseconds per tick.
const TICK: u64 = 10;
/// The same in femtoseconds.
const PERIOD: u64 = TICK * 1_000_000;
const TIMERS: usize = 3;

/// Least time between two interrupts of a periodic timer, nanoseconds: what a guest may ask for, nobody could serve.
const LEAST_PERIOD: u64 = 20_000;

const CAPABILITIES: u64 = 0x000;
const CONFIGURATION: u64 = 0x010;
const STATUS: u64 = 0x020;
const COUNTER: u64 = 0x0f0;
const FIRST_TIMER: u64 = 0x100;
const TIMER_SIZE: u64 = 0x20;

const ENABLE: u64 = 1 << 0;
const LEGACY: u64 = 1 << 1;

// Bits of a timer's configuration.
const LEVEL: u64 = 1 << 1;
const INTERRUPTS: u64 = 1 << 2;
const PERIODIC: u64 = 1 << 3;
const CAN_BE_PERIODIC: u64 = 1 << 4;
const IS_64_BIT: u64 = 1 << 5;
const SET_COMPARATOR: u64 = 1 << 6;
const FORCE_32_BIT: u64 = 1 << 8;
const TIMER_WRITABLE: u64 = 0x3f4e;
/// Inputs of the I/O APIC that a timer can be routed to, in the high half: number 2 only.
const ROUTES: u64 = 1 << (32 + 2);

/// ISA interrupts of timers 0 and 1 with legacy replacement.
const LEGACY_INTERRUPTS: [u32; 2] = [0, 8];
const CLOCK_INTERRUPT: u32 = 8;

/// A comparator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HpetTimerState {
    /// Configuration.
    pub configuration: u64,
    /// Comparator.
    pub comparator: u64,
    /// What is added to the comparator of a periodic timer, ticks.
    pub period: u64,
}

/// The registers of an [`Hpet`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HpetState {
    /// General configuration.
    pub configuration: u64,
    /// Interrupt status.
    pub status: u64,
    /// Main counter.
    pub counter: u64,
    /// The timers.
    pub timers: [HpetTimerState; TIMERS],
    /// Level of the real-time clock's interrupt.
    pub clock_level: bool,
}

struct Registers {
    /// `counter` is the main counter while it stands still.
    state: HpetState,
    /// Virtual time at which a running counter was zero; wraps.
    started: u64,
    /// When each timer's interrupt is due.
    due: [Option<u64>; TIMERS],
}

/// The timers of a PC.
pub struct Hpet {
    clock: Arc<VirtualClock>,
    /// Global system interrupts.
    interrupts: Arc<dyn InterruptController>,
    /// Told when legacy replacement begins and ends.
    replace_timer: Arc<dyn Fn(bool) + Send + Sync>,
    timer: Timer,
    // Lock order: after the real-time clock's; before the interval timer's, the clock's and interrupt controllers'.
    registers: Mutex<Registers>,
}

fn reset_state(clock_level: bool) -> HpetState {
    let configuration = CAN_BE_PERIODIC | IS_64_BIT | ROUTES;
    let timer = HpetTimerState { configuration, comparator: u64::MAX, period: 0 };
    HpetState { configuration: 0, status: 0, counter: 0, timers: [timer; TIMERS], clock_level }
}

impl Registers {
    fn is_running(&self) -> bool {
        self.state.configuration & ENABLE != 0
    }

    fn is_legacy(&self) -> bool {
        self.state.configuration & LEGACY != 0
    }

    fn counter(&self, now: u64) -> u64 {
        if self.is_running() { now.wrapping_sub(self.started) / TICK } else { self.state.counter }
    }

    fn set_counter(&mut self, value: u64, now: u64) {
        self.state.counter = value;
        self.started = now.wrapping_sub(value.wrapping_mul(TICK));
    }

    /// The interrupt of timer `number`.
    fn route(&self, number: usize) -> u32 {
        match LEGACY_INTERRUPTS.get(number) {
            Some(interrupt) if self.is_legacy() => *interrupt,
            _ => (self.state.timers[number].configuration >> 9) as u32 & 0x1f,
        }
    }

    /// Ticks until the counter matches the comparator.
    fn distance(&self, number: usize, counter: u64) -> u64 {
        let timer = &self.state.timers[number];
        let distance = timer.comparator.wrapping_sub(counter);
        match (timer.configuration & FORCE_32_BIT != 0, distance) {
            (true, distance) if distance as u32 == 0 => 1 << 32,
            (true, distance) => u64::from(distance as u32),
            (false, 0) => u64::MAX,
            (false, distance) => distance,
        }
    }

    fn schedule(&mut self, number: usize, now: u64) {
        self.due[number] = self.is_running().then(|| {
            let ticks = self.distance(number, self.counter(now));
            now.saturating_add(ticks.saturating_mul(TICK))
        });
    }

    /// The comparator matched: a periodic one moves on.
    fn advance(&mut self, number: usize, now: u64) {
        let counter = self.counter(now);
        let timer = &mut self.state.timers[number];
        if timer.configuration & PERIODIC != 0 && timer.period != 0 {
            // Periods that were missed make one interrupt.
            let behind = counter.wrapping_sub(timer.comparator);
            let behind = if timer.configuration & FORCE_32_BIT != 0 { u64::from(behind as u32) } else { behind };
            let periods = behind / timer.period + 1;
            timer.comparator = timer.comparator.wrapping_add(periods.wrapping_mul(timer.period));
        }
        self.schedule(number, now);
        if timer_is_periodic(&self.state.timers[number]) {
            self.due[number] = self.due[number].map(|due| due.max(now.saturating_add(LEAST_PERIOD)));
        }
    }
}

fn timer_is_periodic(timer: &HpetTimerState) -> bool {
    timer.configuration & PERIODIC != 0
}

impl Hpet {
    /// Timers that interrupt through `interrupts`. `replace_timer` is called when timer 0 takes the place of the interval
    /// timer (true), and when it gives it back.
    ///
    /// The interrupt of the real-time clock has to come through input 0 of the result.
    pub fn new(
        clock: Arc<VirtualClock>,
        interrupts: Arc<dyn InterruptController>,
        replace_timer: Arc<dyn Fn(bool) + Send + Sync>,
    ) -> Arc<Hpet> {
        Arc::new_cyclic(|this: &Weak<Hpet>| {
            let this = this.clone();
            let timer = clock.timer(move || {
                if let Some(this) = this.upgrade() {
                    this.fire();
                }
            });
            let registers = Registers { state: reset_state(false), started: 0, due: [None; TIMERS] };
            Hpet { clock, interrupts, replace_timer, timer, registers: Mutex::new(registers) }
        })
    }

    /// The line that the real-time clock interrupts through.
    pub fn clock_line(self: &Arc<Hpet>) -> InterruptLine {
        InterruptLine::new(self.clone(), 0)
    }

    fn fire(&self) {
        let now = self.clock.now();
        let mut registers = self.registers.lock();
        for number in 0..TIMERS {
            if registers.due[number].is_none_or(|due| due > now) {
                continue;
            }
            let configuration = registers.state.timers[number].configuration;
            let line = registers.route(number);
            if configuration & LEVEL != 0 {
                registers.state.status |= 1 << number;
                if configuration & INTERRUPTS != 0 {
                    self.interrupts.set_input(line, true);
                }
            } else if configuration & INTERRUPTS != 0 {
                self.interrupts.set_input(line, true);
                self.interrupts.set_input(line, false);
            }
            registers.advance(number, now);
        }
        self.arm(&registers);
    }

    /// Arms the host's timer for the first of the timers that interrupt.
    fn arm(&self, registers: &Registers) {
        let matters = |(timer, due): (&HpetTimerState, &Option<u64>)| {
            due.filter(|_| timer.configuration & (INTERRUPTS | LEVEL) != 0)
        };
        match registers.state.timers.iter().zip(&registers.due).filter_map(matters).min() {
            Some(due) => self.timer.arm(due),
            None => self.timer.disarm(),
        }
    }

    /// Sets the lines of level-triggered timers by the status register.
    fn update_levels(&self, registers: &Registers) {
        for (number, timer) in registers.state.timers.iter().enumerate() {
            if timer.configuration & LEVEL != 0 {
                let up = registers.state.status & (1 << number) != 0 && timer.configuration & INTERRUPTS != 0;
                self.interrupts.set_input(registers.route(number), up);
            }
        }
    }

    fn write_configuration(&self, registers: &mut Registers, value: u64, now: u64) {
        let counter = registers.counter(now);
        let changed = registers.state.configuration ^ value;
        if changed & LEGACY != 0 {
            let legacy = value & LEGACY != 0;
            // The interrupt that changes hands is low in between.
            self.interrupts.set_input(CLOCK_INTERRUPT, false);
            registers.state.configuration = value & (ENABLE | LEGACY);
            (self.replace_timer)(legacy);
            if !legacy {
                self.interrupts.set_input(CLOCK_INTERRUPT, registers.state.clock_level);
            }
        }
        registers.state.configuration = value & (ENABLE | LEGACY);
        registers.set_counter(counter, now);
        (0..TIMERS).for_each(|number| registers.schedule(number, now));
    }

    /// Puts a state in place.
    fn load(&self, registers: &mut Registers, state: HpetState) {
        let now = self.clock.now();
        let was_legacy = registers.is_legacy();
        registers.state = state;
        let counter = registers.state.counter;
        registers.set_counter(counter, now);
        (0..TIMERS).for_each(|number| registers.schedule(number, now));
        if was_legacy != registers.is_legacy() {
            (self.replace_timer)(registers.is_legacy());
        }
        self.arm(registers);
    }

    fn read_register(registers: &Registers, offset: u64, now: u64) -> u64 {
        let state = &registers.state;
        match offset {
            CAPABILITIES => u64::from(BLOCK_ID) | PERIOD << 32,
            CONFIGURATION => state.configuration,
            STATUS => state.status,
            COUNTER => registers.counter(now),
            FIRST_TIMER.. => match state.timers.get(((offset - FIRST_TIMER) / TIMER_SIZE) as usize) {
                Some(timer) if offset.is_multiple_of(TIMER_SIZE) => timer.configuration,
                Some(timer) if offset % TIMER_SIZE == 8 => timer.comparator,
                _ => 0,
            },
            _ => 0,
        }
    }

    fn write_timer(registers: &mut Registers, number: usize, register: u64, value: u64, mask: u64, now: u64) {
        let Some(timer) = registers.state.timers.get_mut(number) else { return };
        match register {
            0 => {
                timer.configuration = timer.configuration & !TIMER_WRITABLE | value & TIMER_WRITABLE;
                if timer.configuration & FORCE_32_BIT != 0 {
                    timer.comparator &= 0xffff_ffff;
                    timer.period &= 0xffff_ffff;
                }
            }
            8 => {
                let is_32_bit = timer.configuration & FORCE_32_BIT != 0;
                let width = if is_32_bit { 0xffff_ffff } else { u64::MAX };
                if timer.configuration & PERIODIC == 0 || timer.configuration & SET_COMPARATOR != 0 {
                    timer.comparator = value & width;
                }
                if timer.configuration & PERIODIC != 0 {
                    // A half that is not written is that of a new period.
                    timer.period = (value & mask | timer.period & !mask) & width;
                }
                timer.configuration &= !SET_COMPARATOR;
            }
            _ => return,
        }
        registers.schedule(number, now);
    }
}

impl InterruptController for Hpet {
    /// The real-time clock's interrupt, which legacy replacement cuts off.
    fn set_input(&self, _number: u32, level: bool) {
        let mut registers = self.registers.lock();
        registers.state.clock_level = level;
        if !registers.is_legacy() {
            self.interrupts.set_input(CLOCK_INTERRUPT, level);
        }
    }
}

impl Device for Hpet {
    fn debug_label(&self) -> &str {
        "hpet"
    }
    fn reset(&self) {
        let mut registers = self.registers.lock();
        registers.state.status = 0;
        self.update_levels(&registers);
        let clock_level = registers.state.clock_level;
        self.load(&mut registers, reset_state(clock_level));
    }
    fn save(&self) -> serde_json::Value {
        let now = self.clock.now();
        let registers = self.registers.lock();
        state_value(&HpetState { counter: registers.counter(now), ..registers.state.clone() })
    }
    fn restore(&self, state: &serde_json::Value) -> Result<(), StateError> {
        let mut new: HpetState = parse_state(self.debug_label(), state)?;
        new.configuration &= ENABLE | LEGACY;
        for timer in &mut new.timers {
            let writable = TIMER_WRITABLE | SET_COMPARATOR;
            timer.configuration = timer.configuration & writable | CAN_BE_PERIODIC | IS_64_BIT | ROUTES;
        }
        self.load(&mut self.registers.lock(), new);
        Ok(())
    }
}

impl MmioDevice for Hpet {
    fn access_rules(&self) -> AccessRules {
        AccessRules { narrowest: Width::Word, widest: Width::Double, split_to: Width::Double, unaligned: false }
    }

    fn read(&self, offset: u64, width: Width) -> u64 {
        let now = self.clock.now();
        let value = Hpet::read_register(&self.registers.lock(), offset & !7, now);
        (value >> (8 * (offset & 7))) & width.mask()
    }

    fn write(&self, offset: u64, width: Width, value: u64) -> Effect {
        let now = self.clock.now();
        let mut registers = self.registers.lock();
        let (register, shift) = (offset & !7, 8 * (offset & 7));
        let mask = width.mask() << shift;
        let written = (value & width.mask()) << shift;
        let old = Hpet::read_register(&registers, register, now);
        let value = old & !mask | written;
        match register {
            CONFIGURATION => self.write_configuration(&mut registers, value, now),
            STATUS => {
                // Ones clear.
                registers.state.status &= !written;
                self.update_levels(&registers);
            }
            COUNTER => {
                registers.set_counter(value, now);
                (0..TIMERS).for_each(|number| registers.schedule(number, now));
            }
            FIRST_TIMER.. => {
                let number = ((register - FIRST_TIMER) / TIMER_SIZE) as usize;
                Hpet::write_timer(&mut registers, number, register % TIMER_SIZE, value, mask, now);
                self.update_levels(&registers);
            }
            _ => {}
        }
        self.arm(&registers);
        Effect::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::{Lines, wait_for};
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    struct Machine {
        hpet: Arc<Hpet>,
        lines: Arc<Lines>,
        clock: Arc<VirtualClock>,
        replaced: Arc<AtomicBool>,
    }

    fn machine() -> Machine {
        let (lines, clock) = (Lines::new(), VirtualClock::new());
        let replaced: Arc<AtomicBool> = Arc::default();
        let told = replaced.clone();
        let replace = Arc::new(move |value| told.store(value, Ordering::SeqCst));
        let hpet = Hpet::new(clock.clone(), lines.clone(), replace);
        Machine { hpet, lines, clock, replaced }
    }

    impl Machine {
        fn read(&self, offset: u64) -> u64 {
            self.hpet.read(offset, Width::Double)
        }
        fn write(&self, offset: u64, value: u64) {
            assert_eq!(self.hpet.write(offset, Width::Double, value), Effect::None);
        }
    }

    #[test]
    fn capabilities_and_the_registers_after_reset() {
        let machine = machine();
        assert_eq!(machine.read(0), 10_000_000 << 32 | 0x8086_a201);
        assert_eq!((machine.hpet.read(4, Width::Word), machine.read(0x10)), (10_000_000, 0));
        assert_eq!((machine.read(0x100), machine.read(0x148)), (0x4_0000_0030, u64::MAX));
        assert_eq!((machine.read(0x160), machine.read(0x3f8)), (0, 0));
        machine.write(0x100, u64::MAX);
        assert_eq!(machine.read(0x100), 0x4_0000_3f7e);
    }

    #[test]
    fn the_counter_counts_while_it_is_enabled_and_takes_halves() {
        let machine = machine();
        machine.clock.set(1000);
        machine.write(0xf0, 0x1_0000_0005);
        assert_eq!(machine.read(0xf0), 0x1_0000_0005);
        machine.write(0x10, 1);
        machine.clock.set(2000);
        assert_eq!(machine.read(0xf0), 0x1_0000_0005 + 100);
        let _ = machine.hpet.write(0xf4, Width::Word, 7);
        assert_eq!(machine.hpet.read(0xf4, Width::Word), 7);
        machine.write(0x10, 0);
        let counter = machine.read(0xf0);
        machine.clock.set(1_000_000);
        assert_eq!(machine.read(0xf0), counter);
    }

    #[test]
    fn an_edge_comes_once_at_the_match() {
        let machine = machine();
        machine.write(0x120, 2 << 9 | 4);
        machine.write(0x128, 100_000);
        machine.write(0x10, 1);
        machine.clock.resume();
        wait_for("the timer", || machine.lines.rises(2) == 1);
        assert!(machine.read(0xf0) >= 100_000);
        assert_eq!((machine.lines.level(2), machine.read(0x20)), (false, 0));
        std::thread::sleep(Duration::from_millis(5));
        assert_eq!(machine.lines.rises(2), 1);
    }

    #[test]
    fn a_level_stays_until_its_status_is_cleared() {
        let machine = machine();
        machine.write(0x140, 2 << 9 | 6);
        machine.write(0x148, 1000);
        machine.write(0x10, 1);
        machine.clock.resume();
        assert!(machine.lines.wait(2, true, Duration::from_secs(10)));
        assert_eq!(machine.read(0x20), 4);
        machine.write(0x20, 3);
        assert!(machine.lines.level(2));
        machine.write(0x20, 4);
        assert_eq!((machine.lines.level(2), machine.read(0x20)), (false, 0));
    }

    #[test]
    fn a_periodic_timer_has_a_first_match_and_a_period() {
        let machine = machine();
        machine.write(0x100, 2 << 9 | 4 | 8 | 0x40);
        machine.write(0x108, 50_000);
        assert_eq!(machine.read(0x100) & 0x40, 0);
        machine.write(0x108, 200_000);
        assert_eq!(machine.read(0x108), 50_000);
        machine.write(0x10, 1);
        machine.clock.resume();
        wait_for("three periods", || machine.lines.rises(2) >= 3);
        assert!(machine.read(0xf0) >= 450_000);
        assert_eq!(machine.read(0x108) % 200_000, 50_000);
    }

    #[test]
    fn a_32_bit_timer_wraps() {
        let machine = machine();
        machine.write(0xf0, 0x1_ffff_0000);
        machine.write(0x100, 2 << 9 | 4 | 0x100);
        machine.write(0x108, 0x8000);
        machine.write(0x10, 1);
        machine.clock.resume();
        wait_for("the timer", || machine.lines.rises(2) == 1);
        assert!(machine.read(0xf0) >= 0x2_0000_8000);
    }

    #[test]
    fn legacy_replacement_takes_the_interrupts_of_timer_and_clock() {
        let machine = machine();
        let clock = machine.hpet.clock_line();
        clock.set(true);
        assert!(machine.lines.level(8));
        machine.write(0x10, 2);
        assert!(!machine.lines.level(8) && machine.replaced.load(Ordering::SeqCst));
        clock.set(false);
        clock.set(true);
        assert!(!machine.lines.level(8));
        machine.write(0x100, 4);
        machine.write(0x108, 1000);
        machine.write(0x120, 4);
        machine.write(0x128, 1000);
        machine.write(0x10, 3);
        machine.clock.resume();
        wait_for("both timers", || machine.lines.rises(0) == 1 && machine.lines.rises(8) == 2);
        machine.hpet.reset();
        assert!(!machine.replaced.load(Ordering::SeqCst));
    }

    #[test]
    fn shortest_periods_do_not_keep_the_host_busy() {
        let machine = machine();
        machine.write(0x100, 2 << 9 | 4 | 8 | 0x40);
        machine.write(0x108, 1);
        machine.write(0x10, 1);
        machine.clock.resume();
        std::thread::sleep(Duration::from_millis(20));
        let elapsed = machine.clock.now();
        assert!(u64::from(machine.lines.rises(2)) <= elapsed / LEAST_PERIOD + 2);
    }

    #[test]
    fn a_saved_state_goes_on() {
        let machine = machine();
        machine.write(0x120, 2 << 9 | 4);
        machine.write(0x128, 500);
        machine.write(0x10, 1);
        machine.clock.set(3000);
        let other = super::tests::machine();
        other.hpet.restore(&machine.hpet.save()).unwrap();
        assert_eq!((other.read(0xf0), other.read(0x128)), (300, 500));
        other.clock.resume();
        wait_for("the timer", || other.lines.rises(2) == 1);
    }
}
