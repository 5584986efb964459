//! The VGA: registers, display memory and the PCI function.

use crate::support::qtest::Machine;

fn write_indexed(machine: &mut Machine, port: u16, index: u8, value: u8) {
    machine.outb(port, index);
    machine.outb(port + 1, value);
}

fn read_indexed(machine: &mut Machine, port: u16, index: u8) -> u8 {
    machine.outb(port, index);
    machine.inb(port + 1)
}

/// What firmware sets for the 80x25 text mode in colour, as far as memory is concerned.
fn text_mode(machine: &mut Machine) {
    machine.outb(0x3c2, 0x67);
    for (index, value) in [(2, 3), (4, 2)] {
        write_indexed(machine, 0x3c4, index, value);
    }
    for (index, value) in [(5, 0x10), (6, 0x0e), (8, 0xff)] {
        write_indexed(machine, 0x3ce, index, value);
    }
}

#[test]
fn indexed_registers_keep_the_bits_that_they_have() {
    let mut machine = Machine::pc(&[]);
    text_mode(&mut machine);
    for (port, index, bits) in [
        (0x3c4, 0, 0x03),
        (0x3c4, 1, 0x3d),
        (0x3c4, 2, 0x0f),
        (0x3c4, 4, 0x0e),
        (0x3c4, 5, 0),
        (0x3ce, 0, 0x0f),
        (0x3ce, 3, 0x1f),
        (0x3ce, 5, 0x7b),
        (0x3ce, 8, 0xff),
        (0x3ce, 9, 0),
        (0x3d4, 0x0c, 0xff),
        (0x3d4, 0x18, 0xff),
        (0x3d4, 0x19, 0),
    ] {
        write_indexed(&mut machine, port, index, 0xff);
        assert_eq!(read_indexed(&mut machine, port, index), bits, "{port:#x} {index:#x}");
    }
    // Both halves in one access.
    machine.outw(0x3d4, 0x120e);
    assert_eq!(machine.inw(0x3d4), 0x120e);
}

#[test]
fn the_crtc_protects_its_timing_and_moves_for_a_monochrome_display() {
    let mut machine = Machine::pc(&[]);
    text_mode(&mut machine);
    write_indexed(&mut machine, 0x3d4, 0, 0x5f);
    write_indexed(&mut machine, 0x3d4, 0x11, 0x8e);
    write_indexed(&mut machine, 0x3d4, 0, 0x11);
    write_indexed(&mut machine, 0x3d4, 7, 0xff);
    assert_eq!((read_indexed(&mut machine, 0x3d4, 0), read_indexed(&mut machine, 0x3d4, 7)), (0x5f, 0x10));
    assert_eq!((machine.inb(0x3b4), machine.inb(0x3cc)), (0xff, 0x67));
    machine.outb(0x3c2, 0x66);
    assert_eq!((read_indexed(&mut machine, 0x3b4, 0x11), machine.inb(0x3d5)), (0x8e, 0xff));
}

#[test]
fn the_attribute_controller_alternates_and_starts_over_when_the_status_is_read() {
    let mut machine = Machine::pc(&[]);
    text_mode(&mut machine);
    machine.inb(0x3da);
    machine.outb(0x3c0, 0x10);
    machine.outb(0x3c0, 0x0c);
    machine.outb(0x3c0, 0x10);
    machine.inb(0x3da);
    // The palette cannot be written while it is shown.
    for (index, value) in [(0x03, 0x15), (0x23, 0x2a)] {
        machine.outb(0x3c0, index);
        machine.outb(0x3c0, value);
    }
    machine.outb(0x3c0, 0x03);
    assert_eq!(machine.inb(0x3c1), 0x15);
    machine.inb(0x3da);
    machine.outb(0x3c0, 0x30);
    assert_eq!(machine.inb(0x3c1), 0x0c);
}

#[test]
fn the_palette_is_written_and_read_by_components() {
    let mut machine = Machine::pc(&[]);
    machine.outb(0x3c8, 0xff);
    for component in [0x3f, 0xff, 1, 2, 3, 4] {
        machine.outb(0x3c9, component);
    }
    machine.outb(0x3c7, 0xff);
    assert_eq!(machine.inb(0x3c7) & 3, 3);
    let read: Vec<u8> = (0..6).map(|_| machine.inb(0x3c9)).collect();
    assert_eq!(read, [0x3f, 0x3f, 1, 2, 3, 4]);
    assert_eq!((machine.inb(0x3c8), machine.inb(0x3c6)), (1, 0xff));
}

#[test]
fn the_retrace_is_seen_once_a_frame() {
    let mut machine = Machine::pc(&[]);
    machine.outb(0x3c2, 1);
    let mut rises = 0;
    let mut before = false;
    // 30 ms in steps of two lines: two frames of 14.27 ms.
    for _ in 0..472 {
        machine.step(63_556);
        let now = machine.inb(0x3da) & 8 != 0;
        rises += u32::from(now && !before);
        before = now;
    }
    assert_eq!(rises, 2);
}

#[test]
fn text_memory_is_seen_at_b8000() {
    let mut machine = Machine::pc(&[]);
    text_mode(&mut machine);
    machine.write(0xb_8000, b"H\x07e\x07l\x07l\x07o\x07");
    machine.writew(0xb_8f9e, 0x1f21);
    assert_eq!(machine.read(0xb_8000, 10), b"H\x07e\x07l\x07l\x07o\x07");
    assert_eq!((machine.readl(0xb_8f9c), machine.readb(0xa_0000)), (0x1f21_0000, 0xff));
    // The same bytes in their planes.
    for (index, value) in [(4, 6), (2, 0xf)] {
        write_indexed(&mut machine, 0x3c4, index, value);
    }
    for (index, value) in [(5, 0), (6, 5), (4, 1)] {
        write_indexed(&mut machine, 0x3ce, index, value);
    }
    assert_eq!((machine.readb(0xa_0000), machine.readb(0xa_0f9e)), (7, 0x1f));
}

#[test]
fn the_function_has_registers_a_frame_buffer_and_a_rom_where_that_is_installed() {
    let folder = tempfile::tempdir().unwrap();
    let rom: Vec<u8> = (0..40_000u32).map(|index| index as u8).collect();
    std::fs::write(folder.path().join("vgabios-stdvga.bin"), &rom).unwrap();
    let mut machine = Machine::start("x86_64", &["-vga", "std"], |command| {
        command.arg("-L").arg(folder.path());
    });
    assert_eq!(machine.pci_read(2, 0, 0), 0x1111_1234);
    assert_eq!(machine.pci_read(2, 0, 8), 0x0300_0002);
    for (register, expected) in [(0x10, 0xff00_0008), (0x18, 0xffff_f000), (0x30, 0xffff_0001)] {
        machine.pci_write(2, 0, register, 0xffff_ffff);
        assert_eq!(machine.pci_read(2, 0, register), expected, "{register:#x}");
    }
    machine.pci_write(2, 0, 0x30, 0xe000_0000);
    machine.pci_write(2, 0, 0x18, 0xe010_0000);
    machine.pci_write(2, 0, 0x10, 0xe100_0000);
    machine.pci_write(2, 0, 4, 2);
    assert_eq!(machine.readl(0xe000_0000), 0);
    machine.pci_write(2, 0, 0x30, 0xe000_0001);
    assert_eq!((machine.readl(0xe000_0004), machine.readb(0xe000_ffff)), (0x0706_0504, 0xff));
    assert_eq!(machine.read(0xe000_0000, rom.len()), rom);
    // The ports once more: miscellaneous output.
    machine.writeb(0xe010_0402, 0x63);
    assert_eq!((machine.inb(0x3cc), machine.readb(0xe010_040c)), (0x63, 0x63));
}

#[test]
fn there_is_none_where_none_is_wanted() {
    for arguments in [&["-vga", "none"][..], &["-nodefaults"]] {
        let mut machine = Machine::pc(arguments);
        assert_eq!(machine.pci_read(2, 0, 0), 0xffff_ffff);
        assert_eq!((machine.inb(0x3cc), machine.readl(0xb_8000)), (0xff, 0xffff_ffff));
    }
}
