//! 16550A UART.
//!
//! National Semiconductor PC16550D data sheet (June 1995). Characters take no time: a transmitted byte is gone as soon
//! as the host's end takes it, and received bytes below the FIFO's trigger level count as timed out at once.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use host::chardev::{CharBackend, CharEvent, CharFrontend, WeakFrontend};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::bus::{AccessRules, Effect, MmioDevice, PioDevice, Width};
use crate::device::{Device, StateError, impossible, parse_state, state_value};
use crate::interrupt::InterruptLine;

/// Number of byte registers.
pub const SIZE: u64 = 8;

const FIFO: usize = 16;

// Interrupt enable register.
const IER_RECEIVED: u8 = 0x01;
const IER_TRANSMITTER_EMPTY: u8 = 0x02;
const IER_LINE_STATUS: u8 = 0x04;
const IER_MODEM_STATUS: u8 = 0x08;

// Interrupt identification register.
const IIR_NONE: u8 = 0x01;
const IIR_MODEM_STATUS: u8 = 0x00;
const IIR_TRANSMITTER_EMPTY: u8 = 0x02;
const IIR_RECEIVED: u8 = 0x04;
const IIR_LINE_STATUS: u8 = 0x06;
const IIR_TIMEOUT: u8 = 0x0c;
const IIR_FIFO_ENABLED: u8 = 0xc0;

// FIFO control register.
const FCR_ENABLE: u8 = 0x01;
const FCR_CLEAR_RECEIVED: u8 = 0x02;
const FCR_CLEAR_TRANSMIT: u8 = 0x04;

// Line control register.
const LCR_DIVISOR_LATCH: u8 = 0x80;

// Modem control register.
const MCR_LOOPBACK: u8 = 0x10;

// Line status register.
const LSR_DATA_READY: u8 = 0x01;
const LSR_OVERRUN: u8 = 0x02;
const LSR_BREAK: u8 = 0x10;
const LSR_HOLDING_EMPTY: u8 = 0x20;
const LSR_TRANSMITTER_EMPTY: u8 = 0x40;
const LSR_ERRORS: u8 = 0x1e;

// Modem status register: clear to send, data set ready, carrier detected.
const MSR_CONNECTED: u8 = 0xb0;

/// The registers of an [`Ns16550`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ns16550State {
    /// Interrupt enable register.
    pub ier: u8,
    /// FIFO control register: enable and trigger level bits.
    pub fcr: u8,
    /// Line control register.
    pub lcr: u8,
    /// Modem control register.
    pub mcr: u8,
    /// Error bits of the line status register; the others follow from the FIFOs.
    pub lsr_errors: u8,
    /// Modem status register: state bits in 7..4, change bits in 3..0.
    pub msr: u8,
    /// Scratch register.
    pub scr: u8,
    /// Baud rate divisor.
    pub divisor: u16,
    /// The transmitter became empty and nobody has looked yet.
    pub transmitter_empty_pending: bool,
    /// Received characters.
    pub received: VecDeque<u8>,
    /// Characters that the host's end has not taken yet.
    pub transmit: VecDeque<u8>,
}

impl Ns16550State {
    fn new() -> Ns16550State {
        Ns16550State {
            ier: 0,
            fcr: 0,
            lcr: 0,
            mcr: 0,
            lsr_errors: 0,
            msr: MSR_CONNECTED,
            scr: 0,
            divisor: 12,
            transmitter_empty_pending: false,
            received: VecDeque::new(),
            transmit: VecDeque::new(),
        }
    }

    fn fifo_size(&self) -> usize {
        if self.fcr & FCR_ENABLE != 0 { FIFO } else { 1 }
    }

    fn trigger_level(&self) -> usize {
        if self.fcr & FCR_ENABLE == 0 {
            return 1;
        }
        [1, 4, 8, 14][usize::from(self.fcr >> 6)]
    }

    fn lsr(&self) -> u8 {
        let mut lsr = self.lsr_errors;
        if !self.received.is_empty() {
            lsr |= LSR_DATA_READY;
        }
        if self.transmit.is_empty() {
            lsr |= LSR_HOLDING_EMPTY | LSR_TRANSMITTER_EMPTY;
        }
        lsr
    }

    /// The interrupt of highest priority that is enabled and pending.
    fn interrupt(&self) -> u8 {
        if self.ier & IER_LINE_STATUS != 0 && self.lsr_errors != 0 {
            IIR_LINE_STATUS
        } else if self.ier & IER_RECEIVED != 0 && self.received.len() >= self.trigger_level() {
            IIR_RECEIVED
        } else if self.ier & IER_RECEIVED != 0 && !self.received.is_empty() {
            IIR_TIMEOUT
        } else if self.ier & IER_TRANSMITTER_EMPTY != 0 && self.transmitter_empty_pending {
            IIR_TRANSMITTER_EMPTY
        } else if self.ier & IER_MODEM_STATUS != 0 && self.msr & 0x0f != 0 {
            IIR_MODEM_STATUS
        } else {
            IIR_NONE
        }
    }

    /// Changes the state bits of the modem status register and notes which changed.
    fn set_modem_status(&mut self, lines: u8) {
        let changed = (self.msr ^ lines) & 0xf0;
        // The ring indicator counts only when it ends.
        let noted = (changed & !0x40) | (changed & self.msr & 0x40);
        self.msr = (lines & 0xf0) | (self.msr & 0x0f) | (noted >> 4);
    }

    fn push_received(&mut self, byte: u8) {
        if self.received.len() < self.fifo_size() {
            self.received.push_back(byte);
        } else {
            self.lsr_errors |= LSR_OVERRUN;
        }
    }
}

/// A 16550A UART between a guest and a character device of the host.
pub struct Ns16550 {
    label: String,
    line: InterruptLine,
    backend: Arc<dyn CharBackend>,
    /// The machine stands still: nothing is received.
    paused: AtomicBool,
    // Lock order: before interrupt controllers' and the backend's.
    state: Mutex<Ns16550State>,
}

impl Ns16550 {
    /// A UART called `label` that interrupts through `line`.
    pub fn new(label: impl Into<String>, line: InterruptLine, backend: Arc<dyn CharBackend>) -> Arc<Ns16550> {
        let state = Mutex::new(Ns16550State::new());
        let device = Arc::new(Ns16550 {
            label: label.into(),
            line,
            backend: backend.clone(),
            paused: AtomicBool::new(false),
            state,
        });
        backend.connect(Arc::new(WeakFrontend(Arc::downgrade(&device))));
        device
    }

    fn update_line(&self, state: &Ns16550State) {
        self.line.set(state.interrupt() != IIR_NONE);
    }

    /// Gives waiting characters to the host.
    fn transmit(&self, state: &mut Ns16550State) {
        if state.transmit.is_empty() {
            return;
        }
        let taken = self.backend.write(state.transmit.make_contiguous());
        state.transmit.drain(..taken.min(state.transmit.len()));
        if state.transmit.is_empty() {
            state.transmitter_empty_pending = true;
        }
    }

    fn read_register(&self, register: u64) -> u8 {
        let mut state = self.state.lock();
        let latch = state.lcr & LCR_DIVISOR_LATCH != 0;
        match register & 7 {
            0 if latch => state.divisor as u8,
            1 if latch => (state.divisor >> 8) as u8,
            0 => {
                let byte = state.received.pop_front().unwrap_or(0);
                self.update_line(&state);
                if state.mcr & MCR_LOOPBACK == 0 {
                    self.backend.accept_input();
                }
                byte
            }
            1 => state.ier,
            2 => {
                let interrupt = state.interrupt();
                if interrupt == IIR_TRANSMITTER_EMPTY {
                    state.transmitter_empty_pending = false;
                    self.update_line(&state);
                }
                interrupt | if state.fcr & FCR_ENABLE != 0 { IIR_FIFO_ENABLED } else { 0 }
            }
            3 => state.lcr,
            4 => state.mcr,
            5 => {
                let lsr = state.lsr();
                state.lsr_errors = 0;
                self.update_line(&state);
                lsr
            }
            6 => {
                let msr = state.msr;
                state.msr &= 0xf0;
                self.update_line(&state);
                msr
            }
            _ => state.scr,
        }
    }

    fn write_register(&self, register: u64, value: u8) {
        let mut state = self.state.lock();
        let latch = state.lcr & LCR_DIVISOR_LATCH != 0;
        match register & 7 {
            0 if latch => state.divisor = (state.divisor & 0xff00) | u16::from(value),
            1 if latch => state.divisor = (state.divisor & 0x00ff) | (u16::from(value) << 8),
            0 => {
                state.transmitter_empty_pending = false;
                if state.mcr & MCR_LOOPBACK != 0 {
                    state.push_received(value);
                    state.transmitter_empty_pending = true;
                } else {
                    if state.transmit.len() == state.fifo_size() {
                        // A driver that does not wait for room overwrites what it wrote last.
                        state.transmit.pop_back();
                    }
                    state.transmit.push_back(value);
                    self.transmit(&mut state);
                }
            }
            1 => {
                let enabled = value & !state.ier & IER_TRANSMITTER_EMPTY != 0;
                state.ier = value & 0x0f;
                if enabled && state.transmit.is_empty() {
                    state.transmitter_empty_pending = true;
                }
            }
            2 => {
                // Switching the FIFOs on or off empties them.
                let switched = (state.fcr ^ value) & FCR_ENABLE != 0;
                if switched || value & FCR_CLEAR_RECEIVED != 0 {
                    state.received.clear();
                    state.lsr_errors &= !LSR_BREAK;
                    self.backend.accept_input();
                }
                if (switched || value & FCR_CLEAR_TRANSMIT != 0) && !state.transmit.is_empty() {
                    state.transmit.clear();
                    state.transmitter_empty_pending = true;
                }
                state.fcr = if value & FCR_ENABLE != 0 { value & 0xc9 } else { 0 };
            }
            3 => state.lcr = value,
            4 => {
                state.mcr = value & 0x1f;
                if value & MCR_LOOPBACK != 0 {
                    // Outputs lead back to inputs: OUT2 to DCD, OUT1 to RI, RTS to CTS, DTR to DSR.
                    let lines = ((value & 0x0c) << 4) | ((value & 0x02) << 3) | ((value & 0x01) << 5);
                    state.set_modem_status(lines);
                } else {
                    state.set_modem_status(MSR_CONNECTED);
                    self.backend.accept_input();
                }
            }
            7 => state.scr = value,
            _ => {}
        }
        self.update_line(&state);
    }
}

impl CharFrontend for Ns16550 {
    fn receivable(&self) -> usize {
        let state = self.state.lock();
        if state.mcr & MCR_LOOPBACK != 0 || self.paused.load(Ordering::Acquire) {
            return 0;
        }
        state.fifo_size().saturating_sub(state.received.len())
    }
    fn receive(&self, data: &[u8]) {
        let mut state = self.state.lock();
        for byte in data {
            state.push_received(*byte);
        }
        self.update_line(&state);
    }
    fn writable(&self) {
        let mut state = self.state.lock();
        self.transmit(&mut state);
        self.update_line(&state);
    }
    fn event(&self, event: CharEvent) {
        if event == CharEvent::Break {
            let mut state = self.state.lock();
            state.push_received(0);
            state.lsr_errors |= LSR_BREAK;
            self.update_line(&state);
        }
    }
}

impl Device for Ns16550 {
    fn debug_label(&self) -> &str {
        &self.label
    }
    fn reset(&self) {
        let mut state = self.state.lock();
        *state = Ns16550State::new();
        self.update_line(&state);
        self.backend.accept_input();
    }
    fn pause(&self) {
        self.paused.store(true, Ordering::Release);
    }
    fn resume(&self) {
        self.paused.store(false, Ordering::Release);
        self.backend.accept_input();
    }
    fn save(&self) -> serde_json::Value {
        state_value(&*self.state.lock())
    }
    fn restore(&self, state: &serde_json::Value) -> Result<(), StateError> {
        let new: Ns16550State = parse_state(&self.label, state)?;
        if new.received.len() > FIFO || new.transmit.len() > FIFO {
            return Err(impossible(&self.label, "a FIFO holds at most 16 characters"));
        }
        if new.lsr_errors & !LSR_ERRORS != 0 {
            return Err(impossible(&self.label, "the error bits of the line status register are 1 to 4"));
        }
        let mut state = self.state.lock();
        *state = new;
        self.update_line(&state);
        self.backend.accept_input();
        Ok(())
    }
}

impl MmioDevice for Ns16550 {
    fn access_rules(&self) -> AccessRules {
        // An access of any width reaches the one register at its address.
        AccessRules { narrowest: Width::Byte, widest: Width::Double, split_to: Width::Double, unaligned: true }
    }
    fn read(&self, offset: u64, _width: Width) -> u64 {
        u64::from(self.read_register(offset))
    }
    fn write(&self, offset: u64, _width: Width, value: u64) -> Effect {
        self.write_register(offset, value as u8);
        Effect::None
    }
}

impl PioDevice for Ns16550 {
    fn read_port(&self, offset: u64, _width: Width) -> u64 {
        u64::from(self.read_register(offset))
    }
    fn write_port(&self, offset: u64, _width: Width, value: u64) -> Effect {
        self.write_register(offset, value as u8);
        Effect::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::{Lines, TestBackend};

    fn device() -> (Arc<Ns16550>, Arc<Lines>, Arc<TestBackend>) {
        let (lines, backend) = (Lines::new(), TestBackend::new(1000));
        (Ns16550::new("serial0", lines.line(10), backend.clone()), lines, backend)
    }

    #[test]
    fn transmitted_characters_reach_the_host_and_the_empty_interrupt_is_acknowledged_by_reading_it() {
        let (uart, lines, backend) = device();
        assert_eq!(uart.read_register(5), 0x60);
        uart.write_register(0, b'a');
        assert_eq!(backend.written(), b"a");
        assert!(!lines.level(10));
        uart.write_register(1, 0x02);
        assert!(lines.level(10));
        assert_eq!(uart.read_register(2), 0x02);
        assert!(!lines.level(10));
        assert_eq!(uart.read_register(2), 0x01);
        uart.write_register(0, b'b');
        assert!(lines.level(10));
    }

    #[test]
    fn a_host_that_takes_nothing_keeps_the_transmitter_full_until_it_has_room() {
        let (uart, lines, backend) = device();
        backend.set_room(0);
        uart.write_register(2, 0x01);
        uart.write_register(1, 0x02);
        let _ = uart.read_register(2);
        for byte in 0..20 {
            uart.write_register(0, byte);
        }
        assert_eq!(uart.read_register(5) & 0x60, 0);
        assert!(!lines.level(10));
        backend.set_room(1000);
        uart.writable();
        assert_eq!(backend.written().len(), 16);
        assert_eq!(uart.read_register(5) & 0x60, 0x60);
        assert!(lines.level(10));
    }

    #[test]
    fn received_characters_interrupt_by_trigger_level_and_timeout() {
        let (uart, lines, _) = device();
        uart.write_register(2, 0x41);
        uart.write_register(1, 0x01);
        assert_eq!(uart.receivable(), 16);
        uart.receive(b"abcd");
        assert!(lines.level(10));
        assert_eq!(uart.read_register(2), 0xc4);
        assert_eq!(uart.read_register(0), b'a');
        assert_eq!(uart.read_register(2), 0xcc);
        assert_eq!((uart.read_register(0), uart.read_register(0)), (b'b', b'c'));
        assert_eq!(uart.read_register(5) & 1, 1);
        assert_eq!(uart.read_register(0), b'd');
        assert!(!lines.level(10));
        assert_eq!((uart.read_register(5) & 1, uart.read_register(0)), (0, 0));
    }

    #[test]
    fn overrun_is_reported_once() {
        let (uart, _, _) = device();
        assert_eq!(uart.receivable(), 1);
        uart.receive(b"ab");
        uart.write_register(1, 0x04);
        assert_eq!(uart.read_register(2), 0x06);
        assert_eq!(uart.read_register(5) & 0x1f, 0x03);
        assert_eq!(uart.read_register(5) & 0x1f, 0x01);
    }

    #[test]
    fn the_divisor_latch_shares_the_first_two_registers() {
        let (uart, _, backend) = device();
        uart.write_register(3, 0x83);
        uart.write_register(0, 0x34);
        uart.write_register(1, 0x12);
        assert_eq!((uart.read_register(0), uart.read_register(1)), (0x34, 0x12));
        uart.write_register(3, 0x03);
        assert_eq!(uart.read_register(1), 0);
        assert!(backend.written().is_empty());
    }

    #[test]
    fn loopback_returns_characters_and_modem_lines() {
        let (uart, _, backend) = device();
        let _ = uart.read_register(6);
        uart.write_register(4, 0x1a);
        assert_eq!(uart.read_register(6) & 0xf0, 0x90);
        uart.write_register(0, b'x');
        assert_eq!(uart.read_register(0), b'x');
        assert!(backend.written().is_empty());
        assert_eq!(uart.receivable(), 0);
        uart.write_register(4, 0);
        assert_eq!(uart.read_register(6) & 0xf0, 0xb0);
        assert_eq!(uart.read_register(6), 0xb0);
    }

    #[test]
    fn the_fifo_bit_and_the_scratch_register_tell_a_16550a() {
        let (uart, _, _) = device();
        uart.write_register(7, 0x5a);
        assert_eq!((uart.read_register(7), uart.read_register(2)), (0x5a, 0x01));
        uart.write_register(2, 0x01);
        assert_eq!(uart.read_register(2), 0xc1);
        uart.write_register(1, 0xff);
        assert_eq!(uart.read_register(1), 0x0f);
    }
}
