//! Operations on disks in memory.

use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;

use super::*;
use crate::driver::{Driver, Status, StatusKind, ZeroFlags, Zeroed};
use crate::{IoVector, MemoryDisk};

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap().block_on(future)
}

/// A disk whose zeros take no room, in blocks; one sector of which may be unreadable.
struct Sparse {
    bytes: Mutex<Vec<u8>>,
    block: u64,
    broken: Option<u64>,
    /// What was written: where, and how.
    written: Mutex<Vec<(u64, &'static str)>>,
}

impl Sparse {
    fn new(bytes: Vec<u8>) -> Sparse {
        Sparse { bytes: Mutex::new(bytes), block: 4096, broken: None, written: Mutex::default() }
    }
}

#[async_trait]
impl Driver for Sparse {
    fn name(&self) -> &'static str {
        "sparse"
    }
    fn length(&self) -> u64 {
        self.bytes.lock().len() as u64
    }
    fn is_read_only(&self) -> bool {
        false
    }
    fn cluster_size(&self) -> u64 {
        self.block
    }
    async fn read(&self, offset: u64, to: IoVector) -> Result<(), Error> {
        let end = offset + to.len() as u64;
        if self.broken.is_some_and(|broken| (offset..end).contains(&broken)) {
            return Err(Error::host("read", std::io::Error::from_raw_os_error(libc::EIO)));
        }
        let bytes = self.bytes.lock();
        let mut part = bytes.get(offset as usize..bytes.len().min(end as usize)).unwrap_or_default().to_vec();
        part.resize(to.len(), 0);
        to.copy_from(&part);
        Ok(())
    }
    async fn write(&self, offset: u64, from: IoVector) -> Result<(), Error> {
        self.bytes.lock()[offset as usize..][..from.len()].copy_from_slice(&from.to_vec());
        self.written.lock().push((offset, "data"));
        Ok(())
    }
    async fn write_compressed(&self, offset: u64, from: IoVector) -> Result<(), Error> {
        // Those that come first take longest.
        tokio::time::sleep(std::time::Duration::from_millis(10_u64.saturating_sub(offset / self.block))).await;
        self.bytes.lock()[offset as usize..][..from.len()].copy_from_slice(&from.to_vec());
        self.written.lock().push((offset, "compressed"));
        Ok(())
    }
    async fn write_zeroes(&self, offset: u64, length: u64, _: ZeroFlags) -> Result<Zeroed, Error> {
        self.bytes.lock()[offset as usize..][..length as usize].fill(0);
        self.written.lock().push((offset, "zeros"));
        Ok(Zeroed::Done)
    }
    async fn flush(&self) -> Result<(), Error> {
        Ok(())
    }
    async fn status(&self, offset: u64, length: u64) -> Result<Status, Error> {
        let bytes = self.bytes.lock();
        let is_zero = |at: u64| {
            let start = at / self.block * self.block;
            bytes[start as usize..bytes.len().min((start + self.block) as usize)].iter().all(|byte| *byte == 0)
        };
        let kind = if is_zero(offset) { StatusKind::Zero } else { StatusKind::Data };
        let next = (offset / self.block + 1) * self.block;
        Ok(Status {
            length: length.min(next - offset),
            kind,
            is_here: true,
            file_offset: Some(offset),
            is_compressed: false,
        })
    }
    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

/// Bytes that are data here and there, the same for the same seed.
fn bytes(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = vec![0; length];
    for chunk in bytes.chunks_mut(4096) {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        if state >> 62 != 0 {
            chunk.fill((state >> 40) as u8);
        }
    }
    bytes
}

fn content(node: &Node) -> Vec<u8> {
    futures_executor::block_on(node.read_vec(0, node.length() as usize)).unwrap()
}

#[test]
fn copies_are_the_same() {
    for (length, options) in [
        (10_000_000, CopyOptions::default()),
        (10_000_000, CopyOptions { target_is_zero: true, smallest_hole: 65536, ..CopyOptions::default() }),
        (10_000_000, CopyOptions { smallest_hole: 0, parallel: 1, ..CopyOptions::default() }),
        (1_000_000, CopyOptions { compressed: true, target_is_zero: true, ..CopyOptions::default() }),
        (1_000_001, CopyOptions { compressed: true, out_of_order: true, ..CopyOptions::default() }),
        (0, CopyOptions::default()),
    ] {
        let first = Node::new("first", Sparse::new(bytes(length, 3)));
        let second = Node::new("second", MemoryDisk::new(bytes(length / 3 + 700, 5), true));
        let mut expected = bytes(length, 3);
        expected.resize(length.next_multiple_of(512), 0);
        expected.extend(bytes(length / 3 + 700, 5));
        expected.resize(expected.len().next_multiple_of(512), 0);
        let before = if options.target_is_zero { 0 } else { 0xee };
        let target = Node::new("target", Sparse::new(vec![before; expected.len()]));
        let done = Arc::new(Mutex::new((0, 0)));
        let seen = done.clone();
        let progress = Arc::new(move |progress: Progress| {
            let mut seen = seen.lock();
            *seen = (seen.0.max(progress.done), progress.total);
        });
        let is_ordered = options.compressed && !options.out_of_order;
        run(copy(vec![first, second], target.clone(), CopyOptions { progress, ..options })).unwrap();
        assert!(content(&target) == expected, "{length}");
        assert_eq!(*done.lock(), (expected.len() as u64, expected.len() as u64));
        let written = target.driver_as::<Sparse>().unwrap().written.lock();
        assert!(!is_ordered || written.is_sorted(), "{written:?}");
    }
}

#[test]
fn what_cannot_be_read_is_told() {
    let broken = || Sparse { broken: Some(1_000_100), ..Sparse::new(vec![7; 3_000_000]) };
    let target = || Node::new("target", Sparse::new(vec![0; 3_000_320]));
    let error = run(copy(vec![Node::new("broken", broken())], target(), CopyOptions::default())).unwrap_err();
    assert_eq!(error.to_string(), "error while reading at byte 0: Input/output error");
    let told = Arc::new(Mutex::new(Vec::new()));
    let salvage: TellUnreadable = {
        let told = told.clone();
        Arc::new(move |offset, _| told.lock().push(offset))
    };
    let target = target();
    let options = CopyOptions { salvage: Some(salvage), ..CopyOptions::default() };
    run(copy(vec![Node::new("broken", broken())], target.clone(), options)).unwrap();
    assert_eq!(*told.lock(), [1_000_100 / 512 * 512]);
    let copied = content(&target);
    assert_eq!((copied[999_935], copied[999_936], copied[1_000_447], copied[1_000_448]), (7, 0, 0, 7));
}

#[test]
fn the_first_difference_is_found() {
    let original = bytes(9_000_000, 9);
    let disk = |bytes: Vec<u8>| Node::new("disk", Sparse::new(bytes));
    let options = |strict| CompareOptions { parallel: 4, strict, progress: Arc::new(|_| ()) };
    let found =
        |first: Vec<u8>, second: Vec<u8>, strict| run(compare([disk(first), disk(second)], options(strict))).unwrap();
    assert_eq!(found(original.clone(), original.clone(), true), None);
    let mut longer = original.clone();
    longer.resize(9_500_000, 0);
    assert_eq!(found(original.clone(), longer.clone(), false), None);
    for at in [0, 511, 2_097_151, 2_097_152, 8_999_999] {
        let mut other = original.clone();
        other[at] ^= 0xff;
        // A second one further behind changes nothing.
        other[8_999_999] ^= 0x0f;
        let expected = Some(Difference { offset: at as u64 / 512 * 512, kind: DifferenceKind::Content });
        assert_eq!(found(original.clone(), other.clone(), false), expected, "{at}");
        assert_eq!(found(other, longer.clone(), false), expected, "{at}");
    }
    longer[9_400_000] = 1;
    let expected = Some(Difference { offset: 9_400_000 / 512 * 512, kind: DifferenceKind::Content });
    assert_eq!(found(longer, original, false), expected);
    let plain = Node::new("plain", MemoryDisk::new(vec![0; 8192], true));
    let difference = run(compare([plain, disk(vec![0; 8192])], options(true))).unwrap();
    assert_eq!(difference, Some(Difference { offset: 0, kind: DifferenceKind::Status }));
}

#[test]
fn a_map_has_the_longest_extents() {
    let mut bytes = vec![0; 40_000];
    bytes[8192..20_000].fill(1);
    let disk = Node::new("disk", Sparse::new(bytes));
    let extents = |start, end| {
        let mut extents = Vec::new();
        let each = |extent: Extent| {
            extents.push((extent.start, extent.what.length, extent.what.kind));
            Ok::<(), Error>(())
        };
        run(map(&disk, start, end, each)).unwrap();
        extents
    };
    let (data, zero) = (StatusKind::Data, StatusKind::Zero);
    assert_eq!(extents(0, u64::MAX), [(0, 8192, zero), (8192, 12288, data), (20480, 19968, zero)]);
    assert_eq!(extents(100, 9000), [(100, 8092, zero), (8192, 808, data)]);
    assert_eq!(extents(50_000, 60_000), []);
}

#[test]
fn requests_of_a_benchmark_stay_on_the_disk() {
    for (length, depth, flush_interval) in [(12_288, 3, 0), (4096, 1, 2), (69_632, 64, 10)] {
        let disk = Node::new("disk", Sparse::new(vec![0; length]));
        let writes = Some(BenchWrites { pattern: 5, flush_interval, no_drain: depth > 3, write_through: depth == 1 });
        let options = BenchOptions { count: 40, depth, offset: 0, length: 4096, step: 4096, writes };
        run(bench(disk.clone(), options)).unwrap();
        assert_eq!(disk.driver_as::<Sparse>().unwrap().written.lock().len(), 40);
        let beyond = BenchOptions { offset: length as u64, writes: None, ..options };
        assert!(run(bench(disk, beyond)).unwrap_err().to_string().starts_with("Failed request: "));
    }
}
