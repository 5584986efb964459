//! PIIX4 power management: ACPI's registers, the power button and soft power-off.
//!
//! Intel 82371AB data sheet (290562), function 3; ACPI Specification 6.5, section 4.8. Firmware would choose the ports;
//! the function starts with its choice, so that a kernel that is booted directly finds the registers.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use accel::clock::{Timer, VirtualClock};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::PciDevice;
use super::config::{Identity, PciConfig, PciConfigState};
use crate::bus::{AccessRules, Effect, PioDevice, Width};
use crate::device::{Device, StateError, impossible, parse_state, state_value};
use crate::interrupt::InterruptLine;

/// First port of the power management registers.
pub const PORTS: u16 = 0x600;
/// Number of ports.
pub const PORT_COUNT: u64 = 0x40;
/// Port that switches between ACPI and legacy mode.
pub const COMMAND_PORT: u16 = 0xb2;
/// The command port, and the status port after it.
pub const COMMAND_PORT_COUNT: u64 = 2;
/// Offset that the board gives the command port.
pub const COMMAND_OFFSET: u64 = 0x100;
const STATUS_OFFSET: u64 = COMMAND_OFFSET + 1;
/// Written to the command port: ACPI mode.
pub const ACPI_ENABLE: u8 = 0xf1;
/// Written to the command port: legacy mode.
pub const ACPI_DISABLE: u8 = 0xf0;
/// The interrupt of ACPI events.
pub const INTERRUPT: u8 = 9;

/// Frequency of the power management timer, Hz.
const TIMER_FREQUENCY: u128 = 3_579_545;

/// Device activity B, last byte.
const ACTIVITY: usize = 0x5b;
/// APMC_EN: a write to the command port makes a system-management interrupt.
const ACTIVITY_COMMAND: u8 = 1 << 1;

const STATUS_TIMER: u16 = 1 << 0;
const STATUS_POWER_BUTTON: u16 = 1 << 8;
const STATUS_RTC: u16 = 1 << 10;
const STATUS_WAKE: u16 = 1 << 15;
const STATUS_BITS: u16 = 0x8731;
const ENABLE_BITS: u16 = STATUS_TIMER | 1 << 5 | STATUS_POWER_BUTTON | STATUS_RTC;
const CONTROL_ACPI: u16 = 1 << 0;
const CONTROL_SLEEP: u16 = 1 << 13;

/// Sleep type of soft power-off, as the machine's tables give it.
pub const SLEEP_TYPE_OFF: u16 = 0;
/// Sleep type of S3.
pub const SLEEP_TYPE_SUSPEND: u16 = 1;

/// The registers of a [`PowerManagement`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PowerManagementState {
    /// Configuration space.
    pub config: PciConfigState,
    /// PM1 status.
    pub status: u16,
    /// PM1 enable.
    pub enable: u16,
    /// PM1 control.
    pub control: u16,
    /// Virtual time at which the timer's highest bit changes next, nanoseconds.
    pub timer_change: u64,
    /// Last value of the command port.
    pub command: u8,
    /// Last value of the status port, by which system-management mode answers.
    pub command_status: u8,
    /// The machine sleeps.
    pub sleeps: bool,
}

/// Makes a system-management interrupt. It must not access a device.
pub type ManagementInterrupt = Box<dyn Fn() + Send + Sync>;

/// The power management function of a PC.
pub struct PowerManagement {
    config: PciConfig,
    clock: Arc<VirtualClock>,
    line: InterruptLine,
    timer: Timer,
    /// PM1 control after a reset: what firmware would have done, where there is none.
    initial_control: u16,
    management: Option<ManagementInterrupt>,
    /// The machine sleeps. Asked for by other devices, with their locks held.
    sleeps: AtomicBool,
    // Lock order: before the clock's and interrupt controllers'.
    registers: Mutex<Registers>,
}

#[derive(Clone, Copy, Default)]
struct Registers {
    status: u16,
    enable: u16,
    control: u16,
    timer_change: u64,
    command: u8,
    command_status: u8,
}

fn ticks(nanoseconds: u64) -> u64 {
    (u128::from(nanoseconds) * TIMER_FREQUENCY / 1_000_000_000) as u64
}

/// When bit 23 of the timer changes next.
fn next_change(now: u64) -> u64 {
    let tick = u128::from((ticks(now) >> 23) + 1) << 23;
    u64::try_from((tick * 1_000_000_000).div_ceil(TIMER_FREQUENCY)).unwrap_or(u64::MAX)
}

impl PowerManagement {
    /// The function, whose events interrupt through `line`. With `acpi` it starts in ACPI mode, as firmware leaves it. Without
    /// `management`, firmware takes system-management mode for set up.
    pub fn new(
        clock: Arc<VirtualClock>,
        line: InterruptLine,
        acpi: bool,
        management: Option<ManagementInterrupt>,
    ) -> Arc<PowerManagement> {
        let mut config = PciConfig::new(&Identity {
            vendor: 0x8086,
            device: 0x7113,
            revision: 3,
            class: 0x06_8000,
            subsystem_vendor: 0x1af4,
            subsystem: 0x1100,
        });
        config.interrupt_pin(INTERRUPT);
        config.set(0x40, &(u32::from(PORTS) | 1).to_le_bytes());
        config.set(0x80, &[0x01]);
        config.allow(0x80, &[0x01]);
        config.allow(0x58, &[0xff; 4]);
        if management.is_none() {
            config.set(ACTIVITY, &[ACTIVITY_COMMAND]);
        }
        let control = if acpi { CONTROL_ACPI } else { 0 };
        Arc::new_cyclic(|this: &Weak<PowerManagement>| {
            let this = this.clone();
            let timer = clock.timer(move || {
                if let Some(this) = this.upgrade() {
                    this.update(&mut this.registers.lock());
                }
            });
            let registers = Registers { control, timer_change: next_change(clock.now()), ..Registers::default() };
            let (sleeps, registers) = (AtomicBool::new(false), Mutex::new(registers));
            PowerManagement { config, clock, line, timer, initial_control: control, management, sleeps, registers }
        })
    }

    /// The user presses the power button.
    pub fn press_button(&self) {
        let mut registers = self.registers.lock();
        registers.status |= STATUS_POWER_BUTTON;
        self.update(&mut registers);
    }

    /// True from when the guest puts the machine to sleep until it wakes.
    pub fn sleeps(&self) -> bool {
        self.sleeps.load(Ordering::Acquire)
    }

    /// True in ACPI mode.
    pub fn is_in_acpi_mode(&self) -> bool {
        self.registers.lock().control & CONTROL_ACPI != 0
    }

    /// The machine woke, and this device was reset: what the guest finds. `acpi` is the mode in which it fell asleep.
    pub fn wake(&self, acpi: bool, by_clock: bool) {
        let mut registers = self.registers.lock();
        registers.status |= STATUS_WAKE | if by_clock { STATUS_RTC } else { 0 };
        registers.control = registers.control & !CONTROL_ACPI | if acpi { CONTROL_ACPI } else { 0 };
        self.update(&mut registers);
    }

    /// The guest writes to the command port. What switches the mode needs no firmware to do it.
    fn command(&self, registers: &mut Registers, command: u8) {
        registers.command = command;
        match command {
            ACPI_ENABLE => registers.control |= CONTROL_ACPI,
            ACPI_DISABLE => registers.control &= !CONTROL_ACPI,
            _ => {
                if let Some(interrupt) = &self.management
                    && self.config.byte(ACTIVITY) & ACTIVITY_COMMAND != 0
                {
                    interrupt();
                }
            }
        }
        self.update(registers);
    }

    fn update(&self, registers: &mut Registers) {
        let now = self.clock.now();
        if now >= registers.timer_change {
            registers.status |= STATUS_TIMER;
            registers.timer_change = next_change(now);
        }
        let pending = registers.status & registers.enable & ENABLE_BITS;
        self.line.set(pending != 0 && registers.control & CONTROL_ACPI != 0);
        if registers.enable & STATUS_TIMER != 0 && registers.status & STATUS_TIMER == 0 {
            self.timer.arm(registers.timer_change);
        } else {
            self.timer.disarm();
        }
    }
}

impl Device for PowerManagement {
    fn debug_label(&self) -> &str {
        "piix4-pm"
    }
    fn reset(&self) {
        self.config.reset();
        self.sleeps.store(false, Ordering::Release);
        let mut registers = self.registers.lock();
        let timer_change = next_change(self.clock.now());
        *registers = Registers { control: self.initial_control, timer_change, ..Registers::default() };
        self.update(&mut registers);
    }
    fn save(&self) -> serde_json::Value {
        let registers = *self.registers.lock();
        state_value(&PowerManagementState {
            config: self.config.save(),
            status: registers.status,
            enable: registers.enable,
            control: registers.control,
            timer_change: registers.timer_change,
            command: registers.command,
            command_status: registers.command_status,
            sleeps: self.sleeps(),
        })
    }
    fn restore(&self, state: &serde_json::Value) -> Result<(), StateError> {
        let new: PowerManagementState = parse_state(self.debug_label(), state)?;
        if !self.config.restore(&new.config) {
            return Err(impossible(self.debug_label(), "the configuration space is another function's"));
        }
        self.sleeps.store(new.sleeps, Ordering::Release);
        let mut registers = self.registers.lock();
        *registers = Registers {
            status: new.status,
            enable: new.enable,
            control: new.control,
            timer_change: new.timer_change,
            command: new.command,
            command_status: new.command_status,
        };
        self.update(&mut registers);
        Ok(())
    }
}

impl PciDevice for PowerManagement {
    fn config(&self) -> &PciConfig {
        &self.config
    }
}

impl PioDevice for PowerManagement {
    fn port_rules(&self) -> AccessRules {
        AccessRules { narrowest: Width::Byte, widest: Width::Word, split_to: Width::Word, unaligned: true }
    }

    fn read_port(&self, offset: u64, width: Width) -> u64 {
        let mut registers = self.registers.lock();
        self.update(&mut registers);
        match offset {
            COMMAND_OFFSET => return u64::from(registers.command),
            STATUS_OFFSET => return u64::from(registers.command_status),
            _ => {}
        }
        let events = u64::from(registers.status) | (u64::from(registers.enable) << 16);
        let timer = ticks(self.clock.now()) & 0xff_ffff;
        let file = u128::from(events) | (u128::from(registers.control) << 32) | (u128::from(timer) << 64);
        if offset < 12 { (file >> (8 * offset)) as u64 & width.mask() } else { 0 }
    }

    fn write_port(&self, offset: u64, width: Width, value: u64) -> Effect {
        let mut registers = self.registers.lock();
        if offset >= COMMAND_OFFSET {
            for (position, byte) in (offset..).zip(&value.to_le_bytes()[..width.bytes() as usize]) {
                match position {
                    COMMAND_OFFSET => self.command(&mut registers, *byte),
                    STATUS_OFFSET => registers.command_status = *byte,
                    _ => {}
                }
            }
            return Effect::None;
        }
        let mut effect = Effect::None;
        for (position, byte) in value.to_le_bytes()[..width.bytes() as usize].iter().enumerate() {
            let (position, byte) = (offset.saturating_add(position as u64), u16::from(*byte));
            let shift = 8 * (position & 1);
            let (mask, bits) = (0xff << shift, byte << shift);
            match position {
                // Status bits are cleared by writing ones.
                0 | 1 => registers.status &= !(bits & STATUS_BITS),
                2 | 3 => registers.enable = (registers.enable & !mask) | (bits & ENABLE_BITS),
                4 | 5 => {
                    // The mode is switched through the command port only.
                    let mode = registers.control & CONTROL_ACPI;
                    registers.control = (registers.control & !mask | bits) & !(CONTROL_ACPI | CONTROL_SLEEP) | mode;
                    let sleep_type = registers.control >> 10 & 7;
                    if position == 5 && bits & CONTROL_SLEEP != 0 {
                        match sleep_type {
                            SLEEP_TYPE_OFF => effect = Effect::PowerOff { exit_status: 0 },
                            SLEEP_TYPE_SUSPEND => {
                                self.sleeps.store(true, Ordering::Release);
                                effect = Effect::Suspend;
                            }
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        self.update(&mut registers);
        effect
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::Lines;

    fn device() -> (Arc<PowerManagement>, Arc<Lines>, Arc<VirtualClock>) {
        let (lines, clock) = (Lines::new(), VirtualClock::new());
        (PowerManagement::new(clock.clone(), lines.line(9), true, None), lines, clock)
    }

    #[test]
    fn the_power_button_interrupts_until_it_is_acknowledged() {
        let (device, lines, _) = device();
        device.press_button();
        assert!(!lines.level(9));
        let _ = device.write_port(2, Width::Half, 0x100);
        assert!(lines.level(9));
        assert_eq!(device.read_port(0, Width::Half), 0x100);
        let _ = device.write_port(0, Width::Half, 0x100);
        assert!(!lines.level(9));
        assert_eq!(device.read_port(0, Width::Word), 0x0100_0000);
    }

    #[test]
    fn sleep_types_switch_off_suspend_or_do_nothing() {
        let (device, _, _) = device();
        assert_eq!(device.write_port(4, Width::Half, 0x2000 | 1 << 10), Effect::Suspend);
        assert!(device.sleeps());
        device.reset();
        device.wake(true, true);
        assert!(!device.sleeps());
        assert_eq!((device.read_port(0, Width::Half), device.read_port(4, Width::Half)), (0x8400, 1));
        assert_eq!(device.write_port(4, Width::Half, 0x2000 | 5 << 10), Effect::None);
        assert_eq!(device.write_port(4, Width::Half, 0x2000), Effect::PowerOff { exit_status: 0 });
        assert_eq!(device.read_port(4, Width::Half), 1);
    }

    #[test]
    fn the_timer_runs_at_its_frequency_and_reports_its_overflow() {
        let (device, lines, clock) = device();
        clock.set(1_000_000_000);
        assert_eq!(device.read_port(8, Width::Word), 3_579_545);
        let _ = device.write_port(2, Width::Half, 1);
        assert!(!lines.level(9));
        clock.set(2_400_000_000);
        assert_eq!(device.read_port(0, Width::Half), 1);
        assert!(lines.level(9));
        clock.set(10_000_000_000);
        assert!(device.read_port(8, Width::Word) < 1 << 24);
    }

    #[test]
    fn the_command_port_switches_the_mode_and_a_reset_brings_it_back() {
        let (device, _, _) = device();
        let _ = device.write_port(COMMAND_OFFSET, Width::Byte, 0xf0);
        assert_eq!(device.read_port(4, Width::Half), 0);
        let _ = device.write_port(4, Width::Half, 1);
        assert_eq!(device.read_port(4, Width::Half), 0);
        device.reset();
        assert_eq!(device.read_port(4, Width::Half), 1);
        assert_eq!(device.read_port(0x3f, Width::Word), 0);
    }
}
