//! The keyboard controller with keyboard and mouse.

use crate::support::qtest::Machine;

fn machine() -> Machine {
    let mut machine = Machine::pc(&[]);
    machine.listen_to("ioapic");
    machine
}

/// What waits: bytes, and whether each is the mouse's.
fn answers(machine: &mut Machine) -> Vec<(u8, bool)> {
    let mut answers = Vec::new();
    loop {
        let status = machine.inb(0x64);
        if status & 1 == 0 {
            return answers;
        }
        answers.push((machine.inb(0x60), status & 0x20 != 0));
    }
}

fn keyboard(machine: &mut Machine, bytes: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    for byte in bytes {
        machine.outb(0x60, *byte);
        all.extend(answers(machine).into_iter().map(|(byte, mouse)| {
            assert!(!mouse);
            byte
        }));
    }
    all
}

fn mouse(machine: &mut Machine, bytes: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    for byte in bytes {
        machine.outb(0x64, 0xd4);
        machine.outb(0x60, *byte);
        all.extend(answers(machine).into_iter().map(|(byte, mouse)| {
            assert!(mouse);
            byte
        }));
    }
    all
}

#[test]
fn the_controller_answers() {
    let mut machine = machine();
    for (command, answer) in [(0xaa, 0x55), (0xab, 0), (0xa9, 0), (0xa4, 0xf1), (0xc0, 0x80), (0xe0, 3), (0xd0, 3)] {
        machine.outb(0x64, command);
        assert_eq!(answers(&mut machine), [(answer, false)], "{command:#x}");
    }
    // Command byte and RAM.
    machine.outb(0x64, 0x60);
    machine.outb(0x60, 0x47);
    machine.outb(0x64, 0x7f);
    machine.outb(0x60, 0x99);
    for (command, answer) in [(0x20, 0x47), (0x3f, 0x99), (0x21, 0)] {
        machine.outb(0x64, command);
        assert_eq!(answers(&mut machine), [(answer, false)], "{command:#x}");
    }
    // Switching devices on and off shows in the command byte.
    for (command, mode) in [(0xad, 0x57), (0xa7, 0x77), (0xae, 0x67), (0xa8, 0x47)] {
        machine.outb(0x64, command);
        assert_eq!(machine.inb(0x64) & 0x08, 0x08);
        machine.outb(0x64, 0x20);
        assert_eq!(answers(&mut machine), [(mode, false)], "{command:#x}");
    }
    // Bytes as if they were the keyboard's, and the mouse's.
    for (command, mouse) in [(0xd2, false), (0xd3, true)] {
        machine.outb(0x64, command);
        machine.outb(0x60, 0x5a);
        assert_eq!(answers(&mut machine), [(0x5a, mouse)]);
    }
    // The last byte stays to be read.
    assert_eq!((machine.inb(0x60), machine.inb(0x60)), (0x5a, 0x5a));
}

#[test]
fn each_byte_interrupts() {
    let mut machine = machine();
    machine.outb(0x60, 0xff);
    assert_eq!(machine.interrupts(), [(1, true)]);
    assert_eq!(machine.inb(0x60), 0xfa);
    assert_eq!(machine.interrupts(), [(1, false), (1, true)]);
    assert_eq!(machine.inb(0x60), 0xaa);
    assert_eq!(machine.interrupts(), [(1, false)]);
    machine.outb(0x64, 0xd4);
    machine.outb(0x60, 0xf2);
    assert_eq!(machine.interrupts(), [(12, true)]);
    answers(&mut machine);
    assert_eq!(machine.interrupts(), [(12, false), (12, true), (12, false)]);
    // Not if the command byte says no.
    machine.outb(0x64, 0x60);
    machine.outb(0x60, 0x00);
    for (port, value) in [(0x60, 0xee), (0x64, 0xd4), (0x60, 0xf2)] {
        machine.outb(port, value);
    }
    answers(&mut machine);
    assert_eq!(machine.interrupts(), []);
}

#[test]
fn a_device_that_is_off_waits() {
    let mut machine = machine();
    machine.outb(0x64, 0xd4);
    machine.outb(0x60, 0xeb);
    assert_eq!((machine.inb(0x64) & 0x21, machine.inb(0x60)), (0x21, 0xfa));
    machine.outb(0x64, 0xa7);
    // The byte in the buffer is still to be read; the next one waits.
    machine.inb(0x60);
    assert_eq!(machine.inb(0x64) & 1, 0);
    machine.outb(0x64, 0xa8);
    assert_eq!(answers(&mut machine), [(0, true), (0, true)]);
}

#[test]
fn the_keyboards_commands() {
    let mut machine = machine();
    assert_eq!(keyboard(&mut machine, &[0xee]), [0xee]);
    assert_eq!(keyboard(&mut machine, &[0xf2]), [0xfa, 0xab, 0x83]);
    assert_eq!(keyboard(&mut machine, &[0xed, 0x07]), [0xfa, 0xfa]);
    assert_eq!(keyboard(&mut machine, &[0xf3, 0x20]), [0xfa, 0xfa]);
    assert_eq!(keyboard(&mut machine, &[0xf0, 0x00]), [0xfa, 0xfa, 0x02]);
    assert_eq!(keyboard(&mut machine, &[0xf0, 0x01, 0xf0, 0x00]), [0xfa, 0xfa, 0xfa, 0xfa, 0x01]);
    assert_eq!(keyboard(&mut machine, &[0xf4, 0xf5, 0xf6]), [0xfa, 0xfa, 0xfa]);
    assert_eq!(keyboard(&mut machine, &[0xff, 0xfe]), [0xfa, 0xaa, 0xaa]);
    // No command; and a command in a parameter's place.
    assert_eq!(keyboard(&mut machine, &[0xef, 0x00]), [0xfe, 0xfe]);
    assert_eq!(keyboard(&mut machine, &[0xed, 0xee]), [0xfa, 0xee]);
}

#[test]
fn the_mouses_commands() {
    let mut machine = machine();
    assert_eq!(mouse(&mut machine, &[0xff]), [0xfa, 0xaa, 0x00]);
    assert_eq!(mouse(&mut machine, &[0xf2]), [0xfa, 0x00]);
    assert_eq!(mouse(&mut machine, &[0xe9]), [0xfa, 0x00, 0x02, 100]);
    assert_eq!(
        mouse(&mut machine, &[0xe7, 0xe8, 0x03, 0xf3, 60, 0xf4, 0xe9]),
        [250, 250, 250, 250, 250, 250, 0xfa, 0x30, 3, 60]
    );
    assert_eq!(mouse(&mut machine, &[0xf0, 0xf5, 0xe6, 0xe9]), [0xfa, 0xfa, 0xfa, 0xfa, 0x40, 3, 60]);
    assert_eq!(mouse(&mut machine, &[0xea, 0xeb]), [0xfa, 0xfa, 0x08, 0, 0]);
    assert_eq!(mouse(&mut machine, &[0xee, 0xf2, 0x55, 0xec]), [0xfa, 0xf2, 0x55, 0xfa]);
    // No command, and parameters that there are not.
    assert_eq!(mouse(&mut machine, &[0xe1, 0xe8, 0x04, 0x01]), [0xfe, 0xfa, 0xfe, 0xfa]);
    assert_eq!(mouse(&mut machine, &[0xf6, 0xe9]), [0xfa, 0xfa, 0x00, 0x02, 100]);
}

#[test]
fn the_wheel_and_more_buttons_are_switched_on_by_rates() {
    let mut machine = machine();
    for rate in [200, 100, 80] {
        assert_eq!(mouse(&mut machine, &[0xf3, rate]), [0xfa, 0xfa]);
    }
    assert_eq!(mouse(&mut machine, &[0xf2]), [0xfa, 0x03]);
    assert_eq!(mouse(&mut machine, &[0xeb]), [0xfa, 0x08, 0, 0, 0]);
    for rate in [200, 200, 80] {
        mouse(&mut machine, &[0xf3, rate]);
    }
    assert_eq!(mouse(&mut machine, &[0xf2]), [0xfa, 0x04]);
    mouse(&mut machine, &[0xff]);
    assert_eq!(mouse(&mut machine, &[0xf2]), [0xfa, 0x00]);
}
