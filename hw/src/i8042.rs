//! Keyboard controller of a PC, with a keyboard on which nobody types, and system control port A.
//!
//! IBM PS/2 Hardware Interface Technical Reference, "Keyboard and Auxiliary Device Controller": data at port 0x60,
//! command and status at port 0x64. What matters here is that a guest finds a controller, and the two ways of
//! resetting the machine: the controller's output port, and port 0x92.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::bus::{Effect, PioDevice, Width};
use crate::device::{Device, StateError, impossible, parse_state, state_value};
use crate::interrupt::InterruptLine;

/// Offset of the data port.
pub const DATA: u64 = 0;
/// Offset of the command and status port.
pub const COMMAND: u64 = 4;
/// Offset that the board gives system control port A.
pub const SYSTEM_CONTROL: u64 = 8;

const STATUS_OUTPUT_FULL: u8 = 0x01;
const STATUS_SYSTEM: u8 = 0x04;
const STATUS_COMMAND: u8 = 0x08;
const STATUS_UNLOCKED: u8 = 0x10;

const MODE_KEYBOARD_INTERRUPT: u8 = 0x01;
const MODE_SYSTEM: u8 = 0x04;
const MODE_KEYBOARD_OFF: u8 = 0x10;
const MODE_AUXILIARY_OFF: u8 = 0x20;

/// A guest that asks and never reads gets no more answers than these.
const MOST_ANSWERS: usize = 16;

const ACKNOWLEDGE: u8 = 0xfa;

/// The registers of an [`I8042`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct I8042State {
    /// Command byte.
    pub mode: u8,
    /// Output port: bit 0 resets when low, bit 1 gates address line 20.
    pub output_port: u8,
    /// The command that waits for its data byte.
    pub waiting_command: Option<u8>,
    /// The last write was to the command port.
    pub command_last: bool,
    /// Bytes for the guest.
    pub answers: VecDeque<u8>,
}

impl I8042State {
    fn new() -> I8042State {
        I8042State {
            mode: MODE_KEYBOARD_INTERRUPT | MODE_SYSTEM | MODE_AUXILIARY_OFF,
            output_port: 0x03,
            waiting_command: None,
            command_last: false,
            answers: VecDeque::new(),
        }
    }

    fn answer(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if self.answers.len() < MOST_ANSWERS {
                self.answers.push_back(*byte);
            }
        }
    }

    fn set_output_port(&mut self, value: u8) -> Effect {
        self.output_port = value;
        if value & 1 == 0 { Effect::Reset } else { Effect::None }
    }
}

/// The keyboard controller.
pub struct I8042 {
    line: InterruptLine,
    // Lock order: before interrupt controllers'.
    state: Mutex<I8042State>,
}

impl I8042 {
    /// A controller whose keyboard interrupts through `line`.
    pub fn new(line: InterruptLine) -> Arc<I8042> {
        Arc::new(I8042 { line, state: Mutex::new(I8042State::new()) })
    }

    fn update(&self, state: &I8042State) {
        self.line.set(!state.answers.is_empty() && state.mode & MODE_KEYBOARD_INTERRUPT != 0);
    }

    fn command(state: &mut I8042State, command: u8) -> Effect {
        match command {
            0x20 => state.answer(&[state.mode]),
            0x60 | 0xd1..=0xd4 => state.waiting_command = Some(command),
            0xa7 => state.mode |= MODE_AUXILIARY_OFF,
            0xa8 => state.mode &= !MODE_AUXILIARY_OFF,
            // Tests: of the controller, the auxiliary port (there is none: it answers nothing) and the keyboard port.
            0xaa => state.answer(&[0x55]),
            0xa9 => state.answer(&[0xff]),
            0xab => state.answer(&[0x00]),
            0xad => state.mode |= MODE_KEYBOARD_OFF,
            0xae => state.mode &= !MODE_KEYBOARD_OFF,
            0xc0 => state.answer(&[0x80]),
            0xd0 => state.answer(&[state.output_port]),
            // Pulses of output lines; a low bit 0 pulses the reset line.
            0xf0..=0xff if command & 1 == 0 => return Effect::Reset,
            _ => {}
        }
        Effect::None
    }

    fn data(state: &mut I8042State, value: u8) -> Effect {
        match state.waiting_command.take() {
            Some(0x60) => state.mode = value,
            Some(0xd1) => return state.set_output_port(value),
            Some(0xd2) => state.answer(&[value]),
            Some(_) => {}
            // To the keyboard.
            None => match value {
                0xff => state.answer(&[ACKNOWLEDGE, 0xaa]),
                0xf2 => state.answer(&[ACKNOWLEDGE, 0xab, 0x83]),
                0xee => state.answer(&[0xee]),
                _ => state.answer(&[ACKNOWLEDGE]),
            },
        }
        Effect::None
    }
}

impl Device for I8042 {
    fn debug_label(&self) -> &str {
        "i8042"
    }
    fn reset(&self) {
        let mut state = self.state.lock();
        *state = I8042State::new();
        self.update(&state);
    }
    fn save(&self) -> serde_json::Value {
        state_value(&*self.state.lock())
    }
    fn restore(&self, state: &serde_json::Value) -> Result<(), StateError> {
        let new: I8042State = parse_state(self.debug_label(), state)?;
        if new.answers.len() > MOST_ANSWERS {
            return Err(impossible(self.debug_label(), format!("at most {MOST_ANSWERS} bytes wait for the guest")));
        }
        let mut state = self.state.lock();
        *state = new;
        self.update(&state);
        Ok(())
    }
}

impl PioDevice for I8042 {
    fn read_port(&self, offset: u64, _width: Width) -> u64 {
        let mut state = self.state.lock();
        let value = match offset {
            DATA => {
                let byte = state.answers.pop_front().unwrap_or(0);
                self.update(&state);
                byte
            }
            COMMAND => {
                let full = if state.answers.is_empty() { 0 } else { STATUS_OUTPUT_FULL };
                let command = if state.command_last { STATUS_COMMAND } else { 0 };
                full | command | STATUS_UNLOCKED | if state.mode & MODE_SYSTEM != 0 { STATUS_SYSTEM } else { 0 }
            }
            SYSTEM_CONTROL => state.output_port & 0x02,
            _ => 0xff,
        };
        u64::from(value)
    }

    fn write_port(&self, offset: u64, _width: Width, value: u64) -> Effect {
        let value = value as u8;
        let mut state = self.state.lock();
        let effect = match offset {
            DATA => {
                state.command_last = false;
                I8042::data(&mut state, value)
            }
            COMMAND => {
                state.command_last = true;
                I8042::command(&mut state, value)
            }
            SYSTEM_CONTROL => {
                // Bit 0 resets, bit 1 gates address line 20.
                state.output_port = (state.output_port & !0x02) | (value & 0x02);
                if value & 1 != 0 { Effect::Reset } else { Effect::None }
            }
            _ => Effect::None,
        };
        self.update(&state);
        effect
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::Lines;

    fn read(device: &I8042, offset: u64) -> u64 {
        device.read_port(offset, Width::Byte)
    }
    fn write(device: &I8042, offset: u64, value: u64) -> Effect {
        device.write_port(offset, Width::Byte, value)
    }

    #[test]
    fn the_controller_tests_itself_and_says_when_an_answer_waits() {
        let lines = Lines::new();
        let device = I8042::new(lines.line(1));
        assert_eq!(read(&device, COMMAND) & 1, 0);
        let _ = write(&device, COMMAND, 0xaa);
        assert!(lines.level(1));
        assert_eq!((read(&device, COMMAND) & 0x09, read(&device, DATA)), (0x09, 0x55));
        assert!(!lines.level(1));
    }

    #[test]
    fn each_way_of_resetting_resets() {
        let device = I8042::new(InterruptLine::disconnected());
        assert_eq!(write(&device, COMMAND, 0xfe), Effect::Reset);
        assert_eq!(write(&device, COMMAND, 0xff), Effect::None);
        assert_eq!(write(&device, COMMAND, 0xd1), Effect::None);
        assert_eq!(write(&device, DATA, 0x02), Effect::Reset);
        assert_eq!(write(&device, SYSTEM_CONTROL, 0x02), Effect::None);
        assert_eq!(read(&device, SYSTEM_CONTROL), 2);
        assert_eq!(write(&device, SYSTEM_CONTROL, 0x03), Effect::Reset);
    }

    #[test]
    fn the_command_byte_is_read_and_written_and_masks_the_interrupt() {
        let lines = Lines::new();
        let device = I8042::new(lines.line(1));
        let _ = write(&device, COMMAND, 0x60);
        let _ = write(&device, DATA, 0x74);
        let _ = write(&device, COMMAND, 0x20);
        assert!(!lines.level(1));
        assert_eq!(read(&device, DATA), 0x74);
    }

    #[test]
    fn the_keyboard_answers_a_reset_and_answers_are_bounded() {
        let device = I8042::new(InterruptLine::disconnected());
        let _ = write(&device, DATA, 0xff);
        assert_eq!((read(&device, DATA), read(&device, DATA)), (0xfa, 0xaa));
        for _ in 0..1000 {
            let _ = write(&device, DATA, 0xf2);
        }
        assert_eq!((0..100).filter(|_| read(&device, COMMAND) & 1 != 0 && read(&device, DATA) != 0).count(), 16);
    }
}
