//! Core-local interruptor: machine timer and machine software interrupts of the harts.
//!
//! RISC-V ACLINT specification 1.0-rc4, in the layout of the SiFive CLINT (`sifive,clint0`): MSWI at offset 0, MTIMER's
//! compare registers at 0x4000 and `mtime` at 0xbff8.
//!
//! `mtime` is the machine's virtual clock at 10 MHz, the same that a hart's `time` register reads. It cannot be
//! written and a reset does not put it back, since the accelerators count `time` by themselves.

use std::sync::{Arc, Weak};

use accel::clock::{Timer, VirtualClock};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::bus::{AccessRules, Effect, MmioDevice, Width};
use crate::device::{Device, StateError, impossible, parse_state, state_value};
use crate::interrupt::InterruptLine;

/// Frequency of `mtime`, Hz.
pub const TIMEBASE_FREQUENCY: u32 = 10_000_000;

/// Size of the register area, bytes.
pub const SIZE: u64 = 0x10000;

/// Virtual nanoseconds per tick of `mtime`.
const TICK: u64 = 1_000_000_000 / TIMEBASE_FREQUENCY as u64;

const MTIMECMP: u64 = 0x4000;
const MTIME: u64 = 0xbff8;

/// Interrupt outputs of the device for one hart.
pub struct HartLines {
    /// Machine software interrupt.
    pub software: InterruptLine,
    /// Machine timer interrupt.
    pub timer: InterruptLine,
}

/// The registers of an [`Aclint`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AclintState {
    /// `msip` of each hart.
    pub msip: Vec<bool>,
    /// `mtimecmp` of each hart.
    pub mtimecmp: Vec<u64>,
}

impl AclintState {
    fn new(harts: usize) -> AclintState {
        AclintState { msip: vec![false; harts], mtimecmp: vec![u64::MAX; harts] }
    }
}

/// The core-local interruptor of a machine.
pub struct Aclint {
    clock: Arc<VirtualClock>,
    lines: Vec<HartLines>,
    timers: Vec<Timer>,
    // Lock order: before the clock's and the vCPU handles'.
    state: Mutex<AclintState>,
}

impl Aclint {
    /// A device for as many harts as there are `lines`.
    pub fn new(clock: Arc<VirtualClock>, lines: Vec<HartLines>) -> Arc<Aclint> {
        Arc::new_cyclic(|this: &Weak<Aclint>| {
            let timer = |hart: usize| {
                let this = this.clone();
                clock.timer(move || {
                    if let Some(this) = this.upgrade() {
                        this.update_timer(hart, &this.state.lock());
                    }
                })
            };
            let timers = (0..lines.len()).map(timer).collect();
            let state = Mutex::new(AclintState::new(lines.len()));
            Aclint { clock, lines, timers, state }
        })
    }

    fn mtime(&self) -> u64 {
        self.clock.now() / TICK
    }

    /// Sets the timer line of `hart` by its compare register, and arms the timer for its next change.
    fn update_timer(&self, hart: usize, state: &AclintState) {
        let compare = state.mtimecmp[hart];
        let due = self.mtime() >= compare;
        self.lines[hart].timer.set(due);
        match compare.checked_mul(TICK) {
            Some(deadline) if !due => self.timers[hart].arm(deadline),
            _ => self.timers[hart].disarm(),
        }
    }

    fn update_all(&self, state: &AclintState) {
        for (hart, lines) in self.lines.iter().enumerate() {
            lines.software.set(state.msip[hart]);
            self.update_timer(hart, state);
        }
    }
}

impl Device for Aclint {
    fn debug_label(&self) -> &str {
        "aclint"
    }
    fn reset(&self) {
        let mut state = self.state.lock();
        *state = AclintState::new(self.lines.len());
        self.update_all(&state);
    }
    fn save(&self) -> serde_json::Value {
        state_value(&*self.state.lock())
    }
    fn restore(&self, state: &serde_json::Value) -> Result<(), StateError> {
        let new: AclintState = parse_state(self.debug_label(), state)?;
        let harts = self.lines.len();
        if new.msip.len() != harts || new.mtimecmp.len() != harts {
            return Err(impossible(self.debug_label(), format!("this machine has {harts} harts")));
        }
        let mut state = self.state.lock();
        *state = new;
        self.update_all(&state);
        Ok(())
    }
}

/// The part of a 64-bit register that an access of `width` at `offset` sees.
fn part(register: u64, offset: u64, width: Width) -> u64 {
    (register >> (8 * (offset & 7))) & width.mask()
}

impl MmioDevice for Aclint {
    fn access_rules(&self) -> AccessRules {
        AccessRules { narrowest: Width::Word, widest: Width::Double, split_to: Width::Double, unaligned: false }
    }

    fn read(&self, offset: u64, width: Width) -> u64 {
        match offset {
            0..MTIMECMP => {
                // A wide access reads two harts' registers.
                let state = self.state.lock();
                let msip = |index: u64| u64::from(state.msip.get(index as usize).copied().unwrap_or(false));
                let first = offset / 4;
                msip(first) | if width == Width::Double { msip(first + 1) << 32 } else { 0 }
            }
            MTIMECMP..MTIME => {
                let state = self.state.lock();
                let compare = state.mtimecmp.get(((offset - MTIMECMP) / 8) as usize).copied().unwrap_or(0);
                part(compare, offset, width)
            }
            _ if offset & !7 == MTIME => part(self.mtime(), offset, width),
            _ => 0,
        }
    }

    fn write(&self, offset: u64, width: Width, value: u64) -> Effect {
        match offset {
            0..MTIMECMP => {
                let mut state = self.state.lock();
                let first = (offset / 4) as usize;
                let values = [value, value >> 32];
                let count = if width == Width::Double { 2 } else { 1 };
                for (hart, value) in (first..).zip(&values[..count]) {
                    if let Some(msip) = state.msip.get_mut(hart) {
                        *msip = value & 1 != 0;
                        self.lines[hart].software.set(*msip);
                    }
                }
            }
            MTIMECMP..MTIME => {
                let hart = ((offset - MTIMECMP) / 8) as usize;
                let mut state = self.state.lock();
                if let Some(compare) = state.mtimecmp.get_mut(hart) {
                    let shift = 8 * (offset & 7);
                    *compare = (*compare & !(width.mask() << shift)) | ((value & width.mask()) << shift);
                    self.update_timer(hart, &state);
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

    fn device(harts: u32) -> (Arc<Aclint>, Arc<Lines>, Arc<VirtualClock>) {
        let clock = VirtualClock::new();
        let lines = Lines::new();
        let hart = |hart| HartLines { software: lines.line(2 * hart), timer: lines.line(2 * hart + 1) };
        (Aclint::new(clock.clone(), (0..harts).map(hart).collect()), lines, clock)
    }

    #[test]
    fn msip_is_one_bit_that_drives_the_software_line_of_its_hart() {
        let (device, lines, _) = device(2);
        assert_eq!(device.write(4, Width::Word, 0xffff_ffff), Effect::None);
        assert_eq!(device.read(4, Width::Word), 1);
        assert_eq!(device.read(0, Width::Double), 1 << 32);
        assert_eq!((lines.level(0), lines.level(2)), (false, true));
        let _ = device.write(0, Width::Double, 1);
        assert_eq!((lines.level(0), lines.level(2)), (true, false));
        let _ = device.write(8, Width::Word, 1);
        assert_eq!(device.read(8, Width::Word), 0);
    }

    #[test]
    fn mtimecmp_takes_halves_and_fires_when_mtime_reaches_it() {
        let (device, lines, clock) = device(1);
        assert_eq!(device.read(0x4000, Width::Double), u64::MAX);
        let _ = device.write(0x4004, Width::Word, 0);
        assert_eq!(device.read(0x4000, Width::Double), 0xffff_ffff);
        let _ = device.write(0x4000, Width::Word, 20_000);
        assert_eq!(device.read(0x4000, Width::Double), 20_000);
        assert_eq!(device.read(0x4000, Width::Word), 20_000);
        assert!(!lines.level(1));
        clock.resume();
        assert!(lines.wait(1, true, Duration::from_secs(10)));
        assert!(device.read(0xbff8, Width::Double) >= 20_000);
        let _ = device.write(0x4000, Width::Double, u64::MAX);
        assert!(!lines.level(1));
    }

    #[test]
    fn mtime_counts_ten_million_a_second_and_cannot_be_written() {
        let (device, _, clock) = device(1);
        clock.set(0x1_0000_0000 * 100);
        let _ = device.write(0xbff8, Width::Double, 5);
        assert_eq!(device.read(0xbff8, Width::Double), 0x1_0000_0000);
        assert_eq!(device.read(0xbff8, Width::Word), 0);
        assert_eq!(device.read(0xbffc, Width::Word), 1);
    }

    #[test]
    fn a_reset_lowers_all_lines() {
        let (device, lines, _) = device(1);
        let _ = device.write(0, Width::Word, 1);
        let _ = device.write(0x4000, Width::Double, 0);
        assert!(lines.level(0) && lines.level(1));
        device.reset();
        assert!(!lines.level(0) && !lines.level(1));
    }
}
