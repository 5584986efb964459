//! Memory of system-management mode, and the ports through which it is called. No processor enters it here.

use crate::support::qtest::Machine;

const CONTROL: u8 = 0x72;
const OPEN: u8 = 0x4a;
const CLOSED: u8 = 0x0a;

#[test]
fn memory_behind_the_display_is_reached_while_it_is_open() {
    for arguments in [&[][..], &["-vga", "none"]] {
        let mut machine = Machine::pc(arguments);
        assert_eq!(machine.pci_read_byte(0, 0, CONTROL), 0x02);
        let before = machine.readl(0xa_0000);
        machine.pci_write_byte(0, 0, CONTROL, OPEN);
        assert_eq!(machine.readl(0xa_0000), 0);
        machine.writel(0xa_0000, 0x1234_5678);
        machine.writeb(0xb_ffff, 0x9a);
        assert_eq!((machine.readl(0xa_0000), machine.readw(0xb_fffe)), (0x1234_5678, 0x9a00));
        // Closed, and open without being enabled.
        for control in [CLOSED, OPEN & !0x08] {
            machine.pci_write_byte(0, 0, CONTROL, control);
            assert_eq!(machine.readl(0xa_0000), before);
        }
        // A reset closes it and leaves what is in it.
        machine.pci_write_byte(0, 0, CONTROL, OPEN);
        machine.outb(0xcf9, 6);
        assert_eq!((machine.pci_read_byte(0, 0, CONTROL), machine.readl(0xa_0000)), (0x02, before));
        machine.pci_write_byte(0, 0, CONTROL, OPEN);
        assert_eq!(machine.readl(0xa_0000), 0x1234_5678);
    }
}

#[test]
fn the_lock_holds_until_a_reset() {
    let mut machine = Machine::pc(&[]);
    let write = |machine: &mut Machine, value: u8| {
        machine.pci_write_byte(0, 0, CONTROL, value);
        machine.pci_read_byte(0, 0, CONTROL)
    };
    // The base and the reserved bit stay as they are.
    assert_eq!(write(&mut machine, 0xe8), 0x6a);
    // Locking closes; from then on only D_CLS changes.
    assert_eq!(write(&mut machine, 0x58), 0x1a);
    assert_eq!(write(&mut machine, 0x40), 0x1a);
    assert_eq!(write(&mut machine, 0x20), 0x3a);
    assert_eq!(write(&mut machine, 0x00), 0x1a);
    machine.outb(0xcf9, 6);
    assert_eq!(write(&mut machine, OPEN), OPEN);
}

#[test]
fn the_command_and_status_ports_hold_what_was_written() {
    let mut machine = Machine::pc(&[]);
    // Set up by firmware, where processors have the mode; otherwise it looks set up.
    assert_eq!(machine.pci_read_byte(1, 3, 0x5b), 0);
    assert_eq!(Machine::pc(&["-machine", "smm=off"]).pci_read_byte(1, 3, 0x5b), 0x02);
    machine.pci_write_byte(1, 3, 0x5b, 0x02);
    machine.outb(0xb3, 0x55);
    machine.outb(0xb2, 0xaa);
    assert_eq!((machine.inb(0xb2), machine.inb(0xb3)), (0xaa, 0x55));
    machine.outb(0xcf9, 6);
    assert_eq!((machine.inb(0xb2), machine.inb(0xb3), machine.pci_read_byte(1, 3, 0x5b)), (0, 0, 0));
}
