//! The IDE channels: disks by PIO and by the bus master, and a CD-ROM drive.

use std::os::unix::fs::FileExt;

use crate::support::qtest::Machine;

const DATA: u16 = 0x1f0;
const STATUS: u16 = 0x1f7;
const MASTER: u16 = 0xc000;

fn disk(sectors: u64) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    for sector in 0..sectors {
        file.as_file().write_all_at(&[sector as u8; 512], sector * 512).unwrap();
    }
    file
}

fn machine(image: &tempfile::NamedTempFile) -> Machine {
    let argument = format!("if=ide,format=raw,file={},serial=abc", image.path().display());
    let mut machine = Machine::pc(&["-drive", &argument]);
    machine.listen_to("ioapic");
    machine
}

/// Waits until the device is not busy; its status.
fn wait(machine: &mut Machine) -> u8 {
    machine.wait_until("the end of being busy", |machine| machine.inb(0x3f6) & 0x80 == 0);
    machine.inb(STATUS)
}

fn command(machine: &mut Machine, lba: u32, count: u8, command: u8) {
    machine.outb(0x1f2, count);
    for (port, shift) in [(0x1f3, 0), (0x1f4, 8), (0x1f5, 16)] {
        machine.outb(port, (lba >> shift) as u8);
    }
    machine.outb(0x1f6, 0xe0 | (lba >> 24) as u8 & 0x0f);
    machine.outb(STATUS, command);
}

fn words(machine: &mut Machine, count: usize) -> Vec<u16> {
    (0..count).map(|_| machine.inw(DATA)).collect()
}

#[test]
fn a_disk_identifies_itself() {
    let image = disk(100);
    let mut machine = machine(&image);
    assert_eq!(wait(&mut machine) & 0xc0, 0x40);
    command(&mut machine, 0, 0, 0xec);
    assert_eq!(wait(&mut machine), 0x58);
    assert_eq!(machine.interrupts(), [(14, true), (14, false)]);
    let identity = words(&mut machine, 256);
    assert_eq!((identity[60], identity[61], identity[0] & 0x8000), (100, 0, 0));
    // The serial number, two characters a word, the first one high.
    assert_eq!(identity[10], u16::from_be_bytes(*b"ab"));
    assert_eq!(wait(&mut machine), 0x50);
    // There is no second drive, and on the other channel nothing.
    machine.outb(0x1f6, 0xf0);
    assert_eq!(machine.inb(STATUS) & 0xc0, 0);
    assert_eq!(machine.inb(0x177) & 0xc0, 0);
}

#[test]
fn sectors_are_moved_by_the_processor() {
    let image = disk(64);
    let mut machine = machine(&image);
    command(&mut machine, 7, 2, 0x20);
    for sector in [7, 8] {
        assert_eq!(wait(&mut machine), 0x58);
        assert_eq!(machine.interrupts(), [(14, true), (14, false)]);
        assert_eq!(words(&mut machine, 256), [sector * 0x101; 256]);
    }
    assert_eq!(wait(&mut machine), 0x50);
    command(&mut machine, 3, 1, 0x30);
    assert_eq!(wait(&mut machine), 0x58);
    (0..256).for_each(|_| machine.outw(DATA, 0xbeef));
    assert_eq!(wait(&mut machine), 0x50);
    command(&mut machine, 0, 0, 0xe7);
    assert_eq!(wait(&mut machine), 0x50);
    let mut written = [0; 512];
    image.as_file().read_exact_at(&mut written, 3 * 512).unwrap();
    assert!(written.chunks(2).all(|pair| pair == [0xef, 0xbe]));
    // Beyond the end, and no command.
    command(&mut machine, 64, 1, 0x20);
    assert_eq!((wait(&mut machine) & 1, machine.inb(0x1f1) & 0x10), (1, 0x10));
    command(&mut machine, 0, 1, 0xff);
    assert_eq!((wait(&mut machine) & 1, machine.inb(0x1f1) & 0x04), (1, 4));
}

#[test]
fn sectors_are_moved_by_the_bus_master() {
    let image = disk(64);
    let mut machine = machine(&image);
    assert_eq!(machine.pci_read(1, 1, 0), 0x7010_8086);
    machine.pci_write(1, 1, 0x20, u32::from(MASTER));
    machine.pci_write(1, 1, 4, 5);
    // Two regions of 512 bytes.
    for (at, value) in [(0x1000, 0x2_0000), (0x1004, 512), (0x1008, 0x3_0000), (0x100c, 0x8000_0200)] {
        machine.writel(at, value);
    }
    machine.outl(MASTER + 4, 0x1000);
    machine.outb(MASTER + 2, 6);
    machine.outb(MASTER, 8);
    command(&mut machine, 10, 2, 0xc8);
    machine.outb(MASTER, 9);
    machine.wait_until("the interrupt", |machine| machine.inb(MASTER + 2) & 4 != 0);
    assert_eq!((machine.inb(MASTER + 2) & 7, wait(&mut machine)), (4, 0x50));
    machine.outb(MASTER, 0);
    assert_eq!((machine.read(0x2_0000, 512), machine.read(0x3_0000, 512)), (vec![10; 512], vec![11; 512]));
    // And back.
    machine.execute("memset 0x20000 512 0x77");
    machine.outb(MASTER + 2, 6);
    command(&mut machine, 20, 2, 0xca);
    machine.outb(MASTER, 1);
    machine.wait_until("the interrupt", |machine| machine.inb(MASTER + 2) & 4 != 0);
    let mut written = [0; 1024];
    image.as_file().read_exact_at(&mut written, 20 * 512).unwrap();
    assert_eq!((&written[..512], &written[512..]), (&[0x77; 512][..], &[11; 512][..]));
}

#[test]
fn a_cd_is_read_by_packets() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().write_all_at(&[0x5a; 4096], 0).unwrap();
    let mut machine = Machine::start("x86_64", &[], |command| {
        command.arg("-cdrom").arg(file.path());
    });
    let status = |machine: &mut Machine| {
        machine.wait_until("the end of being busy", |machine| machine.inb(0x376) & 0x80 == 0);
        machine.inb(0x177)
    };
    let packet = |machine: &mut Machine, limit: u16, bytes: &[u8; 12]| {
        machine.outb(0x176, 0xa0);
        machine.outb(0x171, 0);
        machine.outb(0x174, limit as u8);
        machine.outb(0x175, (limit >> 8) as u8);
        machine.outb(0x177, 0xa0);
        assert_eq!(status(machine) & 0x89, 8);
        bytes.chunks(2).for_each(|pair| machine.outw(0x170, u16::from_le_bytes([pair[0], pair[1]])));
        status(machine)
    };
    // The signature, and the packet commands' own IDENTIFY.
    machine.outb(0x176, 0xa0);
    assert_eq!((machine.inb(0x174), machine.inb(0x175)), (0x14, 0xeb));
    machine.outb(0x177, 0xa1);
    assert_eq!(status(&mut machine) & 0x89, 8);
    assert_eq!(machine.inw(0x170) & 0xdf00, 0x8500);
    (0..255).for_each(|_| {
        machine.inw(0x170);
    });
    // The first command tells of the new disc: TEST UNIT READY until it succeeds.
    let ready = (0..4).any(|_| packet(&mut machine, 0, &[0; 12]) & 1 == 0);
    assert!(ready);
    // READ CAPACITY: the last sector and the size.
    let mut capacity = [0; 12];
    capacity[0] = 0x25;
    assert_eq!(packet(&mut machine, 8, &capacity) & 0x89, 8);
    let answer: Vec<u8> = (0..4).flat_map(|_| machine.inw(0x170).to_le_bytes()).collect();
    assert_eq!(answer, [0, 0, 0, 1, 0, 0, 8, 0]);
    // READ(10) of the second sector.
    let read = [0x28, 0, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0];
    assert_eq!(packet(&mut machine, 2048, &read) & 0x89, 8);
    assert_eq!((machine.inb(0x174), machine.inb(0x175)), (0, 8));
    assert!((0..1024).all(|_| machine.inw(0x170) == 0x5a5a));
    assert_eq!(status(&mut machine) & 0x89, 0);
}
