//! Disks and CD-ROM drives, through the ports of their channel.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::test_support::{Lines, memory, raw_disk, wait_for};
use vm_memory::{Bytes, GuestAddress};

const DISK_SECTORS: usize = 1000;
const DISC_SECTORS: usize = 200;

struct Machine {
    channel: Arc<Channel>,
    lines: Arc<Lines>,
    memory: Arc<GuestMemory>,
    disk: tempfile::NamedTempFile,
}

/// Byte `index` of either medium.
fn content(index: usize) -> u8 {
    (index / 512 * 7 + index % 251) as u8
}

fn medium(length: usize, read_only: bool) -> (tempfile::NamedTempFile, Arc<Backend>) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), (0..length).map(content).collect::<Vec<_>>()).unwrap();
    let disk = raw_disk(file.path(), read_only);
    (file, disk)
}

fn machine() -> Machine {
    let (disk, first) = medium(512 * DISK_SECTORS, false);
    let (_, second) = medium(2048 * DISC_SECTORS, true);
    let drives = [
        Some(Drive { kind: DriveKind::Disk, medium: first, serial: "QM1".into() }),
        Some(Drive { kind: DriveKind::CdRom, medium: second, serial: String::new() }),
    ];
    let (lines, memory) = (Lines::new(), memory(0x10_0000));
    let channel = Channel::new("ide0".into(), drives, lines.line(14), memory.clone()).unwrap();
    Machine { channel, lines, memory, disk }
}

impl Machine {
    fn read(&self, register: u64) -> u8 {
        self.channel.read_port(register, Width::Byte) as u8
    }
    fn write(&self, register: u64, value: u8) {
        assert_eq!(self.channel.write_port(register, Width::Byte, u64::from(value)), Effect::None);
    }
    /// Waits until the drive is not busy; its status, read without acknowledging.
    fn status(&self) -> u8 {
        wait_for("a drive that is not busy", || self.read(CONTROL) & STATUS_BUSY == 0);
        self.read(CONTROL)
    }
    fn registers(&self, values: [u8; 6]) {
        (1..).zip(values).for_each(|(register, value)| self.write(register, value));
    }
    /// Starts a command of the first drive on `count` sectors from `sector` on.
    fn command(&self, command: u8, sector: u32, count: u8) {
        let [low, mid, high, top] = sector.to_le_bytes();
        self.registers([0, count, low, mid, high, 0xe0 | top]);
        self.write(STATUS, command);
    }
    fn wide_command(&self, command: u8, sector: u64, count: u16) {
        let bytes = sector.to_le_bytes();
        self.registers([0, (count >> 8) as u8, bytes[3], bytes[4], bytes[5], 0xe0]);
        self.registers([0, count as u8, bytes[0], bytes[1], bytes[2], 0xe0]);
        self.write(STATUS, command);
    }
    fn data(&self, length: usize) -> Vec<u8> {
        (0..length / 4).flat_map(|_| (self.channel.read_port(DATA, Width::Word) as u32).to_le_bytes()).collect()
    }
    fn put(&self, data: &[u8]) {
        for pair in data.chunks(2) {
            let value = u64::from(u16::from_le_bytes([pair[0], pair[1]]));
            assert_eq!(self.channel.write_port(DATA, Width::Half, value), Effect::None);
        }
    }
    /// Waits for and acknowledges an interrupt; the status.
    fn interrupt(&self) -> u8 {
        wait_for("an interrupt", || self.lines.level(14));
        let status = self.read(STATUS);
        assert!(!self.lines.level(14));
        status
    }
    fn packet(&self, packet: &[u8], features: u8, limit: u16) {
        self.write(DEVICE, 0xb0);
        self.registers([features, 0, 0, limit as u8, (limit >> 8) as u8, 0xb0]);
        self.write(STATUS, 0xa0);
        assert_eq!((self.status() & (STATUS_REQUEST | STATUS_ERROR), self.read(COUNT)), (STATUS_REQUEST, 1));
        let mut padded = packet.to_vec();
        padded.resize(12, 0);
        self.put(&padded);
    }
    /// The answer to a packet through the data port.
    fn answer(&self, packet: &[u8]) -> Vec<u8> {
        self.packet(packet, 0, 0xfffe);
        let mut bytes = Vec::new();
        while self.interrupt() & STATUS_REQUEST != 0 {
            assert_eq!(self.read(COUNT), 2);
            let length = usize::from(self.read(LBA_HIGH)) << 8 | usize::from(self.read(LBA_MID));
            for _ in 0..length.div_ceil(2) {
                bytes.extend((self.channel.read_port(DATA, Width::Half) as u16).to_le_bytes());
            }
        }
        assert_eq!(self.read(COUNT), 3);
        bytes
    }
    fn sense(&self) -> [u8; 2] {
        let sense = self.answer(&[3, 0, 0, 0, 18]);
        [sense[2], sense[12]]
    }
    /// A table of regions at 0x1000.
    fn regions(&self, regions: &[(u32, u16)]) {
        for (index, (address, length)) in regions.iter().enumerate() {
            let last = if index + 1 == regions.len() { 1 << 31 } else { 0 };
            let entry = [*address, u32::from(*length) | last];
            self.memory.write_obj(entry, GuestAddress(0x1000 + 8 * index as u64)).unwrap();
        }
        for (offset, byte) in (4..).zip(0x1000u32.to_le_bytes()) {
            self.channel.write_bus_master(offset, byte);
        }
        self.channel.write_bus_master(2, 0x66);
    }
    fn memory(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }
}

fn expected(from: usize, length: usize) -> Vec<u8> {
    (from..from + length).map(content).collect()
}

fn text(bytes: &[u8]) -> String {
    bytes.chunks(2).flat_map(|pair| [char::from(pair[1]), char::from(pair[0])]).collect::<String>().trim().to_owned()
}

#[test]
fn signatures_tell_what_drives_are_there() {
    let machine = machine();
    machine.write(CONTROL, CONTROL_RESET);
    assert_eq!(machine.read(CONTROL) & STATUS_BUSY, STATUS_BUSY);
    machine.write(CONTROL, 0);
    let signature = || [ERROR, COUNT, LBA_LOW, LBA_MID, LBA_HIGH, STATUS].map(|register| machine.read(register));
    assert_eq!(signature(), [1, 1, 1, 0, 0, 0x50]);
    machine.write(DEVICE, 0x10);
    assert_eq!(signature(), [1, 1, 1, 0x14, 0xeb, 0]);
    let empty = Channel::new("ide1".into(), [None, None], InterruptLine::disconnected(), memory(4096)).unwrap();
    assert_eq!(empty.read_port(STATUS, Width::Byte), 0);
    assert_eq!(empty.write_port(STATUS, Width::Byte, 0xec), Effect::None);
    assert_eq!(empty.read_port(STATUS, Width::Byte), 0);
}

#[test]
fn identification_gives_capacity_and_names() {
    let machine = machine();
    machine.command(0xec, 0, 0);
    assert_eq!(machine.interrupt(), 0x58);
    let bytes = machine.data(512);
    let word = |index: usize| u32::from(u16::from_le_bytes([bytes[2 * index], bytes[2 * index + 1]]));
    assert_eq!((word(60), word(100), word(1) * word(3) * word(6)), (1000, 1000, 1008));
    assert_eq!((text(&bytes[20..40]), text(&bytes[54..94])), ("QM1".into(), "BROLGA HARDDISK".into()));
    assert_eq!((word(49) & 0x300, word(83) & 0x400, word(88)), (0x300, 0x400, 0x203f));
    assert_eq!((machine.status(), machine.lines.level(14)), (0x50, false));
}

#[test]
fn sectors_are_read_one_by_one_with_an_interrupt_each() {
    let machine = machine();
    machine.command(0x20, 5, 3);
    for sector in 5..8 {
        assert_eq!(machine.interrupt(), 0x58);
        assert_eq!(machine.data(512), expected(512 * sector, 512));
    }
    assert_eq!((machine.status(), machine.lines.level(14)), (0x50, false));
    // Cylinder 0, head 1, sector 1 is number 63.
    machine.registers([0, 1, 1, 0, 0, 0xa1]);
    machine.write(STATUS, 0x20);
    machine.interrupt();
    assert_eq!(machine.data(512), expected(512 * 63, 512));
    machine.wide_command(0x24, 600, 300);
    for sector in 600..900 {
        machine.interrupt();
        assert_eq!(machine.data(512), expected(512 * sector, 512), "{sector}");
    }
}

#[test]
fn multiple_mode_moves_blocks() {
    let machine = machine();
    machine.command(0xc4, 0, 5);
    assert_eq!((machine.interrupt() & 1, machine.read(ERROR)), (1, 4));
    machine.command(0xc6, 0, 3);
    assert_eq!(machine.interrupt() & 1, 1);
    machine.command(0xc6, 0, 4);
    machine.interrupt();
    machine.command(0xc4, 10, 5);
    machine.interrupt();
    assert_eq!(machine.data(2048), expected(5120, 2048));
    machine.interrupt();
    assert_eq!(machine.data(512), expected(5120 + 2048, 512));
    assert_eq!(machine.status(), 0x50);
}

#[test]
fn writes_reach_the_disk() {
    let machine = machine();
    machine.command(0x30, 7, 2);
    assert_eq!((machine.status(), machine.lines.level(14)), (0x58, false));
    machine.put(&[0xab; 512]);
    assert_eq!(machine.interrupt(), 0x58);
    machine.put(&[0xcd; 512]);
    assert_eq!(machine.interrupt(), 0x50);
    machine.command(0xe7, 0, 0);
    assert_eq!(machine.interrupt(), 0x50);
    let file = std::fs::read(machine.disk.path()).unwrap();
    assert_eq!((&file[3584..4096], &file[4096..4608]), (&[0xab; 512][..], &[0xcd; 512][..]));
    assert_eq!((file[3583], file[4608]), (content(3583), content(4608)));
}

/// A disk of which the first write waits.
struct Gated {
    disk: block::MemoryDisk,
    gate: tokio::sync::Semaphore,
    arrived: AtomicBool,
}

#[async_trait::async_trait]
impl block::Driver for Gated {
    fn name(&self) -> &'static str {
        "gated"
    }
    fn length(&self) -> u64 {
        self.disk.length()
    }
    fn is_read_only(&self) -> bool {
        false
    }
    async fn read(&self, offset: u64, to: block::IoVector) -> Result<(), block::Error> {
        self.disk.read(offset, to).await
    }
    async fn write(&self, offset: u64, from: block::IoVector) -> Result<(), block::Error> {
        if !self.arrived.swap(true, Ordering::AcqRel) {
            self.gate.acquire().await.unwrap().forget();
        }
        self.disk.write(offset, from).await
    }
    async fn flush(&self) -> Result<(), block::Error> {
        Ok(())
    }
    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

#[test]
fn a_write_after_a_reset_is_not_taken_for_the_same_one_before_it() {
    let disk = block::MemoryDisk::new(vec![0; 512 * DISK_SECTORS], false);
    let gated = Gated { disk, gate: tokio::sync::Semaphore::new(0), arrived: AtomicBool::new(false) };
    let node = block::Node::new("disk", gated);
    let gated = node.driver_as::<Gated>().unwrap();
    let mut machine = machine();
    let drive = Drive { kind: DriveKind::Disk, medium: Backend::new(node.clone()), serial: String::new() };
    let line = machine.lines.line(14);
    machine.channel = Channel::new("ide1".into(), [Some(drive), None], line, machine.memory.clone()).unwrap();
    machine.command(0x30, 7, 1);
    machine.put(&[0xab; 512]);
    wait_for("the write", || gated.arrived.load(Ordering::Acquire));
    machine.write(CONTROL, CONTROL_RESET);
    machine.write(CONTROL, 0);
    machine.command(0x30, 7, 1);
    machine.put(&[0xcd; 512]);
    gated.gate.add_permits(1);
    assert_eq!(machine.interrupt(), 0x50);
    assert_eq!(gated.disk.bytes()[3584..4096], [0xcd; 512]);
}

#[test]
fn what_lies_beyond_the_end_is_an_error() {
    let machine = machine();
    for command in [0x20, 0x30, 0xc8, 0xca, 0x40] {
        machine.command(command, 999, 2);
        assert_eq!((machine.interrupt() & 9, machine.read(ERROR) & 0x10), (1, 0x10), "{command:#x}");
    }
    machine.wide_command(0x25, u64::MAX, 0);
    assert_eq!(machine.interrupt() & 1, 1);
    machine.command(0xf8, 0, 0);
    machine.interrupt();
    assert_eq!((machine.read(LBA_LOW), machine.read(LBA_MID)), (0xe7, 3));
    machine.command(0x99, 0, 0);
    assert_eq!(machine.interrupt(), 0x50);
    machine.command(0xf7, 0, 0);
    assert_eq!((machine.interrupt(), machine.read(ERROR)), (0x51, 4));
}

#[test]
fn the_bus_master_moves_sectors_to_and_from_scattered_memory() {
    let machine = machine();
    machine.regions(&[(0x2000, 512), (0x8000, 1024), (0x4000, 512)]);
    machine.command(0xc8, 20, 4);
    assert!(!machine.lines.level(14));
    machine.channel.write_bus_master(0, 0x09);
    assert_eq!(machine.interrupt(), 0x50);
    assert_eq!(machine.channel.read_bus_master(2), 0x64);
    let start = 512 * 20;
    assert_eq!(machine.memory(0x2000, 512), expected(start, 512));
    assert_eq!(machine.memory(0x8000, 1024), expected(start + 512, 1024));
    assert_eq!(machine.memory(0x4000, 512), expected(start + 1536, 512));
    machine.channel.write_bus_master(0, 0);
    machine.regions(&[(0x2000, 1024)]);
    machine.channel.write_bus_master(0, 0x01);
    machine.command(0xca, 30, 1);
    machine.interrupt();
    // There was more memory than data.
    assert_eq!(machine.channel.read_bus_master(2), 0x65);
    assert_eq!(std::fs::read(machine.disk.path()).unwrap()[15360..15872], expected(start, 512)[..]);
}

#[test]
fn too_little_or_no_memory_fails_the_transfer() {
    let machine = machine();
    for regions in [&[(0x2000, 512)][..], &[(0xf000_0000, 2048)]] {
        machine.regions(regions);
        machine.command(0xc8, 0, 2);
        machine.channel.write_bus_master(0, 0x09);
        assert_eq!((machine.interrupt() & 1, machine.channel.read_bus_master(2)), (1, 0x66));
        machine.channel.write_bus_master(0, 0);
    }
}

#[test]
fn interrupts_can_be_switched_off_and_a_reset_ends_a_transfer() {
    let machine = machine();
    machine.write(CONTROL, CONTROL_NO_INTERRUPTS);
    machine.command(0x20, 0, 1);
    assert_eq!((machine.status(), machine.lines.level(14)), (0x58, false));
    machine.write(CONTROL, 0);
    assert!(machine.lines.level(14));
    machine.write(CONTROL, CONTROL_RESET);
    machine.write(CONTROL, 0);
    assert_eq!((machine.status(), machine.lines.level(14), machine.data(4)), (0x50, false, vec![0; 4]));
}

#[test]
fn a_disc_is_found_and_described() {
    let machine = machine();
    machine.write(DEVICE, 0xb0);
    machine.write(STATUS, 0xec);
    assert_eq!((machine.interrupt() & 1, machine.read(LBA_MID), machine.read(LBA_HIGH)), (1, 0x14, 0xeb));
    machine.write(STATUS, 0xa1);
    machine.interrupt();
    let bytes = machine.data(512);
    assert_eq!((bytes[0], bytes[1], text(&bytes[54..94])), (0xc0, 0x85, "BROLGA DVD-ROM".into()));
    assert!(machine.answer(&[0]).is_empty());
    assert_eq!(machine.answer(&[0x12, 0, 0, 0, 36])[..2], [5, 0x80]);
    assert_eq!(machine.answer(&[0x25]), [0, 0, 0, 199, 0, 0, 8, 0]);
    let toc = machine.answer(&[0x43, 0, 0, 0, 0, 0, 0, 0, 12]);
    assert_eq!(toc, [0, 18, 1, 1, 0, 0x14, 1, 0, 0, 0, 0, 0]);
    let toc = machine.answer(&[0x43, 2, 0, 0, 0, 0, 0xaa, 0, 64]);
    assert_eq!(toc, [0, 10, 1, 1, 0, 0x14, 0xaa, 0, 0, 0, 4, 50]);
    assert_eq!(machine.answer(&[0x46, 0, 0, 0, 0, 0, 0, 0, 8])[6..], [0, 8]);
    assert_eq!(machine.answer(&[0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8])[5], 2);
    assert_eq!(machine.answer(&[0x5a, 0, 0x2a, 0, 0, 0, 0, 0, 40])[8], 0x2a);
}

#[test]
fn a_disc_is_read_in_parts_of_the_limit_and_by_the_bus_master() {
    let machine = machine();
    let read = [0x28, 0, 0, 0, 0, 3, 0, 0, 2];
    assert_eq!(machine.answer(&read), expected(2048 * 3, 4096));
    machine.packet(&read, 0, 1000);
    let mut bytes = Vec::new();
    for _ in 0..5 {
        machine.interrupt();
        let length = usize::from(machine.read(LBA_HIGH)) << 8 | usize::from(machine.read(LBA_MID));
        bytes.extend(machine.data(length));
    }
    assert_eq!((machine.interrupt(), bytes), (0x50, expected(2048 * 3, 4096)));
    // More than is moved at once.
    assert_eq!(machine.answer(&[0x28, 0, 0, 0, 0, 0, 0, 0, 150]), expected(0, 2048 * 150));
    machine.regions(&[(0x2000, 4096)]);
    machine.packet(&read, 1, 0);
    machine.channel.write_bus_master(0, 0x09);
    assert_eq!((machine.interrupt(), machine.read(COUNT)), (0x50, 3));
    assert_eq!(machine.memory(0x2000, 4096), expected(2048 * 3, 4096));
    machine.channel.write_bus_master(0, 0);
    machine.regions(&[(0x3000, 8)]);
    machine.packet(&[0x25], 1, 0);
    machine.channel.write_bus_master(0, 0x09);
    machine.interrupt();
    assert_eq!(machine.memory(0x3000, 8), [0, 0, 0, 199, 0, 0, 8, 0]);
}

#[test]
fn bad_packets_leave_a_sense() {
    let machine = machine();
    for (packet, sense) in [
        (&[0x28, 0, 0, 0, 0, 199, 0, 0, 2][..], [5, 0x21]),
        (&[0xa8, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], [5, 0x24]),
        (&[0xff], [5, 0x20]),
        (&[0x43, 0, 9, 0, 0, 0, 0, 0, 12], [5, 0x24]),
        (&[0x5a, 0, 0x3f], [5, 0x24]),
    ] {
        machine.packet(packet, 0, 0);
        assert_eq!((machine.interrupt() & 1, machine.read(ERROR) >> 4), (1, 5), "{packet:?}");
        assert_eq!(machine.sense(), sense, "{packet:?}");
    }
    assert_eq!(machine.sense(), [0, 0]);
    let drives = [
        Some(Drive {
            kind: DriveKind::CdRom,
            medium: Backend::named("", block::ErrorPolicy::default(), None),
            serial: String::new(),
        }),
        None,
    ];
    let empty = Channel::new("ide1".into(), drives, machine.lines.line(14), machine.memory.clone()).unwrap();
    for (register, value) in [(DEVICE, 0xa0), (STATUS, 0xa0)] {
        let _ = empty.write_port(register, Width::Byte, value);
    }
    (0..6).for_each(|_| assert_eq!(empty.write_port(DATA, Width::Half, 0), Effect::None));
    assert_eq!(empty.read_port(ERROR, Width::Byte) >> 4, 2);
}

#[test]
fn a_transfer_goes_on_in_a_restored_machine() {
    let (machine, other) = (machine(), machine());
    machine.command(0x20, 5, 2);
    machine.interrupt();
    machine.data(256);
    machine.channel.pause();
    other.channel.restore(&machine.channel.save()).unwrap();
    assert_eq!(other.data(256), expected(512 * 5 + 256, 256));
    other.interrupt();
    assert_eq!(other.data(512), expected(512 * 6, 512));
    let mut state = machine.channel.save();
    state["position"] = 100_000.into();
    assert!(other.channel.restore(&state).is_err());
}
