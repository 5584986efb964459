//! The two programmable interrupt controllers of a PC.
//!
//! Intel 8259A data sheet (231468), with the edge/level control registers of the PIIX3 (data sheet 290550, section
//! 2.5.7). Ports 0x20 and 0x21 are the first controller's, 0xa0 and 0xa1 those of the second, which cascades into input 2
//! of the first; 0x4d0 and 0x4d1 say which inputs are level-triggered.
//!
//! A request at an edge-triggered input stays until it is acknowledged, also if the input falls before. The controllers always
//! work in cascade and in 8086 mode, as the chipset wires them.

use std::sync::Arc;

use accel::state::pc::Pic;
use parking_lot::Mutex;

use crate::bus::{Effect, PioDevice, Width};
use crate::device::{Device, StateError, impossible, parse_state, state_value};
use crate::interrupt::{InterruptController, InterruptLine};

/// First port and number of ports of the first controller.
pub const FIRST_PORTS: (u64, u64) = (0x20, 2);
/// First port and number of ports of the second controller.
pub const SECOND_PORTS: (u64, u64) = (0xa0, 2);
/// First port and number of ports of the edge/level control registers.
pub const LEVEL_PORTS: (u64, u64) = (0x4d0, 2);

/// Offset at which the device sees the first port of the first controller.
pub const FIRST: u64 = 0;
/// Offset at which the device sees the first port of the second controller.
pub const SECOND: u64 = 2;
/// Offset at which the device sees the first edge/level control register.
pub const LEVEL: u64 = 4;

/// Input of the first controller that the second one drives.
const CASCADE: u8 = 2;
/// Input whose vector is given where a request went away before it was acknowledged.
const SPURIOUS: u8 = 7;

/// Inputs that the chipset lets be level-triggered: not the timer, the keyboard, the cascade, the clock and the coprocessor.
const LEVEL_MASKS: [u8; 2] = [0xf8, 0xde];

/// What a write of ICW1 and of the command words OCW2 and OCW3 has in its bits 4 and 3.
const ICW1: u8 = 0x10;
const OCW3: u8 = 0x08;

/// Position of the first bit of `bits`, counted upwards from `from` and around; `None` if there is none.
fn first_from(bits: u8, from: u8) -> Option<u8> {
    let from = u32::from(from & 7);
    (bits != 0).then(|| ((bits.rotate_right(from).trailing_zeros() + from) & 7) as u8)
}

/// How far input `input` is from the highest priority: 0 is first.
fn rank(pic: &Pic, input: u8) -> u8 {
    input.wrapping_sub(pic.highest_priority) & 7
}

/// The input whose request INT asks to acknowledge.
fn pending(pic: &Pic, is_first: bool) -> Option<u8> {
    let request = first_from(pic.irr & !pic.imr, pic.highest_priority)?;
    let mut in_service = pic.isr;
    if pic.special_mask {
        in_service &= !pic.imr;
    }
    if is_first && pic.special_fully_nested {
        // The second controller may ask again while one of its requests is served.
        in_service &= !(1 << CASCADE);
    }
    match first_from(in_service, pic.highest_priority) {
        Some(served) if rank(pic, served) <= rank(pic, request) => None,
        _ => Some(request),
    }
}

/// INTA for `input`.
fn acknowledge(pic: &mut Pic, input: u8) {
    if pic.automatic_eoi {
        if pic.rotate_on_automatic_eoi {
            pic.highest_priority = (input + 1) & 7;
        }
    } else {
        pic.isr |= 1 << input;
    }
    if pic.level_triggered & (1 << input) == 0 {
        pic.irr &= !(1 << input);
    }
}

fn set_input(pic: &mut Pic, input: u8, level: bool) {
    let bit = 1 << input;
    let rises = level && pic.last_levels & bit == 0;
    pic.last_levels = if level { pic.last_levels | bit } else { pic.last_levels & !bit };
    if pic.level_triggered & bit != 0 {
        pic.irr = pic.last_levels & bit | pic.irr & !bit;
    } else if rises {
        pic.irr |= bit;
    }
}

/// The first initialisation command word begins anew; all but the edge/level control register goes.
fn initialise(pic: &mut Pic, value: u8) {
    *pic = Pic {
        // The edge sense circuit is reset: an input must fall and rise again.
        last_levels: pic.last_levels,
        irr: pic.last_levels & pic.level_triggered,
        vector_base: pic.vector_base,
        initialisation: 1,
        icw4_needed: value & 1 != 0,
        level_triggered: pic.level_triggered,
        level_triggered_mask: pic.level_triggered_mask,
        ..Pic::default()
    };
}

/// OCW2: end of interrupt and rotation.
fn end_of_interrupt(pic: &mut Pic, value: u8) {
    let chosen = value & 7;
    let rotate = value & 0x80 != 0;
    match value >> 5 {
        0 | 4 => pic.rotate_on_automatic_eoi = rotate,
        1 | 5 => {
            // A masked input is not ended in special mask mode.
            let served = if pic.special_mask { pic.isr & !pic.imr } else { pic.isr };
            if let Some(input) = first_from(served, pic.highest_priority) {
                pic.isr &= !(1 << input);
                if rotate {
                    pic.highest_priority = (input + 1) & 7;
                }
            }
        }
        3 | 7 => {
            pic.isr &= !(1 << chosen);
            if rotate {
                pic.highest_priority = (chosen + 1) & 7;
            }
        }
        6 => pic.highest_priority = (chosen + 1) & 7,
        _ => {}
    }
}

fn write_command(pic: &mut Pic, value: u8) {
    if value & ICW1 != 0 {
        initialise(pic, value);
    } else if value & OCW3 != 0 {
        pic.poll = value & 0x04 != 0;
        if value & 0x02 != 0 {
            pic.read_isr = value & 0x01 != 0;
        }
        if value & 0x40 != 0 {
            pic.special_mask = value & 0x20 != 0;
        }
    } else {
        end_of_interrupt(pic, value);
    }
}

fn write_data(pic: &mut Pic, value: u8) {
    pic.initialisation = match pic.initialisation {
        1 => {
            pic.vector_base = value & 0xf8;
            2
        }
        // ICW3 tells what the chipset's wiring fixes.
        2 if pic.icw4_needed => 3,
        2 => 0,
        3 => {
            pic.special_fully_nested = value & 0x10 != 0;
            pic.automatic_eoi = value & 0x02 != 0;
            0
        }
        _ => {
            pic.imr = value;
            0
        }
    };
}

/// Both controllers.
pub struct I8259 {
    /// INT of the first controller.
    output: InterruptLine,
    // Lock order: before the local APICs', to which the output leads.
    pics: Mutex<[Pic; 2]>,
}

impl I8259 {
    /// The pair whose first controller drives `output`.
    pub fn new(output: InterruptLine) -> Arc<I8259> {
        Arc::new(I8259 { output, pics: Mutex::new(reset_state()) })
    }

    /// The registers of both.
    pub fn state(&self) -> [Pic; 2] {
        *self.pics.lock()
    }

    /// Replaces the registers of both.
    pub fn set_state(&self, state: &[Pic; 2]) {
        let mut pics = self.pics.lock();
        *pics = *state;
        for (pic, mask) in pics.iter_mut().zip(LEVEL_MASKS) {
            pic.highest_priority &= 7;
            pic.level_triggered_mask = mask;
            pic.level_triggered &= mask;
        }
        self.update(&mut pics);
    }

    /// The processor acknowledges an interrupt (two INTA cycles); the vector. That of input 7 where the request has gone.
    pub fn acknowledge(&self) -> u8 {
        let mut pics = self.pics.lock();
        let [first, second] = &mut *pics;
        let vector = match pending(first, true) {
            None => first.vector_base | SPURIOUS,
            Some(CASCADE) => {
                acknowledge(first, CASCADE);
                match pending(second, false) {
                    None => second.vector_base | SPURIOUS,
                    Some(input) => {
                        acknowledge(second, input);
                        second.vector_base | input
                    }
                }
            }
            Some(input) => {
                acknowledge(first, input);
                first.vector_base | input
            }
        };
        self.update(&mut pics);
        vector
    }

    /// Carries INT of the second controller to the first, and that of the first out.
    fn update(&self, pics: &mut [Pic; 2]) {
        let [first, second] = pics;
        let cascade = 1 << CASCADE;
        let second_asks = pending(second, false).is_some();
        // INT is a level: the request lasts as long as there is something to acknowledge.
        first.irr = if second_asks { first.irr | cascade } else { first.irr & !cascade };
        self.output.set(pending(first, true).is_some());
    }

    /// A read in poll mode acknowledges.
    fn poll(pics: &mut [Pic; 2], index: usize) -> u8 {
        let Some(pic) = pics.get_mut(index) else { return 0 };
        pic.poll = false;
        match pending(pic, index == 0) {
            Some(input) => {
                acknowledge(pic, input);
                0x80 | input
            }
            None => 0,
        }
    }
}

fn reset_state() -> [Pic; 2] {
    // They serve nothing until they are initialised (data sheet, programming the 8259A), which clears the mask.
    LEVEL_MASKS.map(|level_triggered_mask| Pic { level_triggered_mask, imr: 0xff, ..Pic::default() })
}

impl InterruptController for I8259 {
    /// Inputs 0 to 7 are the first controller's, 8 to 15 those of the second. Input 2 is the cascade: nothing is wired to it.
    fn set_input(&self, number: u32, level: bool) {
        let mut pics = self.pics.lock();
        match number {
            2 => return,
            0..8 => set_input(&mut pics[0], number as u8, level),
            8..16 => set_input(&mut pics[1], (number - 8) as u8, level),
            _ => return,
        }
        self.update(&mut pics);
    }
}

impl Device for I8259 {
    fn debug_label(&self) -> &str {
        "i8259"
    }
    fn reset(&self) {
        let mut pics = self.pics.lock();
        *pics = reset_state();
        self.update(&mut pics);
    }
    fn save(&self) -> serde_json::Value {
        state_value(&self.state())
    }
    fn restore(&self, state: &serde_json::Value) -> Result<(), StateError> {
        let new: [Pic; 2] = parse_state(self.debug_label(), state)?;
        if new.iter().any(|pic| pic.initialisation > 3) {
            return Err(impossible(self.debug_label(), "there are four initialisation command words"));
        }
        self.set_state(&new);
        Ok(())
    }
}

impl PioDevice for I8259 {
    fn read_port(&self, offset: u64, _width: Width) -> u64 {
        let mut pics = self.pics.lock();
        if offset >= LEVEL {
            let pic = if offset == LEVEL { &pics[0] } else { &pics[1] };
            return u64::from(pic.level_triggered);
        }
        let index = usize::from(offset >= SECOND);
        let value = if pics[index].poll {
            let value = I8259::poll(&mut pics, index);
            self.update(&mut pics);
            value
        } else {
            let pic = &pics[index];
            match (offset & 1 != 0, pic.read_isr) {
                (true, _) => pic.imr,
                (false, true) => pic.isr,
                (false, false) => pic.irr,
            }
        };
        u64::from(value)
    }

    fn write_port(&self, offset: u64, _width: Width, value: u64) -> Effect {
        let mut pics = self.pics.lock();
        let value = value as u8;
        if offset >= LEVEL {
            let pic = if offset == LEVEL { &mut pics[0] } else { &mut pics[1] };
            pic.level_triggered = value & pic.level_triggered_mask;
        } else {
            let pic = &mut pics[usize::from(offset >= SECOND)];
            if offset & 1 == 0 { write_command(pic, value) } else { write_data(pic, value) }
        }
        self.update(&mut pics);
        Effect::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::Lines;

    const COMMANDS: [u64; 2] = [FIRST, SECOND];

    fn write(pics: &I8259, offset: u64, values: &[u8]) {
        for value in values {
            assert_eq!(pics.write_port(offset, Width::Byte, u64::from(*value)), Effect::None);
        }
    }
    fn read(pics: &I8259, offset: u64) -> u8 {
        pics.read_port(offset, Width::Byte) as u8
    }
    /// As a PC's firmware sets them up, with vectors 0x08 and 0x70, and `icw4`.
    fn set_up(icw4: u8) -> (Arc<I8259>, Arc<Lines>) {
        let lines = Lines::new();
        let pics = I8259::new(lines.line(0));
        write(&pics, FIRST, &[0x11]);
        write(&pics, FIRST + 1, &[0x08, 0x04, icw4]);
        write(&pics, SECOND, &[0x11]);
        write(&pics, SECOND + 1, &[0x70, 0x02, icw4]);
        (pics, lines)
    }
    fn pulse(pics: &I8259, input: u32) {
        pics.set_input(input, true);
        pics.set_input(input, false);
    }

    #[test]
    fn a_higher_priority_interrupts_a_lower_one_and_not_the_other_way_around() {
        let (pics, lines) = set_up(1);
        pulse(&pics, 4);
        assert_eq!((lines.level(0), pics.acknowledge(), lines.level(0)), (true, 0x0c, false));
        pulse(&pics, 5);
        assert!(!lines.level(0));
        pulse(&pics, 1);
        assert_eq!((lines.level(0), pics.acknowledge()), (true, 0x09));
        write(&pics, FIRST, &[0x0b]);
        assert_eq!(read(&pics, FIRST), 0x12);
        write(&pics, FIRST, &[0x20]);
        assert_eq!((read(&pics, FIRST), lines.level(0)), (0x10, false));
        write(&pics, FIRST, &[0x20]);
        assert_eq!((lines.level(0), pics.acknowledge()), (true, 0x0d));
    }

    #[test]
    fn the_second_controller_asks_through_input_2_once_for_each_request() {
        let (pics, lines) = set_up(1);
        pulse(&pics, 14);
        pulse(&pics, 8);
        assert_eq!(read(&pics, FIRST), 0x04);
        assert_eq!(pics.acknowledge(), 0x70);
        assert!(!lines.level(0), "input 14 waits for the end of input 8");
        write(&pics, SECOND, &[0x20]);
        write(&pics, FIRST, &[0x20]);
        assert!(lines.level(0));
        assert_eq!(pics.acknowledge(), 0x76);
        write(&pics, SECOND, &[0x66]);
        write(&pics, FIRST, &[0x62]);
        write(&pics, FIRST, &[0x0b]);
        write(&pics, SECOND, &[0x0b]);
        assert_eq!((read(&pics, FIRST), read(&pics, SECOND), lines.level(0)), (0, 0, false));
    }

    #[test]
    fn special_fully_nested_mode_lets_the_second_controller_nest() {
        let (pics, lines) = set_up(0x11);
        pulse(&pics, 14);
        assert_eq!(pics.acknowledge(), 0x76);
        pulse(&pics, 9);
        assert!(lines.level(0));
        assert_eq!(pics.acknowledge(), 0x71);
    }

    #[test]
    fn a_request_that_went_away_is_spurious() {
        let (pics, lines) = set_up(1);
        write(&pics, LEVEL, &[0xff]);
        write(&pics, LEVEL + 1, &[0xff]);
        assert_eq!((read(&pics, LEVEL), read(&pics, LEVEL + 1)), (0xf8, 0xde));
        pics.set_input(5, true);
        assert!(lines.level(0));
        pics.set_input(5, false);
        assert!(!lines.level(0));
        assert_eq!(pics.acknowledge(), 0x0f);
        write(&pics, FIRST, &[0x0b]);
        assert_eq!(read(&pics, FIRST), 0, "nothing is in service");
    }

    #[test]
    fn a_level_asks_again_after_its_end_and_an_edge_does_not() {
        let (pics, lines) = set_up(1);
        write(&pics, LEVEL + 1, &[0x04]);
        pics.set_input(10, true);
        pics.set_input(3, true);
        assert_eq!(pics.acknowledge(), 0x72);
        write(&pics, SECOND, &[0x20]);
        write(&pics, FIRST, &[0x20]);
        assert_eq!((lines.level(0), pics.acknowledge()), (true, 0x72));
        pics.set_input(10, false);
        write(&pics, SECOND, &[0x20]);
        write(&pics, FIRST, &[0x20]);
        assert_eq!(pics.acknowledge(), 0x0b);
        write(&pics, FIRST, &[0x20]);
        assert!(!lines.level(0));
    }

    #[test]
    fn masks_hold_requests_back_until_they_go() {
        let (pics, lines) = set_up(1);
        write(&pics, FIRST + 1, &[0x02]);
        pulse(&pics, 1);
        assert_eq!((lines.level(0), read(&pics, FIRST), read(&pics, FIRST + 1)), (false, 0x02, 0x02));
        write(&pics, FIRST + 1, &[0]);
        assert!(lines.level(0));
    }

    #[test]
    fn special_mask_mode_lets_lower_priorities_through_a_masked_one() {
        let (pics, lines) = set_up(1);
        pulse(&pics, 3);
        pics.acknowledge();
        pulse(&pics, 6);
        assert!(!lines.level(0));
        write(&pics, FIRST + 1, &[0x08]);
        write(&pics, FIRST, &[0x68]);
        assert_eq!((lines.level(0), pics.acknowledge()), (true, 0x0e));
        write(&pics, FIRST, &[0x20, 0x0b]);
        assert_eq!(read(&pics, FIRST), 0x08, "the masked one is not ended");
        write(&pics, FIRST, &[0x48]);
        pulse(&pics, 6);
        assert!(!lines.level(0));
    }

    #[test]
    fn priorities_rotate_as_told() {
        let (pics, _) = set_up(1);
        pulse(&pics, 3);
        pics.acknowledge();
        // Rotate on non-specific end of interrupt: 3 becomes the lowest.
        write(&pics, FIRST, &[0xa0]);
        pulse(&pics, 3);
        pulse(&pics, 7);
        assert_eq!(pics.acknowledge(), 0x0f);
        write(&pics, FIRST, &[0x67]);
        assert_eq!(pics.acknowledge(), 0x0b);
        write(&pics, FIRST, &[0x63]);
        // Set priority: 5 becomes the lowest.
        write(&pics, FIRST, &[0xc5]);
        pulse(&pics, 5);
        pulse(&pics, 6);
        assert_eq!(pics.acknowledge(), 0x0e);
    }

    #[test]
    fn automatic_end_of_interrupt_leaves_nothing_in_service() {
        let (pics, lines) = set_up(3);
        write(&pics, FIRST, &[0x80]);
        pulse(&pics, 4);
        assert_eq!(pics.acknowledge(), 0x0c);
        write(&pics, FIRST, &[0x0b]);
        assert_eq!(read(&pics, FIRST), 0);
        // It rotated: 5 is the highest now, 4 the lowest.
        pulse(&pics, 4);
        pulse(&pics, 5);
        assert_eq!((pics.acknowledge(), pics.acknowledge(), lines.level(0)), (0x0d, 0x0c, false));
    }

    #[test]
    fn poll_mode_acknowledges_by_a_read() {
        let (pics, lines) = set_up(1);
        pulse(&pics, 6);
        write(&pics, FIRST, &[0x0c]);
        assert_eq!((read(&pics, FIRST), lines.level(0)), (0x86, false));
        write(&pics, FIRST, &[0x0b]);
        assert_eq!(read(&pics, FIRST), 0x40);
        write(&pics, FIRST, &[0x0c]);
        assert_eq!(read(&pics, FIRST) & 0x80, 0);
    }

    #[test]
    fn an_initialisation_forgets_requests_and_masks_but_not_the_trigger_modes() {
        let (pics, lines) = set_up(1);
        write(&pics, LEVEL, &[0x20]);
        write(&pics, FIRST + 1, &[0xff]);
        pulse(&pics, 1);
        for offset in COMMANDS {
            write(&pics, offset, &[0x10]);
            // Without ICW4 the third word ends the sequence.
            write(&pics, offset + 1, &[0x20, 0x04, 0x5a]);
            assert_eq!((read(&pics, offset), read(&pics, offset + 1)), (0, 0x5a));
        }
        assert_eq!((read(&pics, LEVEL), lines.level(0)), (0x20, false));
    }

    #[test]
    fn a_saved_state_goes_on() {
        let (pics, _) = set_up(1);
        pulse(&pics, 12);
        let (other, lines) = set_up(3);
        other.restore(&pics.save()).unwrap();
        assert_eq!(other.save(), pics.save());
        assert_eq!((lines.level(0), other.acknowledge()), (true, 0x74));
    }
}
