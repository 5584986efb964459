//! The programmable interval timer of a PC.
//!
//! Intel 8254 data sheet (231164): channel 0 drives ISA interrupt 0, channel 2 the speaker, whose gate is in port 0x61
//! (PIIX3 data sheet 290550, section 2.5.4). Channel 1 refreshed memory and counts only.
//!
//! Counters are not stepped: what one shows follows from the virtual time since its count was loaded. The output of channel 0
//! is driven at its rising edges; the short or longer low phase before each is only seen in the status byte.

use std::sync::{Arc, Weak};

use accel::clock::{Timer, VirtualClock};
use accel::state::pc::{Pit, PitChannel};
use parking_lot::Mutex;

use crate::bus::{Effect, PioDevice, Width};
use crate::device::{Device, StateError, impossible, parse_state, state_value};
use crate::interrupt::InterruptLine;

/// First port and number of ports.
pub const PORTS: (u64, u64) = (0x40, 4);
/// The system control port with the speaker's gate.
pub const SYSTEM_CONTROL_PORT: u64 = 0x61;
/// Offset at which the device sees [`SYSTEM_CONTROL_PORT`].
pub const SYSTEM_CONTROL: u64 = 4;

/// Frequency of the counters, Hz.
pub const FREQUENCY: u64 = 1_193_182;
const SECOND: u64 = 1_000_000_000;

/// Period of the bit in port 0x61 that toggles with memory refreshes, nanoseconds.
const REFRESH: u64 = 15_085;

/// Least time between two interrupts that a guest can ask for, nanoseconds: the shortest period of the counter is below
/// two microseconds, and no software serves that.
const LEAST_PERIOD: u64 = 20_000;

/// Which bytes a channel is accessed by; the values of the control word's bits 5 and 4.
const LOW: u8 = 1;
const HIGH: u8 = 2;
const BOTH: u8 = 3;
/// The second byte of two is next.
const BOTH_HIGH: u8 = 4;

const CONTROL: u64 = 3;
const SPEAKER: usize = 2;

fn ticks(nanoseconds: u64) -> u64 {
    (u128::from(nanoseconds) * u128::from(FREQUENCY) / u128::from(SECOND)) as u64
}

/// The first nanosecond at which `ticks` have passed.
fn nanoseconds(ticks: u64) -> u64 {
    u64::try_from((u128::from(ticks) * u128::from(SECOND)).div_ceil(u128::from(FREQUENCY))).unwrap_or(u64::MAX)
}

fn from_bcd(value: u16) -> u32 {
    (0..4).rev().fold(0, |number, digit| number * 10 + u32::from((value >> (4 * digit)) & 0xf))
}

fn to_bcd(value: u64) -> u16 {
    (0..4).fold((0, value), |(bcd, rest), digit| (bcd | (((rest % 10) as u16) << (4 * digit)), rest / 10)).0
}

/// A counter, with the virtual time instead of [`PitChannel::elapsed`].
#[derive(Clone, Copy)]
struct Channel {
    registers: PitChannel,
    /// Virtual time at which the count was loaded; wraps.
    loaded: u64,
    /// Nanoseconds of counting when the gate stopped it.
    held: Option<u64>,
}

impl Channel {
    fn new(registers: PitChannel, now: u64) -> Channel {
        let mut channel = Channel { registers, loaded: now.wrapping_sub(registers.elapsed), held: None };
        if !registers.gate && channel.gate_stops() {
            channel.held = Some(registers.elapsed);
        }
        channel
    }

    fn state(&self, now: u64) -> PitChannel {
        PitChannel { elapsed: self.elapsed(now), ..self.registers }
    }

    /// A low gate stops counting in this mode; in the others only its rise counts.
    fn gate_stops(&self) -> bool {
        !matches!(self.registers.mode, 1 | 5)
    }

    fn elapsed(&self, now: u64) -> u64 {
        self.held.unwrap_or_else(|| now.wrapping_sub(self.loaded))
    }

    /// Number of values that the counter has.
    fn modulus(&self) -> u64 {
        if self.registers.bcd { 10_000 } else { 0x1_0000 }
    }

    /// The counter; 0 while no count was loaded.
    fn counter(&self, now: u64) -> u16 {
        let count = u64::from(self.registers.count);
        if count == 0 {
            return 0;
        }
        let ticks = ticks(self.elapsed(now));
        let value = match self.registers.mode {
            2 => count - ticks % count,
            // It counts by two, and twice for each period.
            3 => (count - 2 * ticks % count) & !1,
            _ => {
                let modulus = self.modulus();
                (count + modulus - ticks % modulus) % modulus
            }
        };
        if self.registers.bcd { to_bcd(value) } else { value as u16 }
    }

    /// Level of OUT.
    fn output(&self, now: u64) -> bool {
        let count = u64::from(self.registers.count);
        if count == 0 {
            return self.registers.mode != 0;
        }
        let ticks = ticks(self.elapsed(now));
        match self.registers.mode {
            0 | 1 => ticks >= count,
            2 => !self.registers.gate || ticks % count != count - 1,
            3 => !self.registers.gate || ticks % count < count.div_ceil(2),
            _ => ticks != count,
        }
    }

    /// Virtual time of the next rise of OUT after `now`.
    fn next_rise(&self, now: u64) -> Option<u64> {
        let count = u64::from(self.registers.count);
        if count == 0 || self.held.is_some() {
            return None;
        }
        let elapsed = self.elapsed(now);
        let next = match self.registers.mode {
            2 | 3 => (ticks(elapsed) / count + 1).checked_mul(count)?,
            _ if ticks(elapsed) < count => count,
            _ => return None,
        };
        Some(now.saturating_add(nanoseconds(next).saturating_sub(elapsed)))
    }

    fn load(&mut self, value: u16, now: u64) {
        let count = if self.registers.bcd { from_bcd(value) } else { u32::from(value) };
        self.registers.count = if count == 0 { self.modulus() as u32 } else { count };
        self.loaded = now;
        self.held = (!self.registers.gate && self.gate_stops()).then_some(0);
    }

    fn set_gate(&mut self, level: bool, now: u64) {
        let rises = level && !self.registers.gate;
        let falls = !level && self.registers.gate;
        self.registers.gate = level;
        match self.registers.mode {
            0 | 4 if falls => self.held = Some(self.elapsed(now)),
            0 | 4 if rises => {
                self.loaded = now.wrapping_sub(self.elapsed(now));
                self.held = None;
            }
            2 | 3 if falls => self.held = Some(self.elapsed(now)),
            // A rise starts these anew.
            1 | 2 | 3 | 5 if rises => {
                self.loaded = now;
                self.held = None;
            }
            _ => {}
        }
    }

    fn control(&mut self, value: u8, now: u64) {
        let access = (value >> 4) & 3;
        if access == 0 {
            self.latch_count(now);
            return;
        }
        let registers = &mut self.registers;
        registers.access = access;
        (registers.read_state, registers.write_state) = (access, access);
        registers.latched = 0;
        registers.status_latched = false;
        registers.mode = match (value >> 1) & 7 {
            mode @ 0..6 => mode,
            mode => mode & 3,
        };
        registers.bcd = value & 1 != 0;
        // Nothing counts until a count is loaded.
        registers.count = 0;
        self.held = None;
    }

    fn latch_count(&mut self, now: u64) {
        if self.registers.latched == 0 {
            self.registers.latched_count = self.counter(now);
            self.registers.latched = self.registers.access;
        }
    }

    fn latch_status(&mut self, now: u64) {
        if !self.registers.status_latched {
            let null_count = self.registers.count == 0;
            let registers = &self.registers;
            self.registers.status = u8::from(self.output(now)) << 7
                | u8::from(null_count) << 6
                | registers.access << 4
                | registers.mode << 1
                | u8::from(registers.bcd);
            self.registers.status_latched = true;
        }
    }

    fn read(&mut self, now: u64) -> u8 {
        if self.registers.status_latched {
            self.registers.status_latched = false;
            return self.registers.status;
        }
        let counter = self.counter(now);
        let registers = &mut self.registers;
        let (value, state) = match registers.latched {
            0 => (counter, &mut registers.read_state),
            _ => (registers.latched_count, &mut registers.latched),
        };
        let [low, high] = value.to_le_bytes();
        let (byte, next) = match *state {
            LOW => (low, LOW),
            HIGH => (high, HIGH),
            BOTH_HIGH => (high, BOTH),
            _ => (low, BOTH_HIGH),
        };
        let ends = next != BOTH_HIGH;
        *state = next;
        if ends {
            // A latched count was read to its end.
            registers.latched = 0;
        }
        byte
    }

    fn write(&mut self, value: u8, now: u64) {
        match self.registers.write_state {
            LOW => self.load(u16::from(value), now),
            HIGH => self.load(u16::from(value) << 8, now),
            BOTH_HIGH => {
                self.registers.write_state = BOTH;
                self.load(u16::from_le_bytes([self.registers.write_latch, value]), now);
            }
            _ => {
                self.registers.write_latch = value;
                self.registers.write_state = BOTH_HIGH;
                if self.registers.mode == 0 {
                    // The first byte stops the count.
                    self.registers.count = 0;
                }
            }
        }
    }
}

struct Inner {
    channels: [Channel; 3],
    replaced_by_hpet: bool,
    speaker_on: bool,
}

/// The timer.
pub struct I8254 {
    clock: Arc<VirtualClock>,
    line: InterruptLine,
    timer: Timer,
    // Lock order: before the clock's and interrupt controllers'.
    inner: Mutex<Inner>,
}

/// As firmware finds it: all counters run with the longest period.
fn reset_state() -> Pit {
    let channel = |gate| PitChannel {
        count: 0x1_0000,
        read_state: BOTH,
        write_state: BOTH,
        access: BOTH,
        mode: 3,
        gate,
        ..PitChannel::default()
    };
    Pit { channels: [channel(true), channel(true), channel(false)], replaced_by_hpet: false, speaker_on: false }
}

fn inner(state: &Pit, now: u64) -> Inner {
    let channels = state.channels.map(|channel| Channel::new(channel, now));
    Inner { channels, replaced_by_hpet: state.replaced_by_hpet, speaker_on: state.speaker_on }
}

impl I8254 {
    /// A timer whose channel 0 drives `line`.
    pub fn new(clock: Arc<VirtualClock>, line: InterruptLine) -> Arc<I8254> {
        Arc::new_cyclic(|this: &Weak<I8254>| {
            let this = this.clone();
            let timer = clock.timer(move || {
                if let Some(this) = this.upgrade() {
                    this.fire();
                }
            });
            let inner = Mutex::new(inner(&reset_state(), clock.now()));
            I8254 { clock, line, timer, inner }
        })
    }

    /// OUT of channel 0 rises.
    fn fire(&self) {
        let inner = self.inner.lock();
        if !inner.replaced_by_hpet {
            self.line.set(false);
            self.line.set(true);
        }
        self.arm(&inner, self.clock.now(), LEAST_PERIOD);
    }

    /// Arms the timer for the next rise of channel 0, not before `least` nanoseconds have passed.
    fn arm(&self, inner: &Inner, now: u64, least: u64) {
        match inner.channels[0].next_rise(now) {
            Some(time) => self.timer.arm(time.max(now.saturating_add(least))),
            None => self.timer.disarm(),
        }
    }

    /// After a change of channel 0 by the guest.
    fn restart(&self, inner: &Inner, now: u64) {
        if !inner.replaced_by_hpet {
            self.line.set(inner.channels[0].output(now));
        }
        self.arm(inner, now, 0);
    }

    /// The registers.
    pub fn state(&self) -> Pit {
        let now = self.clock.now();
        let inner = self.inner.lock();
        Pit {
            channels: inner.channels.map(|channel| channel.state(now)),
            replaced_by_hpet: inner.replaced_by_hpet,
            speaker_on: inner.speaker_on,
        }
    }

    /// Replaces the registers. Values that no such device has are replaced by possible ones.
    pub fn set_state(&self, state: &Pit) {
        let mut state = *state;
        for channel in &mut state.channels {
            channel.mode = if channel.mode < 6 { channel.mode } else { channel.mode & 3 };
            channel.count = channel.count.min(0x1_0000);
        }
        let now = self.clock.now();
        let mut current = self.inner.lock();
        *current = inner(&state, now);
        self.restart(&current, now);
    }

    /// An HPET takes channel 0's place on its interrupt line, or gives it back.
    pub fn set_replaced_by_hpet(&self, replaced: bool) {
        let now = self.clock.now();
        let mut inner = self.inner.lock();
        inner.replaced_by_hpet = replaced;
        if replaced {
            // Low, so that the other timer's first interrupt is an edge.
            self.line.set(false);
        }
        self.restart(&inner, now);
    }
}

impl Device for I8254 {
    fn debug_label(&self) -> &str {
        "i8254"
    }
    fn reset(&self) {
        self.set_state(&reset_state());
    }
    fn save(&self) -> serde_json::Value {
        state_value(&self.state())
    }
    fn restore(&self, state: &serde_json::Value) -> Result<(), StateError> {
        let new: Pit = parse_state(self.debug_label(), state)?;
        if new.channels.iter().any(|channel| channel.count > 0x1_0000 || channel.mode > 5) {
            return Err(impossible(self.debug_label(), "counts end at 65536 and modes at 5"));
        }
        self.set_state(&new);
        Ok(())
    }
}

impl PioDevice for I8254 {
    fn read_port(&self, offset: u64, _width: Width) -> u64 {
        let now = self.clock.now();
        let mut inner = self.inner.lock();
        if offset == SYSTEM_CONTROL {
            let speaker = &inner.channels[SPEAKER];
            return u64::from(speaker.registers.gate)
                | u64::from(inner.speaker_on) << 1
                | ((now / REFRESH) & 1) << 4
                | u64::from(speaker.output(now)) << 5;
        }
        match inner.channels.get_mut(offset as usize) {
            Some(channel) => u64::from(channel.read(now)),
            // The control word cannot be read.
            None => 0,
        }
    }

    fn write_port(&self, offset: u64, _width: Width, value: u64) -> Effect {
        let now = self.clock.now();
        let mut inner = self.inner.lock();
        let value = value as u8;
        match offset {
            SYSTEM_CONTROL => {
                inner.speaker_on = value & 2 != 0;
                inner.channels[SPEAKER].set_gate(value & 1 != 0, now);
            }
            CONTROL if value >> 6 == 3 => {
                // Read-back: the bits that say what is latched are active low.
                for (number, channel) in inner.channels.iter_mut().enumerate() {
                    if value & (2 << number) != 0 {
                        if value & 0x20 == 0 {
                            channel.latch_count(now);
                        }
                        if value & 0x10 == 0 {
                            channel.latch_status(now);
                        }
                    }
                }
            }
            CONTROL => {
                let number = usize::from(value >> 6);
                inner.channels[number].control(value, now);
                if number == 0 && value & 0x30 != 0 {
                    self.restart(&inner, now);
                }
            }
            0..CONTROL => {
                let number = offset as usize;
                inner.channels[number].write(value, now);
                if number == 0 {
                    self.restart(&inner, now);
                }
            }
            _ => {}
        }
        Effect::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::Lines;
    use std::time::Duration;

    fn device() -> (Arc<I8254>, Arc<Lines>, Arc<VirtualClock>) {
        let (lines, clock) = (Lines::new(), VirtualClock::new());
        (I8254::new(clock.clone(), lines.line(0)), lines, clock)
    }
    fn write(pit: &I8254, offset: u64, values: &[u8]) {
        for value in values {
            assert_eq!(pit.write_port(offset, Width::Byte, u64::from(*value)), Effect::None);
        }
    }
    fn read(pit: &I8254, offset: u64) -> u8 {
        pit.read_port(offset, Width::Byte) as u8
    }
    fn read_word(pit: &I8254, offset: u64) -> u16 {
        u16::from_le_bytes([read(pit, offset), read(pit, offset)])
    }
    /// Lets exactly `count` ticks pass since time 0.
    fn tick(clock: &VirtualClock, count: u64) {
        clock.set(nanoseconds(count));
    }

    #[test]
    fn the_rate_generator_counts_down_and_reloads() {
        let (pit, _, clock) = device();
        write(&pit, CONTROL, &[0xb4]);
        write(&pit, SYSTEM_CONTROL, &[1]);
        write(&pit, 2, &[0xe8, 0x03]);
        let mut seen = Vec::new();
        for ticks in [0, 1, 999, 1000, 2001] {
            tick(&clock, ticks);
            seen.push((read_word(&pit, 2), read(&pit, SYSTEM_CONTROL) & 0x20 != 0));
        }
        assert_eq!(seen, [(1000, true), (999, true), (1, false), (1000, true), (999, true)]);
    }

    #[test]
    fn the_square_wave_counts_by_two() {
        let (pit, _, clock) = device();
        write(&pit, CONTROL, &[0xb6]);
        write(&pit, SYSTEM_CONTROL, &[1]);
        write(&pit, 2, &[10, 0]);
        let mut seen = Vec::new();
        for ticks in [0, 1, 4, 5, 9, 10] {
            tick(&clock, ticks);
            seen.push((read_word(&pit, 2), read(&pit, SYSTEM_CONTROL) & 0x20 != 0));
        }
        assert_eq!(seen, [(10, true), (8, true), (2, true), (10, false), (2, false), (10, true)]);
    }

    #[test]
    fn terminal_count_raises_the_output_once_and_the_gate_holds_it() {
        let (pit, _, clock) = device();
        let output = |pit: &I8254| read(pit, SYSTEM_CONTROL) & 0x20 != 0;
        write(&pit, SYSTEM_CONTROL, &[1]);
        write(&pit, CONTROL, &[0xb0]);
        assert!(!output(&pit));
        write(&pit, 2, &[100, 0]);
        tick(&clock, 60);
        assert_eq!((read_word(&pit, 2), output(&pit)), (40, false));
        write(&pit, SYSTEM_CONTROL, &[0]);
        tick(&clock, 160);
        assert_eq!((read_word(&pit, 2), output(&pit)), (40, false));
        write(&pit, SYSTEM_CONTROL, &[3]);
        tick(&clock, 205);
        assert_eq!((read_word(&pit, 2), output(&pit)), (0xfffb, true));
        assert_eq!(read(&pit, SYSTEM_CONTROL) & 3, 3);
    }

    #[test]
    fn the_strobe_is_low_for_one_tick() {
        let (pit, _, clock) = device();
        write(&pit, SYSTEM_CONTROL, &[1]);
        write(&pit, CONTROL, &[0xb8]);
        write(&pit, 2, &[50, 0]);
        let levels = [49, 50, 51].map(|ticks| {
            tick(&clock, ticks);
            read(&pit, SYSTEM_CONTROL) & 0x20 != 0
        });
        assert_eq!(levels, [true, false, true]);
    }

    #[test]
    fn a_gate_starts_the_one_shot() {
        let (pit, _, clock) = device();
        let output = |pit: &I8254| read(pit, SYSTEM_CONTROL) & 0x20 != 0;
        write(&pit, CONTROL, &[0xb2]);
        write(&pit, 2, &[20, 0]);
        tick(&clock, 100);
        write(&pit, SYSTEM_CONTROL, &[1]);
        assert!(!output(&pit));
        tick(&clock, 121);
        assert!(output(&pit));
    }

    #[test]
    fn latches_keep_the_count_and_the_status_until_they_are_read() {
        let (pit, _, clock) = device();
        write(&pit, CONTROL, &[0x34]);
        write(&pit, 0, &[0x34, 0x12]);
        tick(&clock, 4);
        write(&pit, CONTROL, &[0x00]);
        tick(&clock, 100);
        write(&pit, CONTROL, &[0x00]);
        assert_eq!(read_word(&pit, 0), 0x1230);
        assert_eq!(read_word(&pit, 0), 0x1234 - 100);
        // Status first, then the count.
        write(&pit, CONTROL, &[0xc2]);
        tick(&clock, 200);
        assert_eq!((read(&pit, 0), read_word(&pit, 0)), (0xb4, 0x1234 - 100));
        write(&pit, CONTROL, &[0x34, 0xe2]);
        assert_eq!(read(&pit, 0) & 0x40, 0x40, "no count is loaded");
    }

    #[test]
    fn single_bytes_and_decimal_counts() {
        let (pit, _, clock) = device();
        write(&pit, CONTROL, &[0x54]);
        write(&pit, 1, &[100]);
        tick(&clock, 30);
        assert_eq!((read(&pit, 1), read(&pit, 1)), (70, 70));
        write(&pit, CONTROL, &[0x55]);
        write(&pit, 1, &[0x10]);
        clock.set(nanoseconds(31) + 100);
        assert_eq!(read(&pit, 1), 0x09);
        write(&pit, CONTROL, &[0x75]);
        write(&pit, 1, &[0, 0]);
        clock.set(nanoseconds(32) + 200);
        assert_eq!(read_word(&pit, 1), 0x9999);
    }

    #[test]
    fn channel_0_interrupts_once_a_period() {
        let (pit, lines, clock) = device();
        write(&pit, CONTROL, &[0x34]);
        write(&pit, 0, &[0x00, 0x10]);
        let before = lines.rises(0);
        clock.resume();
        crate::test_support::wait_for("three periods", || lines.rises(0) >= before + 3);
        assert!(clock.now() >= nanoseconds(3 * 0x1000));
    }

    #[test]
    fn channel_0_interrupts_at_its_terminal_count_only() {
        let (pit, lines, clock) = device();
        write(&pit, CONTROL, &[0x30]);
        write(&pit, 0, &[0x00, 0x10]);
        assert!(!lines.level(0));
        clock.resume();
        assert!(lines.wait(0, true, Duration::from_secs(10)));
        assert_eq!(pit.timer.deadline(), None);
        write(&pit, CONTROL, &[0x30]);
        assert!(!lines.level(0));
    }

    #[test]
    fn a_saved_state_goes_on_where_it_was() {
        let (pit, _, clock) = device();
        write(&pit, CONTROL, &[0x34]);
        write(&pit, 0, &[0x00, 0x20]);
        tick(&clock, 0x123);
        let (other, _, _) = device();
        other.restore(&pit.save()).unwrap();
        assert_eq!(read_word(&other, 0), 0x2000 - 0x123);
        assert_eq!(other.save()["channels"][0]["elapsed"], nanoseconds(0x123));
    }

    #[test]
    fn an_hpet_takes_the_interrupt_line() {
        let (pit, lines, clock) = device();
        pit.set_replaced_by_hpet(true);
        write(&pit, CONTROL, &[0x34]);
        write(&pit, 0, &[0x00, 0x10]);
        let before = lines.rises(0);
        clock.resume();
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(lines.rises(0), before);
    }
}
