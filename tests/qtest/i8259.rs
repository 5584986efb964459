//! The interrupt controllers (Intel 8259A).

use crate::support::qtest::Machine;

const FIRST: u16 = 0x20;
const SECOND: u16 = 0xa0;

/// Vectors 0x20 and 0x28, cascaded, nothing masked.
fn machine() -> Machine {
    let mut machine = Machine::pc(&[]);
    machine.execute("irq_intercept_out i8259");
    for (base, words) in [(FIRST, [0x11, 0x20, 0x04, 0x01]), (SECOND, [0x11, 0x28, 0x02, 0x01])] {
        machine.outb(base, words[0]);
        words[1..].iter().for_each(|word| machine.outb(base + 1, *word));
        machine.outb(base + 1, 0);
    }
    machine.interrupts();
    machine
}

fn set(machine: &mut Machine, input: u32, level: bool) {
    machine.execute(&format!("set_irq_in i8259 in {input} {}", u8::from(level)));
}

/// Interrupt request register, or the one of those in service.
fn register(machine: &mut Machine, base: u16, command: u8) -> u8 {
    machine.outb(base, command);
    machine.inb(base)
}

#[test]
fn a_request_is_an_edge_and_is_polled() {
    let mut machine = machine();
    set(&mut machine, 3, true);
    assert_eq!(machine.interrupts(), [(0, true)]);
    assert_eq!(register(&mut machine, FIRST, 0x0a), 0x08);
    // Poll: in service, and no more requested.
    machine.outb(FIRST, 0x0c);
    assert_eq!(machine.inb(FIRST), 0x83);
    assert_eq!((register(&mut machine, FIRST, 0x0b), register(&mut machine, FIRST, 0x0a)), (0x08, 0));
    // Still high: no new edge.
    machine.outb(FIRST, 0x20);
    assert_eq!(register(&mut machine, FIRST, 0x0b), 0);
    machine.outb(FIRST, 0x0c);
    assert_eq!(machine.inb(FIRST) & 0x80, 0);
    set(&mut machine, 3, false);
    set(&mut machine, 3, true);
    assert_eq!(register(&mut machine, FIRST, 0x0a), 0x08);
}

#[test]
fn masked_requests_wait_and_lower_ones_wait_for_higher_ones() {
    let mut machine = machine();
    machine.outb(FIRST + 1, 0x08);
    assert_eq!(machine.inb(FIRST + 1), 0x08);
    set(&mut machine, 3, true);
    assert_eq!(machine.interrupts(), []);
    machine.outb(FIRST + 1, 0);
    assert_eq!(machine.interrupts(), [(0, true)]);
    machine.outb(FIRST, 0x0c);
    machine.inb(FIRST);
    machine.interrupts();
    set(&mut machine, 5, true);
    assert_eq!(machine.interrupts(), []);
    set(&mut machine, 1, true);
    assert_eq!(machine.interrupts(), [(0, true)]);
    machine.outb(FIRST, 0x0c);
    assert_eq!(machine.inb(FIRST), 0x81);
    assert_eq!(register(&mut machine, FIRST, 0x0b), 0x0a);
    // A specific end of the lower one.
    machine.outb(FIRST, 0x63);
    assert_eq!(register(&mut machine, FIRST, 0x0b), 0x02);
}

#[test]
fn the_second_controller_asks_through_the_first() {
    let mut machine = machine();
    set(&mut machine, 12, true);
    assert_eq!(machine.interrupts(), [(0, true)]);
    assert_eq!((register(&mut machine, FIRST, 0x0a), register(&mut machine, SECOND, 0x0a)), (0x04, 0x10));
    machine.outb(FIRST, 0x0c);
    assert_eq!(machine.inb(FIRST), 0x82);
    machine.outb(SECOND, 0x0c);
    assert_eq!(machine.inb(SECOND), 0x84);
    machine.outb(SECOND, 0x20);
    machine.outb(FIRST, 0x20);
    assert_eq!((register(&mut machine, FIRST, 0x0b), register(&mut machine, SECOND, 0x0b)), (0, 0));
}

#[test]
fn rotation_makes_the_served_input_the_lowest() {
    let mut machine = machine();
    set(&mut machine, 1, true);
    machine.outb(FIRST, 0x0c);
    machine.inb(FIRST);
    // Ended with rotation: input 2 is the highest now, and 1 the lowest.
    machine.outb(FIRST, 0xa0);
    for input in [0, 4] {
        set(&mut machine, input, true);
    }
    set(&mut machine, 1, false);
    set(&mut machine, 1, true);
    for expected in [0x84, 0x80, 0x81] {
        machine.outb(FIRST, 0x0c);
        assert_eq!(machine.inb(FIRST), expected);
        machine.outb(FIRST, 0x20);
    }
    // Priority set by hand: 5 the lowest.
    machine.outb(FIRST, 0xc5);
    for input in [5, 6] {
        set(&mut machine, input, true);
    }
    machine.outb(FIRST, 0x0c);
    assert_eq!(machine.inb(FIRST), 0x86);
}

#[test]
fn special_mask_mode_lets_lower_ones_through() {
    let mut machine = machine();
    set(&mut machine, 1, true);
    machine.outb(FIRST, 0x0c);
    machine.inb(FIRST);
    machine.outb(FIRST, 0x68);
    machine.outb(FIRST + 1, 0x02);
    machine.interrupts();
    set(&mut machine, 6, true);
    assert_eq!(machine.interrupts(), [(0, true)]);
    machine.outb(FIRST, 0x48);
    assert_eq!(machine.interrupts(), [(0, false)]);
}

#[test]
fn levels_are_inputs_that_stay_requested() {
    let mut machine = machine();
    // Inputs 0, 1, 2, 8 and 13 are always edges.
    machine.outw(0x4d0, 0xffff);
    assert_eq!(machine.inw(0x4d0), 0xdef8);
    set(&mut machine, 10, true);
    machine.outb(FIRST, 0x0c);
    machine.inb(FIRST);
    machine.outb(SECOND, 0x0c);
    assert_eq!(machine.inb(SECOND), 0x82);
    machine.outb(SECOND, 0x20);
    machine.outb(FIRST, 0x20);
    assert_eq!(register(&mut machine, SECOND, 0x0a), 0x04);
    set(&mut machine, 10, false);
    assert_eq!(register(&mut machine, SECOND, 0x0a), 0);
}

#[test]
fn initialisation_starts_over() {
    let mut machine = machine();
    machine.outb(FIRST + 1, 0xff);
    set(&mut machine, 3, true);
    machine.outb(FIRST, 0x0b);
    machine.outb(FIRST, 0x11);
    // Mask and requests are gone, and the request register is read again.
    assert_eq!((machine.inb(FIRST), machine.inb(FIRST + 1)), (0, 0));
    // Automatic end of interrupt.
    for word in [0x20, 0x04, 0x03] {
        machine.outb(FIRST + 1, word);
    }
    set(&mut machine, 4, true);
    machine.outb(FIRST, 0x0c);
    assert_eq!(machine.inb(FIRST), 0x84);
    assert_eq!(register(&mut machine, FIRST, 0x0b), 0);
}
