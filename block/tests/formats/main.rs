//! Formats of images against `qemu-img`: what it makes is read, and what is made and written here it finds to be right.

mod crash;
mod hostile;
mod images;
mod read_only;

use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use block::{FileOptions, Format, HostFile, ImageOptions, IoVector, Node, Sharing, ZeroFlags};
use futures_executor::block_on;
use futures_util::future::join_all;

/// Random numbers that are the same in each run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length.div_ceil(4)).flat_map(|_| (self.next() as u32).to_le_bytes()).take(length).collect()
    }
}

/// Runs `qemu-img` in a folder. It is one of the programs that the tests need.
fn qemu_img(folder: &Path, arguments: &[&str]) -> Output {
    let output = Command::new("qemu-img").current_dir(folder).args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "qemu-img {arguments:?}: {} {}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// A disk with data, zeros, and what can be compressed, mixed.
fn mixed(length: usize, random: &mut Random) -> Vec<u8> {
    let mut disk = vec![0; length];
    let mut at = 0;
    while at < length {
        let part = (1 + random.below(300_000) as usize).min(length - at);
        match random.below(4) {
            0 => disk[at..at + part].copy_from_slice(&random.bytes(part)),
            1 => disk[at..at + part].fill(random.below(256) as u8),
            _ => {}
        }
        at += part;
    }
    disk
}

/// A node for a file, without a format.
fn file(path: &Path, read_only: bool) -> Arc<Node> {
    let options = FileOptions { read_only, ..FileOptions::default() };
    Node::new("file", HostFile::open(path, options).unwrap())
}

/// A new empty file.
fn new_file(path: &Path) -> Arc<Node> {
    std::fs::write(path, []).unwrap();
    file(path, false)
}

fn open(path: &Path, format: Option<Format>, read_only: bool) -> Arc<Node> {
    let file = FileOptions { read_only, sharing: Sharing::Unlocked, ..FileOptions::default() };
    let options = ImageOptions { format, file, ..ImageOptions::default() };
    block_on(block::open(path, options)).unwrap()
}

/// That the disk has these bytes, and zeros behind them; read in one piece and in many.
fn assert_reads(node: &Node, expected: &[u8], what: &str) {
    let length = node.length() as usize;
    assert!(length >= expected.len(), "{what}: a disk of {length} bytes is too short for {}", expected.len());
    let whole = block_on(node.read_vec(0, length)).unwrap();
    let differs = expected.iter().zip(&whole).position(|(expected, read)| expected != read);
    assert_eq!(differs, None, "{what}");
    assert!(whole[expected.len()..].iter().all(|byte| *byte == 0), "{what}: zeros behind");
    let mut random = Random(7);
    for _ in 0..50 {
        let at = random.below(length as u64) as usize;
        let part = (1 + random.below(200_000) as usize).min(length - at);
        assert!(block_on(node.read_vec(at as u64, part)).unwrap() == whole[at..at + part], "{what}: {part} at {at}");
    }
    // Nothing is behind the end, and each byte has a status which fits what is read.
    assert!(block_on(node.read_vec(length as u64 - 1, 1000)).unwrap()[1..].iter().all(|byte| *byte == 0));
    let mut at = 0;
    while at < length {
        let status = block_on(node.status(at as u64, (length - at) as u64)).unwrap();
        let end = at + status.length as usize;
        assert!(end > at && end <= length, "{what}: status of {} bytes at {at}", status.length);
        let is_zero = whole[at..end].iter().all(|byte| *byte == 0);
        assert!(!status.kind.is_zero() || is_zero, "{what}: data at {at} is said to be zeros");
        at = end;
    }
}

/// Writes at random, some of it at once, and does the same to a copy of the disk's bytes.
fn write_at_random(node: &Arc<Node>, disk: &mut [u8], random: &mut Random) {
    let length = disk.len() as u64;
    for round in 0..12 {
        // Small ones in one stretch, whose neighbours share blocks.
        let stretch = 1 + random.below(60_000).min(length / 16);
        let start = random.below(length - stretch * 15);
        let writes: Vec<(u64, Vec<u8>)> = (0..15)
            .map(|index| {
                let part = 1 + random.below(stretch) as usize;
                (start + index * stretch, random.bytes(part))
            })
            .collect();
        let under_way = writes.iter().map(|(at, bytes)| node.write(*at, IoVector::copy_of(bytes)));
        for written in block_on(join_all(under_way)) {
            written.unwrap();
        }
        for (at, bytes) in &writes {
            disk[*at as usize..*at as usize + bytes.len()].copy_from_slice(bytes);
        }
        let at = random.below(length);
        let part = 1 + random.below((length - at).min(3_000_000));
        let range = at as usize..(at + part) as usize;
        match round % 4 {
            0 => {
                let flags = if random.below(2) == 0 { ZeroFlags::MAY_UNMAP } else { ZeroFlags::empty() };
                block_on(node.write_zeroes(at, part, flags)).unwrap();
                disk[range].fill(0);
            }
            1 => {
                let bytes = random.bytes(part as usize);
                block_on(node.write_bytes(at, &bytes)).unwrap();
                disk[range].copy_from_slice(&bytes);
            }
            2 => {
                block_on(node.discard(at, part)).unwrap();
                let after = block_on(node.read_vec(at, part as usize)).unwrap();
                assert!(after.iter().zip(&disk[range.clone()]).all(|(after, before)| *after == 0 || after == before));
                disk[range].copy_from_slice(&after);
            }
            _ => block_on(node.flush()).unwrap(),
        }
    }
    // The first and the last byte.
    for at in [0, length - 1] {
        block_on(node.write_bytes(at, &[0x5a])).unwrap();
        disk[at as usize] = 0x5a;
    }
}

/// That `qemu-img` finds nothing wrong, and the same bytes.
fn assert_qemu_agrees(folder: &Path, name: &str, format: &str, disk: &[u8], can_check: bool) {
    if can_check {
        qemu_img(folder, &["check", "-q", "-f", format, name]);
    }
    let raw = format!("{name}.model");
    std::fs::write(folder.join(&raw), disk).unwrap();
    qemu_img(folder, &["compare", "-f", "raw", "-F", format, &raw, name]);
    std::fs::remove_file(folder.join(raw)).unwrap();
}

/// Everything of a format that both can write: images of QEMU and of ours are read, written, and found right by both.
///
/// `options` are those of `qemu-img create -o`; `create` makes an image of a disk of so many bytes.
fn exchange(format: Format, options: &[&str], can_check: bool, create: impl Fn(&Path, u64)) {
    let folder = tempfile::tempdir().unwrap();
    let name = format.name();
    let mut random = Random(0x1234_5678_9abc_def1);
    for (index, length) in [(0, 5 << 20), (1, 9_000_448), (2, 512 * 4001)] {
        let image = format!("image{index}");
        let path = folder.path().join(&image);
        // Theirs.
        let mut disk = mixed(length, &mut random);
        std::fs::write(folder.path().join("disk.raw"), &disk).unwrap();
        let mut arguments = vec!["convert", "-f", "raw", "-O", name];
        for option in options {
            arguments.extend(["-o", option]);
        }
        arguments.extend(["disk.raw", &image]);
        qemu_img(folder.path(), &arguments);
        let what = format!("{name} {options:?} of {length} bytes");
        // Those that do not begin with a magic number are not found out.
        let found = block_on(Format::probe(&file(&path, true))).unwrap();
        assert!(found == format || found == Format::Raw, "{what}: {found:?}");
        assert_reads(&open(&path, Some(format), true), &disk, &what);
        let node = open(&path, Some(format), false);
        disk.resize(node.length() as usize, 0);
        write_at_random(&node, &mut disk, &mut random);
        assert_reads(&node, &disk, &what);
        block_on(node.close()).unwrap();
        drop(node);
        assert_reads(&open(&path, Some(format), true), &disk, &what);
        assert_qemu_agrees(folder.path(), &image, name, &disk, can_check);
        // Ours.
        let image = format!("ours{index}");
        let path = folder.path().join(&image);
        create(&path, length as u64);
        let node = open(&path, Some(format), false);
        let mut disk = vec![0; node.length() as usize];
        assert!(disk.len() >= length, "{what}: {} bytes", disk.len());
        assert_reads(&node, &disk, &what);
        write_at_random(&node, &mut disk, &mut random);
        assert_reads(&node, &disk, &what);
        block_on(node.close()).unwrap();
        drop(node);
        assert_qemu_agrees(folder.path(), &image, name, &disk, can_check);
        // Written by both in turn.
        qemu_io(folder.path(), name, &image, "write -P 0x77 700000 150000");
        disk[700_000..850_000].fill(0x77);
        let node = open(&path, Some(format), false);
        assert_reads(&node, &disk, &what);
        write_at_random(&node, &mut disk, &mut random);
        // Without being closed: a flush is enough.
        block_on(node.flush()).unwrap();
        drop(node);
        assert_reads(&open(&path, Some(format), true), &disk, &what);
        block_on(open(&path, Some(format), false).close()).unwrap();
        assert_qemu_agrees(folder.path(), &image, name, &disk, false);
    }
}

/// Does one command to an image with `qemu-io`.
fn qemu_io(folder: &Path, format: &str, image: &str, command: &str) {
    let output =
        Command::new("qemu-io").current_dir(folder).args(["-f", format, "-c", command, image]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !text.contains("failed"), "{command}: {text}");
}
