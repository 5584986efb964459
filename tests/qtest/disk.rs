//! A driver of a virtio disk on the riscv64 machine, and what it finds of errors of the host and sudden ends.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, Signal};
use serde_json::json;

use crate::support::qmp::Client;
use crate::support::qtest::Machine;

const READ: u32 = 0;
const WRITE: u32 = 1;
pub(super) const FLUSH: u32 = 4;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

/// Registers of the last slot, where the first device is.
const BASE: u64 = 0x1000_8000;
/// Where the rings are; behind them are the requests.
const RAM: u64 = 0x8001_0000;
/// Bytes of memory of a request.
const ROOM: u64 = 0x4000;
/// Requests at once, of three descriptors each.
const SLOTS: u64 = 16;

/// The driver, with the disk set up.
pub(super) struct Disk<'a> {
    machine: &'a mut Machine,
    available: u16,
}

impl Disk<'_> {
    pub(super) fn start(machine: &mut Machine) -> Disk<'_> {
        for value in [0, 1, 3] {
            machine.writel(BASE + 0x70, value);
        }
        machine.writel(BASE + 0x24, 1);
        machine.writel(BASE + 0x20, 1);
        machine.writel(BASE + 0x70, 0xb);
        machine.writel(BASE + 0x30, 0);
        machine.writel(BASE + 0x38, 64);
        for (register, address) in [(0x80, RAM), (0x90, RAM + 0x1000), (0xa0, RAM + 0x2000)] {
            machine.writel(BASE + register, address as u32);
            machine.writel(BASE + register + 4, 0);
        }
        machine.writel(BASE + 0x44, 1);
        machine.writel(BASE + 0x70, 0xf);
        Disk { machine, available: 0 }
    }

    /// Puts a request into the queue; [`Disk::notify`] must follow. Gives its slot.
    fn add(&mut self, kind: u32, sector: u64, data: &[u8], room: u32) -> u64 {
        let slot = u64::from(self.available) % SLOTS;
        let place = RAM + 0x1_0000 + slot * ROOM;
        let machine = &mut *self.machine;
        machine.write(place, &[&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes(), &[0xff]].concat());
        let mut buffers = vec![(place, 16, 0)];
        if !data.is_empty() {
            machine.write(place + 0x1000, data);
            buffers.push((place + 0x1000, data.len() as u32, 0));
        }
        if room > 0 {
            buffers.push((place + 0x1000, room, 2));
        }
        buffers.push((place + 16, 1, 2));
        for (index, (address, length, flags)) in buffers.iter().enumerate() {
            let number = slot * 3 + index as u64;
            let next = u16::from(index + 1 < buffers.len());
            let mut descriptor = [&address.to_le_bytes()[..], &length.to_le_bytes()].concat();
            descriptor.extend((flags | next).to_le_bytes());
            descriptor.extend((number as u16 + 1).to_le_bytes());
            machine.write(RAM + number * 16, &descriptor);
        }
        machine.writew(RAM + 0x1004 + u64::from(self.available % 64) * 2, (slot * 3) as u16);
        self.available = self.available.wrapping_add(1);
        slot
    }

    fn notify(&mut self) {
        self.machine.writew(RAM + 0x1002, self.available);
        self.machine.writel(BASE + 0x50, 0);
    }

    fn is_done(&mut self) -> bool {
        self.machine.readw(RAM + 0x2002) == self.available
    }

    /// Waits until all requests are used; gives the status of one.
    pub(super) fn finish(&mut self, slot: u64) -> u8 {
        let available = self.available;
        self.machine.wait_until("the request", |machine| machine.readw(RAM + 0x2002) == available);
        self.machine.readb(RAM + 0x1_0000 + slot * ROOM + 16)
    }

    /// Begins to read, until [`Disk::finish`].
    pub(super) fn begin_read(&mut self, sector: u64, room: u32) -> u64 {
        let slot = self.add(READ, sector, &[], room);
        self.notify();
        slot
    }

    pub(super) fn request(&mut self, kind: u32, sector: u64, data: &[u8], room: u32) -> u8 {
        let slot = self.add(kind, sector, data, room);
        self.notify();
        self.finish(slot)
    }

    pub(super) fn write(&mut self, sector: u64, data: &[u8]) -> u8 {
        self.request(WRITE, sector, data, 0)
    }
}

/// Lets the program write no further than so many bytes into any file, for now.
fn limit_files(command: &mut Command, bytes: u64) {
    // SAFETY: both are system calls, which may be made between fork and exec.
    unsafe {
        command.pre_exec(move || {
            let _ = libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
            let limit = rustix::process::getrlimit(Resource::Fsize);
            Ok(rustix::process::setrlimit(Resource::Fsize, Rlimit { current: Some(bytes), ..limit })?)
        });
    }
}

fn start(format: &str, policy: &str, image: &Path) -> (Machine, Client) {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("qmp");
    let drive = format!("if=virtio,id=disk0,format={format},file={}{policy}", image.display());
    let machine = Machine::start("riscv64", &["-drive", &drive], |command| {
        command.arg("-qmp").arg(format!("unix:{},server=on,wait=off", socket.display()));
        limit_files(command, 1 << 20);
    });
    let client = Client::connect(&socket);
    (machine, client)
}

#[test]
fn a_machine_stops_where_the_host_cannot_write_and_goes_on_without_loss() {
    for format in ["raw", "qcow2"] {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("image");
        qemu_img(&["create", "-q", "-f", format, image.to_str().unwrap(), "4M"]);
        let (mut machine, mut client) = start(format, ",werror=stop", &image);
        let mut disk = Disk::start(&mut machine);
        let content = |number: u64| vec![number as u8 + 1; 8192];
        // Each of these fits into the file, until one does not.
        let mut number = 0;
        let slot = loop {
            let slot = disk.add(WRITE, number * 16, &content(number), 0);
            disk.notify();
            let deadline = std::time::Instant::now() + std::time::Duration::from_millis(500);
            while !disk.is_done() && std::time::Instant::now() < deadline {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            if !disk.is_done() {
                break slot;
            }
            assert_eq!(disk.finish(slot), 0, "{format} {number}");
            number += 1;
        };
        assert!((32..=128).contains(&number), "{format}: {number} writes fitted");
        let event = client.wait_for("BLOCK_IO_ERROR");
        assert_eq!(event["data"]["device"], "disk0");
        assert_eq!(event["data"]["operation"], "write");
        assert_eq!(event["data"]["action"], "stop");
        assert_eq!(event["data"]["nospace"], false);
        client.wait_for("STOP");
        assert_eq!(client.execute("query-status", json!({}))["status"], "io-error");
        // While nothing has changed, it stops again.
        client.execute("cont", json!({}));
        client.wait_for("BLOCK_IO_ERROR");
        client.wait_for("STOP");
        assert!(!disk.is_done());
        let pid = rustix::process::Pid::from_raw(disk.machine.id() as i32);
        let limit = rustix::process::getrlimit(Resource::Fsize);
        rustix::process::prlimit(pid, Resource::Fsize, Rlimit { current: limit.maximum, maximum: limit.maximum })
            .unwrap();
        client.execute("cont", json!({}));
        assert_eq!(disk.finish(slot), 0);
        for number in 0..=number {
            let slot = disk.add(READ, number * 16, &[], 8192);
            disk.notify();
            assert_eq!(disk.finish(slot), 0);
            let read = disk.machine.read(RAM + 0x1_0000 + slot * ROOM + 0x1000, 8192);
            assert!(read == content(number), "{format}: write {number} is lost");
        }
        client.execute("quit", json!({}));
        machine.wait_for_end();
        if format == "qcow2" {
            qemu_img(&["check", "-q", image.to_str().unwrap()]);
        }
    }
}

#[test]
fn the_guest_is_told_of_errors_or_not_as_the_user_wants() {
    for (policy, action, status) in
        [(",werror=report", "report", 1), (",werror=ignore", "ignore", 0), ("", "report", 1)]
    {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("image");
        std::fs::write(&image, []).unwrap();
        std::fs::File::options().write(true).open(&image).unwrap().set_len(4 << 20).unwrap();
        let (mut machine, mut client) = start("raw", policy, &image);
        let mut disk = Disk::start(&mut machine);
        assert_eq!(disk.write(0, &[1; 512]), 0);
        assert_eq!(disk.write((2 << 20) / 512, &[1; 512]), status, "{policy:?}");
        assert_eq!(client.wait_for("BLOCK_IO_ERROR")["data"]["action"], action, "{policy:?}");
        assert_eq!(client.execute("query-status", json!({}))["status"], "running");
    }
}

#[test]
fn disks_are_resized_and_their_states_kept_while_the_guest_uses_them() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image.qcow2");
    qemu_img(&["create", "-q", "-f", "qcow2", image.to_str().unwrap(), "512k"]);
    let (mut machine, mut client) = start("qcow2", "", &image);
    let mut disk = Disk::start(&mut machine);
    let sectors = |disk: &mut Disk| disk.machine.readl(BASE + 0x100);
    assert_eq!(sectors(&mut disk), 1024);
    assert_eq!(disk.write(0, &[1; 512]), 0);
    assert_eq!(disk.write(1024, &[1; 512]), 1);
    client.execute("blockdev-snapshot-internal-sync", json!({"device": "disk0", "name": "before"}));
    let mut refused = |command: &str, arguments: serde_json::Value| {
        let answer = client.send(command, arguments);
        answer["error"]["desc"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
    };
    for (name, text) in [("before", "already exists"), ("", "Name is empty")] {
        let said = refused("blockdev-snapshot-internal-sync", json!({"device": "disk0", "name": name}));
        assert!(said.contains(text), "{said}");
    }
    let said = refused("block_resize", json!({"device": "disk7", "size": 512}));
    assert_eq!(said, "Cannot find device='disk7' nor node-name=''");
    assert!(refused("block_resize", json!({"device": "disk0", "size": 513})).contains("multiple of 512"));
    let said = refused("blockdev-snapshot-delete-internal-sync", json!({"device": "disk0", "id": "9"}));
    assert!(said.contains("does not exist"), "{said}");
    client.execute("block_resize", json!({"device": "disk0", "size": 1 << 20}));
    assert_eq!(sectors(&mut disk), 2048);
    // The interrupt's reason: the configuration has changed.
    assert_eq!(disk.machine.readl(BASE + 0x60) & 2, 2);
    assert_eq!(disk.write(1024, &[2; 512]), 0);
    assert_eq!(disk.request(FLUSH, 0, &[], 0), 0);
    let listed = Command::new("qemu-img").args(["snapshot", "-U", "-l"]).arg(&image).output().unwrap();
    assert!(String::from_utf8_lossy(&listed.stdout).contains("before"), "{listed:?}");
    let deleted =
        client.execute("blockdev-snapshot-delete-internal-sync", json!({"device": "disk0", "name": "before"}));
    assert_eq!((&deleted["id"], &deleted["vm-state-size"]), (&json!("1"), &json!(0)));
    client.execute("quit", json!({}));
    machine.wait_for_end();
    qemu_img(&["check", "-q", image.to_str().unwrap()]);
}

/// Numbers that look random and are the same each time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ mixed >> 27) % end
    }
}

/// Blocks of the disk, which is 8 MiB long, by their number: what each may have after a sudden end.
type Blocks = BTreeMap<u64, Vec<Vec<u8>>>;

const BLOCK: usize = 4096;
const BLOCKS: u64 = 2048;

/// The disk is as it was, or as it was asked to become since the last flush.
fn check_after_end(image: &Path, blocks: &mut Blocks, round: u64) {
    let text = image.to_str().unwrap();
    let began = Instant::now();
    loop {
        let output = Command::new("qemu-img").args(["check", "-f", "qcow2", text]).output().unwrap();
        // 3: leaks.
        if matches!(output.status.code(), Some(0 | 3)) {
            break;
        }
        let said = String::from_utf8_lossy(&output.stderr);
        // The kernel holds the file, and its locks, until the requests that it had are done, which may outlive the process.
        let is_locked = said.contains("Failed to get") && began.elapsed() < Duration::from_secs(10);
        assert!(is_locked, "round {round}: {}{said}", String::from_utf8_lossy(&output.stdout));
        std::thread::sleep(Duration::from_millis(5));
    }
    let raw = image.with_extension("raw");
    qemu_img(&["convert", "-O", "raw", text, raw.to_str().unwrap()]);
    let content = std::fs::read(&raw).unwrap();
    for (number, now) in (0..).zip(content.chunks(BLOCK)) {
        let may = blocks.entry(number).or_insert_with(|| vec![vec![0; BLOCK]]);
        assert!(may.iter().any(|may| may == now), "round {round}: block {number} has {:?}", &now[..8]);
        *may = vec![now.to_vec()];
    }
}

/// Ends machines by force while they write; `BROLGA_KILLS` says how many.
#[test]
fn a_sudden_end_loses_nothing_that_was_flushed() {
    let kills = std::env::var("BROLGA_KILLS").map_or(8, |text| text.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let mut numbers = Numbers(1);
    let mut blocks = Blocks::new();
    let image = folder.path().join("image.qcow2");
    for round in 0..kills {
        if round % 20 == 0 {
            // Small clusters have more metadata.
            let cluster = ["cluster_size=512", "cluster_size=64k", "cluster_size=4k,refcount_bits=1", "extended_l2=on"];
            let options = cluster[round as usize / 20 % cluster.len()];
            qemu_img(&["create", "-q", "-f", "qcow2", "-o", options, image.to_str().unwrap(), "8M"]);
            blocks.clear();
        }
        let drive = format!("if=virtio,format=qcow2,file={}", image.display());
        let mut machine = Machine::riscv64(&["-drive", &drive]);
        let mut disk = Disk::start(&mut machine);
        for batch in 0..=numbers.below(12) {
            for _ in 0..1 + numbers.below(SLOTS - 1) {
                let count = 1 + numbers.below(3);
                let first = numbers.below(BLOCKS - count);
                let sector = first * BLOCK as u64 / 512;
                let range = [&sector.to_le_bytes()[..], &(count as u32 * 8).to_le_bytes(), &[0; 4]].concat();
                let kind = [WRITE, WRITE, WRITE, WRITE, WRITE, DISCARD, WRITE_ZEROES][numbers.below(7) as usize];
                let byte = numbers.below(256) as u8;
                let data = match kind {
                    WRITE => vec![byte; BLOCK * count as usize],
                    _ => range,
                };
                disk.add(kind, if kind == WRITE { sector } else { 0 }, &data, 0);
                let becomes = if kind == WRITE { vec![byte; BLOCK] } else { vec![0; BLOCK] };
                for number in first..first + count {
                    let may = blocks.entry(number).or_insert_with(|| vec![vec![0; BLOCK]]);
                    // Requests that touch one another may be done in any order.
                    may.push(becomes.clone());
                }
            }
            disk.notify();
            if numbers.below(3) == 0 || batch == 0 {
                disk.finish(0);
                assert_eq!(disk.request(FLUSH, 0, &[], 0), 0);
                // What is there now is there for good.
                for (number, may) in &mut blocks {
                    if may.len() > 1 {
                        let slot = disk.add(READ, number * 8, &[], BLOCK as u32);
                        disk.notify();
                        assert_eq!(disk.finish(slot), 0);
                        let now = disk.machine.read(RAM + 0x1_0000 + slot * ROOM + 0x1000, BLOCK);
                        assert!(may.contains(&now), "round {round}: block {number} became {:?}", &now[..8]);
                        *may = vec![now];
                    }
                }
            } else if numbers.below(2) == 0 {
                disk.finish(0);
            }
            if !disk.is_done() {
                // Slots are used again only when their requests are done.
                std::thread::sleep(Duration::from_micros(numbers.below(2000)));
                if numbers.below(2) == 0 {
                    break;
                }
                disk.finish(0);
            }
        }
        let pid = rustix::process::Pid::from_raw(machine.id() as i32).unwrap();
        rustix::process::kill_process(pid, Signal::KILL).unwrap();
        machine.wait_for_end();
        check_after_end(&image, &mut blocks, round);
    }
}

pub(super) fn qemu_img(arguments: &[&str]) {
    let status = Command::new("qemu-img").args(arguments).status().expect("qemu-img must be installed");
    assert!(status.success(), "qemu-img {arguments:?}: {status}");
}
