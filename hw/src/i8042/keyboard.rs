//! A PS/2 keyboard on which nobody types.
//!
//! IBM PS/2 Hardware Interface Technical Reference, "Keyboard (101- and 102-Key)": commands and answers.

use serde::{Deserialize, Serialize};

const ACKNOWLEDGE: u8 = 0xfa;
const RESEND: u8 = 0xfe;
const ECHO: u8 = 0xee;
const SELF_TEST_PASSED: u8 = 0xaa;

const SET_INDICATORS: u8 = 0xed;
const SET_SCAN_CODES: u8 = 0xf0;
const SET_TYPEMATIC: u8 = 0xf3;

/// The registers of a keyboard.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Keyboard {
    /// The command that waits for its parameter.
    waits: Option<u8>,
    indicators: u8,
    typematic: u8,
    scan_codes: u8,
    /// What RESEND gives again.
    last: u8,
}

impl Keyboard {
    pub(super) fn new() -> Keyboard {
        Keyboard { waits: None, indicators: 0, typematic: 0x2b, scan_codes: 2, last: 0 }
    }

    /// A byte of the controller; gives the answers.
    pub(super) fn write(&mut self, value: u8) -> Vec<u8> {
        let answers = match self.waits.take() {
            Some(command) if value < 0x80 => self.parameter(command, value),
            // A command takes the place of the parameter.
            _ => self.command(value),
        };
        if let Some(last) = answers.last() {
            self.last = *last;
        }
        answers
    }

    fn parameter(&mut self, command: u8, value: u8) -> Vec<u8> {
        match command {
            SET_INDICATORS => self.indicators = value & 7,
            SET_TYPEMATIC => self.typematic = value,
            _ if value == 0 => return vec![ACKNOWLEDGE, self.scan_codes],
            _ if value <= 3 => self.scan_codes = value,
            _ => return vec![RESEND],
        }
        vec![ACKNOWLEDGE]
    }

    fn command(&mut self, value: u8) -> Vec<u8> {
        match value {
            SET_INDICATORS | SET_SCAN_CODES | SET_TYPEMATIC => {
                self.waits = Some(value);
                vec![ACKNOWLEDGE]
            }
            ECHO => vec![ECHO],
            0xf2 => vec![ACKNOWLEDGE, 0xab, 0x83],
            // Scanning on, and off with default settings; default settings.
            0xf4 => vec![ACKNOWLEDGE],
            0xf5 | 0xf6 => {
                *self = Keyboard::new();
                vec![ACKNOWLEDGE]
            }
            // Kinds of keys of scan code set 3.
            0xf7..=0xfa => vec![ACKNOWLEDGE],
            RESEND => vec![self.last],
            0xff => {
                *self = Keyboard::new();
                vec![ACKNOWLEDGE, SELF_TEST_PASSED]
            }
            _ => vec![RESEND],
        }
    }
}
