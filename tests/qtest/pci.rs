//! Configuration space, interrupt routing, and small devices: debug console, debug exit, test devices.

use crate::support::qtest::Machine;

#[test]
fn functions_of_the_chipset_are_where_they_belong() {
    let mut machine = Machine::pc(&["-device", "virtio-rng-pci"]);
    for (device, function, id, class) in [
        (0, 0, 0x1237_8086, 0x0600_0002),
        (1, 0, 0x7000_8086, 0x0601_0000),
        (1, 1, 0x7010_8086, 0x0101_8000),
        (1, 3, 0x7113_8086, 0x0680_0003),
        (2, 0, 0x1111_1234, 0x0300_0002),
    ] {
        assert_eq!((machine.pci_read(device, function, 0), machine.pci_read(device, function, 8)), (id, class));
    }
    // Nothing elsewhere, nor without the enable bit; bytes and halves are parts of the word.
    assert_eq!((machine.pci_read(31, 7, 0), machine.pci_read(1, 2, 0)), (u32::MAX, u32::MAX));
    machine.outl(0xcf8, 0);
    assert_eq!(machine.inl(0xcfc), u32::MAX);
    machine.outl(0xcf8, 0x8000_0000);
    assert_eq!((machine.inb(0xcfd), machine.inw(0xcfe), machine.inl(0xcf8)), (0x80, 0x1237, 0x8000_0000));
    // What cannot be written stays.
    machine.pci_write(1, 0, 0, 0);
    assert_eq!(machine.pci_read(1, 0, 0), 0x7000_8086);
    // Several functions are announced.
    assert_eq!(machine.pci_read(1, 0, 0x0c) >> 16 & 0x80, 0x80);
}

#[test]
fn regions_move_and_are_switched_off() {
    let mut machine = Machine::pc(&["-device", "pci-testdev"]);
    assert_eq!(machine.pci_read(4, 0, 0), 0x0005_1b36);
    for (register, size) in [(0x10, 0xffff_f000), (0x14, 0xffff_ff01)] {
        machine.pci_write(4, 0, register, u32::MAX);
        assert_eq!(machine.pci_read(4, 0, register), size);
    }
    for (memory, ports) in [(0xe000_0000u32, 0xc000u16), (0xe100_0000, 0xd000)] {
        machine.pci_write(4, 0, 0x10, memory);
        machine.pci_write(4, 0, 0x14, ports.into());
        machine.pci_write(4, 0, 4, 3);
        machine.writeb(memory.into(), 0);
        assert_eq!(machine.read(u64::from(memory) + 16, 4), b"mmio");
        machine.outb(ports, 1);
        assert_eq!(machine.inb(ports), 1);
        machine.pci_write(4, 0, 4, 0);
        assert_eq!((machine.readl(memory.into()), machine.inb(ports)), (0, 0xff));
    }
}

#[test]
fn debug_ports() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let mut machine = Machine::start("x86_64", &["-device", "isa-debug-exit,iobase=0xf4,iosize=4"], |command| {
        command.arg("-debugcon").arg(format!("file:{}", log.display()));
    });
    assert_eq!(machine.inb(0xe9), 0xe9);
    b"hello".iter().for_each(|byte| machine.outb(0xe9, *byte));
    machine.wait_until("the text", |_| std::fs::read(&log).is_ok_and(|text| text == b"hello"));
    machine.send_last("outb 0xf4 0x10");
    assert_eq!(machine.wait_for_end(), Some(0x21));
}

#[test]
fn the_test_device_raises_interrupts() {
    let mut machine = Machine::pc(&["-device", "pc-testdev"]);
    machine.listen_to("ioapic");
    machine.outl(0xe0, 0x1234_5678);
    assert_eq!((machine.inl(0xe0), machine.inw(0xe0)), (0x1234_5678, 0x5678));
    machine.outb(0x2005, 1);
    machine.outb(0x2005, 0);
    assert_eq!(machine.interrupts(), [(5, true), (5, false)]);
}
