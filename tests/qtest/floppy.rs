//! The floppy disk controller and the DMA controllers behind it.

use std::os::unix::fs::FileExt;

use crate::support::qtest::Machine;

const STATUS: u16 = 0x3f4;
const FIFO: u16 = 0x3f5;

/// A byte that tells sectors apart.
fn mark(sector: u32) -> u8 {
    (sector * 7 + sector / 256) as u8
}

/// An image whose sectors, from the first on, are filled with their marks.
fn image(bytes: u64) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    for sector in 0..bytes / 512 {
        file.as_file().write_all_at(&[mark(sector as u32); 512], sector * 512).unwrap();
    }
    file.as_file().set_len(bytes).unwrap();
    file
}

fn machine(image: &tempfile::NamedTempFile, more: &[&str]) -> Machine {
    let mut machine = Machine::start("x86_64", more, |command| {
        command.arg("-fda").arg(image.path());
    });
    machine.listen_to("ioapic");
    machine
}

/// Out of reset, with interrupts and DMA, the motor on, at 500 kbit/s; answers the polling.
fn start(machine: &mut Machine) {
    machine.outb(0x3f2, 0x1c);
    machine.outb(0x3f7, 0);
    for drive in 0..4 {
        assert_eq!(command(machine, &[0x08], 2), [0xc0 | drive, 0]);
    }
    // Step rate and times; with DMA.
    command(machine, &[0x03, 0xaf, 0x02], 0);
    machine.interrupts();
}

/// Sends a command and reads its results.
fn command(machine: &mut Machine, bytes: &[u8], results: usize) -> Vec<u8> {
    for byte in bytes {
        assert_eq!(machine.inb(STATUS) & 0xc0, 0x80, "{bytes:x?}");
        machine.outb(FIFO, *byte);
    }
    self::results(machine, results)
}

fn results(machine: &mut Machine, count: usize) -> Vec<u8> {
    let results = (0..count).map(|_| {
        machine.wait_until("a result", |machine| machine.inb(STATUS) & 0xf0 == 0xd0);
        machine.inb(FIFO)
    });
    let results = results.collect();
    if count > 0 {
        assert_eq!(machine.inb(STATUS), 0x80);
    }
    results
}

/// Opens DMA channel 2 for `length` bytes at `address`; `to_memory` as the device sees it.
fn open_dma(machine: &mut Machine, address: u32, length: u32, to_memory: bool) {
    let count = length - 1;
    machine.outb(0x0a, 6);
    machine.outb(0x0c, 0);
    machine.outb(0x0b, if to_memory { 0x46 } else { 0x4a });
    machine.outb(0x04, address as u8);
    machine.outb(0x04, (address >> 8) as u8);
    machine.outb(0x81, (address >> 16) as u8);
    machine.outb(0x05, count as u8);
    machine.outb(0x05, (count >> 8) as u8);
    machine.outb(0x0a, 2);
}

#[test]
fn it_comes_out_of_reset_and_polls() {
    let disk = image(1440 << 10);
    let mut machine = machine(&disk, &[]);
    assert_eq!((machine.inb(STATUS), machine.inb(0x3f2)), (0, 0));
    machine.outb(0x3f2, 0x0c);
    assert_eq!(machine.interrupts(), [(6, true)]);
    assert_eq!(command(&mut machine, &[0x08], 2), [0xc0, 0]);
    assert_eq!(machine.interrupts(), [(6, false)]);
    for drive in 1..4 {
        assert_eq!(command(&mut machine, &[0x08], 2), [0xc0 | drive, 0]);
    }
    assert_eq!(command(&mut machine, &[0x08], 1), [0x80]);
    // The other reset, which ends by itself.
    machine.outb(STATUS, 0x80);
    assert_eq!(command(&mut machine, &[0x08], 2), [0xc0, 0]);
    // Without the gate the bus hears nothing.
    machine.outb(0x3f2, 0x00);
    machine.interrupts();
    machine.outb(0x3f2, 0x04);
    assert_eq!(machine.interrupts(), []);
    // CONFIGURE may switch polling off.
    for _ in 0..4 {
        command(&mut machine, &[0x08], 2);
    }
    command(&mut machine, &[0x13, 0, 0x30, 0], 0);
    command(&mut machine, &[0x94], 1);
    machine.outb(0x3f2, 0x08);
    machine.outb(0x3f2, 0x0c);
    assert_eq!(command(&mut machine, &[0x08], 1), [0x80]);
}

#[test]
fn it_tells_what_it_is() {
    let disk = image(1440 << 10);
    let mut machine = machine(&disk, &[]);
    start(&mut machine);
    assert_eq!(command(&mut machine, &[0x10], 1), [0x90]);
    assert_eq!(command(&mut machine, &[0x18], 1), [0x41]);
    assert_eq!(command(&mut machine, &[0x94], 1), [0x10]);
    command(&mut machine, &[0x13, 0, 0x57, 0x20], 0);
    assert_eq!(command(&mut machine, &[0x0e], 10), [0, 0, 0, 0, 0xaf, 0x02, 0, 0x80, 0x57, 0x20]);
    assert_eq!(command(&mut machine, &[0x14], 1), [0]);
    // No command.
    for code in [0x00, 0x1f, 0xff] {
        assert_eq!(command(&mut machine, &[code], 1), [0x80]);
    }
    // The drive: two sides, track 0, ready; and one that is not there.
    assert_eq!(command(&mut machine, &[0x04, 0x04], 1), [0x3c]);
    assert_eq!(command(&mut machine, &[0x04, 0x01], 1), [0x29]);
    let saved = command(&mut machine, &[0x2e], 16);
    let mut restore = vec![0x4e];
    restore.extend(&saved);
    command(&mut machine, &restore, 0);
    assert_eq!(command(&mut machine, &[0x2e], 16), saved);
}

#[test]
fn seeks_end_with_an_interrupt_and_the_change_line_falls() {
    let disk = image(1440 << 10);
    let mut machine = machine(&disk, &[]);
    start(&mut machine);
    assert_eq!(machine.inb(0x3f7) & 0x80, 0x80);
    command(&mut machine, &[0x0f, 0x04, 40], 0);
    assert_eq!(machine.interrupts(), [(6, true)]);
    assert_eq!(command(&mut machine, &[0x08], 2), [0x24, 40]);
    assert_eq!(machine.interrupts(), [(6, false)]);
    assert_eq!(machine.inb(0x3f7) & 0x80, 0);
    for (code, track) in [(0x8f, 37), (0xcf, 40)] {
        command(&mut machine, &[code, 0, 3], 0);
        assert_eq!(command(&mut machine, &[0x08], 2), [0x20, track]);
    }
    assert_eq!(command(&mut machine, &[0x04, 0], 1), [0x28]);
    command(&mut machine, &[0x07, 0], 0);
    assert_eq!(command(&mut machine, &[0x08], 2), [0x20, 0]);
    // There is no drive B: track 0 does not come, and the change line says so for ever.
    command(&mut machine, &[0x07, 1], 0);
    assert_eq!(command(&mut machine, &[0x08], 2), [0x71, 0]);
    machine.outb(0x3f2, 0x2d);
    assert_eq!(machine.inb(0x3f7) & 0x80, 0x80);
}

#[test]
fn sectors_are_read_and_written_by_dma() {
    let disk = image(1440 << 10);
    let mut machine = machine(&disk, &[]);
    start(&mut machine);
    // Three sectors from cylinder 3, head 1, sector 17 on, over both sides: the last is on the next cylinder's address.
    open_dma(&mut machine, 0x2_0000, 2 * 512, true);
    let answer = command(&mut machine, &[0xe6, 0x04, 3, 1, 17, 2, 18, 0x1b, 0xff], 7);
    assert_eq!(answer, [0x04, 0, 0, 4, 0, 1, 2]);
    assert_eq!(machine.interrupts(), [(6, true), (6, false)]);
    let first = (3 * 2 + 1) * 18 + 16;
    assert_eq!(machine.read(0x2_0000, 512), [mark(first); 512]);
    assert_eq!(machine.read(0x2_0200, 512), [mark(first + 1); 512]);
    assert_eq!(machine.inb(8) & 4, 4);
    // From head 0 on to head 1.
    open_dma(&mut machine, 0x3_0000, 2 * 512, true);
    assert_eq!(command(&mut machine, &[0xe6, 0, 5, 0, 18, 2, 18, 0x1b, 0xff], 7), [0x04, 0, 0, 5, 1, 2, 2]);
    assert_eq!(machine.read(0x3_0200, 1), [mark(5 * 36 + 18)]);
    // Written, and part of a sector: its rest is zero.
    machine.execute("memset 0x20000 1024 0x5a");
    open_dma(&mut machine, 0x2_0000, 700, false);
    assert_eq!(command(&mut machine, &[0xc5, 0, 0, 0, 4, 2, 18, 0x1b, 0xff], 7), [0, 0, 0, 0, 0, 6, 2]);
    let mut written = vec![0; 1024];
    disk.as_file().read_exact_at(&mut written, 3 * 512).unwrap();
    assert!(written[..700].iter().all(|byte| *byte == 0x5a) && written[700..].iter().all(|byte| *byte == 0));
    // A channel that is opened later.
    machine.outb(0x0a, 6);
    for byte in [0x46, 0, 0, 0, 1, 2, 18, 0x1b, 0xff] {
        machine.outb(FIFO, byte);
    }
    machine.wait_until("a request", |machine| machine.inb(8) & 0x40 != 0);
    assert_eq!(machine.inb(STATUS), 0x10);
    open_dma(&mut machine, 0x4_0000, 512, true);
    assert_eq!(results(&mut machine, 7), [0, 0, 0, 0, 0, 2, 2]);
    assert_eq!(machine.read(0x4_0000, 512), [mark(0); 512]);
}

#[test]
fn sectors_are_read_and_written_through_the_fifo() {
    let disk = image(1440 << 10);
    let mut machine = machine(&disk, &[]);
    start(&mut machine);
    command(&mut machine, &[0x03, 0xaf, 0x03], 0);
    for byte in [0x46, 0, 1, 0, 18, 2, 18, 0x1b, 0xff] {
        machine.outb(FIFO, byte);
    }
    for _ in 0..512 {
        machine.wait_until("data", |machine| machine.inb(STATUS) == 0xf0);
        assert_eq!(machine.inb(FIFO), mark(36 + 17));
    }
    // Nothing says that it was enough: it ends at the end of the track.
    assert_eq!(results(&mut machine, 7), [0x40, 0x80, 0, 2, 0, 1, 2]);
    for byte in [0x45, 0x04, 79, 1, 18, 2, 18, 0x1b, 0xff] {
        machine.outb(FIFO, byte);
    }
    for byte in 0..512 {
        machine.wait_until("room", |machine| machine.inb(STATUS) == 0xb0);
        machine.outb(FIFO, byte as u8);
    }
    assert_eq!(results(&mut machine, 7)[..3], [0x44, 0x80, 0]);
    let mut written = [0; 512];
    disk.as_file().read_exact_at(&mut written, (1440 << 10) - 512).unwrap();
    assert!(written.iter().enumerate().all(|(place, byte)| *byte == place as u8));
}

#[test]
fn other_commands_for_sectors() {
    let disk = image(1440 << 10);
    let mut machine = machine(&disk, &[]);
    start(&mut machine);
    command(&mut machine, &[0x0f, 0x04, 9], 0);
    command(&mut machine, &[0x08], 2);
    // READ ID.
    assert_eq!(command(&mut machine, &[0x4a, 0x04], 7), [0x04, 0, 0, 9, 1, 1, 2]);
    // VERIFY to the end of the track, and three sectors of it.
    assert_eq!(command(&mut machine, &[0x56, 0, 2, 0, 1, 2, 18, 0x1b, 0xff], 7), [0, 0, 0, 3, 0, 1, 2]);
    assert_eq!(command(&mut machine, &[0x56, 0x80, 2, 0, 1, 2, 18, 0x1b, 3], 7), [0, 0, 0, 2, 0, 4, 2]);
    // READ TRACK begins with the first sector.
    open_dma(&mut machine, 0x2_0000, 512, true);
    assert_eq!(command(&mut machine, &[0x42, 0, 2, 0, 7, 2, 18, 0x1b, 0xff], 7)[..3], [0, 0, 0]);
    assert_eq!(machine.readb(0x2_0000), mark(2 * 36));
    // READ DELETED DATA: no sector is; the first one comes, with a note.
    open_dma(&mut machine, 0x2_0000, 1024, true);
    assert_eq!(command(&mut machine, &[0x4c, 0, 2, 0, 7, 2, 18, 0x1b, 0xff], 7)[..3], [0, 0, 0x40]);
    // SCAN EQUAL: the second sector is.
    machine.execute(&format!("memset 0x20000 1024 {}", mark(1)));
    open_dma(&mut machine, 0x2_0000, 1024, false);
    assert_eq!(command(&mut machine, &[0x51, 0, 0, 0, 1, 2, 18, 0x1b, 1], 7), [0, 0, 0x08, 0, 0, 2, 2]);
    // FORMAT TRACK: 18 sectors filled with 0xf6.
    let ids: Vec<u8> = (1..=18).flat_map(|sector| [9, 1, sector, 2]).collect();
    machine.write(0x2_0000, &ids);
    open_dma(&mut machine, 0x2_0000, ids.len() as u32, false);
    command(&mut machine, &[0x0f, 0x04, 9], 0);
    command(&mut machine, &[0x08], 2);
    assert_eq!(command(&mut machine, &[0x4d, 0x04, 2, 18, 0x6c, 0xf6], 7)[..3], [0x04, 0, 0]);
    let mut track = vec![0; 20 * 512];
    disk.as_file().read_exact_at(&mut track, (9 * 36 + 17) * 512).unwrap();
    assert_eq!((track[0], track[19 * 512]), (mark(9 * 36 + 17), mark(10 * 36)));
    assert!(track[512..19 * 512].iter().all(|byte| *byte == 0xf6));
}

#[test]
fn what_does_not_fit_the_disk_fails() {
    let disk = image(720 << 10);
    let mut machine = machine(&disk, &[]);
    start(&mut machine);
    // The wrong rate finds no address mark.
    assert_eq!(command(&mut machine, &[0x4a, 0], 7)[..3], [0x40, 0x01, 0]);
    machine.outb(0x3f7, 2);
    assert_eq!(command(&mut machine, &[0x4a, 0], 7)[..3], [0, 0, 0]);
    for (bytes, status) in [
        // A sector, a track, a side and a size that there is not; a header that names the other side.
        ([0x46, 0, 0, 0, 10, 2, 18, 0x1b, 0xff], 0x04),
        ([0x46, 0, 80, 0, 1, 2, 9, 0x1b, 0xff], 0x04),
        ([0x46, 0, 0, 1, 1, 2, 9, 0x1b, 0xff], 0x04),
        ([0x46, 0, 0, 0, 1, 3, 9, 0x1b, 0xff], 0x04),
        ([0x46, 0, 0, 0, 0, 2, 9, 0x1b, 0xff], 0x04),
    ] {
        assert_eq!(command(&mut machine, &bytes, 7)[..2], [0x40, status], "{bytes:x?}");
    }
    // An empty drive.
    assert_eq!(command(&mut machine, &[0x46, 1, 0, 0, 1, 2, 9, 0x1b, 0xff], 7)[..2], [0x41, 0x01]);
    // A transfer that is longer than the track, with DMA left over.
    open_dma(&mut machine, 0x2_0000, 1024, true);
    assert_eq!(command(&mut machine, &[0x46, 0, 0, 0, 9, 2, 9, 0x1b, 0xff], 7)[..2], [0x40, 0x80]);
}

#[test]
fn a_read_only_disk_is_protected() {
    let disk = image(1440 << 10);
    let argument = format!("if=floppy,format=raw,readonly=on,file={}", disk.path().display());
    let mut machine = Machine::pc(&["-drive", &argument]);
    start(&mut machine);
    assert_eq!(command(&mut machine, &[0x04, 0], 1), [0x78]);
    for code in [0x45, 0x49] {
        assert_eq!(command(&mut machine, &[code, 0, 0, 0, 1, 2, 18, 0x1b, 0xff], 7)[..3], [0x40, 0x02, 0]);
    }
    assert_eq!(command(&mut machine, &[0x4d, 0, 2, 18, 0x6c, 0xf6], 7)[..3], [0x40, 0x02, 0]);
}

#[test]
fn the_cmos_ram_knows_the_drives() {
    for (size, kind) in [(1440, 0x40), (2880, 0x50), (720, 0x40), (1200, 0x20), (360, 0x20)] {
        let disk = image(size << 10);
        let mut machine = machine(&disk, &[]);
        machine.outb(0x70, 0x10);
        assert_eq!(machine.inb(0x71), kind, "{size}");
        machine.outb(0x70, 0x14);
        assert_eq!(machine.inb(0x71) & 0xc1, 1);
    }
    let mut machine = Machine::pc(&[]);
    machine.outb(0x70, 0x14);
    assert_eq!(machine.inb(0x71) & 0xc1, 0);
}

#[test]
fn a_reset_ends_what_goes_on() {
    let disk = image(1440 << 10);
    let mut machine = machine(&disk, &[]);
    start(&mut machine);
    machine.outb(0x0a, 6);
    for byte in [0x46, 0, 0, 0, 1, 2, 18, 0x1b, 0xff] {
        machine.outb(FIFO, byte);
    }
    machine.wait_until("a request", |machine| machine.inb(8) & 0x40 != 0);
    machine.outb(0x3f2, 0);
    assert_eq!((machine.inb(8) & 0x40, machine.inb(STATUS)), (0, 0));
    start(&mut machine);
    // The machine's reset.
    machine.outb(0xcf9, 6);
    assert_eq!((machine.inb(0x3f2), machine.inb(STATUS)), (0, 0));
}

#[test]
fn the_dma_controllers_registers() {
    let mut machine = Machine::pc(&[]);
    // Addresses and counts by bytes, low first; the flip-flop starts over.
    for (base, step) in [(0x00, 1), (0xc0, 2)] {
        machine.outb(base + 0x0c * step, 0);
        for channel in 0..4u16 {
            for value in [0x34, 0x12] {
                machine.outb(base + 2 * channel * step, value + channel as u8);
            }
            machine.outb(base + (2 * channel + 1) * step, 0x78);
            machine.outb(base + 0x0c * step, 0);
        }
        for channel in 0..4u16 {
            let read = [machine.inb(base + 2 * channel * step), machine.inb(base + 2 * channel * step)];
            assert_eq!(read, [0x34 + channel as u8, 0x12 + channel as u8]);
            let count = base + (2 * channel + 1) * step;
            assert_eq!([machine.inb(count), machine.inb(count)], [0x78, 0]);
        }
        // Masks: all after master clear, one by one, all at once.
        machine.outb(base + 0x0d * step, 0);
        assert_eq!(machine.inb(base + 0x0f * step) & 0x0f, 0x0f);
        machine.outb(base + 0x0a * step, 2);
        assert_eq!(machine.inb(base + 0x0f * step) & 0x0f, 0x0b);
        machine.outb(base + 0x0e * step, 0);
        assert_eq!(machine.inb(base + 0x0f * step) & 0x0f, 0);
        machine.outb(base + 0x0f * step, 5);
        assert_eq!(machine.inb(base + 0x0f * step) & 0x0f, 5);
        // A request of software shows in the status.
        machine.outb(base + 0x09 * step, 5);
        assert_eq!(machine.inb(base + 0x08 * step), 0x20);
        machine.outb(base + 0x09 * step, 1);
        assert_eq!(machine.inb(base + 0x08 * step), 0);
    }
    for page in 0x80..0x90 {
        machine.outb(page, page as u8);
    }
    for page in 0x80..0x90 {
        assert_eq!(machine.inb(page), page as u8);
    }
}
