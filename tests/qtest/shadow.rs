//! Memory from 0xc0000 to 1 MiB, and the ways to reset a PC.

use crate::support::qtest::Machine;

fn firmware() -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    let bytes: Vec<u8> = (0..0x4_0000u32).map(|index| (index >> 12) as u8 | 0x80).collect();
    std::fs::write(file.path(), bytes).unwrap();
    file
}

fn machine(firmware: &tempfile::NamedTempFile) -> Machine {
    Machine::start("x86_64", &["-vga", "none"], |command| {
        command.arg("-bios").arg(firmware.path());
    })
}

/// Start of each segment, its attribute register, and the place of its attributes in it.
const SEGMENTS: [(u64, u8, u8); 13] = [
    (0xf_0000, 0x59, 4),
    (0xc_0000, 0x5a, 0),
    (0xc_4000, 0x5a, 4),
    (0xc_8000, 0x5b, 0),
    (0xc_c000, 0x5b, 4),
    (0xd_0000, 0x5c, 0),
    (0xd_4000, 0x5c, 4),
    (0xd_8000, 0x5d, 0),
    (0xd_c000, 0x5d, 4),
    (0xe_0000, 0x5e, 0),
    (0xe_4000, 0x5e, 4),
    (0xe_8000, 0x5f, 0),
    (0xe_c000, 0x5f, 4),
];

fn set(machine: &mut Machine, segment: usize, attributes: u8) {
    let (_, register, shift) = SEGMENTS[segment];
    let before = machine.pci_read_byte(0, 0, register);
    machine.pci_write_byte(0, 0, register, before & !(3 << shift) | attributes << shift);
}

#[test]
fn each_segment_is_rom_ram_or_both() {
    let firmware = firmware();
    let mut machine = machine(&firmware);
    for (segment, (start, ..)) in SEGMENTS.into_iter().enumerate() {
        // The firmware's last 128 KiB are at 0xe0000; below there is nothing.
        let rom = if start >= 0xe_0000 { ((start - 0xe_0000 + 0x2_0000) >> 12) as u8 | 0x80 } else { 0xff };
        machine.writeb(start + 5, 0x11);
        assert_eq!(machine.readb(start + 5), rom, "{start:#x}");
        // Written only.
        set(&mut machine, segment, 2);
        machine.writew(start + 5, 0x3322);
        assert_eq!(machine.readb(start + 5), rom, "{start:#x}");
        // Read only.
        set(&mut machine, segment, 1);
        assert_eq!(machine.readw(start + 5), 0x3322, "{start:#x}");
        machine.writeb(start + 5, 0x44);
        assert_eq!(machine.readb(start + 5), 0x22, "{start:#x}");
        // RAM.
        set(&mut machine, segment, 3);
        machine.writel(start + 0x3ffc, 0x5566_7788);
        assert_eq!(machine.readl(start + 0x3ffc), 0x5566_7788, "{start:#x}");
        set(&mut machine, segment, 0);
        assert_eq!(machine.readb(start + 5), rom, "{start:#x}");
    }
    // A reset switches all RAM off.
    set(&mut machine, 1, 3);
    machine.writeb(0xc_0000, 1);
    machine.outb(0xcf9, 6);
    assert_eq!((machine.readb(0xc_0000), machine.pci_read_byte(0, 0, 0x5a)), (0xff, 0));
}

#[test]
fn a_kernel_without_firmware_finds_ram() {
    let mut machine = Machine::pc(&[]);
    assert_eq!(machine.pci_read_byte(0, 0, 0x59), 0);
    assert_eq!(machine.readb(0xf_fff0), 0xff);
    machine.pci_write_byte(0, 0, 0x59, 0x30);
    machine.writel(0xf_fff0, 0x1234_5678);
    assert_eq!(machine.read(0xf_ffee, 6), [0, 0, 0x78, 0x56, 0x34, 0x12]);
}

#[test]
fn each_way_of_resetting_resets_devices() {
    let mut machine = Machine::pc(&[]);
    // The interrupt mask tells: a reset clears it.
    let expect = |machine: &mut Machine, accesses: &[(u16, u8)], resets: bool| {
        machine.outb(0x21, 0xa5);
        for (port, value) in accesses {
            machine.outb(*port, *value);
        }
        assert_eq!(machine.inb(0x21) != 0xa5, resets, "{accesses:x?}");
    };
    expect(&mut machine, &[(0xcf9, 0x02)], false);
    expect(&mut machine, &[(0xcf9, 0x06)], true);
    expect(&mut machine, &[(0xcf9, 0x0e)], true);
    expect(&mut machine, &[(0x64, 0xfe)], true);
    expect(&mut machine, &[(0x64, 0xff)], false);
    expect(&mut machine, &[(0x64, 0xd1), (0x60, 0xdf)], false);
    expect(&mut machine, &[(0x64, 0xd1), (0x60, 0xde)], true);
    expect(&mut machine, &[(0x92, 0x02)], false);
    assert_eq!(machine.inb(0x92) & 3, 2);
    expect(&mut machine, &[(0x92, 0x01)], true);
}
