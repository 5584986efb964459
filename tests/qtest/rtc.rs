//! The real-time clock (Motorola MC146818A).

use crate::support::qtest::Machine;

const SECOND: u64 = 1_000_000_000;

fn read(machine: &mut Machine, index: u8) -> u8 {
    machine.outb(0x70, index);
    machine.inb(0x71)
}

fn write(machine: &mut Machine, index: u8, value: u8) {
    machine.outb(0x70, index);
    machine.outb(0x71, value);
}

/// Sets hours, minutes and seconds as register B `format` has them, on 31 December 1999.
fn set_time(machine: &mut Machine, format: u8, time: [u8; 3]) {
    write(machine, 0x0b, 0x80 | format);
    let date = if format & 4 != 0 { [31, 12, 99, 19] } else { [0x31, 0x12, 0x99, 0x19] };
    for (index, value) in
        [(4, time[0]), (2, time[1]), (0, time[2]), (7, date[0]), (8, date[1]), (9, date[2]), (0x32, date[3])]
    {
        write(machine, index, value);
    }
    write(machine, 0x0b, format);
}

fn time(machine: &mut Machine) -> [u8; 3] {
    [4, 2, 0].map(|index| read(machine, index))
}

fn machine() -> Machine {
    let mut machine = Machine::pc(&[]);
    machine.listen_to("ioapic");
    // The interval timer is silent.
    machine.outb(0x43, 0x30);
    machine.interrupts();
    machine
}

#[test]
fn the_year_turns_in_decimal_and_in_binary() {
    let mut machine = machine();
    for (format, before, after) in [
        (0x02, [0x23, 0x59, 0x59], [0, 0, 0]),
        (0x06, [23, 59, 59], [0, 0, 0]),
        // Twelve hours: 11:59 at night becomes 12 in the morning.
        (0x00, [0x91, 0x59, 0x59], [0x12, 0, 0]),
        (0x04, [0x80 | 11, 59, 59], [12, 0, 0]),
    ] {
        set_time(&mut machine, format, before);
        assert_eq!(time(&mut machine), before, "{format:#x}");
        machine.step(SECOND);
        assert_eq!(time(&mut machine), after, "{format:#x}");
        let date = [7, 8, 9, 0x32].map(|index| read(&mut machine, index));
        let expected = if format & 4 != 0 { [1, 1, 0, 20] } else { [1, 1, 0, 0x20] };
        assert_eq!(date, expected, "{format:#x}");
        // A Saturday.
        assert_eq!(read(&mut machine, 6), 7);
    }
    // Noon.
    set_time(&mut machine, 0, [0x11, 0x59, 0x59]);
    machine.step(SECOND);
    assert_eq!(time(&mut machine), [0x92, 0, 0]);
}

#[test]
fn setting_stops_the_clock() {
    let mut machine = machine();
    set_time(&mut machine, 2, [0x10, 0, 0]);
    write(&mut machine, 0x0b, 0x82);
    machine.step(5 * SECOND);
    assert_eq!(time(&mut machine), [0x10, 0, 0]);
    write(&mut machine, 0x0b, 0x02);
    machine.step(SECOND);
    assert_eq!(time(&mut machine), [0x10, 0, 1]);
}

#[test]
fn an_update_is_announced_and_interrupts() {
    let mut machine = machine();
    set_time(&mut machine, 2, [0x10, 0, 0]);
    write(&mut machine, 0x0b, 0x12);
    read(&mut machine, 0x0c);
    // To the next second, by tenths of a millisecond at its end.
    let mut announced = 0;
    let mut seen = Vec::new();
    for _ in 0..=10_000 {
        machine.step(100_000);
        announced += u32::from(read(&mut machine, 0x0a) & 0x80 != 0);
        seen.extend(machine.interrupts());
        if !seen.is_empty() {
            break;
        }
    }
    assert_eq!(seen, [(8, true)]);
    assert!((2..=3).contains(&announced), "{announced}");
    assert_eq!(read(&mut machine, 0x0c) & 0x90, 0x90);
    assert_eq!(machine.interrupts(), [(8, false)]);
    assert_eq!(read(&mut machine, 0x0c) & 0x90, 0);
}

#[test]
fn the_alarm_comes_at_its_time_and_with_wild_cards_again() {
    let mut machine = machine();
    set_time(&mut machine, 2, [0x10, 0, 0x55]);
    for (index, value) in [(5, 0x10), (3, 0x01), (1, 0x02)] {
        write(&mut machine, index, value);
    }
    write(&mut machine, 0x0b, 0x22);
    machine.step(6 * SECOND);
    assert_eq!(machine.interrupts(), []);
    machine.step(SECOND);
    assert_eq!(machine.interrupts(), [(8, true)]);
    assert_eq!(read(&mut machine, 0x0c) & 0xa0, 0xa0);
    machine.interrupts();
    // Every second.
    for index in [1, 3, 5] {
        write(&mut machine, index, 0xff);
    }
    for _ in 0..3 {
        machine.step(SECOND);
        assert_eq!(machine.interrupts(), [(8, true)]);
        read(&mut machine, 0x0c);
        machine.interrupts();
    }
}

#[test]
fn the_periodic_interrupt_has_the_rate_of_register_a() {
    let mut machine = machine();
    for (rate, frequency) in [(0x06, 1024), (0x0f, 2), (0x03, 8192), (0x01, 256), (0x02, 128)] {
        write(&mut machine, 0x0a, 0x20 | rate);
        write(&mut machine, 0x0b, 0x42);
        read(&mut machine, 0x0c);
        machine.interrupts();
        let mut count = 0;
        for _ in 0..8 {
            machine.step(SECOND / frequency + 1);
            count += machine.interrupts().into_iter().filter(|(_, level)| *level).count();
            assert_eq!(read(&mut machine, 0x0c) & 0xc0, 0xc0, "{rate}");
            machine.interrupts();
        }
        assert_eq!(count, 8, "{rate}");
        write(&mut machine, 0x0b, 0x02);
    }
    // Rate 0: none; the flag is there without the interrupt.
    write(&mut machine, 0x0a, 0x20);
    write(&mut machine, 0x0b, 0x42);
    read(&mut machine, 0x0c);
    machine.interrupts();
    machine.step(SECOND / 4);
    assert_eq!((machine.interrupts(), read(&mut machine, 0x0c) & 0x40), (vec![], 0));
}

#[test]
fn ram_survives_a_reset_and_interrupts_do_not() {
    let mut machine = machine();
    for index in 0x40..0x50 {
        write(&mut machine, index, index ^ 0x5a);
    }
    write(&mut machine, 0x0b, 0x72);
    machine.outb(0xcf9, 6);
    assert_eq!(read(&mut machine, 0x0b), 0x02);
    for index in 0x40..0x50 {
        assert_eq!(read(&mut machine, index), index ^ 0x5a);
    }
    // The clock is valid; registers C and D are read-only; bit 7 of the index masks NMIs and is no index.
    write(&mut machine, 0x0d, 0);
    assert_eq!((read(&mut machine, 0x0d), read(&mut machine, 0xcf)), (0x80, 0x4f ^ 0x5a));
}
