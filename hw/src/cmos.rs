//! Real-time clock and battery-backed RAM of a PC.
//!
//! Motorola MC146818A data sheet; index at port 0x70, data at port 0x71. Time runs with the machine's virtual clock,
//! from the host's time of day on, in UTC.

use std::sync::{Arc, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

use accel::clock::{Timer, VirtualClock};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::bus::{Effect, PioDevice, Width};
use crate::device::{Device, StateError, impossible, parse_state, state_value};
use crate::interrupt::InterruptLine;

/// Number of bytes, clock registers included.
pub const SIZE: usize = 128;

const SECONDS: u8 = 0x00;
const MINUTES: u8 = 0x02;
const HOURS: u8 = 0x04;
const WEEKDAY: u8 = 0x06;
const DAY: u8 = 0x07;
const MONTH: u8 = 0x08;
const YEAR: u8 = 0x09;
const REGISTER_A: u8 = 0x0a;
const REGISTER_B: u8 = 0x0b;
const REGISTER_C: u8 = 0x0c;
const REGISTER_D: u8 = 0x0d;
/// Century, where the PC's firmware keeps it.
const CENTURY: u8 = 0x32;

const A_UPDATE_IN_PROGRESS: u8 = 0x80;
const B_24_HOURS: u8 = 0x02;
const B_SQUARE_WAVE: u8 = 0x08;
const B_BINARY: u8 = 0x04;
const B_SET: u8 = 0x80;
const C_UPDATE: u8 = 0x10;
const C_ALARM: u8 = 0x20;
const C_PERIODIC: u8 = 0x40;
const C_INTERRUPT: u8 = 0x80;
const D_VALID: u8 = 0x80;

const SECOND: u64 = 1_000_000_000;
/// How long before a second begins the update is announced, nanoseconds.
const UPDATE_TIME: u64 = 244_000;

/// The registers of a [`Cmos`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CmosState {
    /// Selected byte.
    pub index: u8,
    /// All bytes. Those of the time of day are written when it is read.
    pub bytes: Vec<u8>,
    /// What to add to virtual time to get the time of day, nanoseconds since the epoch.
    pub offset: u64,
    /// Time of day up to which interrupts have been looked for, nanoseconds.
    pub looked: u64,
}

/// The real-time clock of a PC.
pub struct Cmos {
    clock: Arc<VirtualClock>,
    line: InterruptLine,
    timer: Timer,
    // Lock order: before the clock's and interrupt controllers'.
    state: Mutex<CmosState>,
}

/// Days since the epoch to year, month (1 to 12) and day (1 to 31) of the Gregorian calendar.
fn civil(days: u64) -> (u64, u64, u64) {
    // Years here begin in March, so that a leap day is a year's last.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

/// The reverse of [`civil`]. Any month and day are taken, as a guest may write them.
fn days(year: u64, month: u64, day: u64) -> u64 {
    let month = month.clamp(1, 12);
    let year = year.max(1970) - u64::from(month <= 2);
    let (era, year_of_era) = (year / 400, year % 400);
    let day_of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day.clamp(1, 31) - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    (era * 146_097 + day_of_era).saturating_sub(719_468)
}

impl Cmos {
    /// A clock whose RAM holds `initial` (byte number, value) at first.
    pub fn new(clock: Arc<VirtualClock>, line: InterruptLine, initial: &[(u8, u8)]) -> Arc<Cmos> {
        let mut bytes = vec![0; SIZE];
        bytes[usize::from(REGISTER_A)] = 0x26;
        bytes[usize::from(REGISTER_B)] = B_24_HOURS;
        bytes[usize::from(REGISTER_D)] = D_VALID;
        for (index, value) in initial {
            bytes[usize::from(*index) % SIZE] = *value;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
        let offset = now.wrapping_sub(clock.now());
        Arc::new_cyclic(|this: &Weak<Cmos>| {
            let this = this.clone();
            let timer = clock.timer(move || {
                if let Some(this) = this.upgrade() {
                    this.update(&mut this.state.lock());
                }
            });
            let state = CmosState { index: 0, bytes, offset, looked: now };
            Cmos { clock, line, timer, state: Mutex::new(state) }
        })
    }

    /// Sets a byte of the RAM, as the machine's own circuits do.
    pub fn set_ram(&self, index: u8, value: u8) {
        if let Some(byte) = self.state.lock().bytes.get_mut(usize::from(index)) {
            *byte = value;
        }
    }

    fn now(&self, state: &CmosState) -> u64 {
        self.clock.now().wrapping_add(state.offset)
    }

    /// Nanoseconds between two periodic interrupts; `None`: there are none.
    fn period(state: &CmosState) -> Option<u64> {
        let rate = state.bytes[usize::from(REGISTER_A)] & 0x0f;
        // Rates 1 and 2 are those of 8 and 9, for a crystal of 32768 Hz.
        let rate = match rate {
            0 => return None,
            1 | 2 => rate + 7,
            _ => rate,
        };
        Some((SECOND << (rate - 1)) / 32768)
    }

    /// Notes the interrupts that came due since the last look, sets the line, and arms the timer for the next.
    fn update(&self, state: &mut CmosState) {
        let now = self.now(state);
        self.note_events(state, now);
        self.drive(state, now);
    }

    /// Reads register C, which acknowledges: the line falls, so that controllers that wait for edges see the next interrupt. What
    /// comes due meanwhile is for the timer.
    fn acknowledge(&self, state: &mut CmosState) -> u8 {
        let now = self.now(state);
        self.note_events(state, now);
        self.drive(state, now);
        let value = std::mem::take(&mut state.bytes[usize::from(REGISTER_C)]);
        self.drive(state, now);
        value
    }

    /// Notes in register C what came due up to the time of day `now`.
    fn note_events(&self, state: &mut CmosState, now: u64) {
        let looked = std::mem::replace(&mut state.looked, now);
        let enabled = state.bytes[usize::from(REGISTER_B)];
        let mut flags = 0;
        if let Some(period) = Cmos::period(state)
            && now / period != looked / period
        {
            flags |= C_PERIODIC;
        }
        if now / SECOND != looked / SECOND && enabled & B_SET == 0 {
            flags |= C_UPDATE;
            if self.alarm_between(state, looked / SECOND, now / SECOND) {
                flags |= C_ALARM;
            }
        }
        state.bytes[usize::from(REGISTER_C)] |= flags;
    }

    /// Sets the line as registers B and C say, and arms the timer for what comes after the time of day `now`.
    fn drive(&self, state: &mut CmosState, now: u64) {
        let enabled = state.bytes[usize::from(REGISTER_B)];
        let pending = state.bytes[usize::from(REGISTER_C)] & 0x70;
        let interrupt = pending & enabled & 0x70 != 0;
        state.bytes[usize::from(REGISTER_C)] = pending | if interrupt { C_INTERRUPT } else { 0 };
        self.line.set(interrupt);
        // While the line is up nothing new can happen to it.
        let next_second = (now / SECOND + 1).saturating_mul(SECOND);
        let next = match Cmos::period(state) {
            Some(period) if enabled & C_PERIODIC != 0 => (now / period + 1).saturating_mul(period).min(next_second),
            _ => next_second,
        };
        if enabled & 0x70 != 0 && !interrupt {
            self.timer.arm(self.clock.now().saturating_add(next.saturating_sub(now)));
        } else {
            self.timer.disarm();
        }
    }

    /// True if the alarm's time of day is one of the seconds after `from` up to `to`.
    fn alarm_between(&self, state: &CmosState, from: u64, to: u64) -> bool {
        // A machine that stood still for days gets one day's worth of looking.
        let from = from.max(to.saturating_sub(86_400));
        let wanted = [1u8, 3, 5].map(|register| state.bytes[usize::from(register)]);
        (from + 1..=to).any(|second| {
            let time = [second % 60, second / 60 % 60, second / 3600 % 24];
            let time = [encode(state, time[0]), encode(state, time[1]), encode_hours(state, time[2])];
            // The two highest bits set: any value matches.
            wanted.iter().zip(time).all(|(wanted, time)| *wanted >= 0xc0 || *wanted == time)
        })
    }

    /// Writes the time of day into its bytes.
    fn show_time(&self, state: &mut CmosState) {
        if state.bytes[usize::from(REGISTER_B)] & B_SET != 0 {
            return;
        }
        let seconds = self.now(state) / SECOND;
        let (year, month, day) = civil(seconds / 86_400);
        let values = [
            (SECONDS, encode(state, seconds % 60)),
            (MINUTES, encode(state, seconds / 60 % 60)),
            (HOURS, encode_hours(state, seconds / 3600 % 24)),
            // The epoch began on a Thursday, day 5 of a week that begins on Sunday.
            (WEEKDAY, encode(state, (seconds / 86_400 + 4) % 7 + 1)),
            (DAY, encode(state, day)),
            (MONTH, encode(state, month)),
            (YEAR, encode(state, year % 100)),
            (CENTURY, encode(state, year / 100)),
        ];
        for (register, value) in values {
            state.bytes[usize::from(register)] = value;
        }
    }

    /// Takes the time of day from its bytes.
    fn take_time(&self, state: &mut CmosState) {
        let value = |register: u8| decode(state, state.bytes[usize::from(register)]);
        let hours = {
            let byte = state.bytes[usize::from(HOURS)];
            if state.bytes[usize::from(REGISTER_B)] & B_24_HOURS != 0 {
                decode(state, byte)
            } else {
                decode(state, byte & 0x7f) % 12 + if byte & 0x80 != 0 { 12 } else { 0 }
            }
        };
        let days = days(value(CENTURY) * 100 + value(YEAR), value(MONTH), value(DAY));
        let seconds = days * 86_400 + hours * 3600 + value(MINUTES) * 60 + value(SECONDS);
        let now = self.clock.now();
        state.offset = seconds.saturating_mul(SECOND).wrapping_add(now % SECOND).wrapping_sub(now);
        state.looked = self.now(state);
    }
}

/// A number as the clock shows it: binary or decimal.
fn encode(state: &CmosState, value: u64) -> u8 {
    let value = value as u8;
    if state.bytes[usize::from(REGISTER_B)] & B_BINARY != 0 { value } else { ((value / 10 % 10) << 4) | (value % 10) }
}

fn encode_hours(state: &CmosState, hours: u64) -> u8 {
    if state.bytes[usize::from(REGISTER_B)] & B_24_HOURS != 0 {
        return encode(state, hours);
    }
    let twelve = if hours.is_multiple_of(12) { 12 } else { hours % 12 };
    encode(state, twelve) | if hours >= 12 { 0x80 } else { 0 }
}

fn decode(state: &CmosState, value: u8) -> u64 {
    let binary = state.bytes[usize::from(REGISTER_B)] & B_BINARY != 0;
    u64::from(if binary { value } else { (value >> 4) * 10 + (value & 0x0f) })
}

impl Device for Cmos {
    fn debug_label(&self) -> &str {
        "cmos"
    }
    /// As the RESET pin: the battery keeps time and RAM.
    fn reset(&self) {
        let mut state = self.state.lock();
        state.index = 0;
        state.bytes[usize::from(REGISTER_B)] &= !(C_PERIODIC | C_ALARM | C_UPDATE | B_SQUARE_WAVE);
        state.bytes[usize::from(REGISTER_C)] = 0;
        self.update(&mut state);
    }
    fn save(&self) -> serde_json::Value {
        state_value(&*self.state.lock())
    }
    fn restore(&self, state: &serde_json::Value) -> Result<(), StateError> {
        let new: CmosState = parse_state(self.debug_label(), state)?;
        if new.bytes.len() != SIZE {
            return Err(impossible(self.debug_label(), format!("it has {SIZE} bytes")));
        }
        let mut state = self.state.lock();
        *state = new;
        self.update(&mut state);
        Ok(())
    }
}

impl PioDevice for Cmos {
    fn read_port(&self, offset: u64, _width: Width) -> u64 {
        let mut state = self.state.lock();
        if offset == 0 {
            // The index cannot be read back.
            return 0xff;
        }
        let index = state.index;
        match index {
            SECONDS | MINUTES | HOURS | WEEKDAY..=YEAR | CENTURY => self.show_time(&mut state),
            REGISTER_A => {
                let left = SECOND - self.now(&state) % SECOND;
                let setting = state.bytes[usize::from(REGISTER_B)] & B_SET != 0;
                let updating = if left <= UPDATE_TIME && !setting { A_UPDATE_IN_PROGRESS } else { 0 };
                return u64::from(state.bytes[usize::from(REGISTER_A)] & !A_UPDATE_IN_PROGRESS | updating);
            }
            REGISTER_C => return u64::from(self.acknowledge(&mut state)),
            _ => {}
        }
        u64::from(state.bytes[usize::from(index)])
    }

    fn write_port(&self, offset: u64, _width: Width, value: u64) -> Effect {
        let mut state = self.state.lock();
        if offset == 0 {
            // Bit 7 gates the NMI elsewhere.
            state.index = value as u8 & 0x7f;
            return Effect::None;
        }
        let index = state.index;
        match index {
            REGISTER_C | REGISTER_D => return Effect::None,
            REGISTER_B if value as u8 & B_SET != 0 => {
                // The bytes show the time at which it was stopped.
                self.show_time(&mut state);
                state.bytes[usize::from(REGISTER_B)] = value as u8 & !C_UPDATE;
            }
            REGISTER_B => {
                let was_set = state.bytes[usize::from(REGISTER_B)] & B_SET != 0;
                if was_set {
                    self.take_time(&mut state);
                }
                state.bytes[usize::from(REGISTER_B)] = value as u8;
            }
            SECONDS | MINUTES | HOURS | WEEKDAY..=YEAR | CENTURY => {
                self.show_time(&mut state);
                state.bytes[usize::from(index)] = value as u8;
                if state.bytes[usize::from(REGISTER_B)] & B_SET == 0 {
                    self.take_time(&mut state);
                }
            }
            _ => state.bytes[usize::from(index)] = value as u8,
        }
        self.update(&mut state);
        Effect::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::Lines;
    use std::time::Duration;

    fn device() -> (Arc<Cmos>, Arc<Lines>, Arc<VirtualClock>) {
        let (lines, clock) = (Lines::new(), VirtualClock::new());
        (Cmos::new(clock.clone(), lines.line(8), &[(0x10, 0x42)]), lines, clock)
    }
    fn read(cmos: &Cmos, index: u8) -> u8 {
        let _ = cmos.write_port(0, Width::Byte, u64::from(index));
        cmos.read_port(1, Width::Byte) as u8
    }
    fn write(cmos: &Cmos, index: u8, value: u8) {
        let _ = cmos.write_port(0, Width::Byte, u64::from(index));
        let _ = cmos.write_port(1, Width::Byte, u64::from(value));
    }
    fn set_time(cmos: &Cmos, time: [u8; 8]) {
        write(cmos, REGISTER_B, read(cmos, REGISTER_B) | B_SET);
        for (register, value) in [SECONDS, MINUTES, HOURS, WEEKDAY, DAY, MONTH, YEAR, CENTURY].into_iter().zip(time) {
            write(cmos, register, value);
        }
        write(cmos, REGISTER_B, read(cmos, REGISTER_B) & !B_SET);
    }

    #[test]
    fn the_calendar_turns_over_a_leap_day() {
        let (cmos, _, clock) = device();
        set_time(&cmos, [0x59, 0x59, 0x23, 0, 0x28, 0x02, 0x24, 0x20]);
        clock.set(SECOND);
        let time: Vec<u8> = [SECONDS, MINUTES, HOURS, DAY, MONTH, YEAR, CENTURY].map(|at| read(&cmos, at)).into();
        assert_eq!(time, [0x00, 0x00, 0x00, 0x29, 0x02, 0x24, 0x20]);
        assert_eq!(read(&cmos, WEEKDAY), 5);
    }

    #[test]
    fn every_day_survives_the_calendar_and_back() {
        for day in 0..60_000 {
            let (year, month, date) = civil(day);
            assert_eq!(days(year, month, date), day);
        }
        assert_eq!(civil(20_000), (2024, 10, 4));
    }

    #[test]
    fn binary_and_twelve_hour_forms() {
        let (cmos, _, _) = device();
        set_time(&cmos, [0, 0x30, 0x15, 0, 1, 1, 0x26, 0x20]);
        assert_eq!(read(&cmos, HOURS), 0x15);
        write(&cmos, REGISTER_B, B_BINARY | B_24_HOURS);
        assert_eq!((read(&cmos, HOURS), read(&cmos, MINUTES)), (15, 30));
        write(&cmos, REGISTER_B, 0);
        assert_eq!(read(&cmos, HOURS), 0x83);
    }

    #[test]
    fn the_alarm_interrupts_and_register_c_acknowledges() {
        let (cmos, lines, clock) = device();
        set_time(&cmos, [0x58, 0, 0, 0, 1, 1, 0x26, 0x20]);
        for (register, value) in [(1, 0x59), (3, 0xff), (5, 0xc0)] {
            write(&cmos, register, value);
        }
        write(&cmos, REGISTER_B, B_24_HOURS | C_ALARM);
        assert!(!lines.level(8));
        clock.resume();
        assert!(lines.wait(8, true, Duration::from_secs(10)));
        assert_eq!(read(&cmos, REGISTER_C) & 0xa0, 0xa0);
        assert!(!lines.level(8));
    }

    #[test]
    fn the_periodic_interrupt_comes_again_after_each_acknowledgement() {
        let (cmos, lines, clock) = device();
        write(&cmos, REGISTER_B, B_24_HOURS | C_PERIODIC);
        clock.resume();
        for _ in 0..3 {
            assert!(lines.wait(8, true, Duration::from_secs(10)));
            assert_eq!(read(&cmos, REGISTER_C) & 0xc0, 0xc0);
        }
    }

    #[test]
    fn each_acknowledgement_lets_the_line_fall() {
        let (cmos, lines, clock) = device();
        // 8192 interrupts a second, so that many come due while the register is read.
        write(&cmos, REGISTER_A, 3);
        write(&cmos, REGISTER_B, B_24_HOURS | C_PERIODIC);
        clock.resume();
        let mut acknowledged = 0;
        while acknowledged < 1000 {
            let falls = lines.falls(8);
            if read(&cmos, REGISTER_C) & C_INTERRUPT != 0 {
                acknowledged += 1;
                assert_eq!(lines.falls(8), falls + 1);
            }
        }
    }

    #[test]
    fn a_reset_ends_interrupts_and_leaves_time_and_ram() {
        let (cmos, _, _) = device();
        assert_eq!((read(&cmos, 0x10), read(&cmos, REGISTER_D)), (0x42, 0x80));
        write(&cmos, 0x7f, 9);
        write(&cmos, REGISTER_D, 0);
        assert_eq!((read(&cmos, 0xff), read(&cmos, REGISTER_D)), (9, 0x80));
        write(&cmos, REGISTER_B, B_24_HOURS | C_PERIODIC | C_ALARM);
        set_time(&cmos, [0x10, 0x20, 0x15, 0, 1, 1, 0x26, 0x20]);
        cmos.reset();
        assert_eq!((read(&cmos, 0x7f), read(&cmos, HOURS), read(&cmos, REGISTER_B)), (9, 0x15, B_24_HOURS));
    }
}
