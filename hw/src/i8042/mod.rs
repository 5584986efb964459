//! Keyboard controller of a PC with its keyboard and mouse, and system control port A.
//!
//! IBM PS/2 Hardware Interface Technical Reference, "Keyboard and Auxiliary Device Controller": data at port 0x60,
//! command and status at port 0x64. Two ways of resetting the machine are here: the controller's output port, and port 0x92.
//! Address line 20 is always on, whatever the output port says of it.

mod keyboard;
mod mouse;

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::bus::{Effect, PioDevice, Width};
use crate::device::{Device, StateError, impossible, parse_state, state_value};
use crate::interrupt::InterruptLine;
use keyboard::Keyboard;
use mouse::Mouse;

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
const STATUS_AUXILIARY: u8 = 0x20;

const MODE_KEYBOARD_INTERRUPT: u8 = 0x01;
const MODE_AUXILIARY_INTERRUPT: u8 = 0x02;
const MODE_SYSTEM: u8 = 0x04;
const MODE_KEYBOARD_OFF: u8 = 0x10;
const MODE_AUXILIARY_OFF: u8 = 0x20;

/// Output port: low resets.
const OUTPUT_RUN: u8 = 0x01;
/// Output port: address line 20.
const OUTPUT_A20: u8 = 0x02;
/// Output port: a byte of the keyboard or of the auxiliary device waits.
const OUTPUT_KEYBOARD_FULL: u8 = 0x10;
const OUTPUT_AUXILIARY_FULL: u8 = 0x20;

/// Bytes of the controller's RAM beside the command byte.
const RAM: usize = 31;

/// A guest that asks and never reads gets no more answers of each device than these.
const MOST_ANSWERS: usize = 16;

/// Where a byte for the guest comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Source {
    /// The controller, or the keyboard.
    Keyboard,
    /// The auxiliary device: the mouse.
    Auxiliary,
}

/// The registers of an [`I8042`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct State {
    /// Command byte.
    mode: u8,
    ram: Vec<u8>,
    output_port: u8,
    /// The command that waits for its data byte.
    waiting_command: Option<u8>,
    /// The last write was to the command port.
    command_last: bool,
    /// The byte in the output buffer.
    output: Option<(u8, Source)>,
    /// What the guest read last.
    last: u8,
    /// Bytes that wait for the output buffer: the controller's own, and each device's.
    answers: VecDeque<(u8, Source)>,
    from_keyboard: VecDeque<u8>,
    from_mouse: VecDeque<u8>,
    keyboard: Keyboard,
    mouse: Mouse,
}

fn push<T>(queue: &mut VecDeque<T>, bytes: impl IntoIterator<Item = T>) {
    for byte in bytes {
        if queue.len() < MOST_ANSWERS {
            queue.push_back(byte);
        }
    }
}

impl State {
    fn new() -> State {
        State {
            mode: MODE_KEYBOARD_INTERRUPT | MODE_AUXILIARY_INTERRUPT | MODE_SYSTEM,
            ram: vec![0; RAM],
            output_port: OUTPUT_RUN | OUTPUT_A20,
            waiting_command: None,
            command_last: false,
            output: None,
            last: 0,
            answers: VecDeque::new(),
            from_keyboard: VecDeque::new(),
            from_mouse: VecDeque::new(),
            keyboard: Keyboard::new(),
            mouse: Mouse::new(),
        }
    }

    /// The controller answers.
    fn answer(&mut self, byte: u8) {
        push(&mut self.answers, [(byte, Source::Keyboard)]);
    }

    fn set_output_port(&mut self, value: u8) -> Effect {
        self.output_port = value & !(OUTPUT_KEYBOARD_FULL | OUTPUT_AUXILIARY_FULL);
        if value & OUTPUT_RUN == 0 { Effect::Reset } else { Effect::None }
    }

    /// Fills the output buffer if it is empty; a device that is switched off waits.
    fn fill(&mut self) {
        if self.output.is_none() {
            self.output = self.answers.pop_front();
        }
        if self.output.is_none() && self.mode & MODE_KEYBOARD_OFF == 0 {
            self.output = self.from_keyboard.pop_front().map(|byte| (byte, Source::Keyboard));
        }
        if self.output.is_none() && self.mode & MODE_AUXILIARY_OFF == 0 {
            self.output = self.from_mouse.pop_front().map(|byte| (byte, Source::Auxiliary));
        }
    }

    fn full(&self) -> u8 {
        match self.output {
            None => 0,
            Some((_, Source::Keyboard)) => OUTPUT_KEYBOARD_FULL,
            Some((_, Source::Auxiliary)) => OUTPUT_AUXILIARY_FULL,
        }
    }

    fn command(&mut self, command: u8) -> Effect {
        match command {
            0x20 => self.answer(self.mode),
            0x21..=0x3f => self.answer(self.ram[usize::from(command - 0x21)]),
            0x60..=0x7f | 0xd1..=0xd4 => self.waiting_command = Some(command),
            // No password is set.
            0xa4 => self.answer(0xf1),
            0xa7 => self.mode |= MODE_AUXILIARY_OFF,
            0xa8 => self.mode &= !MODE_AUXILIARY_OFF,
            // Tests: of the auxiliary port, the controller and the keyboard port.
            0xa9 | 0xab => self.answer(0x00),
            0xaa => {
                self.mode |= MODE_SYSTEM;
                self.answer(0x55);
            }
            0xad => self.mode |= MODE_KEYBOARD_OFF,
            0xae => self.mode &= !MODE_KEYBOARD_OFF,
            0xc0 => self.answer(0x80),
            0xd0 => self.answer(self.output_port | self.full()),
            0xdd => self.output_port &= !OUTPUT_A20,
            0xdf => self.output_port |= OUTPUT_A20,
            // Test inputs: no clock is low.
            0xe0 => self.answer(0x03),
            // Pulses of output lines; a low bit 0 pulses the reset line.
            0xf0..=0xff if command & 1 == 0 => return Effect::Reset,
            _ => {}
        }
        Effect::None
    }

    fn data(&mut self, value: u8) -> Effect {
        match self.waiting_command.take() {
            Some(0x60) => self.mode = value,
            Some(command @ 0x61..=0x7f) => self.ram[usize::from(command - 0x61)] = value,
            Some(0xd1) => return self.set_output_port(value),
            Some(0xd2) => self.answer(value),
            Some(0xd3) => push(&mut self.answers, [(value, Source::Auxiliary)]),
            Some(_) => {
                // A command ends what the mouse still had to say, and switches its port on.
                self.from_mouse.clear();
                let answers = self.mouse.write(value);
                push(&mut self.from_mouse, answers);
                self.mode &= !MODE_AUXILIARY_OFF;
            }
            None => {
                self.from_keyboard.clear();
                let answers = self.keyboard.write(value);
                push(&mut self.from_keyboard, answers);
                self.mode &= !MODE_KEYBOARD_OFF;
            }
        }
        Effect::None
    }
}

/// The keyboard controller.
pub struct I8042 {
    keyboard_line: InterruptLine,
    mouse_line: InterruptLine,
    // Lock order: before interrupt controllers'.
    state: Mutex<State>,
}

impl I8042 {
    /// A controller whose keyboard and mouse interrupt through these lines.
    pub fn new(keyboard_line: InterruptLine, mouse_line: InterruptLine) -> Arc<I8042> {
        Arc::new(I8042 { keyboard_line, mouse_line, state: Mutex::new(State::new()) })
    }

    fn update(&self, state: &mut State) {
        state.fill();
        let (full, mode) = (state.full(), state.mode);
        self.keyboard_line.set(full == OUTPUT_KEYBOARD_FULL && mode & MODE_KEYBOARD_INTERRUPT != 0);
        self.mouse_line.set(full == OUTPUT_AUXILIARY_FULL && mode & MODE_AUXILIARY_INTERRUPT != 0);
    }
}

impl Device for I8042 {
    fn debug_label(&self) -> &str {
        "i8042"
    }
    fn reset(&self) {
        let mut state = self.state.lock();
        *state = State::new();
        self.update(&mut state);
    }
    fn save(&self) -> serde_json::Value {
        state_value(&*self.state.lock())
    }
    fn restore(&self, state: &serde_json::Value) -> Result<(), StateError> {
        let new: State = parse_state(self.debug_label(), state)?;
        let longest = [new.answers.len(), new.from_keyboard.len(), new.from_mouse.len()].into_iter().max();
        if longest > Some(MOST_ANSWERS) || new.ram.len() != RAM {
            let problem = format!("at most {MOST_ANSWERS} bytes of each device wait for the guest");
            return Err(impossible(self.debug_label(), problem));
        }
        let mut state = self.state.lock();
        *state = new;
        self.update(&mut state);
        Ok(())
    }
}

impl PioDevice for I8042 {
    fn read_port(&self, offset: u64, _width: Width) -> u64 {
        let mut state = self.state.lock();
        let value = match offset {
            DATA => {
                if let Some((byte, _)) = state.output.take() {
                    state.last = byte;
                    // The lines fall between two bytes: interrupts are edges.
                    self.keyboard_line.set(false);
                    self.mouse_line.set(false);
                    self.update(&mut state);
                }
                state.last
            }
            COMMAND => {
                let full = match state.output {
                    None => 0,
                    Some((_, Source::Keyboard)) => STATUS_OUTPUT_FULL,
                    Some((_, Source::Auxiliary)) => STATUS_OUTPUT_FULL | STATUS_AUXILIARY,
                };
                let command = if state.command_last { STATUS_COMMAND } else { 0 };
                full | command | STATUS_UNLOCKED | if state.mode & MODE_SYSTEM != 0 { STATUS_SYSTEM } else { 0 }
            }
            SYSTEM_CONTROL => state.output_port & OUTPUT_A20,
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
                state.data(value)
            }
            COMMAND => {
                state.command_last = true;
                state.command(value)
            }
            SYSTEM_CONTROL => {
                // Bit 0 resets, bit 1 gates address line 20.
                state.output_port = (state.output_port & !OUTPUT_A20) | (value & OUTPUT_A20);
                if value & 1 != 0 { Effect::Reset } else { Effect::None }
            }
            _ => Effect::None,
        };
        self.update(&mut state);
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
        let device = I8042::new(lines.line(1), lines.line(12));
        assert_eq!(read(&device, COMMAND) & 1, 0);
        let _ = write(&device, COMMAND, 0xaa);
        assert!(lines.level(1));
        assert_eq!((read(&device, COMMAND) & 0x09, read(&device, DATA)), (0x09, 0x55));
        assert!(!lines.level(1));
    }

    #[test]
    fn each_way_of_resetting_resets() {
        let device = I8042::new(InterruptLine::disconnected(), InterruptLine::disconnected());
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
        let device = I8042::new(lines.line(1), lines.line(12));
        let _ = write(&device, COMMAND, 0x60);
        let _ = write(&device, DATA, 0x74);
        let _ = write(&device, COMMAND, 0x20);
        assert!(!lines.level(1));
        assert_eq!(read(&device, DATA), 0x74);
    }

    #[test]
    fn the_keyboard_answers_a_reset_and_answers_are_bounded() {
        let device = I8042::new(InterruptLine::disconnected(), InterruptLine::disconnected());
        let _ = write(&device, DATA, 0xff);
        assert_eq!((read(&device, DATA), read(&device, DATA)), (0xfa, 0xaa));
        for _ in 0..1000 {
            let _ = write(&device, DATA, 0xf2);
        }
        // Each command ends the answers to those before it.
        assert_eq!((0..100).filter(|_| read(&device, COMMAND) & 1 != 0 && read(&device, DATA) != 0).count(), 4);
        for _ in 0..1000 {
            let _ = write(&device, COMMAND, 0xaa);
        }
        assert_eq!((0..100).filter(|_| read(&device, COMMAND) & 1 != 0 && read(&device, DATA) != 0).count(), 17);
    }
}
