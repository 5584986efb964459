//! The interval timer (Intel 8254) and the speaker's port.

use crate::support::qtest::Machine;

/// Nanoseconds in which a counter counts so far, and a little more.
fn time(counts: u64) -> u64 {
    (counts * 1_000_000_000).div_ceil(1_193_182) + 1
}

fn machine() -> Machine {
    let mut machine = Machine::pc(&[]);
    machine.listen_to("ioapic");
    machine
}

fn program(machine: &mut Machine, channel: u8, mode: u8, count: u16) {
    machine.outb(0x43, channel << 6 | 0x30 | mode << 1);
    machine.outb(0x40 + u16::from(channel), count as u8);
    machine.outb(0x40 + u16::from(channel), (count >> 8) as u8);
}

fn count(machine: &mut Machine, channel: u8) -> u16 {
    machine.outb(0x43, channel << 6);
    let port = 0x40 + u16::from(channel);
    u16::from_le_bytes([machine.inb(port), machine.inb(port)])
}

/// The status of a channel by the read-back command.
fn status(machine: &mut Machine, channel: u8) -> u8 {
    machine.outb(0x43, 0xe0 | 2 << channel);
    machine.inb(0x40 + u16::from(channel))
}

fn rises(machine: &mut Machine) -> usize {
    machine.interrupts().into_iter().filter(|interrupt| *interrupt == (0, true)).count()
}

#[test]
fn mode_0_interrupts_once_when_the_count_ends() {
    let mut machine = machine();
    program(&mut machine, 0, 0, 1000);
    rises(&mut machine);
    assert_eq!(status(&mut machine, 0) & 0xbf, 0x30);
    machine.step(time(400));
    assert_eq!((count(&mut machine, 0), rises(&mut machine)), (600, 0));
    machine.step(time(600));
    assert_eq!((status(&mut machine, 0) & 0x80, rises(&mut machine)), (0x80, 1));
    // It counts on below zero, silently.
    machine.step(time(100_000));
    assert_eq!(rises(&mut machine), 0);
}

#[test]
fn modes_2_and_3_interrupt_for_ever() {
    let mut machine = machine();
    for mode in [2, 3] {
        program(&mut machine, 0, mode, 11932);
        rises(&mut machine);
        for _ in 0..10 {
            machine.step(time(11932));
        }
        assert_eq!(rises(&mut machine), 10, "mode {mode}");
        machine.step(time(100));
        let shown = count(&mut machine, 0);
        let expected = if mode == 2 { 11932 - 100 } else { 11932 - 200 };
        assert!((expected - 30..=expected).contains(&shown), "mode {mode}: {shown}");
    }
    // The square wave is high in its first half.
    program(&mut machine, 0, 3, 1000);
    assert_eq!(status(&mut machine, 0) & 0x80, 0x80);
    machine.step(time(600));
    assert_eq!(status(&mut machine, 0) & 0x80, 0);
}

#[test]
fn mode_4_strobes_once() {
    let mut machine = machine();
    program(&mut machine, 0, 4, 100);
    rises(&mut machine);
    machine.step(time(101));
    machine.step(time(100));
    assert_eq!(status(&mut machine, 0), 0xb8);
}

#[test]
fn latches_hold_until_they_are_read() {
    let mut machine = machine();
    program(&mut machine, 0, 2, 0x8000);
    machine.step(time(0x100));
    machine.outb(0x43, 0);
    machine.step(time(0x1000));
    // A second latch of an unread one is ignored.
    machine.outb(0x43, 0);
    assert_eq!(u16::from_le_bytes([machine.inb(0x40), machine.inb(0x40)]), 0x8000 - 0x100);
    // Status and count together: the status comes first.
    machine.outb(0x43, 0xc2);
    assert_eq!(machine.inb(0x40) & 0x3f, 0x34);
    let latched = u16::from_le_bytes([machine.inb(0x40), machine.inb(0x40)]);
    assert!((0x8000 - 0x1110..=0x8000 - 0x1100).contains(&latched), "{latched:#x}");
    // Read-back of several channels.
    machine.outb(0x43, 0xee);
    for channel in 0..3 {
        assert_eq!(machine.inb(0x40 + channel) & 0x30, 0x30);
    }
}

#[test]
fn one_byte_and_decimal_counts() {
    let mut machine = machine();
    // Low byte only.
    machine.outb(0x43, 0x94);
    machine.outb(0x42, 0x40);
    machine.outb(0x61, 1);
    machine.step(time(0x10));
    assert_eq!(machine.inb(0x42), 0x30);
    // High byte only.
    machine.outb(0x43, 0xa4);
    machine.outb(0x42, 0x12);
    machine.step(time(0x300));
    assert_eq!(machine.inb(0x42), 0x0f);
    // Decimal: 1000 less 1.
    machine.outb(0x43, 0xb5);
    machine.outb(0x42, 0x00);
    machine.outb(0x42, 0x10);
    machine.step(time(1));
    assert_eq!(count(&mut machine, 2), 0x0999);
    // Zero is 65536.
    program(&mut machine, 2, 2, 0);
    machine.step(time(1));
    assert_eq!(count(&mut machine, 2), 0xffff);
}

#[test]
fn the_speakers_gate_stops_and_starts_channel_2() {
    let mut machine = machine();
    machine.outb(0x61, 0);
    program(&mut machine, 2, 0, 10_000);
    machine.step(time(500));
    assert_eq!(count(&mut machine, 2), 10_000);
    machine.outb(0x61, 3);
    assert_eq!(machine.inb(0x61) & 0x23, 3);
    machine.step(time(2_000));
    assert_eq!(count(&mut machine, 2), 8_000);
    machine.step(time(8_000));
    assert_eq!(machine.inb(0x61) & 0x20, 0x20);
    // Mode 1: the gate's rise starts it.
    machine.outb(0x61, 0);
    program(&mut machine, 2, 1, 100);
    machine.step(time(200));
    machine.outb(0x61, 1);
    assert_eq!(machine.inb(0x61) & 0x20, 0);
    machine.step(time(101));
    assert_eq!(machine.inb(0x61) & 0x20, 0x20);
    // The refresh bit toggles.
    let before = machine.inb(0x61) & 0x10;
    machine.step(15_085);
    assert_eq!(machine.inb(0x61) & 0x10, before ^ 0x10);
}
