//! Goldfish real-time clock.
//!
//! "Goldfish RTC" in the Android emulator's GOLDFISH-VIRTUAL-HARDWARE text: a 64-bit count of nanoseconds since the
//! Unix epoch in two 32-bit halves, and one alarm.

use std::sync::{Arc, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

use accel::clock::{Timer, VirtualClock};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::bus::{AccessRules, Effect, MmioDevice, Width};
use crate::device::{Device, StateError, parse_state, state_value};
use crate::interrupt::InterruptLine;

/// Size of the register area, bytes.
pub const SIZE: u64 = 0x1000;

const TIME_LOW: u64 = 0x00;
const TIME_HIGH: u64 = 0x04;
const ALARM_LOW: u64 = 0x08;
const ALARM_HIGH: u64 = 0x0c;
const INTERRUPT_ENABLED: u64 = 0x10;
const CLEAR_ALARM: u64 = 0x14;
const ALARM_STATUS: u64 = 0x18;
const CLEAR_INTERRUPT: u64 = 0x1c;

/// The registers of a [`GoldfishRtc`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GoldfishRtcState {
    /// What to add to virtual time to get the time of day, nanoseconds.
    pub offset: u64,
    /// High half of the time, latched by a read of the low half.
    pub time_high: u32,
    /// When the alarm goes off, nanoseconds since the epoch.
    pub alarm: u64,
    /// The alarm is set and has not gone off.
    pub alarm_running: bool,
    /// The alarm went off.
    pub interrupt_pending: bool,
    /// The alarm's interrupt reaches the line.
    pub interrupt_enabled: bool,
}

/// A real-time clock that runs with the machine's virtual clock.
pub struct GoldfishRtc {
    clock: Arc<VirtualClock>,
    line: InterruptLine,
    timer: Timer,
    // Lock order: before the clock's and interrupt controllers'.
    state: Mutex<GoldfishRtcState>,
}

/// What to add to virtual time to get the host's time of day.
fn host_offset(clock: &VirtualClock) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
    now.wrapping_sub(clock.now())
}

impl GoldfishRtc {
    /// A clock that shows the host's time of day.
    pub fn new(clock: Arc<VirtualClock>, line: InterruptLine) -> Arc<GoldfishRtc> {
        Arc::new_cyclic(|this: &Weak<GoldfishRtc>| {
            let this = this.clone();
            let timer = clock.timer(move || {
                if let Some(this) = this.upgrade() {
                    this.update(&mut this.state.lock());
                }
            });
            let offset = host_offset(&clock);
            let state = GoldfishRtcState {
                offset,
                time_high: 0,
                alarm: 0,
                alarm_running: false,
                interrupt_pending: false,
                interrupt_enabled: false,
            };
            GoldfishRtc { clock, line, timer, state: Mutex::new(state) }
        })
    }

    fn now(&self, state: &GoldfishRtcState) -> u64 {
        self.clock.now().wrapping_add(state.offset)
    }

    /// Lets the alarm go off if it is time, else arms the timer for it; and sets the line.
    fn update(&self, state: &mut GoldfishRtcState) {
        self.timer.disarm();
        if state.alarm_running {
            match state.alarm.checked_sub(self.now(state)) {
                None | Some(0) => {
                    state.alarm_running = false;
                    state.interrupt_pending = true;
                }
                Some(wait) => self.timer.arm(self.clock.now().saturating_add(wait)),
            }
        }
        self.line.set(state.interrupt_pending && state.interrupt_enabled);
    }
}

impl Device for GoldfishRtc {
    fn debug_label(&self) -> &str {
        "goldfish-rtc"
    }
    fn reset(&self) {
        let mut state = self.state.lock();
        // The time of day goes on over a reset.
        *state = GoldfishRtcState {
            offset: state.offset,
            time_high: 0,
            alarm: 0,
            alarm_running: false,
            interrupt_pending: false,
            interrupt_enabled: false,
        };
        self.update(&mut state);
    }
    fn save(&self) -> serde_json::Value {
        state_value(&*self.state.lock())
    }
    fn restore(&self, state: &serde_json::Value) -> Result<(), StateError> {
        let new = parse_state(self.debug_label(), state)?;
        let mut state = self.state.lock();
        *state = new;
        self.update(&mut state);
        Ok(())
    }
}

impl MmioDevice for GoldfishRtc {
    fn access_rules(&self) -> AccessRules {
        AccessRules::WORD
    }

    fn read(&self, offset: u64, _width: Width) -> u64 {
        let mut state = self.state.lock();
        match offset {
            TIME_LOW => {
                let now = self.now(&state);
                state.time_high = (now >> 32) as u32;
                now & 0xffff_ffff
            }
            TIME_HIGH => u64::from(state.time_high),
            ALARM_LOW => state.alarm & 0xffff_ffff,
            ALARM_HIGH => state.alarm >> 32,
            INTERRUPT_ENABLED => u64::from(state.interrupt_enabled),
            ALARM_STATUS => u64::from(state.alarm_running),
            _ => 0,
        }
    }

    fn write(&self, offset: u64, _width: Width, value: u64) -> Effect {
        let value = value & 0xffff_ffff;
        let mut state = self.state.lock();
        match offset {
            TIME_LOW | TIME_HIGH => {
                let now = self.now(&state);
                let wanted =
                    if offset == TIME_LOW { (now & !0xffff_ffff) | value } else { (now & 0xffff_ffff) | (value << 32) };
                state.offset = state.offset.wrapping_add(wanted.wrapping_sub(now));
            }
            ALARM_LOW => {
                // Writing the low half sets the alarm.
                state.alarm = (state.alarm & !0xffff_ffff) | value;
                state.alarm_running = true;
            }
            ALARM_HIGH => state.alarm = (state.alarm & 0xffff_ffff) | (value << 32),
            INTERRUPT_ENABLED => state.interrupt_enabled = value & 1 != 0,
            CLEAR_ALARM => state.alarm_running = false,
            CLEAR_INTERRUPT => state.interrupt_pending = false,
            _ => {}
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

    fn read(rtc: &GoldfishRtc, offset: u64) -> u64 {
        rtc.read(offset, Width::Word)
    }
    fn write(rtc: &GoldfishRtc, offset: u64, value: u64) {
        assert_eq!(rtc.write(offset, Width::Word, value), Effect::None);
    }
    fn time(rtc: &GoldfishRtc) -> u64 {
        let low = read(rtc, TIME_LOW);
        low | (read(rtc, TIME_HIGH) << 32)
    }

    #[test]
    fn it_shows_the_hosts_time_and_runs_with_the_virtual_clock() {
        let clock = VirtualClock::new();
        let rtc = GoldfishRtc::new(clock.clone(), InterruptLine::disconnected());
        let first = time(&rtc);
        let host = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
        assert!(host.abs_diff(first) < 60_000_000_000);
        clock.set(5_000_000_000);
        assert_eq!(time(&rtc), first + 5_000_000_000);
    }

    #[test]
    fn the_time_can_be_set_and_survives_a_reset() {
        let rtc = GoldfishRtc::new(VirtualClock::new(), InterruptLine::disconnected());
        write(&rtc, TIME_HIGH, 0x1234);
        write(&rtc, TIME_LOW, 0x5678_9abc);
        rtc.reset();
        assert_eq!(time(&rtc), 0x1234_5678_9abc);
    }

    #[test]
    fn the_alarm_goes_off_once_and_its_interrupt_is_enabled_and_cleared() {
        let (clock, lines) = (VirtualClock::new(), Lines::new());
        let rtc = GoldfishRtc::new(clock.clone(), lines.line(11));
        write(&rtc, INTERRUPT_ENABLED, 1);
        let alarm = time(&rtc) + 2_000_000;
        write(&rtc, ALARM_HIGH, alarm >> 32);
        write(&rtc, ALARM_LOW, alarm & 0xffff_ffff);
        assert_eq!((read(&rtc, ALARM_STATUS), lines.level(11)), (1, false));
        clock.resume();
        assert!(lines.wait(11, true, Duration::from_secs(10)));
        assert_eq!(read(&rtc, ALARM_STATUS), 0);
        write(&rtc, CLEAR_INTERRUPT, 0);
        assert!(!lines.level(11));
    }

    #[test]
    fn an_alarm_in_the_past_goes_off_at_once_and_a_cleared_one_never() {
        let lines = Lines::new();
        let rtc = GoldfishRtc::new(VirtualClock::new(), lines.line(11));
        write(&rtc, ALARM_LOW, 1);
        assert!(!lines.level(11));
        write(&rtc, INTERRUPT_ENABLED, 1);
        assert!(lines.level(11));
        write(&rtc, CLEAR_INTERRUPT, 0);
        write(&rtc, ALARM_HIGH, u64::MAX);
        write(&rtc, ALARM_LOW, 1);
        write(&rtc, CLEAR_ALARM, 0);
        assert_eq!(read(&rtc, ALARM_STATUS), 0);
    }
}
