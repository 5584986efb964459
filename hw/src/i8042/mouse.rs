//! A PS/2 mouse that nobody moves, with the wheel and the five buttons of Microsoft's IntelliMouse.
//!
//! IBM PS/2 Hardware Interface Technical Reference, "Auxiliary Device"; the sequences of sample rates that switch the wheel
//! and the buttons on are those of Microsoft's "Plug and Play Serial Mouse" and wheel mouse notes.

use serde::{Deserialize, Serialize};

const ACKNOWLEDGE: u8 = 0xfa;
const RESEND: u8 = 0xfe;

const SET_RESOLUTION: u8 = 0xe8;
const WRAP_ON: u8 = 0xee;
const WRAP_OFF: u8 = 0xec;
const SET_RATE: u8 = 0xf3;
const RESET: u8 = 0xff;

/// Rates that switch the wheel on, and those that switch two more buttons on.
const WHEEL: [u8; 3] = [200, 100, 80];
const BUTTONS: [u8; 3] = [200, 200, 80];

/// The registers of a mouse.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Mouse {
    /// The command that waits for its parameter.
    waits: Option<u8>,
    /// 0, 3 with a wheel, 4 with five buttons.
    id: u8,
    rate: u8,
    /// The last rates, latest last.
    rates: [u8; 3],
    resolution: u8,
    /// Movements are scaled 2:1.
    scaled: bool,
    enabled: bool,
    /// It sends only when asked.
    remote: bool,
    /// It sends back what it gets.
    wraps: bool,
    last: u8,
}

impl Mouse {
    pub(super) fn new() -> Mouse {
        Mouse {
            waits: None,
            id: 0,
            rate: 100,
            rates: [0; 3],
            resolution: 2,
            scaled: false,
            enabled: false,
            remote: false,
            wraps: false,
            last: 0,
        }
    }

    /// A byte of the controller; gives the answers.
    pub(super) fn write(&mut self, value: u8) -> Vec<u8> {
        let answers = match self.waits.take() {
            Some(command) => self.parameter(command, value),
            None if self.wraps && ![WRAP_OFF, RESET].contains(&value) => vec![value],
            None => self.command(value),
        };
        if let Some(last) = answers.last() {
            self.last = *last;
        }
        answers
    }

    fn parameter(&mut self, command: u8, value: u8) -> Vec<u8> {
        match command {
            SET_RESOLUTION if value <= 3 => self.resolution = value,
            SET_RATE if [10, 20, 40, 60, 80, 100, 200].contains(&value) => {
                self.rate = value;
                self.rates = [self.rates[1], self.rates[2], value];
                match self.rates {
                    WHEEL => self.id = 3,
                    BUTTONS => self.id = 4,
                    _ => {}
                }
            }
            _ => {
                self.waits = Some(command);
                return vec![RESEND];
            }
        }
        vec![ACKNOWLEDGE]
    }

    /// No movement and no button: the bit that is always set, and a byte for the wheel where there is one.
    fn packet(&self) -> Vec<u8> {
        let mut packet = vec![0x08, 0, 0];
        if self.id != 0 {
            packet.push(0);
        }
        packet
    }

    fn command(&mut self, value: u8) -> Vec<u8> {
        let mut answers = vec![ACKNOWLEDGE];
        match value {
            0xe6 => self.scaled = false,
            0xe7 => self.scaled = true,
            SET_RESOLUTION | SET_RATE => self.waits = Some(value),
            0xe9 => {
                let status = u8::from(self.remote) << 6 | u8::from(self.enabled) << 5 | u8::from(self.scaled) << 4;
                answers.extend([status, self.resolution, self.rate]);
            }
            0xea => self.remote = false,
            0xeb => answers.extend(self.packet()),
            WRAP_OFF => self.wraps = false,
            WRAP_ON => self.wraps = true,
            0xf0 => self.remote = true,
            0xf2 => answers.push(self.id),
            0xf4 => self.enabled = true,
            0xf5 => self.enabled = false,
            // Defaults; the wheel stays.
            0xf6 => *self = Mouse { id: self.id, ..Mouse::new() },
            RESEND => return vec![self.last],
            RESET => {
                *self = Mouse::new();
                // Its self test, and what it is.
                answers.extend([0xaa, 0x00]);
            }
            _ => return vec![RESEND],
        }
        answers
    }
}
